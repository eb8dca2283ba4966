"""Dense and sparse slices: which of the two matrices to read, and reading it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from saestore.errors import TooLargeError
from saestore.kernels import runs_of
from saestore.query.posting_lists import iterate_lists
from saestore.query.selection import Selection
from saestore.segment import Segment

Array = np.ndarray[Any, Any]

DENSE_LIMIT = 4 << 30
_BLOCK = 1 << 22  # non-zeros of a block of rows


def check_size(shape: tuple[int, ...], itemsize: int, limit: int, instead: str) -> None:
    """Refuse an answer larger than `limit` bytes before anything is read or allocated."""
    size = int(np.prod(shape, dtype=np.float64)) * itemsize
    if size > limit:
        raise TooLargeError(
            f"the answer would be {' x '.join(f'{n:,}' for n in shape)}, {size / 2**30:,.2f} GiB, above the limit of "
            f"{limit / 2**30:,.2f} GiB. {instead}"
        )


def prefers_features(segments: Sequence[Segment], rows: Array, features: Array) -> bool:
    """Whether the lists of these distinct features are shorter than these distinct rows are."""
    starts, stops = runs_of(features)  # of all features one
    lists = sum(int((s.feature_ptr[stops] - s.feature_ptr[starts]).sum()) for s in segments)
    total_rows = sum(s.info.n_rows for s in segments)
    nnz = sum(s.info.nnz for s in segments)
    return lists < len(rows) * nnz / max(1, total_rows)


def _distinct(ids: Array) -> tuple[Array, Array | None]:
    """Ascending distinct ids, and where each of `ids` stands among them; None where they are so already."""
    if (ids[1:] > ids[:-1]).all():
        return ids, None
    return np.unique(ids, return_inverse=True)


def iterate_rows(
    segments: Sequence[Segment], rows: Array, block: int = _BLOCK
) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Ascending distinct `rows` as CSR pieces: their numbers, int64 indptr, feature ids, activations.

    Memory: about `block` non-zeros.
    """
    for segment in segments:
        info = segment.info
        inside = rows[np.searchsorted(rows, info.start) : np.searchsorted(rows, info.stop)]
        step = max(1, int(block * info.n_rows / max(1, info.nnz)))
        for first in range(0, len(inside), step):
            part = inside[first : first + step]
            read = segment.read_rows(*runs_of(part))
            yield part, read.indptr, read.indices, read.data


def dense(segments: Sequence[Segment], rows: Selection, features: Selection, dtype: Any) -> Array:
    """Rows x features, dense, by numpy's orthogonal indexing; a scalar selection drops its axis."""
    row_ids, row_back = _distinct(rows.ids)
    feature_ids, feature_back = _distinct(features.ids)
    out = np.zeros((len(row_ids), len(feature_ids)), dtype)
    if prefers_features(segments, row_ids, feature_ids):
        _fill_from_lists(segments, row_ids, feature_ids, out)
    else:
        _fill_from_rows(segments, row_ids, feature_ids, out)
    out = out if feature_back is None else out[:, feature_back]
    out = out if row_back is None else out[row_back]
    index = tuple(0 if s.scalar else slice(None) for s in (rows, features))
    return out[index] if rows.scalar or features.scalar else out


def _fill_from_lists(segments: Sequence[Segment], rows: Array, features: Array, grid: Array) -> None:
    column = 0
    for lists in iterate_lists(segments, features, grid.dtype):
        columns = np.repeat(np.arange(column, column + len(lists.features)), np.diff(lists.indptr))
        place, found = _places(rows, lists.samples)
        grid[place[found], columns[found]] = lists.data[found]
        column += len(lists.features)


def _fill_from_rows(segments: Sequence[Segment], rows: Array, features: Array, grid: Array) -> None:
    row = 0
    for part, indptr, ids, data in iterate_rows(segments, rows):
        places = np.repeat(np.arange(row, row + len(part)), np.diff(indptr))
        column, found = _places(features, ids)
        grid[places[found], column[found]] = data[found]
        row += len(part)


