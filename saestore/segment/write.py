"""Writing one segment: both matrices and the statistics of its samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import zarr

from saestore.errors import CorruptStoreError
from saestore.format import BY_FEATURE, BY_SAMPLE, CSC_ATTRS, CSR_ATTRS, SegmentInfo, feature_dtype
from saestore.kernels import to_impact_order
from saestore.stats import Moments, RunningMoments
from saestore.storage import Delta, SnapshotStore, create_array, packed_bytes, write_array

Array = np.ndarray[Any, Any]

# Activations are in no order in a row, and descend in a list. Samples of a list are in no order, unless activations
# tie: of those pcodec finds out itself. For feature ids in rows see `_delta_of_ids`.
_DELTA_OF_ROWS: Delta = "none"
_DELTAS_OF_LISTS: dict[str, Delta] = {"indices": "auto", "data": "consecutive"}

# Rows are asked for one by one, lists by what lies at their head. A quarter of a chunk holds 128 rows of 32, decodes
# in a quarter of the time, and takes 0.01 to 0.02 bytes a non-zero more. See docs/decisions/012-bytes-a-non-zero.md.
_FINER_ROWS = 4
# Ids that say how all of them are best encoded.
SAMPLED_IDS = 1 << 16
# Ids of earlier rows take twice as long to find again as differences to add up: not for less than a tenth.
_WORTH_LOOKBACK = 0.9


def create_segment(
    parent: zarr.Group,
    start: int,
    stop: int,
    nnz: int,
    first_ids: Array,
    *,
    n_features: int,
    dtype: Any,
    codec: str,
) -> tuple[zarr.Group, dict[str, dict[str, zarr.Array[Any]]]]:
    """Create the groups and empty arrays of a segment under the group ``segments``.

    Parameters
    ----------
    first_ids
        The first `SAMPLED_IDS` feature ids of its rows, or all.

    Returns
    -------
    group, arrays
        The segment's group, and its arrays by matrix and name. They must be filled through these: an array that is
        opened again has forgotten that it writes chunks of zeros too.
    """
    group = parent.create_group(
        f"{start}-{stop}", attributes={"start": start, "stop": stop, "nnz": nnz, "n_features": n_features}
    )
    arrays: dict[str, dict[str, zarr.Array[Any]]] = {}
    rows, shape = stop - start, [stop - start, n_features]
    row_deltas: dict[str, Delta] = {"indices": _delta_of_ids(first_ids, codec), "data": _DELTA_OF_ROWS}
    for name, attrs, length, ids, deltas, finer in (
        (BY_SAMPLE, CSR_ATTRS, rows, feature_dtype(n_features), row_deltas, _FINER_ROWS),
        (BY_FEATURE, CSC_ATTRS, n_features, np.dtype(np.uint32), _DELTAS_OF_LISTS, 1),
    ):
        matrix = group.create_group(name, attributes={**attrs, "shape": shape})
        # The pointers of the features are read whole, once, when a set is opened: one chunk, one request.
        pointers = create_array(
            matrix, "indptr", (length + 1,), np.int64, ("pointer",), codec, sharded=name == BY_SAMPLE, finer=finer
        )
        arrays[name] = {"indptr": pointers}
        for array, kind in (("indices", ids), ("data", dtype)):
            arrays[name][array] = create_array(
                matrix, array, (nnz,), kind, ("nonzero",), codec, delta=deltas[array], finer=finer
            )
    return group, arrays


def _delta_of_ids(ids: Array, codec: str) -> Delta:
    """How ids of rows are encoded: they ascend in a row, but where rows share features, those before say more."""
    if codec != "pcodec":
        return "consecutive"
    before, lookback = (packed_bytes(ids, delta, _FINER_ROWS) for delta in ("consecutive", "lookback"))
    return "lookback" if lookback < _WORTH_LOOKBACK * before else "consecutive"


def write_statistics(group: zarr.Group, moments: Moments, codec: str) -> None:
    """Write the per-feature sums of a segment."""
    for name, values in moments.arrays().items():
        write_array(group, name, values, ("feature",), codec)


def write_segment(
    parent: zarr.Group, start: int, indptr: Array, indices: Array, data: Array, *, n_features: int, codec: str
) -> SegmentInfo:
    """Write samples ``start`` to ``start + len(indptr) - 1`` as a segment; nothing names it yet.

    Parameters
    ----------
    parent
        The group ``segments`` of the set.
    indptr, indices, data
        A CSR matrix with ascending feature ids, no duplicates and no zeros.

    Notes
    -----
    Memory: some 48 bytes a non-zero of the segment.
    """
    stop, nnz = start + len(indptr) - 1, len(indices)
    group, arrays = create_segment(
        parent, start, stop, nnz, indices[:SAMPLED_IDS], n_features=n_features, dtype=data.dtype, codec=codec
    )
    by_sample = {"indptr": indptr.astype(np.int64, copy=False), "indices": indices, "data": data}
    _fill(arrays[BY_SAMPLE], by_sample)
    column_ptr, rows, values = to_impact_order(indptr, indices, data, n_features)
    _fill(arrays[BY_FEATURE], {"indptr": column_ptr, "indices": rows, "data": values})
    moments = RunningMoments(column_ptr, stop - start, values.dtype)
    moments.append(values)
    write_statistics(group, moments.close(), codec)
    return SegmentInfo(start, stop, nnz, seal_segment(group))


def _fill(arrays: Mapping[str, zarr.Array[Any]], values: Mapping[str, Array]) -> None:
    for name, array in arrays.items():
        if array.size:
            array[:] = values[name].astype(array.dtype, copy=False)


def seal_segment(group: zarr.Group) -> str:
    """Record the digests of a segment's metadata documents in its group; returns the digest of the group's own.

    So the set's attributes, which name that digest, vouch for every document of the segment.
    """
    group.attrs["digests"] = document_digests(group, segment_nodes())
    return document_digests(group, [""])[""]


def segment_nodes() -> list[str]:
    """Groups and arrays of a segment, relative to it."""
    matrices = [f"{m}{a}" for m in (BY_SAMPLE, BY_FEATURE) for a in ("", "/indptr", "/indices", "/data")]
    return [*matrices, *Moments.names()]


def document_digests(group: zarr.Group, names: Iterable[str]) -> dict[str, str]:
    """SHA-256, in hex, of the bytes of the ``zarr.json`` of nodes in `group`, by name; ``""`` is the group itself."""
    store = SnapshotStore(group.store)
    found = {}
    for name in names:
        path = f"{group.path}/{name}".strip("/")
        key = f"{path}/zarr.json".lstrip("/")
        with suppress(Exception):  # whatever zarr makes of a document: what it read, the snapshot keeps
            zarr.open(store, path=path, mode="r", zarr_format=3)
        if key not in store.documents:
            raise CorruptStoreError(f"{key} is missing")
        found[name] = hashlib.sha256(store.documents[key]).hexdigest()
    return found
