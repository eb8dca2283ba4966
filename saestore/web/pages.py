"""The first page, of a store, the page of a set, and the search."""

from __future__ import annotations

import re
import shlex
from typing import Any

import numpy as np

from saestore.analysis.search import search
from saestore.errors import InvalidInputError, SaestoreError
from saestore.format import SetAttributes
from saestore.query.html import l0, sae_name, size, state
from saestore.storage import read_attributes
from saestore.vocabulary import LEVELS
from saestore.web.items import add_content
from saestore.web.request import Parameters
from saestore.web.tables import SHOWN_STATISTICS, density_of, feature_row
from saestore.web.view import EDITABLE, Page, SetView, StoreView, shortened


def store_page(store: StoreView, asked: Parameters) -> Page:  # noqa: ARG001
    """All sets: sizes, SAE, and the progress of those that are being built."""
    paths, damaged = store.paths()
    sets = []
    for path in paths:
        try:
            a = read_attributes(store.root, path)
        except SaestoreError as error:
            damaged[path] = str(error)
        else:
            sets += [] if a is None else [{"set": path, **_facts(a), "sae": sae_name(a)}]
    data = {
        "store": store.location,
        "sets": sets,
        "damaged": damaged,
        "python": f"store = saestore.open({store.location!r})",
        "command": shlex.join(["saestore", "info", "--store", store.location]),
    }
    return Page("store.html", "Activation sets", data, moves=not all(each["complete"] for each in sets))


def _facts(a: SetAttributes) -> dict[str, Any]:
    known = {name: getattr(a, name) for name in ("n_samples", "n_features", "n_items", "nnz", "complete")}
    return {**known, "l0": l0(a), "state": state(a)}


def set_page(store: StoreView, view: SetView, asked: Parameters) -> Page:  # noqa: ARG001
    """A set: sizes, provenance, the density of firing rates, and where to go from here."""
    reader, a = view.reader, view.reader.attributes
    rates = view.statistics["frac_nonzero"]
    best = np.argsort(-view.statistics["n_active"], kind="stable")[:10]
    data = {
        "set": view.path,
        **_facts(a),
        "dead_features": int((view.statistics["n_active"] == 0).sum()),
        "stored": size(a.stored_bytes),
        "dtype": a.dtype,
        "sae": dict(a.sae),
        "source": dict(a.source),
        "density": density_of(rates),
        "splits": view.splits,
        "concepts": {"item": reader.concept_names("item")[:200], "sample": reader.concept_names("sample")[:200]},
        "columns": {name: getattr(reader, name).names() for name in ("items", "samples", "features")},
        "busiest": [feature_row(view, f, SHOWN_STATISTICS) for f in best.tolist()],
        "others": [path for path in store.paths()[0] if path != view.path],
        **store.copies(view.path, "", "info", view.path),
    }
    return Page("set.html", view.path, data, moves=not a.complete)


SEARCH = ("q", "set", "limit", "like", "level")
_TERM = re.compile(r"([-+]?)\s*(?:(\d{1,9}(?:\.\d{1,9})?)\s*\*\s*)?(\d{1,9})")
_ROW = re.compile(r"(item|sample):(\d{1,15})", re.ASCII)
_SUM = re.compile(rf"\s*{_TERM.pattern}(?:\s*[-+]\s*(?:\d{{1,9}}(?:\.\d{{1,9}})?\s*\*\s*)?\d{{1,9}}){{0,99}}\s*")


def search_page(store: StoreView, asked: Parameters) -> Page:
    """Words in the names, notes and explanations of features, and in the keys and texts of items."""
    words, limit, path = asked.text("q").strip(), asked.whole("limit", 20, 1, 200), asked.text("set")
    like, level = asked.text("like").strip(), asked.choice("level", LEVELS, "item")
    paths, weights = store.paths()[0], _weights(words)
    needs_set = bool(weights) and not path and len(paths) > 1
    data: dict[str, Any] = {**asked.given, "q": words, "set_paths": paths, "needs_set": needs_set, "hits": None}
    if (like or weights) and not needs_set:
        data |= _nearest(store, path, like or weights, level, limit)
        return Page("search.html", f"search: {like or words}", {**data, "sets": []})
    found = []
    for each in [path] if path else paths if words and not needs_set else []:
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
