"""`saestore label`: concepts given to items, patches and tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from saestore.cli import output
from saestore.cli.group import command, note
from saestore.cli.keys import SET
from saestore.cli.options import option
from saestore.cli.table import Column, counts
from saestore.cli.target import Target, json_option, with_target

if TYPE_CHECKING:
    from saestore.activation_set import ActivationSet

KEYS = {
    **SET,
    "added": "names of the concepts that were given, in the order of the file",
    "removed": "names of those that were removed",
    "concepts": "one for each concept of the set and level, as it is now",
    "concepts[].name": "its name",
    "concepts[].level": "`item` or `sample`",
    "concepts[].n_positive": "items or samples that have it",
    "concepts[].n": "items or samples of the set",
}
_LEVELS: tuple[Literal["item", "sample"], ...] = ("item", "sample")
_SOURCES = ("items", "masks", "spans", "array", "ground_truth", "remove", "list")
# Which options go with which source; one that does nothing would be taken for one that did.
_GOES_WITH = {
    "concept": ("masks", "array"),
    "level": ("array", "remove"),
    "within_concepts": ("masks",),
    "threshold": ("masks",),
    "fit": ("masks",),
    "missing": ("masks",),
    "on_unmatched": ("items", "masks", "spans"),
    "overwrite": ("items", "masks", "spans", "array", "ground_truth"),
}


@command("label", example="saestore label CLEVR/patch --masks examples/clevr/masks --concept object", keys=KEYS)
@with_target
@option("--items CSV", "A metadata.csv: its 0/1 columns label the items, matched by their keys.")
@option(
    "--masks DIR",
    "Image masks, DIR/<concept>/<item>.png, or DIR/<item>.png with --concept or --within-concepts: label patches.",
)
@option("--spans FILE", "CSV or JSONL of key, start, stop, concept, in characters: label tokens.")
@option("--array FILE", "A .npy or .npz of 0 and 1, dense or scipy sparse.")
@option(
    "--ground-truth DIR",
    "Folder with gt_samples_per_concept*.pt (label items) and gt_patch_per_concept*.pt (label patches or tokens).",
)
@option("--remove NAME", "Remove this concept; may be repeated.", multiple=True)
@option("--list", "Show the concepts of the set; so does no option at all.", to="list_")
@option("--concept NAME", "What the masks show; names of the array's columns, one for each.", multiple=True)
@option(
    "--level",
    "What the array labels, or of what a concept is removed.  [default: item; with --remove both]",
    choices=_LEVELS,
)
@option("--within-concepts", "Patches under the mask get the labels of their item.")
@option(
    "--threshold SHARE", "A patch counts where the mask covers more than this share of it.  [default: 0.25]", type=float
)
@option("--fit", "How images became squares.  [default: from the set, else squash]", choices=["squash", "crop"])
@option(
    "--missing",
    "`negative`: the patches of an item without a mask do not have the concept.",
    choices=["error", "negative"],
    default="error",
)
@option(
    "--on-unmatched",
    "`ignore`: skip rows, masks and spans that fit no item of the set.",
    choices=["error", "ignore"],
    default="error",
)
@option("--overwrite", "Replace concepts that are there already.")
@json_option
@click.pass_context
def label(ctx: click.Context, /, target: Target, **options: Any) -> None:
    """Give the items, patches or tokens of a set labels, remove some, or list them.

    Labels are matched by the keys of the items, never by their order. All that one command gives is there, or nothing.
    """
    options["level"] = target.asked["level"]
    source = _source(ctx, options)
    acts = target.activations(change=source != "list")
    before = {(level, name) for level in _LEVELS for name in acts.concepts.names(level)}
    added: list[str] = []
    if source == "remove":
        acts.concepts.remove(list(options["remove"]), options["level"])
    elif source != "list":
        with output.Status() as status:
            added = _add(acts, source, options, status)
    after = {(level, name) for level in _LEVELS for name in acts.concepts.names(level)}
    removed = [name for _, name in sorted(before - after)]
    rows = _rows(acts)
    if target.as_json:
        output.document({"set": acts.path, "added": added, "removed": removed, "concepts": rows})
        return
    done = f": {len(added)} given" if added else f": {len(removed)} removed" if removed else ""
    output.title(f"{acts.path}: {len(rows)} concept{'s' * (len(rows) != 1)}{done}")
    if rows:
        output.table(_columns(rows))


def _source(ctx: click.Context, options: dict[str, Any]) -> str:
    """What to do: the given one among the options that exclude one another."""
    options["list"] = options.pop("list_")
    given = [name for name in _SOURCES if options[name]]
    if len(given) > 1:
        raise click.UsageError(f"Choose one of {' and '.join(map(_option, given))}.", ctx)
    source = given[0] if given else "list"
    for name, sources in _GOES_WITH.items():
        said = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if said and source not in sources:
            allowed = " or ".join(map(_option, sources))
            raise click.UsageError(f"{_option(name)} goes with {allowed}.", ctx)
    if source == "masks" and len(options["concept"]) > 1:
        raise click.UsageError("One folder of masks shows one concept: give --concept once.", ctx)
    return source


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add(acts: ActivationSet, source: str, options: dict[str, Any], status: output.Status) -> list[str]:
    """Give the labels; returns the names of the concepts that were given."""
    overwrite, on_unmatched = options["overwrite"], options["on_unmatched"]
    if source == "items":
        return acts.concepts.add(options["items"], on_unmatched=on_unmatched, overwrite=overwrite)
    if source == "ground_truth":
        return acts.concepts.add_ground_truth(options["ground_truth"], overwrite=overwrite, progress=note)
    if source == "spans":
        return acts.concepts.add_spans(options["spans"], on_unmatched=on_unmatched, overwrite=overwrite)
    if source == "masks":
        return acts.concepts.add_masks(
            options["masks"],
            options["concept"][0] if options["concept"] else None,
            within=options["within_concepts"],
            threshold=0.25 if options["threshold"] is None else options["threshold"],
            fit=options["fit"],
            missing=options["missing"],
            on_unmatched=on_unmatched,
            overwrite=overwrite,
            progress=status,
        )
    from saestore.labels.from_arrays import read_arrays

    level: Literal["item", "sample"] = options["level"] or "item"
    labels = read_arrays(options["array"], options["concept"])
    names = None if isinstance(labels, dict) else options["concept"]
    return acts.concepts.add(labels, level, names=names, overwrite=overwrite)


def _rows(acts: ActivationSet) -> list[dict[str, Any]]:
    rows = []
    for level, n in zip(_LEVELS, (acts.n_items, acts.shape[0]), strict=True):
        matrix = acts.concept_matrix(level)
        positive = (matrix.indptr[1:] - matrix.indptr[:-1]).tolist()
        for name, count in zip(acts.concepts.names(level), positive, strict=True):
            rows.append({"name": name, "level": level, "n_positive": count, "n": n})
    return rows


def _columns(rows: list[dict[str, Any]]) -> list[Column]:
    return [
        Column("concept", [row["name"] for row in rows], cut="end"),
        Column("level", [row["level"] for row in rows]),
        counts("positive", (row["n_positive"] for row in rows)),
        counts("of", (row["n"] for row in rows)),
        Column("share", [f"{row['n_positive'] / row['n']:.1%}" if row["n"] else "-" for row in rows], right=True),
    ]
