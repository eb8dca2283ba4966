"""Methods without an SAE, on the same embeddings, items, splits and metrics as the features."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.detection.evaluation import Evaluation, Row
from saestore.detection.inputs import FIT, Split
from saestore.detection.several import scikit_learn
from saestore.errors import MissingDependencyError
from saestore.query.reader import SetReader
from saestore.scoring.pooling import Pooling
from saestore.scoring.thresholds import Threshold, best_quantile
from saestore.sparse_rows import Array

if TYPE_CHECKING:
    import scipy.sparse

    from saestore.embeddings.base import EmbeddingSource


METHODS = ("difference", "logistic", "svm", "k-means")
# Other scores of an item from the cosines of its samples with the difference of means.
AGGREGATIONS = ("mean", "last", "random")
N_CLUSTERS = 64

_BLOCK = 4096  # embeddings that are read at a time
_ALL = 50_000  # train rows that are all used for separators and clusters; of more, a sample
_POSITIVE, _ANY = 500, 20_000  # of a sample: positive rows of each concept, and rows of any kind
_MAX_ITER = 1000


def open_embeddings(reader: SetReader, embeddings: Any, of_items: bool = False) -> EmbeddingSource:
    """The embeddings of a set's samples, or one for each of its items."""
    try:
        from saestore.embeddings.of_set import check_rows, embeddings_of
        from saestore.embeddings.opening import open_embeddings as open_any
    except ImportError as e:
        raise MissingDependencyError(f"Reading embeddings needs torch ({e}); pip install 'saestore[sae]'.") from e
    if not of_items:
        return embeddings_of(reader, embeddings)
    opened = open_any(embeddings)
    check_rows(opened, reader.n_items, f"items in {reader.path}")
    return opened


def blocks(source: EmbeddingSource, rows: Array) -> Iterator[tuple[slice, Array]]:
    """Ascending rows as float64: where in `rows` a block is, and the block. Memory: 4,096 rows, twice."""
    import torch

    for start in range(0, source.n_rows, _BLOCK):
        stop = min(start + _BLOCK, source.n_rows)
        first, last = np.searchsorted(rows, [start, stop])
        if last > first:
            block = source.read(start, stop).to(torch.float64).numpy()
            yield slice(int(first), int(last)), block[rows[first:last] - start]


@dataclass(frozen=True)
class Vectors:
    """Directions in the space of the embeddings."""

    directions: Array  # float64 (n_vectors, width), NaN for a concept without one
    centre: Array  # subtracted from the embeddings first, (width,)
    offsets: Array | None  # added to the distances; None for cosines
    setting: str  # how they were made, for the report

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

    def score_split(self, source: EmbeddingSource, split: Split) -> Array:
        """Scores of every row of a split, float32 (n_rows, n_vectors)."""
        scores = np.empty((len(split.rows), len(self.directions)), np.float32)
        for where, block in blocks(source, split.rows):
            scores[where] = self.score(block)
        return scores


def baselines(evaluation: Evaluation, source: EmbeddingSource) -> tuple[list[Row], dict[str, str]]:
    """Rows of `METHODS`, and at the level of items of the difference of means by `AGGREGATIONS`.

    Vectors are made on `fit_on`. The threshold is a quantile of the scores of the concept's positive calibration rows,
    chosen by F1 on the calibration split as for features, or a threshold between two calibration scores where that is
    better. The cluster of a concept is chosen in the same way.

    Memory: 4 bytes per row of a split and vector, for one method at a time, and the sample of `Sample.of`.
    """
    inputs, rows = evaluation.inputs, []
    inputs.need(FIT)
    train = inputs.of(FIT)
    labels, known = inputs.row_labels(train), ~inputs.row_unknown(train).toarray()
    n_positive = np.asarray(labels.astype(np.int64).sum(axis=0)).ravel()
    learnable = (n_positive > 0) & (n_positive < known.sum(axis=0))
    with_cal = evaluation.cal.n_positive > 0
    for method, vectors in _made(source, train, labels, known, evaluation.options.seed):
        cal, test = (vectors.score_split(source, split) for split in (evaluation.cal, evaluation.test))
        for c in np.flatnonzero(with_cal & (learnable | (method == "k-means"))).tolist():
            columns = range(cal.shape[1]) if method == "k-means" else (c,)
            tried = ((_best(evaluation, c, cal[:, i].astype(np.float64)), i) for i in columns)
            threshold, i = max(tried, key=lambda pair: pair[0].f1)  # of equal ones the first
            scores = inputs.unit_scores(evaluation.test, test[:, i].astype(np.float64))
            setting = f"{vectors.setting}, cluster {i}" if method == "k-means" else vectors.setting
            rows.append(evaluation.row(c, method, threshold, scores, setting=setting))
            if method == "difference" and inputs.level == "item":
                rows += _aggregated(evaluation, c, cal[:, c], test[:, c])
    skipped = {
        f"{inputs.names[c]} (concept vectors)": "it is true of all or none of the samples of fit_on"
        for c in np.flatnonzero(with_cal & ~learnable).tolist()
    }
    return rows, skipped


