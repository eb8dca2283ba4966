"""Some rows of a sparse matrix: the value that carries rows from inputs to segments and from segments to answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from saestore.errors import InvalidInputError

Array = np.ndarray[Any, Any]
Advance = Callable[[int, int], object]  # receives a number of rows and of their non-zeros


def pointers(counts: Array | Sequence[int]) -> Array:
    """Where each part starts and the last one ends, int64 (n + 1,), from the number of entries per part."""
    out = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=out[1:])
    return out


def check_matrix_ids(matrix: Any, what: str) -> None:
    """Check every row and column number of a scipy sparse matrix, before scipy narrows or follows them.

    Refuses numbers outside of the shape (``id-out-of-range``), and pointers that do not fit the entries
    (``bad-pointers``).
    """
    n_rows, n_columns = matrix.shape if matrix.ndim == 2 else (0, 0)
    if matrix.format == "coo" and matrix.ndim == 2:
        axes = [("row", matrix.row, n_rows), ("column", matrix.col, n_columns)]
    elif matrix.format in ("csr", "csc", "bsr") and matrix.ndim == 2:
        by_column = matrix.format == "csc"
        height, width = matrix.blocksize if matrix.format == "bsr" else (1, 1)
        axes = [("row" if by_column else "column", matrix.indices, n_rows if by_column else n_columns // width)]
        indptr, n_lines = matrix.indptr, n_columns if by_column else n_rows // height
        n_entries = min(len(matrix.indices), len(matrix.data))
        fits = len(indptr) == n_lines + 1 and indptr[0] == 0 and indptr[-1] <= n_entries
        if not fits or (indptr[1:] < indptr[:-1]).any():
            raise InvalidInputError(
                f"{what}: indptr does not fit {len(matrix.indices):,} entries in {n_lines:,} lines; it starts at 0, "
                "never falls and ends at the number of entries.",
                code="bad-pointers",
            )
    else:
        return  # scipy checks the numbers of the other formats itself
    for axis, ids, limit in axes:
        for number in (int(ids.min()), int(ids.max())) if len(ids) else ():
            if not 0 <= number < limit:
                raise InvalidInputError(
                    f"{what} has an entry in {axis} {number}; its {axis}s are 0 to {limit - 1}. Nothing was written.",
                    code="id-out-of-range",
                )


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Rows in compressed sparse row form."""

    indptr: Array  # int64 (n_rows + 1,), from 0: row i has the entries ``indptr[i]:indptr[i + 1]``
    indices: Array  # feature of each entry, an integer dtype (nnz,)
    data: Array  # activation of each entry (nnz,)

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
        lengths = np.diff(self.indptr)
        counts = lengths[rows]
        indptr = pointers(counts)
        if len(lengths) and (lengths == lengths[0]).all():  # as of a TopK SAE: a row is one piece of memory
            parts = (each.reshape(len(lengths), -1).take(rows, axis=0) for each in (self.indices, self.data))
            return SparseRows(indptr, *(part.ravel() for part in parts))
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
        """The rows of all parts, one part after the other; at least one part. One alone is not copied."""
        if len(parts) == 1:
            return parts[0]
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
