"""`saestore top-samples` and `saestore top-features`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Literal

import click

from saestore.cli import keys, output
from saestore.cli.group import command, note
from saestore.cli.table import decimals, numbers
from saestore.cli.target import Target, json_option, with_target
from saestore.cli.where import conditions, where_option

if TYPE_CHECKING:
    from saestore.activation_set import ActivationSet

_NAMED = 5  # features that a heading names one by one


@command(
    "top-samples",
    example="saestore top-samples --dataset CLEVR --feature 1234 --level item --where split=test -n 5",
    keys=keys.TOP_SAMPLES,
)
@with_target
@click.option("--feature", metavar="N", type=int, multiple=True, required=True, help="The feature; may be repeated.")
@click.option("-n", metavar="N", type=click.IntRange(1), default=20, show_default=True, help="Rows for each feature.")
@click.option(
    "--level",
    metavar="[sample|item]",
    type=click.Choice(["sample", "item"]),
    default="sample",
    show_default=True,
    help="`item` shows each item once, with its strongest sample.",
)
@where_option
@json_option
def top_samples(
    target: Target,
    *,
    feature: tuple[int, ...],
    n: int,
    level: Literal["sample", "item"],
    where: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the samples on which a feature is strongest."""
    from saestore.cli.places import places

    acts = target.activations()
    condition = conditions(acts, where)
    top = acts.top_samples(list(feature), n, level=level, where=condition)
    rows = [
        {"feature": f, "activation": a, **place}
        for f, a, place in zip(top.feature.tolist(), top.activation.tolist(), places(acts, top.sample), strict=True)
    ]
    if as_json:
        output.document({"set": acts.path, "level": level, "n": n, "where": list(where) or None, "rows": rows})
    else:
        _show_samples(acts, feature, level, rows)
    _note_silent(acts, feature, rows, where)


def _show_samples(acts: ActivationSet, feature: tuple[int, ...], level: str, rows: list[dict[str, Any]]) -> None:
    from saestore.cli.places import place_columns

    named = ", ".join(map(str, feature[:_NAMED])) + (", …" if len(feature) > _NAMED else "")
    output.title(f"{acts.path}: strongest {level}s of feature{'s' * (len(feature) > 1)} {named}")
    if rows:
        columns = [numbers("feature", (r["feature"] for r in rows))] if len(feature) > 1 else []
        columns.append(decimals("activation", (r["activation"] for r in rows)))
        output.table([*columns, *place_columns(rows, several_per_item=acts.attributes.item_size != 1)])


def _note_silent(
    acts: ActivationSet, feature: tuple[int, ...], rows: list[dict[str, Any]], where: tuple[str, ...]
) -> None:
    """Say which features have no row, so that an empty answer is not taken for a mistake."""
    found = {r["feature"] for r in rows}
    silent = [str(f) for f in feature if f % acts.shape[1] not in found]
    if silent:
        among = " that fulfils " + " ".join(f"--where {shlex.quote(text)}" for text in where) if where else ""
        note(f"no sample{among} has feature {', '.join(silent)} active.")


@command("top-features", example="saestore top-features --dataset CLEVR --sample 17", keys=keys.TOP_FEATURES)
@with_target
@click.option("--sample", metavar="N", type=int, multiple=True, required=True, help="The sample; may be repeated.")
@click.option("-n", metavar="N", type=click.IntRange(1), default=10, show_default=True, help="Rows for each sample.")
@where_option
@json_option
def top_features(target: Target, *, sample: tuple[int, ...], n: int, where: tuple[str, ...], as_json: bool) -> None:
    """Show the features that are strongest on a sample."""
    from saestore.cli.places import places
    from saestore.query.selection import select

    acts = target.activations()
    chosen = select(list(sample), acts.shape[0], "sample").ids
    condition = acts.condition(conditions(acts, where))
    if condition is not None:
        chosen = chosen[condition.keeps(chosen)]
    asked = [acts.top_features(s, n) for s in chosen]
    # A sample where nothing is active has a place, too.
    located = places(acts, chosen)
    rows = [
        {"feature": f, "activation": a, **place}
        for top, place in zip(asked, located, strict=True)
        for f, a in zip(top.feature.tolist(), top.activation.tolist(), strict=True)
    ]
    if as_json:
        output.document({"set": acts.path, "n": n, "where": list(where) or None, "rows": rows})
        return
    for i, (top, place) in enumerate(zip(asked, located, strict=True)):
        if i:
            output.line()
        _show_features(acts, place)
        output.table([numbers("feature", top.feature.tolist()), decimals("activation", top.activation.tolist())])


def _show_features(acts: ActivationSet, place: dict[str, Any]) -> None:
    """Say which sample the table below is of."""
    from saestore.cli.places import shown_text
    from saestore.cli.text import Marked, clean, clip, clip_start

    output.title(f"{acts.path}: strongest features of sample {place['sample']}")
    at = f"position {place['position']}"
    if place["row"] is not None:
        at = f"row {place['row']}, column {place['column']}"
    where, limit = f"item {place['item']}, {at}", output.line_width()
    key = clean(place["key"] or "")
    if key not in ("", str(place["item"])):
        where += f", {clip_start(key, max(0, limit - len(where) - 2))}"
    output.line(clip(where, limit))
    if place["text"] is not None:
        text = shown_text(place)
        output.line(text.fit(limit) if isinstance(text, Marked) else clip(text, limit))
