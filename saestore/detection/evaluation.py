"""Results on the test split of what was chosen without it."""

from __future__ import annotations

from typing import Any

import numpy as np

from saestore.detection.choose import FeatureThresholds
from saestore.detection.inputs import TEST, Inputs
from saestore.detection.report import Row
from saestore.scoring.bootstrap import BootstrapSampler
from saestore.scoring.metrics import evaluate

Array = np.ndarray[Any, Any]


class Evaluation:
    """The test split, and the draws that all results share."""

    def __init__(self, inputs: Inputs, n_resamples: int, confidence_level: float, seed: int) -> None:
        self.inputs = inputs
        self.split = inputs.of(TEST)
        self.draws = BootstrapSampler(self.split.draws_of(), len(self.split.items), n_resamples, confidence_level, seed)

    def of_features(self, chosen: FeatureThresholds) -> list[Row]:
        """A row for each candidate. Memory: a column of the split at a time."""
        rows = []
        for feature, _, scores in self.inputs.columns(self.split, chosen.feature):
            for i in np.flatnonzero(chosen.feature == feature):
                about = {
                    "feature": int(feature),
                    "features": [int(feature)],
                    "p": float(chosen.p[i]),
                    "threshold": float(chosen.threshold[i]),
                    "cal_f1": float(chosen.f1[i]),
                }
                rows.append(self.row(int(chosen.concept[i]), "feature", scores, about))
        return rows

    def row(self, concept: int, method: str, scores: Array, chosen: dict[str, Any]) -> Row:
        """One result.

        Parameters
        ----------
        scores
            Of every unit of the split, float64.
        chosen
            ``threshold``, which what scores as much or more reaches, ``cal_f1``, and ``feature`` and ``p`` if any.
        """
        truth, predicted = self.split.truth(concept), scores >= chosen["threshold"]
        return {
            "concept": self.inputs.names[concept],
            "method": method,
            "feature": None,
            "features": [],
            "setting": None,
            "p": None,
            **chosen,
            "n_positive": int(truth.sum()),
            "n_negative": int((~truth).sum()),
            **evaluate(scores, truth, predicted),
            **self.draws.intervals(scores, truth, predicted),
        }
