"""Checking one segment against everything the format promises of it, on all processors."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saestore.errors import CorruptStoreError
from saestore.format import BY_FEATURE, BY_SAMPLE
from saestore.kernels import descending_bits, entry_hash, expand_pointers
from saestore.segment.read import Segment
from saestore.sparse_rows import Array
from saestore.stats import MomentBlocks, Moments, RunningMoments
from saestore.storage import in_order

Finding = tuple[str, str]
_BLOCK = 1 << 18  # entries that a thread checks at a time: what it makes of them stays in the processor's cache


@dataclass
class _Block:
    """What is found in a block of one order: what is wrong, its fingerprint, and what the next block has to follow."""

    first: Any
    last: Any
    hash: tuple[int, int] = (0, 0)
    moments: list[tuple[int, Moments]] = field(default_factory=list)
    wrong: list[Finding] = field(default_factory=list)


@dataclass
class _Order:
    """What all blocks of one order have in common: a fingerprint that does not depend on it, and the sums."""

    hash: tuple[int, int] = (0, 0)
    moments: RunningMoments | None = None

    def add(self, block: _Block) -> None:
        self.hash = ((self.hash[0] + block.hash[0]) % 2**64, (self.hash[1] + block.hash[1]) % 2**64)
        for feature, sums in block.moments:
            if self.moments is not None:
                self.moments.add(feature, sums)


def check_segment(segment: Segment, n_features: int, dtype: Any) -> Iterator[Finding]:
    """Everything that is wrong in a segment: the array, relative to it, and what.

    Where anything is, every array is read on its own, so that each damaged one is named.

    Memory: a block of about 260,000 entries for each processor, and the pointers of the features.
    """
    try:
        if not list(_check_together(segment, n_features, dtype, {})):
            return
    except CorruptStoreError:
        pass  # named below
    unreadable = dict(_check_arrays(segment))
    yield from unreadable.items()
    yield from _check_together(segment, n_features, dtype, unreadable)


def _check_together(segment: Segment, n_features: int, dtype: Any, unreadable: Collection[str]) -> Iterator[Finding]:
    """What the arrays that can be read say together."""

    def intact(*names: str) -> bool:
        return not any(bad.startswith(names) for bad in unreadable)

    by_sample, by_feature = _Order(), _Order()
    found = list(_check_rows(segment, n_features, by_sample)) if intact(BY_SAMPLE) else []
    in_lists = list(_check_lists(segment, by_feature, dtype)) if intact(BY_FEATURE) else []
    yield from found + in_lists
    if intact(BY_SAMPLE, BY_FEATURE) and not found and not in_lists and by_sample.hash != by_feature.hash:
        yield BY_FEATURE, "does not hold the same entries as by_sample"
    if intact(BY_FEATURE) and not in_lists and by_feature.moments is not None:
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


def _check_rows(segment: Segment, n_features: int, order: _Order) -> Iterator[Finding]:
    info = segment.info
    step = max(1, _BLOCK * info.n_rows // max(1, info.nnz))
    total = 0

    def check(start: int) -> _Block:
        stop = min(start + step, info.stop)
        pointers = segment.row_pointers(start, stop)
        block = _Block(int(pointers[0]), int(pointers[-1]))
        if (np.diff(pointers) < 0).any() or pointers[0] < 0 or pointers[-1] > info.nnz:
            block.first = -1
            return block
        entries = segment.read_rows(np.array([start]), np.array([stop]))
        ids, data = entries.indices, entries.data
        rows = np.repeat(np.arange(start, stop), np.diff(entries.indptr))
        if (ids >= n_features).any():
            block.wrong.append((f"{BY_SAMPLE}/indices", f"holds feature {int(ids.max())} of {n_features}"))
        if ((ids[1:] <= ids[:-1]) & (rows[1:] == rows[:-1])).any():
            what = f"is not ascending in a row between samples {start} and {stop}"
            block.wrong.append((f"{BY_SAMPLE}/indices", what))
        block.wrong += _check_values(data, BY_SAMPLE)
        block.hash = entry_hash(rows, ids, data)
        return block

    starts = range(info.start, info.stop, step)
    for start, block in zip(starts, in_order(check, starts), strict=True):
        if block.first != total:
            yield f"{BY_SAMPLE}/indptr", f"does not ascend at samples {start} to {min(start + step, info.stop)}"
            return
        total = block.last
        yield from block.wrong
        order.add(block)
    if total != info.nnz:
        yield f"{BY_SAMPLE}/indptr", f"ends at {total}; the set's attributes say {info.nnz} non-zeros"


def _check_values(data: Array, matrix: str) -> Iterator[Finding]:
    if not np.isfinite(data).all() or (data == 0).any():
        yield f"{matrix}/data", "holds a zero or a value that is not finite"


def _check_lists(segment: Segment, order: _Order, dtype: Any) -> Iterator[Finding]:
    info = segment.info
    try:
        pointers = segment.feature_ptr
    except CorruptStoreError as e:
        yield f"{BY_FEATURE}/indptr", str(e)
        return
    order.moments = RunningMoments(pointers, info.n_rows, dtype)
    step = max(1, _BLOCK // RunningMoments.BLOCK) * RunningMoments.BLOCK

    def check(start: int) -> _Block:
        stop = min(start + step, info.nnz)
        rows, data = segment.read_entries([(start, stop)])[0]
        features, bits = expand_pointers(pointers, start, stop), descending_bits(data)
        first, end = ((int(features[i]), int(bits[i]), int(rows[i])) for i in (0, -1))
        block = _Block(first, end)
        if not _ascending(features, bits, rows):
            what = f"is not in impact order between entries {start} and {stop}"
            block.wrong.append((f"{BY_FEATURE}/data", what))
        if (rows >= info.stop).any():
            block.wrong.append((f"{BY_FEATURE}/indices", f"holds sample {int(rows.max())} beyond the segment"))
        block.wrong += _check_values(data, BY_FEATURE)
        block.hash = entry_hash(rows, features, data)
        moments = MomentBlocks(pointers, dtype, start)
        moments.append(data)
        moments.close()
        block.moments = moments.blocks
        return block

    last: Any = None
    starts = range(0, info.nnz, step)
    for start, block in zip(starts, in_order(check, starts), strict=True):
        if last is not None and block.first <= last:
            yield f"{BY_FEATURE}/data", f"is not in impact order at entry {start}"
        yield from block.wrong
        last = block.last
        order.add(block)


def _ascending(features: Array, bits: Array, rows: Array) -> bool:
    """True where (feature, descending activation, sample) strictly ascends."""
    same_feature = features[1:] == features[:-1]
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
