"""Features that are active on the same samples: counts, products and metrics of them, by blocks of features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saestore.errors import InvalidInputError
from saestore.query.open_set import OpenSet
from saestore.query.posting_lists import PostingLists
from saestore.query.results import FeatureMatches, SimilarFeatures
from saestore.query.selection import check_at_least
from saestore.query.view import View
from saestore.stats import Moments

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]
Metric = Literal["jaccard", "cosine", "correlation"]
METRICS: tuple[Metric, ...] = ("jaccard", "cosine", "correlation")

_WIDTH = 1 << 11  # features of a block; two blocks make 4 million pairs


@dataclass(frozen=True)
class Sizes:
    """Sizes of single features, which the metrics need.

    Attributes
    ----------
    n
        Number of samples.
    n_active, sum
        As in `saestore.stats.Moments`.
    length, spread
        Square roots of the sum of squares, and of the sum of squared deviations from the mean over all samples; NaN
        for a constant.
    """

    n: int
    n_active: Array
    sum: Array
    length: Array
    spread: Array

    @classmethod
    def of(cls, moments: Moments) -> Sizes:
        """From the stored sums."""
        n, k = moments.n_rows, moments.n_active
        with np.errstate(over="ignore", invalid="ignore"):
            mean_sq = moments.sum * (moments.sum / np.maximum(k, 1))
            length = np.sqrt(moments.m2 + mean_sq)
            spread = np.sqrt(moments.m2 + mean_sq * ((n - k) / max(1, n)))
        spread[(k == n) & (moments.min == moments.max)] = np.nan
        return cls(n, k, moments.sum, length, spread)

    def take(self, features: Array) -> Sizes:
        """Of these features only."""
        return Sizes(self.n, self.n_active[features], self.sum[features], self.length[features], self.spread[features])


def score(metric: Metric, one: Sizes, other: Sizes, n_both: Array, dot: Array) -> Array:
    """The metric of pairs of features, NaN where it is not defined.

    Parameters
    ----------
    one, other
        The features of each pair.
    n_both
        Samples on which both are active.
    dot
        Sum of the products of their activations.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric == "jaccard":
            values = n_both / (one.n_active + other.n_active - n_both)
        elif metric == "cosine":
            values = dot / one.length / other.length
        else:
            values = (dot - one.sum * (other.sum / one.n)) / one.spread / other.spread
    # Nothing but rounding can leave this range.
    clipped: Array = np.clip(values, -1, 1)
    return clipped


def overlap_of_list(view: View, lists: PostingLists) -> tuple[Array, Array]:
    """Rows that every feature shares with one list, and the sums of the products of the activations there.

    Memory: the list, a block of about 4 million non-zeros, and 16 bytes per feature.
    """
    order = np.argsort(lists.samples)
    rows, values = lists.samples[order], lists.data[order].astype(np.float64)
    n_features, done = view.n_features, 0
    n_both, dot = np.zeros(n_features, np.int64), np.zeros(n_features)
    for _, block in view.rows(rows):
        factors = np.repeat(values[done : done + len(block)], np.diff(block.indptr))
        n_both += np.bincount(block.indices, minlength=n_features)
        dot += np.bincount(block.indices, factors * block.data, n_features)
        done += len(block)
    return n_both, dot


def most_similar(metric: Metric, n: int, view: View, lists: PostingLists, sizes: Sizes) -> SimilarFeatures:
    """The features that are most like the feature of `lists`, without itself."""
    n_both, dot = overlap_of_list(view, lists)
    scores = score(metric, sizes.take(lists.features), sizes, n_both, dot)
    n_both[lists.features] = 0
    order = np.argsort(-scores, kind="stable")
    order = order[(n_both > 0)[order] & ~np.isnan(scores[order])][:n]
    return SimilarFeatures(order, scores[order], n_both[order])


def cooccurrence(view: View, features: Array) -> Array:
    """Rows on which both of two features are active, int64 (len(features), len(features)).

    Memory: the answer, two blocks of features' lists, and 8 bytes per row.
    """
    features, back = np.unique(features, return_inverse=True)
    counts, first = np.zeros((len(features), len(features)), np.int64), 0
    for lists in _blocks(view, features):
        last = first + len(lists.features)
        right, start = _matrix(lists, view.n_rows, np.int32).T.tocsr(), first
        for others in _blocks(view, features[first:]):
            stop = start + len(others.features)
            part = (_matrix(others, view.n_rows, np.int32) @ right).toarray()
            counts[start:stop, first:last], counts[first:last, start:stop] = part, part.T
            start = stop
        first = last
    return counts[np.ix_(back, back)]


