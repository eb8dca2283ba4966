"""Several features at once: OR and mean of the best, and a sparse logistic probe on all."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.detection.choose import FeatureThresholds
from saestore.detection.evaluation import Evaluation, Row
from saestore.detection.inputs import FIT, Inputs, Split
from saestore.errors import require
from saestore.scoring.thresholds import NO_THRESHOLD, Threshold, f1_at
from saestore.sparse_rows import Array

if TYPE_CHECKING:
    import scipy.sparse


METHODS = ("or", "mean")
# Inverse strengths of the penalty; the best on the calibration split is chosen, of equal ones the sparsest.
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)
_MAX_ITER = 1000


def combined(evaluation: Evaluation, candidates: FeatureThresholds) -> list[Row]:
    """Rows of `METHODS` for each concept with two candidates or more.

    Each feature is divided by its own threshold, so that 1 means the same for all. ``or`` predicts positive where any
    of the best k features reaches 1; ``mean`` uses their mean, with a threshold above 0 of its own. That threshold and
    k, from 2 on, are chosen by F1 on the calibration split; of equal ones the fewest features.

    Memory: the candidates' scores for one concept.
    """
    rows = []
    for concept in np.unique(candidates.concept).tolist():
        one = candidates.take(np.flatnonzero(candidates.concept == concept))
        if len(one) < 2:
            continue
        cal, test = (_in_thresholds(evaluation.inputs, split, one) for split in (evaluation.cal, evaluation.test))
        for method in METHODS:
            # `max` returns the first of equal ones.
            tried = ((k, _threshold(evaluation, concept, method, cal[:k])) for k in range(2, len(one) + 1))
            k, threshold = max(tried, key=lambda pair: pair[1].f1)
            features = one.feature[:k].tolist()
            rows.append(evaluation.row(concept, method, threshold, _pool(method, test[:k]), features=features))
    return rows


def _in_thresholds(inputs: Inputs, split: Split, one: FeatureThresholds) -> Array:
    """Scores of units in multiples of each candidate's threshold, float64 (n_candidates, n_units)."""
    multiples = np.empty((len(one), len(split.units)))
    for feature, _, scores in inputs.columns(split, one.feature):
        i = int(np.flatnonzero(one.feature == feature)[0])
        multiples[i] = scores / one.threshold[i]  # in float64, 1 or more exactly where the threshold is reached
    return multiples


def _pool(method: str, scores: Array) -> Array:
    pooled: Array = scores.max(axis=0) if method == "or" else scores.mean(axis=0)
    return pooled


def _threshold(evaluation: Evaluation, concept: int, method: str, cal: Array) -> Threshold:
    pooled = _pool(method, cal)
    if method == "mean":
        return evaluation.best_between(concept, pooled, above=0.0)
    known = evaluation.cal.known(concept)
    return Threshold(float(f1_at(pooled[known], evaluation.cal.truth(concept)[known], np.ones(1))[0]), 1.0)


def probes(evaluation: Evaluation, features: Array) -> tuple[list[Row], dict[str, str]]:
    """Rows of the method ``probe``, and why a concept has none.

    Features are scaled to a maximum of 1 on `fit_on`, where the probe is fitted; its strength and its threshold are
    chosen by F1 on the calibration split.

    Memory: the scores above 0 of all units, 12 bytes each, three times.
    """
    inputs, train = evaluation.inputs, evaluation.inputs.of(FIT)
    matrices = [_matrix(inputs, split, features) for split in (train, evaluation.cal, evaluation.test)]
    largest = matrices[0].max(axis=0).toarray().ravel() if len(train.units) else np.zeros(len(features))
    used = np.flatnonzero(largest > 0)
    x_train, x_cal, x_test = (_scaled(m, used, largest) for m in matrices)
    rows, skipped = [], {}
    for concept, name in enumerate(inputs.names):
        known = train.known(concept)
        y = train.truth(concept)[known]
        if not y.any() or y.all() or not len(used) or not evaluation.cal.n_positive[concept]:
            skipped[f"{name} (probe)"] = "it is true of all or none of fit_on, or of none of choose_on"
            continue
        best: tuple[Threshold, float, Any] = NO_THRESHOLD, 0.0, None
        for strength in STRENGTHS:
            model = _fit(x_train[np.flatnonzero(known)], y, strength, evaluation.options.seed)
            threshold = evaluation.best_between(concept, model.decision_function(x_cal))
            if best[2] is None or threshold.f1 > best[0].f1:
                best = threshold, strength, model
        threshold, strength, model = best
        chosen = features[used][np.flatnonzero(model.coef_[0])].tolist()
        unfinished = ", not converged" if int(np.max(model.n_iter_)) >= _MAX_ITER else ""
        setting = f"C={strength:g}, {len(chosen)} features{unfinished}"
        scores = model.decision_function(x_test)
        rows.append(evaluation.row(concept, "probe", threshold, scores, features=chosen, setting=setting))
    return rows, skipped


def _matrix(inputs: Inputs, split: Split, features: Array) -> scipy.sparse.csr_array:
    """Scores above 0, units x features, float32."""
    import scipy.sparse as sp

    blocks = [sp.csc_array((len(split.units), 0), dtype=np.float32)]
    for lists in inputs.lists(split, features):
        units = inputs.unit_lists(split, lists)
        shape = len(split.units), len(lists.features)
        blocks.append(sp.csc_array((units.data.astype(np.float32), units.samples, units.indptr), shape))
    return sp.csr_array(sp.hstack(blocks))


def _scaled(matrix: Any, used: Array, largest: Array) -> scipy.sparse.csr_array:
    import scipy.sparse as sp

    scaled = sp.csr_array(matrix[:, used] @ sp.diags_array(1 / largest[used].astype(np.float64)))
    # liblinear needs indices of 32 bits.
    scaled.indices, scaled.indptr = scaled.indices.astype(np.int32), scaled.indptr.astype(np.int32)
    return scaled


def _fit(x: Any, y: Array, strength: float, seed: int) -> Any:
    linear = scikit_learn("linear_model")
    import sklearn
    from sklearn.exceptions import ConvergenceWarning

    # From 1.8 on `penalty` is deprecated in favour of `l1_ratio`.
    newer = tuple(int(part) for part in sklearn.__version__.split(".")[:2]) >= (1, 8)
    kind: dict[str, Any] = {"l1_ratio": 1.0} if newer else {"penalty": "l1"}
    model = linear.LogisticRegression(
        C=strength, solver="liblinear", class_weight="balanced", max_iter=_MAX_ITER, random_state=seed, **kind
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `setting` reports it
        return model.fit(x, y)


def scikit_learn(module: str) -> Any:
    """A module of scikit-learn, or a `MissingDependencyError`."""
    return require(f"sklearn.{module}", "detect", "this method")
