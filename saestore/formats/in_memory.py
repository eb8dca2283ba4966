"""Activations in memory: scipy and torch matrices, AnnData, EncoderOutput, named arrays, dense arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import import_module
from typing import Any, NamedTuple, cast

import numpy as np

from saestore.errors import InvalidInputError
from saestore.files import plain_tensor, unmasked
from saestore.formats.base import BLOCK, Opened, Source, as_floats, nonzeros, stored_dtype
from saestore.formats.named_arrays import Matrix, MemoryArray, compressed, coordinates, open_named

__all__ = ["of_scipy", "open_mapping", "open_object", "opened_matrix"]

Array = np.ndarray[Any, Any]

_TAKEN = (
    "a path; a scipy or torch sparse matrix; an AnnData; an object with top_acts and top_indices; a mapping of named "
    "arrays; or a dense array or tensor, (samples, features) or (items, samples, features)"
)
_ENCODER_OUTPUT = ("top_indices", "top_acts")


def open_object(given: Any, source: Source) -> Opened:
    """Open what a caller has in memory; nothing is copied that need not be."""
    import scipy.sparse

    if hasattr(given, "detach"):
        given = plain_tensor(given, "the tensor", sparse=True)
    if scipy.sparse.issparse(given):
        return _matrix("scipy", f"the {type(given).__name__}", _parts(given), source)
    if hasattr(given, "X") and hasattr(given, "obs"):
        return cast("Opened", import_module("saestore.formats.anndata").open_adata(given, source))
    if isinstance(given, Mapping) or all(hasattr(given, name) for name in _ENCODER_OUTPUT):
        return _named(given, source)
    if hasattr(given, "layout") and "sparse" in str(given.layout):
        return _matrix("torch", f"the {str(given.layout).removeprefix('torch.')} tensor", _tensors(given), source)
    if hasattr(given, "__array__") or hasattr(given, "layout"):
        return _dense(given)
    raise InvalidInputError(
        f"activations to import cannot be a {type(given).__name__}; give {_TAKEN}.", code="unsupported-activations"
    )


def opened_matrix(matrix: Matrix, name: str, where: str, n_features: int | None, **facts: Any) -> Opened:
    """The matrix as what an import reads; `facts` are further fields of `Opened`."""
    known = {"item_ptr": matrix.item_ptr, "files": (), "issues": matrix.issues} | facts
    return Opened(
        format=name,
        path=where,
        n_rows=matrix.n_rows,
        n_features=n_features,
        dtype=matrix.dtype,
        read=matrix.read,
        step=matrix.step,
        row_capacity=matrix.row_capacity,
        sae={} if matrix.row_capacity is None else {"k": matrix.row_capacity},
        source={"layout": f"{name} {matrix.layout}"},
        **known,
    )


class _Parts(NamedTuple):
    """A matrix as its arrays: compressed by row or column, or rows, columns and values."""

    kind: str
    shape: tuple[int, ...]
    arrays: dict[str, Array]
    item_ptr: int | None = None

    def open(self, where: str, resources: ExitStack) -> Matrix:
        arrays = {name: MemoryArray(array, where) for name, array in self.arrays.items()}
        if self.kind == "coo":
            return coordinates(arrays, self.shape[0], where, resources)
        return compressed(arrays, self.kind, (self.shape[0], self.shape[1]), where, resources)


def of_scipy(given: Any, where: str, resources: ExitStack) -> Matrix:
    """Any scipy sparse matrix."""
    return _parts(given).open(where, resources)


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
        ids, several = _array(tensor._indices()), len(shape) == 3  # noqa: SLF001 (the public method refuses repetitions)
        rows = ids[0] * shape[1] + ids[1] if several else ids[0]  # items of rows
        arrays = {"rows": rows, "columns": ids[-1], "values": _array(tensor._values())}  # noqa: SLF001
        return (
            _Parts("coo", (shape[0] * shape[1], shape[2]), arrays, shape[1])
            if several
            else _Parts("coo", shape, arrays)
        )
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
        raise InvalidInputError(
            f"{where} has the shape {shape}; it needs at least one sample and one feature.", code="bad-shape"
        )
    matrix = parts.open(where, source.resources)
    facts = {"item_ptr": parts.item_ptr, "sum_duplicates": True, "digest": _digest(parts.arrays)}
    return opened_matrix(matrix, name, where, shape[1], **facts)


def _named(given: Any, source: Source) -> Opened:
    where = f"the {type(given).__name__}"
    if not isinstance(given, Mapping):
        names = (*_ENCODER_OUTPUT, "pre_acts")
        return open_mapping("encoder-output", {name: getattr(given, name, None) for name in names}, where, source)
    if len(set(given) - set(source.others)) == 1:
        return open_object(next(value for name, value in given.items() if name not in source.others), source)
    return open_mapping("npz", given, where, source)


def open_mapping(name: str, given: Mapping[str, Any], where: str, source: Source) -> Opened:
    """Open arrays or tensors by the names that they have in a file."""
    arrays = {str(key): _array(value) for key, value in given.items() if value is not None}
    named = {key: MemoryArray(array, key) for key, array in arrays.items()}
    matrix, width = open_named(named, where, source.resources, source.others)
    return opened_matrix(matrix, name, where, width, digest=_digest(arrays))


def _dense(given: Any) -> Opened:
    """Rows by features, or items by rows by features."""
    where, values = f"the {type(given).__name__}", _array(given)
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise InvalidInputError(
            f"{where} has the shape {values.shape}; dense activations are (samples, features) or (items, samples, "
            "features), none of them 0.",
            code="bad-shape",
        )
    flat, dtype = values.reshape(-1, values.shape[-1]), stored_dtype(values.dtype, where)
    return Opened(
        "dense",
        where,
        (),
        *flat.shape,
        dtype,
        lambda start, stop: nonzeros(as_floats(flat[start:stop], dtype, where)),
        max(1, BLOCK // flat.shape[1]),
        item_ptr=values.shape[1] if values.ndim == 3 else None,
        digest=_digest({"values": flat}),
        source={"layout": "dense array"},
    )


def _array(value: Any) -> Array:
    """A numpy array of an array or tensor on any device."""
    if hasattr(value, "detach"):
        value = plain_tensor(value, "a tensor").cpu()
        value = (value.float() if "bfloat16" in str(value.dtype) else value).numpy()
    return unmasked(np.asanyarray(value), "the array")


def _digest(arrays: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        values = np.ascontiguousarray(array)
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.view(np.uint8).data if values.size else b"")
    return digest.hexdigest()
