"""Merging neighbouring segments into one, in bounded memory.

The by_sample matrices follow one another. The by_feature matrices are each sorted by (feature, activation
descending, sample), so they merge as sorted streams do: every stream holds a block in memory; what lies before the
earliest end of a block that has more behind it can be sorted and written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from zarr.abc.store import Store

from saestore.format import BY_FEATURE, BY_SAMPLE, MAX_ROWS_PER_SEGMENT, SegmentInfo
from saestore.kernels import descending_bits, expand_pointers, merge_impact
from saestore.segment.arrays import SegmentShape
from saestore.segment.read import Segment
from saestore.segment.write import SAMPLED_IDS, SegmentWriter
from saestore.stats import Moments, RunningMoments
from saestore.storage import ArrayWriter

Array = np.ndarray[Any, Any]

# Key, activation, sample and feature of an entry in a block, the same again while sorting, the step before that is
# still held, and what the writers of two arrays gather to whole shards.
_BYTES_PER_ENTRY = 160


def plan_merges(infos: Sequence[SegmentInfo], max_rows: int = MAX_ROWS_PER_SEGMENT) -> list[list[SegmentInfo]]:
    """Group neighbouring segments into runs of at most `max_rows` samples; runs of one segment stay as they are."""
    runs: list[list[SegmentInfo]] = []
    for info in infos:
        if runs and info.stop - runs[-1][0].start <= max_rows:
            runs[-1].append(info)
        else:
            runs.append([info])
    return runs


def limit_fan_in(run: Sequence[SegmentInfo], fan_in: int) -> list[list[SegmentInfo]]:
    """Cut a run into merges that leave at most `fan_in` segments, which is what can be merged at once, and the rest.

    Merging no more than that before the last merge rewrites the fewest samples: of 153 segments, 128 at once, 26.
    """
    parts: list[list[SegmentInfo]] = []
    first, excess = 0, len(run) - fan_in
    while excess > 0 and first < len(run) - 1:
        part = list(run[first : first + min(fan_in, excess + 1)])
        parts.append(part)
        first, excess = first + len(part), excess - len(part) + 1
    return [*parts, *([info] for info in run[first:])] if parts else [list(run)]


def merge_segments(
    store: Store,
    path: str,
    segments: Sequence[Segment],
    *,
    n_features: int,
    dtype: Any,
    codec: str,
    memory: int,
    name: str | None = None,
) -> SegmentInfo:
    """Write the union of neighbouring segments of the set at `path` as a new one; nothing names it yet.

    Parameters
    ----------
    memory
        Bound in bytes, at least about 6 MiB. Beside it stay the pointers of the features (8 bytes per feature and
        segment), a decoded chunk of each segment (130 kB), and the shards of the output while they are filled and
        written (about 100 MiB).
    """
    first, last = segments[0].info, segments[-1].info
    nnz = sum(s.info.nnz for s in segments)
    shape = SegmentShape(first.start, last.stop, nnz, n_features, np.dtype(dtype))
    writer = SegmentWriter(store, path, shape, _first_ids(segments), codec=codec, name=name)
    entries = max(1 << 10, memory // _BYTES_PER_ENTRY)
    _merge_rows(writer.arrays[BY_SAMPLE], segments, entries)
    return writer.close(_merge_lists(writer.arrays[BY_FEATURE], segments, shape, entries))


def _first_ids(segments: Sequence[Segment]) -> Array:
    """The first feature ids of the rows of all segments, as many as `create_segment` takes."""
    parts, held = [], 0
    for segment in segments:
        reader = segment.reader(f"{BY_SAMPLE}/indices")
        parts.append(reader.read(0, min(segment.info.nnz, SAMPLED_IDS - held)))
        held += len(parts[-1])
    return np.concatenate(parts)


def _merge_rows(writers: Mapping[str, ArrayWriter], segments: Sequence[Segment], entries: int) -> None:
    """Append the rows of every segment, a block of about `entries` non-zeros at a time."""
    base = 0
    writers["indptr"].append(np.zeros(1, np.int64))
    for segment in segments:
        info = segment.info
        rows = max(1, min(info.n_rows, entries * info.n_rows // max(1, info.nnz)))
        for start in range(info.start, info.stop, rows):
            block = segment.read_rows(np.array([start]), np.array([min(start + rows, info.stop)]))
            writers["indptr"].append(block.indptr[1:] + base)
            writers["indices"].append(block.indices)
            writers["data"].append(block.data)
            base += block.nnz


class _Stream:
    """One segment's feature lists, read block by block: features, samples and activations in order."""

    def __init__(self, segment: Segment, block: int) -> None:
        self._segment, self._block = segment, block
        self._chunk = segment.lists[0].chunk
        self._next, self._stop = 0, segment.info.nnz
        self._read, self._rest = 0, (np.empty(0, np.uint32), np.empty(0, np.float32))
        self.features = np.empty(0, np.int64)
        self.bits = np.empty(0, np.uint32)
        self.samples = np.empty(0, np.int64)
        self.data = np.empty(0, np.float32)

    @property
    def has_more(self) -> bool:
        return self._next < self._stop

    def fill(self) -> None:
        """Read on, up to a whole block, when half of it or more is used up.

        Were blocks used up altogether before the next is read, every step of the merge would come no farther than the
        shortest rest among all segments, and the number of steps would grow with theirs.
        """
        held = len(self.features)
        if not self.has_more or 2 * held > self._block:
            return
        stop = min(self._next + self._block - held, self._stop)
        samples, data = self._entries(stop)
        features = expand_pointers(self._segment.feature_ptr, self._next, stop)
        self._append(features, descending_bits(data), samples, data)
        self._next = stop

    def _entries(self, stop: int) -> tuple[Array, Array]:
        """Samples and activations up to `stop`; whole chunks are read, so that none is decoded twice."""
        first, (rows, data) = self._segment.info.start, self._rest
        if stop > self._read:
            end = min(-(-stop // self._chunk) * self._chunk, self._stop)
            samples, more = self._segment.read_entries([(self._read, end)])[0]
            rows = np.concatenate([rows, (samples - first).astype(np.uint32)])
            data = np.concatenate([data, more]) if len(data) else more
            self._read = end
        count = stop - self._next
        self._rest = rows[count:].copy(), data[count:].copy()
        return rows[:count].astype(np.int64) + first, data[:count]

    def _append(self, features: Array, bits: Array, samples: Array, data: Array) -> None:
        if len(self.features):
            features, bits = np.concatenate([self.features, features]), np.concatenate([self.bits, bits])
            samples, data = np.concatenate([self.samples, samples]), np.concatenate([self.data, data])
        self.features, self.bits, self.samples, self.data = features, bits, samples, data

    def count_until(self, feature: int, bits: int, including: bool) -> int:
        """How many entries come before (feature, bits), those equal to it included or not."""
        lo = int(np.searchsorted(self.features, feature, "left"))
        hi = int(np.searchsorted(self.features, feature, "right"))
        side: Literal["left", "right"] = "right" if including else "left"
        return lo + int(np.searchsorted(self.bits[lo:hi], np.array(bits, self.bits.dtype), side))

    def take(self, count: int) -> tuple[Array, Array, Array]:
        """Remove the first entries: features, samples, activations."""
        taken = self.features[:count], self.samples[:count], self.data[:count]
        self.features, self.bits = self.features[count:], self.bits[count:]
        self.samples, self.data = self.samples[count:], self.data[count:]
        return taken


def _merged(segments: Sequence[Segment], entries: int) -> Iterator[tuple[Array, Array]]:
    """Samples and activations of all entries in impact order by feature, in pieces of at most `entries`."""
    streams = [_Stream(s, max(64, entries // len(segments))) for s in segments]
    while True:
        for stream in streams:
            stream.fill()
        if not any(len(s.features) for s in streams):
            return
        # The earliest end of a block with more behind it, the segment's number deciding among equals. Up to there every
        # entry of every segment is in memory.
        ends = [(int(s.features[-1]), int(s.bits[-1]), i) for i, s in enumerate(streams) if s.has_more]
        if ends:
            feature, bits, owner = min(ends)
            counts = [s.count_until(feature, bits, including=i <= owner) for i, s in enumerate(streams)]
        else:
            counts = [len(s.features) for s in streams]
        parts = [s.take(count) for s, count in zip(streams, counts, strict=True)]
        segment = np.repeat(np.arange(len(parts), dtype=np.uint32), counts)
        features, samples, data = (np.concatenate([p[k] for p in parts]) for k in range(3))
        yield merge_impact(features, data, samples, segment)


def _merge_lists(
    writers: Mapping[str, ArrayWriter], segments: Sequence[Segment], shape: SegmentShape, entries: int
) -> Moments:
    """Append the lists of all segments, merged; returns the sums of their activations."""
    pointers = np.zeros(shape.n_features + 1, np.int64)
    for segment in segments:
        pointers += segment.feature_ptr
    writers["indptr"].append(pointers)
    moments = RunningMoments(pointers, shape.stop - shape.start, shape.dtype)
    for samples, data in _merged(segments, entries):
        writers["indices"].append((samples - shape.start).astype(np.uint32))
        writers["data"].append(data)
        moments.append(data)
    return moments.close()
