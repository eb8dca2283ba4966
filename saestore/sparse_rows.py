"""Some rows of a sparse matrix: the value that carries rows from inputs to segments and from segments to answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from saestore.errors import InvalidInputError

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]
Advance = Callable[[int, int], object]  # receives a number of rows and of their non-zeros

_FOUND = 1 << 18  # rows that are looked up at a time


def pointers(counts: Array | Sequence[int]) -> Array:
    """Where each part starts and the last one ends, int64 (n + 1,), from the number of entries per part."""
    out = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=out[1:])
    return out


def keep_entries(mask: Array, indptr: Array, *values: Array) -> tuple[Array, ...]:
    """Pointers and values of the entries where a mask over them is true; where it is everywhere, these themselves."""
    if mask.all():
        return indptr, *values
    kept = np.flatnonzero(mask)  # where half is true, taking at numbers is up to six times as fast as at a mask
    return pointers(mask)[indptr], *(each[kept] for each in values)


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
        if len(lengths) and (lengths == lengths[0]).all():  # as of a TopK SAE: a row is one piece of memory
            parts = (each.reshape(len(lengths), -1).take(rows, axis=0) for each in (self.indices, self.data))
            return SparseRows(np.arange(len(rows) + 1) * lengths[0], *(part.ravel() for part in parts))
        counts = lengths[rows]
        indptr = pointers(counts)
        entries = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], counts)
        return SparseRows(indptr, self.indices[entries], self.data[entries])

    def keep(self, mask: Array) -> SparseRows:
        """Only the entries where `mask`, bool (nnz,), is true."""
        return SparseRows(*keep_entries(mask, self.indptr, self.indices, self.data))

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


class NonEmptyRows:
    """A sparse matrix of many rows that keeps those with an entry, and answers for all: any rows as a CSR matrix.

    Memory: a bit and an eighth of a byte per row where some are empty, beside the matrix.
    """

    def __init__(self, non_empty: Array, matrix: scipy.sparse.csr_array) -> None:
        """`non_empty`: of all rows, bool. `matrix`: these rows, and one or more without entries after them."""
        self.matrix, self._words = matrix, None
        if not non_empty.all():
            bits = np.zeros(-(-len(non_empty) // 64) * 8, np.uint8)
            bits[: -(-len(non_empty) // 8)] = np.packbits(non_empty, bitorder="little")
            self._words = bits.view("<u8")
            self._before = pointers(np.bitwise_count(self._words))

    @classmethod
    def of_columns(cls, columns: scipy.sparse.csc_array) -> NonEmptyRows:
        """Of a matrix that is stored by column."""
        import scipy.sparse as sp

        non_empty = np.zeros(columns.shape[0], bool)
        non_empty[columns.indices] = True
        rows = cls(non_empty, columns)  # for its numbers of rows
        shape = int(np.count_nonzero(non_empty)) + 1, columns.shape[1]
        rows.matrix = sp.csc_array((columns.data, rows._find(columns.indices), columns.indptr), shape=shape).tocsr()
        return rows

    @property
    def n_columns(self) -> int:
        """Columns of the matrix."""
        return int(self.matrix.shape[1])

    def __getitem__(self, rows: Array) -> scipy.sparse.csr_array:
        """These rows, in this order."""
        return self.matrix[self._find(rows)]

    def lengths(self, rows: Array) -> Array:
        """How many entries each of these rows has."""
        at = self._find(rows)
        lengths: Array = self.matrix.indptr[1:][at]
        lengths -= self.matrix.indptr[at]
        return lengths

    def _find(self, rows: Array) -> Array:
        """Rows of the matrix that is kept; the last one stands for rows without an entry."""
        if self._words is None:
            return rows
        out = np.empty(len(rows), self.matrix.indices.dtype)
        for start in range(0, len(rows), _FOUND):
            part = rows[start : start + _FOUND]
            word, bit = part >> 6, (part & 63).astype(np.uint64)
            bits = self._words[word] >> bit
            # The bits from the row's own on count down from the end of its word.
            at = self._before[word + 1] - np.bitwise_count(bits)
            out[start : start + _FOUND] = np.where(bits & np.uint64(1), at, -1)
        out[out < 0] = self.matrix.shape[0] - 1
        return out


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
