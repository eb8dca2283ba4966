"""Activations in memory: scipy and torch matrices, AnnData, EncoderOutput, named arrays, dense arrays."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from saestore.errors import InvalidInputError
from saestore.files import as_numpy, plain_tensor, unmasked
from saestore.formats.base import BLOCK, Opened, Source, as_floats, bad_shape, nonzeros, stored_dtype
from saestore.formats.named_arrays import MemoryArray, is_named, of_parts, only_matrix, open_named, rows_per_item
from saestore.sparse_rows import Array, SparseRows

_TAKEN = (
    "a path; a scipy or torch sparse matrix; an AnnData; an object with top_acts and top_indices; a mapping of named "
    "arrays, or a table of them; or a dense array or tensor, (samples, features) or (items, samples, features)"
)
_ENCODER_OUTPUT = ("top_indices", "top_acts")


def open_object(given: Any, source: Source) -> Opened:
    """Open what a caller has in memory; nothing is copied that need not be."""
    import scipy.sparse

    if hasattr(given, "is_meta"):
        given = plain_tensor(given, "the tensor", sparse=True)
    if scipy.sparse.issparse(given):
        return _matrix("scipy", f"the {type(given).__name__}", _parts(given), source)
    if hasattr(given, "X") and hasattr(given, "obs"):
        return cast("Opened", import_module("saestore.formats.anndata").open_adata(given, source))
    columns = [*getattr(given, "column_names", getattr(given, "columns", ()))]  # of a table
    if is_named(map(str, columns)):
        given = {str(name): given[name] for name in columns}
    if isinstance(given, Mapping) or all(hasattr(given, name) for name in _ENCODER_OUTPUT):
        return _named(given, source)
    if hasattr(given, "layout") and "sparse" in str(given.layout):
        return _matrix("torch", f"the {str(given.layout).removeprefix('torch.')} tensor", _tensors(given), source)
    if hasattr(given, "select_columns") and hasattr(given, "features"):  # a datasets.Dataset
        return cast("Opened", import_module("saestore.formats.dense_tensors").open_embedded(given, source))
    if hasattr(given, "__array__") or hasattr(given, "layout"):
        return _dense(given)
    raise InvalidInputError(
        f"activations to import cannot be a {type(given).__name__}; give {_TAKEN}.", code="unsupported-activations"
    )


def renamed(opened: Opened, name: str, where: str, **facts: Any) -> Opened:
    """The same as of the format `name`, at `where`; `facts` are further fields of `Opened`."""
    layout = f"{name} {opened.source['layout']}"
    return replace(opened, format=name, path=where, source={"layout": layout}, **facts)


def in_file(opened: Opened, path: Path) -> Opened:
    """What was opened in memory is of a file, which its bytes identify."""
    return replace(opened, path=str(path), files=(path,), digest=None)


class _Parts(NamedTuple):
    """A matrix as its arrays: compressed by row or column, or rows, columns and values."""

    kind: str
    shape: tuple[int, ...]
    arrays: dict[str, Array]
    item_ptr: int | None = None


def _parts(matrix: Any) -> _Parts:
    """Of a scipy matrix; the rare formats become CSR in memory."""
    if matrix.format == "coo" and matrix.ndim == 2:
        return _Parts("coo", matrix.shape, {"rows": matrix.row, "columns": matrix.col, "values": matrix.data})
    if matrix.format not in ("csr", "csc") and matrix.ndim == 2:
        if matrix.format == "bsr":
            matrix.check_format(full_check=True)  # the conversion would write where a wrong index points
        matrix = matrix.tocsr()
        matrix.eliminate_zeros()  # zeros of dense blocks and diagonals mean nothing
    arrays = {"ids": matrix.indices, "values": matrix.data, "indptr": matrix.indptr} if matrix.ndim == 2 else {}
    return _Parts(matrix.format, matrix.shape, arrays)


def _tensors(tensor: Any) -> _Parts:
    """Of a sparse tensor; repeated entries are not summed yet."""
    layout, shape = str(tensor.layout).removeprefix("torch.sparse_"), tuple(tensor.shape)
    if layout == "coo" and tensor.dense_dim():
        return _tensors(tensor.to_dense().to_sparse())
    if layout == "coo":
        ids = _array(tensor._indices())  # noqa: SLF001 (the public method refuses repetitions)
        rows = ids[0]
        for axis, size in zip(ids[1:-1], shape[1:-1], strict=True):  # items of rows
            rows = rows * size + axis
        arrays = {"rows": rows, "columns": ids[-1], "values": _array(tensor._values())}  # noqa: SLF001
        flat = (math.prod(shape[:-1]), shape[-1]) if len(shape) > 2 else shape
        return _Parts("coo", flat, arrays, rows_per_item(shape))
    if len(shape) != 2:
        return _tensors(tensor.to_dense().to_sparse())
    if layout not in ("csr", "csc"):
        return _tensors(tensor.to_sparse_coo())
    ids, pointers = (
        (tensor.col_indices, tensor.crow_indices) if layout == "csr" else (tensor.row_indices, tensor.ccol_indices)
    )
    arrays = {"ids": _array(ids()), "values": _array(tensor.values()), "indptr": _array(pointers())}
    return _Parts(layout, shape, arrays)


def _matrix(name: str, where: str, parts: _Parts, source: Source) -> Opened:
    shape = tuple(parts.shape)
    if len(shape) != 2 or 0 in shape:
        raise bad_shape(f"{where} has the shape {shape}; it needs at least one sample and one feature.")
    arrays = {role: MemoryArray(array, where) for role, array in parts.arrays.items()}
    opened = of_parts(parts.kind, (shape[0], shape[1]), arrays, where, source.resources)
    facts = {"item_ptr": parts.item_ptr, "sum_duplicates": True, "digest": _digest(parts.arrays)}
    return renamed(opened, name, where, **facts)


def _named(given: Any, source: Source) -> Opened:
    where = f"the {type(given).__name__}"
    if not isinstance(given, Mapping):
        names = (*_ENCODER_OUTPUT, "pre_acts")
        return open_mapping("encoder-output", {name: getattr(given, name, None) for name in names}, where, source)
    name = None if is_named(given) else only_matrix(given, where, source.others)
    return open_mapping("npz", given, where, source) if name is None else open_object(given[name], source)


def open_mapping(name: str, given: Mapping[str, Any], where: str, source: Source) -> Opened:
    """Open arrays or tensors by the names that they have in a file."""
    arrays = {str(key): _array(value) for key, value in given.items() if value is not None}
    named = {key: MemoryArray(array, key) for key, array in arrays.items()}
    opened = open_named(named, where, source.resources, source.others)
    return renamed(opened, name, where, digest=_digest(arrays))


def _dense(given: Any) -> Opened:
    """Rows by features, or items by rows (of any dimensions) by features."""
    where, values = f"the {type(given).__name__}", _array(given)
    if values.ndim < 2 or 0 in values.shape:
        raise bad_shape(
            f"{where} has the shape {values.shape}; dense activations are (samples, features) or (items, samples, "
            "features), none of them 0."
        )
    flat, dtype = values.reshape(-1, values.shape[-1]), stored_dtype(values.dtype, where)

    def read(start: int, stop: int) -> SparseRows:
        return nonzeros(as_floats(flat[start:stop], dtype, where))

    facts: Any = {"item_ptr": rows_per_item(values.shape), "digest": _digest({"values": flat})}
    facts["source"] = {"layout": "dense array"}
    return Opened("dense", where, (), *flat.shape, dtype, read, max(1, BLOCK // flat.shape[1]), **facts)


def _array(value: Any) -> Array:
    """A numpy array of an array or tensor on any device."""
    if hasattr(value, "is_meta"):
        return as_numpy(value, "a tensor")
    try:
        found = np.asanyarray(value)
        if found.dtype == object and not isinstance(value, np.ndarray):  # a column of lists
            found = np.array(found.tolist())
    except ValueError as error:
        raise bad_shape(f"an array has rows of several lengths ({error}).") from error
    return unmasked(found, "the array")


def _digest(arrays: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        values = np.ascontiguousarray(array)
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.view(np.uint8).data if values.size else b"")
    return digest.hexdigest()
