"""`saestore concepts`: the best features for each concept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from saestore.cli import keys, output
from saestore.cli.features import feature_columns, feature_option, features_of, level_option, with_names
from saestore.cli.group import command, note
from saestore.cli.options import option
from saestore.cli.table import Column, counts, decimals
from saestore.cli.target import Target, json_option, with_target
from saestore.cli.where import where_option

if TYPE_CHECKING:
    import xarray

    from saestore.activation_set import ActivationSet

_RANKED_BY = ("roc_auc", "average_precision", "f1")
_SHOWN = ("roc_auc", "average_precision", "f1", "threshold", "precision", "recall")
Row = dict[str, Any]


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
@option("--confidence-level SHARE", "Of the intervals.", default=0.95)
@option("--n-resamples N", "How often items are drawn for them.", default=1000)
@option("--seed N", "Of the draws.", default=0)
@option("--csv", "Print CSV.", to="as_csv")
@json_option
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
    if as_csv and target.as_json:
        raise click.UsageError("Choose one of --csv and --json.")
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
    for name in found.data_vars:
        if str(name).endswith(("_low", "_high")):
            for row, value in zip(rows, found[name].to_numpy().tolist(), strict=True):
                row[str(name)] = value


def _columns(acts: ActivationSet, rows: list[Row], by: str, intervals: bool, confidence_level: float) -> list[Column]:
    # The name of a concept stands once, before its best feature.
    names = [row["concept"] if i == 0 or rows[i - 1]["concept"] != row["concept"] else "" for i, row in enumerate(rows)]
    columns = [Column("concept", names, cut="end"), *feature_columns(acts, (row["feature"] for row in rows))]
    if any(row["n_unknown"] for row in rows):
        columns.append(counts("scored", (row["n_positive"] + row["n_negative"] for row in rows)))
    if f"chosen_{by}" in rows[0]:
        columns.append(decimals("chosen", (row[f"chosen_{by}"] for row in rows)))
    # With its interval a score takes the place of the others.
    interval_of = by if intervals else None
    shown = [name for name in _SHOWN if interval_of is None or name == interval_of or name not in _RANKED_BY]
    for name in shown:
        columns.append(decimals(name, (row[name] for row in rows)))
        if name == interval_of:
            ends = [f"{row[f'{name}_low']:.4f} to {row[f'{name}_high']:.4f}" for row in rows]
            columns.append(Column(f"{100 * confidence_level:g}% interval", ends, right=True))
    return columns


def _note_unscored(best: dict[str, list[int]], scores: xarray.Dataset, level: str) -> None:
    """Say why a concept has no row, so that it is not taken for a mistake."""
    for name, places in best.items():
        if not places:
            n_positive = int(scores["n_positive"].sel(concept=name))
            why = "no feature is active" if 0 < n_positive < scores.attrs["n"] else f"{n_positive:,} {level}s have it"
            note(f"concept {name!r} has no score: {why}, of {scores.attrs['n']:,}.")
