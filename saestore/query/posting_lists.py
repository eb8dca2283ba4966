"""Whole posting lists of features, merged over segments, a bounded block at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.kernels import impact_sort, runs_of
from saestore.segment.read import Segment, open_lists
from saestore.sparse_rows import Array, keep_entries, pointers
from saestore.storage import read_many

BLOCK = 1 << 22  # entries of a block: about 200 MB while it is merged


@dataclass(frozen=True)
class PostingLists:
    """Posting lists of features, in impact order."""

    features: Array  # their ids, int64 (n,)
    indptr: Array  # where each list starts and the last one ends, int64 (n + 1,)
    # Samples (int64) and activations of all lists, one after the other.
    samples: Array
    data: Array

    @property
    def feature_of_entry(self) -> Array:
        """The feature of every entry, int64."""
        if len(self.features) == 1:
            return np.full(len(self.data), self.features[0])
        return np.repeat(self.features, np.diff(self.indptr))

    def keep(self, mask: Array) -> PostingLists:
        """Only the entries where a mask over them is true."""
        return PostingLists(self.features, *keep_entries(mask, self.indptr, self.samples, self.data))

    def part(self, first: int, last: int) -> PostingLists:
        """The lists of consecutive features."""
        a, b = self.indptr[first], self.indptr[last]
        indptr = self.indptr[first : last + 1] - a
        return PostingLists(self.features[first:last], indptr, self.samples[a:b], self.data[a:b])


def iterate_lists(
    segments: Sequence[Segment], features: Array, dtype: Any, block: int = BLOCK
) -> Iterator[PostingLists]:
    """The lists of ascending distinct `features`, in blocks of about `block` entries.

    Memory: a block, or the longest list where that is longer.
    """
    open_lists(segments)
    lengths = np.zeros(len(features), np.int64)
    for segment in segments:
        lengths += segment.feature_ptr[features + 1] - segment.feature_ptr[features]
    ends, first = pointers(lengths), 0
    while first < len(features):
        last = max(first + 1, int(np.searchsorted(ends, ends[first] + block, "right")) - 1)
        yield _read(segments, features[first:last], ends[first : last + 1] - ends[first], dtype)
        first = last


def one_list(segments: Sequence[Segment], feature: int, dtype: Any) -> PostingLists:
    """The whole list of one feature."""
    return next(iterate_lists(segments, np.array([feature]), dtype))


def _read(segments: Sequence[Segment], features: Array, indptr: Array, dtype: Any) -> PostingLists:
    if not segments:
        return PostingLists(features, indptr, np.empty(0, np.int64), np.empty(0, dtype))
    firsts, ends = runs_of(features)
    found = read_many([(reader, s.feature_ptr[firsts], s.feature_ptr[ends]) for s in segments for reader in s.lists])
    each = [rows + np.int64(segment.info.start) for segment, rows in zip(segments, found[::2], strict=True)]
    if len(segments) == 1:
        return PostingLists(features, indptr, each[0], found[1])
    lengths = [segment.feature_ptr[features + 1] - segment.feature_ptr[features] for segment in segments]
    list_of_entry = np.concatenate([np.repeat(np.arange(len(features)), n) for n in lengths])
    samples, data = impact_sort(list_of_entry, np.concatenate(found[1::2]), np.concatenate(each))
    return PostingLists(features, indptr, samples, data)
