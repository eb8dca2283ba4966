"""Synthetic activations of a real set's shape, any size, made segment by segment.

What it imitates was measured on two real SAEs, DINOv2 patches of CLEVR scenes through TopK and Gemma tokens of tweets
through JumpReLU: feature popularity falls somewhat faster than Zipf's law; the 256 patches of an image use some 470
features between them; neighbouring patches share two thirds of theirs; logarithms of a feature's activations spread by
0.5, those of the features' means as well; a JumpReLU's activations start sharply at its threshold, and the number of
active ones varies by 40 %.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import scipy.sparse as sp

# Zipf and Mandelbrot: the chance of the feature of rank r goes with (r + SHIFT) ** -EXPONENT.
EXPONENT, SHIFT = 1.15, 10
DRAWS = 1200  # with replacement, for the features of one item: some 480 different ones
ITEM_TASTE = 1.0  # how unevenly an item uses its features: two of its samples share a third of theirs
RUN = 4  # consecutive samples that share most of their features, as neighbouring patches do
OWN_NOISE = 0.5  # of a sample, beside the noise that its run shares: two thirds of the features stay
FEATURE_SPREAD, ITEM_SPREAD, OWN_SPREAD = 0.57, 0.35, 0.4  # of the logarithm of activations
THRESHOLD = 284.0  # of the JumpReLU


@dataclass(frozen=True)
class Shape:
    """What to make.

    Attributes
    ----------
    n_items, item_size
        Items, and samples of each.
    n_features
        Width of the SAE.
    l0
        Active features of a sample; their mean where the kind is ``jumprelu``.
    kind
        ``clustered``: k of a skewed popularity, those of an item from one pool. ``jumprelu``: the same, with a variable
        number. ``uniform``: k of all features, each alike.
    seed
        The same seed gives the same activations, however they are cut into segments.
    """

    n_items: int
    item_size: int
    n_features: int
    l0: int
    kind: Literal["clustered", "jumprelu", "uniform"] = "clustered"
    seed: int = 0

    @property
    def n_samples(self) -> int:
        return self.n_items * self.item_size

    def __str__(self) -> str:
        return f"{self.n_samples:,} samples x {self.n_features:,} features, L0 {self.l0}, {self.kind}"

    @cached_property
    def features(self) -> "Features":
        return Features.of(self)


CLEVR = Shape(n_items=1_000, item_size=256, n_features=65_536, l0=32)


@dataclass(frozen=True)
class Features:
    """What all items have in common: how popular each feature is, and how strong."""

    by_rank: np.ndarray
    cumulative: np.ndarray
    log_mean: np.ndarray

    @classmethod
    def of(cls, shape: Shape) -> "Features":
        rng = np.random.default_rng([shape.seed, 0])
        weights = (np.arange(shape.n_features) + SHIFT) ** -EXPONENT
        by_rank = rng.permutation(shape.n_features)  # so that popular features do not lie side by side
        return cls(by_rank, np.cumsum(weights / weights.sum()), rng.normal(0, FEATURE_SPREAD, shape.n_features))


def matrix(shape: Shape) -> sp.csr_array:
    """All of it, in memory: 8 bytes a non-zero."""
    return sp.csr_array(sp.vstack(list(segments(shape)), format="csr"))


def segments(shape: Shape, n_items: int = 64) -> Iterator[sp.csr_array]:
    """Segments of so many items each, one at a time. Memory: one segment, and the features' popularity."""
    for first in range(0, shape.n_items, n_items):
        yield segment(shape, first, min(first + n_items, shape.n_items))


def segment(shape: Shape, first_item: int, last_item: int) -> sp.csr_array:
    """The samples of these items: float32, ids ascending in a row, no zeros."""
    make = _uniform_item if shape.kind == "uniform" else _pooled_item
    parts = [make(shape, np.random.default_rng([shape.seed, 1, i])) for i in range(first_item, last_item)]
    counts, ids, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32 if len(ids) < 1 << 31 else np.int64)
    rows = (last_item - first_item) * shape.item_size
    return sp.csr_array((values, ids.astype(indptr.dtype), indptr), shape=(rows, shape.n_features))


def _pooled_item(shape: Shape, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, ids and activations of one item's samples, whose features are from its pool."""
    n = shape.item_size
    counts = _row_counts(shape, rng)
    pool, score = _pool(shape, rng, int(counts.max()))
    shared = rng.gumbel(size=(-(-n // RUN), len(pool)))
    noise = np.repeat(shared, RUN, axis=0)[:n] + OWN_NOISE * rng.normal(size=(n, len(pool)))
    best = np.argpartition(-(score + noise), counts.max() - 1, axis=1)[:, : counts.max()]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(score + noise, best, 1), axis=1), 1)
    chosen = np.zeros((n, len(pool)), bool)
    np.put_along_axis(chosen, best, np.arange(best.shape[1]) < counts[:, None], axis=1)
    row, place = np.nonzero(chosen)  # ascending in a row, as the pool is
    return counts, pool[place], _activations(shape, rng, pool, row, place)


def _row_counts(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    if shape.kind != "jumprelu":
        return np.full(shape.item_size, shape.l0)
    drawn = rng.lognormal(np.log(shape.l0) - 0.08, 0.4, shape.item_size)
    return np.clip(drawn, 1, min(4 * shape.l0, shape.n_features)).astype(np.int64)


def _pool(shape: Shape, rng: np.random.Generator, at_least: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of one item, ascending, and how likely each is in it, as a logarithm."""
    ranks = np.searchsorted(shape.features.cumulative, rng.random(DRAWS)).clip(0, shape.n_features - 1)
    # A tiny set may not have drawn enough; the most popular ones fill up.
    ranks = np.concatenate([ranks, np.arange(min(at_least, shape.n_features))])
    pool, drawn = np.unique(shape.features.by_rank[ranks], return_counts=True)
    return pool, np.log(drawn) + ITEM_TASTE * rng.gumbel(size=len(pool))


def _activations(
    shape: Shape, rng: np.random.Generator, pool: np.ndarray, row: np.ndarray, place: np.ndarray
) -> np.ndarray:
    if shape.kind == "jumprelu":
        return (THRESHOLD * np.exp(0.75 * rng.weibull(1.4, len(row)))).astype(np.float32)
    item = shape.features.log_mean[pool] + rng.normal(0, ITEM_SPREAD, len(pool))
    return np.exp(item[place] + rng.normal(0, OWN_SPREAD, len(row))).astype(np.float32)


def _uniform_item(shape: Shape, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = np.sort(rng.integers(0, shape.n_features, (shape.item_size, shape.l0)), axis=1)
    while (twice := (np.diff(ids, axis=1) == 0).any(axis=1)).any():
        ids[twice] = np.sort(rng.integers(0, shape.n_features, (int(twice.sum()), shape.l0)), axis=1)
    values = np.exp(rng.normal(0, 0.8, ids.size)).astype(np.float32)
    return np.full(shape.item_size, shape.l0), ids.ravel(), values
