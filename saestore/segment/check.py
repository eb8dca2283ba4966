"""Checking one segment against everything the format promises of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from saestore.errors import CorruptStoreError
from saestore.format import BY_FEATURE, BY_SAMPLE
from saestore.kernels import descending_bits, entry_hash, expand_pointers
from saestore.segment.read import Segment
from saestore.stats import Moments, RunningMoments

Array = np.ndarray[Any, Any]
Finding = tuple[str, str]
_BLOCK = 1 << 22


class _Sums:
    """What is summed up over the entries of one order: an order-independent fingerprint, and the statistics."""

    def __init__(self) -> None:
        self.hash = (0, 0)
        self.moments = RunningMoments(np.zeros(1, np.int64), 0, np.float32)

    def add(self, rows: Array, features: Array, data: Array) -> None:
        a, b = entry_hash(rows, features, data)
        self.hash = ((self.hash[0] + a) % 2**64, (self.hash[1] + b) % 2**64)


def check_segment(segment: Segment, n_features: int, dtype: Any) -> Iterator[Finding]:
    """Everything that is wrong in a segment: the array, relative to it, and what.

    Every array is read on its own first, so that each damaged one is named; then what they say together is checked.

    Notes
    -----
    Memory: a block of about 4 million entries, and the pointers of the features.
    """
    unreadable = set()
    for name, what in _check_arrays(segment):
        unreadable.add(name)
        yield name, what

    def intact(*names: str) -> bool:
        return not any(bad.startswith(names) for bad in unreadable)

    by_sample, by_feature = _Sums(), _Sums()
    found = list(_check_rows(segment, n_features, by_sample)) if intact(BY_SAMPLE) else []
    in_lists = list(_check_lists(segment, by_feature, dtype)) if intact(BY_FEATURE) else []
    yield from found + in_lists
    if intact(BY_SAMPLE, BY_FEATURE) and not found and not in_lists and by_sample.hash != by_feature.hash:
        yield BY_FEATURE, "does not hold the same entries as by_sample"
    if intact(BY_FEATURE) and not in_lists:
        yield from _check_moments(segment, by_feature.moments.close(), unreadable)


def _check_arrays(segment: Segment) -> Iterator[Finding]:
    """Arrays that are not those that were committed."""
    for name in segment.arrays:
        try:
            reader = segment.reader(name)
            for start in range(0, reader.length, _BLOCK):
                reader.read(start, min(start + _BLOCK, reader.length))
        except CorruptStoreError as e:
            yield name, str(e)


def _check_rows(segment: Segment, n_features: int, sums: _Sums) -> Iterator[Finding]:
    info = segment.info
    step = max(1, _BLOCK * info.n_rows // max(1, info.nnz))
    total = 0
    for start in range(info.start, info.stop, step):
        stop = min(start + step, info.stop)
        pointers = segment.row_pointers(start, stop)
        if pointers[0] != total or (np.diff(pointers) < 0).any() or pointers[-1] > info.nnz:
            yield f"{BY_SAMPLE}/indptr", f"does not ascend at samples {start} to {stop}"
            return
        total = int(pointers[-1])
        block = segment.read_rows(np.array([start]), np.array([stop]))
        ids, data = block.indices, block.data
        rows = np.repeat(np.arange(start, stop), np.diff(block.indptr))
        if (ids >= n_features).any():
            yield f"{BY_SAMPLE}/indices", f"holds feature {int(ids.max())} of {n_features}"
        if ((np.diff(ids.astype(np.int64)) <= 0) & (np.diff(rows) == 0)).any():
            yield f"{BY_SAMPLE}/indices", f"is not ascending in a row between samples {start} and {stop}"
        yield from _check_values(data, BY_SAMPLE)
        sums.add(rows, ids, data)
    if total != info.nnz:
        yield f"{BY_SAMPLE}/indptr", f"ends at {total}; the set's attributes say {info.nnz} non-zeros"


def _check_values(data: Array, matrix: str) -> Iterator[Finding]:
    if not np.isfinite(data).all() or (data == 0).any():
        yield f"{matrix}/data", "holds a zero or a value that is not finite"


def _check_lists(segment: Segment, sums: _Sums, dtype: Any) -> Iterator[Finding]:
    info = segment.info
    try:
        pointers = segment.feature_ptr
    except CorruptStoreError as e:
        yield f"{BY_FEATURE}/indptr", str(e)
        return
    sums.moments = RunningMoments(pointers, info.n_rows, dtype)
    last: tuple[int, int, int] | None = None
    for start in range(0, info.nnz, _BLOCK):
        stop = min(start + _BLOCK, info.nnz)
        rows, data = segment.read_entries([(start, stop)])[0]
        features, bits = expand_pointers(pointers, start, stop), descending_bits(data)
        first = (int(features[0]), int(bits[0]), int(rows[0]))
        if not _ascending(features, bits, rows) or (last is not None and first <= last):
            yield f"{BY_FEATURE}/data", f"is not in impact order between entries {start} and {stop}"
        if (rows >= info.stop).any():
            yield f"{BY_FEATURE}/indices", f"holds sample {int(rows.max())} beyond the segment"
        yield from _check_values(data, BY_FEATURE)
        last = (int(features[-1]), int(bits[-1]), int(rows[-1]))
        sums.add(rows, features, data)
        sums.moments.append(data)


def _ascending(features: Array, bits: Array, rows: Array) -> bool:
    """True where (feature, descending activation, sample) strictly ascends."""
    same_feature = np.diff(features) == 0
    later = bits[1:] > bits[:-1]
    same = bits[1:] == bits[:-1]
    in_list = later | (same & (rows[1:] > rows[:-1]))
    return bool((~same_feature | in_list).all())


def _check_moments(segment: Segment, expected: Moments, damaged: Collection[str]) -> Iterator[Finding]:
    largest = np.nan_to_num(np.fmax(np.abs(expected.min), np.abs(expected.max))).astype(np.float64)
    with np.errstate(over="ignore"):
        # Another version of numpy may sum in another order; counts, smallest and largest are the same in any.
        rounding = {"sum": 1e-12 * expected.n_active * largest, "m2": 1e-12 * expected.n_active * largest**2}
    for name, wanted in expected.arrays().items():
        if name in damaged:
            continue
        reader = segment.reader(name)
        values, slack = reader.read(0, reader.length), rounding.get(name)
        if slack is None:
            same = np.array_equal(values, wanted, equal_nan=wanted.dtype.kind == "f")
        else:
            same = bool(np.isclose(values, wanted, rtol=1e-9, atol=slack, equal_nan=True).all())
        if not same:
            yield name, "does not agree with the entries"
