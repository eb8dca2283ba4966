"""The arrays at the root of a set, for plain xarray: per-sample ids and counts, per-feature statistics.

They are derived from the segments. No query reads them, and the set's attributes say which segments they cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from saestore.format import BY_SAMPLE, SetAttributes
from saestore.segment.read import Segment, read_moments
from saestore.stats import STATISTICS, Moments
from saestore.storage import NewArray, WriteBatch, begin_array, prefetch, write_array
from saestore.table_info import ArrayInfo
from saestore.tables.item_index import ItemIndex

_DTYPES: dict[str, np.dtype[Any]] = {
    "item": np.dtype(np.int64),
    "position": np.dtype(np.int32),
    "l0": np.dtype(np.int32),
}
PER_SAMPLE = tuple(_DTYPES)
DERIVED = (*PER_SAMPLE, *(s.name for s in STATISTICS))
_ROWS = 1 << 20


def write_derived(
    batch: WriteBatch, attributes: SetAttributes, index: ItemIndex, segments: Sequence[Segment]
) -> dict[str, Any]:
    """Write the arrays at the set's root, replacing older ones; returns what changes in the attributes.

    Memory: a million samples at a time.
    """
    n, codec, written = attributes.n_samples, attributes.codec, dict[str, ArrayInfo]()
    writers = {name: begin_array(batch, name, NewArray(n, dtype, "sample", codec)) for name, dtype in _DTYPES.items()}
    prefetch(s.reader(f"{BY_SAMPLE}/indptr") for s in segments if s.info.n_rows < _ROWS)
    for segment in segments:
        for start in range(segment.info.start, segment.info.stop, _ROWS):
            for name, values in per_sample(segment, index, start, min(start + _ROWS, segment.info.stop)).items():
                writers[name].append(values)
    for name, writer in writers.items():
        written[name] = writer.close()
    moments = read_moments(segments)
    for statistic in STATISTICS:
        about = {"long_name": statistic.description}
        values = statistic.of(moments)
        written[statistic.name] = write_array(batch, statistic.name, values, "feature", codec, attributes=about)
    batch.sync()
    names = tuple(segment.info.name for segment in segments)
    return {"derived": names, "arrays": written, "dead_features": dead_features(moments)}


def dead_features(moments: Moments) -> int:
    """Number of features that are active in no sample."""
    return int((moments.n_active == 0).sum())


def per_sample(segment: Segment, index: ItemIndex, start: int, stop: int) -> dict[str, Any]:
    """Values of the per-sample arrays, of consecutive samples of a segment."""
    items, positions = index.locate(np.arange(start, stop))
    values = {"item": items, "position": positions, "l0": np.diff(segment.row_pointers(start, stop))}
    return {name: values[name].astype(dtype) for name, dtype in _DTYPES.items()}
