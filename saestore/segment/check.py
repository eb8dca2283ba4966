"""Checking one segment against everything the format promises of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from saestore.errors import CorruptStoreError
from saestore.format import BY_FEATURE, BY_SAMPLE
from saestore.kernels import descending_bits, entry_hash, expand_pointers
from saestore.segment.read import Segment
from saestore.stats import Moments

Array = np.ndarray[Any, Any]
Finding = tuple[str, str]
_BLOCK = 1 << 22


class _Sums:
    """Order-independent fingerprint of the entries of one order."""

    def __init__(self) -> None:
        self.hash = (0, 0)

    def add(self, rows: Array, features: Array, data: Array) -> None:
        a, b = entry_hash(rows, features, data)
        self.hash = ((self.hash[0] + a) % 2**64, (self.hash[1] + b) % 2**64)


def check_segment(segment: Segment, n_features: int, dtype: Any) -> Iterator[Finding]:
    """Everything that is wrong in a segment: the array, relative to it, and what.

    Memory: a block of some 4 million entries, and the pointers of the features.
    """
    by_sample, by_feature = _Sums(), _Sums()
    damaged = list(_guarded(_check_rows(segment, n_features, by_sample), BY_SAMPLE))
    yield from damaged
    moments = [Moments.zeros(n_features, segment.info.n_rows, dtype)]
    found = list(_guarded(_check_lists(segment, by_feature, moments), BY_FEATURE))
    yield from found
    if not damaged and not found and by_sample.hash != by_feature.hash:
        yield BY_FEATURE, "does not hold the same entries as by_sample"
    if not found:
        yield from _guarded(_check_moments(segment, moments[0]), "")


def _guarded(findings: Iterator[Finding], where: str) -> Iterator[Finding]:
    """Turn an unreadable array into a finding."""
    try:
        yield from findings
    except CorruptStoreError as e:
        yield where, str(e)


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
        indptr, ids, data = segment.read_rows([(start, stop)])[0]
        rows = np.repeat(np.arange(start, stop), np.diff(indptr))
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


def _check_lists(segment: Segment, sums: _Sums, moments: list[Moments]) -> Iterator[Finding]:
    info, pointers = segment.info, segment.feature_ptr
    if pointers[0] != 0 or (np.diff(pointers) < 0).any() or pointers[-1] != info.nnz:
        yield f"{BY_FEATURE}/indptr", f"does not ascend from 0 to {info.nnz}"
        return
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
        block = Moments.of_lists(np.clip(pointers, start, stop) - start, data, 0)
        moments[0] = moments[0] + block


def _ascending(features: Array, bits: Array, rows: Array) -> bool:
    """True where (feature, descending activation, sample) strictly ascends."""
    same_feature = np.diff(features) == 0
    later = bits[1:] > bits[:-1]
    same = bits[1:] == bits[:-1]
    in_list = later | (same & (rows[1:] > rows[:-1]))
    return bool((~same_feature | in_list).all())


def _check_moments(segment: Segment, expected: Moments) -> Iterator[Finding]:
    stored = segment.moments()
    for name, values in stored.arrays().items():
        wanted = expected.arrays()[name]
        exact = name in ("n_active", "min", "max")
        scale = (
            np.sqrt(np.nanmax(np.abs(wanted), initial=0.0)) if name == "m2" else np.nanmax(np.abs(wanted), initial=0.0)
        )
        close = np.allclose(values, wanted, rtol=1e-9, atol=1e-12 * scale, equal_nan=True)
        if not (np.array_equal(values, wanted, equal_nan=True) if exact else close):
            yield name, "does not agree with the entries"
