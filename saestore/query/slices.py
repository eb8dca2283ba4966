"""Dense and sparse slices: read the rows of the samples or the lists of the features, the smaller of both."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, TooLargeError, shown
from saestore.kernels import runs_of
from saestore.query.posting_lists import iterate_lists
from saestore.query.rows import iterate_rows
from saestore.query.selection import Selection
from saestore.query.view import Pooling, View
from saestore.segment.read import Segment, open_lists
from saestore.sparse_rows import Array, pointers
from saestore.storage import at_once, n_threads

DENSE_LIMIT = 4 << 30
_WORTH_THREADS = 1 << 24  # bytes of a dense answer
_BLOCK = 1 << 22  # points that are looked up at a time


def check_size(shape: tuple[int, ...], itemsize: int, limit: Any, instead: str) -> None:
    """Refuse an answer larger than `limit` bytes before anything is read or allocated."""
    if not isinstance(limit, numbers.Real):
        raise InvalidInputError(f"max_bytes={shown(limit)}: give a number of bytes.", code="not-a-number")
    size = int(np.prod(shape, dtype=np.float64)) * itemsize
    if size > limit:
        raise TooLargeError(
            f"the answer would be {' x '.join(f'{n:,}' for n in shape)}, {size / 2**30:,.2f} GiB, above the limit of "
            f"{limit / 2**30:,.2f} GiB. {instead}"
        )


def prefers_features(segments: Sequence[Segment], n_samples: int, features: Array | range) -> bool:
    """Whether the lists of these distinct features are shorter than the rows of this many samples."""
    nnz, total_rows = sum(s.info.nnz for s in segments), sum(s.info.n_rows for s in segments)
    if not len(features) or not n_samples or not nnz:
        return False
    if len(features) == segments[0].n_features:  # no pointer is needed to know that
        return n_samples > total_rows
    open_lists(segments)
    starts, stops = runs_of(_array(features))
    lists = sum(int((s.feature_ptr[stops] - s.feature_ptr[starts]).sum()) for s in segments)
    return lists < n_samples * nnz / max(1, total_rows)


def _distinct(chosen: Selection) -> tuple[Array | range, Array | None]:
    """Ascending distinct ids, and the index of each id that was chosen among them; None where these ascend already."""
    if isinstance(chosen.given, range) and chosen.given.step == 1:
        return chosen.given, None
    ids = chosen.ids
    if (ids[1:] > ids[:-1]).all():
        return ids, None
    return np.unique(ids, return_inverse=True)


def dense(view: View, rows: Selection, features: Selection, pooling: Pooling = "max") -> Array:
    """Rows x features, dense, by numpy's orthogonal indexing; a scalar selection drops its axis."""
    row_ids, row_back = _distinct(rows)
    feature_ids, feature_back = _distinct(features)
    out = np.zeros((len(row_ids), len(feature_ids)), view.dtype_of(pooling))
    if pooling == "max" and prefers_features(view.segments, view.n_samples_of(rows), feature_ids):
        for lists in view.lists(_array(feature_ids)):
            row, requested = _locate(row_ids, lists.samples)
            column, inside = _locate(feature_ids, lists.feature_of_entry)
            inside &= requested
            _put(out, row[inside], column[inside], lists.data[inside])
    else:
        for part, block in view.rows(_array(row_ids), pooling):
            row = np.repeat(_locate(row_ids, part)[0], np.diff(block.indptr))
            column, inside = _locate(feature_ids, block.indices)
            if inside.all():
                _put(out, row, column, block.data)
            else:
                _put(out, row[inside], column[inside], block.data[inside])
    out = out if feature_back is None else out[:, feature_back]
    out = out if row_back is None else out[row_back]
    index = tuple(0 if s.scalar else slice(None) for s in (rows, features))
    return out[index] if rows.scalar or features.scalar else out