def _places(wanted: Array, ids: Array) -> tuple[Array, Array]:
    """Where each id stands in the ascending `wanted`, and whether it does."""
    if len(wanted) and wanted[-1] - wanted[0] == len(wanted) - 1:  # a range needs no search
        place = ids.astype(np.int64) - wanted[0]
        return place, (place >= 0) & (place < len(wanted))
    place = np.searchsorted(wanted, ids)
    place[place == len(wanted)] = 0
    return place, wanted[place] == ids if len(wanted) else np.zeros(len(ids), bool)


def sparse(segments: Sequence[Segment], rows: Selection, features: Selection, n_features: int, dtype: Any) -> Any:
    """Rows x features as a `scipy.sparse.csr_array` with sorted ids; one row or column stays two-dimensional."""
    import scipy.sparse as sp

    # scipy has no float16; float32 holds every one of its values.
    dtype = np.result_type(dtype, np.float32)
    row_ids, row_back = _distinct(rows.ids)
    blocks = []
    for part, indptr, ids, data in iterate_rows(segments, row_ids):
        # scipy takes its index type from these; a narrower one would overflow on its next concatenation.
        index = np.int32 if max(n_features, len(ids)) < 1 << 31 else np.int64
        block = sp.csr_array(
            (data.astype(dtype, copy=False), ids.astype(index), indptr.astype(index)), shape=(len(part), n_features)
        )
        blocks.append(_columns(block, features, n_features))
    if not blocks:
        return sp.csr_array((len(rows), len(features)), dtype=dtype)
    whole = sp.csr_array(sp.vstack(blocks, format="csr")) if len(blocks) > 1 else blocks[0]
    return whole if row_back is None else sp.csr_array(whole[row_back])


def _columns(block: Any, features: Selection, n_features: int) -> Any:
    import scipy.sparse as sp

    if len(features) == n_features and np.array_equal(features.ids, np.arange(n_features)):
        return block
    chosen = sp.csr_array(block[:, features.ids])
    chosen.sort_indices()
    return chosen


def points(segments: Sequence[Segment], rows: Array, features: Array, n_features: int, dtype: Any) -> Array:
    """The activation at every pair, zero where there is none.

    Parameters
    ----------
    rows, features
        int64, of equal length, in any order and with repetitions.

    Notes
    -----
    Reads the lists of the features or the rows of the samples, whichever is less. Memory: the answer; 8 bytes a point
    where they are more than 4 million; and a block of some 4 million points and non-zeros, 400 MB.
    """
    if len(rows) <= _BLOCK:
        return _points(segments, rows, features, n_features, dtype)
    found = np.empty(len(rows), dtype)
    order = np.argsort(rows, kind="stable")  # so that blocks do not read the same rows again
    for start in range(0, len(rows), _BLOCK):
        part = order[start : start + _BLOCK]
        found[part] = _points(segments, rows[part], features[part], n_features, dtype)
    return found


def _points(segments: Sequence[Segment], rows: Array, features: Array, n_features: int, dtype: Any) -> Array:
    # A pair is one number, so that sorted pairs can be searched: 2^63 is a hundred trillion samples of 65,536 features.
    wanted, back = np.unique(rows * n_features + features, return_inverse=True)
    found = np.zeros(len(wanted), dtype)
    row_ids, feature_ids = np.unique(rows), np.unique(features)
    if prefers_features(segments, row_ids, feature_ids):
        entries = _of_lists(segments, feature_ids, n_features, dtype)
    else:
        entries = _of_rows(segments, row_ids, n_features)
    for pairs, data in entries:
        if not len(wanted):
            break
        place = np.searchsorted(wanted, pairs)
        place[place == len(wanted)] = 0
        hit = wanted[place] == pairs
        found[place[hit]] = data[hit]
    return found[back]


def _of_lists(
    segments: Sequence[Segment], features: Array, n_features: int, dtype: Any
) -> Iterator[tuple[Array, Array]]:
    for lists in iterate_lists(segments, features, dtype):
        yield lists.samples * n_features + np.repeat(lists.features, np.diff(lists.indptr)), lists.data


def _of_rows(segments: Sequence[Segment], rows: Array, n_features: int) -> Iterator[tuple[Array, Array]]:
    for part, indptr, ids, data in iterate_rows(segments, rows):
        yield np.repeat(part * n_features, np.diff(indptr)) + ids, data
