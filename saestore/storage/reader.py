"""Reading slices of immutable one-dimensional arrays, in as few requests as the bytes allow.

Two ways give the same answer. `ArrayReader` asks zarr, through a `SnapshotStore` that remembers shard indexes, so that
a short slice is one request. On a local folder, `LocalShards` reads the bytes itself: zarr's general machinery takes
1.2 ms for a chunk that the disk and the codec hand over in 0.05 ms. See ``docs/decisions/001-local-reads.md``.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

import numpy as np
import zarr

from saestore.storage.open import missing_as_error
from saestore.storage.shards import Job, Layout, LocalShards, bytes_of, has_index_at_end, parse_index
from saestore.storage.snapshot import SnapshotStore

Array = np.ndarray[Any, Any]
T = TypeVar("T")
R = TypeVar("R")

# Requests overlap their waiting; more threads than this only queue in zarr's event loop.
_REQUESTS_AT_ONCE = 16
# Decoding overlaps as far as there are processors. Below so many values starting threads takes longer than it gains.
_WORTH_THREADS = 1 << 20
_FEW_JOBS = 4
# From so many ranges on, of so many values or fewer, one index of all their values is quicker than slicing each.
_MANY, _SHORT = 64, 256


class ArrayReader:
    """Slices of one immutable array.

    Parameters
    ----------
    store
        The store, as a snapshot.
    path
        Path of the array in it.

    Memory: the answer and the chunks it touches.
    """

    def __init__(self, store: SnapshotStore, path: str) -> None:
        self.path = path
        with missing_as_error(path):
            self._how = LocalShards.of(store, path) or ZarrArray(store, path)
        self.is_local = isinstance(self._how, LocalShards)  # read without zarr
        layout = self._how.layout
        self.length, self.chunk, self.shard, self.dtype = layout.length, layout.chunk, layout.shard, layout.dtype

    def read(self, start: int, stop: int) -> Array:
        """Values ``start`` to ``stop``."""
        if stop <= start:
            return np.empty(0, self.dtype)
        values, jobs = self.plan(start, stop)
        for job in jobs:
            job()
        return values

    def plan(self, start: int, stop: int) -> tuple[Array, list[Job]]:
        """Memory for the values ``start`` to ``stop``, and the pieces of work that fill it, in any order."""
        return self._how.plan(start, stop)

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-self.length // self.shard)

    def warm(self) -> None:
        """Read the shard indexes, so that the first query need not. One request a shard, two with newer versions."""
        with missing_as_error(self.path):
            for shard in range(self.n_shards):
                self._how.index(shard)


class ZarrArray:
    """An array that zarr reads: of neighbouring chunks in one request, which zarr 3.1 would ask for one by one."""

    def __init__(self, store: SnapshotStore, path: str) -> None:
        self._store, self._path = store, path.strip("/")  # as zarr asks the store for it
        self._array: zarr.Array[Any] = zarr.open_array(store, path=path, mode="r", zarr_format=3)
        shard = int((self._array.shards or self._array.chunks)[0])
        self.layout = Layout(int(self._array.shape[0]), self._array.dtype, int(self._array.chunks[0]), shard)
        self._has_index = has_index_at_end(self._array.metadata.to_dict())

    def plan(self, start: int, stop: int) -> tuple[Array, list[Job]]:
        """Memory for the values `start` to `stop`, and what fills it."""
        values = np.empty(stop - start, self.layout.dtype)

        def fill() -> None:
            with missing_as_error(self._path), ExitStack() as joined:
                for shard in range(start // self.layout.shard, (stop - 1) // self.layout.shard + 1):
                    self._join(shard, start, stop, joined)
                values[:] = self._array[start:stop]

        return values, [fill]

    def _join(self, shard: int, start: int, stop: int, joined: ExitStack) -> None:
        """Have what a slice needs of a shard requested at once; of a whole shard zarr does that."""
        layout, base = self.layout, shard * self.layout.shard
        first, last = max(0, start - base) // layout.chunk, -(-min(stop - base, layout.shard) // layout.chunk)
        places = None if (last - first) * layout.chunk == layout.shard else self.index(shard)
        if places is not None:
            begin, end = bytes_of(places[first:last], self._key(shard))
            joined.enter_context(self._store.joined(self._key(shard), begin, end))

    def _key(self, shard: int) -> str:
        return f"{self._path}/c/{shard}"

    def index(self, shard: int) -> Array | None:
        """Byte offset and length of every chunk of a shard, (chunks, 2) uint64; None where it is not needed."""
        if not self._has_index or self.layout.shard == self.layout.chunk:
            return None
        first = shard * self.layout.shard
        raw = self._store.index(self._key(shard), self.layout.index_size, lambda: self._array[first : first + 1])
        return parse_index(raw)


def read_all(wanted: Sequence[tuple[ArrayReader, int, int]]) -> list[Array]:
    """Read several slices, of one array or of several, in the order asked for.

    Slices of one array that share a chunk, or need neighbouring chunks, are read as one, so that no chunk is decoded
    twice; separate ones at the same time.
    """
    runs = _plan_runs(wanted)
    values = _read_runs([(reader, start, stop) for reader, start, stop, _ in runs])
    out: list[Array] = [np.empty(0)] * len(wanted)
    for (_, first, _, members), block in zip(runs, values, strict=True):
        for i in members:
            _, start, stop = wanted[i]
            out[i] = block[start - first : stop - first]
    for i, (reader, start, stop) in enumerate(wanted):
        if stop <= start:
            out[i] = np.empty(0, reader.dtype)
    return out


def _plan_runs(wanted: Sequence[tuple[ArrayReader, int, int]]) -> list[tuple[ArrayReader, int, int, list[int]]]:
    """Group slices into runs of touching chunks: (reader, start, stop, which slices)."""
    runs: list[tuple[ArrayReader, int, int, list[int]]] = []
    order = sorted((i for i, w in enumerate(wanted) if w[2] > w[1]), key=lambda i: (id(wanted[i][0]), wanted[i][1]))
    for i in order:
        reader, start, stop = wanted[i]
        if runs:
            last_reader, first, last, members = runs[-1]
            if last_reader is reader and start // reader.chunk <= (last - 1) // reader.chunk + 1:
                runs[-1] = (reader, first, max(last, stop), [*members, i])
                continue
        runs.append((reader, start, stop, [i]))
    return runs


def read_ranges(readers: Sequence[ArrayReader], starts: Array, stops: Array) -> list[Array]:
    """Read the same ranges of several arrays: of each array all ranges, one after the other.

    As `read_all`, in fewer steps where there are many ranges.

    Parameters
    ----------
    starts, stops
        Ascending ranges that do not overlap; they may be empty.
    """
    filled = stops > starts
    starts, stops = starts[filled], stops[filled]
    if not len(starts):
        return [np.empty(0, reader.dtype) for reader in readers]
    runs, places = [], []
    for reader in readers:
        # Ranges in touching chunks make a run.
        breaks = np.flatnonzero(starts[1:] // reader.chunk > (stops[:-1] - 1) // reader.chunk + 1) + 1
        for a, b in itertools.pairwise([0, *breaks.tolist(), len(starts)]):
            runs.append((reader, int(starts[a]), int(stops[b - 1])))
            places.append((starts[a:b] - starts[a], stops[a:b] - starts[a]))
    pieces: dict[int, list[Array]] = {id(reader): [] for reader in readers}
    for (reader, _, _), block, (begins, ends) in zip(runs, _read_runs(runs), places, strict=True):
        pieces[id(reader)] += _cut(block, begins, ends)
    found = (pieces[id(reader)] for reader in readers)
    return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in found]


def _cut(block: Array, begins: Array, ends: Array) -> list[Array]:
    """Ranges of a block, as pieces to be joined: one by one, or together where they are many and short."""
    total = int((ends - begins).sum())
    if len(begins) < _MANY or total > _SHORT * len(begins):
        return [block[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
    lengths = ends - begins
    return [block[np.arange(total) + np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)]]


def _read_runs(runs: Sequence[tuple[ArrayReader, int, int]]) -> list[Array]:
    """Read slices, at the same time where they have to be waited for, or there is much to decode."""
    plans = [reader.plan(start, stop) for reader, start, stop in runs]
    jobs = [job for _, work in plans for job in work]
    if not all(reader.is_local for reader, _, _ in runs):
        at_once(_perform, [[job] for job in jobs])
    elif len(jobs) < _FEW_JOBS:
        _perform(jobs)
    else:
        # A share of the jobs for each thread, because handing one over takes as long as decoding a chunk.
        decoded = sum(-(-(stop - start) // reader.chunk) * reader.chunk for reader, start, stop in runs)
        threads = min(_REQUESTS_AT_ONCE, os.cpu_count() or 1) if decoded >= _WORTH_THREADS else 1
        at_once(_perform, [jobs[i::threads] for i in range(threads)])
    return [values for values, _ in plans]


def _perform(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job()


def at_once(work: Callable[[T], R], parts: Sequence[T]) -> list[R]:
    """What `work` makes of each of the parts, in threads where there are several."""
    if len(parts) <= 1:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(min(_REQUESTS_AT_ONCE, len(parts))) as pool:
        return list(pool.map(work, parts))
