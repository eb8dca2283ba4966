"""AnnData, ``.h5ad`` or zarr, in slices: samples x features in ``X``, the samples' columns in ``obs``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from saestore.errors import InvalidInputError, require
from saestore.files import check_inflation, check_written, damage
from saestore.format import BY_SAMPLE
from saestore.formats.base import Format, Opened, Source, Written, as_floats, nonzeros, stored_dtype
from saestore.formats.in_memory import open_object
from saestore.formats.issues import Issue
from saestore.formats.selection import Selected
from saestore.formats.spool import Compressed, Read
from saestore.sparse_rows import SparseRows, pointers
from saestore.tables import Items, as_items
from saestore.vocabulary import LEVELS

if TYPE_CHECKING:
    import anndata
    import pandas as pd

    from saestore.query.reader import SetReader

Array = np.ndarray[Any, Any]

_DAMAGE = (KeyError, ValueError, RuntimeError, TypeError)
_KEYS = ("image_path", "text_path", "text")
_DENSE = 1 << 23  # values of a dense block
_CHUNK = 1 << 16
_TEXT = np.dtypes.StringDType()
_TRUTH = np.array(["false", "true"], _TEXT)  # the categories of a concept


def is_anndata(path: Path) -> bool:
    """Whether a path is an ``.h5ad`` file or a zarr group with an ``X``."""
    if any((path / name).is_file() for name in ("zarr.json", ".zgroup")):
        import zarr

        node = zarr.open(path, mode="r")
        return isinstance(node, zarr.Group) and "X" in node
    return path.suffix == ".h5ad"


def open_anndata(source: Source) -> Opened:
    """Open an AnnData file or zarr group, backed.

    A CSR or dense ``X`` is read in slices; a CSC one goes through a `Spool`. ``obs`` becomes the items: one per row,
    or, where it has a column ``item``, one per run of equal values in it, whose texts are the keys. ``var``, layers and
    the rest are not read.
    """
    path, where = source.path, str(source.path)
    package = require("anndata", "anndata", f"reading {path}")
    with damage(path, "is damaged, or not an AnnData file with an X", *_DAMAGE):
        root = source.resources.enter_context(_group(path, "r"))
        matrix = root["X"]
        for name in ("obs", "var", "uns/items"):
            if name in root:
                _check_sizes(root[name], f"{where}: {name}")
        obs = package.io.read_elem(root["obs"])
        names = package.io.read_elem(root["var"]).index
    kind = str(matrix.attrs.get("encoding-type", "array"))
    if kind not in ("array", "csr_matrix", "csc_matrix"):
        raise InvalidInputError(
            f"{where}: X is a {kind}; csr_matrix, csc_matrix and array are read.", code="unsupported-matrix"
        )
    sizes = matrix.shape if kind == "array" else matrix.attrs.get("shape", matrix.attrs.get("h5sparse_shape"))
    shape = tuple(int(n) for n in sizes)
    if len(shape) != 2 or min(shape) < 1:
        raise InvalidInputError(
            f"{where}: X has the shape {list(shape)}; it needs at least one sample and one feature.", code="bad-shape"
        )
    if len(obs) != shape[0] or len(names) != shape[1]:
        raise InvalidInputError(
            f"{path}: X is {shape[0]} x {shape[1]}, obs has {len(obs)} rows and var {len(names)}.", code="bad-shape"
        )
    dtype = stored_dtype(np.dtype((matrix if kind == "array" else matrix["data"]).dtype), where)
    read, step = _rows(matrix, kind, shape, dtype, source)
    items, item_ptr = _items(obs, package.io.read_elem(root["uns/items"]) if "uns/items" in root else None)
    return Opened(
        "anndata",
        where,
        (path,),
        *shape,
        dtype,
        read,
        step,
        item_ptr=item_ptr,
        items=items,
        issues=tuple(_numbering(names)),
        source={"layout": f"anndata {'dense' if kind == 'array' else kind[:3]}"},
    )


def open_adata(adata: anndata.AnnData, source: Source) -> Opened:
    """Activations of an AnnData in memory, or of the file that a backed one is read from."""
    if adata.isbacked:
        return open_anndata(replace(source, path=Path(str(adata.filename))))
    if adata.X is None:
        raise InvalidInputError("the AnnData has no X; activations are samples by features, in X.", code="not-a-matrix")
    opened = open_object(adata.X, source)
    items, item_ptr = _items(adata.obs, adata.uns.get("items"))
    return replace(
        opened,
        format="anndata",
        path="the AnnData",
        item_ptr=item_ptr,
        items=items,
        issues=(*opened.issues, *_numbering(adata.var_names)),
        source={"layout": str(opened.source["layout"]).replace("scipy", "anndata")},
    )


def _check_sizes(group: Any, where: str) -> None:
    """Refuse arrays that claim far more than is stored, before they are read whole."""
    for name, node in group.items():
        if hasattr(node, "items"):
            _check_sizes(node, f"{where}/{name}")
        elif node.ndim:
            stored = node.id.get_storage_size() if hasattr(node, "id") else node.nbytes_stored()
            check_inflation(node.size * node.dtype.itemsize, stored, f"{where}/{name}")


class _Noting(FileIO):
    """A file that keeps its first error, and only seems to be written from then on.

    h5py loses errors of what it writes while an object of its own goes, and its library then ends the interpreter.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of it."""
        left = memoryview(data).cast("B")
        try:
            while left and self.failure is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.failure = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """Same."""
        return 0 if self.failure is not None else super().truncate(size)


@contextmanager
def _group(path: Path, mode: str) -> Iterator[Any]:
    """The root group of a file or folder, to read (``r``) or to create (``w``)."""
    if path.suffix == ".h5ad" and not path.is_dir():
        h5py = require("h5py", "anndata", f"opening {path.name}")
        if mode == "r":
            with h5py.File(path) as file:
                yield file
            return
        with _Noting(path, "w+") as raw:
            try:
                with h5py.File(raw, "w") as file:
                    yield file
            finally:
                if raw.failure is not None:
                    raise raw.failure
    else:
        import zarr

        how: Any = {"mode": "w", "zarr_format": 3} if mode == "w" else {"mode": "r", "use_consolidated": False}
        yield zarr.open_group(path, **how)


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
    return Compressed(kind[:3], shape, indptr, n_entries, entries, f"X of {where}").open(dtype, source.resources)


def _items(obs: pd.DataFrame, table: pd.DataFrame | None) -> tuple[Items, Any]:
    """Items, and which rows belong to them; `table` is the one in ``uns["items"]``, where there is one."""
    import pandas as pd

    if "item" not in obs or obs["item"].dtype == bool:
        return _table(obs), 1
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
    if table is not None and names is runs:
        if len(table) == len(starts):
            return _table(table), pointers(sizes)
        if len(table) > int(runs.max()) and (np.diff(runs[starts]) > 0).all():  # some of them have no sample
            return _table(table), pointers(np.bincount(runs[starts], sizes, len(table)).astype(np.int64))
    first = np.repeat(starts, sizes)
    # SampleCoordinates that differ within an item belong to samples.
    columns = [name for name in obs.columns.drop("item") if (obs[name].to_numpy() == obs[name].to_numpy()[first]).all()]
    of_items = obs.iloc[starts][columns]
    return _table(of_items if names is runs else of_items.set_axis(names[starts].astype(str))), pointers(sizes)


def _returning(runs: Array, starts: Array) -> int:
    """The first row at which an item comes again."""
    known = np.unique(runs[starts], return_index=True)[1]
    return int(np.delete(starts, known)[0])


def _table(frame: pd.DataFrame) -> Items:
    """Items of a table whose row names are the keys, unless a column has them."""
    frame = frame.copy()
    for name, column in frame.items():
        if list(getattr(column.dtype, "categories", ())) == _TRUTH.tolist():  # a concept, as an export writes it
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


class _Column(NamedTuple):
    """A column of ``obs``: values of samples, or, with `categories`, codes of these texts."""

    name: str
    dtype: np.dtype[Any]
    values: Callable[[Array], Array]
    categories: Array | None = None


def _columns(acts: SetReader) -> Iterator[_Column]:
    """The columns of a set's samples. Texts, booleans and concepts are categorical; the whole texts are left out."""
    from saestore.query.sample_coords import OF_ITEMS, SampleCoordinates

    concepts = [("item", name) for name in acts.concept_names("item")]
    concepts += [("sample", name) for name in acts.concept_names("sample")]
    stored = [(level, name) for level in LEVELS for name in acts.table(f"{level}s").info.columns]
    named: dict[str, Any] = {}
    for name, coordinate in SampleCoordinates(acts).by_name.items():
        if coordinate.dtype == bool:  # a concept; they come in this order
            named[name] = concepts.pop(0)
        elif name in OF_ITEMS:
            named[name] = ("item", name)
        else:
            named[name] = coordinate
    for level, name in stored:
        if (level, name) not in {("item", each) for each in ("text", *OF_ITEMS)}:
            named[name if name not in named else f"{level}.{name}"] = (level, name)
    for name, each in named.items():
        label = name.replace("/", "|")  # a name with a slash would be a path
        yield _stored(acts, label, *each) if isinstance(each, tuple) else _Column(label, each.dtype, each.at)


