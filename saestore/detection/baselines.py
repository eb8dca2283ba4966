"""The ways before SAEs, on the same embeddings, items, splits and metrics as the features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from saestore.detection.dense import Cut, best_cut, best_split
from saestore.detection.embedded import Embedded
from saestore.detection.evaluation import Evaluation
from saestore.detection.inputs import CALIBRATION, TRAIN, Inputs, Split
from saestore.detection.pooling import Pooling
from saestore.detection.results import Row
from saestore.detection.vectors import Drawn, Vectors, clusters, difference_of_means, separators

Array = np.ndarray[Any, Any]

METHODS = ("difference", "logistic", "svm", "k-means")
# How an item is scored by the samples' cosines with the difference of means, beside the score of the others.
AGGREGATIONS = ("mean", "last", "random")
N_CLUSTERS = 64


def baselines(
    inputs: Inputs, evaluation: Evaluation, embedded: Embedded, p: Array, seed: int
) -> tuple[list[Row], dict[str, str]]:
    """Rows of `METHODS`, and at the level of items of the difference of means by `AGGREGATIONS`.

    Vectors are made on train. The threshold is a ``1 - p`` quantile of the scores of the concept's positive calibration
    samples, chosen by F1 on the calibration split as for features; where a threshold between two calibration scores
    does better there, that one is taken. So is the cluster of a concept.

    Memory: 4 bytes for each row of a split and vector, for one method at a time, and what `Drawn.of` says.
    """
    inputs.need(TRAIN)
    rows: list[Row] = []
    train = inputs.of(TRAIN)
    labels = inputs.row_labels(train)
    n_positive = np.asarray(labels.astype(np.int64).sum(axis=0)).ravel()
    learnable = (n_positive > 0) & (n_positive < len(train.rows))
    with_cal = inputs.of(CALIBRATION).n_positive > 0
    for method, vectors in _made(embedded, train, inputs, seed):
        cal = embedded.scores(inputs.of(CALIBRATION), vectors)
        test = embedded.scores(evaluation.split, vectors)
        for c in np.flatnonzero(with_cal & (learnable | (method == "k-means"))).tolist():
            some = np.arange(len(vectors)) if method == "k-means" else np.array([c])
            rows.append(_best(inputs, evaluation, c, (method, vectors.setting), (cal[:, some], test[:, some]), p=p))
            if method == "difference" and inputs.level == "item":
                rows += _aggregated(inputs, evaluation, c, (cal[:, c], test[:, c]), seed)
    skipped = {
        f"{inputs.names[c]} (concept vectors)": "it is true of all or none of the samples of train"
        for c in np.flatnonzero(with_cal & ~learnable).tolist()
    }
    return rows, skipped


def _made(embedded: Embedded, train: Split, inputs: Inputs, seed: int) -> Iterator[tuple[str, Vectors]]:
    labels = inputs.row_labels(train)
    yield "difference", difference_of_means(embedded, train, labels)
    drawn = Drawn.of(embedded, train, labels, seed)
    for kind in ("logistic", "svm"):
        yield kind, separators(drawn, kind, seed)
    yield "k-means", clusters(drawn, N_CLUSTERS, seed)


def _best(
    inputs: Inputs,
    evaluation: Evaluation,
    concept: int,
    named: tuple[str, str],
    columns: tuple[Array, Array],
    *,
    p: Array,
) -> Row:
    """The best of some vectors on the calibration split, measured on test; of equal ones the first."""
    split = inputs.of(CALIBRATION)
    truth, is_row = split.truth(concept), inputs.positive_rows(split, concept)
    best: tuple[Cut, int] | None = None
    for i in range(columns[0].shape[1]):
        column = columns[0][:, i].astype(np.float64)
        units = inputs.unit_scores(split, column)
        by_samples = inputs.level == "sample" or inputs.pooling.is_activation
        cut = best_cut(units, truth, p, column[is_row] if by_samples else units[truth])
        other = best_split(units, truth)
        if cut is None or (other is not None and other.f1 > cut.f1):
            cut = other
        if cut is not None and (best is None or cut.f1 > best[0].f1):
            best = cut, i
    if best is None:
        raise RuntimeError("a concept with positives has a threshold")
    cut, i = best
    setting = named[1] if columns[0].shape[1] == 1 else f"{named[1]}, cluster {i}"
    about = {"p": _none(cut.p), "threshold": cut.threshold, "cal_f1": cut.f1, "setting": setting}
    scores = inputs.unit_scores(evaluation.split, columns[1][:, i].astype(np.float64))
    return evaluation.row(concept, named[0], scores, about)


def _aggregated(
    inputs: Inputs, evaluation: Evaluation, concept: int, columns: tuple[Array, Array], seed: int
) -> list[Row]:
    """The difference of means with items scored in other ways; the threshold is on these scores."""
    rows, truth = [], inputs.of(CALIBRATION).truth(concept)
    for name in AGGREGATIONS:
        if name == inputs.pooling.name:
            continue
        cal, test = (
            aggregate(column.astype(np.float64), split.starts, name, seed)
            for column, split in zip(columns, (inputs.of(CALIBRATION), evaluation.split), strict=True)
        )
        cut = best_split(cal, truth)
        if cut is not None:
            about = {"threshold": cut.threshold, "cal_f1": cut.f1, "setting": f"cosine, {name} of an item's samples"}
            rows.append(evaluation.row(concept, f"difference, {name}", test, about))
    return rows


def of_cls(inputs: Inputs, evaluation: Evaluation, embedded: Embedded) -> list[Row]:
    """The difference of means of one embedding an item, that of its CLS token; the threshold is on its cosines.

    Memory: 4 bytes for each item of a split and concept.
    """
    inputs.need(TRAIN)
    train, cal, test = (_one_an_item(split) for split in (inputs.of(TRAIN), inputs.of(CALIBRATION), evaluation.split))
    vectors = difference_of_means(embedded, train, train.labels.tocsr())
    scores, seen = embedded.scores(cal, vectors), embedded.scores(test, vectors)
    rows = []
    for c in np.flatnonzero((train.n_positive > 0) & (train.n_positive < len(train.items))).tolist():
        cut = best_split(scores[:, c].astype(np.float64), cal.truth(c))
        if cut is not None:
            about = {"threshold": cut.threshold, "cal_f1": cut.f1, "setting": "cosine, the CLS embedding of an item"}
            rows.append(evaluation.row(c, "difference, cls", seen[:, c].astype(np.float64), about))
    return rows


def _one_an_item(split: Split) -> Split:
    """The same items with one row each, numbered as they are."""
    return replace(split, rows=split.items, starts=np.arange(len(split.items)))


def aggregate(column: Array, starts: Array, name: str, seed: int) -> Array:
    """Scores of items, float64: the mean of their samples, the last one, or one drawn."""
    if name == "mean":
        return Pooling.of("mean").of_column(column, starts)
    sizes = np.diff(starts, append=len(column))
    place = sizes - 1 if name == "last" else np.random.default_rng(seed).integers(0, sizes)
    found: Array = column[starts + place]
    return found


def _none(p: float) -> float | None:
    return None if np.isnan(p) else p
