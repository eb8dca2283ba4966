"""AnnData, ``.h5ad`` or zarr, read in slices: samples x features in ``X``, the samples' columns in ``obs``."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError, require
from saestore.files import check_inflation, check_written, damage, existing_file, open_zarr_node
from saestore.format import RESERVED, TOKEN_SPANS
from saestore.formats.anndata_output import TRUTH, write_anndata
from saestore.formats.base import Format, Opened, Source, as_floats, bad_shape, nonzeros, stored_dtype
from saestore.formats.in_memory import open_object
from saestore.formats.issues import Issue
from saestore.formats.spool import Read, open_compressed
from saestore.sparse_rows import Array, SparseRows, pointers
from saestore.tables.items import Items, as_items

if TYPE_CHECKING:
    import anndata
    import pandas as pd


_KEYS = ("image_path", "text_path", "text")
_DENSE = 1 << 23  # values of a dense block


def is_anndata(path: Path) -> bool:
    """Whether a path is an ``.h5ad`` file or a zarr group with an ``X``."""
    if any((path / name).is_file() for name in ("zarr.json", ".zgroup")):
        node = open_zarr_node(path)
        return not hasattr(node, "chunks") and bool("X" in node)
    return path.suffix == ".h5ad"


def open_anndata(source: Source) -> Opened:
    """Open an AnnData file or zarr group, backed.

    A CSR or dense ``X`` is read in slices; a CSC one goes through a `Spool`. ``obs`` becomes the items: one per row,
    or, where it has a column ``item``, one per run of equal values in it, whose texts are the keys; columns that differ
    within an item are of the samples. ``var``, layers and the rest are not read.
    """
    path, where = source.path, str(source.path)
    package = require("anndata", "anndata", f"reading {path}")
    root = _group(path, source.resources)
    matrix = root["X"]
    for name in ("obs", "var", "uns/items"):
        if name in root:
            _check_sizes(root[name], f"{where}: {name}")
    with damage(path, "has an obs or var that anndata cannot read", Exception):  # its own error has no other base
        obs, names = package.io.read_elem(root["obs"]), package.io.read_elem(root["var"]).index
    kind = str(matrix.attrs.get("encoding-type", "array"))
    if kind not in ("array", "csr_matrix", "csc_matrix"):
        raise InvalidInputError(
            f"{where}: X is a {kind}; csr_matrix, csc_matrix and array are read.", code="unsupported-matrix"
        )
    sizes = matrix.shape if kind == "array" else matrix.attrs.get("shape", matrix.attrs.get("h5sparse_shape"))
    shape = tuple(int(n) for n in sizes)
    if len(shape) != 2 or min(shape) < 1:
        raise bad_shape(f"{where}: X has the shape {list(shape)}; it needs at least one sample and one feature.")
    if len(obs) != shape[0] or len(names) != shape[1]:
        raise bad_shape(f"{path}: X is {shape[0]} x {shape[1]}, obs has {len(obs)} rows and var {len(names)}.")
    dtype = stored_dtype(np.dtype((matrix if kind == "array" else matrix["data"]).dtype), where)
    read, step = _rows(matrix, kind, shape, dtype, source)
    known = _items(obs, package.io.read_elem(root["uns/items"]) if "uns/items" in root else None)
    known |= {"sum_duplicates": kind != "array", "issues": tuple(_numbering(names))}
    known["source"] = {"layout": f"anndata {'dense' if kind == 'array' else kind[:3]}"}
    return Opened("anndata", where, (path,), *shape, dtype, read, step, **known)


def open_adata(adata: anndata.AnnData, source: Source) -> Opened:
    """Activations of an AnnData in memory, or of the file that a backed one is read from."""
    if adata.isbacked:
        return open_anndata(replace(source, path=Path(str(adata.filename))))
    if adata.X is None:
        raise InvalidInputError("the AnnData has no X; activations are samples by features, in X.", code="not-a-matrix")
    opened = open_object(adata.X, source)
    return replace(
        opened,
        format="anndata",
        path="the AnnData",
        issues=(*opened.issues, *_numbering(adata.var_names)),
        source={"layout": str(opened.source["layout"]).replace("scipy", "anndata")},
        **_items(adata.obs, adata.uns.get("items")),
    )


def _check_sizes(group: Any, where: str) -> None:
    """Refuse arrays that claim far more than is stored, before they are read whole."""
    for name in group:
        node = group[name]
        if not hasattr(node, "ndim"):
            _check_sizes(node, f"{where}/{name}")
        elif node.ndim:
            stored = node.id.get_storage_size() if hasattr(node, "id") else node.nbytes_stored()
            check_inflation(node.size * node.dtype.itemsize, stored, f"{where}/{name}")


def _group(path: Path, resources: ExitStack) -> Any:
    """The root group of a file or folder."""
    if not path.is_dir():
        h5py = require("h5py", "anndata", f"opening {path.name}")
        if not h5py.is_hdf5(existing_file(path)):
            message = f"{path} is damaged or not an AnnData (.h5ad, or a zarr folder); leave --format out."
            raise InvalidInputError(message, code="damaged-file")
        return resources.enter_context(h5py.File(path))
    import zarr

    return zarr.open_group(path, mode="r", use_consolidated=False)


def _rows(matrix: Any, kind: str, shape: tuple[int, int], dtype: str, source: Source) -> tuple[Read, int]:
    where = str(source.path)
    if kind == "array":

        def dense(start: int, stop: int) -> SparseRows:
            return nonzeros(as_floats(np.asarray(matrix[start:stop]), dtype, where))

        return dense, max(1, _DENSE // shape[1])

    for name in ("indptr", "indices", "data"):
        check_written(matrix[name], f"{where}: X/{name}")

    def entries(a: int, b: int) -> tuple[Array, Array]:
        return np.asarray(matrix["indices"][a:b]), as_floats(np.asarray(matrix["data"][a:b]), dtype, where)

    n_entries = min(int(matrix["data"].shape[0]), int(matrix["indices"].shape[0]))
    indptr = np.asarray(matrix["indptr"][:])
    return open_compressed(
        kind[:3], shape, indptr, entries,
        n_entries=n_entries, where=f"X of {where}", dtype=dtype, resources=source.resources,
    )  # fmt: skip


def _items(obs: pd.DataFrame, table: pd.DataFrame | None) -> dict[str, Any]:
    """Items, which rows belong to them, and columns of samples; `table` is in ``uns["items"]``, where there is one."""
    import pandas as pd

    if "item" not in obs or obs["item"].dtype == bool:
        return {"items": _table(obs), "item_ptr": 1}
    names = obs["item"].to_numpy()
    runs = pd.factorize(names)[0] if names.dtype.kind not in "iu" else names
    starts = np.flatnonzero(np.r_[True, runs[1:] != runs[:-1]])
    if (runs < 0).any() and names is not runs:
        raise InvalidInputError(
            f"obs['item'] is missing in row {int(np.argmin(runs))}; give every row its item, or drop the column.",
            code="missing-item",
        )
    if len(np.unique(runs[starts])) != len(starts):
        raise InvalidInputError(
            f"obs['item'] returns to item {names[_returning(runs, starts)]} after another one; the rows of an item "
            "must follow each other.",
            code="scattered-items",
        )
    sizes = np.diff(np.append(starts, len(runs)))
    first = np.repeat(starts, sizes)
    constant = [
        name for name in obs.columns.drop("item") if (obs[name].to_numpy() == obs[name].to_numpy()[first]).all()
    ]
    columns = _of_samples(obs.drop(columns=["item", *constant]))
    if table is not None and names is runs and len(table) > int(runs.max()) and (np.diff(runs[starts]) > 0).all():
        sizes = np.bincount(runs[starts], sizes, len(table)).astype(np.int64)  # some of them may have no sample
    elif table is None or names is not runs or len(table) != len(starts):
        table = obs.iloc[starts][constant]
        table = table if names is runs else table.set_axis(names[starts].astype(str))
    return {"items": _table(table), "item_ptr": pointers(sizes), "columns": columns}


def _of_samples(obs: pd.DataFrame) -> dict[str, Array]:
    """Numbers and texts that differ within an item, by the names that an export gave to columns of samples."""
    columns = {}
    for name, column in obs.items():
        label, values = str(name).removeprefix("sample."), column.to_numpy()
        known = not column.hasnans and all(isinstance(each, str) for each in values.tolist())
        if label in (*RESERVED, *TOKEN_SPANS, "row", "col") or (label == name and f"sample.{name}" in obs):
            continue
        if list(getattr(column.dtype, "categories", ())) == TRUTH.tolist() and known:
            columns[label] = values == "true"
        elif known or values.dtype.kind in "biuf":
            columns[label] = values.astype(TRUTH.dtype) if known else values
    return columns


def _returning(runs: Array, starts: Array) -> int:
    """The first row at which an item comes again."""
    known = np.unique(runs[starts], return_index=True)[1]
    return int(np.delete(starts, known)[0])


def _table(frame: pd.DataFrame) -> Items:
    """Items of a table whose row names are the keys, unless a column has them."""
    frame = frame.copy()
    for name, column in frame.items():
        if list(getattr(column.dtype, "categories", ())) == TRUTH.tolist():  # a concept, as an export writes it
            frame[name] = column.map({"false": 0.0, "true": 1.0}).astype(float)
    if not any(name in frame for name in _KEYS):
        frame.insert(0, "image_path", frame.index.astype(str))  # becomes the key, not a column
    return as_items(frame.reset_index(drop=True))


def _numbering(names: Any) -> list[Issue]:
    """Names of features that are numbers, but not their places: a part of a wider matrix."""
    try:
        numbers = np.asarray(names).astype(np.int64)
    except (ValueError, TypeError):
        return []
    if np.array_equal(numbers, np.arange(len(numbers))):
        return []
    message = f"features are renumbered: the feature called {numbers[0]} in var is feature 0"
    return [Issue("renumbered_features", "info", message, len(numbers))]


FORMATS = (Format("anndata", is_anndata, open_anndata, write_anndata),)
