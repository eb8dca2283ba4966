"""What a peer has to do, and what several peers share."""

# ruff: noqa: ARG002  (the methods of the base class only raise)

import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from benchmarks.synthetic import Items

Entries = tuple[np.ndarray, np.ndarray]  # samples and activations of a feature


class Unsupported(Exception):
    """A peer cannot do this task; the message gives the reason."""


class Peer:
    """One way to keep activations in a folder and to query them. Answers are numpy arrays or scipy matrices.

    `items` is a table from `benchmarks.synthetic.labels`; it stays in memory if the peer's format has no place for it.
    """

    key: ClassVar[str]  # its name in commands and in the results
    label: ClassVar[str]  # its name in tables
    usage: ClassVar[str]  # exactly how it is used, for the reader of the tables
    needs: ClassVar[tuple[str, ...]] = ()  # modules without which the peer is left out
    folder_of: ClassVar[str | None] = None  # key of the peer whose files this one reads

    def __init__(self, folder: Path, item_size: int = 1, items: Items | None = None) -> None:
        self.folder, self.item_size, self.items = folder, item_size, items

    @classmethod
    def available(cls) -> bool:
        return all(importlib.util.find_spec(module) for module in cls.needs)

    def write(self, matrix: sp.csr_array) -> None:
        """Write all of it, in both orders where the peer has them, into the empty folder."""
        raise Unsupported("only reads")

    def open(self) -> None:
        """Do what is needed once, not for every question."""

    def column(self, feature: int) -> Entries:
        """All samples of a feature and their activations, in the peer's own order."""
        raise Unsupported("no such query")

    def top_samples(self, feature: int, n: int) -> Entries:
        """The n strongest samples of a feature, strongest first, ties by ascending sample."""
        return ranked(*self.column(feature), n)

    def top_items(self, feature: int, split: str, n: int) -> Entries:
        """The strongest sample of each of the n strongest items of a split, strongest first, ties by ascending sample.

        For peers that can only read a whole feature.
        """
        samples, values = self.column(feature)
        item = samples // self.item_size
        chosen = (self.items["split"] == split)[item]
        samples, values, item = samples[chosen], values[chosen], item[chosen]
        order = np.lexsort((samples, -values))
        first = np.sort(np.unique(item[order], return_index=True)[1])[:n]
        return samples[order[first]], values[order[first]]

    def dense(self, start: int, stop: int) -> np.ndarray:
        """These samples as a dense array."""
        raise Unsupported("no such query")

    def rows(self, samples: np.ndarray) -> Any:
        """These samples, ascending, as a scipy CSR matrix or array."""
        raise Unsupported("no such query")

    def stats(self) -> dict[str, np.ndarray]:
        """Per feature n_active, mean and std over all samples, and max over the active ones, NaN if there is none."""
        raise Unsupported("no such query")

    def stored_bytes(self) -> int:
        """Bytes of all files."""
        return sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file())


def ranked(samples: np.ndarray, values: np.ndarray, n: int) -> Entries:
    """The n strongest entries of a column."""
    if n < len(values):
        # Every tie with the n-th stays until ties are ordered.
        keep = values >= np.partition(values, -n)[-n]
        samples, values = samples[keep], values[keep]
    order = np.lexsort((samples, -values))[:n]
    return samples[order], values[order]


def csc_stats(indptr: np.ndarray, values: np.ndarray, n_samples: int) -> dict[str, np.ndarray]:
    """The statistics of a CSC matrix in memory."""
    counts = np.diff(indptr)
    features = np.flatnonzero(counts)
    starts = indptr[features]
    return stats_of_groups(
        (n_samples, len(counts)),
        features,
        counts[features],
        np.add.reduceat(values, starts, dtype=np.float64),
        np.add.reduceat(np.square(values, dtype=np.float64), starts),
        np.maximum.reduceat(values, starts),
    )


def stats_of_groups(shape: tuple[int, int], features: np.ndarray, *columns: np.ndarray) -> dict[str, np.ndarray]:
    """The statistics of all features from the count, sum, sum of squares and maximum of the active ones."""
    counts, total, squares = np.zeros((3, shape[1]))
    largest = np.full(shape[1], np.nan)
    for all_features, column in zip((counts, total, squares, largest), columns, strict=True):
        all_features[features] = column
    mean = total / shape[0]
    std = np.sqrt(np.maximum(squares / shape[0] - mean**2, 0))
    return {"n_active": counts, "mean": mean, "std": std, "max": largest}