def _made(
    source: EmbeddingSource, train: Split, labels: scipy.sparse.csr_array, known: Array, seed: int
) -> Iterator[tuple[str, Vectors]]:
    yield "difference", difference_of_means(source, train, labels, known)
    sample = Sample.of(source, train, labels, known, seed)
    for kind in ("logistic", "svm"):
        yield kind, separators(sample, kind, seed)
    yield "k-means", clusters(sample, N_CLUSTERS, seed)


def _best(evaluation: Evaluation, concept: int, column: Array) -> Threshold:
    """The best threshold for the scores of calibration rows."""
    inputs, split = evaluation.inputs, evaluation.cal
    units, truth, known = inputs.unit_scores(split, column), split.truth(concept), split.known(concept)
    positive = inputs.row_labels(split)[:, [concept]].toarray()[:, 0]
    source = column[positive] if inputs.by_samples else units[truth]
    by_quantile = best_quantile(units[known], truth[known], np.array(evaluation.options.target_recalls), source)
    between = evaluation.best_between(concept, units)
    return between if between.f1 > by_quantile.f1 else by_quantile


def _aggregated(evaluation: Evaluation, concept: int, cal: Array, test: Array) -> list[Row]:
    """The difference of means with items scored in other ways; the threshold is on these scores."""
    rows = []
    for name in AGGREGATIONS:
        if name != evaluation.inputs.pooling.name:
            scores, of_test = (
                aggregate(column.astype(np.float64), split.starts, name, evaluation.options.seed)
                for column, split in ((cal, evaluation.cal), (test, evaluation.test))
            )
            threshold = evaluation.best_between(concept, scores)
            setting = f"cosine, {name} of an item's samples"
            rows.append(evaluation.row(concept, f"difference, {name}", threshold, of_test, setting=setting))
    return rows


def of_cls(evaluation: Evaluation, source: EmbeddingSource) -> list[Row]:
    """The difference of means of one embedding per item, its CLS token; the threshold is on its cosines.

    Memory: 4 bytes per item of a split and concept.
    """
    evaluation.inputs.need(FIT)
    splits = (evaluation.inputs.of(FIT), evaluation.cal, evaluation.test)
    # The same items with one row each.
    train, cal, test = (replace(split, rows=split.items, starts=np.arange(len(split.items))) for split in splits)
    vectors = difference_of_means(source, train, train.labels.tocsr(), ~train.unknown.toarray())
    of_cal, of_test = (vectors.score_split(source, split).astype(np.float64) for split in (cal, test))
    rows, setting = [], "cosine, the CLS embedding of an item"
    learnable = (train.n_positive > 0) & (train.n_positive < train.n_known) & (cal.n_positive > 0)
    for c in np.flatnonzero(learnable).tolist():
        threshold = evaluation.best_between(c, of_cal[:, c])
        rows.append(evaluation.row(c, "difference, cls", threshold, of_test[:, c], setting=setting))
    return rows


def aggregate(column: Array, starts: Array, name: str, seed: int) -> Array:
    """Scores of items, float64: the mean of their samples, the last sample, or a random one."""
    if name == "mean":
        return Pooling.of("mean").of_column(column, starts)
    sizes = np.diff(starts, append=len(column))
    offset = sizes - 1 if name == "last" else np.random.default_rng(seed).integers(0, sizes)
    scores: Array = column[starts + offset]
    return scores


