"""Merging neighbouring segments into one, in bounded memory.

The by_sample matrices follow one another. The by_feature matrices are each sorted by (feature, activation
descending, sample), so they merge as sorted streams do: every stream holds a block in memory; what lies before the
earliest end of a block that has more behind it can be sorted and written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from math import comb, lcm
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np

from saestore.format import BY_FEATURE, BY_SAMPLE, MAX_ROWS_PER_SEGMENT, SegmentInfo
from saestore.kernels import descending_bits, expand_pointers, impact_sort
from saestore.segment.arrays import SegmentShape
from saestore.segment.read import Segment
from saestore.segment.write import SAMPLED_IDS, WORTH_THREADS, SegmentWriter
from saestore.sparse_rows import Array
from saestore.stats import MomentBlocks, Moments, RunningMoments
from saestore.storage import ArrayReader, ArrayWriter, SnapshotStore, WriteBatch, Written, in_order, read_all

if TYPE_CHECKING:
    from zarr.abc.store import Store

T = TypeVar("T")
R = TypeVar("R")

# Key, activation, sample and feature of an entry in a block, the same again while sorting, the step before that is
# still held; what the writers of two arrays gather, and the thread that copies the rows meanwhile.
_BYTES_PER_ENTRY = 224
_ROWS_AT_ONCE = 1 << 18  # entries of rows, which are copied beside the lists
_PARTS_PER_WORKER = 4  # so that a slow worker does not hold up the others
_BLOCK_SPLIT = 1 << 16  # entries of one feature's lists, among which a part's end is found


class Engine(Protocol):
    """What runs the parts of a job."""

    @property
    def n_workers(self) -> int:
        """How many parts run at the same time."""

    def map(self, work: Callable[[T], R], parts: Sequence[T], done: Callable[[], object] = ...) -> list[R]:
        """What `work` makes of each of the parts, in their order; `done` is called after each. Both pickle."""


class InThisProcess:
    """One part after the other, or in `threads`: of a merge one for the rows and one for the lists."""

    n_workers = 1

    def __init__(self, *, threads: bool = False) -> None:
        self._map = in_order if threads else map

    def map(self, work: Callable[[T], R], parts: Sequence[T], done: Callable[[], object] = lambda: None) -> list[R]:
        """What `work` makes of each of the parts."""
        results = []
        for result in self._map(work, parts):
            results.append(result)
            done()
        return results


def plan_merges(infos: Sequence[SegmentInfo], max_rows: int = MAX_ROWS_PER_SEGMENT) -> list[list[SegmentInfo]]:
    """Group neighbouring segments into runs of at most `max_rows` samples; runs of one segment stay as they are."""
    runs: list[list[SegmentInfo]] = []
    for info in infos:
        if runs and info.stop - runs[-1][0].start <= max_rows:
            runs[-1].append(info)
        else:
            runs.append([info])
    return runs


MOST_SEGMENTS = 16  # of a set, also while it is written


def last_level(n_segments: int, most: int = MOST_SEGMENTS - 1) -> int:
    """How many of the last of `n_segments` equal segments to merge, so that at most `most` are there.

    Each sample is rewritten as rarely as that allows: at most d times below ``comb(most + d + 1, most)`` segments.
    The sizes of the merged segments are the terms of `n_segments` in the combinatorial number system (the binomial
    transform; Mathieu, Staelin, Young and Yousefi, Bigtable merge compaction, 2014).
    """
    size = 0
    for j in range(most, 0, -1):
        i = j - 1
        while comb(i + 1, j) <= n_segments:
            i += 1
        size = comb(i, j) or size
        n_segments -= comb(i, j)
    return size


def level_start(sizes: Sequence[int], most: int) -> int:
    """From which of some consecutive segments to merge all, so that at most `most` are left; 0 < most.

    The first that is at most as large as all after it together: what is merged again is then in a segment of at least
    twice the size. So each sample is rewritten once, and log2(set / append) times more at most.
    """
    if len(sizes) <= most:
        return len(sizes)
    doubled = (i for i in range(most) if sizes[i] <= sum(sizes[i + 1 :]))
    return next(doubled, most - 1)


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
    engine: Engine | None = None,
) -> SegmentInfo:
    """Write the union of neighbouring segments of the set at `path` as a new one; nothing names it yet.

    `memory` bounds all but a decoded chunk of each segment (130 kB) and what of the output waits to be written (about
    80 MiB); at least about 6 MiB. `engine` runs the parts of the output; the bytes are the same for any engine, and
    parts may run twice.
    """
    first, last = segments[0].info, segments[-1].info
    nnz = sum(s.info.nnz for s in segments)
    shape = SegmentShape(first.start, last.stop, nnz, n_features, np.dtype(dtype))
    writer = SegmentWriter(store, path, shape, _first_ids(segments), codec=codec, name=name)
    entries = (memory - 8 * (n_features + 1) * len(segments)) // _BYTES_PER_ENTRY
    merge = _Merge(store, path, segments, writer, entries=max(1 << 10, entries))
    writer.write(BY_FEATURE, indptr=merge.pointers)
    writer.flush()
    engine = InThisProcess(threads=nnz >= WORTH_THREADS) if engine is None else engine
    moments, n_bytes = RunningMoments(merge.pointers, shape.stop - shape.start, shape.dtype), 0
    for size, written, blocks in engine.map(merge, merge.parts(engine.n_workers)):
        n_bytes += size
        for array, shards in written.items():
            writer.add(array, shards)
        for feature, block in blocks:
            moments.add(feature, block)
    return writer.close(moments.close(), n_bytes)


def _first_ids(segments: Sequence[Segment]) -> Array:
    """The first feature ids of the rows of all segments, as many as `create_segment` takes."""
    parts, held = [], 0
    for segment in segments:
        reader = segment.reader(f"{BY_SAMPLE}/indices")
        parts.append(reader.read(0, min(segment.info.nnz, SAMPLED_IDS - held)))
        held += len(parts[-1])
    return np.concatenate(parts)


_Part = tuple[str, int, int]  # what is written, its first entry and the one after its last


class _Merge:
    """Writes any part of the union of segments; it pickles."""

    def __init__(
        self, store: Store, path: str, segments: Sequence[Segment], writer: SegmentWriter, *, entries: int
    ) -> None:
        self._store, self._path, self._infos = store, path, [s.info for s in segments]
        self._prefix, self._arrays, self._shape, self._entries = writer.prefix, writer.arrays, writer.shape, entries
        self._attributes = segments[0].set_attributes
        self.segments = segments

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("segments", "pointers")}

    @cached_property
    def segments(self) -> Sequence[Segment]:
        """The segments that are merged, open."""
        snapshot = SnapshotStore(self._store)
        return [Segment(snapshot, self._path, info, self._attributes) for info in self._infos]

    @cached_property
    def pointers(self) -> Array:
        """Where the merged list of each feature starts, int64 (n_features + 1,)."""
        pointers = np.zeros(self._shape.n_features + 1, np.int64)
        for segment in self.segments:
            pointers += segment.feature_ptr
        return pointers

    def parts(self, n_workers: int) -> list[_Part]:
        """Parts of whole shards and whole blocks of moments, a few for each worker."""
        nnz, n = self._shape.nnz, _PARTS_PER_WORKER * n_workers if n_workers > 1 else 1
        block = RunningMoments.BLOCK if nnz > RunningMoments.BLOCK else 1
        parts: list[_Part] = [("indptr", 0, self._shape.stop - self._shape.start + 1)]
        for matrix, multiple in ((BY_SAMPLE, 1), (BY_FEATURE, block)):
            unit = lcm(self._arrays[f"{matrix}/data"].layout.shard, multiple)
            n_units = -(-nnz // unit)
            ends = sorted({min(nnz, unit * (n_units * i // n)) for i in range(n + 1)})
            parts += [(matrix, first, stop) for first, stop in pairwise(ends)]
        return parts

    def __call__(self, part: _Part) -> tuple[int, dict[str, Written], list[tuple[int, Moments]]]:
        """Write a part; returns how many bytes, its shards by array, and the sums of its lists."""
        kind, first, stop = part
        matrix, names = (BY_SAMPLE, ("indptr",)) if kind == "indptr" else (kind, ("indices", "data"))
        batch = WriteBatch(self._store, self._prefix)
        writers = [
            ArrayWriter(batch, f"{matrix}/{name}", self._arrays[f"{matrix}/{name}"], first, stop) for name in names
        ]
        moments = MomentBlocks(self.pointers, self._shape.dtype, first)
        pieces = {"indptr": self._row_pointers, BY_SAMPLE: self._rows, BY_FEATURE: self._lists}[kind]
        for values in pieces(first, stop):
            for writer, array in zip(writers, values, strict=True):
                writer.append(array)
            if kind == BY_FEATURE:
                moments.append(values[1])
        written = {f"{matrix}/{name}": writer.finish() for name, writer in zip(names, writers, strict=True)}
        moments.close()
        batch.sync()
        return batch.n_bytes, written, moments.blocks

    def _row_pointers(self, _: int, __: int) -> Iterator[tuple[Array, ...]]:
        base = 0
        yield (np.zeros(1, np.int64),)
        for segment in self.segments:
            info = segment.info
            for start in range(info.start, info.stop, self._entries):
                yield (segment.row_pointers(start, min(start + self._entries, info.stop))[1:] + base,)
            base += info.nnz

    def _rows(self, first: int, stop: int) -> Iterator[tuple[Array, ...]]:
        """Feature ids and activations in the order of the rows."""
        base = 0
        for segment in self.segments:
            begin, end = max(first - base, 0), min(stop - base, segment.info.nnz)
            readers = [segment.reader(f"{BY_SAMPLE}/{name}") for name in ("indices", "data")]
            step = min(_ROWS_AT_ONCE, self._entries)
            for start in range(begin, end, step):
                yield tuple(reader.read(start, min(start + step, end)) for reader in readers)
            base += segment.info.nnz

    def _lists(self, first: int, stop: int) -> Iterator[tuple[Array, ...]]:
        """Samples and activations in impact order by feature."""
        firsts, stops = (_cut(self.segments, self.pointers, position) for position in (first, stop))
        yield from _merged(self.segments, self._entries, firsts, stops)


def _cut(segments: Sequence[Segment], pointers: Array, position: int) -> list[int]:
    """How many entries of each segment are among the first `position` of the merged lists."""
    feature = int(np.searchsorted(pointers, position, "right")) - 1
    starts = [int(s.feature_ptr[feature]) for s in segments]
    rank = position - int(pointers[feature])
    if not rank:
        return starts
    return _split(segments, starts, [int(s.feature_ptr[feature + 1]) for s in segments], rank)


def _split(segments: Sequence[Segment], low: Sequence[int], high: Sequence[int], rank: int) -> list[int]:
    """Where the first `rank` entries of one feature's merged list end in each of its lists.

    Entries are ordered by activation, segment and place. A pivot is taken from the longest list, and each list is cut
    there; the side without the end is left out, until the rest fits a block. Memory: a chunk, and 16 bytes per entry of
    the block.
    """
    readers = [s.reader(f"{BY_FEATURE}/data") for s in segments]
    while sum(high) - sum(low) > max(_BLOCK_SPLIT, 2 * len(segments)):
        owner = max(range(len(segments)), key=lambda i: high[i] - low[i])
        middle = (low[owner] + high[owner]) // 2
        pivot = descending_bits(readers[owner].read(middle, middle + 1))[0]
        cuts = [
            middle + 1 if i == owner else _count(reader, low[i], high[i], pivot, "right" if i < owner else "left")
            for i, reader in enumerate(readers)
        ]
        before = sum(cuts) - sum(low)
        if before <= rank:
            low, rank = cuts, rank - before
        else:
            high = cuts
    bits = [descending_bits(r.read(a, b)) for r, a, b in zip(readers, low, high, strict=True)]
    owners = np.repeat(np.arange(len(bits)), [len(each) for each in bits])
    taken = np.bincount(owners[np.argsort(np.concatenate(bits), kind="stable")[:rank]], minlength=len(bits))
    return [start + int(n) for start, n in zip(low, taken, strict=True)]


def _count(reader: ArrayReader, start: int, stop: int, pivot: Any, side: Literal["left", "right"]) -> int:
    """Where `pivot` belongs in a list that is stored from `start` to `stop`."""
    while stop - start > reader.chunk:
        middle = (start + stop) // 2
        bits = descending_bits(reader.read(middle, middle + 1))[0]
        if bits < pivot or (side == "right" and bits == pivot):
            start = middle + 1
        else:
            stop = middle
    return start + int(np.searchsorted(descending_bits(reader.read(start, stop)), pivot, side))


class _Stream:
    """One segment's feature lists, read block by block: features, rows and activations in order.

    Rows are counted from `start`, the first sample of the merged segment.
    """

    def __init__(self, segment: Segment, block: int, first: int, stop: int, start: int) -> None:
        self._segment, self._block = segment, block
        self._offset, self._chunk = np.uint32(segment.info.start - start), segment.lists[0].chunk
        self._next, self._stop = first, stop
        nothing = np.empty(0, np.uint32), np.empty(0, segment.lists[1].dtype)
        self._read, self._rest = first, nothing
        self.features = np.empty(0, np.int64)
        self.rows, self.data = nothing

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
        rows, data = self._entries(stop)
        features = expand_pointers(self._segment.feature_ptr, self._next, stop)
        if held:
            features, rows = np.concatenate([self.features, features]), np.concatenate([self.rows, rows])
            data = np.concatenate([self.data, data])
        self.features, self.rows, self.data, self._next = features, rows, data, stop

    def _entries(self, stop: int) -> tuple[Array, Array]:
        """Rows and activations up to `stop`; whole chunks are read, so that none is decoded twice."""
        rows, data = self._rest
        if stop > self._read:
            end = min(-(-stop // self._chunk) * self._chunk, self._stop)
            more = read_all([(reader, self._read, end) for reader in self._segment.lists])
            rows, data = np.concatenate([rows, more[0] + self._offset]), np.concatenate([data, more[1]])
            self._read = end
        count = stop - self._next
        self._rest = rows[count:].copy(), data[count:].copy()
        return rows[:count], data[:count]

    def count_until(self, feature: int, bits: int, including: bool) -> int:
        """How many entries come before (feature, bits), those equal to it included or not."""
        lo = int(np.searchsorted(self.features, feature, "left"))
        hi = int(np.searchsorted(self.features, feature, "right"))
        side: Literal["left", "right"] = "right" if including else "left"
        own = descending_bits(self.data[lo:hi])
        return lo + int(np.searchsorted(own, np.array(bits, own.dtype), side))

    def take(self, count: int) -> tuple[Array, Array, Array]:
        """Remove the first entries: features, activations, rows."""
        taken = self.features[:count], self.data[:count], self.rows[:count]
        self.features, self.data, self.rows = self.features[count:], self.data[count:], self.rows[count:]
        return taken


def _merged(
    segments: Sequence[Segment], entries: int, firsts: Sequence[int], stops: Sequence[int]
) -> Iterator[tuple[Array, Array]]:
    """Rows and activations of these entries in impact order by feature, in pieces of at most `entries`."""
    block, start = max(64, entries // len(segments)), segments[0].info.start
    streams = [_Stream(s, block, first, stop, start) for s, first, stop in zip(segments, firsts, stops, strict=True)]
    value_bits = 8 * streams[0].data.itemsize
    # Of no more features at once than a sort packs beside activation and row; float64 never fits.
    room = 64 - value_bits - (segments[-1].info.stop - start - 1).bit_length()
    at_once = 1 << room if room >= 0 else segments[0].n_features
    while True:
        for stream in streams:
            stream.fill()
        held = [s for s in streams if len(s.features)]
        if not held:
            return
        # The earliest end of a block with more behind it, the segment's number deciding among equals. Up to there every
        # entry of every segment is in memory.
        ends = [
            (int(s.features[-1]), int(descending_bits(s.data[-1:])[0]), i) for i, s in enumerate(streams) if s.has_more
        ]
        last = min(int(s.features[0]) for s in held) + at_once - 1
        feature, bits, owner = min([*ends, (last, (1 << value_bits) - 1, len(streams))])
        counts = [s.count_until(feature, bits, including=i <= owner) for i, s in enumerate(streams)]
        parts = [s.take(count) for s, count in zip(streams, counts, strict=True)]
        yield impact_sort(*(np.concatenate(column) for column in zip(*parts, strict=True)))
