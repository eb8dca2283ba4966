"""`saestore top-samples` and `saestore top-features`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from saestore.cli import keys, output
from saestore.cli.features import called, feature_columns, feature_option, features_of, level_option, with_names
from saestore.cli.group import command, note
from saestore.cli.options import option
from saestore.cli.table import decimals
from saestore.cli.target import Target, json_option, with_target
from saestore.cli.where import where_option

if TYPE_CHECKING:
    from saestore.query.reader import SetReader
    from saestore.query.results import TopFeatures, TopSamples


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
    rows = _rows(acts, top)
    if target.as_json:
        target.document(acts, rows=with_names(acts, rows))
    else:
        _show_samples(acts, features, target.level, rows)
    _note_silent(acts, features, rows, target.asked["where"])


def _rows(acts: SetReader, top: TopSamples | TopFeatures) -> list[dict[str, Any]]:
    """A row for each feature and sample, with the place of the sample."""
    from saestore.cli.places import places

    found = zip(top.feature.tolist(), top.activation.tolist(), places(acts, top.sample), strict=True)
    return [{"feature": feature, "activation": activation, **place} for feature, activation, place in found]


def _show_samples(acts: SetReader, feature: list[int], level: str, rows: list[dict[str, Any]]) -> None:
    from saestore.cli.places import place_columns

    output.title(f"{acts.path}: strongest {level}s of {called(acts, feature)}")
    if rows:
        columns = feature_columns(acts, (r["feature"] for r in rows)) if len(feature) > 1 else []
        columns.append(decimals("activation", (r["activation"] for r in rows)))
        output.table([*columns, *place_columns(rows, several_per_item=acts.attributes.item_size != 1)])


def _note_silent(acts: SetReader, feature: list[int], rows: list[dict[str, Any]], where: tuple[str, ...]) -> None:
    """Say which features have no row, so that an empty answer is not taken for a mistake."""
    found = {r["feature"] for r in rows}
    silent = [str(f) for f in feature if f % acts.shape[1] not in found]
    if silent:
        among = " that fulfils " + " ".join(f"--where {shlex.quote(text)}" for text in where) if where else ""
        note(f"no sample{among} has feature {', '.join(silent)} active.")


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
    from saestore.cli.places import places
    from saestore.query.selection import select

    if bool(sample) == bool(item):
        raise click.UsageError("Name samples with --sample, or items with --item.")
    acts = target.reader()
    tree = target.condition(acts)
    condition = acts.condition(tree)
    if item:
        chosen = select(list(item), acts.n_items, "item").ids
        asked = [acts.top_features(item=i, n=target.n, where=tree) for i in chosen]
        pointers = acts.item_index.pointers()
        located = places(acts, pointers[chosen].clip(max=max(0, acts.shape[0] - 1)))
    else:
        chosen = select(list(sample), acts.shape[0], "sample").ids
        chosen = chosen if condition is None else chosen[condition.keeps(chosen)]
        asked = [acts.top_features(s, target.n) for s in chosen]
        located = places(acts, chosen)  # a sample where nothing is active has a place, too
    if target.as_json:
        target.document(acts, rows=with_names(acts, [row for top in asked for row in _rows(acts, top)]))
        return
    for i, (top, place) in enumerate(zip(asked, located, strict=True)):
        if i:
            output.line()
        _show_features(acts, place, bool(item))
        columns = feature_columns(acts, top.feature.tolist())
        output.table([*columns, decimals("activation", top.activation.tolist())])


def _show_features(acts: SetReader, place: dict[str, Any], of_item: bool) -> None:
    """Say which sample or item the table below is of."""
    from saestore.cli.places import shown_text
    from saestore.cli.text import Marked, clean, clip, clip_start

    of = f"item {place['item']}" if of_item else f"sample {place['sample']}"
    output.title(f"{acts.path}: strongest features of {of}")
    at = f"position {place['position']}"
    if place["row"] is not None:
        at = f"row {place['row']}, column {place['column']}"
    where, limit = f"item {place['item']}" + ("" if of_item else f", {at}"), output.line_width()
    key = clean(place["key"] or "")
    if key not in ("", str(place["item"])):
        where += f", {clip_start(key, max(0, limit - len(where) - 2))}"
    output.line(clip(where, limit))
    if place["text"] is not None:
        text = shown_text(place)
        output.line(text.fit(limit) if isinstance(text, Marked) else clip(text, limit))
