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
_SIGN = {2: np.uint16(1 << 15), 4: np.uint32(1 << 31), 8: np.uint64(1 << 63)}
_SUMMED = 1 << 20  # values that are made float64 at a time
_FEATURE_BITS = 16  # features of one sorted block, relative to its first


def descending_bits(values: Array) -> Array:
    """Unsigned integers that sort ascending where the floats, float16 to float64 without NaN, sort descending.

    The bits of an IEEE number with its sign bit flipped sort as the numbers do; the bits of a negative number must be
    inverted altogether. -0.0 and 0.0 differ here, so zeros must not occur (a store has none).
    """
    unsigned, sign = _BITS[values.itemsize], _SIGN[values.itemsize]
    bits = np.ascontiguousarray(values).view(unsigned)
    # Descending, hence inverted once more: positive numbers ~(bits ^ sign), negative ones bits.
    return np.where(bits & sign, bits, ~(bits ^ sign))


def from_descending_bits(bits: Array, dtype: Any) -> Array:
    """Inverse of `descending_bits`."""
    dtype = np.dtype(dtype)
    unsigned, sign = _BITS[dtype.itemsize], _SIGN[dtype.itemsize]
    bits = bits.astype(unsigned, copy=False)
    return np.where(bits & sign, bits, ~bits ^ sign).view(dtype)


def to_impact_order(indptr: Array, indices: Array, data: Array, n_features: int) -> tuple[Array, Array, Array]:
    """From a CSR matrix, ids ascending in a row and no zeros, a CSC one whose columns are in impact order.

    Pointers are int64 and rows uint32, so at most 2**32 - 1 of them. Memory: about 40 bytes per non-zero.
    """
    rows = np.repeat(np.arange(len(indptr) - 1, dtype=np.uint32), np.diff(indptr))
    counts = np.bincount(indices, minlength=n_features)
    out_ptr = pointers(counts)
    row_bits = max(1, int(len(indptr) - 2).bit_length())
    value_bits = 8 * data.itemsize
    if row_bits + value_bits + _FEATURE_BITS > 64:
        order = np.lexsort((rows, descending_bits(data), indices))
        return out_ptr, rows[order], data[order]
    if n_features <= 1 << _FEATURE_BITS:
        sorted_rows, sorted_data = _sort_keys(indices, data, rows, row_bits)
        return out_ptr, sorted_rows, sorted_data
    return out_ptr, *_sort_in_blocks(out_ptr, indices, data, rows, row_bits)


def _sort_keys(features: Array, data: Array, rows: Array, row_bits: int) -> tuple[Array, Array]:
    """Sort (feature, descending activation, row), packed into one uint64 each."""
    value_bits = 8 * data.itemsize
    keys = features.astype(np.uint64) << np.uint64(value_bits + row_bits)
    keys |= descending_bits(data).astype(np.uint64) << np.uint64(row_bits)
    keys |= rows
    keys.sort()
    sorted_rows = (keys & np.uint64((1 << row_bits) - 1)).astype(np.uint32)
    bits = (keys >> np.uint64(row_bits)) & np.uint64((1 << value_bits) - 1)
    return sorted_rows, from_descending_bits(bits, data.dtype)


def _sort_in_blocks(out_ptr: Array, indices: Array, data: Array, rows: Array, row_bits: int) -> tuple[Array, Array]:
    """More features than fit the key: sort 65,536 of them at a time."""
    out_rows, out_data = np.empty(len(rows), np.uint32), np.empty_like(data)
    block = 1 << _FEATURE_BITS
    for first in range(0, len(out_ptr) - 1, block):
        lo, hi = out_ptr[first], out_ptr[min(first + block, len(out_ptr) - 1)]
        inside = (indices >= first) & (indices < first + block)
        part = _sort_keys(indices[inside] - indices.dtype.type(first), data[inside], rows[inside], row_bits)
        out_rows[lo:hi], out_data[lo:hi] = part
    return out_rows, out_data


def merge_impact(features: Array, data: Array, rows: Array, segment: Array) -> tuple[Array, Array]:
    """Rows and activations of several segments' feature lists, merged into impact order by feature.

    `segment` is the number of the segment that each entry is from, non-decreasing: inside a segment entries are in
    order already, and a later segment has higher rows.
    """
    if not len(features):
        return rows, data
    relative = features - features.min()
    top, last = int(relative.max()), int(segment[-1])
    value_bits, segment_bits = 8 * data.itemsize, max(1, last.bit_length())
    if top.bit_length() + value_bits + segment_bits > 64 or last >= 1 << 16:
        order = np.lexsort((segment, descending_bits(data), features))
        return rows[order], data[order]
    keys = relative.astype(np.uint64) << np.uint64(value_bits + segment_bits)
    keys |= descending_bits(data).astype(np.uint64) << np.uint64(segment_bits)
    keys |= segment.astype(np.uint64)
    keys.sort()
    bits = (keys >> np.uint64(segment_bits)) & np.uint64((1 << value_bits) - 1)
    came_from = (keys & np.uint64((1 << segment_bits) - 1)).astype(np.uint16)
    # The entries of one segment keep their order, so its rows fall one after the other into its places; numpy's stable
    # sort of uint16 is a radix sort.
    out_rows = np.empty_like(rows)
    out_rows[np.argsort(came_from, kind="stable")] = rows
    return out_rows, from_descending_bits(bits, data.dtype)


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
    if not len(ids):
        return ids, ids
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
