"""Which feature goes with a label, scored on the samples that may be used to choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Detector:
    """A feature with a threshold: positive where the activation is at least that."""

    feature: int
    threshold: float


def f1(predicted: Array, positive: Array) -> float:
    """F1 of predictions, both bool (n,); 0 where there is neither a prediction nor a positive."""
    return 2 * float((predicted & positive).sum()) / max(1, int(predicted.sum() + positive.sum()))


def best_detector(activations: Any, positive: Array) -> Detector:
    """The feature and threshold that detect a label with the highest F1.

    Only an activation above zero can be a threshold: a feature that is silent says nothing.

    Parameters
    ----------
    activations
        scipy sparse, samples x features.
    positive
        Which samples have the label, bool (n_samples,).
    """
    lists = activations.tocsc()
    best = 0.0, Detector(-1, np.inf)
    for feature in range(lists.shape[1]):
        entries = slice(lists.indptr[feature], lists.indptr[feature + 1])
        active = lists.data[entries] > 0
        values, labels = lists.data[entries][active], positive[lists.indices[entries][active]]
        thresholds, hits, predicted = _hits(values, labels)
        scores = 2 * hits / (predicted + positive.sum())
        if len(scores) and scores.max() > best[0]:
            best = scores.max(), Detector(feature, float(thresholds[scores.argmax()]))
    return best[1]


def average_precision(scores: Array, positive: Array) -> Array:
    """Average precision of every feature, as scikit-learn defines it: (n_features,) from (n, n_features) and (n,)."""
    result = np.zeros(scores.shape[1])
    for feature, column in enumerate(scores.T):
        _, hits, predicted = _hits(column, positive)
        result[feature] = (hits / predicted * np.diff(hits, prepend=0)).sum() / max(1, positive.sum())
    return result


def _hits(values: Array, labels: Array) -> tuple[Array, Array, Array]:
    """For each distinct value as threshold, highest first: the value, how many labels it finds, in how many samples."""
    order = np.argsort(-values, kind="stable")
    values, found = values[order], np.cumsum(labels[order])
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True)) if len(values) else np.empty(0, np.int64)
    return values[last], found[last], last + 1
