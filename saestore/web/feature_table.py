"""The table of features: filtered by a condition, sorted by any column, scored with a concept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, TooLargeError, did_you_mean
from saestore.progress import time_left
from saestore.tables.column import Column
from saestore.web.concepts import BEST, scores_of
from saestore.web.request import Parameters
from saestore.web.view import EDITABLE, MOST_ROWS, Page, SetView, StoreView, plain

__all__ = ["FEATURES", "SHOWN_STATISTICS", "density_of", "feature_row", "features_page"]

Array = np.ndarray[Any, Any]

FEATURES = ("sort", "where", "limit", "offset", "concept")
_PATIENCE = 5.0  # seconds that a page waits for the scores of all features
SHOWN_STATISTICS = ("n_active", "frac_nonzero", "mean_active", "max")


def density_of(rates: Array) -> dict[str, list[float]]:
    """A histogram of the logarithms of the firing rates that are not 0."""
    alive = rates[rates > 0]
    if not len(alive):
        return {"left": [], "right": [], "count": []}
    counts, edges = np.histogram(np.log10(alive), 40)
    return {"left": edges[:-1].tolist(), "right": edges[1:].tolist(), "count": counts.tolist()}


def feature_row(view: SetView, feature: int, statistics: Sequence[str]) -> dict[str, Any]:
    """What a table shows of a feature."""
    row = {name: view.statistics[name][feature].item() for name in statistics}
    return {"feature": feature, **view.known_of(feature), **row}


def features_page(store: StoreView, view: SetView, asked: Parameters) -> Page:
    """The table of features: filtered by a condition, sorted by a column, a page of it."""
    limit, offset = asked.whole("limit", 50, 1, MOST_ROWS), asked.whole("offset", 0, 0, 1 << 40)
    where, sort = asked.text("where"), asked.text("sort", "-n_active")
    concept = asked.text("concept")
    if not concept and sort.removeprefix("-") in ("roc_auc", "best concept") and view.reader.concept_names():
        concept = BEST  # the columns that are sorted by
    extra, waiting = _scores(view, concept)
    sort = "-n_active" if waiting and sort.removeprefix("-") not in (*view.columns, *view.statistics) else sort
    ids = view.reader.features.where(where) if where else np.arange(view.reader.shape[1])
    ids = _sorted(view, ids, sort, extra)
    rows = []
    for f in ids[offset : offset + limit].tolist():
        row = feature_row(view, f, SHOWN_STATISTICS)
        rows.append({**row, **{name: plain(values[f]) for name, values in extra.items()}})
    columns = ["feature", *view.columns, *SHOWN_STATISTICS, *extra]
    question = f"acts.features.where({where!r})" if where else "acts.features.to_pandas()"
    data = {
        "set": view.path,
        "where": where or None,
        "sort": sort,
        "limit": limit,
        "offset": offset,
        "concept": concept or None,
        "waiting": waiting,
        "concepts": view.reader.concept_names()[:200],
        "n_features": view.reader.shape[1],
        "n_matching": len(ids),
        "columns": columns,
        "numeric": ["feature", *(name for name in columns if _is_number(view, name, extra))],
        "density": density_of(view.statistics["frac_nonzero"][ids]),
        "rows": rows,
        "known": [*view.columns, *view.statistics],
        **store.copies(view.path, question, "stats", view.path, *(["--feature", where] if where and len(ids) else [])),
    }
    return Page("features.html", f"features · {view.path}", data, moves=waiting)


def _scores(view: SetView, concept: str) -> tuple[dict[str, Array], bool]:
    """The columns of a concept, and whether they are still being computed."""
    if not concept:
        return {}, False
    try:
        return scores_of(view, concept, _PATIENCE if math.isfinite(time_left()) else math.inf), False
    except TooLargeError as error:
        if error.code != "being-computed":
            raise
        return {}, True


def _is_number(view: SetView, name: str, extra: dict[str, Array]) -> bool:
    if name in view.columns:
        return view.columns[name].values.dtype.kind in "iuf"
    return name in view.statistics or (name in extra and extra[name].dtype.kind == "f")


def _sorted(view: SetView, ids: Array, sort: str, extra: dict[str, Array]) -> Array:
    """Ids by a column, descending with a minus before its name; unknown values come last, ties by id."""
    known = {"feature": np.arange(view.reader.shape[1]), **view.statistics, **extra}
    descending = sort.startswith("-") and sort not in (*view.columns, *known)  # a name can begin with a minus
    name = sort.removeprefix("-") if descending else sort
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
