"""`saestore examples`, `card` and `plot`: what one feature stands for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saestore.cli import keys, output
from saestore.cli.features import (
    called,
    feature_columns,
    feature_option,
    features_of,
    level_option,
    one_feature,
    with_names,
)
from saestore.cli.group import command, note
from saestore.cli.options import all_of, option
from saestore.cli.table import Column, decimals
from saestore.cli.target import Target, json_option, with_target
from saestore.cli.where import where_option
from saestore.errors import require

if TYPE_CHECKING:
    from saestore.activation_set import ActivationSet
    from saestore.analysis.examples import ExampleTable

_count_options = all_of(
    option("--quantiles N", "Parts of equal size that the active samples are cut into.", at_least=0, default=10),
    option("-n N", "Examples of each part, and of the strongest.", at_least=0, default=5),
    option("--random N", "Active samples at random, and as many silent ones.", at_least=0, default=5),
    option(
        "--near-misses N",
        "Samples where the companions of the feature are active and the feature is silent.",
        at_least=0,
        default=5,
    ),
    option("--context N", "Tokens on either side.", at_least=0, default=16),
)


@command("examples", example="saestore examples --dataset CLEVR --feature 1884 --quantiles 3 -n 2", keys=keys.EXAMPLES)
@with_target
@feature_option(required=True)
@_count_options
@level_option("`item` shows the strongest sample of each item only.")
@option("--seed N", "Of the draws.", at_least=0, default=0)
@where_option
@option("--jsonl FILE", "Write one JSON object per example and line, with its window.")
@option(
    "--sets FILE",
    "Write the sets that a language model explains a feature from and is scored by, one feature per line.",
)
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
    from saestore.cli.places import place_columns, places

    output.title(f"{acts.path}: examples of {called(acts, features)}")
    if not len(found):
        note("no sample fulfils the condition.")
        return
    columns = feature_columns(acts, found.feature.tolist()) if len(features) > 1 else []
    kinds = [f"{k} {q}" if q >= 0 else k for k, q in zip(found.kind.tolist(), found.quantile.tolist(), strict=True)]
    columns += [Column("kind", kinds), decimals("activation", found.activation.tolist())]
    rows = places(acts, found.sample)
    output.table([*columns, *place_columns(rows, several_per_item=acts.attributes.item_size != 1)])


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
        ax.figure.savefig(output, bbox_inches="tight", dpi=150)
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
