"""The arrays at the root of a set, for plain xarray: per-sample ids and counts, per-feature statistics.

They are derived from the segments. No query reads them, and the set's attributes say which segments they cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import zarr

from saestore.format import ITEMS, SetAttributes
from saestore.segment import Segment
from saestore.segment.write import document_digests
from saestore.stats import STATISTICS
from saestore.storage import ShardWriter, create_array, write_array
from saestore.tables.item_index import ItemIndex
from saestore.tables.stored_items import SPANS, span_nodes

PER_SAMPLE = ("item", "position", "l0")
DERIVED = (*PER_SAMPLE, *(s.name for s in STATISTICS))
_ROWS = 1 << 20


def write_derived(group: zarr.Group, attributes: SetAttributes, segments: Sequence[Segment]) -> dict[str, str]:
    """Write the arrays at the set's root, replacing older ones; returns the digests of their metadata documents.

    Memory: a million samples at a time.
    """
    n, codec = attributes.n_samples, attributes.codec
    index = ItemIndex.read(group, attributes)
    dtypes = {"item": np.int64, "position": np.int32, "l0": np.int32}
    arrays: dict[str, zarr.Array[Any]] = {
        name: create_array(group, name, (n,), dtypes[name], ("sample",), codec, overwrite=True) for name in PER_SAMPLE
    }
    writers = {name: ShardWriter(array) for name, array in arrays.items()}
    for segment in segments:
        for start in range(segment.info.start, segment.info.stop, _ROWS):
            stop = min(start + _ROWS, segment.info.stop)
            items, positions = index.locate(np.arange(start, stop))
            writers["item"].append(items)
            writers["position"].append(positions.astype(np.int32))
            writers["l0"].append(np.diff(segment.row_pointers(start, stop)).astype(np.int32))
    for writer in writers.values():
        writer.close()
    names = [*DERIVED, *_copy_spans(group, attributes)]
    moments = reduce(add, (s.moments() for s in segments))
    for statistic in STATISTICS:
        write_array(
            group, statistic.name, statistic.of(moments), ("feature",), codec,
            overwrite=True, attributes={"long_name": statistic.description},
        )  # fmt: skip
    return document_digests(group, names)


def _copy_spans(group: zarr.Group, attributes: SetAttributes) -> list[str]:
    """Copy the spans of tokens to the root, where they lie in the items' own group; returns their names."""
    if attributes.items == ITEMS or any(node not in group for node in span_nodes(attributes.items)):
        return []
    for name, node in zip(SPANS, span_nodes(attributes.items), strict=True):
        source: Any = group[node]
        n = attributes.n_samples
        target = create_array(group, name, (n,), source.dtype, ("sample",), attributes.codec, overwrite=True)
        writer = ShardWriter(target)
        for start in range(0, n, _ROWS):
            writer.append(np.asarray(source[start : min(start + _ROWS, n)]))
        writer.close()
    return list(SPANS)
