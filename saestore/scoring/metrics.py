"""How well a prediction, and the score behind it, tell a concept. Pure array functions, equal to scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Name -> what it says. The tables, their documentation and the tests iterate over this.
METRICS: dict[str, str] = {
    "precision": "of what was predicted positive, the share that is",
    "recall": "of the positives, the share that was predicted",
    "accuracy": "share that was predicted right",
    "f1": "harmonic mean of precision and recall",
    "tpr": "true positive rate, the same as recall",
    "fpr": "of the negatives, the share that was predicted positive",
    "tnr": "1 - fpr",
    "fnr": "1 - tpr",
    "tp": "positives that were predicted",
    "fp": "negatives that were predicted positive",
    "tn": "negatives that were not",
    "fn": "positives that were missed",
    "roc_auc": "area under the ROC curve of the score, as `sklearn.metrics.roc_auc_score`",
    "average_precision": "of the score, as `sklearn.metrics.average_precision_score`",
}


def ratios(tp: Array, fp: Array, fn: Array, tn: Array) -> dict[str, Array]:
    """Ratios of counts, float64 of their shape.

    What divides by no positives (recall, F1, tpr, fnr, precision) or by no negatives (fpr, tnr) is NaN. Where there are
    positives and nothing was predicted, precision and F1 are 0, as in scikit-learn with ``zero_division=0``.
    """
    tp, fp, fn, tn = (np.asarray(x, np.float64) for x in (tp, fp, fn, tn))
    positives, negatives, predicted = tp + fn, fp + tn, tp + fp
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "precision": np.where(predicted > 0, tp / predicted, 0.0),
            "recall": tp / positives,
            "accuracy": (tp + tn) / (positives + negatives),
            "f1": 2 * tp / (predicted + positives),
            "tpr": tp / positives,
            "fpr": fp / negatives,
            "tnr": tn / negatives,
            "fnr": fn / positives,
        }
    for name in ("precision", "f1"):
        found[name] = np.where(positives > 0, found[name], np.nan)
    return found


def roc_auc(scores: Array, truth: Array) -> float:
    """Area under the ROC curve; NaN where all or none are true."""
    n_positive = int(truth.sum())
    n_negative = len(truth) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    hits = np.bincount(place[truth], minlength=len(count))
    misses = count - hits
    # Twice the pairs in the right order, ties counting half, in whole numbers.
    twice = (hits * (2 * (np.cumsum(misses) - misses) + misses)).sum()
    return float(twice / (2 * n_positive * n_negative))


def average_precision(scores: Array, truth: Array) -> float:
    """Precision at each threshold, weighted with the recall that it gains; NaN where none are true."""
    n_positive = int(truth.sum())
    if not n_positive:
        return float("nan")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    hits = np.bincount(place[truth], minlength=len(count))[::-1]
    predicted = np.cumsum(count[::-1])
    return float((np.cumsum(hits) / predicted * hits).sum() / n_positive)


def evaluate(scores: Array, truth: Array, predicted: Array) -> dict[str, float | int]:
    """Every one of `METRICS`.

    Parameters
    ----------
    scores
        float64 (n,).
    truth, predicted
        bool (n,).
    """
    tp, fp = int((predicted & truth).sum()), int((predicted & ~truth).sum())
    fn, tn = int(truth.sum()) - tp, int((~truth).sum()) - fp
    counts = {"tp": tp, "fp": fp, "tn": tn, "fn": fn}
    values: dict[str, float | int] = {name: float(v) for name, v in ratios(*map(np.asarray, (tp, fp, fn, tn))).items()}
    values |= counts | {"roc_auc": roc_auc(scores, truth), "average_precision": average_precision(scores, truth)}
    return {name: values[name] for name in METRICS}
