"""Results on the test split of what was chosen without it: of units, and of the samples in detected items."""

from __future__ import annotations

from typing import Any

import numpy as np

from saestore.detection.choose import FeatureThresholds
from saestore.detection.inputs import CHOOSE, REPORT, Inputs, Split
from saestore.detection.options import DetectionOptions
from saestore.scoring.bootstrap import BootstrapSampler
from saestore.scoring.metrics import COUNTS, BootstrapCounts, evaluate
from saestore.scoring.thresholds import Threshold, best_between, f1_at, middle_best, quantiles_of
from saestore.sparse_rows import Array
from saestore.storage import in_order
from saestore.vocabulary import METRICS

Row = dict[str, Any]

_FEW_ROWS = 1 << 20  # of a split, of which a column for each processor is 16 MB
STRONGEST = (1, 5, 10)  # percent of the samples on which a feature is above 0


class Evaluation:
    """The calibration and test splits, and the draws that all results share."""

    def __init__(self, inputs: Inputs, options: DetectionOptions) -> None:
        self.inputs, self.options = inputs, options
        self.cal, self.test = inputs.of(CHOOSE), inputs.of(REPORT)
        draws = options.n_resamples, options.confidence_level, options.seed
        self.sampler = BootstrapSampler(len(self.test.items), *draws)

    def best_between(self, concept: int, scores: Array, above: float = -np.inf) -> Threshold:
        """The best threshold between scores of calibration units whose label is known."""
        known = self.cal.known(concept)
        return best_between(scores[known], self.cal.truth(concept)[known], above)

    def row(self, concept: int, method: str, threshold: Threshold, scores: Array, **chosen: Any) -> Row:
        """One result: a `threshold` from the calibration split, and the `scores` of every test unit, float64.

        `chosen` has ``feature``, ``features`` and ``setting``, if any.
        """
        known = self.test.known(concept)
        scores, truth, items = scores[known], self.test.truth(concept)[known], self.test.item_of_unit[known]
        counts = BootstrapCounts.of_column(scores, truth, items, len(self.test.items), threshold.threshold)
        (ends,) = self.sampler.intervals([counts.metrics])
        return {
            "concept": self.inputs.names[concept],
            "method": method,
            "feature": chosen.get("feature"),
            "features": chosen.get("features", []),
            "setting": chosen.get("setting"),
            "target_recall": None if np.isnan(threshold.target_recall) else threshold.target_recall,
            "threshold": threshold.threshold,
            "cal_f1": threshold.f1,
            "n_positive": int(truth.sum()),
            "n_negative": int((~truth).sum()),
            **evaluate(scores, truth, threshold.threshold),
            **{f"{name}_{end}": ends[f"{name}_{end}"] for name in METRICS if name not in COUNTS for end in _ENDS},
        }

    def of_features(self, chosen: FeatureThresholds) -> list[Row]:
        """A row for each candidate. Memory: a column of the split and 100 MB, of few rows for each processor."""

        def row(part: tuple[int, Array, Array]) -> Row:
            i, _, scores = part
            threshold = Threshold(*(float(a[i]) for a in (chosen.f1, chosen.threshold, chosen.target_recall)))
            concept, feature = int(chosen.concept[i]), int(chosen.feature[i])
            return self.row(concept, "feature", threshold, scores, feature=feature, features=[feature])

        at_once = in_order if len(self.test.rows) <= _FEW_ROWS else map
        return list(at_once(row, self._columns(self.test, chosen)))

    def localise(self, chosen: FeatureThresholds) -> list[Row]:
        """A row for each chosen feature whose concept is labelled on samples. Memory: two columns over a split.

        In detected items, the samples at or above a second threshold are predicted to have the concept. It is the
        quantile of a target recall not below the detection's, with the best F1 over the samples of detected calibration
        items. Results are over the samples of detected test items.
        """
        inputs = self.inputs
        if inputs.sample_labels is None:
            return []
        # A feature may be chosen by the mean of items and still never be above 0 on the samples of the concept.
        chosen = chosen.take(np.flatnonzero(inputs.from_samples[chosen.concept] & (chosen.n_rows > 0)))
        one = [chosen.take(np.array([i])) for i in range(len(chosen))]
        second = {i: self._second(column, scores, one[i]) for i, column, scores in self._columns(self.cal, chosen)}
        of_test = self._columns(self.test, chosen)
        rows = {i: self._located(column, scores, one[i], second[i]) for i, column, scores in of_test}
        return [rows[i] for i in range(len(chosen))]

    def _columns(self, split: Split, chosen: FeatureThresholds) -> Any:
        for feature, column, scores in self.inputs.columns(split, chosen.feature):
            for i in np.flatnonzero(chosen.feature == feature).tolist():
                yield i, column, scores

    def _samples(self, split: Split, concept: int) -> tuple[Array, Array]:
        """Which rows of a split have a concept, and of which that is known."""
        labels, unknown = self.inputs.row_labels(split), self.inputs.row_unknown(split)
        return labels[:, [concept]].toarray()[:, 0], ~unknown[:, [concept]].toarray()[:, 0]

    def _second(self, column: Array, scores: Array, one: FeatureThresholds) -> Threshold:
        """The threshold of samples, chosen on the calibration split."""
        truth, known = self._samples(self.cal, int(one.concept[0]))
        recalls = np.array(self.options.target_recalls)
        recalls = recalls[recalls >= one.target_recall[0]]
        thresholds = quantiles_of(column[truth & (column > 0)], recalls)
        inside = (scores >= one.threshold[0])[self.cal.item_of_row] & known
        f1 = f1_at(column[inside], truth[inside], thresholds) if truth[inside].any() else np.zeros(len(recalls))
        at = int(middle_best(f1[None])[0])
        return Threshold(float(f1[at]), float(thresholds[at]), float(recalls[at]))

    def _located(self, column: Array, scores: Array, one: FeatureThresholds, second: Threshold) -> Row:
        truth, known = self._samples(self.test, int(one.concept[0]))
        detected, item = scores >= one.threshold[0], self.test.item_of_row
        inside, predicted = detected[item] & known, column >= second.threshold
        parts = {"tp": truth & predicted, "fp": ~truth & predicted, "fn": truth & ~predicted}
        counts = {name: np.bincount(item[part & inside], minlength=len(detected)) for name, part in parts.items()}
        total = {name: np.array(count.sum()) for name, count in counts.items()}
        measure = [lambda copies: overlap(**{name: count @ copies for name, count in counts.items()})]
        return {
            "concept": self.inputs.names[int(one.concept[0])],
            "feature": int(one.feature[0]),
            "target_recall": float(one.target_recall[0]),
            "threshold": float(one.threshold[0]),
            "sample_target_recall": second.target_recall,
            "sample_threshold": second.threshold,
            "cal_f1": second.f1,
            "n_detected": int(detected.sum()),
            "n_samples": int(inside.sum()),
            **{name: int(count) for name, count in total.items()},
            **{name: float(value) for name, value in overlap(**total).items()},
            **self.sampler.intervals(measure)[0],
            **strongest(column[known], truth[known]),
        }


_ENDS = ("low", "high")


def overlap(tp: Array, fp: Array, fn: Array) -> dict[str, Array]:
    """Precision, recall, F1 and IoU of counts; 0 where every positive is missed, NaN without positives."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {
            "precision": np.where(tp + fp > 0, tp / (tp + fp), 0.0),
            "recall": tp / (tp + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "iou": tp / (tp + fp + fn),
        }
    return {name: np.where(tp + fn > 0, value, np.nan) for name, value in values.items()}


def strongest(column: Array, truth: Array) -> dict[str, float]:
    """Share of the strongest percents of the samples above 0 that have the concept; ties with the last count too."""
    order, n_active, shares = -np.sort(-column), int((column > 0).sum()), {}
    for percent in STRONGEST:
        chosen = column >= order[-(-n_active * percent // 100) - 1] if n_active else np.zeros(len(column), bool)
        shares[f"top_{percent}"] = float(truth[chosen].mean()) if n_active else float("nan")
    return shares
