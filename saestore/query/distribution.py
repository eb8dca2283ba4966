"""How features are distributed: statistics over samples, exact quantiles, histograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError, is_bool, shown
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.posting_lists import PostingLists
from saestore.query.results import Histogram
from saestore.segment.read import Segment, read_moments
from saestore.sparse_rows import Array, pointers
from saestore.stats import Moments

if TYPE_CHECKING:
    import xarray

    from saestore.query.reader import Level, SetReader


def all_moments(segments: Sequence[Segment], features: Array, n_features: int, dtype: Any) -> Moments:
    """Sums over all samples, from those that every segment stores."""
    if not segments:
        return Moments.zeros(len(features), 0, dtype)
    distinct, back = np.unique(features, return_inverse=True)
    moments = read_moments(segments, None if len(distinct) == n_features else distinct)
    return moments if np.array_equal(distinct, features) else moments.take(back)


@retry_on_stale_snapshot
def quantile(
    reader: SetReader,
    q: Any,
    features: Any = None,
    *,
    active_only: bool = False,
    level: Level = "sample",
    where: Any = None,
) -> xarray.DataArray:
    """Exact quantiles of features, by linear interpolation as `numpy.quantile`.

    Parameters
    ----------
    q
        One or several probabilities.
    active_only
        Over the samples only on which the feature is active; NaN where there is none. By default over all samples,
        zeros included.
    level
        ``"item"``: of the maxima of items.

    Returns
    -------
    xarray.DataArray
        On (quantile, feature), float64.

    Notes
    -----
    Memory: a block of about 4 million entries, or the longest list.
    """
    import xarray as xr

    selected = reader.select_features(features)
    view = reader.view(level, where, feature=selected.only)
    try:
        probabilities = np.array([np.nan]) if is_bool(q) else np.atleast_1d(np.asarray(q, np.float64))
    except (TypeError, ValueError, RuntimeError):
        probabilities = np.array([np.nan])
    if probabilities.ndim != 1 or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise InvalidInputError(f"q={q!r}: quantiles are probabilities from 0 to 1.", code="not-a-probability")
    distinct, back = np.unique(selected.ids, return_inverse=True)
    parts = [np.empty((len(probabilities), 0))]
    for lists in view.lists(distinct):
        counts = np.diff(lists.indptr) if active_only else np.full(len(lists.features), view.n)
        parts.append(_quantiles_of(lists, probabilities, counts))
    coords = {"quantile": probabilities, "feature": selected.ids}
    return xr.DataArray(np.concatenate(parts, axis=1)[:, back], dims=("quantile", "feature"), coords=coords)


def _quantiles_of(lists: PostingLists, q: Array, counts: Array) -> Array:
    """Quantiles (len(q), lists) of descending lists, each filled up with zeros to its count; NaN where that is 0."""
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


@retry_on_stale_snapshot
def histogram(
    reader: SetReader,
    feature: int,
    bins: Any = 50,
    *,
    range: tuple[float, float] | None = None,
    active_only: bool = True,
    level: Level = "sample",
    where: Any = None,
) -> Histogram:
    """Exact histogram of one feature, as `numpy.histogram`, over its active samples or items, or over all."""
    if is_bool(bins):
        raise InvalidInputError(f"bins={shown(bins)}: give a number of bins or their edges.", code="wrong-bins")
    if isinstance(bins, str) and not active_only:
        message = f"bins={bins!r} needs active_only=True; give a number of bins or their edges for all samples."
        raise InvalidInputError(message, code="wrong-bins")
    from saestore.query.where import one_feature

    number = one_feature(reader, feature, "histogram")
    view = reader.view(level, where, feature=number)
    values = next(view.lists(np.array([number]))).data
    counts, edges = counts_of(values, 0 if active_only else view.n - len(values), bins, range)
    return Histogram(edges[:-1], edges[1:], counts.astype(np.int64))


def counts_of(values: Array, zeros: int, bins: Any, limits: tuple[float, float] | None) -> tuple[Array, Array]:
    """Counts and edges as `numpy.histogram` gives them for `values` and this many zeros."""
    values = values.astype(np.float64)
    try:
        if zeros and np.ndim(bins) == 0 and limits is None:
            limits = (min(0.0, float(values.min(initial=0))), max(0.0, float(values.max(initial=0))))
        counts, edges = np.histogram(values, bins, limits)
        return counts + zeros * np.histogram([0.0], edges)[0] if zeros else counts, edges
    except (ValueError, TypeError) as e:
        raise InvalidInputError(f"bins={bins!r}, range={limits!r}: {e}.", code="wrong-bins") from e
