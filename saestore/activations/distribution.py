"""How features are distributed: statistics over some samples, exact quantiles, histograms."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from saestore.activations.lists import Lists, iterate_lists
from saestore.activations.select import Condition
from saestore.activations.slices import iterate_rows
from saestore.errors import InvalidInputError
from saestore.segment import Segment
from saestore.stats import Moments

Array = np.ndarray[Any, Any]


def all_moments(segments: Sequence[Segment], features: Array, n_features: int, dtype: Any) -> Moments:
    """Sums over all samples, from those that every segment stores."""
    moments = reduce(add, (s.moments() for s in segments), Moments.zeros(n_features, 0, dtype))
    return moments.take(features)


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
    import scipy.sparse as sp

    total = Moments.zeros(len(features), 0, dtype)
    for part, indptr, ids, data in iterate_rows(segments, rows):
        block = sp.csr_array(
            (data.astype(np.result_type(dtype, np.float32), copy=False), ids, indptr), (len(part), n_features)
        )
        lists = block.tocsc()
        total += Moments.of_lists(lists.indptr, lists.data, len(part)).take(features)
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
        for i in range(len(lists.features)):
            values = lists.data[lists.indptr[i] : lists.indptr[i + 1]]
            out[:, place + i] = _quantile_of_list(values, q, len(values) if active else n_samples)
        place += len(lists.features)
    return out


def _quantile_of_list(descending: Array, q: Array, count: int) -> Array:
    """Quantiles of a descending list and ``count - len(descending)`` zeros between its positive and negative values."""
    if not count:
        return np.full(len(q), np.nan)
    positive = int(np.searchsorted(-np.sign(descending), 0, "left"))
    zeros = count - len(descending)

    def value(rank: Array) -> Array:
        """The rank-th smallest of all, rank from 0."""
        from_top = count - 1 - rank
        at = np.where(from_top < positive, from_top, np.maximum(from_top - zeros, 0))
        found = descending[np.minimum(at, len(descending) - 1)] if len(descending) else np.zeros(len(rank))
        inside = (from_top >= positive) & (from_top < positive + zeros)
        return np.where(inside, 0.0, found.astype(np.float64))

    place = q * (count - 1)
    low = np.floor(place).astype(np.int64)
    below, above = value(low), value(np.minimum(low + 1, count - 1))
    share = place - low
    # The form that numpy uses, which is exact at both ends.
    found: Array = np.where(share >= 0.5, above - (above - below) * (1 - share), below + (above - below) * share)
    return found


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


def one_list(segments: Sequence[Segment], feature: int, dtype: Any) -> Lists:
    """The whole list of one feature."""
    return next(iterate_lists(segments, np.array([feature]), dtype))
