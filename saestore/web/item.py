"""The pages of items: the table of all, and one whole with what fires where."""

from __future__ import annotations

from typing import Any

import numpy as np

from saestore.errors import NotFoundError, OutOfRangeError
from saestore.plot.images import is_image
from saestore.query.results import TopSamples
from saestore.web.content import describe, picture
from saestore.web.request import Parameters
from saestore.web.view import MOST_ROWS, Page, SetView, StoreView, shortened, value_at

__all__ = ["ITEM", "ITEMS", "item_page", "items_page"]

Array = np.ndarray[Any, Any]

ITEMS = ("where", "limit", "offset")
ITEM = ("position", "feature", "n", "concept")
_MOST_TOKENS = 4000  # of an item that is shown whole


def items_page(store: StoreView, view: SetView, asked: Parameters) -> Page:
    """The table of items, a page of it."""
    limit, offset = asked.whole("limit", 50, 1, MOST_ROWS), asked.whole("offset", 0, 0, 1 << 40)
    where, items = asked.text("where"), view.reader.items
    ids = items.where(where) if where else np.arange(view.reader.n_items)
    shown = ids[offset : offset + limit]
    names = [name for name in items.names() if name != "key"][:8]
    columns = {name: view.reader.read_column("items", name, shown) for name in ["key", *names] if name in items}
    rows = [
        {"item": item, **{name: shortened(value_at(column, i)) for name, column in columns.items()}}
        for i, item in enumerate(shown.tolist())
    ]
    for row in rows if "key" in columns else ():
        shown_image = is_image(str(row["key"])) and picture(store, view, row["item"], str(row["key"]))["url"]
        row["image"] = store.links.image(view.path, row["item"], 160) if shown_image else None
    data = {
        "set": view.path,
        "where": where or None,
        "limit": limit,
        "offset": offset,
        "n_items": view.reader.n_items,
        "n_matching": len(ids),
        "columns": ["item", *columns],
        "images": any(row.get("image") for row in rows),
        "rows": rows,
        "known": items.columns,
        **store.copies(view.path, f"acts.items.where({where or 'item >= 0'!r})"),
    }
    return Page("items.html", f"items · {view.path}", data)


def item_page(store: StoreView, view: SetView, item: int, asked: Parameters) -> Page:
    """An item whole: its image or text, its strongest features, and what fires at one of its samples."""
    reader, n = view.reader, asked.whole("n", 20, 1, 200)
    if not 0 <= item < reader.n_items:
        raise OutOfRangeError(f"item {item} is out of range: there are {reader.n_items:,}, numbered from 0.")
    start, stop = _item_range(view, item)
    position = asked.whole("position", 0, 0, max(0, stop - start - 1)) if asked.text("position") else None
    if position is not None and start == stop:
        raise NotFoundError(f"item {item} has no sample.", code="no-samples")
    feature = asked.whole("feature", 0, 0, reader.shape[1] - 1) if asked.text("feature") else None
    example = _of_item(store, view, item, feature=feature, position=position, concept=asked.text("concept"))
    key, number = ("item", item) if position is None else ("sample", start + position)
    best = reader.top_features(**{key: number}, n=n)
    columns = best.feature.tolist(), best.activation.tolist(), (best.sample - start).tolist()
    data: dict[str, Any] = {
        "set": view.path,
        "item": item,
        "key": example["key"],
        "n_samples": stop - start,
        "position": position,
        "sample": None if position is None else start + position,
        "feature": feature,
        "n": n,
        "n_items": reader.n_items,
        "columns": {name: _cell(view, name, item) for name in reader.items.columns if name not in ("key", "text")},
        "example": example,
        "features": [
            {"feature": f, "name": view.name_of(f) or None, "activation": a, "position": p}
            for f, a, p in zip(*columns, strict=True)
        ],
        "sample_concepts": list(reader.concept_names("sample"))[:100],
        "concept": asked.text("concept") or None,
        **store.copies(
            view.path, f"acts.top_features({key}={number}, n={n})",
            "top-features", view.path, f"--{key}", str(number), "-n", str(n),
        ),
    }  # fmt: skip
    return Page("item.html", f"item {item} · {view.path}", data)


def _item_range(view: SetView, item: int) -> tuple[int, int]:
    """First sample of an item and the one after its last, of those that are there."""
    size, n_samples = view.reader.item_index.item_size, view.reader.shape[0]
    first, last = (size * item, size * (item + 1)) if size is not None else view.reader.item_index.pointers()[item:][:2]
    return min(int(first), n_samples), min(int(last), n_samples)


def _cell(view: SetView, name: str, row: int) -> Any:
    value = view.reader.items.column(name, np.array([row]))[0]
    return None if value is np.ma.masked else value.item() if isinstance(value, np.generic) else value


def _of_item(
    store: StoreView, view: SetView, item: int, *, feature: int | None, position: int | None, concept: str
) -> dict[str, Any]:
    """The item as an example: with the activations of a feature, or without any."""
    start, stop = _item_range(view, item)
    if start == stop:
        known = {name: str(_cell(view, name, item)) for name in ("key", "text") if name in view.reader.items.names()}
        text = {"position": None, "text": known.get("text", ""), "activation": 0.0}
        empty = {"item": item, "key": known.get("key", str(item)), "position": None, "activation": None, "heat": []}
        return {**empty, "tokens": [text], "more": False} if "text" in known else empty
    at = np.array([start + (position or 0)])
    chosen = TopSamples(np.zeros(1, np.int64), at, np.array([item]), at - start, np.zeros(1))
    (example,) = describe(store, view, feature or 0, chosen, concept=concept, context=_MOST_TOKENS)
    example["position"] = position
    if example.get("image", {}).get("url"):
        example["image"]["url"] = store.links.image(view.path, item, 1280)
    if feature is None:
        example["heat"], example["activation"] = [], None
    else:
        example["activation"] = max((value for _, value in example["heat"]), default=0.0)
    for token in example.get("tokens", ()):
        token["activation"] = token["activation"] if feature is not None else 0.0
        if token["position"] is not None:
            token["url"] = store.links.page(view.path, "items", item, position=token["position"], feature=feature)
    return example
