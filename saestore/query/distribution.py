"""How features are distributed: statistics over samples, exact quantiles, histograms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.query.posting_lists import PostingLists
from saestore.segment import Segment, read_moments
from saestore.sparse_rows import pointers
from saestore.stats import Moments

Array = np.ndarray[Any, Any]


def all_moments(segments: Sequence[Segment], features: Array, n_features: int, dtype: Any) -> Moments:
    """Sums over all samples, from those that every segment stores."""
    if not segments:
        return Moments.zeros(len(features), 0, dtype)
    distinct, back = np.unique(features, return_inverse=True)
    moments = read_moments(segments, None if len(distinct) == n_features else distinct)
    return moments if np.array_equal(distinct, features) else moments.take(back)


def quantiles(
    lists_of: Callable[[Array], Iterator[PostingLists]], q: Any, features: Array, n_rows: int, *, active_only: bool
) -> tuple[Array, Array]:
    """The probabilities as an array, and exact quantiles by linear interpolation as `numpy.quantile`.

    Returns
    -------
    Array, Array
        float64 (n,) and (n, len(features)); NaN over no sample.

    Notes
    -----
    Memory: a block of about 4 million entries, or the longest list.
    """
    try:
        probabilities = np.atleast_1d(np.asarray(q, np.float64))
    except (TypeError, ValueError):
        probabilities = np.array([np.nan])
    if probabilities.ndim != 1 or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise InvalidInputError(f"q={q!r}: quantiles are probabilities from 0 to 1.", code="not-a-probability")
    distinct, back = np.unique(features, return_inverse=True)
    parts = [np.empty((len(probabilities), 0))]
    for lists in lists_of(distinct):
        counts = np.diff(lists.indptr) if active_only else np.full(len(lists.features), n_rows)
        parts.append(_quantiles_of(lists, probabilities, counts))
    return probabilities, np.concatenate(parts, axis=1)[:, back]


def _quantiles_of(lists: PostingLists, q: Array, counts: Array) -> Array:
    """Quantiles of descending lists, each filled up with zeros to its count; zeros come below positive activations.

    Returns
    -------
    Array
        (len(q), lists), NaN where the count is 0.
    """
    starts, lengths = lists.indptr[:-1], np.diff(lists.indptr)
    positive = np.diff(pointers(lists.data > 0)[lists.indptr])
    zeros, last = counts - lengths, max(0, len(lists.data) - 1)
    data = lists.data if len(lists.data) else np.zeros(1)

    def value(rank: Array) -> Array:
        """The rank-th smallest of all, rank from 0."""
        from_top = counts - 1 - rank
        inside = (from_top >= positive) & (from_top < positive + zeros)
        at = np.where(from_top < positive, from_top, np.maximum(from_top - zeros, 0))
        return np.where(inside, 0.0, data[np.minimum(starts + at, last)].astype(np.float64))

    rank = q[:, None] * (counts - 1)
    low = np.floor(rank).astype(np.int64)
    below, above = value(low), value(np.minimum(low + 1, counts - 1))
    share = rank - low
    # The form that numpy uses, which is exact at both ends.
    values = np.where(share >= 0.5, above - (above - below) * (1 - share), below + (above - below) * share)
    return np.where(counts > 0, values, np.nan)


def histogram(values: Array, zeros: int, bins: Any, value_range: tuple[float, float] | None) -> tuple[Array, Array]:
    """Counts and edges as `numpy.histogram` gives them for `values` and this many zeros."""
    values = values.astype(np.float64)
    try:
        if not zeros:
            return np.histogram(values, bins, value_range)
        if np.ndim(bins) == 0 and value_range is None:
            value_range = (min(0.0, float(values.min(initial=0))), max(0.0, float(values.max(initial=0))))
        counts, edges = np.histogram(values, bins, value_range)
        return counts + zeros * np.histogram([0.0], edges)[0], edges
    except (ValueError, TypeError) as e:
        raise InvalidInputError(f"bins={bins!r}, range={value_range!r}: {e}.", code="wrong-bins") from e
