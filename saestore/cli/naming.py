"""How answers name features (number and name) and samples (item, and patch or token of it)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from saestore.cli.table import Column, Marked, clean, numbers

if TYPE_CHECKING:
    import numpy as np

    from saestore.query.reader import SetReader

_NAMED = 5  # features that a heading names one by one


def feature_columns(acts: SetReader, features: Iterable[int], head: str = "feature") -> list[Column]:
    """Numbers of features and, where one of them has a name, the names."""
    ids = list(features)
    return [numbers(head, ids), *name_column(names_of(acts, ids))]


def name_column(names: Sequence[str | None]) -> list[Column]:
    """A column of names, or none where there is no name."""
    return [Column("name", [name or "" for name in names], cut="end")] if any(names) else []


def called(acts: SetReader, features: Sequence[int]) -> str:
    """Features in a heading, some one by one, with their names."""
    shown = list(features[:_NAMED])
    texts = [f"{f} ({name})" if name else str(f) for f, name in zip(shown, names_of(acts, shown), strict=True)]
    return f"feature{'s' * (len(features) > 1)} {', '.join(texts)}" + (", …" if len(features) > _NAMED else "")


def names_of(acts: SetReader, features: Sequence[int]) -> list[str | None]:
    """Names of features, None where one has none."""
    import numpy as np

    from saestore.query.details import feature_names

    names = feature_names(acts, np.array(features, np.int64)) if len(features) else None
    return [None] * len(features) if names is None else names.tolist()


def with_names(
    acts: SetReader, rows: Sequence[dict[str, Any]], of: str = "feature", key: str = "name"
) -> list[dict[str, Any]]:
    """Rows with the name of their feature beside its number, None where there is none."""
    names = names_of(acts, [row[of] for row in rows])
    return [
        {k: v for own, value in row.items() for k, v in ((own, value), *([(key, name)] if own == of else []))}
        for row, name in zip(rows, names, strict=True)
    ]


def places(acts: SetReader, samples: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """The place of every sample, with the keys that `saestore.cli.keys.PLACE` explains."""
    from saestore.format import KEY
    from saestore.query.sample_coords import grid_width

    items, positions = acts.item_index.locate(samples)
    known, nothing = acts.table("items").info.columns, [None] * len(samples)
    columns = (acts.read_column("items", name, items).array() if name in known else None for name in (KEY, "text"))
    keys, texts = (nothing if values is None else values.tolist() for values in columns)
    spans = acts.spans(samples) if "text" in known else None
    ends = [(None, None)] * len(samples) if spans is None else spans.tolist()
    wide = grid_width(acts)
    return [
        {
            "sample": sample,
            "item": item,
            "key": key,
            "position": position,
            "row": None if wide is None else position // wide,
            "column": None if wide is None else position % wide,
            "text": text,
            "token": None if start is None else text[start:stop],
            "char_start": start,
            "char_stop": stop,
        }
        for sample, item, key, position, text, (start, stop) in zip(
            samples.tolist(), items.tolist(), keys, positions.tolist(), texts, ends, strict=True
        )
    ]


def place_columns(acts: SetReader, rows: Sequence[dict[str, Any]]) -> list[Column]:
    """Columns of a table that show the places."""
    several_per_item, columns = acts.attributes.item_size != 1, [numbers("sample", (r["sample"] for r in rows))]
    if several_per_item:
        columns.append(numbers("item", (r["item"] for r in rows)))
    keys = ["" if r["key"] is None else clean(r["key"]) for r in rows]
    if any(key not in ("", str(r["item"])) for key, r in zip(keys, rows, strict=True)):
        columns.append(Column("key", keys, cut="start"))
    if any(r["row"] is not None for r in rows):
        columns += [numbers(name, (r[name] for r in rows)) for name in ("row", "column")]
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
