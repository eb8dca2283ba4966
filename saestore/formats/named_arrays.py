"""Sparse matrices as named arrays, under any of the usual names: in a ``.npz`` file, or in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.files import refuse_unused
from saestore.formats.base import BLOCK, Opened, as_floats, bad_shape, check_ids, stored_dtype
from saestore.formats.issues import Issue
from saestore.formats.spool import Entries, Spool, blocks, check_claimed, checked_rows, open_compressed
from saestore.sparse_rows import Array, SparseRows

# What an array is, and the names that it goes by.
_IDS = (
    "indices", "ids", "idx", "inds", *(f"{kind}{end}" for kind in ("feature", "latent", "top", "topk")
    for end in ("_indices", "_ids", "_idx", "_inds", "s")),
)  # fmt: skip
_VALUES = (
    "values", "value", "vals", "val", "v", "data", "acts", "act", "activations", "activation",
    *(f"{kind}_{end}" for kind in ("top", "topk", "feature", "latent")
      for end in ("acts", "activations", "values", "vals")),
)  # fmt: skip
_NAMES = {
    "ids": _IDS,
    "values": _VALUES,
    "indptr": ("indptr", "crow_indices", "row_ptr", "ptr"),
    "rows": ("rows", "row", "i", *(f"{kind}_{end}" for kind in ("row", "sample") for end in ("indices", "ids", "idx")),
             "samples", "sample"),
    "columns": ("cols", "col", "columns", "column", "j", "feature", "latent", "col_indices", "col_ids", "col_idx"),
    "locations": ("locations",),
}  # fmt: skip
_WIDTHS = ("d_sae", "n_features", "dict_size", "num_latents", "n_latents", "width")
KNOWN = (
    "indices and values; indptr, indices and data; rows, cols and vals; or locations and activations; a dense array of "
    "several is named as FILE:NAME"
)


class MemoryArray:
    """An array in memory, read as `saestore.files.NpzArray` is."""

    def __init__(self, array: Array, where: str) -> None:
        self._array, self.where = array, where
        self.shape, self.dtype, self.length = tuple(array.shape), np.dtype(array.dtype), array.size

    def read(self, start: int, stop: int) -> Array:
        """Flat values; of an array in another order only the rows that they are in are put in order."""
        inner = math.prod(self.shape[1:])
        first = start // max(1, inner)
        rows = self._array[first : -(-stop // max(1, inner))].reshape(-1)
        return rows[start - first * inner : stop - first * inner]

    def read_all(self) -> Array:
        """The array."""
        return self._array


def pair_of(names: Iterable[str]) -> tuple[str, str] | None:
    """The names of ids and values, where they are all that makes the matrix: rows of places."""
    found = _roles(names)
    pair = [name for role in ("ids", "values") for name in found.get(role, ())]
    return (pair[0], pair[1]) if set(found) == {"ids", "values"} and len(pair) == 2 else None


def is_named(names: Iterable[str]) -> bool:
    """Whether arrays of these names are a sparse matrix."""
    found = _roles(names)
    whole = ({"ids"}, {"locations"}, {"rows", "columns"}, {"indptr", "columns"})
    return "values" in found and any(roles <= set(found) for roles in whole)


def stated_shape(arrays: Mapping[str, Any], where: str, lengths: tuple[int, ...] = (2, 3)) -> tuple[int | None, ...]:
    """Rows (or items and rows of each) and features as arrays beside the matrix state them, else None."""
    shape = _numbers(arrays.get("shape"), where, "shape", lengths)
    if shape is not None:
        return shape
    widths = (_numbers(arrays.get(name), where, name, (1,)) for name in _WIDTHS)
    width = next((given[0] for given in widths if given is not None), None)
    before = arrays.get("pre_acts")
    return None, width if before is None else int(before.shape[-1])


def _numbers(array: Any, where: str, name: str, lengths: tuple[int, ...]) -> tuple[int, ...] | None:
    if array is None:
        return None
    values = np.asarray(array.read_all() if hasattr(array, "read_all") else array).reshape(-1)
    if len(values) not in lengths or values.dtype.kind not in "iu" or values.min() < 1:
        raise bad_shape(
            f"{where}: {name} is {values.tolist()}; it is {' or '.join(map(str, lengths))} whole number(s) of at least "
            "1."
        )
    return tuple(values.tolist())


def open_named(arrays: Mapping[str, Any], where: str, resources: ExitStack, others: Sequence[str] = ()) -> Opened:
    """Open a matrix of named arrays, each a `MemoryArray` or an `NpzArray`.

    `others` are names of arrays that are read besides, such as a mask. Entries that are not stored by row go through a
    `Spool`.
    """
    arrays = {name: array for name, array in arrays.items() if name not in others}
    roles = _roles(arrays)
    if not is_named(arrays):
        raise InvalidInputError(
            f"{where} holds {', '.join(arrays) or 'nothing'}; a sparse matrix is {KNOWN}.", code="not-a-matrix"
        )
    for role, names in roles.items():
        if len(names) > 1:
            raise InvalidInputError(
                f"{where} has {' and '.join(names)}, which may both be the {role}; save it with one of them.",
                code="ambiguous-arrays",
            )
    used = {role: name for role, (name,) in roles.items()}
    found = {role: _in_order(arrays[name]) for role, name in used.items()}
    for role in ("ids", "rows", "columns", "indptr", "locations"):
        if role in found:
            check_ids(np.empty(0, found[role].dtype), found[role].where)
    facts = {name.lower(): array for name, array in arrays.items()}
    shape = stated_shape(facts, where)
    opened = _matrix(found, shape, where, resources, facts.get("tokens"))
    read = ["shape", "item_ptr", *_WIDTHS, *(["tokens"] * ("locations" in used))]
    read = [used["values"], *used.values(), *(name for name in arrays if name.lower() in read)]
    refuse_unused({name: tuple(array.shape) for name, array in arrays.items()}, read, opened.n_rows, where)
    item_ptr = facts["item_ptr"].read_all() if "item_ptr" in facts else opened.item_ptr
    return replace(opened, n_features=shape[-1], item_ptr=item_ptr)


def _matrix(
    found: dict[str, Any], shape: tuple[int | None, ...], where: str, resources: ExitStack, tokens: Any
) -> Opened:
    """A matrix of arrays by their roles."""
    ids, rows, width = found.get("ids"), _product(shape[:-1]), shape[-1]
    if "indptr" in found:
        found["ids"] = found.get("columns", ids)
        n_lines = found["indptr"].length - 1
        if rows is not None and (n_lines != rows or rows == width):
            return _by_column(found, n_lines, (rows, width), where, resources)
        return compressed(found, "csr", (n_lines, width), where, resources)
    if "locations" in found:
        return _located(found, shape, where, resources, tokens)
    if "rows" in found:
        found.setdefault("columns", ids)
    elif ids is not None and len(ids.shape) == 2 and ids.shape == (2, *found["values"].shape):  # as torch has it
        both = ids.read_all()
        found["rows"], found["columns"] = (MemoryArray(axis, ids.where) for axis in both)
    if {"rows", "columns"} <= set(found):
        return coordinates(found, rows, where, resources)
    return _top_k(found, where)


def _located(
    found: dict[str, Any], shape: tuple[int | None, ...], where: str, resources: ExitStack, tokens: Any
) -> Opened:
    """Rows of (row, feature), or of (sequence, position, feature) as Delphi has them, one per value."""
    table = found["locations"].read_all()
    kind = table.shape[-1] if table.ndim == 2 else 0
    sizes = tuple(tokens.shape) if tokens is not None else shape[:-1]
    if kind not in (2, 3) or (kind == 3 and (len(sizes) != 2 or None in sizes)):
        raise bad_shape(
            f"{where}: locations has the shape {table.shape}; each names row and feature, or sequence, position and "
            "feature, with the numbers of all three as 'shape', or 'tokens' of (sequences, positions)."
        )
    rows, per_item = table[:, 0], None
    if kind == 3:
        n_items, per_item = (size or 0 for size in sizes)
        rows = checked_rows(rows, n_items, where) * per_item + checked_rows(table[:, 1], per_item, where)
    axes = {"rows": MemoryArray(rows, "locations"), "columns": MemoryArray(table[:, -1], "locations")}
    n_rows = _product(sizes if kind == 3 else shape[:-1])
    return replace(coordinates({**axes, "values": found["values"]}, n_rows, where, resources), item_ptr=per_item)


def _opened(where: str, layout: str, n_rows: int, **facts: Any) -> Opened:
    source = {"layout": layout}
    return Opened(format="npz", path=where, files=(), n_rows=n_rows, n_features=None, source=source, **facts)


def _product(sizes: Sequence[int | None]) -> int | None:
    return None if None in sizes else math.prod(size or 0 for size in sizes)


def rows_per_item(shape: tuple[int, ...]) -> int | None:
    """Of an array (items, …, features or places); None where it is a matrix."""
    return math.prod(shape[1:-1]) if len(shape) > 2 else None


def only_matrix(arrays: Mapping[str, Any], where: str, others: Sequence[str] = ()) -> str | None:
    """The name of the one array that can be dense or sparse activations; None where there are several or none."""
    shapes = {name: tuple(each.shape) for name, each in arrays.items() if hasattr(each, "shape") and name not in others}
    matrices = [name for name, shape in shapes.items() if len(shape) > 1]
    if len(matrices) != 1 or has_ids(matrices[0], arrays[matrices[0]].dtype):
        return None
    refuse_unused(shapes, matrices, math.prod(shapes[matrices[0]][:-1]), where)
    return matrices[0]


def has_ids(name: str, dtype: Any) -> bool:
    """Whether an array of this name and dtype can only be numbers of rows or features."""
    return "int" in str(dtype) and not {"values"} >= set(_roles([name]))


def _in_order(array: Any) -> Any:
    """The array in C order: a file in Fortran order has its values column by column."""
    if getattr(array, "is_fortran", False):
        return MemoryArray(np.ascontiguousarray(array.read_all()), array.where)
    return array


def _by_column(
    found: Mapping[str, Any], n_lines: int, shape: Sequence[int | None], where: str, resources: ExitStack
) -> Opened:
    """A matrix whose pointers do not count its rows: by column, unless it is square, which does not show it."""
    n_rows, n_features = shape
    if n_rows == n_features or n_lines != n_features or n_rows is None:
        raise InvalidInputError(
            f"{where}: indptr has {n_lines + 1:,} values, and the shape is {n_rows} x {n_features}: that does not show "
            "whether rows or columns are compressed. Add an array format, 'csr' or 'csc'.",
            code="not-a-matrix",
        )
    return compressed(found, "csc", (n_rows, n_features), where, resources)


def of_parts(kind: str, shape: tuple[int, int], arrays: Mapping[str, Any], where: str, resources: ExitStack) -> Opened:
    """A matrix of rows, columns and values (``coo``), or one that is compressed."""
    if kind == "coo":
        return replace(coordinates(arrays, shape[0], where, resources), n_features=shape[1])
    return compressed(arrays, kind, shape, where, resources)


def compressed(
    arrays: Mapping[str, Any], by: str, shape: tuple[int, int | None], where: str, resources: ExitStack
) -> Opened:
    """A matrix that is compressed by row (``csr``) or column (``csc``); `arrays` are ids, values and indptr."""
    ids, values = arrays["ids"], arrays["values"]
    dtype = stored_dtype(values.dtype, values.where)

    def entries(a: int, b: int) -> tuple[Array, Array]:
        return ids.read(a, b), as_floats(values.read(a, b), dtype, values.where)

    if len(arrays["indptr"].shape) != 1 or ids.length != values.length:
        raise bad_shape(
            f"{where}: indptr has the shape {arrays['indptr'].shape}, and there are {ids.length:,} indices of "
            f"{values.length:,} values; it is one list of pointers, and each value has one index."
        )
    known, indptr = (shape[0], shape[1] or 0), arrays["indptr"].read_all()
    read, step = open_compressed(
        by, known, indptr, entries, n_entries=ids.length, where=where, dtype=dtype, resources=resources
    )
    opened = _opened(where, by, shape[0], dtype=dtype, read=read, step=step)
    return replace(opened, n_features=shape[1])


def coordinates(arrays: Mapping[str, Any], n_rows: int | None, where: str, resources: ExitStack) -> Opened:
    """A matrix of rows, columns and values; without `n_rows` the last row is the last one with an entry."""
    rows, columns, values = arrays["rows"], arrays["columns"], arrays["values"]
    dtype = stored_dtype(values.dtype, values.where)
    issues: tuple[Issue, ...] = ()
    if not rows.length == columns.length == values.length or (not values.length and n_rows is None):
        raise bad_shape(
            f"{where} has {rows.length:,} rows, {columns.length:,} columns and {values.length:,} values; they are "
            "equally many, and at least one where no shape is stated."
        )
    check_ids(np.empty(0, rows.dtype), rows.where)
    if n_rows is None:
        n_rows = 1 + max(int(rows.read(a, b).max()) for a, b in blocks(rows.length))
        message = f"no shape: samples after row {n_rows - 1:,}, the last one with an activation, are unknown"
        issues = (Issue("no_shape", "info", message),)
    n = n_rows
    check_claimed(n, values.length, where)

    def entries() -> Entries:
        for a, b in blocks(values.length):
            floats = as_floats(values.read(a, b), dtype, values.where)
            yield checked_rows(rows.read(a, b), n, rows.where), columns.read(a, b), floats

    spool = Spool(n_rows, entries(), dtype, resources)
    return _opened(where, "coo", n_rows, dtype=dtype, read=spool.read, step=spool.step, issues=issues)


def _top_k(arrays: Mapping[str, Any], where: str) -> Opened:
    """Rows of (ids, values), (n, k), or sequences of them, (n_items, …, k)."""
    ids, values = arrays["ids"], arrays["values"]
    shape = tuple(values.shape)
    if tuple(ids.shape) != shape or len(shape) < 2 or 0 in shape:
        raise bad_shape(
            f"{where}: {ids.where} has the shape {tuple(ids.shape)} and {values.where} {shape}; without indptr both "
            "are rows by places, none of them 0."
        )
    dtype, k, n_rows = stored_dtype(values.dtype, values.where), shape[-1], int(np.prod(shape[:-1]))

    def read(start: int, stop: int) -> SparseRows:
        indptr = np.arange(stop - start + 1, dtype=np.int64) * k
        floats = as_floats(values.read(start * k, stop * k), dtype, values.where)
        return SparseRows(indptr, ids.read(start * k, stop * k), floats)

    facts = {"dtype": dtype, "read": read, "step": max(1, BLOCK // k)}
    facts |= {"row_capacity": k, "sae": {"k": k}, "item_ptr": rows_per_item(shape)}
    return _opened(where, f"{k} places a row", n_rows, **facts)


def _roles(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of the arrays that a matrix needs, by role, where they are there."""
    held = list(names)
    found = {role: [name for name in held if name.lower() in known] for role, known in _NAMES.items()}
    return {role: names for role, names in found.items() if names}
