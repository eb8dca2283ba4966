"""What a page shows of samples and items, and the pages of items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError, SaestoreError
from saestore.plot.images import ImageView, find_image, is_image, is_turned
from saestore.plot.style import Row, rows_of
from saestore.query.results import TopSamples
from saestore.sparse_rows import Array
from saestore.web.request import Parameters, check_number
from saestore.web.view import MOST_ROWS, Page, SetView, StoreView, shortened, value_at


def describe(
    store: StoreView, view: SetView, feature: int, chosen: TopSamples, *, concept: str, context: int
) -> list[dict[str, Any]]:
    """Examples with all that a page shows of them: place, activations of the whole item, image or tokens."""
    if not len(chosen):
        return []
    rows = rows_of(view.reader, feature, chosen)
    shown: list[dict[str, Any]] = [
        {
            "sample": sample,
            "activation": activation,
            "item": row.item,
            "key": row.key,
            "split": row.split or None,
            "position": row.position,
            "heat": [[p, float(row.activations[p])] for p in np.flatnonzero(row.activations).tolist()],
        }
        for row, sample, activation in zip(rows, chosen.sample.tolist(), chosen.activation.tolist(), strict=True)
    ]
    if concept:
        _add_masks(view, concept, rows, shown)
    _add_content(store, view, rows, shown, context)
    return shown


def _add_masks(view: SetView, concept: str, rows: Sequence[Row], shown: Sequence[dict[str, Any]]) -> None:
    """The samples of each item that have a concept, and how well the active ones fit them."""
    if concept not in view.reader.concept_names("sample"):
        known = ", ".join(view.reader.concept_names("sample")[:10]) or "none"
        message = f"concept={concept!r} is not a concept of samples; there are {known}."
        raise InvalidInputError(message, code="unknown-concept")
    mask = view.remember(("mask", concept), lambda: view.reader.concept_mask(concept, "sample"))
    for example, row in zip(shown, rows, strict=True):
        inside, active = mask[row.start : row.start + len(row.activations)], row.activations > 0
        both, either = int((inside & active).sum()), int((inside | active).sum())
        example |= {
            "mask": np.flatnonzero(inside).tolist(),
            "precision": both / int(active.sum()) if active.any() else None,
            "iou": both / either if either else None,
        }


def _add_content(
    store: StoreView, view: SetView, rows: Sequence[Row], shown: Sequence[dict[str, Any]], context: int
) -> None:
    """The tokens of each example around its sample, or its image."""
    reader = view.reader
    if "text" in reader.items.names():
        texts = reader.items.column("text", np.array([row.item for row in rows])).tolist()
        bounds = [(row.position - context, row.position + context + 1, len(row.activations)) for row in rows]
        windows = [np.arange(max(0, first), min(last, n)) for first, last, n in bounds]
        spans = reader.spans(np.concatenate([row.start + window for row, window in zip(rows, windows, strict=True)]))
        ends = np.cumsum([len(window) for window in windows])[:-1]
        parts: Sequence[Array | None] = [None] * len(rows) if spans is None else np.split(spans, ends)
        for example, row, text, window, part in zip(shown, rows, texts, windows, parts, strict=True):
            example.update(_text(row, text, window, part))
        return
    for example in shown:
        if is_image(example["key"]):
            example["image"] = picture(store, view, example["item"], example["key"])


def add_content(store: StoreView, view: SetView, hits: Sequence[dict[str, Any]]) -> None:
    """The key of each hit's item, and its image or the start of its text."""
    items, names = np.array([hit["item"] for hit in hits], np.int64), view.reader.items.names()
    columns = {name: view.reader.items.column(name, items).tolist() for name in ("key", "text") if name in names}
    for i, hit in enumerate(hits):
        hit["key"] = columns["key"][i] if "key" in columns else str(hit["item"])
        if "text" in columns:
            hit["text"] = columns["text"][i][:400]
        elif is_image(hit["key"]):
            hit |= {"image": picture(store, view, hit["item"], hit["key"]), "heat": []}


