"""AnnData written: an activation set in memory, as ``.h5ad``, or as zarr."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from saestore.errors import InvalidInputError, require
from saestore.format import BY_SAMPLE
from saestore.formats.selection import Selected
from saestore.sparse_rows import Array
from saestore.vocabulary import LEVELS

if TYPE_CHECKING:
    import anndata
    import pandas as pd

    from saestore.query.reader import SetReader


TRUTH = np.array(["false", "true"], np.dtypes.StringDType())  # the categories of a concept
_TEXT = np.dtypes.StringDType()
_CHUNK = 1 << 16


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
def _created(path: Path) -> Iterator[Any]:
    """The root group of a new file or folder."""
    if path.suffix != ".h5ad":
        import zarr

        yield zarr.open_group(path, mode="w", zarr_format=3)
        return
    h5py = require("h5py", "anndata", f"opening {path.name}")
    with _Noting(path, "w+") as raw:
        try:
            with h5py.File(raw, "w") as file:
                yield file
        finally:
            if raw.failure is not None:
                raise raw.failure


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
    for label, each in zip(_labels(named), named.values(), strict=True):
        yield _stored(acts, label, *each) if isinstance(each, tuple) else _Column(label, each.dtype, each.at)


def _labels(names: Iterable[str]) -> list[str]:
    """Names that a file can have: a slash would be a path, dots are folders, and anndata keeps one for itself."""
    labels = {".": "", "..": "", "_index": ""}
    for name in names:
        label = name.replace("/", "|")
        while label in labels:
            label += "_"
        labels[label] = name
    return list(labels)[3:]


def _stored(acts: SetReader, label: str, level: str, name: str) -> _Column:
    """A column of the items or samples as values of samples."""
    column = acts.read_column(f"{level}s", name)
    values, known, categories = column.values, column.known, None
    if values.dtype.kind == "T":
        categories, values = np.unique(values, return_inverse=True)
    elif values.dtype == bool:
        categories = TRUTH
    if categories is not None:
        values = np.where(True if known is None else known, values, -1).astype(np.int32)
    elif known is not None:
        values = np.where(known, values, np.nan)
    of_samples = values.__getitem__ if level == "sample" else lambda samples: values[acts.item_index.locate(samples)[0]]
    return _Column(label, values.dtype, of_samples, categories)


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


def write_anndata(selected: Selected, path: Path) -> None:
    """Write the selected samples and features; ``.h5ad`` is HDF5, anything else zarr.

    ``obs`` has the columns of ``acts.to_anndata()``, ``var`` the statistics of the features (none where only some
    samples are written), ``uns["items"]`` the table of the items; names are the numbers of samples and features.
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
    with _created(path) as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what anndata's next version will do otherwise
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for name in ("layers", "obsm", "obsp", "varm", "varp"):
            io.write_elem(root, name, {})
        # Statistics of all samples would be taken for those of the selected ones.
        features = None if selected.samples is not None else _statistics(acts, selected.features)
        names = selected.feature_ids.astype(str).astype(object)
        io.write_elem(root, "var", pd.DataFrame(index=names) if features is None else features)
        io.write_elem(root, "uns", {"saestore": origin})
        try:
            if acts.items.names():
                io.write_elem(root["uns"], "items", _item_table(acts))
            _write_blocks(selected, root)
        except (ValueError, TypeError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise InvalidInputError(
                f"{path.name} cannot hold a column of the items or samples ({error}).", code="not-in-format"
            ) from error


def _item_table(acts: SetReader) -> pd.DataFrame:
    import pandas as pd

    items = acts.items.to_pandas().rename(columns={"key": "image_path"})
    items.columns = _labels(items.columns)
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
