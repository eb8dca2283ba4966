"""What a sample is: which item, and which patch or token of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.cli.table import Column, numbers
from saestore.cli.text import Marked, clean
from saestore.format import KEY
from saestore.query.sample_coords import grid_width

if TYPE_CHECKING:
    from saestore.query.reader import SetReader

Array = np.ndarray[Any, Any]
TEXT = "text"


def places(acts: SetReader, samples: Array) -> list[dict[str, Any]]:
    """The place of every sample, with the keys that `saestore.cli.keys.PLACE` explains."""
    items, positions = acts.item_index.locate(samples)
    names = acts.items.names()
    nothing: list[Any] = [None] * len(samples)
    keys = _column(acts, KEY, items) if KEY in names else nothing
    texts = _column(acts, TEXT, items) if TEXT in names else nothing
    spans = _spans(acts, samples) if TEXT in names else [(None, None)] * len(samples)
    wide = grid_width(acts)
    rows = []
    for i, (sample, item, position) in enumerate(
        zip(samples.tolist(), items.tolist(), positions.tolist(), strict=True)
    ):
        start, stop = spans[i]
        rows.append(
            {
                "sample": sample,
                "item": item,
                "key": keys[i],
                "position": position,
                "row": None if wide is None else position // wide,
                "column": None if wide is None else position % wide,
                "text": texts[i],
                "token": None if start is None else texts[i][start:stop],
                "char_start": start,
                "char_stop": stop,
            }
        )
    return rows


def _column(acts: SetReader, name: str, items: Array) -> list[Any]:
    return acts.items.column(name, items).tolist()  # type: ignore[no-any-return]


def _spans(acts: SetReader, samples: Array) -> list[tuple[int | None, int | None]]:
    """First character of every sample in its text and the one after its last, None where the set does not know."""
    spans = acts.spans(samples)
    return [(None, None)] * len(samples) if spans is None else [(a, b) for a, b in spans.tolist()]


def place_columns(rows: Sequence[dict[str, Any]], *, several_per_item: bool) -> list[Column]:
    """Columns of a table that show the places."""
    columns = [numbers("sample", (r["sample"] for r in rows))]
    if several_per_item:
        columns.append(numbers("item", (r["item"] for r in rows)))
    keys = ["" if r["key"] is None else clean(r["key"]) for r in rows]
    if any(key not in ("", str(r["item"])) for key, r in zip(keys, rows, strict=True)):
        columns.append(Column("key", keys, cut="start"))
    if any(r["row"] is not None for r in rows):
        columns += [numbers("row", (r["row"] for r in rows)), numbers("column", (r["column"] for r in rows))]
    elif several_per_item:
        columns.append(numbers("position", (r["position"] for r in rows)))
    if any(r["text"] is not None for r in rows):
        columns.append(Column("text", [shown_text(r) for r in rows], cut="end"))
    return columns


def shown_text(row: dict[str, Any]) -> str | Marked:
    """The text of a place, its token marked where it is known."""
    if row["char_start"] is None:
        return clean(row["text"] or "")
    return Marked.of(row["text"], row["char_start"], row["char_stop"])
