"""The search: words of features and items, weighted sums of features, and samples or items that are most like one."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from saestore.analysis.search import search
from saestore.errors import InvalidInputError, SaestoreError
from saestore.vocabulary import LEVELS
from saestore.web.content import add_content
from saestore.web.request import Parameters
from saestore.web.view import EDITABLE, Page, SetView, StoreView, shortened

__all__ = ["SEARCH", "search_page"]

SEARCH = ("q", "set", "limit", "like", "level")
SHOWN_STATISTICS = ("n_active", "frac_nonzero", "mean_active", "max")
_TERM = re.compile(r"([-+]?)\s*(?:(\d{1,9}(?:\.\d{1,9})?)\s*\*\s*)?(\d{1,9})")
_ROW = re.compile(r"(item|sample):(\d{1,15})", re.ASCII)
_SUM = re.compile(rf"\s*{_TERM.pattern}(?:\s*[-+]\s*(?:\d{{1,9}}(?:\.\d{{1,9}})?\s*\*\s*)?\d{{1,9}}){{0,99}}\s*")


def search_page(store: StoreView, asked: Parameters) -> Page:
    """Words in the names, notes and explanations of features, and in the keys and texts of items."""
    words, limit, path = asked.text("q").strip(), asked.whole("limit", 20, 1, 200), asked.text("set")
    like = asked.text("like").strip()
    data: dict[str, Any] = {"q": words, "set": path or None, "limit": limit, "like": like or None, "hits": None}
    data["level"] = asked.choice("level", LEVELS, "item")
    data["set_paths"], weights = store.paths()[0], _weights(words)
    data["needs_set"] = bool(weights) and not path and len(data["set_paths"]) > 1
    if (like or weights) and not data["needs_set"]:
        data |= _nearest(store, path, like or weights, data["level"], limit)
        return Page("search.html", f"search: {like or words}", {**data, "sets": []})
    found = []
    for each in [path] if path else data["set_paths"] if words and not data["needs_set"] else []:
        try:
            found.append(_hits(store.open(each), words, limit))
        except SaestoreError:
            if path:
                raise
    calls = f"acts.features.search({words!r}), acts.items.search({words!r})"
    question = f"{{path: ({calls}) for path, acts in store.items()}}"
    data |= {
        "sets": [each for each in found if each["features"] or each["items"]],
        "python": f"store = saestore.open({store.location!r})\n{question if words else ''}".rstrip(),
        "command": None,
    }
    return Page("search.html", f"search: {words}" if words else "search", data)


def _weights(words: str) -> dict[int, float]:
    """Features and their weights, of a text such as ``2*123 + 0.5*77 - 9``; none where it is not one."""
    if not _SUM.fullmatch(words) or words.isdigit():
        return {}
    weights: dict[int, float] = {}
    for sign, factor, feature in _TERM.findall(words):
        weights[int(feature)] = weights.get(int(feature), 0.0) + float(f"{sign}{factor or 1}")
    return weights


def _nearest(store: StoreView, path: str, wanted: str | dict[int, float], level: Any, limit: int) -> dict[str, Any]:
    """The samples or items with the largest weighted sum of activations, or the most like one of them."""
    paths = [path] if path else store.paths()[0]
    if len(paths) != 1:
        message = f"Choose a set with set=, one of {', '.join(paths) or 'none'}."
        raise InvalidInputError(message, code="bad-parameter")
    view = store.open(paths[0])
    asked: dict[str, Any] = {"query": wanted}
    if isinstance(wanted, str):
        found = _ROW.fullmatch(wanted)
        if found is None:
            raise InvalidInputError(f"like={wanted[:80]!r}: give item:3 or sample:17.", code="bad-parameter")
        asked = {found[1]: int(found[2])}
    names = ("sample", "item", "position", "score")
    try:
        best = search(view.reader, n=limit, level=level, **asked)
        columns = [getattr(best, name).tolist() for name in names]
    except InvalidInputError as error:
        if error.code != "empty-query":
            raise
        columns = [[]] * len(names)  # nothing is active there
    hits = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    add_content(store, view, hits)
    question = ", ".join(f"{name}={value!r}" for name, value in asked.items())
    return {
        "set": view.path,
        "hits": hits,
        **store.copies(view.path, f"acts.search({question}, n={limit}, level={level!r})"),
    }


def _hits(view: SetView, words: str, limit: int) -> dict[str, Any]:
    reader = view.reader
    number = [int(words)] if words.isascii() and words.isdigit() and len(words) < 10 else []
    features = [f for f in number if f < reader.shape[1]]
    features += [f for f in reader.features.search(words).tolist() if f not in features] if words else []
    items = reader.items.search(words).tolist() if words else []
    names = [name for name in ("key", "text") if name in reader.items]
    columns = {name: reader.items.column(name, np.array(items[:limit], np.int64)).tolist() for name in names}
    return {
        "set": view.path,
        "n_features": len(features),
        "n_items": len(items),
        "features": [
            {"feature": f, **{k: v for k, v in view.known_of(f).items() if k in EDITABLE},
             "frac_nonzero": view.statistics["frac_nonzero"][f].item()}
            for f in features[:limit]
        ],
        "items": [
            {"item": item, **{name: shortened(values[i]) for name, values in columns.items()}}
            for i, item in enumerate(items[:limit])
        ],
    }  # fmt: skip
