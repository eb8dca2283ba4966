"""Writing one segment: both matrices and the statistics of its samples."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

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
from saestore.segment.arrays import FINER_ROWS, SegmentShape, segment_arrays
from saestore.sparse_rows import Array, SparseRows
from saestore.stats import Moments, RunningMoments
from saestore.storage import (
    DOCUMENT,
    ArrayWriter,
    Delta,
    NewArray,
    WriteBatch,
    Written,
    array_info,
    at_once,
    chunk_sizes,
    packed_bytes,
)
from saestore.table_info import ArrayInfo

if TYPE_CHECKING:
    from zarr.abc.store import Store


# Activations are in no order in a row, and descend in a list. Samples of a list are in no order, unless activations
# tie: of those pcodec finds out itself. For feature ids in rows see `_delta_of_ids`.
_DELTA_OF_ROWS: Delta = "none"
_DELTAS_OF_LISTS: dict[str, Delta] = {"indices": "auto", "data": "consecutive"}
_QUICK_DELTAS: dict[str, Delta] = {f"{BY_FEATURE}/indices": "none", f"{BY_SAMPLE}/indices": "consecutive"}

# Ids that say how all of them are best encoded.
SAMPLED_IDS = 1 << 16
WORTH_THREADS = 1 << 16  # non-zeros of a segment below which starting threads takes longer than it gains
# Ids of earlier rows take twice as long to find again as differences to add up: not for less than a tenth.
_WORTH_LOOKBACK = 0.9


class SegmentWriter:
    """Writes one segment of the set at `path`, array by array; nothing names it until the set's attributes do.

    `first_ids` are the first `SAMPLED_IDS` feature ids of its rows, or all. `arrays` are the arrays of both matrices,
    by matrix and name, `shape` is what the segment holds, and `prefix` its path in the store.
    """

    def __init__(
        self,
        store: Store,
        path: str,
        shape: SegmentShape,
        first_ids: Array,
        *,
        codec: str,
        name: str | None = None,
        quick: bool = False,
    ) -> None:
        self.shape = shape
        self._name = name or segment_name(shape.start, shape.stop)
        self.prefix = f"{path}/{SEGMENTS}/{self._name}"
        self._batch = WriteBatch(store, self.prefix)
        self._groups: dict[str, str] = {}
        self._shards: dict[str, list[Written]] = {}
        deltas: dict[str, Delta] = {f"{BY_FEATURE}/{array}": delta for array, delta in _DELTAS_OF_LISTS.items()}
        deltas[f"{BY_SAMPLE}/data"] = _DELTA_OF_ROWS
        deltas |= _QUICK_DELTAS if quick else {f"{BY_SAMPLE}/indices": _delta_of_ids(first_ids, codec)}
        self.arrays: dict[str, NewArray] = {
            name: replace(array, delta=deltas.get(name, "auto"), quick=quick)
            for name, array in segment_arrays(shape, codec).items()
        }
        for matrix, attrs in ((BY_SAMPLE, CSR_ATTRS), (BY_FEATURE, CSC_ATTRS)):
            document = self._batch.put_group(matrix, {**attrs, "shape": [shape.n_rows, shape.n_features]})
            self._groups[matrix] = document_digest(document)
        for array_name, array in self.arrays.items():
            self._batch.put(f"{array_name}/{DOCUMENT}", array.document())

    def flush(self) -> None:
        """Write what is waiting, before others write shards."""
        self._batch.flush()

    def add(self, name: str, written: Written) -> None:
        """Note the next shards of an array, which may be written by others."""
        self._shards.setdefault(name, []).append(written)

    def _write(self, name: str, values: Array) -> None:
        writer = ArrayWriter(self._batch, name, self.arrays[name])
        writer.append(values)
        self.add(name, writer.finish())

    def write(self, matrix: str, **values: Array) -> None:
        """Write all values of arrays of a matrix, by name."""
        for name, array in values.items():
            self._write(f"{matrix}/{name}", array)

    def close(self, moments: Moments, n_bytes: int = 0) -> SegmentInfo:
        """Write the per-feature sums and the segment's document; returns what the attributes will hold.

        The segment's group holds the digests of the documents below it and of all shards, and the set's attributes hold
        its own.
        """
        for name, values in moments.arrays().items():
            self._write(name, values)
        infos: dict[str, ArrayInfo] = {}
        for name, array in self.arrays.items():
            parts = self._shards.get(name, [])
            written = tuple(s for shards, _ in parts for s in shards), sum(n for _, n in parts)
            infos[name] = array_info(array, written)
        shape = self.shape
        attributes = {"start": shape.start, "stop": shape.stop, "nnz": shape.nnz, "n_features": shape.n_features}
        arrays = {name: {"document": i.document, "shards": i.shards} for name, i in infos.items()}
        document = self._batch.put_group("", {**attributes, "groups": self._groups, "arrays": arrays})
        self._batch.sync()
        numbers = shape.start, shape.stop, shape.nnz
        return SegmentInfo(
            *numbers, document_digest(document), self._name, self._batch.n_bytes + n_bytes, **chunk_sizes()
        )


def _delta_of_ids(ids: Array, codec: str) -> Delta:
    """How ids of rows are encoded: they ascend in a row, but where rows share features, those before say more."""
    if codec != "pcodec":
        return "consecutive"
    before, lookback = (packed_bytes(ids, delta, FINER_ROWS) for delta in ("consecutive", "lookback"))
    return "lookback" if lookback < _WORTH_LOOKBACK * before else "consecutive"


def write_segment(
    store: Store,
    path: str,
    start: int,
    rows: SparseRows,
    *,
    n_features: int,
    codec: str,
    name: str | None = None,
    quick: bool = False,
) -> SegmentInfo:
    """Write consecutive samples from `start` on as a segment of the set at `path`; nothing names it yet.

    `rows` have ascending feature ids, no duplicates and no zeros. `quick` encodes for a merge that follows: see
    `NewArray`. One thread writes the rows while another sorts. Memory: about 48 bytes per non-zero of the segment.
    """
    indptr, indices, data = rows.indptr.astype(np.int64, copy=False), rows.indices, rows.data
    shape = SegmentShape(start, start + len(rows), rows.nnz, n_features, data.dtype)
    writer = SegmentWriter(store, path, shape, indices[:SAMPLED_IDS], codec=codec, name=name, quick=quick)

    def write_order(matrix: str) -> Moments:
        if matrix == BY_SAMPLE:
            ids = indices.astype(feature_dtype(n_features), copy=False)
            writer.write(BY_SAMPLE, indptr=indptr, indices=ids, data=data)
            return Moments.zeros(0)
        column_ptr, samples, values = to_impact_order(indptr, indices, data, n_features)
        writer.write(BY_FEATURE, indptr=column_ptr, indices=samples, data=values)
        moments = RunningMoments(column_ptr, len(rows), values.dtype)
        moments.append(values)
        return moments.close()

    orders = [BY_SAMPLE, BY_FEATURE]
    _, moments = at_once(write_order, orders) if rows.nnz >= WORTH_THREADS else map(write_order, orders)
    return writer.close(moments)
