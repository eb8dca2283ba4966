"""Reading one segment by slices of its two matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from saestore.format import BY_FEATURE, BY_SAMPLE, SEGMENTS, SegmentInfo
from saestore.kernels import runs_of
from saestore.sparse_rows import SparseRows, pointers
from saestore.stats import Moments
from saestore.storage import ArrayReader, SnapshotStore, at_once, read_all, read_ranges

Array = np.ndarray[Any, Any]
R = TypeVar("R")

# Opening reads the shard indexes of segments up to this many shards (268 million non-zeros); of larger ones a query
# reads those it needs.
_WARM_SHARDS = 64
# Segments whose sums are read at the same time: of 65,536 features 2.6 MB each.
_MOMENTS_AT_ONCE = 16
_LISTS = f"{BY_FEATURE}/indices", f"{BY_FEATURE}/data"


class Segment:
    """A committed segment of an activation set.

    Parameters
    ----------
    store
        The store, as a snapshot.
    path
        Path of the set in it.
    info
        The segment, as the set's attributes describe it.

    Sample numbers here count within the set, not within the segment.
    """

    def __init__(self, store: SnapshotStore, path: str, info: SegmentInfo) -> None:
        self.info = info
        self._store = store
        self._path = f"{path}/{SEGMENTS}/{info.name}".strip("/")
        self._readers: dict[str, ArrayReader] = {}

    def reader(self, name: str) -> ArrayReader:
        """Slices of one array of the segment, such as ``by_sample/data``; opened once."""
        held = self._readers.get(name)
        if held is None:
            held = self._readers[name] = ArrayReader(self._store, f"{self._path}/{name}")
        return held

    @property
    def is_local(self) -> bool:
        """True where the segment is stored in a local folder, where there is nothing to wait for."""
        return self._store.folder is not None

    @cached_property
    def feature_ptr(self) -> Array:
        """Pointers into the lists of the features, int64 (n_features + 1,); read once."""
        reader = self.reader(f"{BY_FEATURE}/indptr")
        return reader.read(0, reader.length)

    @property
    def lists(self) -> tuple[ArrayReader, ArrayReader]:
        """Readers of the samples and of the activations of the feature lists."""
        return self.reader(_LISTS[0]), self.reader(_LISTS[1])

    def warm(self, name: str) -> None:
        """Read what every question about features needs of an array: all pointers, of the lists the shard indexes."""
        if name not in _LISTS:
            _ = self.feature_ptr
        elif self.reader(name).n_shards <= _WARM_SHARDS:
            self.reader(name).warm()

    def read_entries(self, slices: list[tuple[int, int]]) -> list[tuple[Array, Array]]:
        """Samples (int64) and activations of slices of the concatenated feature lists."""
        return read_entries([(self, a, b) for a, b in slices])

    def read_rows(self, starts: Array, stops: Array) -> SparseRows:
        """The rows of ascending ranges of samples, with gaps between them."""
        first, lengths = self.info.start, stops - starts
        (found,) = read_ranges([self.reader(f"{BY_SAMPLE}/indptr")], starts - first, stops - first + 1)
        ends = np.cumsum(lengths + 1)
        counts = np.delete(np.diff(found), ends[:-1] - 1)  # what lies between two ranges is not theirs
        spans = found[ends - lengths - 1], found[ends - 1]
        readers = [self.reader(f"{BY_SAMPLE}/{name}") for name in ("indices", "data")]
        indices, data = read_ranges(readers, *spans)
        return SparseRows(pointers(counts), indices, data)

    def row_pointers(self, start: int, stop: int) -> Array:
        """Pointers of the samples `start` to `stop`, (stop - start + 1,)."""
        return self.reader(f"{BY_SAMPLE}/indptr").read(start - self.info.start, stop - self.info.start + 1)

    def moments(self) -> Moments:
        """The stored per-feature sums."""
        return read_moments([self])

    def values_at(self, name: str, features: Array | None) -> Array:
        """Values of a per-feature array, of all features or of ascending distinct ones."""
        reader = self.reader(name)
        if features is None or reader.length <= reader.chunk:  # then in one request
            whole = reader.read(0, reader.length)
            return whole if features is None else whole[features]
        return read_ranges([reader], *runs_of(features))[0]


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


def read_moments(segments: Sequence[Segment], features: Array | None = None) -> Moments:
    """The stored sums of one segment or of several together, of all features or of ascending distinct ones.

    Memory: the sums of 16 segments.
    """
    total: Moments | None = None
    names = Moments.names()
    for first in range(0, len(segments), _MOMENTS_AT_ONCE):
        some = segments[first : first + _MOMENTS_AT_ONCE]
        parts = [(segment, name) for segment in some for name in names]
        arrays = _of_all(parts, lambda part: part[0].values_at(part[1], features))
        for i, segment in enumerate(some):
            moments = Moments(segment.info.n_rows, *arrays[i * len(names) : (i + 1) * len(names)])
            total = moments if total is None else total + moments
    if total is None:
        raise ValueError("there is no segment to read the sums of")
    return total


def warm_all(segments: Sequence[Segment]) -> None:
    """Read what every question about features needs, so that a query's first request is for its answer."""
    parts = [(segment, name) for segment in segments for name in (f"{BY_FEATURE}/indptr", *_LISTS)]
    _of_all(parts, lambda part: part[0].warm(part[1]))


def _of_all(parts: Sequence[tuple[Segment, str]], work: Callable[[tuple[Segment, str]], R]) -> list[R]:
    """What `work` makes of arrays of segments, at the same time where there is something to wait for."""
    if parts and parts[0][0].is_local:
        return [work(part) for part in parts]
    return at_once(work, parts)
