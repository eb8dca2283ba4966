"""How well a score and a threshold detect a concept, in one draw of items or in many. Equal to scikit-learn's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.vocabulary import METRICS

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]

COUNTS = ("tp", "fp", "tn", "fn")

_CELLS = 1 << 21  # distinct values times draws that are measured at a time


def ratios(tp: Array, fp: Array, fn: Array, tn: Array) -> dict[str, Array]:
    """Ratios of counts, float64 of their shape.

    What divides by no positives (recall, F1, tpr, fnr, precision) or by no negatives (fpr, tnr) is NaN. Where there are
    positives and nothing is predicted, precision and F1 are 0, as in scikit-learn with ``zero_division=0``.
    """
    tp, fp, fn, tn = (np.asarray(x, np.float64) for x in (tp, fp, fn, tn))
    positives, negatives, predicted = tp + fn, fp + tn, tp + fp
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {
            "precision": np.where(positives > 0, np.where(predicted > 0, tp / predicted, 0.0), np.nan),
            "recall": tp / positives,
            "accuracy": (tp + tn) / (positives + negatives),
            "f1": np.where(positives > 0, 2 * tp / (predicted + positives), np.nan),
            "fpr": fp / negatives,
            "tnr": tn / negatives,
            "fnr": fn / positives,
        }
    return {**values, "tpr": values["recall"]}


@dataclass(frozen=True)
class BootstrapCounts:
    """A score beside one concept: how many observations of each item have each value."""

    values: Array  # distinct values of the score, descending, float64 (n_values,)
    # n_values x n_items: observations with that value, and how many of them have the concept.
    rows: scipy.sparse.csr_array
    hits: scipy.sparse.csr_array
    n_predicted: int  # how many of the values reach the threshold

    @classmethod
    def of(
        cls, values: Array, items: Array, true: Array, totals: tuple[Array, Array], threshold: float
    ) -> BootstrapCounts:
        """Count.

        Parameters
        ----------
        values, items, true
            Of each observation that is not zero: its score, its item, and whether the concept is true of it.
        totals
            Of each item: its observations, zeros included, and those that the concept is true of.
        threshold
            What is at least as large is predicted; NaN predicts nothing.
        """
        import scipy.sparse as sp

        wide = values.astype(np.float64)
        some_zero = totals[0].sum() > len(values)
        distinct = np.unique(np.append(wide, [0.0] if some_zero else []))[::-1]
        place, zero = np.searchsorted(-distinct, -wide), np.searchsorted(-distinct, 0)
        counts = []
        for total, chosen in zip(totals, (np.ones(len(items), bool), true), strict=True):
            zeros = total - np.bincount(items[chosen], minlength=len(total))
            at = np.append(place[chosen], np.full(np.count_nonzero(zeros), zero))
            which = np.append(items[chosen], np.flatnonzero(zeros))
            how_many = np.append(np.ones(int(chosen.sum())), zeros[zeros != 0])
            counts.append(sp.csr_array((how_many, (at, which)), shape=(len(distinct), len(total))))
        return cls(distinct, counts[0], counts[1], int(np.count_nonzero(distinct >= threshold)))

    @classmethod
    def of_column(cls, scores: Array, truth: Array, items: Array, n_items: int, threshold: float) -> BootstrapCounts:
        """Count the observations of a dense column, float64 (n,)."""
        active = scores != 0
        totals = np.bincount(items, minlength=n_items), np.bincount(items[truth], minlength=n_items)
        return cls.of(scores[active], items[active], truth[active], totals, threshold)

    def metrics(self, copies: Array) -> dict[str, Array]:
        """`METRICS` in each draw; `copies` is how often each item is drawn, float64 (n_items, n_draws)."""
        return self._in_parts(copies, _metrics)

    def scores(self, copies: Array) -> dict[str, Array]:
        """`METRICS`, ``mean_difference`` and ``point_biserial`` in each draw; NaN where they are not defined."""
        return self._in_parts(copies, _metrics, _means)

    def _in_parts(self, copies: Array, *measures: Callable[..., dict[str, Array]]) -> dict[str, Array]:
        step = max(1, _CELLS // max(1, len(self.values)))
        parts: list[dict[str, Array]] = []
        with np.errstate(divide="ignore", invalid="ignore"):
            for first in range(0, copies.shape[1], step):
                rows, hits = (counts @ copies[:, first : first + step] for counts in (self.rows, self.hits))
                parts.append({name: v for each in measures for name, v in each(self, rows, hits).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _metrics(counts: BootstrapCounts, rows: Array, hits: Array) -> dict[str, Array]:
    k, tp = np.cumsum(rows, axis=0), np.cumsum(hits, axis=0)
    n, p = rows.sum(axis=0), hits.sum(axis=0)
    q, at = n - p, counts.n_predicted
    tp_at, k_at = (tp[at - 1], k[at - 1]) if at else (0 * p, 0 * p)
    cells = {"tp": tp_at, "fp": k_at - tp_at, "fn": p - tp_at, "tn": q - (k_at - tp_at)}
    # Before the first value that was drawn k is 0, and so is tp.
    precision = np.divide(tp, k, out=np.zeros_like(k), where=k > 0)
    below = q - (k - tp) + (rows - hits) / 2  # negatives below a value, ties half
    return {
        **ratios(**cells),
        **cells,
        "roc_auc": (hits * below).sum(axis=0) / (p * q),
        "average_precision": (hits * precision).sum(axis=0) / p,
    }


def _means(counts: BootstrapCounts, rows: Array, hits: Array) -> dict[str, Array]:
    scale = np.abs(counts.values).max()
    values, misses = counts.values / scale, rows - hits
    n, p, q = rows.sum(axis=0), hits.sum(axis=0), misses.sum(axis=0)
    centred = values[:, None] - values @ rows / n
    difference = values @ hits / p - values @ misses / q
    deviation = np.sqrt((rows * centred**2).sum(axis=0) / n)
    constant = np.count_nonzero(rows, axis=0) == 1
    correlation = np.where(constant, np.nan, difference * np.sqrt(p * q) / n / deviation)
    return {"mean_difference": difference * scale, "point_biserial": correlation}


def evaluate(scores: Array, truth: Array, threshold: float) -> dict[str, float | int]:
    """Every one of `METRICS` for scores, float64 (n,), and their truth, bool (n,)."""
    counts = BootstrapCounts.of_column(scores, truth, np.zeros(len(scores), np.int64), 1, threshold)
    values = {name: float(value[0]) for name, value in counts.metrics(np.ones((1, 1))).items()}
    return {name: int(values[name]) if name in COUNTS else values[name] for name in METRICS}
