"""What a page shows of samples and items: place, activations of the whole item, image or tokens, masks of concepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, SaestoreError
from saestore.plot.images import ImageView, find_image, is_image, is_turned
from saestore.plot.style import Row, rows_of
from saestore.query.results import TopSamples
from saestore.web.view import SetView, StoreView

__all__ = ["add_content", "describe", "picture"]

Array = np.ndarray[Any, Any]


def describe(
    store: StoreView, view: SetView, feature: int, chosen: TopSamples, *, concept: str, context: int
) -> list[dict[str, Any]]:
    """Examples with all that a page shows of them: place, activations of the whole item, image or tokens."""
    if not len(chosen):
        return []
    rows = rows_of(view.reader, feature, chosen)
    sample, activation = chosen.sample.tolist(), chosen.activation.tolist()
    shown = [{"sample": sample[i], "activation": activation[i], **_place(row)} for i, row in enumerate(rows)]
    for example, row in zip(shown, rows, strict=True):
        active = np.flatnonzero(row.activations)
        example["heat"] = [[int(p), float(row.activations[p])] for p in active]
    if concept:
        _add_masks(view, concept, rows, shown)
    _add_content(store, view, rows, shown, context)
    return shown


def _place(row: Row) -> dict[str, Any]:
    return {"item": row.item, "key": row.key, "split": row.split or None, "position": row.position}


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
        windows = [_window_of(row, context) for row in rows]
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


def _window_of(row: Row, context: int) -> Array:
    first, last = max(0, row.position - context), min(len(row.activations), row.position + context + 1)
    return np.arange(first, last)


def _text(row: Row, text: str, window: Array, spans: Array | None) -> dict[str, Any]:
    """A part of a text as runs: the tokens of a window with their activations, and the text between them."""
    if spans is None or not len(window):
        shown = text[:400]
        cut = "…" if len(text) > len(shown) else ""
        return {"tokens": [{"position": None, "text": shown + cut, "activation": 0.0}], "more": bool(cut)}
    spans = np.clip(spans, 0, len(text))
    done = 0 if window[0] == 0 else int(spans[:, 0].min())
    runs: list[dict[str, Any]] = [{"position": None, "text": "…", "activation": 0.0}] if done else []
    for position, (begin, end) in zip(window.tolist(), spans.tolist(), strict=True):
        if begin > done:
            runs.append({"position": None, "text": text[done:begin], "activation": 0.0})
        shown = text[max(begin, done) : end]
        if shown or row.activations[position]:
            shown = shown or "∅"
            runs.append({"position": position, "text": shown, "activation": float(row.activations[position])})
        done = max(done, end)
    last = window[-1] == len(row.activations) - 1
    rest = text[done:] if last else "…" if done < len(text) else ""
    runs += [{"position": None, "text": rest, "activation": 0.0}] if rest else []
    return {"tokens": runs, "more": not last or window[0] > 0}


def picture(store: StoreView, view: SetView, item: int, key: str) -> dict[str, Any]:
    """Address and geometry of an item's image; ``url`` is None where there is no readable file."""
    try:
        seen = ImageView.of(view.reader, None)
    except InvalidInputError:
        seen = ImageView(None, False)
    result: dict[str, Any] = {"url": None, "width": 4, "height": 3, "box": [0, 0, 1, 1], "grid": None}
    result |= {"assumed_squashed": False, "missing": None}
    try:
        result["width"], result["height"] = store.thumbnails.shape(
            find_image(view.reader, key, store.images), turned=is_turned(view.reader)
        )
        result["url"] = store.links.image(view.path, item, 320)
    except (SaestoreError, OSError) as error:
        result["missing"] = str(error)
        return result
    if seen.patches is not None:
        box = seen.box(result["width"], result["height"])
        result["box"] = [box.left, box.top, box.right, box.bottom]
        result["grid"] = list(seen.patches.at(item).grid)
        result["assumed_squashed"] = seen.assumed and result["width"] != result["height"]
    return result
