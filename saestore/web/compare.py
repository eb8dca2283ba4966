"""Two sets over the same samples: the best matches of all features, of the features of a page, or of one."""

from __future__ import annotations

from typing import Any

import numpy as np

from saestore.query.posting_lists import one_list
from saestore.query.results import SimilarFeatures
from saestore.query.similarity import METRICS, WITH_DOT, check_same_samples, overlap_of_list, ranked
from saestore.web.request import Parameters
from saestore.web.view import MOST_HELD, MOST_ROWS, Page, SetView, StoreView

__all__ = ["COMPARE", "compare_page", "is_held", "matches_of", "most_like"]

Array = np.ndarray[Any, Any]

COMPARE = ("other", "metric", "limit", "offset")
_LIVE_PAIRS = 1 << 26  # features of two sets whose pairs are compared while a page waits
_MOST_ONE_BY_ONE = 100  # rows of a page of larger sets
_MOST_SAMPLES = 1 << 18  # of all features of such a page
_RARE = 1000  # samples whose rows are read quickly
_MOST_POINTS, _MOST_UNMATCHED = 1500, 100


def compare_page(store: StoreView, view: SetView, asked: Parameters) -> Page:
    """Two sets over the same samples: the best match of every feature, and those that have none.

    Of sets with many features it is found for the features of the page only, which the page states.
    """
    other, metric = asked.text("other"), asked.choice("metric", METRICS, "correlation")
    limit, offset = asked.whole("limit", 50, 1, MOST_ROWS), asked.whole("offset", 0, 0, 1 << 40)
    question = f"acts.compare(saestore.open({store.location!r})[{other!r}], {metric!r})" if other else ""
    words = ["compare", view.path, other, "--metric", metric] if other else ["info", view.path]
    data: dict[str, Any] = {
        "set": view.path,
        "other": other or None,
        "metric": metric,
        "limit": limit,
        "offset": offset,
        "choices": [path for path in store.paths()[0] if path != view.path],
        "partial": False,
        "n_pairs": None,
        "n_matches": 0,
        "n_unmatched": None,
        "unmatched": [],
        "rows": [],
        "points": {},
        **store.copies(view.path, question, *words),
    }
    if other:
        theirs = store.open(other)
        _check(view, theirs)
        data["n_pairs"] = view.reader.shape[1] * theirs.reader.shape[1]
        find = _all if data["n_pairs"] <= _LIVE_PAIRS else _one_by_one
        data |= find(view, theirs, metric, limit, offset)
    return Page("compare.html", f"compare · {view.path}", data)


def _check(view: SetView, theirs: SetView) -> None:
    """Refuse sets over different samples; what was found is remembered."""
    view.remember(("same samples", theirs.path, theirs.tag), lambda: check_same_samples(view.reader, theirs.reader))


def _all(view: SetView, theirs: SetView, metric: Any, limit: int, offset: int) -> dict[str, Any]:
    """The matches of all features, the best first."""
    matches = view.remember(
        ("compare", theirs.path, theirs.tag, metric), lambda: view.reader.compare(theirs.reader, metric)
    )
    best = matches[np.argsort(-matches.score, kind="stable")]
    some = best[:: max(1, len(best) // _MOST_POINTS)]
    alive = view.statistics["n_active"] > 0
    alive[matches.feature] = False
    alone = np.flatnonzero(alive)
    alone = alone[np.argsort(-view.statistics["n_active"][alone], kind="stable")]
    return {
        "rows": [_row(view, theirs, row) for row in best[offset : offset + limit]],
        "n_matches": len(best),
        "n_unmatched": len(alone),
        "unmatched": [{"feature": f, "name": view.name_of(f) or None} for f in alone[:_MOST_UNMATCHED].tolist()],
        "points": _points(view, theirs, some.feature, some.other_feature),
    }


def _one_by_one(view: SetView, theirs: SetView, metric: Any, limit: int, offset: int) -> dict[str, Any]:
    """The match of each feature of a page, in the order of their numbers."""
    n_active = view.statistics["n_active"]
    order = np.flatnonzero(n_active)
    shown = order[offset : offset + min(limit, _MOST_ONE_BY_ONE)]
    shown = shown[: max(1, int(np.searchsorted(np.cumsum(n_active[shown]), _MOST_SAMPLES)))]
    rows = [
        _row(view, theirs, {"feature": f, **match})
        for f in shown.tolist()
        for match in matches_of(view, theirs, f, metric, 1)
    ]
    columns = (np.array([row[name] for row in rows], np.int64) for name in ("feature", "other_feature"))
    points = _points(view, theirs, *columns)
    return {"partial": True, "limit": max(1, len(shown)), "rows": rows, "n_matches": len(order), "points": points}


def matches_of(view: SetView, theirs: SetView, feature: int, metric: Any, n: int) -> list[dict[str, Any]]:
    """The features of another set that are most like one, best first: `acts.compare` for a single feature."""
    _check(view, theirs)
    found = most_like(view, theirs, feature, metric, n)
    return [
        {"other_feature": f, "other_name": theirs.name_of(f) or None, "score": score, "n_both": n_both}
        for f, score, n_both in zip(*(column.tolist() for column in found.columns.values()), strict=True)
    ]


def is_held(view: SetView, metric: Any) -> bool:
    """Whether a metric needs no more than the ids of a set, and these are not too many to be held."""
    return metric not in WITH_DOT and view.reader.nnz <= MOST_HELD


def most_like(view: SetView, theirs: SetView, feature: int, metric: Any, n: int) -> SimilarFeatures:
    """The features of a set that are most like one of another, or of the same set, best first.

    Counts come from ids that are held, unless the set is large or the feature rare; else rows are read.
    """
    lists, dot = one_list(view.reader.segments, feature, view.reader.dtype), None
    if is_held(theirs, metric) and len(lists.samples) > _RARE:
        n_both = theirs.held_ids.count(lists.samples)
    else:
        n_both, dot = overlap_of_list(metric, theirs.reader.view(), lists)
    if view is theirs:
        n_both[feature] = 0
    return ranked(metric, n, (view.sizes, lists.features), theirs.sizes, (n_both, dot))


def _row(view: SetView, theirs: SetView, match: dict[str, Any]) -> dict[str, Any]:
    feature, other = match["feature"], match["other_feature"]
    return {
        **match,
        "name": view.name_of(feature) or None,
        "other_name": theirs.name_of(other) or None,
        "frac_nonzero": view.statistics["frac_nonzero"][feature].item(),
        "other_frac_nonzero": theirs.statistics["frac_nonzero"][other].item(),
    }


def _points(view: SetView, theirs: SetView, features: Array, others: Array) -> dict[str, Array]:
    rates, other_rates = (each.statistics["frac_nonzero"] for each in (view, theirs))
    return {"feature": features, "across": rates[features], "down": other_rates[others]}
