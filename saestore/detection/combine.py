"""Several features at once, any of them or their mean: the best single ones on the calibration split."""

from __future__ import annotations

from typing import Any

import numpy as np

from saestore.detection.choose import Candidates
from saestore.detection.dense import Cut, best_split, f1_at
from saestore.detection.evaluation import Evaluation
from saestore.detection.inputs import CALIBRATION, Inputs, Split
from saestore.detection.results import Row

Array = np.ndarray[Any, Any]

METHODS = ("or", "mean")


def combined(inputs: Inputs, evaluation: Evaluation, candidates: Candidates) -> list[Row]:
    """Rows of `METHODS` for each concept with two candidates or more.

    Every feature is divided by its own threshold, so that 1 means the same of all. ``or`` predicts positive what any of
    the best k reaches 1 on; ``mean`` takes their mean, with a threshold of its own. That one and k, from 2 on, are
    chosen by F1 on the calibration split; of equal ones the fewest features.

    Memory: the candidates' scores of one concept.
    """
    rows = []
    split = inputs.of(CALIBRATION)
    for concept in np.unique(candidates.concept).tolist():
        own = candidates.of(concept)
        if len(own) < 2:
            continue
        cal, test = (_in_thresholds(inputs, some, own) for some in (split, evaluation.split))
        for method, (k, cut) in zip(METHODS, _choose(cal, split.truth(concept)), strict=True):
            pooled = _pool(method, test[:k])
            about: dict[str, Any] = {"features": own.feature[:k].tolist(), "threshold": cut.threshold, "cal_f1": cut.f1}
            rows.append(evaluation.row(concept, method, pooled, about))
    return rows


def _in_thresholds(inputs: Inputs, split: Split, own: Candidates) -> Array:
    """Scores of units in multiples of each candidate's threshold, float64 (n_candidates, n_units)."""
    found = np.empty((len(own), len(split.units)))
    for feature, _, scores in inputs.columns(split, own.feature):
        i = int(np.flatnonzero(own.feature == feature)[0])
        found[i] = scores / own.threshold[i]  # in float64 this is 1 or more exactly where the threshold is reached
    return found


def _pool(method: str, scores: Array) -> Array:
    found: Array = scores.max(axis=0) if method == "or" else scores.mean(axis=0)
    return found


def _choose(cal: Array, truth: Array) -> list[tuple[int, Cut]]:
    """Number of features and threshold of each of `METHODS`."""
    best: list[tuple[int, Cut]] = []
    for method in METHODS:
        chosen: tuple[int, Cut] | None = None
        for k in range(2, len(cal) + 1):
            pooled = _pool(method, cal[:k])
            if method == "or":
                cut: Cut | None = Cut(float(f1_at(pooled, truth, np.ones(1))[0]), float("nan"), 1.0)
            else:
                cut = best_split(pooled, truth)
            if cut is not None and (chosen is None or cut.f1 > chosen[1].f1):
                chosen = k, cut
        if chosen is None:
            raise RuntimeError("candidates have no positive unit above 0")
        best.append(chosen)
    return best
