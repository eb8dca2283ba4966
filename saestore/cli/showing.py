"""`saestore examples`, `card`, `plot`, `serve` and `site`: what features stand for, as tables, pictures and pages."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saestore.cli import keys, output
from saestore.cli.app import command, note
from saestore.cli.naming import called, feature_columns, place_columns, places, with_names
from saestore.cli.options import feature_option, features_of, level_option, one_feature, option, where_option
from saestore.cli.table import Column, decimals
from saestore.cli.target import Target, json_option, with_target
from saestore.errors import InvalidInputError, StoreWriteError, require

if TYPE_CHECKING:
    from saestore.activation_set import ActivationSet
    from saestore.analysis.examples import ExampleTable


@command("examples", example="saestore examples --dataset CLEVR --feature 1884 --quantiles 3 -n 2", keys=keys.EXAMPLES)
@with_target
@feature_option(required=True)
@option("--quantiles N", "Parts of equal size that the active samples are cut into.", at_least=0, default=10)
@option("-n N", "Examples of each part, and of the strongest.", at_least=0, default=5)
@option("--random N", "Active samples at random, and as many silent ones.", at_least=0, default=5)
@option("--near-misses N", "Silent samples where companions of the feature are active.", at_least=0, default=5)
@option("--context N", "Tokens on either side.", at_least=0, default=16)
@level_option("`item` shows the strongest sample of each item only.")
@option("--seed N", "Of the draws.", at_least=0, default=0)
@where_option
@option("--jsonl FILE", "Write one JSON object per example and line, with its window.")
@option("--sets FILE", "Write what a language model explains each feature from and is scored by, one per line.")
@json_option
def examples(
    target: Target, *, feature: tuple[str, ...], seed: int, jsonl: str | None, sets: str | None, **counts: int
) -> None:
    """Show examples of a feature from any part of its range, silent samples and near misses."""
    acts = target.activations()
    features = features_of(acts, feature)
    how: dict[str, Any] = {"level": target.level, "where": target.condition(acts, features), "seed": seed}
    found = acts.examples(features, n=target.n, **how | counts)
    if sets is not None:
        made = acts.explanation_sets(features, context=counts["context"], **how)
        note(f"wrote {len(made.train):,} examples and {len(made.trials):,} trials to {made.save(sets)}.")
    if jsonl is not None:
        note(f"wrote {len(found):,} examples to {found.save(jsonl)}.")
    if target.as_json:
        target.document(acts, **counts, seed=seed, rows=with_names(acts, list(found)))
    elif jsonl is None and sets is None:
        _show(acts, features, found)


def _show(acts: ActivationSet, features: list[int], found: ExampleTable) -> None:
    output.title(f"{acts.path}: examples of {called(acts, features)}")
    if not len(found):
        note("no sample fulfils the condition.")
        return
    columns = feature_columns(acts, found.feature.tolist()) if len(features) > 1 else []
    kinds = [f"{k} {q}" if q >= 0 else k for k, q in zip(found.kind.tolist(), found.quantile.tolist(), strict=True)]
    columns += [Column("kind", kinds), decimals("activation", found.activation.tolist())]
    output.table([*columns, *place_columns(acts, places(acts, found.sample))])


@command("card", example="saestore card --dataset CLEVR --feature 1884 --output demo/1884.html")
@with_target
@feature_option(required=True, multiple=False)
@option("--output FILE", "Where to write the page.  [default: feature-N.html]")
@option("--quantiles N", "Parts of the range.", at_least=0, default=5)
@option("-n N", "Examples of each part.", at_least=0, default=5)
@option("--context N", "Tokens beside.", at_least=0, default=16)
@level_option("`item` shows each item once per group, with its strongest sample.", "item")
@option("--images FOLDER", "Folder in which the keys of images start.")
@option("--sae-weights SAE", "The SAE, as `build` takes it: also show decoder neighbours.")
@where_option
def card(target: Target, *, feature: str, output: str | None, sae_weights: str | None, **how: Any) -> None:
    """Write a page about a feature: statistics, examples, concepts, companions and similar features."""
    if output is not None and Path(output).suffix.lower() not in (".html", ".htm"):
        raise click.BadParameter(f"{output!r}: a card is written as .html.", param_hint="'--output'")
    acts = target.activations()
    number = one_feature(acts, feature)
    how |= {"level": target.level, "n": target.n, "where": target.condition(acts, [number]), "sae": sae_weights}
    note(f"wrote {acts.card(number, **how).save(output or f'feature-{number}.html')}.")


_KINDS = ("top", "tokens", "histogram", "density")


@command("plot", example="saestore plot --dataset CLEVR --kind top --feature 1884 --output demo/top.png")
@with_target
@option(
    "--kind",
    "The strongest images or texts of a feature, its activations, or how often all features fire.",
    choices=_KINDS,
    required=True,
)
@feature_option("The feature", multiple=False)
@option("--output FILE", "Where to write it: .png, .svg or .pdf; tokens: .html.", required=True)
@option("-n N", "Images or texts.", at_least=1, default=8)
@level_option("`item` shows an image or a text once.", "item")
@option("--images FOLDER", "Folder in which the keys of images start.")
@where_option
def plot(target: Target, *, kind: str, feature: str | None, output: str, images: str | None) -> None:
    """Draw the strongest images or texts of a feature, its activations, or how often features fire."""
    if (feature is None) != (kind == "density"):
        raise click.UsageError("--kind density is of all features; the others need --feature.")
    _check_suffix(output, kind)
    acts = target.activations()
    number = None if feature is None else one_feature(acts, feature)
    given: dict[str, Any] = {"where": target.condition(acts, [] if number is None else [number])}
    plots: Any = acts.plot
    if kind in ("top", "tokens"):
        given |= {"n": target.n, "level": target.level}
    if kind == "tokens":
        plots.tokens(number, **given).save(output)
    else:
        given |= {"images": images} if kind == "top" else {}
        ax = plots.density(**given) if kind == "density" else getattr(plots, kind)(number, **given)
        from saestore.storage import save_file

        drawn = io.BytesIO()
        ax.figure.savefig(drawn, format=Path(output).suffix[1:], bbox_inches="tight", dpi=150)
        save_file(output, drawn.getvalue())
    note(f"wrote {output}.")


def _check_suffix(output: str, kind: str) -> None:
    """Refuse a file whose name promises another kind of content than is written."""
    allowed = ["html", "htm"]
    if kind != "tokens":
        require("matplotlib", "plot", "plot").use("Agg")
        from matplotlib.backend_bases import FigureCanvasBase

        allowed = sorted(FigureCanvasBase.get_supported_filetypes())
    if Path(output).suffix.lower().removeprefix(".") not in allowed:
        message = f"{output!r}: --kind {kind} writes {', '.join(f'.{suffix}' for suffix in allowed)}."
        raise click.BadParameter(message, param_hint="'--output'")


_images_option = option(
    "--images DIR",
    "The folder that keys of images start in; by default where each set records it.",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)


@command("serve", example="saestore serve demo/activations.zarr --open")
@click.argument("location", metavar="[STORE]", envvar="SAESTORE_PATH", default="activations.zarr")
@option("--host HOST", "Address to listen at.", default="127.0.0.1")
@option("--port N", "Port; 0 takes a free one.", type=click.IntRange(0, 65535), default=0)
@option("--token TEXT", "What a browser has to know. Needed for a host that other machines can reach.")
@option("--open", "Open the first page in a browser.", to="opens")
@_images_option
@option("--read-only", "Pages change no name, note or label.")
def serve(
    location: str, *, host: str, port: int, token: str | None, opens: bool, images: Path | None, read_only: bool
) -> None:
    """Show a store in the browser: any feature at once, with its images or texts, straight from the store.

    Prints the address when the server answers, and runs until Ctrl-C.
    """
    for package in ("jinja2", "starlette", "uvicorn"):
        require(package, "web", "saestore serve")
    from saestore.web.doors import bind, is_loopback
    from saestore.web.doors import serve as run
    from saestore.web.explorer import Explorer
    from saestore.web.view import StoreView

    if not is_loopback(host) and not token:
        message = f"Other machines can reach {host}; give --token TEXT, or leave --host out."
        raise InvalidInputError(message, code="token-needed")
    target = Target(location)
    try:
        store = target.open("r" if read_only else "r+")
    except StoreWriteError:
        store, read_only = target.open(), True
    explorer = Explorer(StoreView(store.root, location, images, writable=not read_only))

    def started(address: str) -> None:
        click.echo(address)
        if opens and click.launch(address) != 0:
            note("no browser was found; open the address yourself.")

    run(explorer, bind(host, port), token, started)


@command("site", example="saestore site CLEVR --top 3 --out site")
@with_target
@option("--features CONDITION", "Which features, such as 'name is known'; by default all.")
@option("--top N", "At most this many features, those that fire most.", at_least=1, default=200)
@option("-n N", "Examples per feature.", type=click.IntRange(1, 64), default=8)
@option("--out DIR", "A new folder.", type=click.Path(path_type=Path), required=True)
@_images_option
@option("--single-file", "Write one HTML file with everything in it.")
def site(target: Target, *, features: str | None, top: int, out: Path, images: Path | None, single_file: bool) -> None:
    """Write pages of features as a folder that opens without a server, to share or to keep.

    Prints the path of its first page.
    """
    import numpy as np

    require("jinja2", "web", "saestore site")
    from saestore.web.folder import write_folder

    acts = target.activations()
    n_active = acts.stats()["n_active"].to_numpy()
    chosen = np.flatnonzero(n_active) if features is None else acts.features.where(features)
    best = chosen[np.argsort(-n_active[chosen], kind="stable")][:top]
    if not len(best):
        raise InvalidInputError("No feature fulfils --features.", code="nothing-chosen")
    click.echo(write_folder(acts, best.tolist(), out, images=images, single=single_file, n=target.n))
