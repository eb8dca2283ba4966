"""What a peer has to do, and what several of them share."""

# ruff: noqa: ARG002  (the methods of the base class only say what a peer lacks)

import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from benchmarks.labels import Items

Entries = tuple[np.ndarray, np.ndarray]


class Unsupported(Exception):
    """A peer cannot do this task; the message says why, and goes into the table."""


class Peer:
    """One way to keep activations on disk and ask them.

    Every answer is in numpy or scipy, so that all can be compared. A method that a peer lacks is one that the table
    shows as such.

    Attributes
    ----------
    key
        Name in commands and in the results.
    label
        How tables call it.
    how
        Exactly how it is used, for the reader of the tables.
    needs
        Modules without which it is left out.
    folder_of
        Key of the peer whose files this one reads; its own where None.

    Parameters
    ----------
    folder
        Where its files are.
    item_size
        Samples of an item.
    items
        A table of items, as `benchmarks.labels` makes it. A peer without a place for it has it beside its files.
    """

    key: ClassVar[str]
    label: ClassVar[str]
    how: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    folder_of: ClassVar[str | None] = None

    def __init__(self, folder: Path, item_size: int = 1, items: Items | None = None) -> None:
        self.folder = folder
        self.item_size = item_size
        self.items = items

    @classmethod
    def available(cls) -> bool:
        return all(importlib.util.find_spec(module) for module in cls.needs)

    def write(self, matrix: sp.csr_array) -> None:
        """Write all of it, in both orders where the peer has them, into the empty folder."""
        raise Unsupported("only reads")

    def open(self) -> None:
        """Do once what need not be done for every question."""

    def top_samples(self, feature: int, n: int) -> Entries:
        """The n strongest samples of a feature, strongest first, ties by ascending sample."""
        raise Unsupported("no such query")

    def top_items(self, feature: int, split: str, n: int) -> Entries:
        """The n strongest items of a split: of each its strongest sample, strongest first, ties by ascending sample.

        Here for whoever has a whole feature, but cannot say which of its samples are wanted.
        """
        samples, values = self.column(feature)
        item = samples // self.item_size
        wanted = (self.items["split"] == split)[item]
        samples, values, item = samples[wanted], values[wanted], item[wanted]
        order = np.lexsort((samples, -values))
        first = np.sort(np.unique(item[order], return_index=True)[1])[:n]
        return samples[order[first]], values[order[first]]

    def column(self, feature: int) -> Entries:
        """All samples of a feature and their activations, in the order that the peer has them in."""
        raise Unsupported("no such query")

    def dense(self, start: int, stop: int) -> np.ndarray:
        """These samples as a dense array."""
        raise Unsupported("no such query")

    def rows(self, samples: np.ndarray) -> Any:
        """These samples, ascending, as a scipy CSR matrix or array."""
        raise Unsupported("no such query")

    def stats(self) -> dict[str, np.ndarray]:
        """Per feature n_active, mean and std over all samples, and max over the active ones, NaN if there is none."""
        raise Unsupported("no such query")

    def scores(self) -> Any:
        """The ROC AUC of every feature with every concept of the items."""
        raise Unsupported("no such query")

    def stored_bytes(self) -> int:
        """Bytes of all files."""
        return sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file())


def ranked(samples: np.ndarray, values: np.ndarray, n: int) -> Entries:
    """The n strongest of the entries of a column."""
    if n < len(values):
        # Everything that ties with the n-th stays in until the ties are ordered.
        keep = values >= np.partition(values, -n)[-n]
        samples, values = samples[keep], values[keep]
    order = np.lexsort((samples, -values))[:n]
    return samples[order], values[order]


def list_stats(indptr: np.ndarray, values: np.ndarray, n_samples: int) -> dict[str, np.ndarray]:
    """The statistics of a CSC matrix in memory."""
    counts = np.diff(indptr)
    filled = np.flatnonzero(counts)
    starts = indptr[filled]
    total, squares, largest = (np.zeros(len(counts)) for _ in range(3))
    total[filled] = np.add.reduceat(values, starts, dtype=np.float64)
    squares[filled] = np.add.reduceat(np.square(values, dtype=np.float64), starts)
    largest.fill(np.nan)
    largest[filled] = np.maximum.reduceat(values, starts)
    mean = total / n_samples
    std = np.sqrt(np.maximum(squares / n_samples - mean**2, 0))
    return {"n_active": counts, "mean": mean, "std": std, "max": largest}
