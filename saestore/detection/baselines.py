"""The ways before SAEs, on the same embeddings, items, splits and metrics as the features."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.detection.embeddings import EmbeddingReader
from saestore.detection.inputs import Split
from saestore.detection.probe import scikit_learn

if TYPE_CHECKING:
    import scipy.sparse

from collections.abc import Iterator
from dataclasses import replace

from saestore.detection.evaluation import Evaluation
from saestore.detection.inputs import CALIBRATION, TRAIN, Inputs
from saestore.detection.report import Row
from saestore.scoring.pooling import Pooling
from saestore.scoring.quantile_thresholds import Cut, best_cut, best_split

Array = np.ndarray[Any, Any]

METHODS = ("difference", "logistic", "svm", "k-means")
# How an item is scored by the samples' cosines with the difference of means, beside the score of the others.
AGGREGATIONS = ("mean", "last", "random")
N_CLUSTERS = 64


def baselines(
    inputs: Inputs, evaluation: Evaluation, embedded: EmbeddingReader, p: Array, seed: int
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


def _made(embedded: EmbeddingReader, train: Split, inputs: Inputs, seed: int) -> Iterator[tuple[str, Vectors]]:
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


def of_cls(inputs: Inputs, evaluation: Evaluation, embedded: EmbeddingReader) -> list[Row]:
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


_ALL = 50_000  # train rows that are all taken for separators and clusters; of more, a draw
_POSITIVE, _ANY = 500, 20_000  # of a draw: positive rows of each concept, and rows of whatever kind
_MAX_ITER = 1000


@dataclass(frozen=True)
class Vectors:
    """Directions in the space of the embeddings.

    Attributes
    ----------
    directions
        float64 (n_vectors, width), NaN for a concept that none can be made of.
    centre
        Taken from the embeddings first, (width,).
    offsets
        Added to the distances; None for cosines.
    setting
        What was chosen, for the report.
    """

    directions: Array
    centre: Array
    offsets: Array | None
    setting: str

    def __len__(self) -> int:
        return len(self.directions)

    def score(self, rows: Array) -> Array:
        """Cosines, or signed distances, of rows, float64 (n_rows, n_vectors)."""
        centred = rows - self.centre
        lengths = np.linalg.norm(self.directions, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            along: Array = centred @ (self.directions / np.where(lengths > 0, lengths, 1.0)[:, None]).T
            if self.offsets is not None:
                distances: Array = along + self.offsets / lengths
                return distances
            norms = np.linalg.norm(centred, axis=1, keepdims=True)
            cosines: Array = np.where(norms > 0, along / norms, 0.0)
            return cosines


def difference_of_means(embedded: EmbeddingReader, train: Split, labels: scipy.sparse.csr_array) -> Vectors:
    """Mean of the positive train rows minus that of the others; by cosine, around the mean of all. Reads all rows."""
    width, n_concepts = embedded.width, labels.shape[1]
    total, positive = np.zeros(width), np.zeros((n_concepts, width))
    for where, block in embedded.blocks(train.rows):
        total += block.sum(axis=0)
        positive += labels[where].astype(np.float64).T @ block
    counts = np.asarray(labels.astype(np.int64).sum(axis=0)).ravel()
    n = len(train.rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        directions = positive / counts[:, None] - (total - positive) / (n - counts)[:, None]
    return Vectors(directions, total / n, None, f"cosine, {n:,} train samples")


@dataclass(frozen=True)
class Drawn:
    """Train rows in memory: all, or so many that each concept has some; scaled to mean 0 and deviation 1."""

    rows: Array
    labels: Array
    mean: Array
    deviation: Array

    @classmethod
    def of(cls, embedded: EmbeddingReader, train: Split, labels: scipy.sparse.csr_array, seed: int) -> Drawn:
        """Memory: at most 20,000 rows and 500 for each concept, or 50,000, in float32."""
        chosen = np.arange(len(train.rows))
        if len(chosen) > _ALL:
            rng, columns = np.random.default_rng(seed), labels.tocsc()
            parts = [rng.choice(chosen, _ANY, replace=False)]
            for c in range(labels.shape[1]):
                own = columns.indices[columns.indptr[c] : columns.indptr[c + 1]]
                parts.append(rng.choice(own, min(len(own), _POSITIVE), replace=False))
            chosen = np.unique(np.concatenate(parts))
        rows = embedded.take(train.rows[chosen])
        mean, deviation = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
        deviation[deviation == 0] = 1
        rows -= mean.astype(np.float32)
        rows /= deviation.astype(np.float32)
        return cls(rows, labels[chosen].toarray().astype(bool), mean, deviation)


def separators(drawn: Drawn, kind: str, seed: int) -> Vectors:
    """A linear separator for each concept, ``logistic`` or ``svm``; by signed distance."""
    from sklearn.exceptions import ConvergenceWarning

    n_concepts, width = drawn.labels.shape[1], drawn.rows.shape[1]
    directions, offsets = np.full((n_concepts, width), np.nan), np.full(n_concepts, np.nan)
    unfinished = 0
    for c in range(n_concepts):
        truth = drawn.labels[:, c]
        if not truth.any() or truth.all():
            continue
        model = _separator(kind, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the setting says so
            model.fit(drawn.rows, truth)
        unfinished += int(np.max(model.n_iter_)) >= _MAX_ITER
        directions[c], offsets[c] = model.coef_[0] / drawn.deviation, model.intercept_[0]
    setting = f"signed distance, {len(drawn.rows):,} train samples"
    return Vectors(directions, drawn.mean, offsets, setting + (f", {unfinished} not converged" if unfinished else ""))


def _separator(kind: str, seed: int) -> Any:
    if kind == "logistic":
        return scikit_learn("linear_model").LogisticRegression(class_weight="balanced", max_iter=_MAX_ITER)
    # Chosen for speed: with 0.01 and the default tolerance a fit takes some ten times as long. Not tuned on any split.
    return scikit_learn("svm").LinearSVC(
        C=1e-3, tol=1e-2, dual=False, class_weight="balanced", max_iter=_MAX_ITER, random_state=seed
    )


def clusters(drawn: Drawn, n_clusters: int, seed: int) -> Vectors:
    """Centres of k-means around the mean of all; by cosine. Which one is a concept's is not known yet."""
    n = min(n_clusters, len(drawn.rows))
    model = scikit_learn("cluster").MiniBatchKMeans(n, random_state=seed, n_init=3, batch_size=4096)
    model.fit(drawn.rows)
    directions = model.cluster_centers_.astype(np.float64) * drawn.deviation
    return Vectors(directions, drawn.mean, None, f"cosine, {n} clusters of {len(drawn.rows):,} train samples")
