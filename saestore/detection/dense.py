"""Thresholds for scores that are there for every unit: combined features, probes, vectors of embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.detection.choose import middle_best

Array = np.ndarray[Any, Any]


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