def _stored(acts: SetReader, label: str, level: str, name: str) -> _Column:
    """A column of the items or samples as values of samples."""
    column = acts.read_column(f"{level}s", name)
    values, known, categories = column.values, column.known, None
    if values.dtype.kind == "T":
        categories, values = np.unique(values, return_inverse=True)
    elif values.dtype == bool:
        categories = _TRUTH
    if categories is not None:
        values = np.where(True if known is None else known, values, -1).astype(np.int32)
    elif known is not None:
        values = np.where(known, values, np.nan)
    return _Column(
        label, values.dtype, partial(_of_items, acts, values) if level == "item" else values.__getitem__, categories
    )


def _of_items(acts: SetReader, values: Array, samples: Array) -> Array:
    taken: Array = values[acts.item_index.locate(samples)[0]]
    return taken


def to_anndata(acts: SetReader, max_bytes: int, *, backed: bool) -> anndata.AnnData:
    """See `ActivationSet.to_anndata`."""
    import pandas as pd
    import scipy.sparse

    from saestore.interop.dataset import attributes_of

    package = require("anndata", "anndata", "to_anndata()")
    segments = acts.attributes.segments
    matrix: Any
    if not backed:
        matrix = scipy.sparse.csr_matrix(acts.sparse(max_bytes=max_bytes))
    elif len(segments) == 1 and acts.dtype != np.float16:  # the stored matrix itself, in a dtype that scipy has
        matrix = package.io.sparse_dataset(acts.group[f"segments/{segments[0].name}/{BY_SAMPLE}"])
        matrix.to_memory = partial(_in_memory, matrix)
    else:
        reason = f"it has {len(segments)} segments; compact it" if len(segments) != 1 else "scipy has no float16"
        raise InvalidInputError(
            f"{acts.path} cannot back an AnnData: {reason}. Or leave backed=True out.", code="cannot-be-backed"
        )
    samples = np.arange(acts.shape[0])
    obs = {
        column.name: column.values(samples)
        if column.categories is None
        else pd.Categorical.from_codes(column.values(samples), column.categories.astype(object))
        for column in _columns(acts)
    }
    adata = package.AnnData(X=matrix, obs=pd.DataFrame(obs, index=samples.astype(str)), var=_statistics(acts, None))
    adata.uns["saestore"] = attributes_of(acts)
    return adata


