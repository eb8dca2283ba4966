"""Features that are active on the same samples: counts, products and metrics of them, by blocks of features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saestore.errors import InvalidInputError, check_at_least, check_choice
from saestore.kernels import segment_sums
from saestore.query.details import details_of
from saestore.query.open_set import OpenSet, retry_on_stale_snapshot
from saestore.query.posting_lists import PostingLists
from saestore.query.results import FeatureMatches, SimilarFeatures
from saestore.query.slices import DENSE_LIMIT, check_size
from saestore.query.view import View
from saestore.sparse_rows import Array, NonEmptyRows, pointers
from saestore.stats import Moments

if TYPE_CHECKING:
    import scipy.sparse
    import xarray

    from saestore.query.reader import Level, SetReader

Metric = Literal["jaccard", "cosine", "correlation", "conditional", "npmi"]
WITH_DOT = ("cosine", "correlation")
METRICS: tuple[Metric, ...] = ("jaccard", "cosine", "correlation", "conditional", "npmi")

_WIDTH = 1 << 11  # features of a block; two blocks make 4 million pairs
_HELD = 1 << 26  # non-zeros of a set that are held at a time
_PAIRS = 1 << 20  # products of non-zeros that are made at a time


@dataclass(frozen=True)
class Sizes:
    """Sizes of single features, which the metrics need."""

    n: int  # number of samples
    # As in `saestore.stats.Moments`.
    n_active: Array
    sum: Array
    # Square roots of the sum of squares, and of the sum of squared deviations from the mean over all samples; NaN for a
    # constant.
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


def score(metric: Metric, one: tuple[Sizes, Any], other: tuple[Sizes, Any], n_both: Array, dot: Array | None) -> Array:
    """The metric of pairs of features, NaN where it is not defined.

    `one` and `other` are sizes, and which of their features each pair is of; `n_both` are the samples on which both are
    active; `dot` is the sum of the products of their activations, which ``cosine`` and ``correlation`` need.
    """
    (mine, i), (theirs, j) = one, other
    with np.errstate(divide="ignore", invalid="ignore"):
        if dot is None:
            values = pair_score(metric, mine.n, mine.n_active[i], theirs.n_active[j], n_both)
        elif metric == "cosine":
            values = dot / mine.length[i] / theirs.length[j]
        else:
            values = (dot - mine.sum[i] * (theirs.sum[j] / theirs.n)) / mine.spread[i] / theirs.spread[j]
    # Nothing but rounding can leave this range.
    clipped: Array = np.clip(values, -1, 1)
    return clipped


def pair_score(metric: str, n: int, n_one: Array, n_other: Array, n_both: Array) -> Array:
    """A metric of the numbers of samples on which features are active, alone and both, of `n` samples.

    ``jaccard``; ``conditional``, the share of the first feature's samples on which the other is active; or ``npmi``,
    normalised pointwise mutual information, ``log(P(xy) / P(x) P(y)) / -log P(xy)``, in the limit 1 where both are
    always active, and -1 where they never are together.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric == "conditional":
            values = n_both / n_one
        elif metric == "jaccard":
            values = n_both / (n_one + n_other - n_both)
        else:
            log_both = np.log(n_both / n)
            mutual = log_both - np.log(n_one / n) - np.log(n_other / n)
            values = np.where(n_both == n, 1.0, np.where(n_both == 0, -1.0, mutual / -log_both))
    return np.asarray(values)


def overlap_of_list(metric: Metric, view: View, lists: PostingLists) -> tuple[Array, Array | None]:
    """Rows that every feature shares with one list, and the sums of the products there where the metric needs them.

    Memory: the list, a block of about 4 million non-zeros, and 16 bytes per feature.
    """
    order = np.argsort(lists.samples)
    rows, values = lists.samples[order], lists.data[order]
    n_features, done = view.n_features, 0
    n_both, dot = np.zeros(n_features, np.int64), np.zeros(n_features) if metric in WITH_DOT else None
    for _, block in view.rows(rows, values=dot is not None):
        n_both += np.bincount(block.indices, minlength=n_features)
        if dot is not None:
            factors = np.repeat(values[done : done + len(block)].astype(np.float64), np.diff(block.indptr))
            dot += np.bincount(block.indices, factors * block.data, n_features)
        done += len(block)
    return n_both, dot


