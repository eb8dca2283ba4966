"""AnnData, ``.h5ad`` or zarr: samples by features in ``X``, whatever ``obs`` says of the samples; read in slices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.formats.base import BLOCK, Opened, Rows, as_floats, nonzeros, stored_dtype
from saestore.formats.issues import Issue
from saestore.formats.spool import Spool
from saestore.interop.optional import require
from saestore.kernels import expand_pointers
from saestore.tables import Items, as_items

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, Any]

_DAMAGE = (OSError, KeyError, ValueError, RuntimeError, TypeError)
_KEYS = ("image_path", "text_path", "text")
_DENSE = 1 << 23  # values of a dense block


def open_anndata(path: Path, resources: ExitStack) -> Opened:
    """Open an AnnData file or zarr group, backed.

    A CSR or dense ``X`` is read in slices; a CSC one goes through a `Spool`. ``obs`` becomes the items: one a row, or,
    where it has a column ``item``, the runs of equal numbers in it. ``var``, layers and the rest are not read.

    Raises
    ------
    InvalidInputError
        It is damaged, is no AnnData, or has no ``X``.
    """
    anndata = require("anndata", "anndata", f"reading {path}")
    try:
        root = _open(path, resources)
        matrix = root["X"]
        obs = anndata.io.read_elem(root["obs"])
        names = anndata.io.read_elem(root["var"]).index
    except _DAMAGE as error:
        raise InvalidInputError(
            f"{path} is damaged, or no AnnData file with an X ({' '.join(str(error).split())[:160]})."
        ) from error
    shape, dtype, read, step, layout = _matrix(matrix, str(path), resources)
    if len(obs) != shape[0] or len(names) != shape[1]:
        raise InvalidInputError(f"{path}: X is {shape[0]} x {shape[1]}, obs has {len(obs)} rows and var {len(names)}.")
    items, item_ptr = _items(obs, root, anndata)
    return Opened(
        "anndata",
        str(path),
        (path,),
        *shape,
        dtype,
        read,
        step,
        item_ptr=item_ptr,
        items=items,
        faults=tuple(_numbering(names)),
        source={"layout": f"anndata {layout}"},
    )


def _open(path: Path, resources: ExitStack) -> Any:
    if path.is_dir():
        import zarr

        return zarr.open_group(path, mode="r", use_consolidated=False)
    h5py = require("h5py", "anndata", f"reading {path}")
    return resources.enter_context(h5py.File(path, "r"))


def _matrix(matrix: Any, where: str, resources: ExitStack) -> tuple[tuple[int, int], str, Any, int, str]:
    """Shape, dtype, reader, rows of a read, and what the layout is called."""
    kind = str(matrix.attrs.get("encoding-type", "array"))
    if kind == "array":
        shape = _shape(matrix.shape, where)
        dtype = stored_dtype(np.dtype(matrix.dtype), where)
        return shape, dtype, partial(_read_dense, matrix, dtype, where), max(1, _DENSE // shape[1]), "dense"
    if kind not in ("csr_matrix", "csc_matrix"):
        raise InvalidInputError(f"{where}: X is a {kind}; csr_matrix, csc_matrix and array are read.")
    shape = _shape(matrix.attrs["shape"] if "shape" in matrix.attrs else matrix.attrs["h5sparse_shape"], where)
    dtype = stored_dtype(np.dtype(matrix["data"].dtype), where)
    major = shape[0] if kind == "csr_matrix" else shape[1]
    indptr = np.asarray(matrix["indptr"][:]).astype(np.int64)
    nnz = int(matrix["data"].shape[0])
    if len(indptr) != major + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any() or indptr[-1] > nnz:
        raise InvalidInputError(f"{where}: indptr of X does not ascend from 0 to {nnz:,}; it is damaged.")
    step = int(min(shape[0], max(1, BLOCK * shape[0] // max(1, nnz))))
    if kind == "csr_matrix":
        return shape, dtype, partial(_read_csr, _Values(matrix, dtype, where), indptr), step, "csr"
    spool = Spool(shape[0], _csc_entries(_Values(matrix, dtype, where), indptr, shape[0]), dtype, resources)
    return shape, dtype, spool.read, step, "csc"


def _shape(shape: Any, where: str) -> tuple[int, int]:
    numbers = [int(n) for n in shape]
    if len(numbers) != 2 or min(numbers) < 1:
        raise InvalidInputError(f"{where}: X has the shape {numbers}; it needs at least one sample and one feature.")
    return numbers[0], numbers[1]


@dataclass(frozen=True)
class _Values:
    """Slices of the entries of a sparse X: ids along its other axis, and activations."""

    matrix: Any
    dtype: str
    where: str

    def read(self, start: int, stop: int) -> tuple[Array, Array]:
        ids, values = np.asarray(self.matrix["indices"][start:stop]), np.asarray(self.matrix["data"][start:stop])
        return ids, as_floats(values, self.dtype, self.where)


def _read_csr(entries: _Values, indptr: Array, start: int, stop: int) -> Rows:
    ids, values = entries.read(a := int(indptr[start]), int(indptr[stop]))
    return Rows(indptr[start : stop + 1] - a, ids, values)


def _read_dense(matrix: Any, dtype: str, where: str, start: int, stop: int) -> Rows:
    values = as_floats(np.asarray(matrix[start:stop]), dtype, where)
    return nonzeros(values)


def _csc_entries(entries: _Values, indptr: Array, n_rows: int) -> Iterator[tuple[Array, Array, Array]]:
    for start in range(0, int(indptr[-1]), BLOCK):
        stop = min(start + BLOCK, int(indptr[-1]))
        rows, values = entries.read(start, stop)
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < n_rows:
            raise InvalidInputError(
                f"{entries.where}: X names sample {int(rows.max()):,}; there are {n_rows:,}. It is damaged."
            )
        yield rows.astype(np.int64), expand_pointers(indptr, start, stop), values


def _items(obs: pd.DataFrame, root: Any, anndata: Any) -> tuple[Items, Any]:
    """Items, and which rows are theirs."""
    if "item" not in obs or obs["item"].dtype.kind not in "iu":
        return _table(obs), 1
    runs = obs["item"].to_numpy()
    starts = np.flatnonzero(np.r_[True, runs[1:] != runs[:-1]])
    if len(np.unique(runs[starts])) != len(starts):
        raise InvalidInputError(
            "obs['item'] comes back to an item after another: rows of an item must follow each other."
        )
    pointers = np.append(starts, len(runs)).astype(np.int64)
    if "uns" in root and "items" in root["uns"]:
        table = anndata.io.read_elem(root["uns"]["items"])
        if len(table) == len(starts):
            return _table(table), pointers
        if len(table) > int(runs.max()) and (np.diff(runs[starts]) > 0).all():  # some of them have no sample
            sizes = np.zeros(len(table), np.int64)
            sizes[runs[starts]] = np.diff(pointers)
            return _table(table), np.concatenate([[0], np.cumsum(sizes)])
    return _table(obs.iloc[starts][_constant(obs, pointers)]), pointers


def _constant(obs: pd.DataFrame, pointers: Array) -> list[str]:
    """The columns that say the same of all samples of an item; others are not of the item."""
    first = np.repeat(pointers[:-1], np.diff(pointers))
    found = []
    for name in obs.columns.drop("item"):
        values = obs[name].to_numpy()
        if (values == values[first]).all():
            found.append(str(name))
    return found


def _table(frame: pd.DataFrame) -> Items:
    """A table whose names of rows are the keys, unless a column says them."""
    frame = frame.copy()
    if not any(name in frame for name in _KEYS):
        frame.insert(0, "image_path", frame.index.astype(str))  # becomes the key, and is no column then
    return as_items(frame.reset_index(drop=True))


def _numbering(names: Any) -> list[Issue]:
    """Names of features that are numbers, but not their places: a part of a wider matrix."""
    try:
        numbers = np.asarray(names).astype(np.int64)
    except (ValueError, TypeError):
        return []
    if np.array_equal(numbers, np.arange(len(numbers))):
        return []
    return [
        Issue(
            "renumbered_features",
            "recorded",
            f"features are numbered anew: what var calls {numbers[0]} is feature 0",
            len(numbers),
        )
    ]
