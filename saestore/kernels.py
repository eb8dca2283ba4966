"""Pure array functions: orders, merges, per-feature sums. No store, no state.

Impact order is the order of a feature's list: activation descending, ties by ascending sample. One sort of
plain uint64 keys makes it: numpy sorts them with SIMD instructions, many times faster than an argsort of the same keys.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from saestore.sparse_rows import Array, pointers

_BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}
_SUMMED = 1 << 20  # values that are made float64 at a time
_FEATURE_BITS = 16  # features of one sorted block, relative to its first


def descending_bits(values: Array) -> Array:
    """Unsigned integers that sort ascending where the floats, float16 to float64 without NaN, sort descending.

    The bits of negative IEEE numbers ascend as the numbers descend; with all bits but the sign inverted, the bits
    of positive ones do, too. -0.0 and 0.0 differ here, so zeros must not occur (a store has none).
    """
    unsigned = _BITS[values.itemsize]
    bits = np.ascontiguousarray(values).view(unsigned)
    inverted: Array = bits >> unsigned(8 * values.itemsize - 1)
    inverted -= unsigned(1)  # all bits of positive numbers, none of negative ones
    inverted >>= unsigned(1)
    inverted ^= bits
    return inverted


def from_descending_bits(bits: Array, dtype: Any) -> Array:
    """Inverse of `descending_bits`, which is the same step again."""
    dtype = np.dtype(dtype)
    return descending_bits(bits.astype(_BITS[dtype.itemsize], copy=False)).view(dtype)


def to_impact_order(indptr: Array, indices: Array, data: Array, n_features: int) -> tuple[Array, Array, Array]:
    """From a CSR matrix, ids ascending in a row and no zeros, a CSC one whose columns are in impact order.

    Pointers are int64 and rows uint32, so at most 2**32 - 1 of them. Memory: about 40 bytes per non-zero.
    """
    rows = np.repeat(np.arange(len(indptr) - 1, dtype=np.uint32), np.diff(indptr))
    out_ptr = pointers(np.bincount(indices, minlength=n_features))
    room = 64 - 8 * data.itemsize - int(len(indptr) - 2).bit_length()  # bits that a sort has for features
    if n_features <= 1 << max(0, room) or room < _FEATURE_BITS:
        return out_ptr, *impact_sort(indices, data, rows)
    out_rows, out_data = np.empty(len(rows), np.uint32), np.empty_like(data)
    block = 1 << _FEATURE_BITS
    for first in range(0, n_features, block):
        lo, hi = out_ptr[first], out_ptr[min(first + block, n_features)]
        inside = (indices >= first) & (indices < first + block)
        out_rows[lo:hi], out_data[lo:hi] = impact_sort(indices[inside], data[inside], rows[inside])
    return out_ptr, out_rows, out_data


def impact_sort(features: Array, data: Array, rows: Array) -> tuple[Array, Array]:
    """Rows and activations of entries in any order, sorted by feature, activation descending and row.

    Feature, activation and row are packed into one uint64 where they fit, counted from the lowest feature and row.
    """
    if not len(features):
        return rows, data
    first, low = features.min(), rows.min()
    row_bits, value_bits = int(rows.max() - low).bit_length(), 8 * data.itemsize
    if int(features.max() - first).bit_length() + value_bits + row_bits > 64:
        order = np.lexsort((rows, descending_bits(data), features))
        return rows[order], data[order]
    keys = (features - first).astype(np.uint64)
    keys <<= np.uint64(value_bits)
    keys |= descending_bits(data)
    keys <<= np.uint64(row_bits)
    keys |= (rows - low).astype(np.uint64)
    keys.sort()
    sorted_rows = (keys & np.uint64((1 << row_bits) - 1)).astype(rows.dtype)
    sorted_rows += low
    keys >>= np.uint64(row_bits)
    return sorted_rows, from_descending_bits(keys, data.dtype)


def segment_sums(values: Array, indptr: Array) -> Array:
    """Sum of every run ``values[indptr[i]:indptr[i + 1]]``, 0 where it is empty; float64.

    Memory: the sums, and 8 bytes for each value of about a million or of the longest run.
    """
    sums = np.zeros(len(indptr) - 1, np.float64)
    filled = np.flatnonzero(np.diff(indptr))
    if len(filled):
        starts, end = indptr[filled], int(indptr[filled[-1] + 1])
        cuts = np.searchsorted(starts, np.arange(int(starts[0]), end, _SUMMED)).tolist()
        for a, b in itertools.pairwise(dict.fromkeys([*cuts, len(starts)])):
            first, stop = int(starts[a]), int(starts[b]) if b < len(starts) else end
            sums[filled[a:b]] = np.add.reduceat(values[first:stop], starts[a:b] - first, dtype=np.float64)
    return sums


def expand_pointers(indptr: Array, start: int, stop: int) -> Array:
    """Which run every entry from `start` to `stop` belongs to, int64.

    >>> expand_pointers(np.array([0, 2, 2, 5]), 1, 4)
    array([0, 2, 2])
    """
    first = int(np.searchsorted(indptr, start, "right")) - 1
    last = int(np.searchsorted(indptr, stop, "left"))
    bounds = np.clip(indptr[first : last + 1], start, stop)
    return np.repeat(np.arange(first, last, dtype=np.int64), np.diff(bounds))


def runs_of(ids: Array) -> tuple[Array, Array]:
    """Starts and stops of the runs of consecutive numbers among ascending distinct `ids`.

    >>> runs_of(np.array([2, 3, 4, 7]))
    (array([2, 7]), array([5, 8]))
    """
    if len(ids) <= 1:  # as of most questions about a feature, where the steps below take a tenth of the time
        return ids, ids + 1
    breaks = np.flatnonzero(np.diff(ids) != 1)
    return ids[np.append(0, breaks + 1)], ids[np.append(breaks, len(ids) - 1)] + 1


def entry_hash(rows: Array, features: Array, data: Array) -> tuple[int, int]:
    """Order-independent 128-bit fingerprint of a set of entries: the sums, modulo 2**64, of mixed entries and squares.

    An entry is multiplied with odd numbers, then mixed by `mix64`.
    """
    bits = np.ascontiguousarray(data).view(_BITS[data.itemsize]).astype(np.uint64)
    mixed = rows.astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed += features.astype(np.uint64) if features.dtype.kind == "i" else features
        bits *= np.uint64(0xD6E8FEB86659FD93)
        mixed ^= bits
        _mix_in_place(mixed)
        total = int(mixed.sum(dtype=np.uint64))
        mixed *= mixed
        return total, int(mixed.sum(dtype=np.uint64))


def mix64(z: Array) -> Array:
    """The finaliser of splitmix64, of uint64 (n,): every bit of an input changes half of the output's bits."""
    return _mix_in_place(z.copy())


def _mix_in_place(z: Array) -> Array:
    shifted = np.empty_like(z)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= np.right_shift(z, np.uint64(shift), out=shifted)
        z *= np.uint64(factor)
    z ^= np.right_shift(z, np.uint64(31), out=shifted)
    return z