def _put(out: Array, rows: Array, columns: Array, values: Array) -> None:
    """Set entries of a dense matrix; in threads where most of the time goes into memory that is used first here."""
    flat, places = out.reshape(-1), rows * out.shape[1] + columns
    n = n_threads() if out.nbytes >= _WORTH_THREADS else 1

    def put(i: int) -> None:
        part = slice(len(places) * i // n, len(places) * (i + 1) // n)
        flat[places[part]] = values[part]

    at_once(put, range(n))


def _array(ids: Array | range) -> Array:
    return Selection(ids, scalar=False).ids


def _locate(requested: Array | range, ids: Array) -> tuple[Array, Array]:
    """The index of each id in the ascending `requested`, and whether it is there."""
    if len(requested) and requested[-1] - requested[0] == len(requested) - 1:  # a range needs no search
        index = ids.astype(np.int64) - requested[0]
        return index, (index >= 0) & (index < len(requested))
    requested = _array(requested)
    index = np.searchsorted(requested, ids)
    index[index == len(requested)] = 0
    return index, requested[index] == ids if len(requested) else np.zeros(len(ids), bool)


def sparse(view: View, rows: Selection, features: Selection, pooling: Pooling = "max") -> Any:
    """Rows x features as a `scipy.sparse.csr_array` with sorted ids; one row or column stays two-dimensional."""
    import scipy.sparse as sp

    # scipy has no float16; float32 holds every one of its values.
    dtype, n_features = np.result_type(view.dtype_of(pooling), np.float32), view.n_features
    row_ids, row_back = _distinct(rows)
    feature_ids, feature_back = _distinct(features)
    if pooling == "max" and prefers_features(view.segments, view.n_samples_of(rows), feature_ids):
        whole = _of_lists(view, row_ids, feature_ids, dtype)
        whole = whole if feature_back is None else sp.csr_array(whole[:, feature_back])
        whole.sort_indices()
        return whole if row_back is None else sp.csr_array(whole[row_back])
    blocks, counts = [], np.zeros(len(row_ids), np.int64)
    for part, block in view.rows(_array(row_ids), pooling):
        # scipy takes its index type from these; a narrower one would overflow on its next concatenation.
        index = np.int32 if max(n_features, block.nnz) < 1 << 31 else np.int64
        parts = block.astype(dtype).data, block.indices.astype(index), block.indptr.astype(index)
        blocks.append(_columns(sp.csr_array(parts, shape=(len(block), n_features)), features, n_features))
        counts[_locate(row_ids, part)[0]] = np.diff(blocks[-1].indptr)
    if not blocks:
        return sp.csr_array((len(rows), len(features)), dtype=dtype)
    whole = sp.csr_array(sp.vstack(blocks, format="csr")) if len(blocks) > 1 else blocks[0]
    if whole.shape[0] < len(row_ids):  # items without samples
        indptr = pointers(counts).astype(whole.indptr.dtype)
        whole = sp.csr_array((whole.data, whole.indices, indptr), shape=(len(row_ids), len(features)))
    return whole if row_back is None else sp.csr_array(whole[row_back])


def _of_lists(view: View, rows: Array | range, features: Array | range, dtype: Any) -> Any:
    """Distinct rows x features from the lists of the features. Memory: the answer, and 24 bytes per entry."""
    import scipy.sparse as sp

    entries = []
    for lists in view.lists(_array(features)):
        row, requested = _locate(rows, lists.samples)
        column = np.repeat(_locate(features, lists.features)[0], np.diff(lists.indptr))
        entries.append((row[requested], column[requested], lists.data[requested]))
    row, column, data = (np.concatenate([part[i] for part in entries]) for i in range(3))
    order, index = np.lexsort((column, row)), np.int32 if max(len(features), len(row)) < 1 << 31 else np.int64
    indptr = np.zeros(len(rows) + 1, index)
    filled, counts = np.unique(row, return_counts=True)
    indptr[filled + 1] = counts
    np.cumsum(indptr, out=indptr)
    values = data[order].astype(dtype), column[order].astype(index), indptr
    return sp.csr_array(values, shape=(len(rows), len(features)))


def _columns(block: Any, features: Selection, n_features: int) -> Any:
    import scipy.sparse as sp

    given = features.given
    if given == range(n_features) if isinstance(given, range) else np.array_equal(given, np.arange(n_features)):
        return block
    chosen = sp.csr_array(block[:, features.ids])
    chosen.sort_indices()
    return chosen


def points(segments: Sequence[Segment], rows: Array, features: Array, n_features: int, dtype: Any) -> Array:
    """The activation at every pair of a row and a feature, in any order and with repetitions, zero where there is none.

    Reads the lists of the features or the rows of the samples, the smaller of both. Memory: the answer; 8 bytes per
    point where there are more than 4 million; and a block of about 4 million points and non-zeros, 400 MB.
    """
    if len(rows) <= _BLOCK:
        return _points(segments, rows, features, n_features, dtype)
    values = np.empty(len(rows), dtype)
    order = np.argsort(rows, kind="stable")  # so that blocks do not read the same rows again
    for start in range(0, len(rows), _BLOCK):
        part = order[start : start + _BLOCK]
        values[part] = _points(segments, rows[part], features[part], n_features, dtype)
    return values


def _points(segments: Sequence[Segment], rows: Array, features: Array, n_features: int, dtype: Any) -> Array:
    # A pair is one number, so that sorted pairs can be searched: 2^63 is a hundred trillion samples of 65,536 features.
    requested, back = np.unique(rows * n_features + features, return_inverse=True)
    values = np.zeros(len(requested), dtype)
    row_ids, feature_ids = np.unique(rows), np.unique(features)
    if not len(requested):
        return values
    if prefers_features(segments, len(row_ids), feature_ids):
        entries = (
            (lists.samples * n_features + lists.feature_of_entry, lists.data)
            for lists in iterate_lists(segments, feature_ids, dtype)
        )
    else:
        entries = (
            (np.repeat(part * n_features, np.diff(block.indptr)) + block.indices, block.data)
            for part, block in iterate_rows(segments, row_ids)
        )
    for pairs, data in entries:
        index, hit = _locate(requested, pairs)
        values[index[hit]] = data[hit]
    return values[back]