def _text(row: Row, text: str, window: Array, spans: Array | None) -> dict[str, Any]:
    """A part of a text as runs: the tokens of a window with their activations, and the text between them."""
    if spans is None or not len(window):
        shown = text[:400]
        cut = "…" if len(text) > len(shown) else ""
        return {"tokens": [_run(shown + cut)], "more": bool(cut)}
    spans = np.clip(spans, 0, len(text))
    done = 0 if window[0] == 0 else int(spans[:, 0].min())
    runs = [_run("…")] if done else []
    for position, (begin, end) in zip(window.tolist(), spans.tolist(), strict=True):
        if begin > done:
            runs.append(_run(text[done:begin]))
        shown = text[max(begin, done) : end]
        if shown or row.activations[position]:
            runs.append(_run(shown or "∅", position, float(row.activations[position])))
        done = max(done, end)
    last = window[-1] == len(row.activations) - 1
    rest = text[done:] if last else "…" if done < len(text) else ""
    runs += [_run(rest)] if rest else []
    return {"tokens": runs, "more": not last or window[0] > 0}


def _run(text: str, position: int | None = None, activation: float = 0.0) -> dict[str, Any]:
    return {"position": position, "text": text, "activation": activation}


def picture(store: StoreView, view: SetView, item: int, key: str) -> dict[str, Any]:
    """Address and geometry of an item's image; ``url`` is None where there is no readable file."""
    seen = ImageView.of_any(view.reader)
    result: dict[str, Any] = {"url": None, "width": 4, "height": 3, "box": [0, 0, 1, 1], "grid": None}
    result |= {"assumed_squashed": False, "missing": None}
    try:
        file = find_image(view.reader, key, store.images)
        wide, high = store.thumbnails.shape(file, turned=is_turned(view.reader))
    except (SaestoreError, OSError) as error:
        return {**result, "missing": str(error)}
    result |= {"url": store.links.image(view.path, item, 320), "width": wide, "height": high}
    if seen.patches is not None:
        box = seen.box(wide, high)
        result |= {"box": [box.left, box.top, box.right, box.bottom], "grid": list(seen.patches.at(item).grid)}
        result["assumed_squashed"] = seen.assumed and wide != high
    return result


ITEMS = ("where", "limit", "offset")
ITEM = ("position", "feature", "n", "concept")
_MOST_TOKENS = 4000  # of an item that is shown whole


def items_page(store: StoreView, view: SetView, asked: Parameters) -> Page:
    """The table of items, a page of it."""
    where, items = asked.text("where"), view.reader.items
    ids = items.where(where) if where else np.arange(view.reader.n_items)
    shown = ids[asked.window(50, MOST_ROWS)]
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
        **asked.given,
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
    check_number("item", item, reader.n_items)
    start, stop = _item_range(view, item)
    position = asked.optional("position", max(0, stop - start - 1))
    if position is not None and start == stop:
        raise NotFoundError(f"item {item} has no sample.", code="no-samples")
    feature = asked.optional("feature", reader.shape[1] - 1)
    example = _of_item(store, view, item, feature=feature, position=position, concept=asked.text("concept"))
    key, number = ("item", item) if position is None else ("sample", start + position)
    best = reader.top_features(**{key: number}, n=n)
    columns = {"feature": best.feature, "activation": best.activation, "position": best.sample - start}
    data: dict[str, Any] = {
        "set": view.path,
        "item": item,
        "key": example["key"],
        "n_samples": stop - start,
        **asked.given,
        "sample": None if position is None else start + position,
        "n_items": reader.n_items,
        "columns": {name: _cell(view, name, item) for name in reader.items.columns if name not in ("key", "text")},
        "example": example,
        "features": view.named_rows(columns),
        "sample_concepts": list(reader.concept_names("sample"))[:100],
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
