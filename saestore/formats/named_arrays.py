"""Sparse matrices as named arrays, under any of the usual names: in a ``.npz`` file, or in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from saestore.errors import InvalidInputError
from saestore.formats.base import BLOCK, as_floats, check_ids, stored_dtype
from saestore.formats.issues import Issue
from saestore.formats.spool import Compressed, Entries, Read, Spool, blocks, checked_rows
from saestore.sparse_rows import SparseRows

Array = np.ndarray[Any, Any]

# What an array is, and the names that it goes by.
_NAMES = {
    "ids": ("indices", "top_indices"),
    "values": ("values", "data", "vals", "top_acts", "acts"),
    "indptr": ("indptr",),
    "rows": ("rows", "row"),
    "columns": ("cols", "col", "columns"),
}
_ROWS = 1 << 24  # that a matrix of coordinates may have with hardly any entry
_KNOWN = "indices and values; indptr, indices and data; or rows, cols and vals"


@dataclass(frozen=True)
class MemoryArray:
    """An array in memory, read as `saestore.files.NpzArray` is."""

    array: Array
    where: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype."""
        return np.dtype(self.array.dtype)

    @property
    def length(self) -> int:
        """Number of values."""
        return self.array.size

    def read(self, start: int, stop: int) -> Array:
        """Flat values."""
        return self.array.reshape(-1)[start:stop]

    def read_all(self) -> Array:
        """The array."""
        return self.array


class Matrix(NamedTuple):
    """Rows of a sparse matrix: how to read them, how many there are, and what the arrays say beside them."""

    read: Read
    step: int
    n_rows: int
    dtype: str
    layout: str
    row_capacity: int | None = None
    item_ptr: Any = None
    issues: tuple[Issue, ...] = ()


def is_named(names: Sequence[str]) -> bool:
    """Whether arrays of these names are a sparse matrix."""
    found = _roles(names)
    return "values" in found and ("ids" in found or {"rows", "columns"} <= set(found))


def open_named(arrays: Mapping[str, Any], where: str, shape: Sequence[int | None], resources: ExitStack) -> Matrix:
    """Open a matrix of named arrays, each of `MemoryArray` or `saestore.files.NpzArray`.

    Parameters
    ----------
    where
        The file or object, for messages.
    shape
        Rows and features, each None where it is not known.
    resources
        Closes a temporary file in the end: entries that are not stored by row go through a `Spool`.
    """
    found = {role: arrays[name] for role, name in _roles(list(arrays)).items()}
    if not is_named(list(arrays)):
        raise InvalidInputError(
            f"{where} holds {', '.join(arrays) or 'nothing'}; a sparse matrix is {_KNOWN}.", code="not-a-matrix"
        )
    if "indptr" in found:
        n_lines = found["indptr"].length - 1
        if shape[0] is not None and (n_lines != shape[0] or shape[0] == shape[1]):
            return _by_column(found, n_lines, shape, where, resources)
        return compressed(found, "csr", (n_lines, shape[1]), where, resources)
    if "rows" in found and "columns" in found:
        return coordinates(found, shape[0], where, resources)
    return _top_k(found, where)


def _by_column(
    found: Mapping[str, Any], n_lines: int, shape: Sequence[int | None], where: str, resources: ExitStack
) -> Matrix:
    """A matrix whose pointers do not count its rows: by column, unless it is square, which does not show it."""
    n_rows, n_features = shape
    if n_rows == n_features or n_lines != n_features or n_rows is None:
        raise InvalidInputError(
            f"{where}: indptr has {n_lines + 1:,} values, and the shape is {n_rows} x {n_features}: that does not show "
            "whether rows or columns are compressed. Add an array format, 'csr' or 'csc'.",
            code="not-a-matrix",
        )
    return compressed(found, "csc", (n_rows, n_features), where, resources)