def most_similar(metric: Metric, n: int, view: View, lists: PostingLists, sizes: Sizes) -> SimilarFeatures:
    """The features that are most like the feature of `lists`, without itself."""
    overlap = overlap_of_list(metric, view, lists)
    overlap[0][lists.features] = 0
    return ranked(metric, n, (sizes, lists.features), sizes, overlap)


def ranked(
    metric: Metric, n: int, one: tuple[Sizes, Any], others: Sizes, overlap: tuple[Array, Array | None]
) -> SimilarFeatures:
    """The `n` of all other features that score best with one, of those that share a row with it."""
    n_both, dot = overlap
    together = np.flatnonzero(n_both)
    scores = score(metric, one, (others, together), n_both[together], None if dot is None else dot[together])
    best = np.argsort(-scores, kind="stable")
    best = best[~np.isnan(scores[best])][:n]
    return SimilarFeatures(together[best], scores[best], n_both[together[best]])


@retry_on_stale_snapshot
def cooccurrence(
    reader: SetReader, features: Any, *, level: Level = "sample", where: Any = None, max_bytes: int = DENSE_LIMIT
) -> xarray.DataArray:
    """The number of samples or items on which each two features are both active; with itself, on which it is.

    Returns
    -------
    xarray.DataArray
        On (feature, other_feature), int64.

    Raises
    ------
    TooLargeError
        It would be larger than `max_bytes` (4 GiB); nothing was read.

    Notes
    -----
    Memory: the answer, two blocks of about 4 million entries of the features' lists, and 8 bytes per sample.
    """
    import xarray as xr

    ids, view = reader.select_features(features).ids, reader.view(level, where)
    check_size((len(ids), len(ids)), 8, max_bytes, "Ask for fewer features, or for similar() of one.")
    distinct, back = np.unique(ids, return_inverse=True)
    counts, first = np.zeros((len(distinct), len(distinct)), np.int64), 0
    for lists in _blocks(view, distinct):
        last = first + len(lists.features)
        rows, start = np.unique(lists.samples), first  # few of all where features are rare
        right = _matrix(_among(rows, lists), len(rows), np.int32).T.tocsr()
        for others in _blocks(view, distinct[first:]):
            stop = start + len(others.features)
            part = (_matrix(_among(rows, others), len(rows), np.int32) @ right).toarray()
            counts[start:stop, first:last], counts[first:last, start:stop] = part, part.T
            start = stop
        first = last
    dims = ("feature", "other_feature")
    return xr.DataArray(counts[np.ix_(back, back)], dims=dims, coords=dict.fromkeys(dims, ids), name="n_both")


@retry_on_stale_snapshot
def compare(
    reader: SetReader,
    other: SetReader,
    metric: Metric = "correlation",
    n: int = 1,
    *,
    level: Level = "sample",
    where: Any = None,
) -> FeatureMatches:
    """The features of another set over the same samples that match the features of this one.

    Parameters
    ----------
    other
        An activation set, such as of another SAE, with the same items and samples.
    metric
        As for `similar`.
    n
        Matches per feature at most.
    level, where
        Over samples or items, of which this set's labels fulfil a condition.

    Returns
    -------
    FeatureMatches
        One feature after the other. A feature that shares no sample with any of the other set has no row.

    Raises
    ------
    InvalidInputError
        The samples are not the same: other numbers of them, or other items. The message names the difference.

    Notes
    -----
    Reads the lists of this set once for every 64 million non-zeros of the other, which are held. Memory: 16 bytes
    for each of these, about 300 MB, and the answer.
    """
    n = check_request(n, metric)
    if not isinstance(other, OpenSet):
        raise InvalidInputError(f"compare() takes another set, not a {type(other).__name__}.", code="not-a-set")
    check_same_samples(reader, other)
    condition = reader.condition(where)
    views = (View.of(each, level, condition) for each in (reader, other))
    mine, theirs = ((view, Sizes.of(view.moments(np.arange(view.n_features)))) for view in views)
    return replace(best_matches(metric, n, mine, theirs), _details=partial(details_of, reader, other=other))