def difference_of_means(source: EmbeddingSource, train: Split, labels: scipy.sparse.csr_array, known: Array) -> Vectors:
    """Mean of the positive train rows minus mean of the negative ones; by cosine, around the mean of all rows.

    `known` is bool (n_rows, n_concepts): rows of unknown label count for neither mean.
    """
    n, n_concepts = labels.shape
    total, (positive, counted) = np.zeros(source.d_in), np.zeros((2, n_concepts, source.d_in))
    for where, block in blocks(source, train.rows):
        total += block.sum(axis=0)
        positive += labels[where].astype(np.float64).T @ block
        counted += known[where].astype(np.float64).T @ block
    n_positive, n_known = np.asarray(labels.astype(np.int64).sum(axis=0)).ravel(), known.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        directions = positive / n_positive[:, None] - (counted - positive) / (n_known - n_positive)[:, None]
    return Vectors(directions, total / n, None, f"cosine, {n:,} train samples")


@dataclass(frozen=True)
class Sample:
    """Train rows in memory, all or a sample with positives of each concept, scaled to mean 0 and deviation 1."""

    rows: Array
    labels: Array
    known: Array
    mean: Array
    deviation: Array

    @classmethod
    def of(
        cls, source: EmbeddingSource, train: Split, labels: scipy.sparse.csr_array, known: Array, seed: int
    ) -> Sample:
        """Memory: at most 20,000 rows and 500 for each concept, or 50,000, in float32."""
        chosen = np.arange(len(train.rows))
        if len(chosen) > _ALL:
            rng, columns = np.random.default_rng(seed), labels.tocsc()
            parts = [rng.choice(chosen, _ANY, replace=False)]
            for c in range(labels.shape[1]):
                positive = columns.indices[columns.indptr[c] : columns.indptr[c + 1]]
                parts.append(rng.choice(positive, min(len(positive), _POSITIVE), replace=False))
            chosen = np.unique(np.concatenate(parts))
        rows = np.empty((len(chosen), source.d_in), np.float32)
        for where, block in blocks(source, train.rows[chosen]):
            rows[where] = block
        mean, deviation = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
        deviation[deviation == 0] = 1
        rows -= mean.astype(np.float32)
        rows /= deviation.astype(np.float32)
        return cls(rows, labels[chosen].toarray().astype(bool), known[chosen], mean, deviation)


def separators(sample: Sample, kind: str, seed: int) -> Vectors:
    """A linear separator for each concept, ``logistic`` or ``svm``; by signed distance."""
    n_concepts, width = sample.labels.shape[1], sample.rows.shape[1]
    directions, offsets = np.full((n_concepts, width), np.nan), np.full(n_concepts, np.nan)
    unfinished = 0
    for c in range(n_concepts):
        known = sample.known[:, c]
        truth = sample.labels[known, c]
        if not truth.any() or truth.all():
            continue
        model = _separator(kind, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", scikit_learn("exceptions").ConvergenceWarning)  # `setting` reports it
            model.fit(sample.rows if known.all() else sample.rows[known], truth)
        unfinished += int(np.max(model.n_iter_)) >= _MAX_ITER
        directions[c], offsets[c] = model.coef_[0] / sample.deviation, model.intercept_[0]
    setting = f"signed distance, {len(sample.rows):,} train samples"
    return Vectors(directions, sample.mean, offsets, setting + (f", {unfinished} not converged" if unfinished else ""))


def _separator(kind: str, seed: int) -> Any:
    if kind == "logistic":
        return scikit_learn("linear_model").LogisticRegression(class_weight="balanced", max_iter=_MAX_ITER)
    # Chosen for speed: with 0.01 and the default tolerance a fit takes ten times as long. Not tuned on any split.
    return scikit_learn("svm").LinearSVC(
        C=1e-3, tol=1e-2, dual=False, class_weight="balanced", max_iter=_MAX_ITER, random_state=seed
    )


def clusters(sample: Sample, n_clusters: int, seed: int) -> Vectors:
    """Centres of k-means around the mean of all rows; by cosine."""
    n = min(n_clusters, len(sample.rows))
    model = scikit_learn("cluster").MiniBatchKMeans(n, random_state=seed, n_init=3, batch_size=4096)
    model.fit(sample.rows)
    directions = model.cluster_centers_.astype(np.float64) * sample.deviation
    return Vectors(directions, sample.mean, None, f"cosine, {n} clusters of {len(sample.rows):,} train samples")
