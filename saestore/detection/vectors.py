"""Concept vectors from the embeddings themselves, the ways before SAEs: means, linear separators, clusters."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.detection.embedded import Embedded
from saestore.detection.inputs import Split
from saestore.detection.probe import scikit_learn

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]

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


def difference_of_means(embedded: Embedded, train: Split, labels: scipy.sparse.csr_array) -> Vectors:
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
    def of(cls, embedded: Embedded, train: Split, labels: scipy.sparse.csr_array, seed: int) -> Drawn:
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
