"""Writing one segment: both matrices and the statistics of its samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr

from saestore.format import BY_FEATURE, BY_SAMPLE, CSC_ATTRS, CSR_ATTRS, SegmentInfo, feature_dtype
from saestore.kernels import to_impact_order
from saestore.stats import Moments
from saestore.storage import SnapshotStore, create_array, write_array

Array = np.ndarray[Any, Any]


def create_segment(
    parent: zarr.Group, start: int, stop: int, nnz: int, *, n_features: int, dtype: Any, codec: str
) -> tuple[zarr.Group, dict[str, dict[str, zarr.Array[Any]]]]:
    """Create the groups and empty arrays of a segment under the group ``segments``.

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
    for name, attrs, length, ids in (
        (BY_SAMPLE, CSR_ATTRS, rows, feature_dtype(n_features)),
        (BY_FEATURE, CSC_ATTRS, n_features, np.dtype(np.uint32)),
    ):
        matrix = group.create_group(name, attributes={**attrs, "shape": shape})
        # The pointers of the features are read whole, once, when a set is opened: one chunk, one request.
        pointers = create_array(
            matrix, "indptr", (length + 1,), np.int64, ("pointer",), codec, sharded=name == BY_SAMPLE
        )
        arrays[name] = {
            "indptr": pointers,
            "indices": create_array(matrix, "indices", (nnz,), ids, ("nonzero",), codec),
            "data": create_array(matrix, "data", (nnz,), dtype, ("nonzero",), codec),
        }
    return group, arrays


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
    group, arrays = create_segment(parent, start, stop, nnz, n_features=n_features, dtype=data.dtype, codec=codec)
    by_sample = {"indptr": indptr.astype(np.int64, copy=False), "indices": indices, "data": data}
    _fill(arrays[BY_SAMPLE], by_sample)
    column_ptr, rows, values = to_impact_order(indptr, indices, data, n_features)
    _fill(arrays[BY_FEATURE], {"indptr": column_ptr, "indices": rows, "data": values})
    write_statistics(group, Moments.of_lists(column_ptr, values, stop - start), codec)
    return SegmentInfo(start, stop, nnz, segment_digest(group))


def _fill(arrays: Mapping[str, zarr.Array[Any]], values: Mapping[str, Array]) -> None:
    for name, array in arrays.items():
        if array.size:
            array[:] = values[name].astype(array.dtype, copy=False)


def segment_digest(group: zarr.Group) -> str:
    """SHA-256 over the metadata documents of a segment, as they lie in the store."""
    return documents_digest(group, [group.path, *(f"{group.path}/{name}" for name in segment_nodes())])


def segment_nodes() -> list[str]:
    """Groups and arrays of a segment, relative to it."""
    matrices = [f"{m}{a}" for m in (BY_SAMPLE, BY_FEATURE) for a in ("", "/indptr", "/indices", "/data")]
    return [*matrices, *Moments.names()]


def documents_digest(group: zarr.Group, paths: list[str]) -> str:
    """SHA-256 over the bytes of the ``zarr.json`` of the nodes at `paths`."""
    store = SnapshotStore(group.store)
    for path in paths:
        zarr.open(store, path=path, mode="r", zarr_format=3)
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(path.rsplit("/segments/")[-1].encode() + b"\0")
        total.update(hashlib.sha256(store.documents[f"{path}/zarr.json"]).digest())
    return total.hexdigest()