def best_matches(
    metric: Metric, n: int, of: tuple[View, Sizes], among: tuple[View, Sizes], limit: int | None = None
) -> FeatureMatches:
    """The `n` features `among` another set's, over the same rows, that are most like each and share a row with it.

    Best first, ties by ascending feature. Reads the lists of `of` once for every `limit` non-zeros of `among` (by
    default 64 million, and fewer from ten million rows on), which are held as rows. Memory: 8 bytes for each of them (5
    for ``jaccard``, ``conditional`` and ``npmi``) and 4 for each of their rows, a byte per row for a while, 40 bytes
    for each of a million products, a block of lists, and the answer.
    """
    (view, sizes), (other_view, other_sizes) = of, among
    with_dot = metric in WITH_DOT
    if limit is None:  # the pointer of a row takes as much as half a non-zero
        limit = max(1, _HELD // 2, _HELD - view.n_rows // 2)
    n = min(n, other_view.n_features)
    best = [np.full((len(sizes.n_active), n), empty) for empty in (-1, -np.inf, 0)]
    for first, last in _parts(other_sizes.n_active, limit):
        nnz = int(other_sizes.n_active[first:last].sum())
        held = _held(other_view, first, last, nnz, with_dot)
        for lists in view.lists(np.flatnonzero(sizes.n_active)):
            for feature, n_both, dot in _overlaps(lists, held, min(_PAIRS, limit), with_dot):
                together = np.flatnonzero(n_both > 0)
                counts, others = n_both[together], together + first
                products = None if dot is None else dot[together]
                scores = score(metric, (sizes, feature), (other_sizes, others), counts, products)
                _keep_best([kept[feature] for kept in best], others, scores, counts)
        del held  # before the next is read
    features, ranks = np.nonzero(best[0] >= 0)
    return FeatureMatches(features, *(values[features, ranks] for values in best))


def _keep_best(best: Sequence[Array], others: Array, scores: Array, counts: Array) -> None:
    """Merge matches of one feature into its best so far, in place; parts ascend, so that ties stay in order."""
    n, good = len(best[0]), np.flatnonzero(scores > best[1][-1])  # not NaN, and better than the last
    if not len(good):
        return
    if len(good) > n:
        some = scores[good]
        good = good[some >= np.partition(some, len(some) - n)[len(some) - n]]
    order = good[np.lexsort((others[good], -scores[good]))][:n]
    merged = [np.append(kept, new[order]) for kept, new in zip(best, (others, scores, counts), strict=True)]
    first = np.argsort(-merged[1], kind="stable")[:n]
    for kept, values in zip(best, merged, strict=True):
        kept[:] = values[first]


def _parts(costs: Array, limit: int) -> Iterator[tuple[int, int]]:
    """Consecutive parts, each of a total cost of about `limit` or of one element: first and last + 1 of each."""
    ends, first = np.append(0, np.cumsum(costs)), 0
    while first < len(costs):
        last = max(first + 1, int(np.searchsorted(ends, ends[first] + limit, "right")) - 1)
        yield first, last
        first = last


def _overlaps(
    lists: PostingLists, held: NonEmptyRows, limit: int, with_dot: bool
) -> Iterator[tuple[int, Array, Array | None]]:
    """For each list: its feature, the rows that it shares with each feature of `held`, and the sums of the products.

    Makes about `limit` products at a time.
    """
    lengths = held.lengths(lists.samples)
    for a, b in _parts(segment_sums(lengths, lists.indptr), limit):
        if b > a + 1:
            yield from _totals(lists.part(a, b), held, with_dot)
            continue
        feature, stop = lists.features[a:b], int(lists.indptr[b])
        n_both, dot = np.zeros(held.n_columns, np.int64), np.zeros(held.n_columns) if with_dot else None
        for start in range(int(lists.indptr[a]), stop, limit):
            for first, last in _parts(lengths[start : min(start + limit, stop)], limit):
                entries = slice(start + first, start + last)
                ends = np.array([0, last - first])
                part = PostingLists(feature, ends, lists.samples[entries], lists.data[entries])
                ((_, counts, sums),) = _totals(part, held, with_dot)
                n_both += counts
                if dot is not None and sums is not None:
                    dot += sums
        yield int(feature[0]), n_both, dot


def _totals(lists: PostingLists, held: NonEmptyRows, with_dot: bool) -> Iterator[tuple[int, Array, Array | None]]:
    """`_overlaps` of lists that are short enough."""
    rows = held[lists.samples]
    ends, products = rows.indptr[lists.indptr], None
    if with_dot:
        products = rows.data.astype(np.float64)
        products *= np.repeat(lists.data, np.diff(rows.indptr))
    for i, feature in enumerate(lists.features.tolist()):
        entries = rows.indices[ends[i] : ends[i + 1]]
        dot = None if products is None else np.bincount(entries, products[ends[i] : ends[i + 1]], held.n_columns)
        yield feature, np.bincount(entries, minlength=held.n_columns), dot


def _held(view: View, first: int, last: int, nnz: int, with_data: bool) -> NonEmptyRows:
    """Some features of all rows, rows x these features, `nnz` in all: the activations, or True for each."""
    import scipy.sparse as sp

    dtype = np.result_type(view.dtype, np.float32) if with_data else bool  # scipy has no float16
    # scipy widens the ids to the type of the pointers.
    ends = np.zeros(min(nnz, view.n_rows) + 2, np.int32 if nnz < 1 << 31 else np.int64)
    ids, values, non_empty = np.empty(nnz, ends.dtype), np.ones(nnz, dtype), np.zeros(view.n_rows, bool)
    n_rows, done = 1, 0
    for rows, block in view.all_rows(values=with_data):
        kept = (block.indices >= first) & (block.indices < last)
        lengths = np.diff(pointers(kept)[block.indptr])
        filled = lengths > 0
        non_empty[rows[filled]] = True
        lengths = lengths[filled]
        ends[n_rows : (n_rows := n_rows + len(lengths))] = lengths
        found = block.indices[kept]
        part = slice(done, done := done + len(found))
        ids[part] = found
        if with_data:
            values[part] = block.data[kept]
    ids -= first
    parts = values, ids, np.cumsum(ends, out=ends)
    return NonEmptyRows(non_empty, sp.csr_array(parts, shape=(len(ends) - 1, last - first)))


def _blocks(view: View, features: Array) -> Iterator[PostingLists]:
    for first in range(0, len(features), _WIDTH):
        yield from view.lists(features[first : first + _WIDTH])


def _among(rows: Array, lists: PostingLists) -> PostingLists:
    """The entries of lists in ascending `rows`, which are counted from 0 then."""
    places = np.searchsorted(rows, lists.samples)
    found = rows[np.minimum(places, len(rows) - 1)] == lists.samples if len(rows) else np.zeros(len(places), bool)
    kept = lists.keep(found)
    return PostingLists(kept.features, kept.indptr, places[found], kept.data)


def _matrix(lists: PostingLists, n_rows: int, dtype: Any) -> scipy.sparse.csr_array:
    """Features x rows: the activations, or as int32 a 1 for each."""
    import scipy.sparse as sp

    values = np.ones(len(lists.data), dtype) if dtype is np.int32 else lists.data.astype(dtype)
    return sp.csr_array((values, lists.samples, lists.indptr), shape=(len(lists.features), n_rows))


def check_request(n: int, metric: str) -> int:
    """Return the number of rows; refuse too few or an unknown metric."""
    n = check_at_least("n", n, 1)
    check_choice("metric", metric, METRICS, "unknown-metric")
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
