"""The pages of a store, of a set and its tables, of a concept, of two sets, and of a search."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from saestore.analysis.search import search
from saestore.errors import InvalidInputError, NotFoundError, SaestoreError, did_you_mean
from saestore.query.html import l0, sae_name, size, state
from saestore.query.similarity import METRICS
from saestore.scoring.concept_scores import concept_scores
from saestore.storage import stored_bytes
from saestore.tables.column import Column
from saestore.vocabulary import LEVELS, SCORES
from saestore.web.feature import add_content, python_of
from saestore.web.request import Parameters
from saestore.web.view import EDITABLE, Page, SetView, StoreView, value_at
from saestore.writing.writer import read_attributes

__all__ = ["COMPARE", "CONCEPT", "FEATURES", "ITEMS", "SEARCH", "compare_page", "concept_page", "concepts_page",
           "features_page", "items_page", "search_page", "set_page", "store_page"]  # fmt: skip

Array = np.ndarray[Any, Any]
Level = Literal["item", "sample"]

FEATURES = ("sort", "where", "limit", "offset", "concept")
ITEMS = ("where", "limit", "offset", "label")
CONCEPT = ("by", "choose", "show", "n")
COMPARE = ("other", "metric", "limit", "offset", "feature")
SEARCH = ("q", "set", "limit", "like", "level")
SHOWN_STATISTICS = ("n_active", "frac_nonzero", "mean_active", "max")
_MOST_ROWS = 500
_LIVE_PAIRS = 1 << 26  # features of two sets whose pairs are compared while a page waits
_TERM = re.compile(r"([-+]?)\s*(?:(\d{1,9}(?:\.\d{1,9})?)\s*\*\s*)?(\d{1,9})")
_ROW = re.compile(r"(item|sample):(\d{1,15})", re.ASCII)
_SUM = re.compile(rf"\s*{_TERM.pattern}(?:\s*[-+]\s*(?:\d{{1,9}}(?:\.\d{{1,9}})?\s*\*\s*)?\d{{1,9}}){{0,99}}\s*")
_BY = ("roc_auc", "average_precision", "f1")


def store_page(store: StoreView, asked: Parameters) -> Page:  # noqa: ARG001
    """All sets: sizes, SAE, and the progress of those that are being built."""
    paths, damaged = store.paths()
    sets = []
    for path in paths:
        try:
            a = read_attributes(store.root, path)
        except SaestoreError as error:
            damaged[path] = str(error)
            continue
        if a is not None:
            sets.append(
                {
                    "set": path,
                    "n_samples": a.n_samples,
                    "n_features": a.n_features,
                    "n_items": a.n_items,
                    "nnz": a.nnz,
                    "l0": l0(a),
                    "sae": sae_name(a),
                    "state": state(a),
                    "complete": a.complete,
                }
            )
    data = {
        "store": store.location,
        "sets": sets,
        "damaged": damaged,
        "python": f"store = saestore.open({store.location!r})",
        "command": shlex.join(["saestore", "info", "--store", store.location]),
    }
    return Page("store.html", "Activation sets", data)


def set_page(store: StoreView, view: SetView, asked: Parameters) -> Page:  # noqa: ARG001
    """A set: sizes, provenance, the density of firing rates, and where to go from here."""
    reader, a = view.reader, view.reader.attributes
    rates = view.statistics["frac_nonzero"]
    best = np.argsort(-view.statistics["n_active"], kind="stable")[:10]
    data = {
        "set": view.path,
        "n_samples": reader.shape[0],
        "n_features": reader.shape[1],
        "n_items": reader.n_items,
        "nnz": reader.nnz,
        "l0": l0(a),
        "dead_features": int((view.statistics["n_active"] == 0).sum()),
        "stored": size(stored_bytes(reader.group)),
        "dtype": a.dtype,
        "state": state(a),
        "complete": a.complete,
        "sae": dict(a.sae),
        "source": dict(a.source),
        "density": density_of(rates),
        "splits": view.splits,
        "concepts": {"item": reader.concept_names("item")[:200], "sample": reader.concept_names("sample")[:200]},
        "columns": {name: getattr(reader, name).names() for name in ("items", "samples", "features")},
        "busiest": [_feature_row(view, f, SHOWN_STATISTICS) for f in best.tolist()],
        "others": [path for path in store.paths()[0] if path != view.path],
        "python": python_of(store, view.path),
        "command": shlex.join(["saestore", "info", view.path, "--store", store.location]),
    }
    return Page("set.html", view.path, data)


def density_of(rates: Array) -> dict[str, list[float]]:
    """A histogram of the logarithms of the firing rates that are not 0."""
    alive = rates[rates > 0]
    if not len(alive):
        return {"left": [], "right": [], "count": []}
    counts, edges = np.histogram(np.log10(alive), 40)
    return {"left": edges[:-1].tolist(), "right": edges[1:].tolist(), "count": counts.tolist()}


def _feature_row(view: SetView, feature: int, statistics: Sequence[str]) -> dict[str, Any]:
    row = {name: view.statistics[name][feature].item() for name in statistics}
    return {"feature": feature, **view.known_of(feature), **row}


def features_page(store: StoreView, view: SetView, asked: Parameters) -> Page:
    """The table of features: filtered by a condition, sorted by a column, a page of it."""
    limit, offset = asked.whole("limit", 50, 1, _MOST_ROWS), asked.whole("offset", 0, 0, 1 << 40)
    where, sort = asked.text("where"), asked.text("sort", "-n_active")
    concept = asked.text("concept")
    extra = {f"roc_auc of {concept}": _scores_of(view, concept)} if concept else {}
    ids = view.reader.features.where(where) if where else np.arange(view.reader.shape[1])
    ids = _sorted(view, ids, sort, extra)
    rows = []
    for f in ids[offset : offset + limit].tolist():
        row = _feature_row(view, f, SHOWN_STATISTICS)
        rows.append({**row, **{name: values[f].item() for name, values in extra.items()}})
    columns = ["feature", *view.columns, *SHOWN_STATISTICS, *extra]
    question = f"acts.features.where({where!r})" if where else "acts.features.to_pandas()"
    data = {
        "set": view.path,
        "where": where or None,
        "sort": sort,
        "limit": limit,
        "offset": offset,
        "concept": concept or None,
        "n_features": view.reader.shape[1],
        "n_matching": len(ids),
        "columns": columns,
        "density": density_of(view.statistics["frac_nonzero"][ids]),
        "rows": rows,
        "known": [*view.columns, *view.statistics],
        "python": f"{python_of(store, view.path)}\n{question}",
        "command": shlex.join(["saestore", "stats", view.path, "--store", store.location]),
    }
    return Page("features.html", f"features · {view.path}", data)


def _scores_of(view: SetView, concept: str) -> Array:
    """ROC AUC of every feature with one concept."""
    level = level_of(view, concept)
    scores = view.remember(("scores", concept), lambda: concept_scores(view.reader, level, concepts=[concept]))
    values: Array = scores["roc_auc"].to_numpy()[0]
    return values


def level_of(view: SetView, concept: str) -> Level:
    """The level of a concept, items first."""
    levels: tuple[Level, ...] = ("item", "sample")
    for level in levels:
        if concept in view.reader.concept_names(level):
            return level
    known = view.reader.concept_names()
    listed = ", ".join(known[:10]) or "none"
    message = f"{view.path} has no concept {concept[:200]!r}. {did_you_mean(concept[:200], known)}There are {listed}."
    raise NotFoundError(message, code="unknown-concept")


def _sorted(view: SetView, ids: Array, sort: str, extra: dict[str, Array]) -> Array:
    """Ids by a column, descending with a minus before its name; unknown values come last, ties by id."""
    name, descending = sort.removeprefix("-"), sort.startswith("-")
    known = {"feature": np.arange(view.reader.shape[1]), **view.statistics, **extra}
    if name in view.columns:
        column: Column = view.columns[name]
        values, unknown = column.values[ids], ~column.known[ids] if column.known is not None else None
    elif name in known:
        values, unknown = known[name][ids], None
    elif name in EDITABLE:
        return ids  # nothing is known of any feature
    else:
        options = ["feature", *view.columns, *view.statistics, *extra]
        message = f"sort={sort[:80]!r}: there is no column {name[:80]!r}. {did_you_mean(name[:80], options)}"
        raise InvalidInputError(f"{message}There are {', '.join(options)}.", code="bad-parameter")
    if values.dtype.kind == "f":
        unknown = np.isnan(values)
    unknown = np.zeros(len(ids), bool) if unknown is None else unknown
    ranks = np.unique(values, return_inverse=True)[1]  # of texts and numbers alike
    return ids[np.lexsort((ids, -ranks if descending else ranks, unknown))]


def items_page(store: StoreView, view: SetView, asked: Parameters) -> Page:
    """The table of items, a page of it."""
    limit, offset, where = asked.whole("limit", 50, 1, _MOST_ROWS), asked.whole("offset", 0, 0, 1 << 40), ""
    where, items = asked.text("where"), view.reader.items
    ids = items.where(where) if where else np.arange(view.reader.n_items)
    shown = ids[offset : offset + limit]
    names = [name for name in items.names() if name != "key"][:8]
    columns = {name: view.reader.read_column("items", name, shown) for name in ["key", *names] if name in items}
    rows = [
        {"item": item, **{name: _short(value_at(column, i)) for name, column in columns.items()}}
        for i, item in enumerate(shown.tolist())
    ]
    data = {
        "set": view.path,
        "where": where or None,
        "limit": limit,
        "offset": offset,
        "n_items": view.reader.n_items,
        "n_matching": len(ids),
        "columns": ["item", *columns],
        "rows": rows,
        "known": items.columns,
        "python": f"{python_of(store, view.path)}\nacts.items.where({where or 'item >= 0'!r})",
        "command": shlex.join(["saestore", "info", view.path, "--store", store.location]),
    }
    return Page("items.html", f"items · {view.path}", data)


def _short(value: Any) -> Any:
    return value if not isinstance(value, str) or len(value) <= 200 else value[:200] + "…"


def concepts_page(store: StoreView, view: SetView, asked: Parameters) -> Page:  # noqa: ARG001
    """All concepts, with how many items or samples have them."""
    rows = []
    for level in LEVELS:
        labels = view.reader.labels(level)
        positive = np.diff(labels.matrix.indptr) if len(labels.names) else np.zeros(0, np.int64)
        unknown = np.zeros_like(positive) if labels.unknown is None else np.diff(labels.unknown.indptr)
        for name, yes, open_ in zip(labels.names, positive.tolist(), unknown.tolist(), strict=True):
            counts = {"n_positive": yes, "n_negative": labels.n_rows - yes - open_, "n_unknown": open_}
            rows.append({"concept": name, "level": level, **counts})
    data = {
        "set": view.path,
        "rows": rows,
        "python": f"{python_of(store, view.path)}\nacts.concepts.names()",
        "command": shlex.join(["saestore", "concepts", view.path, "--store", store.location]),
    }
    return Page("concepts.html", f"concepts · {view.path}", data)


def concept_page(store: StoreView, view: SetView, name: str, asked: Parameters) -> Page:
    """The best features of a concept, chosen on one part of the items and shown on another."""
    level = level_of(view, name)
    by, n = asked.choice("by", _BY, "roc_auc"), asked.whole("n", 20, 1, 200)
    split = "test" in view.splits and len(view.splits) > 1
    choose = asked.text("choose", 'split != "test"' if split else "")
    show = asked.text("show", 'split == "test"' if split else "")
    chosen = view.remember(
        ("concept", name, choose),
        lambda: concept_scores(view.reader, level, where=choose or None, concepts=[name]),
    )
    values = chosen[by].to_numpy()[0]
    order = np.argsort(np.where(np.isnan(values), np.inf, -values), kind="stable")
    best = [f for f in order[:n].tolist() if not np.isnan(values[f])]
    rows: list[dict[str, Any]] = []
    if best:
        shown = concept_scores(view.reader, level, where=show or None, concepts=[name], features=best)
        for i, f in enumerate(best):
            row = {score: shown[score].to_numpy()[0, i].item() for score in SCORES}
            rows.append({"feature": f, "name": view.name_of(f) or None, "chosen_by": values[f].item(), **row})
    else:
        shown = concept_scores(view.reader, level, where=show or None, concepts=[name], features=[0])
    counts = {key: int(shown[key].values[0]) for key in ("n_positive", "n_negative")}
    labels = view.reader.labels(level)
    column = view.reader.read_column("items" if level == "item" else "samples", name)
    data = {
        "set": view.path,
        "concept": name,
        "level": level,
        "by": by,
        "n": n,
        "choose": choose or None,
        "show": show or None,
        "same": choose == show,
        "n_positive": int((column.values & (True if column.known is None else column.known)).sum()),
        "n_unknown": 0 if column.unknown is None else int(column.unknown.sum()),
        "n_rows": labels.n_rows,
        "shown_on": counts,
        "rows": rows,
        "python": f"{python_of(store, view.path)}\nacts.concepts.scores({level!r}, where={choose or None!r}, "
        f"concepts={name!r})",
        "command": shlex.join(
            ["saestore", "concepts", view.path, "--concept", name, *(["--where", choose] if choose else []),
             "--level", level, "--store", store.location]
        ),
    }  # fmt: skip
    return Page("concept.html", f"{name} · {view.path}", data)


def compare_page(store: StoreView, view: SetView, asked: Parameters) -> Page:
    """Two sets over the same samples: the best match of every feature, and those that have none."""
    other, metric = asked.text("other"), asked.choice("metric", METRICS, "correlation")
    limit, offset = asked.whole("limit", 50, 1, _MOST_ROWS), asked.whole("offset", 0, 0, 1 << 40)
    data: dict[str, Any] = {
        "set": view.path,
        "other": other or None,
        "metric": metric,
        "limit": limit,
        "offset": offset,
        "choices": [path for path in store.paths()[0] if path != view.path],
        "rows": [],
        "n_matches": 0,
        "n_unmatched": None,
        "points": [],
        "python": f"{python_of(store, view.path)}\nacts.compare(store[{other!r}], {metric!r})",
        "command": shlex.join(["saestore", "info", view.path, "--store", store.location]),
    }
    if other:
        theirs = store.open(other)
        pairs = view.reader.shape[1] * theirs.reader.shape[1]
        if pairs > _LIVE_PAIRS:
            raise InvalidInputError(
                f"The two sets have {pairs:,} pairs of features; a page compares at most {_LIVE_PAIRS:,}. "
                "Use acts.compare(other) in Python.",
                code="too-many-pairs",
            )
        data |= _matches(view, theirs, metric, limit, offset)
    return Page("compare.html", f"compare · {view.path}", data)


def _matches(view: SetView, theirs: SetView, metric: Any, limit: int, offset: int) -> dict[str, Any]:
    matches = view.remember(
        ("compare", theirs.path, theirs.tag, metric), lambda: view.reader.compare(theirs.reader, metric)
    )
    best = matches[np.argsort(-matches.score, kind="stable")]
    alive = int((view.statistics["n_active"] > 0).sum())
    mine, others = view.statistics["frac_nonzero"], theirs.statistics["frac_nonzero"]
    rows = [
        {**row, "name": view.name_of(row["feature"]) or None,
         "other_name": theirs.name_of(row["other_feature"]) or None,
         "frac_nonzero": mine[row["feature"]].item(), "other_frac_nonzero": others[row["other_feature"]].item()}
        for row in best[offset : offset + limit]
    ]  # fmt: skip
    some = best[:: max(1, len(best) // 1500)]
    points = {"feature": some.feature, "across": mine[some.feature], "down": others[some.other_feature]}
    return {"rows": rows, "n_matches": len(best), "n_unmatched": alive - len(best), "points": points}


def search_page(store: StoreView, asked: Parameters) -> Page:
    """Words in the names, notes and explanations of features, and in the keys and texts of items."""
    words, limit, path = asked.text("q"), asked.whole("limit", 20, 1, 200), asked.text("set")
    like = asked.text("like")
    data: dict[str, Any] = {"q": words, "set": path or None, "limit": limit, "like": like or None, "hits": None}
    data["level"] = asked.choice("level", LEVELS, "item")
    weights = _weights(words)
    if like or weights:
        data |= _nearest(store, path, like or weights, data["level"], limit)
        return Page("search.html", f"search: {like or words}", {**data, "sets": []})
    found = []
    for each in [path] if path else store.paths()[0] if words else []:
        try:
            found.append(_hits(store.open(each), words, limit))
        except SaestoreError:
            if path:
                raise
    data |= {
        "sets": [each for each in found if each["features"] or each["items"]],
        "python": f"acts.features.search({words!r}); acts.items.search({words!r})",
        "command": shlex.join(["saestore", "info", "--store", store.location]),
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
    best = search(view.reader, n=limit, level=level, **asked)
    names = ("sample", "item", "position", "score")
    columns = [getattr(best, name).tolist() for name in names]
    hits = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    add_content(store, view, hits)
    question = ", ".join(f"{name}={value!r}" for name, value in asked.items())
    return {
        "set": view.path,
        "hits": hits,
        "python": f"{python_of(store, view.path)}\nacts.search({question}, n={limit}, level={level!r})",
        "command": shlex.join(["saestore", "info", view.path, "--store", store.location]),
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
            {"item": item, **{name: _short(values[i]) for name, values in columns.items()}}
            for i, item in enumerate(items[:limit])
        ],
    }  # fmt: skip
