"""What features do: `top-samples`, `top-features`, `stats`, `similar`, `compare` and `diff`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import click

from saestore.cli import keys, output
from saestore.cli.app import command, note
from saestore.cli.naming import called, feature_columns, place_columns, places, shown_text, with_names
from saestore.cli.options import feature_option, features_of, level_option, one_feature, option, where_option
from saestore.cli.table import Marked, clean, clip, clip_start, decimals, measured
from saestore.cli.target import Target, json_option, with_set, with_target
from saestore.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy as np
    import xarray

    from saestore.activation_set import ActivationSet
    from saestore.query.reader import SetReader
    from saestore.query.results import ResultTable, TopFeatures, TopSamples

_STATISTICS = ("n_active", "frac_nonzero", "mean", "std", "mean_active", "min", "max")  # sums are for programs
_DIFFERENCES = ("difference", "rate_a", "rate_b", "n_active_a", "n_active_b", "p", "q")
_COMPARED = "What is compared; the activation of an item is the maximum over its samples."
Metric = Literal["jaccard", "cosine", "correlation"]
METRICS: tuple[Metric, ...] = ("jaccard", "cosine", "correlation")


@command(
    "top-samples",
    example="saestore top-samples --dataset CLEVR --feature 1234 --level item --where split=test -n 5",
    keys=keys.TOP_SAMPLES,
)
@with_target
@feature_option(required=True)
@option("-n N", "Rows for each feature.", at_least=1, default=20)
@level_option("`item` shows each item once, with its strongest sample.")
@where_option
@json_option
def top_samples(target: Target, *, feature: tuple[str, ...]) -> None:
    """Show the samples on which a feature is strongest."""
    acts = target.reader()
    features = features_of(acts, feature)
    top = acts.top_samples(features, target.n, level=target.level, where=target.condition(acts, features))
    rows = _placed(acts, top)
    if target.as_json:
        target.document(acts, rows=with_names(acts, rows))
    else:
        output.title(f"{acts.path}: strongest {target.level}s of {called(acts, features)}")
        if rows:
            columns = feature_columns(acts, (r["feature"] for r in rows)) if len(features) > 1 else []
            columns.append(decimals("activation", (r["activation"] for r in rows)))
            output.table([*columns, *place_columns(acts, rows)])
    # So that an empty answer is not taken for a mistake.
    silent = [str(f) for f in features if f % acts.shape[1] not in {r["feature"] for r in rows}]
    if silent:
        note(f"no {_sample(target)} has feature {', '.join(silent)} active.")


def _placed(acts: SetReader, top: TopSamples | TopFeatures) -> list[dict[str, Any]]:
    """A row for each feature and sample, with the place of the sample."""
    found = zip(top.feature.tolist(), top.activation.tolist(), places(acts, top.sample), strict=True)
    return [{"feature": feature, "activation": activation, **place} for feature, activation, place in found]


@command("top-features", example="saestore top-features --dataset CLEVR --sample 17", keys=keys.TOP_FEATURES)
@with_target
@option("--sample N", "The sample; may be repeated.", type=int, multiple=True)
@option(
    "--item N",
    "Instead of a sample: the item, by the maximum over its samples; may be repeated.",
    type=int,
    multiple=True,
)
@option("-n N", "Rows for each.", at_least=1, default=10)
@where_option
@json_option
def top_features(target: Target, *, sample: tuple[int, ...], item: tuple[int, ...]) -> None:
    """Show the features that are strongest on a sample or an item."""
    from saestore.query.selection import select

    if bool(sample) == bool(item):
        raise click.UsageError("Name either samples with --sample or items with --item, not both.")
    acts = target.reader()
    tree = target.condition(acts)
    condition = acts.condition(tree)
    if item:
        chosen = select(list(item), acts.n_items, "item").ids
        tables = [acts.top_features(item=i, n=target.n, where=tree) for i in chosen]
        located = places(acts, acts.item_index.pointers()[chosen].clip(max=max(0, acts.shape[0] - 1)))
    else:
        chosen = select(list(sample), acts.shape[0], "sample").ids
        chosen = chosen if condition is None else chosen[condition.keeps(chosen)]
        tables = [acts.top_features(s, target.n) for s in chosen]
        located = places(acts, chosen)  # a sample where nothing is active has a place, too
    if target.as_json:
        target.document(acts, rows=with_names(acts, [row for top in tables for row in _placed(acts, top)]))
        return
    for i, (top, place) in enumerate(zip(tables, located, strict=True)):
        if i:
            output.line()
        _show_place(acts, place, bool(item))
        columns = feature_columns(acts, top.feature.tolist())
        if len(top):
            output.table([*columns, decimals("activation", top.activation.tolist())])
        else:
            note(f"no feature is active on a {_sample(target)}.")


def _sample(target: Target) -> str:
    """What a note calls a sample that was asked for."""
    import shlex

    return " ".join(["sample", *(f"that fulfils --where {shlex.quote(text)}" for text in target.asked["where"])])


def _show_place(acts: SetReader, place: dict[str, Any], of_item: bool) -> None:
    """Print which sample or item the table below is of."""
    what = "item" if of_item else "sample"
    output.title(f"{acts.path}: strongest features of {what} {place[what]}")
    parts = ["item"] if of_item else ["item", "position"] if place["row"] is None else ["item", "row", "column"]
    where, limit = ", ".join(f"{part} {place[part]}" for part in parts), output.line_width()
    key = clean(place["key"] or "")
    if key not in ("", str(place["item"])):
        where += f", {clip_start(key, max(0, limit - len(where) - 2))}"
    output.line(clip(where, limit))
    if place["text"] is not None:
        text = shown_text(place)
        output.line(text.fit(limit) if isinstance(text, Marked) else clip(text, limit))


@command("stats", example="saestore stats --dataset CLEVR --sort max -n 10", keys=keys.STATS)
@with_target
@feature_option("Of this feature only")
@level_option("Over samples, or over items, whose activation is the maximum over their samples.")
@option("--sort NAME", "Largest of this statistic first.  [default: n_active, or the order of --feature]")
@option("-n N", "Rows.  [default: 20; all with --csv or --feature]", at_least=1)
@where_option
@option("--csv", "Print CSV, of all features in their order.", to="as_csv")
@json_option
def stats(target: Target, *, feature: tuple[str, ...], sort: str | None, as_csv: bool) -> None:
    """Show how often and how strongly features are active."""
    target.check_form(csv=as_csv)
    acts = target.activations()
    features = features_of(acts, feature)
    data = acts.stats(features or None, level=target.level, where=target.condition(acts, features))
    if sort or not (feature or as_csv):
        data = data.isel(feature=_order(data, sort or "n_active"))
    data = data.isel(feature=slice(0, target.asked["n"] or (None if feature or as_csv else 20)))
    if as_csv:
        output.rows_as_csv(_rows(acts, data, short=True))
    elif target.as_json:
        target.document(acts, n_samples=data.attrs["n_samples"], rows=_rows(acts, data))
    else:
        shown = f"{data.sizes['feature']:,} of {acts.shape[1]:,} features"
        output.title(f"{acts.path}: {shown} over {data.attrs['n_samples']:,} {target.level}s")
        named = feature_columns(acts, data["feature"].to_numpy().tolist())
        output.table([*named, *(measured(name, data[name].to_numpy()) for name in _STATISTICS)])


def _rows(acts: ActivationSet, data: xarray.Dataset, *, short: bool = False) -> list[dict[str, Any]]:
    """A dict for each feature; as texts, if `short`, in which a float32 is no longer than it is exact."""
    columns = {name: data[name].to_numpy() for name in ("feature", *map(str, data.data_vars))}
    lists = [
        [None if v != v else str(v) for v in values] if short and values.dtype.kind == "f" else values.tolist()  # noqa: PLR0124
        for values in columns.values()
    ]
    return with_names(acts, [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)])


def _order(data: xarray.Dataset, name: str) -> np.ndarray[Any, Any]:
    """Largest first, NaN last, ties by ascending feature; by feature, the smallest first."""
    import numpy as np

    names = ["feature", *map(str, data.data_vars)]
    if name not in names:
        raise InvalidInputError(f"--sort {name}: sort by one of {', '.join(names)}.")
    values = data[name].to_numpy().astype(np.float64)
    return np.argsort(values if name == "feature" else -values, kind="stable")


@command("similar", example="saestore similar --dataset CLEVR --feature 1234 --metric cosine", keys=keys.SIMILAR)
@with_target
@feature_option(required=True, multiple=False)
@level_option(_COMPARED)
@option(
    "--metric",
    "`jaccard`: samples where both are active as a share of those where either is; or of the activations.",
    choices=METRICS,
    default=METRICS[0],
)
@option("-n N", "Rows.", at_least=1, default=10)
@where_option
@json_option
def similar(target: Target, *, feature: str, metric: Metric) -> None:
    """Show the features that are active on the same samples as a feature."""
    acts = target.activations()
    number = one_feature(acts, feature)
    found = acts.similar(number, target.n, metric, level=target.level, where=target.condition(acts, [number]))
    name = called(acts, [number])
    heads = f"features most similar to {name}", f"no other feature is active on a {target.level} with {name}."
    shown = {metric: found.score, f"{target.level}s of both": found.n_both}
    _answer(target, acts, found, heads, shown, feature=number, metric=metric)


@command("compare", example="saestore compare CLEVR/patch/clevr-sae CLEVR/patch/clevr-sae -n 5", keys=keys.COMPARE)
@with_set
@click.argument("other_path", metavar="OTHER")
@feature_option("Matches of this feature of SET", multiple=False)
@option("--metric", "As for `similar`.", choices=METRICS, default="correlation")
@level_option(_COMPARED)
@option("-n N", "Rows.", at_least=1, default=20)
@where_option
@json_option
def compare(target: Target, *, other_path: str, feature: str | None, metric: Metric) -> None:
    """Show the features of another set over the same samples that match the features of a set, best first."""
    acts, other = target.activations(), replace(target, path=other_path).activations()
    number = None if feature is None else int(acts.select_features(one_feature(acts, feature)).ids[0])
    per_feature = 1 if number is None else target.n
    found = acts.compare(other, metric, per_feature, level=target.level, where=target.condition(acts))
    if number is not None:
        found = found[found.feature == number]
    found = found[(-found.score).argsort(kind="stable")[: target.n]]
    heads = f"features that match features of {other.path}", "no feature is active together with one of the other set."
    shown = {metric: found.score, f"{target.level}s of both": found.n_both}
    _answer(target, acts, found, heads, shown, other=other, feature=number, metric=metric)


@command("diff", example="saestore diff --dataset CLEVR --group-a color::green -n 5", keys=keys.DIFF)
@with_target
@option("--group-a CONDITION", "The first group, as `--where`.", to="group_a", multiple=True, required=True)
@option("--group-b CONDITION", "The second group.  [default: all that is not in A]", to="group_b", multiple=True)
@level_option("What is counted.", "item")
@option("-n N", "Rows.", at_least=1, default=20)
@where_option
@json_option
def diff(target: Target, *, group_a: tuple[str, ...], group_b: tuple[str, ...]) -> None:
    """Show the features that fire more often in one group than in another, with Fisher's exact p and q."""
    acts = target.activations()
    a, b = (target.condition(acts, where=g, option=o) for o, g in (("group-a", group_a), ("group-b", group_b)))
    found = acts.diff(a, b, target.level, where=target.condition(acts))[: target.n]
    groups = f"{' '.join(group_a)} and {' '.join(group_b) or 'the rest'}"
    heads = f"features that differ between {groups}", "no feature is active in either group."
    shown = {name: getattr(found, name) for name in _DIFFERENCES}
    _answer(target, acts, found, heads, shown, group_a=list(group_a), group_b=list(group_b) or None)


def _answer(
    target: Target,
    acts: ActivationSet,
    found: ResultTable,
    heads: tuple[str, str],
    shown: Mapping[str, np.ndarray[Any, Any]],
    *,
    other: ActivationSet | None = None,
    **about: Any,
) -> None:
    """Print a table of features, `shown` by heads of columns; `heads` are its title, and the note without a row."""
    pairs: Any = [(acts, "feature", "name")] + ([(other, "other_feature", "other_name")] if other is not None else [])
    if target.as_json:
        rows = list(found)
        for each, feature, name in pairs:
            rows = with_names(each, rows, feature, name)
        about |= {} if other is None else {"other": other.path}
        target.document(acts, **about, rows=rows)
        return
    output.title(f"{acts.path}: {heads[0]}")
    if not len(found):
        note(heads[1])
        return
    named = [c for each, feature, _ in pairs
             for c in feature_columns(each, found.columns[feature].tolist(), feature.replace("_", " "))]  # fmt: skip
    output.table([*named, *(measured(name, values) for name, values in shown.items())])
