"""Two sets over the same samples: the best matches of all features, of the features of a page, or of one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from saestore.analysis.pairs import CANDIDATES, EXACT, OneToOne, one_to_one
from saestore.errors import TooLargeError
from saestore.query.posting_lists import one_list
from saestore.query.results import ResultTable, SimilarFeatures
from saestore.query.similarity import METRICS, WITH_DOT, best_matches, check_same_samples, overlap_of_list, ranked
from saestore.sparse_rows import Array
from saestore.web.request import Parameters
from saestore.web.view import MOST_HELD, MOST_ROWS, Page, SetView, StoreView

COMPARE = ("other", "metric", "match", "limit", "offset")
MATCH = ("best", "one-to-one")
BY = ("correlation", "cosine", "jaccard")  # metrics of `acts.match`
_LIVE_PAIRS = 1 << 26  # features of two sets whose pairs a page waits for
_MOST_PRODUCTS = 1 << 33  # of non-zeros of two sets that are compared, beside the pages
_HELD = 1 << 22  # non-zeros of the other set that are held meanwhile
_PATIENCE = 0.2  # seconds that a page waits for more pairs
_MOST_ONE_BY_ONE = 100  # rows of a page meanwhile
_MOST_SAMPLES = 1 << 18  # of all features of such a page
_RARE = 1000  # samples whose rows are read quickly
_MOST_POINTS, _MOST_UNMATCHED = 1500, 100


def compare_page(store: StoreView, view: SetView, asked: Parameters) -> Page:
    """Two sets over the same samples: the best match of every feature, or pairs one to one, and those without.

    Large sets are compared beside the pages. Meanwhile, and of sets that are too large, the best match is found for the
    features of the page only, which the page states.
    """
    other, metric = asked.text("other"), asked.choice("metric", METRICS, "correlation")
    match = asked.choice("match", MATCH, "best")
    window = asked.window(50, MOST_ROWS)
    theirs = f"saestore.open({store.location!r})[{other!r}]"
    paired = match == "one-to-one" and metric in BY
    question = f"acts.match({theirs}, {metric!r})" if paired else f"acts.compare({theirs}, {metric!r})"
    words = [] if paired else ["compare", view.path, other, "--metric", metric] if other else ["info", view.path]
    data: dict[str, Any] = {
        "set": view.path,
        **asked.given,
        "choices": [path for path in store.paths()[0] if path != view.path],
        **dict.fromkeys(("partial", "waiting"), False),
        **dict.fromkeys(("n_pairs", "n_unmatched", "n_other_unmatched", "mean_score", "share")),
        "n_matches": 0,
        "rows": [],
        "unmatched": [],
        "other_unmatched": [],
        "points": {},
        **store.copies(view.path, question if other else "", *words),
    }
    if other:
        data |= _compared(view, store.open(other), metric, match, window)
    return Page("compare.html", f"compare · {view.path}", data, moves=data["waiting"])


def _compared(view: SetView, theirs: SetView, metric: Any, match: str, window: slice) -> dict[str, Any]:
    """The matches of all features, or while these are computed of the features of the page."""
    _check(view, theirs)
    n_pairs = view.reader.shape[1] * theirs.reader.shape[1]
    products = view.reader.nnz * theirs.reader.nnz // max(1, view.reader.shape[0])
    too_many = products > _MOST_PRODUCTS
    if not too_many:
        patience = math.inf if n_pairs <= _LIVE_PAIRS else _PATIENCE
        key = ("compare", theirs.path, theirs.tag, metric)
        try:
            found = view.remember(key, lambda: _matches(view, theirs, metric), patience)[MATCH.index(match)]
            return {"n_pairs": n_pairs, **_all(view, theirs, found, window)}
        except TooLargeError as error:
            if error.code != "being-computed":
                raise
    return {"n_pairs": n_pairs, "waiting": not too_many, **_one_by_one(view, theirs, metric, window)}


def _check(view: SetView, theirs: SetView) -> None:
    """Refuse sets over different samples."""
    view.remember(("same samples", theirs.path, theirs.tag), lambda: check_same_samples(view.reader, theirs.reader))


def _matches(view: SetView, theirs: SetView, metric: Any) -> tuple[ResultTable, OneToOne]:
    """The best match of every feature, and pairs one to one, the best first."""
    for each in (view, theirs):
        each.__dict__.pop("held_ids", None)  # makes room
    n_others = theirs.reader.shape[1]
    n = n_others if view.reader.shape[1] * n_others <= EXACT else CANDIDATES
    of, among = ((each.reader.view(), each.sizes) for each in (view, theirs))
    found = best_matches(metric, n, of, among, limit=_HELD)
    alive = [each.statistics["n_active"] > 0 for each in (view, theirs)]
    pairs = one_to_one(found.feature, found.other_feature, found.score, alive)
    best = found[np.flatnonzero(np.diff(found.feature, prepend=-1))]
    return best[np.argsort(-best.score, kind="stable")], pairs


def _all(view: SetView, theirs: SetView, found: Any, window: slice) -> dict[str, Any]:
    """The page of all matches, and the active features of each set that are in none."""
    some = found[:: max(1, len(found) // _MOST_POINTS)]
    data: dict[str, Any] = {
        "rows": [_row(view, theirs, row) for row in found[window]],
        "n_matches": len(found),
        "points": _points(view, theirs, some.feature, some.other_feature),
    }
    for prefix, each, matched in (("", view, found.feature), ("other_", theirs, found.other_feature)):
        n_active = each.statistics["n_active"].copy()
        n_active[matched] = 0
        alone = np.flatnonzero(n_active)
        alone = alone[np.argsort(-n_active[alone], kind="stable")]
        most = [{"feature": f, "name": each.name_of(f)} for f in alone[:_MOST_UNMATCHED].tolist()]
        data |= {f"n_{prefix}unmatched": len(alone), f"{prefix}unmatched": most}
    if isinstance(found, OneToOne):
        data |= {"mean_score": found.mean_score, "share": found.share()}
    return data


def _one_by_one(view: SetView, theirs: SetView, metric: Any, window: slice) -> dict[str, Any]:
    """The match of each feature of a page, in the order of their numbers."""
    n_active = view.statistics["n_active"]
    order = np.flatnonzero(n_active)
    shown = order[window][:_MOST_ONE_BY_ONE]
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
    rows = theirs.named_rows(most_like(view, theirs, feature, metric, n).columns)
    return [{"other_feature": row.pop("feature"), "other_name": row.pop("name"), **row} for row in rows]


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
        "n_both": None,
        **{name: value for name, value in match.items() if name != "n_features"},
        "name": view.name_of(feature),
        "other_name": theirs.name_of(other),
        "frac_nonzero": view.statistics["frac_nonzero"][feature].item(),
        "other_frac_nonzero": theirs.statistics["frac_nonzero"][other].item(),
    }


def _points(view: SetView, theirs: SetView, features: Array, others: Array) -> dict[str, Array]:
    rates, other_rates = (each.statistics["frac_nonzero"] for each in (view, theirs))
    return {"feature": features, "across": rates[features], "down": other_rates[others]}
