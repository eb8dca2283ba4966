"""Thresholds as quantiles, and how many values reach them. Pure array functions over lists in descending order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError

Array = np.ndarray[Any, Any]

# Share of a concept's active positive calibration samples that a threshold lets through.
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def check_shares(shares: Any) -> Array:
    """`p` as ascending distinct float64.

    Raises
    ------
    InvalidInputError
        It holds nothing, or what is not between 0 and 1.
    """
    try:
        p = np.unique(np.atleast_1d(np.asarray(shares, np.float64)))
    except (TypeError, ValueError):
        p = np.empty(0)
    if p.ndim != 1 or not len(p) or not bool(((p >= 0) & (p <= 1)).all()):
        raise InvalidInputError(f"p={shares!r}: give shares from 0 to 1, such as {list(SHARES)}.")
    return p


def list_quantiles(indptr: Array, values: Array, q: Array) -> Array:
    """Quantiles of lists in descending order, none of them empty, as `numpy.quantile` of float64 gives them.

    Parameters
    ----------
    indptr
        (n_lists + 1,): list i is ``values[indptr[i]:indptr[i + 1]]``.
    q
        float64 (n_q,).

    Returns
    -------
    Array
        float64 (n_lists, n_q).
    """
    last = (indptr[1:] - 1)[:, None]
    room = np.diff(indptr)[:, None] - 1
    place = room * q
    low = np.floor(place).astype(np.int64)
    below = values[last - low].astype(np.float64)
    above = values[last - np.minimum(low + 1, room)].astype(np.float64)
    share, step = place - low, above - below
    # The two forms that numpy uses, so that both ends are exact.
    found: Array = np.where(share >= 0.5, above - step * (1 - share), below + step * share)
    return found


def count_reaching(indptr: Array, values: Array, lists: Array, thresholds: Array) -> Array:
    """How many values of a list are at least as large as a threshold, exactly.

    Parameters
    ----------
    indptr, values
        PostingLists in descending order of positive floats of any dtype.
    lists
        Which list is asked, (n,).
    thresholds
        Positive float64 (n, n_thresholds).

    Returns
    -------
    Array
        int64 (n, n_thresholds).

    Notes
    -----
    Memory: some 24 bytes a value and a threshold.
    """
    codes, wanted = _codes(values, thresholds)
    # One sorted array for all lists: the number of the list, then the value, largest first.
    full = np.uint64(0xFFFFFFFF)
    keys = (np.repeat(np.arange(len(indptr) - 1, dtype=np.uint64), np.diff(indptr)) << np.uint64(32)) + (full - codes)
    asked = (lists.astype(np.uint64) << np.uint64(32))[:, None] + (full - wanted)
    found: Array = np.searchsorted(keys, asked.ravel(), "right").reshape(asked.shape) - indptr[lists][:, None]
    return found


def _codes(values: Array, thresholds: Array) -> tuple[Array, Array]:
    """Whole numbers below 2**32 that compare as the positive floats do: ``value >= threshold`` for exactly the same."""
    if values.dtype.itemsize > 4:
        distinct = np.unique(values)
        found = np.searchsorted(distinct, values), np.searchsorted(distinct, thresholds)
        return found[0].astype(np.uint64), found[1].astype(np.uint64)
    # The smallest float32 that reaches the threshold; what lies between two of them is out of their reach anyway.
    with np.errstate(over="ignore", under="ignore"):
        narrow = thresholds.astype(np.float32)
        up = np.nextafter(narrow, np.float32(np.inf))
    narrow = np.where(narrow.astype(np.float64) < thresholds, up, narrow)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32), np.ascontiguousarray(narrow).view(np.uint32)
    return bits[0].astype(np.uint64), bits[1].astype(np.uint64)


@dataclass(frozen=True, order=True)
class Cut:
    """A threshold and how well it does on the calibration split; the larger of two is the better."""

    f1: float
    p: float
    threshold: float


def best_cut(scores: Array, truth: Array, p: Array, source: Array) -> Cut | None:
    """The threshold with the best F1 among the ``1 - p`` quantiles of `source`; of equal ones the middle p.

    Returns
    -------
    Cut or None
        None where `source` is empty, or nothing is true.
    """
    if not len(source) or not truth.any():
        return None
    thresholds = np.quantile(source.astype(np.float64), 1 - p)
    f1 = f1_at(scores, truth, thresholds)
    at = int(middle_best(f1[None])[0])
    return Cut(float(f1[at]), float(p[at]), float(thresholds[at]))


def best_split(scores: Array, truth: Array) -> Cut | None:
    """The threshold with the best F1 of all: halfway between neighbouring scores, of equally good ones the middle.

    Quantiles of a few positive items leave out the weakest of them whatever p is; where samples do not set the
    threshold, this is what the calibration split knows.

    Returns
    -------
    Cut or None
        None where nothing is true; its p is NaN.
    """
    if not truth.any():
        return None
    distinct = np.unique(scores)
    thresholds = np.append(distinct[0], distinct[:-1] + (distinct[1:] - distinct[:-1]) / 2)
    # Halfway between neighbours of a rounding apart is the lower one, which it must not let through.
    thresholds[1:] = np.where(thresholds[1:] > distinct[:-1], thresholds[1:], distinct[1:])
    f1 = f1_at(scores, truth, thresholds)
    at = int(middle_best(f1[None])[0])
    return Cut(float(f1[at]), float("nan"), float(thresholds[at]))


def f1_at(scores: Array, truth: Array, thresholds: Array) -> Array:
    """F1 of what is at least as large as each threshold, float64."""
    ordered, hits = np.sort(scores), np.sort(scores[truth])
    predicted = len(ordered) - np.searchsorted(ordered, thresholds)
    tp = len(hits) - np.searchsorted(hits, thresholds)
    found: Array = 2 * tp / (predicted + len(hits))
    return found


def middle_best(values: Array) -> Array:
    """Place of the largest value of every row; of equal ones that in their middle, the left of two."""
    tied = values == values.max(axis=1, keepdims=True)
    place = (tied.sum(axis=1) + 1) // 2
    found: Array = (np.cumsum(tied, axis=1) == place[:, None]).argmax(axis=1)
    return found
