"""One pass over all activations, sample by sample: active features per sample, and which samples are identical."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from saestore.segment import Segment
from saestore.tables.item_index import ItemIndex

Array = np.ndarray[Any, Any]

_ENTRIES, _ROWS = 1 << 18, 1 << 16  # of a block; a single row may have more entries
_ROUNDING = 13  # bits of a float32 mantissa that are rounded away before rows are compared: 0.1 % remains
_FACTORS = tuple(map(np.uint64, (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xBF58476D1CE4E5B9)))  # odd


class RowScan:
    """Facts about every sample of a set.

    Attributes
    ----------
    l0
        How many samples have 0, 1, 2 … active features, int64.
    keys
        Fingerprint of each sample's activations, uint64 (n_samples,); 0 for a sample without any.

    Notes
    -----
    Memory: a block of about 260,000 activations, 20 MB, and 8 bytes per sample and feature.
    """

    def __init__(self, segments: Sequence[Segment], n_samples: int, n_features: int) -> None:
        self.l0 = np.zeros(n_features + 1, np.int64)
        self.keys = np.zeros(n_samples, np.uint64)
        for start, counts, features, data in _row_blocks(segments):
            histogram = np.bincount(counts)
            self.l0[: len(histogram)] += histogram
            filled = np.flatnonzero(counts)
            if len(filled):
                firsts = np.cumsum(counts)[filled] - counts[filled]
                self.keys[start + filled] = np.add.reduceat(_mixed(features, data), firsts)

    def n_identical(self, index: ItemIndex) -> int:
        """How many samples have the same activations as another sample of their item, samples without any left out."""
        pointers = np.minimum(index.pointers(), len(self.keys))
        keys = np.repeat(np.arange(len(pointers) - 1, dtype=np.uint64) * _FACTORS[0], np.diff(pointers))
        keys ^= self.keys
        keys = np.sort(keys[self.keys != 0])
        same = np.zeros(len(keys) + 1, bool)
        same[1:-1] = keys[1:] == keys[:-1]
        return int((same[1:] | same[:-1]).sum())

    def identical_at(self, index: ItemIndex, position: int) -> float | None:
        """Share of the items of 2 or more samples whose sample at a position has the most common activations there."""
        pointers = index.pointers()
        starts = pointers[:-1][(np.diff(pointers) > 1) & (pointers[1:] <= len(self.keys))]
        if len(starts) < 2:
            return None
        return float(np.unique(self.keys[starts + position], return_counts=True)[1].max() / len(starts))


def _mixed(features: Array, data: Array) -> Array:
    """A number for each activation, such that sums of them differ for different rows."""
    with np.errstate(over="ignore", under="ignore"):
        bits = np.ascontiguousarray(data, np.float32).view(np.uint32).astype(np.uint64)
        bits = (bits + np.uint64(1 << (_ROUNDING - 1))) >> np.uint64(_ROUNDING)
        mixed: Array = (features.astype(np.uint64) + np.uint64(1)) * _FACTORS[0] ^ bits * _FACTORS[1]
        mixed = (mixed ^ (mixed >> np.uint64(29))) * _FACTORS[2]
        mixed ^= mixed >> np.uint64(32)
    return mixed


def _row_blocks(segments: Sequence[Segment]) -> Iterator[tuple[int, Array, Array, Array]]:
    """Consecutive samples: the number of the first, active features per sample, all features and activations."""
    for segment in segments:
        start, stop = segment.info.start, segment.info.stop
        while start < stop:
            pointers = segment.row_pointers(start, min(stop, start + _ROWS))
            n_rows = max(1, int(np.searchsorted(pointers, pointers[0] + _ENTRIES, "right")) - 1)
            part = int(pointers[0]), int(pointers[n_rows])
            features, data = (segment.reader(f"by_sample/{name}").read(*part) for name in ("indices", "data"))
            yield start, np.diff(pointers[: n_rows + 1]), features, data
            start += n_rows


def quantile_of_counts(counts: Array, q: float) -> float:
    """`numpy.quantile`, by linear interpolation, of ``counts[i]`` numbers i."""
    ends, total = np.cumsum(counts), int(counts.sum())
    rank = q * (total - 1)
    low, high = (int(np.searchsorted(ends, np.floor(r) + 1)) for r in (rank, np.ceil(rank)))
    return low + (high - low) * (rank - float(np.floor(rank)))
