"""An activation set as a lazy `xarray.Dataset`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from saestore.errors import InvalidInputError, require, shown
from saestore.format import FORMAT_VERSION, SetAttributes
from saestore.interop import lazy
from saestore.interop.lazy import Numbers
from saestore.interop.origin import KEY, Origin
from saestore.query.sample_coords import TEXT, SampleCoordinates
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
    activation = _lazy((SAMPLE, FEATURE), lazy.LazyActivation(acts, max_bytes), per_sample | per_feature, "activation")
    activation.encoding[KEY] = origin
    statistics = lazy.LazyStatistics(acts)
    dtypes = statistics.dtypes()
    variables = {ACTIVATION: activation} | {
        s.name: _lazy((FEATURE,), lazy.LazyStatistic(statistics, s.name, dtypes[s.name]), per_feature, s.description)
        for s in STATISTICS
    }
    along_samples = SampleCoordinates(acts)
    coordinates: dict[str, Any] = {
        # Ranges store nothing, and selecting from them searches nothing.
        SAMPLE: (SAMPLE, Numbers(n_samples), {}, {KEY: origin}),
        FEATURE: (FEATURE, pd.RangeIndex(n_features), {}, {KEY: origin}),
        SET: xr.Variable((), np.array(origin.address, TEXT), {"long_name": "the activation set"}),
    }
    for name, coordinate in along_samples.by_name.items():
        values = lazy.LazyCoordinate(along_samples, name, n_samples)
        coordinates[name] = _lazy((SAMPLE,), values, per_sample, coordinate.description)
    taken = {*variables, *coordinates}
    for name in acts.features.names():
        column = lazy.LazyFeatureColumn(acts, name)
        label = f"feature.{name}" if name in taken else name
        coordinates[label] = _lazy((FEATURE,), column, per_feature, f"column {name!r} of the features")
    dataset = xr.Dataset(variables, coordinates, attributes_of(acts))
    dataset.encoding["source"] = acts.location
    return dataset


def _lazy(dims: tuple[str, ...], array: Any, chunks: Chunks, description: str) -> xr.Variable:
    data = lazy.LazyVariable(array)
    return xr.Variable(dims, data, {"long_name": description}, {"preferred_chunks": chunks}, fastpath=True)


def row_chunks(attributes: SetAttributes) -> tuple[int, ...]:
    """Samples per dask chunk: a segment, or an even part of one whose dense rows would be too large."""
    most = max(1, CHUNK_BYTES // (attributes.n_features * np.dtype(attributes.dtype).itemsize))
    sizes: list[int] = []
    for segment in attributes.segments:
        parts = -(-segment.n_rows // most)
        small, larger = divmod(segment.n_rows, parts)
        sizes += [small + 1] * larger + [small] * (parts - larger)
    return tuple(sizes) or (0,)


def attributes_of(acts: SetReader) -> dict[str, Any]:
    """Provenance of the activations, as a flat mapping of scalars that any file format can hold."""
    a = acts.attributes
    facts: dict[str, Any] = {"path": acts.path, "format": FORMAT_VERSION, "nnz": a.nnz, "n_items": a.n_items}
    facts["complete"] = int(a.complete)
    for part in ("sae", "source", "dropped", "summary"):
        for name, value in (getattr(a, part) or {}).items():
            if value is not None:
                facts[f"{part}_{name}"] = _plain(value)
    return facts


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, int | float | str) else json.dumps(value)


def open_set(acts: SetReader, chunks: Any, max_bytes: int) -> xr.Dataset:
    """Open a set that is open already; see `ActivationSet.to_xarray`."""
    if not isinstance(chunks, int | Mapping | None) and not (isinstance(chunks, str) and chunks == "auto"):
        raise InvalidInputError(f"chunks={shown(chunks)}: give a number, a mapping or 'auto'.", code="bad-chunks")
    if chunks is not None:
        require("dask", "dask", "chunks=")
    if chunks == "auto":
        chunks = {}  # the preferred chunks are as large as dask's own; dask cannot tell the size of texts
    opened: Any = acts  # the engine takes a set too; named by a text, since the engine imports this module
    return xr.open_dataset(opened, engine="saestore", chunks=chunks, max_bytes=max_bytes)
