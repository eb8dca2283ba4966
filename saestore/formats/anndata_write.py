"""AnnData, as ``.h5ad`` or zarr, written a block of samples at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from saestore.format import BY_SAMPLE
from saestore.interop.dataset import attributes_of
from saestore.interop.optional import require
from saestore.query.sample_coords import OF_ITEMS, SampleCoordinates

if TYPE_CHECKING:
    import anndata

    from saestore.query.reader import SetReader

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from saestore.formats.selection import Selected

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, Any]

_CHUNK = 1 << 16
_SHARED = ("key", "split")  # texts of items, which all their samples share: stored once, as a categorical
_TEXT = np.dtypes.StringDType()


def write_anndata(selected: Selected, path: Path) -> None:
    """Write the selected samples and features; ``.h5ad`` is HDF5, anything else zarr.

    ``obs`` holds what ``acts.to_anndata()`` has there; its names are the numbers of the samples. ``var`` holds the
    statistics of the features (none where only some samples are written), its names are their numbers.
    ``uns["items"]`` is the table of the items.

    Notes
    -----
    Memory: a block, the table of the items, and the statistics.
    """
    io = require("anndata", "anndata", f"writing {path.name}").io
    with _opened(path) as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what anndata's next version will do otherwise
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for name in ("layers", "obsm", "obsp", "varm", "varp"):
            io.write_elem(root, name, {})
        io.write_elem(root, "var", _features(selected))
        io.write_elem(root, "uns", {"saestore": _origin(selected)})
        table, items = _items(selected), root["uns"]
        if table is not None:
            io.write_elem(items, "items", table)
        _write_blocks(selected, root)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.suffix == ".h5ad":
        h5py = require("h5py", "anndata", f"writing {path.name}")
        with h5py.File(path, "w") as file:
            yield file
    else:
        import zarr

        yield zarr.open_group(path, mode="w", zarr_format=3)


def _write_blocks(selected: Selected, root: Any) -> None:
    matrix, obs = root.create_group("X"), root.create_group("obs")
    matrix.attrs.update(
        {
            "encoding-type": "csr_matrix",
            "encoding-version": "0.1.0",
            "shape": np.array([selected.n_samples, selected.n_features]).tolist(),
        }
    )
    data, indices = _Growing(matrix, "data", selected.dtype), _Growing(matrix, "indices", np.dtype(np.int64))
    indptr = _Growing(matrix, "indptr", np.dtype(np.int64))
    indptr.append(np.zeros(1, np.int64))
    columns = _obs_columns(selected, obs)
    done = 0
    for block in selected.blocks():
        data.append(block.activations)
        indices.append(selected.columns(block.features))
        indptr.append(block.indptr[1:] + done)
        done += len(block.features)
        for array, values in columns:
            array.append(values(block.samples))


def _obs_columns(selected: Selected, obs: Any) -> list[tuple[_Growing, Callable[[Array], Array]]]:
    """The arrays of ``obs``, still empty, and what fills them."""
    arrays: list[tuple[_Growing, Callable[[Array], Array]]] = [
        (_Growing(obs, "_index", _TEXT), lambda samples: samples.astype(_TEXT))
    ]
    order = []
    for name, column in SampleCoordinates(selected.acts).by_name.items():
        label = name.replace("/", "|")  # a name with a slash would be a path
        if name in _SHARED:
            arrays.append(_shared(selected, obs, name))
        else:
            arrays.append((_Growing(obs, label, column.dtype), column.at))
        order.append(label)
    obs.attrs.update(
        {"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index", "column-order": order}
    )
    return arrays


def _shared(selected: Selected, obs: Any, name: str) -> tuple[_Growing, Callable[[Array], Array]]:
    texts, codes = np.unique(selected.acts.items.column(name), return_inverse=True)
    group = obs.create_group(name)
    group.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False})
    _Growing(group, "categories", _TEXT).append(texts.astype(_TEXT))
    codes = codes.astype(np.int32)
    return _Growing(group, "codes", codes.dtype), lambda s: codes[selected.acts.item_index.locate(s)[0]]


class _Growing:
    """A one-dimensional array in a zarr or HDF5 group that is written from its start on."""

    def __init__(self, group: Any, name: str, dtype: np.dtype[Any]) -> None:
        text = dtype.kind == "T"
        self._hdf5 = not hasattr(group, "create_array")
        self._length = 0
        if self._hdf5:
            h5py = require("h5py", "anndata", "writing .h5ad")
            kind = h5py.string_dtype() if text else dtype
            self._array = group.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(_CHUNK,), compression="lzf")
        else:
            self._array = group.create_array(name, shape=(0,), chunks=(_CHUNK,), dtype=dtype)
        kind = "string-array" if text else "array"
        self._array.attrs.update({"encoding-type": kind, "encoding-version": "0.2.0"})

    def append(self, values: Array) -> None:
        """Write the next values."""
        stop = self._length + len(values)
        self._array.resize((stop,))
        if len(values):
            self._array[self._length : stop] = (
                values.astype(object) if values.dtype.kind == "T" and self._hdf5 else values
            )
        self._length = stop


def _features(selected: Selected) -> pd.DataFrame:
    import pandas as pd

    names = selected.feature_ids.astype(str).astype(object)
    if selected.samples is not None:  # statistics of other samples would be taken for those of these
        return pd.DataFrame(index=names)
    return pd.DataFrame(selected.acts.stats(selected.feature_ids).to_dataframe().reset_index(drop=True)).set_index(
        names
    )


def _items(selected: Selected) -> pd.DataFrame | None:
    import pandas as pd

    items = selected.acts.items
    if not items.names():
        return None
    table: dict[str, Any] = {}
    for name in items.names():
        values = items.column(name)
        table["image_path" if name == "key" else name] = values.astype(object) if values.dtype.kind == "T" else values
    for name in items.concept_names:
        table[name] = items.column(name)
    return pd.DataFrame(table, index=np.arange(len(values)).astype(str).astype(object))


def _origin(selected: Selected) -> dict[str, Any]:
    """Where this came from, in what AnnData can hold."""
    import json

    acts = selected.acts
    return {
        "path": acts.path,
        "n_features": acts.shape[1],
        "sae": json.dumps(dict(acts.attributes.sae)),
        "source": json.dumps(dict(acts.attributes.source)),
    }


def to_anndata(acts: SetReader, max_bytes: int) -> anndata.AnnData:
    """See `ActivationSet.to_anndata`."""
    package = require("anndata", "anndata", "to_anndata()")
    adata = package.AnnData(X=_matrix(acts, max_bytes), obs=_samples(acts), var=_set_features(acts))
    adata.uns["saestore"] = attributes_of(acts)
    return adata


def _matrix(acts: SetReader, max_bytes: int) -> Any:
    """The stored matrix itself where one segment holds all of it, in a dtype that scipy has; else what is read."""
    segments = acts.attributes.segments
    if len(segments) != 1 or acts.dtype == np.float16:
        return acts.sparse(max_bytes=max_bytes)
    anndata_io = require("anndata.io", "anndata", "to_anndata()")
    return anndata_io.sparse_dataset(acts.group[f"segments/{segments[0].name}/{BY_SAMPLE}"])


def _samples(acts: SetReader) -> pd.DataFrame:
    samples = np.arange(acts.shape[0])
    found = {
        name: _of_items(acts, name, samples) if name in OF_ITEMS else column.at(samples)
        for name, column in SampleCoordinates(acts).by_name.items()
    }
    return pd.DataFrame(found, index=samples.astype(str))


def _of_items(acts: SetReader, name: str, samples: Array) -> pd.Categorical:
    """A column of texts that samples share: each text once, and a number for every sample."""
    texts, codes = np.unique(acts.items.column(name), return_inverse=True)
    items = acts.item_index.locate(samples)[0]
    return pd.Categorical.from_codes(codes[items], categories=texts.astype(object))


def _set_features(acts: SetReader) -> pd.DataFrame:
    table = acts.stats().to_dataframe()
    return table.set_index(table.index.astype(str))