def best_matches(metric: Metric, n: int, of: tuple[View, Sizes], among: tuple[View, Sizes]) -> FeatureMatches:
    """The features among another set's that are most like each feature, of those that share a row with it.

    Parameters
    ----------
    of, among
        Either set, over the same rows, and the sizes of its features.

    Returns
    -------
    FeatureMatches
        At most `n` for each feature, best first, ties by ascending feature.

    Notes
    -----
    Reads the lists of `of` once for every 2,048 features of `among`. Memory: about 100 bytes for each of 4 million
    pairs, two blocks of lists, 8 bytes per row, and the answer.
    """
    (view, sizes), (other_view, other_sizes), n_rows = of, among, of[0].n_rows
    columns = np.flatnonzero(other_sizes.n_active)
    best = [np.full((len(sizes.n_active), n), empty) for empty in (-1, -np.inf, 0)]
    for others in _blocks(other_view, columns):
        right = _matrix(others, n_rows, np.int32).T.tocsr(), _matrix(others, n_rows, np.float64).T.tocsr()
        for lists in _blocks(view, np.flatnonzero(sizes.n_active)):
            n_both = _matrix(lists, n_rows, np.int32) @ right[0]
            dot = n_both.data if metric == "jaccard" else _dots(n_both, _matrix(lists, n_rows, np.float64) @ right[1])
            one, other = np.repeat(lists.features, np.diff(n_both.indptr)), others.features[n_both.indices]
            scores = score(metric, sizes.take(one), other_sizes.take(other), n_both.data, dot)
            scores[np.isnan(scores)] = -np.inf
            picked = _best_of_rows(n_both.indptr, other, scores, n)
            _keep_best(best, lists.features, (other, scores, n_both.data), picked)
    rows, ranks = np.nonzero(best[0] >= 0)
    return FeatureMatches(rows, *(values[rows, ranks] for values in best))


def _blocks(view: View, features: Array) -> Iterator[PostingLists]:
    for first in range(0, len(features), _WIDTH):
        yield from view.lists(features[first : first + _WIDTH])


def _matrix(lists: PostingLists, n_rows: int, dtype: Any) -> scipy.sparse.csr_array:
    """Features x rows: the activations, or as int32 a 1 for each."""
    import scipy.sparse as sp

    values = np.ones(len(lists.data), dtype) if dtype is np.int32 else lists.data.astype(dtype)
    return sp.csr_array((values, lists.samples, lists.indptr), shape=(len(lists.features), n_rows))


def _dots(n_both: scipy.sparse.csr_array, products: scipy.sparse.csr_array) -> Array:
    """The products of the pairs of `n_both`, of which scipy leaves out those that cancel to 0."""
    if np.array_equal(n_both.indptr, products.indptr) and np.array_equal(n_both.indices, products.indices):
        return np.asarray(products.data)
    keys = []
    for matrix in (n_both, products):
        matrix.sort_indices()
        rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
        keys.append(rows * matrix.shape[1] + matrix.indices)
    dot = np.zeros(len(keys[0]))
    dot[np.searchsorted(*keys)] = products.data
    return dot


def _best_of_rows(indptr: Array, features: Array, scores: Array, n: int) -> Array:
    """Indices of the `n` best scores of every row, (n_rows, n), ties by ascending feature; -1 where there are fewer."""
    picked = np.full((len(indptr) - 1, n), -1)
    filled = np.flatnonzero(np.diff(indptr))
    if not len(filled):
        return picked
    left, row_of = scores.copy(), np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    for k in range(n):
        highest = np.maximum.reduceat(left, indptr[filled])
        ties = np.flatnonzero((left == np.repeat(highest, np.diff(indptr)[filled])) & (left > -np.inf))
        ties = ties[np.lexsort((features[ties], row_of[ties]))[::-1]]
        picked[row_of[ties], k] = ties  # written last: the first of a row
        left[picked[filled, k][picked[filled, k] >= 0]] = -np.inf
    return picked


def _keep_best(best: Sequence[Array], rows: Array, columns: Sequence[Array], picked: Array) -> None:
    """Merge the picked matches into the best so far; blocks ascend, so that the earlier feature of a tie stays."""
    none = picked < 0
    merged = [
        np.concatenate([kept[rows], np.where(none, empty, new[picked] if len(new) else empty)], axis=1)
        for kept, new, empty in zip(best, columns, (-1, -np.inf, 0), strict=True)
    ]
    order = np.argsort(-merged[1], axis=1, kind="stable")[:, : picked.shape[1]]
    for kept, values in zip(best, merged, strict=True):
        kept[rows] = np.take_along_axis(values, order, axis=1)


def check_request(n: int, metric: str) -> int:
    """Return the number of rows; refuse too few or an unknown metric."""
    n = check_at_least("n", n, 1)
    if metric not in METRICS:
        known = ", ".join(map(repr, METRICS))
        raise InvalidInputError(f"metric={metric!r}: use one of {known}.", code="unknown-metric")
    return n


def check_same_samples(one: OpenSet, other: OpenSet) -> None:
    """Refuse two sets over different samples; the error names the difference."""
    difference = _difference(one, other)
    if difference:
        raise InvalidInputError(f"{difference}; compare sets over the same samples.", code="samples-differ")


def _difference(one: OpenSet, other: OpenSet) -> str:
    """A difference between the samples of two sets, "" where there is none."""
    for what, mine, theirs in (("samples", one.shape[0], other.shape[0]), ("items", one.n_items, other.n_items)):
        if mine != theirs:
            return f"{one.path} has {mine:,} {what} and {other.path} has {theirs:,}"
    sizes, other_sizes = np.diff(one.item_index.pointers()), np.diff(other.item_index.pointers())
    for item in np.flatnonzero(sizes != other_sizes):
        return f"item {item} has {sizes[item]:,} samples in {one.path} and {other_sizes[item]:,} in {other.path}"
    if all("key" in acts.table("items").info.columns for acts in (one, other)):
        keys, other_keys = (acts.read_column("items", "key").values for acts in (one, other))
        for item in np.flatnonzero(keys != other_keys):
            return f"item {item} is {str(keys[item])!r} in {one.path} and {str(other_keys[item])!r} in {other.path}"
    return ""
