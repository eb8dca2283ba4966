"""Whole lists of features, merged over segments, a bounded block at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.kernels import merge_impact
from saestore.segment import Segment, read_entries

Array = np.ndarray[Any, Any]

BLOCK = 1 << 22  # entries of a block: some 200 MB while it is merged


@dataclass(frozen=True)
class PostingLists:
    """Lists of some features in impact order.

    Attributes
    ----------
    features
        Their ids, int64, distinct.
    indptr
        int64 (len(features) + 1,).
    samples, data
        Samples (int64) and activations of all lists, one after the other.
    """

    features: Array
    indptr: Array
    samples: Array
    data: Array

    def kept(self, keep: Array) -> PostingLists:
        """Without the entries that a mask over them leaves out."""
        indptr = np.concatenate([[0], np.cumsum(keep)])[self.indptr]
        return PostingLists(self.features, indptr, self.samples[keep], self.data[keep])


def iterate_lists(
    segments: Sequence[Segment], features: Array, dtype: Any, block: int = BLOCK
) -> Iterator[PostingLists]:
    """The lists of distinct `features`, in that order, in blocks of about `block` entries.

    Memory: a block, or the longest list where that is longer.
    """
    lengths = np.zeros(len(features), np.int64)
    for segment in segments:
        lengths += segment.feature_ptr[features + 1] - segment.feature_ptr[features]
    ends = np.cumsum(lengths)
    first = 0
    while first < len(features):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + block, "right")))
        yield _read(segments, features[first:last], lengths[first:last], dtype)
        first = last


def _read(segments: Sequence[Segment], features: Array, lengths: Array, dtype: Any) -> PostingLists:
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    places, numbers = [], []
    slices: list[tuple[Segment, int, int]] = []
    for i, segment in enumerate(segments):
        starts, stops = segment.feature_ptr[features], segment.feature_ptr[features + 1]
        slices += [(segment, a, b) for a, b in _runs(features, starts, stops)]
        places.append(np.repeat(np.arange(len(features)), stops - starts))
        numbers.append(np.full(len(places[-1]), i, np.uint32))
    if not slices:
        return PostingLists(features, indptr, np.empty(0, np.int64), np.empty(0, dtype))
    entries = read_entries(slices)
    samples, data = np.concatenate([s for s, _ in entries]), np.concatenate([d for _, d in entries])
    if len(segments) > 1:
        samples, data = merge_impact(np.concatenate(places), data, samples, np.concatenate(numbers))
    return PostingLists(features, indptr, samples, data)


def _runs(features: Array, starts: Array, stops: Array) -> list[tuple[int, int]]:
    """Slices of the concatenated lists; neighbouring features make one."""
    breaks = np.flatnonzero(np.diff(features) != 1) + 1
    firsts = np.concatenate([[0], breaks])
    lasts = np.concatenate([breaks, [len(features)]]) - 1
    return [(int(starts[a]), int(stops[b])) for a, b in zip(firsts, lasts, strict=True)] if len(features) else []
