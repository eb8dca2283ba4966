"""How features are distributed: statistics over some samples, exact quantiles, histograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.query.posting_lists import PostingLists, iterate_lists
from saestore.query.selection import Condition
from saestore.query.slices import iterate_rows
from saestore.segment import Segment, read_moments
from saestore.stats import Moments

Array = np.ndarray[Any, Any]


def all_moments(segments: Sequence[Segment], features: Array, n_features: int, dtype: Any) -> Moments:
    """Sums over all samples, from those that every segment stores."""
    if not segments:
        return Moments.zeros(len(features), 0, dtype)
    distinct, back = np.unique(features, return_inverse=True)
    moments = read_moments(segments, None if len(distinct) == n_features else distinct)
    return moments if np.array_equal(distinct, features) else moments.take(back)


def moments_where(segments: Sequence[Segment], features: Array, n_features: int, rows: Array, dtype: Any) -> Moments:
    """Sums over ascending `rows`: from the lists where those are shorter than the rows, else from the rows.

    Memory: a block of some 4 million entries.
    """
    total_rows = sum(s.info.n_rows for s in segments)
    in_lists = sum(int((s.feature_ptr[features + 1] - s.feature_ptr[features]).sum()) for s in segments)
    in_rows = sum(s.info.nnz for s in segments) * len(rows) / max(1, total_rows)
    if in_lists <= in_rows:
        return _from_lists(segments, features, rows, total_rows, dtype)
    return _from_rows(segments, features, n_features, rows, dtype)


def _from_lists(segments: Sequence[Segment], features: Array, rows: Array, total_rows: int, dtype: Any) -> Moments:
    mask = np.zeros(total_rows, bool)
    mask[rows] = True
    parts = [Moments.zeros(0, 0, dtype)]
    for lists in iterate_lists(segments, features, dtype):
        kept = mask[lists.samples]
        counts = np.concatenate([[0], np.cumsum(kept)])[lists.indptr]
        parts.append(Moments.of_lists(counts, lists.data[kept], len(rows)))
    arrays = [np.concatenate([p.arrays()[name] for p in parts]) for name in Moments.names()]
    return Moments(len(rows), *arrays)


def _from_rows(segments: Sequence[Segment], features: Array, n_features: int, rows: Array, dtype: Any) -> Moments:
    total = Moments.zeros(len(features), 0, dtype)
    for part, _, ids, data in iterate_rows(segments, rows):
        total += Moments.of_entries(ids, data, n_features, len(part)).take(features)
    return total


def quantiles(
    segments: Sequence[Segment],
    q: Array,
    features: Array,
    n_samples: int,
    dtype: Any,
    *,
    active: bool,
    where: Condition | None = None,
) -> Array:
    """Exact quantiles, float64 (len(q), len(features)), by linear interpolation as `numpy.quantile` does.

    Memory: a block of some 4 million entries, or the longest list.
    """
    out = np.full((len(q), len(features)), np.nan)
    place = 0
    if where is not None:
        n_samples = len(where.samples(n_samples))
    for whole in iterate_lists(segments, features, dtype):
        lists = whole if where is None else whole.kept(where.keeps(whole.samples))
        n = len(lists.features)
        out[:, place : place + n] = _quantiles_of(lists, q, np.diff(lists.indptr) if active else np.full(n, n_samples))
        place += n
    return out


def _quantiles_of(lists: PostingLists, q: Array, counts: Array) -> Array:
    """Quantiles of descending lists, each filled up to so many values with zeros, which belong below the positive ones.

    Returns
    -------
    Array
        (len(q), lists), NaN where the count is 0.
    """
    starts, lengths = lists.indptr[:-1], np.diff(lists.indptr)
    positive = np.diff(np.concatenate([[0], np.cumsum(lists.data > 0)])[lists.indptr])
    zeros, last = counts - lengths, max(0, len(lists.data) - 1)
    data = lists.data if len(lists.data) else np.zeros(1)

    def value(rank: Array) -> Array:
        """The rank-th smallest of all, rank from 0."""
        from_top = counts - 1 - rank
        inside = (from_top >= positive) & (from_top < positive + zeros)
        at = np.where(from_top < positive, from_top, np.maximum(from_top - zeros, 0))
        return np.where(inside, 0.0, data[np.minimum(starts + at, last)].astype(np.float64))

    place = q[:, None] * (counts - 1)
    low = np.floor(place).astype(np.int64)
    below, above = value(low), value(np.minimum(low + 1, counts - 1))
    share = place - low
    # The form that numpy uses, which is exact at both ends.
    found = np.where(share >= 0.5, above - (above - below) * (1 - share), below + (above - below) * share)
    return np.where(counts > 0, found, np.nan)


def histogram(values: Array, zeros: int, bins: Any, value_range: tuple[float, float] | None) -> tuple[Array, Array]:
    """Counts and edges as `numpy.histogram` gives them for `values` and so many zeros."""
    values = values.astype(np.float64)
    try:
        if not zeros:
            return np.histogram(values, bins, value_range)
        if np.ndim(bins) == 0 and value_range is None:
            value_range = (min(0.0, float(values.min(initial=0))), max(0.0, float(values.max(initial=0))))
        counts, edges = np.histogram(values, bins, value_range)
        return counts + zeros * np.histogram([0.0], edges)[0], edges
    except (ValueError, TypeError) as e:
        raise InvalidInputError(f"bins={bins!r}, range={value_range!r}: {e}.") from e


def one_list(segments: Sequence[Segment], feature: int, dtype: Any) -> PostingLists:
    """The whole list of one feature."""
    return next(iterate_lists(segments, np.array([feature]), dtype))
