"""`saestore concepts` and `label`: the best features for each concept, and concepts given to a set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from saestore.cli import keys, output
from saestore.cli.app import command, note
from saestore.cli.naming import feature_columns, with_names
from saestore.cli.options import draws_options, feature_option, features_of, level_option, option, where_option
from saestore.cli.table import Column, counts, decimals, first_of_each, interval
from saestore.cli.target import Target, forms_options, json_option, with_target

if TYPE_CHECKING:
    import xarray

    from saestore.activation_set import ActivationSet

_RANKED_BY = ("roc_auc", "average_precision", "f1")
_SHOWN = ("roc_auc", "average_precision", "f1", "threshold", "precision", "recall")
Row = dict[str, Any]
_LEVELS: tuple[Literal["item", "sample"], ...] = ("item", "sample")


@command("concepts", example="saestore concepts --dataset CLEVR --where split=test -n 3", keys=keys.CONCEPTS)
@with_target
@option("--concept NAME", "Of this concept only; may be repeated.", multiple=True)
@level_option("Score samples with their own labels, or items, by their strongest sample.", "item")
@feature_option("Of this feature only")
@where_option
@option(
    "--choose-on SPLIT",
    "Choose features and thresholds on this split, or on what fulfils a condition, and measure on --report-on.",
)
@option("--report-on SPLIT", "Measure on this split, or on what fulfils a condition.")
@option("--by", "What the best features are best at.", choices=_RANKED_BY, default=_RANKED_BY[0])
@option("-n N", "Rows for each concept.", at_least=1, default=5)
@option("--intervals", "Add confidence intervals, by the bootstrap over items.")
@draws_options
@forms_options
def concepts(
    target: Target,
    *,
    concept: tuple[str, ...],
    feature: tuple[str, ...],
    choose_on: str | None,
    report_on: str | None,
    by: str,
    intervals: bool,
    as_csv: bool,
    **draws: Any,
) -> None:
    """Show the best features for each concept: how well their activation predicts where it is true."""
    target.check_form(csv=as_csv)
    acts, level = target.activations(), target.level
    features = features_of(acts, feature) or None
    condition = target.condition(acts)
    on: dict[str, Any] = {"choose_on": choose_on, "report_on": report_on}
    if (choose_on is None) != (report_on is None):
        raise click.UsageError("--choose-on and --report-on belong together; give both.")
    ranked_by = by if choose_on is None else f"chosen_{by}"
    with output.Status() as status:
        status(f"scoring {acts.shape[1]:,} features")
        scores = acts.concepts.scores(level, where=condition, concepts=list(concept) or None, features=features, **on)
        best = {str(name): _best(scores, i, ranked_by, target.n) for i, name in enumerate(scores["concept"].to_numpy())}
        rows = _rows(scores, best)
        if intervals and rows:
            status(f"drawing {level}s {draws['n_resamples']:,} times")
            _add_intervals(acts, rows, level, condition, draws | on)
    rows = with_names(acts, rows)
    if as_csv:
        output.rows_as_csv(rows, ("concept", "feature"))
    elif target.as_json:
        about = {"n_scored": scores.attrs["n"], **on, "by": by, "intervals": draws if intervals else None}
        target.document(acts, **about, rows=rows)
    else:
        split = "" if choose_on is None else f" of {scores.attrs['report_on']}, chosen on {scores.attrs['choose_on']}"
        output.title(f"{acts.path}: best features by {by} over {scores.attrs['n']:,} {level}s{split}")
        if rows:
            output.table(_columns(acts, rows, by, intervals, draws["confidence_level"]))
    _note_unscored(best, scores, level)


def _best(scores: xarray.Dataset, concept: int, by: str, n: int) -> list[int]:
    """Places of the best features, ties by ascending feature; none where there is no score."""
    import numpy as np

    values = scores[by].to_numpy()[concept]
    order = np.argsort(-values, kind="stable")[:n]
    return [int(place) for place in order if not np.isnan(values[place])]


def _rows(scores: xarray.Dataset, best: dict[str, list[int]]) -> list[Row]:
    rows = []
    for concept, (name, places) in enumerate(best.items()):
        chosen = scores.isel(concept=concept, feature=places)
        columns = {key: chosen[key].to_numpy() for key in ("feature", *map(str, scores.data_vars))}
        for i in range(len(places)):
            row = {key: (values[i] if values.ndim else values).item() for key, values in columns.items()}
            rows.append({"concept": name, **row})
    return rows


def _add_intervals(acts: ActivationSet, rows: list[Row], level: Any, where: Any, draws: dict[str, Any]) -> None:
    pairs = [(row["concept"], row["feature"]) for row in rows]
    found = acts.concepts.intervals(pairs, level, where=where, **draws)
    for name in (str(name) for name in found.data_vars if str(name).endswith(("_low", "_high"))):
        for row, value in zip(rows, found[name].to_numpy().tolist(), strict=True):
            row[name] = value


def _columns(acts: ActivationSet, rows: list[Row], by: str, intervals: bool, confidence_level: float) -> list[Column]:
    columns = [first_of_each("concept", rows), *feature_columns(acts, (row["feature"] for row in rows))]
    if any(row["n_unknown"] for row in rows):
        columns.append(counts("scored", (row["n_positive"] + row["n_negative"] for row in rows)))
    if f"chosen_{by}" in rows[0]:
        columns.append(decimals("chosen", (row[f"chosen_{by}"] for row in rows)))
    # With its interval a score takes the place of the others.
    interval_of = by if intervals else None
    for name in _SHOWN:
        if interval_of is None or name == interval_of or name not in _RANKED_BY:
            columns.append(decimals(name, (row[name] for row in rows)))
        if name == interval_of:
            columns.append(interval(name, rows, confidence_level, 4))
    return columns


def _note_unscored(best: dict[str, list[int]], scores: xarray.Dataset, level: str) -> None:
    """Say why a concept has no row, so that it is not taken for a mistake."""
    for name in (name for name, places in best.items() if not places):
        n_positive = int(scores["n_positive"].sel(concept=name))
        why = "no feature is active" if 0 < n_positive < scores.attrs["n"] else f"{n_positive:,} {level}s have it"
        note(f"concept {name!r} has no score: {why}, of {scores.attrs['n']:,}.")


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


@command("label", example="saestore label CLEVR/patch --masks examples/clevr/masks --concept object", keys=keys.LABEL)
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
@option("--threshold SHARE", "A patch counts where the mask covers more than this share of it.", default=0.25)
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
    before = _known(acts)
    added: list[str] = []
    if source == "remove":
        acts.concepts.remove(list(options["remove"]), options["level"])
    elif source != "list":
        with output.Status() as status:
            added = _add(acts, source, options, status)
    removed = [name for _, name in sorted(before - _known(acts))]
    rows: list[Row] = [
        {"name": name, "level": level, "n_positive": count, "n": n}
        for level, n in zip(_LEVELS, (acts.n_items, acts.shape[0]), strict=True)
        for name, count in zip(acts.concepts.names(level), _n_positive(acts, level), strict=True)
    ]
    if target.as_json:
        output.document({"set": acts.path, "added": added, "removed": removed, "concepts": rows})
        return
    done = f": {len(added)} given" if added else f": {len(removed)} removed" if removed else ""
    output.title(f"{acts.path}: {len(rows)} concept{'s' * (len(rows) != 1)}{done}")
    if rows:
        shares = [f"{row['n_positive'] / row['n']:.1%}" if row["n"] else "-" for row in rows]
        output.table([
            Column("concept", [row["name"] for row in rows], cut="end"),
            Column("level", [row["level"] for row in rows]),
            counts("positive", (row["n_positive"] for row in rows)),
            counts("of", (row["n"] for row in rows)),
            Column("share", shares, right=True),
        ])  # fmt: skip


def _known(acts: ActivationSet) -> set[tuple[str, str]]:
    return {(level, name) for level in _LEVELS for name in acts.concepts.names(level)}


def _n_positive(acts: ActivationSet, level: Any) -> list[int]:
    pointers = acts.concept_matrix(level).indptr
    return (pointers[1:] - pointers[:-1]).tolist()  # type: ignore[no-any-return]


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
            raise click.UsageError(f"{_option(name)} goes with {' or '.join(map(_option, sources))}.", ctx)
    if source == "masks" and len(options["concept"]) > 1:
        raise click.UsageError("One folder of masks shows one concept: give --concept once.", ctx)
    return source


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add(acts: ActivationSet, source: str, options: dict[str, Any], status: output.Status) -> list[str]:
    """Give the labels; returns the names of the concepts that were given."""
    from saestore.labels.as_labels import read_arrays

    given, how = options[source], {name: options[name] for name in ("on_unmatched", "overwrite")}
    if source == "items":
        return acts.concepts.add(given, **how)
    if source == "ground_truth":
        return acts.concepts.add_ground_truth(given, overwrite=how["overwrite"], progress=note)
    if source == "spans":
        return acts.concepts.add_spans(given, **how)
    if source == "masks":
        how |= {name: options[name] for name in ("threshold", "fit", "missing")}
        how["within"] = options["within_concepts"]
        return acts.concepts.add_masks(given, *options["concept"], **how, progress=status)
    labels = read_arrays(given, options["concept"])
    names = None if isinstance(labels, dict) else options["concept"]
    return acts.concepts.add(labels, options["level"] or "item", names=names, overwrite=how["overwrite"])
