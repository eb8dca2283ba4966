"""Synthetic activations with the shape of a real set, at any size, and labels of their items.

The model imitates a measured SAE, DINOv2 patches of CLEVR scenes through TopK: feature popularity falls slightly faster
than Zipf's law; the 256 patches of an image use about 470 features together; neighbouring patches share two thirds of
their features; the logarithms of a feature's activations have a spread of 0.5, and so have the logarithms of the
features' means.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

# Zipf and Mandelbrot: the chance of the feature of rank r is proportional to (r + SHIFT) ** -EXPONENT.
EXPONENT, SHIFT = 1.15, 10
DRAWS = 1200  # with replacement, for the features of one item: about 480 different ones
ITEM_TASTE = 1.0  # how unevenly an item uses its features: two of its samples share a third of theirs
RUN = 4  # consecutive samples that share most of their features, as neighbouring patches do
SAMPLE_NOISE = 0.5  # of a sample, beside the noise that its run shares: two thirds of the features stay
FEATURE_SPREAD, ITEM_SPREAD, SAMPLE_SPREAD = 0.57, 0.35, 0.4  # of the logarithm of activations
STREAM_SPREAD = 0.3  # of the same, between an item of a stream and its original in the pool

N_CONCEPTS = 80
SPLITS = {"train": 0.63, "cal": 0.2, "test": 0.17}
RAREST, COMMONEST = 0.02, 0.5  # shares of the items that have a concept
Columns = tuple[np.ndarray, np.ndarray, np.ndarray]
Items = dict[str, np.ndarray]


@dataclass(frozen=True)
class Shape:
    """A synthetic set; always the same activations. `l0` features per sample; those of an item come from one pool."""

    n_items: int
    item_size: int
    n_features: int
    l0: int

    @property
    def n_samples(self) -> int:
        return self.n_items * self.item_size

    def __str__(self) -> str:
        return f"{self.n_samples:,} samples x {self.n_features:,} features, L0 {self.l0}"

    @cached_property
    def features(self) -> Columns:
        """Features by rank, their cumulative popularity by rank, and the logarithm of each feature's mean."""
        rng = np.random.default_rng([0, 0])
        weights = (np.arange(self.n_features) + SHIFT) ** -EXPONENT
        by_rank = rng.permutation(self.n_features)  # popular features are not neighbours
        return by_rank, np.cumsum(weights / weights.sum()), rng.normal(0, FEATURE_SPREAD, self.n_features)

    def matrix(self) -> sp.csr_array:
        """The whole set in memory: float32, ids ascending in each row, no zeros."""
        parts = [_pooled_item(self, np.random.default_rng([0, 1, i])) for i in range(self.n_items)]
        counts, ids, values = (np.concatenate(column) for column in zip(*parts, strict=True))
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        return sp.csr_array((values, ids.astype(np.int32), indptr), shape=(self.n_samples, self.n_features))


CLEVR = Shape(n_items=1_000, item_size=256, n_features=65_536, l0=32)


@dataclass(frozen=True)
class Stream:
    """Any number of samples. Each item is an item of a small pool with other activations, so that all values differ.

    A stream is ten times faster than as many new items.
    """

    n_items: int
    item_size: int = 250
    n_features: int = 65_536
    l0: int = 32
    pool_items: int = 256

    @property
    def n_samples(self) -> int:
        return self.n_items * self.item_size

    def __str__(self) -> str:
        return str(Shape(self.n_items, self.item_size, self.n_features, self.l0))

    @cached_property
    def pool(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids and activations of the pool's samples, (samples, l0) each."""
        made = Shape(self.pool_items, self.item_size, self.n_features, self.l0).matrix()
        ids = made.indices.astype(np.uint16 if self.n_features <= 1 << 16 else np.uint32)
        return ids.reshape(-1, self.l0), made.data.reshape(-1, self.l0)

    @cached_property
    def items(self) -> np.ndarray:
        """The pool item of every item; a longer stream starts with the items of a shorter one."""
        return np.random.default_rng(1).integers(0, self.pool_items, self.n_items)

    def rows(self, start: int, stop: int) -> Columns:
        """CSR arrays (indptr, ids, activations) of these samples."""
        samples = np.arange(start, stop)
        picked = self.items[samples // self.item_size] * self.item_size + samples % self.item_size
        ids, values = (column[picked] for column in self.pool)
        noise = np.random.default_rng([2, start]).normal(0, STREAM_SPREAD, values.shape).astype(np.float32)
        indptr = np.arange(0, ids.size + 1, self.l0, dtype=np.int64)
        return indptr, ids.ravel(), (values * np.exp(noise)).ravel()

    def matrix(self) -> sp.csr_array:
        """The whole stream in memory."""
        indptr, ids, values = self.rows(0, self.n_samples)
        parts = (values, ids.astype(np.int32), indptr.astype(np.int32))
        return sp.csr_array(parts, shape=(self.n_samples, self.n_features))


def labels(n_items: int, splits: dict[str, float] = SPLITS) -> Items:
    """A table of items: the path of an image, the split, and a column of 0 and 1 for each concept."""
    rng = np.random.default_rng(3)
    quantile = (rng.permutation(n_items) + 0.5) / n_items
    split = np.array(list(splits))[np.searchsorted(np.cumsum(list(splits.values()))[:-1], quantile)]
    items = {"image_path": np.array([f"{i:06}.png" for i in range(n_items)]), "split": split}
    for i, share in enumerate(np.linspace(RAREST, COMMONEST, N_CONCEPTS)):
        # Every concept has an item, otherwise it has no ROC.
        items[f"concept {i:02}"] = (rng.permutation(n_items) < max(1, round(share * n_items))).astype(np.int64)
    return items


def concepts(items: Items) -> Items:
    return {name: column for name, column in items.items() if name.startswith("concept ")}


def _pooled_item(shape: Shape, rng: np.random.Generator) -> Columns:
    """Counts, ids and activations of one item's samples, whose features are from its pool."""
    n = shape.item_size
    pool, score = _pool(shape, rng)
    shared = rng.gumbel(size=(-(-n // RUN), len(pool)))
    score = score + np.repeat(shared, RUN, axis=0)[:n] + SAMPLE_NOISE * rng.normal(size=(n, len(pool)))
    best = np.argpartition(-score, shape.l0 - 1, axis=1)[:, : shape.l0]
    chosen = np.zeros((n, len(pool)), bool)
    np.put_along_axis(chosen, best, values=True, axis=1)
    row, column = np.nonzero(chosen)  # ascending in each row, as the pool is
    return np.full(n, shape.l0), pool[column], _activations(shape, rng, pool, row, column)


def _pool(shape: Shape, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features of one item, ascending, and the logarithm of how likely each is in it."""
    by_rank, popularity, _ = shape.features
    ranks = np.searchsorted(popularity, rng.random(DRAWS)).clip(0, shape.n_features - 1)
    # In a tiny set the draws may be too few; the most popular features fill up.
    ranks = np.concatenate([ranks, np.arange(min(shape.l0, shape.n_features))])
    pool, drawn = np.unique(by_rank[ranks], return_counts=True)
    return pool, np.log(drawn) + ITEM_TASTE * rng.gumbel(size=len(pool))


def _activations(
    shape: Shape, rng: np.random.Generator, pool: np.ndarray, row: np.ndarray, column: np.ndarray
) -> np.ndarray:
    item = shape.features[2][pool] + rng.normal(0, ITEM_SPREAD, len(pool))
    return np.exp(item[column] + rng.normal(0, SAMPLE_SPREAD, len(row))).astype(np.float32)
