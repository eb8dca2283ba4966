"""One pass over all activations, row by row, that keeps counts only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from saestore.segment import Segment
from saestore.tables.item_index import ItemIndex

Array = np.ndarray[Any, Any]

_ENTRIES, _ROWS = 1 << 18, 1 << 16  # of a block; a single row may have more entries
_STRONGEST = 1 << 12
# Sign, exponent and 11 bits of mantissa: values in one bin differ by 2**-11 of themselves.
_SHIFT, _BINS = 12, 1 << 20


class ValueCounts:
    """Counts of values, as float32, in bins of constant relative width, 8 MB."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS, np.int64)

    def add(self, values: Array) -> None:
        """Count values."""
        with np.errstate(over="ignore", under="ignore"):
            bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        # An order of the bit patterns that is that of the values.
        ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
        np.add.at(self.counts, ordered >> _SHIFT, 1)

    @classmethod
    def sum_of(cls, *parts: ValueCounts) -> ValueCounts:
        """Of all together."""
        result = cls()
        result.counts = np.sum([part.counts for part in parts], axis=0)
        return result

    @property
    def total(self) -> int:
        """How many were counted."""
        return int(self.counts.sum())

    def quantile(self, q: float) -> float | None:
        """The value with a share `q` of the others below it, to within half a bin; None of none."""
        if not self.total:
            return None
        bin_ = int(np.searchsorted(np.cumsum(self.counts), max(1, np.ceil(q * self.total))))
        middle = np.array([(bin_ << _SHIFT) | 1 << (_SHIFT - 1)], np.uint32)
        bits = np.where(middle >> 31, middle & np.uint32((1 << 31) - 1), ~middle)
        return float(bits.astype(np.uint32).view(np.float32)[0])

    def n_above(self, value: float) -> int:
        """How many are larger than `value`, to within a bin."""
        bits = np.array([value], np.float32).view(np.uint32)
        ordered = int(np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))[0])
        return int(self.counts[(ordered >> _SHIFT) + 1 :].sum())


class Group:
    """Samples of one kind: how many, their L0 and their norms."""

    def __init__(self, n_features: int) -> None:
        self.l0 = np.zeros(n_features + 1, np.int64)
        self.norms = ValueCounts()

    def add(self, l0: Array, norms: Array) -> None:
        """Count samples."""
        counted = np.bincount(l0)
        self.l0[: len(counted)] += counted
        self.norms.add(norms)


class Streamed:
    """Counts over all samples of a set.

    Attributes
    ----------
    first, others
        Samples that stand first in their item, and the others.
    values
        The activations.
    strongest
        Whether each of the strongest activations of all is of a sample that stands first, bool.

    Notes
    -----
    Memory: blocks of some 260,000 activations, 20 MB, 24 MB of bins, and 16 bytes a feature; whatever the
    number of samples.
    """

    def __init__(self, segments: Sequence[Segment], index: ItemIndex, n_features: int, nnz: int) -> None:
        self.first, self.others = Group(n_features), Group(n_features)
        self.values = ValueCounts()
        self._keep = int(min(_STRONGEST, max(100, nnz // 1000)))
        self._top = np.zeros(0), np.zeros(0, bool)
        for start, l0, data in row_blocks(segments):
            self._add(start, l0, data, index)

    @property
    def strongest(self) -> Array:
        """Whether each of the strongest activations is of a first sample."""
        return self._top[1]

    def _add(self, start: int, l0: Array, data: Array, index: ItemIndex) -> None:
        is_first = index.locate(np.arange(start, start + len(l0)))[1] == 0
        owner = np.repeat(np.arange(len(l0)), l0)
        wide = data.astype(np.float64)
        norms = np.sqrt(np.bincount(owner, wide * wide, len(l0)))
        for group, mask in ((self.first, is_first), (self.others, ~is_first)):
            group.add(l0[mask], norms[mask])
        self.values.add(data)
        full = len(self._top[0]) == self._keep
        may = np.flatnonzero(wide > self._top[0].min()) if full else np.arange(len(wide))
        values = np.append(self._top[0], wide[may])
        flags = np.append(self._top[1], is_first[owner[may]])
        if len(values) > self._keep:
            best = np.argpartition(values, -self._keep)[-self._keep :]
            values, flags = values[best], flags[best]
        self._top = values, flags


def row_blocks(segments: Sequence[Segment]) -> Iterator[tuple[int, Array, Array]]:
    """Consecutive samples: the number of the first, the active features of each, and their activations."""
    for segment in segments:
        start, stop = segment.info.start, segment.info.stop
        while start < stop:
            pointers = segment.row_pointers(start, min(stop, start + _ROWS))
            rows = max(1, int(np.searchsorted(pointers, pointers[0] + _ENTRIES, "right")) - 1)
            data = segment.reader("by_sample/data").read(int(pointers[0]), int(pointers[rows]))
            yield start, np.diff(pointers[: rows + 1]), data
            start += rows


def quantile_of_counts(counts: Array, q: float) -> float:
    """`numpy.quantile`, by linear interpolation, of ``counts[i]`` numbers i."""
    ends, total = np.cumsum(counts), int(counts.sum())
    rank = q * (total - 1)
    low, high = (int(np.searchsorted(ends, np.floor(r) + 1)) for r in (rank, np.ceil(rank)))
    return low + (high - low) * (rank - float(np.floor(rank)))
