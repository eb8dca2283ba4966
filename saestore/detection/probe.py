"""The upper bound: a sparse logistic probe on the scores of all features that are left."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.detection.evaluation import Evaluation
from saestore.detection.inputs import CALIBRATION, TRAIN, Inputs, Split
from saestore.detection.report import Row
from saestore.errors import MissingDependencyError
from saestore.scoring.quantile_thresholds import Cut, best_split

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]

# Inverse strength of the penalty; the best on the calibration split is taken, of equal ones the sparsest.
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)
_MAX_ITER = 1000


def probes(inputs: Inputs, evaluation: Evaluation, features: Array, seed: int) -> tuple[list[Row], dict[str, str]]:
    """Rows of the method ``probe``, and why a concept has none.

    Features are scaled to a maximum of 1 on train, where the probe is fitted; its strength and its threshold are
    chosen by F1 on the calibration split.

    Memory: the scores above 0 of all units, 12 bytes each, three times.
    """
    train, split = inputs.of(TRAIN), inputs.of(CALIBRATION)
    matrices = [_matrix(inputs, part, features) for part in (train, split, evaluation.split)]
    largest = matrices[0].max(axis=0).toarray().ravel() if len(train.units) else np.zeros(len(features))
    used = np.flatnonzero(largest > 0)
    x_train, x_cal, x_test = (_scaled(m, used, largest) for m in matrices)
    rows, skipped = [], {}
    for concept, name in enumerate(inputs.names):
        truth, y = split.truth(concept), train.truth(concept)
        if not y.any() or y.all() or not len(used) or not truth.any():
            skipped[f"{name} (probe)"] = f"it is true of all or none of the {inputs.level}s of train, or of none of cal"
            continue
        best: tuple[Cut, float, Any] | None = None
        for strength in STRENGTHS:
            model = _fit(x_train, y, strength, seed)
            scores = model.decision_function(x_cal)
            cut = best_split(scores, truth)
            if cut is not None and (best is None or cut.f1 > best[0].f1):
                best = cut, strength, model
        if best is not None:
            rows.append(_row(evaluation, concept, x_test, features[used], best))
    return rows, skipped


def _row(evaluation: Evaluation, concept: int, x_test: Any, ids: Array, best: tuple[Cut, float, Any]) -> Row:
    cut, strength, model = best
    chosen = ids[np.flatnonzero(model.coef_[0])].tolist()
    setting = f"C={strength:g}, {len(chosen)} features"
    if int(np.max(model.n_iter_)) >= _MAX_ITER:
        setting += ", not converged"
    about = {"threshold": cut.threshold, "cal_f1": cut.f1, "features": chosen, "setting": setting}
    return evaluation.row(concept, "probe", model.decision_function(x_test), about)


def _matrix(inputs: Inputs, split: Split, features: Array) -> scipy.sparse.csr_array:
    """Scores above 0 of units, units x features, float32."""
    import scipy.sparse as sp

    sizes = np.diff(split.starts, append=len(split.rows))
    blocks = []
    for lists in inputs.blocks(split, features):
        positive = lists
        if inputs.level == "item":
            items = split.item_of_row[lists.samples]
            indptr, units, values = inputs.pooling.of_lists(lists.indptr, items, lists.data, sizes)
        else:
            positive = lists.keep(lists.data > 0)
            indptr, units, values = positive.indptr, positive.samples, positive.data
        shape = len(split.units), len(lists.features)
        blocks.append(sp.csc_array((values.astype(np.float32), units, indptr), shape))
    if not blocks:
        return sp.csr_array((len(split.units), 0), dtype=np.float32)
    return sp.csr_array(sp.hstack(blocks))


def _scaled(matrix: Any, used: Array, largest: Array) -> scipy.sparse.csr_array:
    import scipy.sparse as sp

    scaled = sp.csr_array(matrix[:, used] @ sp.diags_array(1 / largest[used].astype(np.float64)))
    # liblinear wants indices of 32 bits.
    scaled.indices, scaled.indptr = scaled.indices.astype(np.int32), scaled.indptr.astype(np.int32)
    return scaled


def _fit(x: Any, y: Array, strength: float, seed: int) -> Any:
    linear = scikit_learn("linear_model")
    import sklearn
    from sklearn.exceptions import ConvergenceWarning

    # From 1.8 on `penalty` is spoken of as l1_ratio, and warns.
    newer = tuple(int(part) for part in sklearn.__version__.split(".")[:2]) >= (1, 8)
    kind: dict[str, Any] = {"l1_ratio": 1.0} if newer else {"penalty": "l1"}
    model = linear.LogisticRegression(
        C=strength, solver="liblinear", class_weight="balanced", max_iter=_MAX_ITER, random_state=seed, **kind
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the row says so
        return model.fit(x, y)


def scikit_learn(module: str) -> Any:
    """A module of scikit-learn.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    import importlib

    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as e:
        raise MissingDependencyError(
            f"This method needs scikit-learn ({e}); pip install 'saestore[detect]', or leave the method out."
        ) from e
