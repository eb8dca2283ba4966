"""Where in a detected item the concept is: which of its samples, and where the strongest activations fall."""

from __future__ import annotations

from typing import Any

import numpy as np

from saestore.detection.choose import FeatureThresholds
from saestore.detection.evaluation import Evaluation
from saestore.detection.inputs import CALIBRATION, Inputs, Split
from saestore.detection.report import Row
from saestore.scoring.quantile_thresholds import f1_at, middle_best

Array = np.ndarray[Any, Any]

STRONGEST = (1, 5, 10)  # percent of the samples on which a feature is above 0


def localise(inputs: Inputs, evaluation: Evaluation, chosen: FeatureThresholds, p: Array) -> list[Row]:
    """A row for each chosen feature whose concept is labelled on samples.

    In the items that the feature detects, the samples at or above a second threshold are said to be the concept's. It
    is the quantile of a p not below that of the detection, the one with the best F1 over the samples of detected
    calibration items. The results are over the samples of detected test items.

    Memory: two columns over a split.
    """
    if inputs.sample_labels is None:
        return []
    # A feature may be chosen by the mean of items and still never be above 0 on the samples that are the concept's.
    chosen = chosen.take(np.flatnonzero(inputs.from_samples[chosen.concept] & (chosen.n_rows > 0)))
    seconds: dict[int, dict[str, float]] = {}
    split = inputs.of(CALIBRATION)
    for feature, column, scores in inputs.columns(split, chosen.feature):
        for i in np.flatnonzero(chosen.feature == feature).tolist():
            seconds[i] = _second(inputs, split, (column, scores), chosen.take(np.array([i])), p)
    found: dict[int, Row] = {}
    for feature, column, scores in inputs.columns(evaluation.split, chosen.feature):
        for i in np.flatnonzero(chosen.feature == feature).tolist():
            found[i] = _measure(inputs, evaluation, (column, scores), chosen.take(np.array([i])), seconds[i])
    return [found[i] for i in range(len(chosen))]


def _second(
    inputs: Inputs, split: Split, scored: tuple[Array, Array], one: FeatureThresholds, p: Array
) -> dict[str, float]:
    """The p and threshold of the samples, chosen on the calibration split."""
    column, scores = scored
    truth = inputs.positive_rows(split, int(one.concept[0]))
    allowed = p[p >= one.p[0]]
    active = column[truth & (column > 0)]
    thresholds = np.quantile(active, 1 - allowed)
    inside = (scores >= one.threshold[0])[split.item_of_row]
    some = bool((truth & inside).any())
    f1 = f1_at(column[inside], truth[inside], thresholds) if some else np.zeros(len(allowed))
    at = int(middle_best(f1[None])[0])
    return {"p2": float(allowed[at]), "threshold2": float(thresholds[at]), "cal_f1": float(f1[at])}


def _measure(
    inputs: Inputs,
    evaluation: Evaluation,
    scored: tuple[Array, Array],
    one: FeatureThresholds,
    second: dict[str, float],
) -> Row:
    column, scores = scored
    split, concept = evaluation.split, int(one.concept[0])
    truth = inputs.positive_rows(split, concept)
    detected = scores >= one.threshold[0]
    item = split.item_of_row
    inside, predicted = detected[item], column >= second["threshold2"]
    parts = {"tp": truth & predicted, "fp": ~truth & predicted, "fn": truth & ~predicted}
    counts = {name: np.bincount(item[part & inside], minlength=len(split.items)) for name, part in parts.items()}
    total = {name: int(count.sum()) for name, count in counts.items()}
    return {
        "concept": inputs.names[concept],
        "feature": int(one.feature[0]),
        "p": float(one.p[0]),
        "threshold": float(one.threshold[0]),
        **second,
        "n_detected": int(detected.sum()),
        "n_samples": int(inside.sum()),
        **total,
        **{name: float(value) for name, value in overlap(**{k: np.array(v) for k, v in total.items()}).items()},
        **evaluation.draws.ends_of(counts, overlap),
        **strongest(column, truth),
    }


def overlap(tp: Array, fp: Array, fn: Array) -> dict[str, Array]:
    """Precision, recall, F1 and IoU of counts; 0 where positives are missed altogether, NaN where there are none."""
    tp, fp, fn = (np.asarray(x, np.float64) for x in (tp, fp, fn))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "precision": np.where(tp + fp > 0, tp / (tp + fp), 0.0),
            "recall": tp / (tp + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "iou": tp / (tp + fp + fn),
        }
    return {name: np.where(tp + fn > 0, values, np.nan) for name, values in found.items()}


def strongest(column: Array, truth: Array) -> dict[str, float]:
    """Of the strongest percents of the samples above 0, the share that is the concept's; ties at the end count too."""
    order = np.argsort(-column, kind="stable")
    n_active = int((column > 0).sum())
    found = {}
    for percent in STRONGEST:
        last = -(-n_active * percent // 100) - 1
        chosen = column >= column[order[last]] if n_active else np.zeros(len(column), bool)
        found[f"top_{percent}"] = float(truth[chosen].mean()) if n_active else float("nan")
    return found
