"""Rows of matrices that are stored compressed, or in any order: entries sorted into rows through a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import numpy as np

from saestore.errors import InvalidInputError
from saestore.formats import base
from saestore.formats.base import check_ids, rows_per_block
from saestore.kernels import expand_pointers
from saestore.sparse_rows import Array, SparseRows, pointers
from saestore.storage.open import write_errors

Read = Callable[[int, int], SparseRows]
Entries = Iterable[tuple[Array, Array, Array]]

_BUCKET = 1 << 12  # rows that are stored together
_ROWS = 1 << 24  # that a matrix may have with hardly any entry


class Spool:
    """A temporary file of entries, (rows, features, activations) in blocks of any order, from which rows can be read.

    It is in ``$TMPDIR`` without a name, takes 16 bytes per entry (20 of float64), and goes with this process. Rows must
    be within `n_rows`. Memory: a block, and 8 bytes per block and 4,096 rows; of a read its rows, and 4,096 more at
    each end.
    """

    def __init__(self, n_rows: int, entries: Entries, dtype: str, resources: ExitStack) -> None:
        self.n_rows, self.n_entries = n_rows, 0
        feature = np.dtype("<i4" if np.dtype(dtype).itemsize < 8 else "<i8")
        self._record = np.dtype([("row", "<i8"), ("feature", feature), ("value", dtype)])
        self._file = resources.enter_context(tempfile.TemporaryFile(prefix="saestore-"))  # noqa: SIM115
        n_buckets = -(-n_rows // _BUCKET)
        self._blocks: list[Array] = []
        with write_errors(f"a temporary file in {tempfile.gettempdir()}"):
            for rows, features, values in entries:
                check_ids(features, "the matrix", np.iinfo(feature))
                # A stable sort of small integers is a radix sort: entries of a row keep their order.
                bucket = rows // _BUCKET
                order = np.argsort(bucket, kind="stable")
                records = np.empty(len(rows), self._record)
                records["row"], records["feature"], records["value"] = rows[order], features[order], values[order]
                self._file.write(records.view(np.uint8).data)
                self._blocks.append(pointers(np.bincount(bucket, minlength=n_buckets)) + self.n_entries)
                self.n_entries += len(rows)

    @property
    def step(self) -> int:
        """Rows to read at once."""
        return rows_per_block(self.n_rows, self.n_entries)

    def read(self, start: int, stop: int) -> SparseRows:
        """Rows `start` to `stop`, the entries of a row in the order in which they came."""
        first, last = start // _BUCKET, -(-stop // _BUCKET)
        parts = [self._slice(int(ends[first]), int(ends[last])) for ends in self._blocks]
        records = np.concatenate(parts) if parts else np.empty(0, self._record)
        records = records[(records["row"] >= start) & (records["row"] < stop)]
        records = records[np.argsort(records["row"], kind="stable")]
        indptr = pointers(np.bincount(records["row"] - start, minlength=stop - start))
        return SparseRows(indptr, records["feature"].astype(np.int64), np.ascontiguousarray(records["value"]))

    def _slice(self, start: int, stop: int) -> Array:
        self._file.seek(start * self._record.itemsize)
        return np.frombuffer(self._file.read((stop - start) * self._record.itemsize), self._record)


def open_compressed(
    by: str,
    shape: tuple[int, int],
    indptr: Array,
    read: Callable[[int, int], tuple[Array, Array]],
    *,
    n_entries: int,
    where: str,
    dtype: str,
    resources: ExitStack,
) -> tuple[Read, int]:
    """The `read` and `step` of `Opened` for a matrix compressed ``by`` row (``csr``), in place, or column, spooled.

    ``read(a, b)`` gives the indices along the other axis and the activations of entries a to b of `n_entries`.
    """
    check_ids(indptr, f"{where}: indptr")
    indptr, n_major = indptr.astype(np.int64), shape[by != "csr"]
    fits = len(indptr) == n_major + 1 > 1 and indptr[0] == 0 and indptr[-1] <= n_entries
    if not fits or (np.diff(indptr) < 0).any():
        raise InvalidInputError(
            f"{where}: indptr does not ascend from 0 to at most {n_entries:,}, the number of activations, in "
            f"{n_major + 1:,} steps; the file is damaged.",
            code="damaged-file",
        )
    if by == "csr":

        def rows(start: int, stop: int) -> SparseRows:
            first = int(indptr[start])
            return SparseRows(indptr[start : stop + 1] - first, *read(first, int(indptr[stop])))

        return rows, rows_per_block(shape[0], int(indptr[-1]))

    def entries() -> Iterator[tuple[Array, Array, Array]]:
        for start, stop in blocks(int(indptr[-1])):
            minor, values = read(start, stop)
            yield checked_rows(minor, shape[0], where), expand_pointers(indptr, start, stop), values

    spool = Spool(shape[0], entries(), dtype, resources)
    return spool.read, spool.step


def blocks(length: int) -> Iterator[tuple[int, int]]:
    """Start and stop of the blocks of `length` entries."""
    yield from ((start, min(start + base.BLOCK, length)) for start in range(0, length, base.BLOCK))


def check_claimed(n_rows: int, n_entries: int, where: str) -> None:
    """Refuse far more rows than entries, where only the word of the file shows that it has them."""
    if n_rows > _ROWS + 1000 * n_entries:
        raise InvalidInputError(
            f"{where} has {n_rows:,} rows and only {n_entries:,} entries. The file is damaged; where it is not, save "
            "it as CSR.",
            code="too-large",
        )


def checked_rows(rows: Array, n_rows: int, where: str) -> Array:
    """Rows of entries as int64."""
    check_ids(rows, where)
    outside = np.flatnonzero((rows < 0) | (rows >= n_rows))
    if len(outside):
        raise InvalidInputError(
            f"{where} names sample {rows[outside[0]]}; there are {n_rows:,}. The file is damaged.", code="damaged-file"
        )
    return rows.astype(np.int64, copy=False)