def _in_memory(stored: Any) -> Any:
    """A stored matrix with ids of a dtype that scipy computes with; they are stored as uint16 or uint32."""
    import scipy.sparse

    read = type(stored).to_memory(stored)
    return scipy.sparse.csr_matrix((read.data, read.indices.astype(np.int32), read.indptr), read.shape)


def _statistics(acts: SetReader, features: Array | None) -> pd.DataFrame:
    table: pd.DataFrame = acts.stats(features).to_dataframe()
    return table.set_index(table.index.astype(str).astype(object))


def write_anndata(selected: Selected, path: Path) -> Written:
    """Write the selected samples and features; ``.h5ad`` is HDF5, anything else zarr.

    ``obs`` has the columns of ``acts.to_anndata()``; its names are the numbers of the samples. ``var`` has the
    statistics of the features (none where only some samples are written), its names are their numbers.
    ``uns["items"]`` is the table of the items.

    Memory: a block, the table of the items, and the statistics.
    """
    import pandas as pd

    io, acts = require("anndata", "anndata", f"writing {path.name}").io, selected.acts
    origin = {
        "path": acts.path,
        "n_features": acts.shape[1],
        "sae": json.dumps(dict(acts.attributes.sae)),
        "source": json.dumps(dict(acts.attributes.source)),
    }
    with _group(path, "w") as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what anndata's next version will do otherwise
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for name in ("layers", "obsm", "obsp", "varm", "varp"):
            io.write_elem(root, name, {})
        # Statistics of all samples would be taken for those of the selected ones.
        features = None if selected.samples is not None else _statistics(acts, selected.features)
        names = selected.feature_ids.astype(str).astype(object)
        io.write_elem(root, "var", pd.DataFrame(index=names) if features is None else features)
        io.write_elem(root, "uns", {"saestore": origin})
        if acts.items.names():
            with damage(path.name, "cannot hold the table of items", ValueError, TypeError, code="not-in-format"):
                io.write_elem(root["uns"], "items", _item_table(acts))
        _write_blocks(selected, root)
    return Written((path.name,))


