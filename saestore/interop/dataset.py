"""An activation set as a lazy `xarray.Dataset`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from xarray.core import indexing

from saestore.format import FORMAT_VERSION, SetAttributes
from saestore.interop.lazy import LazyActivation, LazyColumn, LazyStatistic, LazyStatistics
from saestore.interop.optional import require
from saestore.interop.origin import KEY, Origin
from saestore.query.sample_coords import TEXT, Columns
from saestore.stats import STATISTICS

if TYPE_CHECKING:
    from saestore.query.reader import SetReader

Chunks = dict[str, tuple[int, ...]]

ACTIVATION, SAMPLE, FEATURE, SET = "activation", "sample", "feature", "activation_set"
CHUNK_BYTES = 128 << 20  # of a dask chunk at most: what dask itself aims at


def make_dataset(acts: SetReader, max_bytes: int) -> xr.Dataset:
    """Describe the set as a Dataset; reads documents, and nothing per sample or per feature."""
    n_samples, n_features = acts.shape
    origin, along = Origin.of(acts), row_chunks(acts.attributes)
    per_sample: Chunks = {SAMPLE: along}
    per_feature: Chunks = {FEATURE: (n_features,)}
    activation = _lazy((SAMPLE, FEATURE), LazyActivation(acts, max_bytes), per_sample | per_feature, "activation")
    activation.encoding[KEY] = origin
    statistics = LazyStatistics(acts)
    dtypes = statistics.dtypes()
    variables = {ACTIVATION: activation} | {
        s.name: _lazy((FEATURE,), LazyStatistic(statistics, s.name, dtypes[s.name]), per_feature, s.description)
        for s in STATISTICS
    }
    columns = Columns(acts)
    coordinates: dict[str, Any] = {
        # Of indexes that are ranges nothing is stored, and nothing is searched when one is asked.
        SAMPLE: (SAMPLE, pd.RangeIndex(n_samples), {}, {KEY: origin}),
        FEATURE: (FEATURE, pd.RangeIndex(n_features), {}, {KEY: origin}),
        SET: xr.Variable((), np.array(origin.address, TEXT), {"long_name": "the activation set"}),
    }
    for name, column in columns.by_name.items():
        coordinates[name] = _lazy((SAMPLE,), LazyColumn(columns, name, n_samples), per_sample, column.description)
    dataset = xr.Dataset(variables, coordinates, attributes_of(acts))
    dataset.encoding["source"] = acts.location
    return dataset


def _lazy(dims: tuple[str, ...], array: Any, chunks: Chunks, says: str) -> xr.Variable:
    data = indexing.LazilyIndexedArray(array)
    return xr.Variable(dims, data, {"long_name": says}, {"preferred_chunks": chunks}, fastpath=True)


def row_chunks(attributes: SetAttributes) -> tuple[int, ...]:
    """Samples of each dask chunk: a segment, or an even part of one whose dense rows would be too large."""
    itemsize = 2 if attributes.dtype == "float16" else 4 if attributes.dtype == "float32" else 8
    most = max(1, CHUNK_BYTES // (attributes.n_features * itemsize))
    sizes: list[int] = []
    for segment in attributes.segments:
        parts = -(-segment.n_rows // most)
        small, larger = divmod(segment.n_rows, parts)
        sizes += [small + 1] * larger + [small] * (parts - larger)
    return tuple(sizes) or (0,)


def attributes_of(acts: SetReader) -> dict[str, Any]:
    """What is known of where the activations come from, as a flat mapping of scalars that any file format can hold."""
    a = acts.attributes
    found: dict[str, Any] = {"path": acts.path, "format": FORMAT_VERSION, "nnz": a.nnz, "n_items": a.n_items}
    found |= {"complete": int(a.complete)}
    for part in ("sae", "source", "dropped", "summary"):
        for name, value in (getattr(a, part) or {}).items():
            if value is not None:
                found[f"{part}_{name}"] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, int | float | str) else json.dumps(value)


def open_set(acts: SetReader, chunks: Any, max_bytes: int) -> xr.Dataset:
    """Open a set that is open already; see `ActivationSet.to_xarray`."""
    if chunks is not None:
        require("dask", "dask", "chunks=")
    opened: Any = acts  # which the engine takes in place of a path; named, since it lies above: it opens stores
    return xr.open_dataset(opened, engine="saestore", chunks=chunks, max_bytes=max_bytes)