def compressed(
    arrays: Mapping[str, Any], by: str, shape: tuple[int, int | None], where: str, resources: ExitStack
) -> Matrix:
    """A matrix that is compressed by row (``csr``) or column (``csc``); `arrays` are ids, values and indptr."""
    ids, values = arrays["ids"], arrays["values"]
    dtype, n_entries = stored_dtype(values.dtype, values.where), min(values.length, ids.length)

    def entries(a: int, b: int) -> tuple[Array, Array]:
        return ids.read(a, b), as_floats(values.read(a, b), dtype, values.where)

    if len(arrays["indptr"].shape) != 1:
        raise InvalidInputError(f"{where}: indptr has the shape {arrays['indptr'].shape}; it is one list of pointers.",
                                code="bad-shape")  # fmt: skip
    known = shape[0], shape[1] or 0
    read, step = Compressed(by, known, arrays["indptr"].read_all(), n_entries, entries, where).open(dtype, resources)
    return Matrix(read, step, shape[0], dtype, by)


def coordinates(arrays: Mapping[str, Any], n_rows: int | None, where: str, resources: ExitStack) -> Matrix:
    """A matrix of rows, columns and values; without `n_rows` the last row is the last one with an entry."""
    rows, columns, values = arrays["rows"], arrays["columns"], arrays["values"]
    dtype = stored_dtype(values.dtype, values.where)
    issues: tuple[Issue, ...] = ()
    if not rows.length == columns.length == values.length or not values.length:
        raise InvalidInputError(
            f"{where} has {rows.length:,} rows, {columns.length:,} columns and {values.length:,} values; they are "
            "equally many, and at least one.",
            code="bad-shape",
        )
    check_ids(rows.read(0, 1), rows.where)
    if n_rows is None:
        n_rows = 1 + max(int(rows.read(a, b).max()) for a, b in blocks(rows.length))
        message = f"no shape: samples after row {n_rows - 1:,}, the last one with an activation, are unknown"
        issues = (Issue("no_shape", "info", message),)
    n = n_rows
    if n > _ROWS + 1000 * values.length:  # nothing but the file's word shows that there are so many
        raise InvalidInputError(
            f"{where} has {n:,} rows and only {values.length:,} entries. The file is damaged; where it is not, save it "
            "as CSR.",
            code="too-large",
        )

    def entries() -> Entries:
        for a, b in blocks(values.length):
            floats = as_floats(values.read(a, b), dtype, values.where)
            yield checked_rows(rows.read(a, b), n, rows.where), columns.read(a, b), floats

    spool = Spool(n_rows, entries(), dtype, resources)
    return Matrix(spool.read, spool.step, n_rows, dtype, "coo", issues=issues)


def _top_k(arrays: Mapping[str, Any], where: str) -> Matrix:
    """Rows of (ids, values), (n, k), or sequences of them, (n_items, rows, k)."""
    ids, values = arrays["ids"], arrays["values"]
    shape = tuple(values.shape)
    if tuple(ids.shape) != shape or len(shape) not in (2, 3) or 0 in shape:
        raise InvalidInputError(
            f"{where}: {ids.where} has the shape {tuple(ids.shape)} and {values.where} {shape}; without indptr both "
            "are rows by places, none of them 0.",
            code="bad-shape",
        )
    dtype, k, n_rows = stored_dtype(values.dtype, values.where), shape[-1], int(np.prod(shape[:-1]))

    def read(start: int, stop: int) -> SparseRows:
        indptr = np.arange(stop - start + 1, dtype=np.int64) * k
        floats = as_floats(values.read(start * k, stop * k), dtype, values.where)
        return SparseRows(indptr, ids.read(start * k, stop * k), floats)

    item_ptr = shape[1] if len(shape) == 3 else None
    return Matrix(read, max(1, BLOCK // k), n_rows, dtype, f"{k} places a row", k, item_ptr)


def _roles(names: Sequence[str]) -> dict[str, str]:
    """The name of each array that a matrix needs, where it is there."""
    pairs = ((role, next((name for name in known if name in names), None)) for role, known in _NAMES.items())
    return {role: name for role, name in pairs if name is not None}
