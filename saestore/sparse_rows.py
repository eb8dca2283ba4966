"""Some rows of a sparse matrix: the value that carries rows from inputs to segments and from segments to answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

__all__ = ["Advance", "RowSource", "SparseRows", "pointers"]

Array = np.ndarray[Any, Any]
Advance = Callable[[int, int], object]  # receives a number of rows and of their non-zeros


def pointers(counts: Array | Sequence[int]) -> Array:
    """Where each part starts and the last one ends, int64 (n + 1,), from the number of entries per part."""
    out = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=out[1:])
    return out


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Rows in compressed sparse row form.

    Attributes
    ----------
    indptr
        int64 (n_rows + 1,), from 0: row i has the entries ``indptr[i]:indptr[i + 1]``.
    indices
        Feature of each entry, an integer dtype (nnz,).
    data
        Activation of each entry (nnz,).
    """

    indptr: Array
    indices: Array
    data: Array

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def nnz(self) -> int:
        """Number of entries."""
        return len(self.data)

    def rows(self) -> Array:
        """Row of each entry, int64 (nnz,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    def __getitem__(self, rows: slice) -> SparseRows:
        """Consecutive rows; indices and data are views."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise IndexError("SparseRows takes slices of consecutive rows; use select() for others")
        stop = max(start, stop)
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        return SparseRows(self.indptr[start : stop + 1] - first, self.indices[first:last], self.data[first:last])

    def select(self, rows: Array) -> SparseRows:
        """These rows, in this order, repetitions included."""
        counts = np.diff(self.indptr)[rows]
        indptr = pointers(counts)
        entries = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], counts)
        return SparseRows(indptr, self.indices[entries], self.data[entries])

    def keep(self, mask: Array) -> SparseRows:
        """Only the entries where `mask`, bool (nnz,), is true."""
        return SparseRows(pointers(mask)[self.indptr], self.indices[mask], self.data[mask])

    def astype(self, dtype: Any) -> SparseRows:
        """The same rows with activations of another dtype."""
        return SparseRows(self.indptr, self.indices, self.data.astype(dtype, copy=False))

    @classmethod
    def concat(cls, parts: Sequence[SparseRows]) -> SparseRows:
        """The rows of all parts, one part after the other; at least one part."""
        return cls(
            pointers(np.concatenate([np.diff(part.indptr) for part in parts])),
            np.concatenate([part.indices for part in parts]),
            np.concatenate([part.data for part in parts]),
        )


class RowSource(Protocol):
    """Where the rows of a set come from: embeddings through an SAE, a foreign file, a matrix in memory."""

    @property
    def n_rows(self) -> int:
        """Number of samples."""

    @property
    def n_features(self) -> int:
        """Number of features."""

    def read(self, start: int, stop: int, advance: Advance | None = None) -> SparseRows:
        """Rows from `start` up to `stop`, features ascending in each row and without zeros.

        `advance` receives the size of each part that was read on the way.
        """

    def fingerprint(self, n_rows: int | None = None) -> str:
        """Digest of the content of the first `n_rows` rows, by default of all: equal for equal rows."""

    def provenance(self) -> dict[str, Any]:
        """What the set records of the source, as JSON-able values."""
