"""Confidence intervals of scores: items are drawn again, with all their samples. Pure array functions.

Samples of one item resemble each other, so it is items that are drawn, whatever is scored. A draw is so many copies of
every item, and the scores of all draws come from sparse matrices of counts times those numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.concepts.ranks import Ranked

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]

# What has an interval, in the order of `score_draws`. F1, precision and recall keep one threshold in every draw.
WITH_INTERVAL = ("roc_auc", "average_precision", "f1", "precision", "recall", "mean_difference", "point_biserial")

_CELLS = 1 << 21  # numbers in a matrix of draws


@dataclass(frozen=True)
class Places:
    """The column of one feature beside one concept: how many rows of every item have each of its values.

    Attributes
    ----------
    values
        Distinct values of the column, descending, float64 (n_values,).
    rows, hits
        n_values x n_items: rows with that value, and those of them that the concept is true of.
    threshold
        Which of the values is the threshold of F1, precision and recall.
    """

    values: Array
    rows: scipy.sparse.csr_array
    hits: scipy.sparse.csr_array
    threshold: int

    @classmethod
    def of(cls, column: Ranked, items: Array, true: Array, totals: tuple[Array, Array], threshold: float) -> Places:
        """Count.

        Parameters
        ----------
        column
            One feature.
        items, true
            Of every entry: its item, and whether the concept is true of it.
        totals
            Of every item: its rows, zeros included, and those that the concept is true of.
        """
        import scipy.sparse as sp

        values = np.unique(np.append(column.values, [0] if column.n_zero[0] else []))[::-1].astype(np.float64)
        place = np.searchsorted(-values, -column.values.astype(np.float64))
        counts = []
        for total, chosen in zip(totals, (np.ones(len(items), bool), true), strict=True):
            zeros = total - np.bincount(items[chosen], minlength=len(total))
            at = np.append(place[chosen], np.full(np.count_nonzero(zeros), np.searchsorted(-values, 0)))
            which = np.append(items[chosen], np.flatnonzero(zeros))
            how_many = np.append(np.ones(int(chosen.sum())), zeros[zeros != 0])
            counts.append(sp.csr_array((how_many, (at, which)), shape=(len(values), len(total))))
        return cls(values, counts[0], counts[1], int(np.searchsorted(-values, -threshold)))


def draw(n_items: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each item is drawn, float64 (n_items, some draws), until there are `resamples` draws.

    Memory: some 4 million numbers, or one draw where that is more.
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, 2 * _CELLS // n_items)
    for first in range(0, resamples, at_once):
        count = min(at_once, resamples - first)
        drawn = rng.integers(0, n_items, (count, n_items))
        drawn += n_items * np.arange(count)[:, None]
        yield np.ascontiguousarray(np.bincount(drawn.ravel(), minlength=drawn.size).reshape(count, -1).T, np.float64)


def intervals(pairs: Sequence[Places], n_items: int, resamples: int, confidence: float, seed: int) -> Array:
    """Percentile intervals, float64 (2, n_pairs, len(WITH_INTERVAL)): lower ends and upper ends.

    A score that is not defined in a draw, because the concept is true of all or none there, leaves the draw out; NaN
    where that is so in all of them.

    Notes
    -----
    Memory: the pairs, 56 bytes for each and every resample, and some 200 MB.
    """
    found = np.full((len(pairs), len(WITH_INTERVAL), resamples), np.nan)
    done = 0
    for copies in draw(n_items, resamples, seed):
        for i, pair in enumerate(pairs):
            step = max(1, _CELLS // len(pair.values))
            for first in range(0, copies.shape[1], step):
                scores = score_draws(pair, copies[:, first : first + step])
                found[i, :, done + first : done + first + scores.shape[1]] = scores
        done += copies.shape[1]
    ends = np.full((2, *found.shape[:2]), np.nan)
    defined = ~np.isnan(found).all(axis=2)
    tail = (1 - confidence) / 2
    ends[:, defined] = np.nanquantile(found[defined], [tail, 1 - tail], axis=1)
    return ends


def score_draws(pair: Places, copies: Array) -> Array:
    """The scores of `WITH_INTERVAL` in every draw, (len(WITH_INTERVAL), n_draws)."""
    rows, hits = pair.rows @ copies, pair.hits @ copies
    misses = rows - hits
    n, p = rows.sum(axis=0), hits.sum(axis=0)
    q = n - p
    k, tp = np.cumsum(rows, axis=0), np.cumsum(hits, axis=0)
    # Before the first row that was drawn, k is 0, and so is what it divides.
    precision = np.divide(tp, k, out=np.zeros_like(k), where=k > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = q - (k - tp) + misses / 2
        tp_at, k_at = tp[pair.threshold], k[pair.threshold]
        scores = [
            (hits * below).sum(axis=0) / (p * q),
            (hits * precision).sum(axis=0) / p,
            2 * tp_at / (k_at + p),
            tp_at / k_at,
            tp_at / p,
            *_means(pair.values, rows, hits, misses),
        ]
    found = np.stack(scores)
    found[:, (p == 0) | (q == 0)] = np.nan
    return found


def _means(values: Array, rows: Array, hits: Array, misses: Array) -> tuple[Array, Array]:
    scale = np.abs(values).max()
    values = values / scale
    n, p, q = rows.sum(axis=0), hits.sum(axis=0), misses.sum(axis=0)
    centred = values[:, None] - values @ rows / n
    difference = values @ hits / p - values @ misses / q
    deviation = np.sqrt((rows * centred**2).sum(axis=0) / n)
    constant = np.count_nonzero(rows, axis=0) == 1
    return difference * scale, np.where(constant, np.nan, difference * np.sqrt(p * q) / n / deviation)
