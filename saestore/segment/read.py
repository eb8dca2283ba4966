"""Reading one segment by slices of its two matrices."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np

from saestore.format import BY_FEATURE, BY_SAMPLE, SegmentInfo
from saestore.stats import Moments
from saestore.storage import ArrayReader, SnapshotStore, read_all

Array = np.ndarray[Any, Any]

# Opening reads the shard indexes of segments up to this many shards (268 million non-zeros); of larger ones a query
# reads those it needs.
_WARM_SHARDS = 64
_POOL_SIZE = 16


class Segment:
    """A committed segment of an activation set.

    Parameters
    ----------
    store
        The store, as a snapshot.
    path
        Path of the group ``segments`` of the set.
    info
        What the set's attributes say of the segment.

    Sample numbers here are those of the set, not of the segment.
    """

    def __init__(self, store: SnapshotStore, path: str, info: SegmentInfo) -> None:
        self.info = info
        self._store = store
        self._path = f"{path}/{info.name}"

    def reader(self, name: str) -> ArrayReader:
        """Slices of one array of the segment, such as ``by_sample/data``."""
        return ArrayReader(self._store, f"{self._path}/{name}")

    @cached_property
    def feature_ptr(self) -> Array:
        """Pointers into the lists of the features, int64 (n_features + 1,); read once."""
        reader = self.reader(f"{BY_FEATURE}/indptr")
        return reader.read(0, reader.length)

    @cached_property
    def lists(self) -> tuple[ArrayReader, ArrayReader]:
        """Readers of the samples and of the activations of the feature lists."""
        return self.reader(f"{BY_FEATURE}/indices"), self.reader(f"{BY_FEATURE}/data")

    @cached_property
    def _rows(self) -> tuple[ArrayReader, ArrayReader, ArrayReader]:
        indptr, indices, data = (self.reader(f"{BY_SAMPLE}/{name}") for name in ("indptr", "indices", "data"))
        return indptr, indices, data

    def warm(self) -> None:
        """Read what every question about features needs, so that a query's first request is for its answer."""
        _ = self.feature_ptr
        for reader in self.lists:
            if reader.n_shards <= _WARM_SHARDS:
                reader.warm()

    def read_entries(self, slices: list[tuple[int, int]]) -> list[tuple[Array, Array]]:
        """Samples (int64) and activations of slices of the concatenated feature lists."""
        return read_entries([(self, a, b) for a, b in slices])

    def read_rows(self, ranges: list[tuple[int, int]]) -> list[tuple[Array, Array, Array]]:
        """CSR pieces (int64 indptr from 0, feature ids, activations) of ranges of samples."""
        indptr, indices, data = self._rows
        first = self.info.start
        pointers = read_all([(indptr, a - first, b - first + 1) for a, b in ranges])
        spans = [(int(p[0]), int(p[-1])) for p in pointers]
        blocks = read_all([(indices, a, b) for a, b in spans] + [(data, a, b) for a, b in spans])
        half = len(ranges)
        return [(p - p[0], i, d) for p, i, d in zip(pointers, blocks[:half], blocks[half:], strict=True)]

    def row_pointers(self, start: int, stop: int) -> Array:
        """Pointers of the samples `start` to `stop`, (stop - start + 1,)."""
        return self._rows[0].read(start - self.info.start, stop - self.info.start + 1)

    def moments(self) -> Moments:
        """The stored per-feature sums."""
        readers = [self.reader(name) for name in Moments.names()]
        return Moments(self.info.n_rows, *read_all([(r, 0, r.length) for r in readers]))


def read_entries(slices: Sequence[tuple[Segment, int, int]]) -> list[tuple[Array, Array]]:
    """Samples (int64) and activations of slices of several segments' feature lists, all planned and read at once."""
    readers = [segment.lists for segment, _, _ in slices]
    wanted = [(ids, a, b) for (ids, _), (_, a, b) in zip(readers, slices, strict=True)]
    wanted += [(data, a, b) for (_, data), (_, a, b) in zip(readers, slices, strict=True)]
    blocks, half = read_all(wanted), len(slices)
    return [
        (rows.astype(np.int64) + segment.info.start, data)
        for (segment, _, _), rows, data in zip(slices, blocks[:half], blocks[half:], strict=True)
    ]


def warm_all(segments: Sequence[Segment]) -> None:
    """Warm segments, at the same time where the store is remote."""
    if len(segments) > 1 and not segments[0].lists[0].is_local:
        with ThreadPoolExecutor(_POOL_SIZE) as pool:
            list(pool.map(Segment.warm, segments))
    else:
        for segment in segments:
            segment.warm()