def _item_table(acts: SetReader) -> pd.DataFrame:
    import pandas as pd

    # A name with a slash would be a path, and anndata keeps the name of the index for itself.
    names = {"key": "image_path", "_index": "index"}
    items = acts.items.to_pandas().rename(columns=lambda name: names.get(name, name.replace("/", "|")))
    for name in [name for name in items if items[name].dtype.kind == "O" and items[name].hasnans]:
        items[name] = pd.Categorical(items[name])  # of the kinds of text the one that has unknown values
    return items.set_index(np.arange(acts.n_items).astype(str).astype(object))


def _write_blocks(selected: Selected, root: Any) -> None:
    matrix, obs = root.create_group("X"), root.create_group("obs")
    shape = [selected.n_samples, selected.n_features]
    matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
    data, indices = _Growing(matrix, "data", selected.dtype), _Growing(matrix, "indices", np.dtype(np.int64))
    indptr = _Growing(matrix, "indptr", np.dtype(np.int64))
    indptr.append(np.zeros(1, np.int64))
    columns = [_Column("_index", _TEXT, lambda samples: samples.astype(_TEXT)), *_columns(selected.acts)]
    arrays = [(_obs_array(obs, column), column.values) for column in columns]
    order = [column.name for column in columns[1:]]
    obs.attrs.update(
        {"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index", "column-order": order}
    )
    done = 0
    for block in selected.blocks():
        data.append(block.data)
        indices.append(selected.columns(block.indices))
        indptr.append(block.indptr[1:] + done)
        done += block.nnz
        for array, values in arrays:
            array.append(values(block.samples))


def _obs_array(obs: Any, column: _Column) -> _Growing:
    if column.categories is None:
        return _Growing(obs, column.name, column.dtype)
    group = obs.create_group(column.name)
    group.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False})
    _Growing(group, "categories", _TEXT).append(column.categories.astype(_TEXT))
    return _Growing(group, "codes", column.dtype)


class _Growing:
    """A one-dimensional array in a zarr or HDF5 group that is written from its start on."""

    def __init__(self, group: Any, name: str, dtype: np.dtype[Any]) -> None:
        text = dtype.kind in "TO"
        self._hdf5 = not hasattr(group, "create_array")
        if self._hdf5:
            kind = require("h5py", "anndata", "writing .h5ad").string_dtype() if text else dtype
            self._array = group.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(_CHUNK,), compression="lzf")
        else:
            self._array = group.create_array(name, shape=(0,), chunks=(_CHUNK,), dtype=_TEXT if text else dtype)
        self._array.attrs.update({"encoding-type": "string-array" if text else "array", "encoding-version": "0.2.0"})
        self._length = 0

    def append(self, values: Array) -> None:
        """Write the next values."""
        stop = self._length + len(values)
        self._array.resize((stop,))
        if len(values):
            text = values.dtype.kind in "TO"
            self._array[self._length : stop] = values.astype(object if self._hdf5 else _TEXT) if text else values
        self._length = stop


FORMATS = (Format("anndata", is_anndata, open_anndata, write_anndata),)
