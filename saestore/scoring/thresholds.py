"""Thresholds that reach a target recall, and how many values reach a threshold. Lists are in descending order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError

Array = np.ndarray[Any, Any]

# Share of a concept's active positive calibration samples that reaches a threshold.
TARGET_RECALLS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

_DENOMINATOR = 10**9  # ranks stay exact in int64 for lists of up to 9 billion values


@dataclass(frozen=True)
class Threshold:
    """A threshold and its F1 on the calibration split."""

    # F1 of predicting what is at least as large. F1 is 0 and the threshold NaN where no threshold helps.
    f1: float
    threshold: float
    # Share of the positive values that the threshold is a quantile for; NaN where it is not a quantile.
    target_recall: float = float("nan")


NO_THRESHOLD = Threshold(0.0, float("nan"))


def check_recalls(target_recalls: Any) -> Array:
    """Target recalls as ascending distinct float64.

    Raises
    ------
    InvalidInputError
        There is none, or one is not between 0 and 1.
    """
    try:
        recalls = np.unique(np.atleast_1d(np.asarray(target_recalls, np.float64)))
    except (TypeError, ValueError):
        recalls = np.empty(0)
    if recalls.ndim != 1 or not len(recalls) or not bool(((recalls >= 0) & (recalls <= 1)).all()):
        raise InvalidInputError(
            f"target_recalls={target_recalls!r}: give shares from 0 to 1, such as {list(TARGET_RECALLS)}.",
            code="bad-option",
        )
    return recalls


def decimal(share: float) -> Fraction:
    """The decimal number that a float is written as: 0.7, not the binary number nearest to it."""
    return Fraction(repr(float(share))).limit_denominator(_DENOMINATOR)


def list_quantiles(indptr: Array, values: Array, recalls: Sequence[float | Fraction] | Array) -> Array:
    """The ``1 - recall`` quantiles of lists in descending order, none of them empty, by linear interpolation.

    A recall stands for the decimal number that it is written as, and ranks are computed in whole numbers: where
    ``(n - 1) * (1 - recall)`` is whole, the quantile is exactly that value of the list.

    Parameters
    ----------
    indptr
        (n_lists + 1,): list i is ``values[indptr[i]:indptr[i + 1]]``.
    recalls
        Shares (n_recalls,).

    Returns
    -------
    Array
        float64 (n_lists, n_recalls).
    """
    shares = [recall if isinstance(recall, Fraction) else decimal(recall) for recall in recalls]
    whole = np.array([share.denominator for share in shares], np.int64)
    part = np.array([share.denominator - share.numerator for share in shares], np.int64)
    last, room = (indptr[1:] - 1)[:, None], np.diff(indptr).astype(np.int64)[:, None] - 1
    rank, rest = np.divmod(room * part, whole)
    below = values[last - rank].astype(np.float64)
    above = values[last - np.minimum(rank + 1, room)].astype(np.float64)
    weight, step = rest / whole, above - below
    # The two forms that numpy.quantile uses, so that both ends are exact.
    quantiles: Array = np.where(weight >= 0.5, above - step * (1 - weight), below + step * weight)
    return quantiles


def quantiles_of(values: Array, recalls: Sequence[float | Fraction] | Array) -> Array:
    """The ``1 - recall`` quantiles of values in any order, float64 (n_recalls,)."""
    quantiles: Array = list_quantiles(np.array([0, len(values)]), -np.sort(-values), recalls)[0]
    return quantiles


def count_reaching(indptr: Array, values: Array, lists: Array, thresholds: Array) -> Array:
    """How many values of a list are at least as large as a threshold, exactly.

    Parameters
    ----------
    indptr, values
        Lists in descending order of positive floats of any dtype.
    lists
        List of each row of thresholds, (n,).
    thresholds
        Positive float64 (n, n_thresholds).

    Returns
    -------
    Array
        int64 (n, n_thresholds).

    Notes
    -----
    Memory: about 24 bytes per value and per threshold.
    """
    codes, limits = _codes(values, thresholds)
    # One sorted array for all lists: the number of the list, then the value, largest first.
    full = np.uint64(0xFFFFFFFF)
    keys = (np.repeat(np.arange(len(indptr) - 1, dtype=np.uint64), np.diff(indptr)) << np.uint64(32)) + (full - codes)
    last = (lists.astype(np.uint64) << np.uint64(32))[:, None] + (full - limits)
    counts: Array = np.searchsorted(keys, last.ravel(), "right").reshape(last.shape) - indptr[lists][:, None]
    return counts


def _codes(values: Array, thresholds: Array) -> tuple[Array, Array]:
    """Whole numbers below 2**32 that compare as the positive floats do: ``value >= threshold`` for exactly the same."""
    if values.dtype.itemsize > 4:
        distinct = np.unique(values)
        codes = np.searchsorted(distinct, values), np.searchsorted(distinct, thresholds)
        return codes[0].astype(np.uint64), codes[1].astype(np.uint64)
    # The smallest float32 that reaches the threshold: no float32 is between the two.
    with np.errstate(over="ignore", under="ignore"):
        narrow = thresholds.astype(np.float32)
        up = np.nextafter(narrow, np.float32(np.inf))
    narrow = np.where(narrow.astype(np.float64) < thresholds, up, narrow)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32), np.ascontiguousarray(narrow).view(np.uint32)
    return bits[0].astype(np.uint64), bits[1].astype(np.uint64)


def best_quantile(scores: Array, truth: Array, recalls: Array, source: Array) -> Threshold:
    """The quantile of `source` with the best F1; of equal ones the middle recall.

    A threshold that every score reaches does not count: it predicts nothing.
    """
    if not len(source) or not truth.any():
        return NO_THRESHOLD
    thresholds = quantiles_of(source, recalls)
    f1 = np.where(thresholds > scores.min(), f1_at(scores, truth, thresholds), 0)
    at = int(middle_best(f1[None])[0])
    return Threshold(float(f1[at]), float(thresholds[at]), float(recalls[at])) if f1[at] > 0 else NO_THRESHOLD


def best_between(scores: Array, truth: Array, above: float = -np.inf) -> Threshold:
    """The best threshold halfway between neighbouring scores and larger than `above`; of equal ones the middle.

    Quantiles of a few positive items never reach the weakest of them. Where samples do not set the threshold, this is
    all that the calibration split knows. A threshold that every score reaches does not count.
    """
    distinct = np.unique(scores)
    if not truth.any() or len(distinct) < 2:
        return NO_THRESHOLD
    thresholds = distinct[:-1] + (distinct[1:] - distinct[:-1]) / 2
    # Where neighbours differ by one rounding, halfway is the lower one, which must not reach the threshold.
    thresholds = np.where(thresholds > distinct[:-1], thresholds, distinct[1:])
    f1 = np.where(thresholds > above, f1_at(scores, truth, thresholds), 0)
    at = int(middle_best(f1[None])[0])
    return Threshold(float(f1[at]), float(thresholds[at])) if f1[at] > 0 else NO_THRESHOLD


def f1_at(scores: Array, truth: Array, thresholds: Array) -> Array:
    """F1 of predicting what is at least as large as each threshold, float64."""
    ordered, hits = np.sort(scores), np.sort(scores[truth])
    predicted = len(ordered) - np.searchsorted(ordered, thresholds)
    tp = len(hits) - np.searchsorted(hits, thresholds)
    f1: Array = 2 * tp / (predicted + len(hits))
    return f1


def middle_best(values: Array) -> Array:
    """Index of the largest value of every row; of equal ones the middle, of two in the middle the left."""
    tied = values == values.max(axis=1, keepdims=True)
    rank = (tied.sum(axis=1) + 1) // 2
    index: Array = (np.cumsum(tied, axis=1) == rank[:, None]).argmax(axis=1)
    return index
