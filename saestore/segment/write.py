"""Writing one segment: both matrices and the statistics of its samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from zarr.abc.store import Store

from saestore.format import (
    BY_FEATURE,
    BY_SAMPLE,
    CSC_ATTRS,
    CSR_ATTRS,
    SEGMENTS,
    SegmentInfo,
    document_digest,
    feature_dtype,
    segment_name,
)
from saestore.kernels import to_impact_order
from saestore.sparse_rows import SparseRows
from saestore.stats import Moments, RunningMoments
from saestore.storage import ArrayWriter, Delta, NewArray, WriteBatch, packed_bytes, write_array, write_document

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


@dataclass(frozen=True)
class SegmentShape:
    """What a segment holds: samples ``start`` to ``stop``, ``nnz`` non-zeros of `dtype`."""

    start: int
    stop: int
    nnz: int
    n_features: int
    dtype: np.dtype[Any]


class SegmentWriter:
    """Writes one segment array by array; nothing names it until the set's attributes do.

    Parameters
    ----------
    store, path
        The store, and the path of the set in it.
    first_ids
        The first `SAMPLED_IDS` feature ids of its rows, or all.

    Attributes
    ----------
    arrays
        The arrays of both matrices, by matrix and name.
    shape, prefix
        What the segment holds, and its path in the store.
    """

    def __init__(
        self, store: Store, path: str, shape: SegmentShape, first_ids: Array, *, codec: str, name: str | None = None
    ) -> None:
        self.shape, self._codec = shape, codec
        self._name = name or segment_name(shape.start, shape.stop)
        self.prefix = f"{path}/{SEGMENTS}/{self._name}"
        self._batch = WriteBatch(store, self.prefix)
        self._digests: dict[str, str] = {}
        self.arrays: dict[str, dict[str, NewArray]] = {}
        rows, n_features, nnz = shape.stop - shape.start, shape.n_features, shape.nnz
        row_deltas: dict[str, Delta] = {"indices": _delta_of_ids(first_ids, codec), "data": _DELTA_OF_ROWS}
        for matrix, attrs, length, ids, deltas, finer in (
            (BY_SAMPLE, CSR_ATTRS, rows, feature_dtype(n_features), row_deltas, _FINER_ROWS),
            (BY_FEATURE, CSC_ATTRS, n_features, np.dtype(np.uint32), _DELTAS_OF_LISTS, 1),
        ):
            document = self._batch.put_group(matrix, {**attrs, "shape": [rows, n_features]})
            self._digests[matrix] = document_digest(document)
            # The pointers of the features are read whole, once, when a set is opened: one chunk, one request.
            whole = NewArray(length + 1, np.dtype(np.int64), "pointer", codec, sharded=matrix == BY_SAMPLE, finer=finer)
            parts = {"indptr": whole}
            for array, dtype in (("indices", ids), ("data", shape.dtype)):
                parts[array] = NewArray(nnz, dtype, "nonzero", codec, finer=finer, delta=deltas[array])
            self.arrays[matrix] = parts

    def write(self, matrix: str, **values: Array) -> None:
        """Write all values of arrays of a matrix, by name."""
        for name, array in values.items():
            writer = ArrayWriter(self._batch, f"{matrix}/{name}", self.arrays[matrix][name])
            writer.append(array)
            writer.finish()

    def close(self, moments: Moments, n_bytes: int = 0) -> SegmentInfo:
        """Write the per-feature sums and the documents; returns what the set's attributes will say of the segment.

        The segment's group holds the digests of the documents below it, and the set's attributes hold its own.

        Parameters
        ----------
        n_bytes
            Of the values that others wrote.
        """
        for matrix, arrays in self.arrays.items():
            for name, array in arrays.items():
                self._digests[f"{matrix}/{name}"] = write_document(self._batch, f"{matrix}/{name}", array)
        for name, values in moments.arrays().items():
            self._digests[name] = write_array(self._batch, name, values, "feature", self._codec)
        shape = self.shape
        attributes = {"start": shape.start, "stop": shape.stop, "nnz": shape.nnz, "n_features": shape.n_features}
        document = self._batch.put_group("", {**attributes, "digests": self._digests})
        self._batch.sync()
        numbers = shape.start, shape.stop, shape.nnz
        return SegmentInfo(*numbers, document_digest(document), self._name, self._batch.n_bytes + n_bytes)


def _delta_of_ids(ids: Array, codec: str) -> Delta:
    """How ids of rows are encoded: they ascend in a row, but where rows share features, those before say more."""
    if codec != "pcodec":
        return "consecutive"
    before, lookback = (packed_bytes(ids, delta, _FINER_ROWS) for delta in ("consecutive", "lookback"))
    return "lookback" if lookback < _WORTH_LOOKBACK * before else "consecutive"


def write_segment(
    store: Store, path: str, start: int, rows: SparseRows, *, n_features: int, codec: str, name: str | None = None
) -> SegmentInfo:
    """Write consecutive samples from `start` on as a segment; nothing names it yet.

    Parameters
    ----------
    store, path
        The store, and the path of the set in it.
    rows
        With ascending feature ids, no duplicates and no zeros.

    Notes
    -----
    Memory: about 48 bytes per non-zero of the segment.
    """
    indptr, indices, data = rows.indptr.astype(np.int64, copy=False), rows.indices, rows.data
    shape = SegmentShape(start, start + len(rows), rows.nnz, n_features, data.dtype)
    writer = SegmentWriter(store, path, shape, indices[:SAMPLED_IDS], codec=codec, name=name)
    column_ptr, samples, values = to_impact_order(indptr, indices, data, n_features)
    writer.write(BY_SAMPLE, indptr=indptr, indices=indices.astype(feature_dtype(n_features), copy=False), data=data)
    writer.write(BY_FEATURE, indptr=column_ptr, indices=samples, data=values)
    moments = RunningMoments(column_ptr, len(rows), values.dtype)
    moments.append(values)
    return writer.close(moments.close())


def segment_nodes() -> list[str]:
    """Groups and arrays of a segment, relative to it."""
    matrices = [f"{m}{a}" for m in (BY_SAMPLE, BY_FEATURE) for a in ("", "/indptr", "/indices", "/data")]
    return [*matrices, *Moments.names()]
