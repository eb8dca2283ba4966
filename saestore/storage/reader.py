"""Reading slices of immutable one-dimensional arrays, in as few steps and requests as the bytes allow.

Where an array's chunks are follows from the tails of its shards, which are read once and held against the digests that
the committed attributes name; so is every chunk against its tail. A question first plans its reads. On a local folder
each chunk is then one ``pread``; elsewhere all requests of a step are made at once. zarr reads no array here: its
general machinery takes 1.2 ms for a chunk that the disk and the codec hand over in 0.05 ms. See
``docs/decisions/001-local-reads.md`` and ``docs/decisions/030-held-against-the-parent.md``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from saestore.errors import CorruptStoreError
from saestore.format import shard_digest
from saestore.progress import check_deadline
from saestore.sparse_rows import Array, pointers
from saestore.storage import durable
from saestore.storage.digests import Digests
from saestore.storage.open import missing_as_error
from saestore.storage.places import Request
from saestore.storage.shards import (
    EMPTY,
    Layout,
    Tail,
    check_chunk,
    checksum_of,
    chunks_of,
    decoder,
    decoder_of_many,
    parse_tail,
)
from saestore.storage.snapshot import OneFile, SnapshotStore
from saestore.storage.threads import at_once, n_threads
from saestore.table_info import ArrayInfo

# Below so many values starting threads takes longer than it gains.
_WORTH_THREADS = 1 << 20
_CHUNKS_A_PIECE = 32  # a megabyte or two of what is read at once
_GAP = 1 << 15  # bytes between two ranges that one request brings rather than a second: 0.5 ms at 64 MB/s
_SMALL = 1 << 18  # values of an array that is kept once it was read whole: two megabytes
# From so many ranges on, of so many values or fewer, one index of all their values is quicker than slicing each.
_MANY, _SHORT = 64, 256


class ArrayReader:
    """Slices of one immutable array, at `path` in a store, whose `digests` has the digests of its shards under `name`.

    Memory: the answer, the chunks that it touches, and 20 bytes for each chunk of a shard that was ever touched.
    """

    def __init__(self, store: SnapshotStore, path: str, layout: Layout, digests: Digests, name: str = "") -> None:
        self.path, self.layout, self.store = path.strip("/"), layout, store
        self.length, self.chunk, self.shard, self.dtype = layout.length, layout.chunk, layout.shard, layout.dtype
        self.digests, self._name = digests, name
        self._per_shard = layout.per_shard
        self._decode, self._decode_many = decoder(layout), decoder_of_many(layout)
        # A plain string: joining paths costs as much as reading does.
        self._folder = None if store.folder is None else f"{store.folder}/{self.path}/c/"
        self._tails: dict[int, Tail] = {}
        self._held: Array | None = None

    @classmethod
    def described(cls, store: SnapshotStore, path: str, info: ArrayInfo, codec: str) -> ArrayReader:
        """Of an array that the set's attributes describe."""
        return cls(store, path, Layout.described(info, codec), Digests.described(path, info))

    @property
    def is_local(self) -> bool:
        """True in a local folder, where there is nothing to wait for."""
        return self._folder is not None

    @property
    def is_small(self) -> bool:
        """Whether the array is kept once it was read whole by `prefetch`."""
        return self.length <= _SMALL

    @property
    def is_held(self) -> bool:
        """Whether its values are kept."""
        return self._held is not None

    def read(self, start: int, stop: int) -> Array:
        """Values ``start`` to ``stop``."""
        return _read_runs([(self, start, stop)])[0]

    def hold(self, values: Array) -> None:
        """Keep all values for the next read, or for every one where they are few."""
        values.flags.writeable = False
        self._held = values

    def key(self, shard: int) -> str:
        """Where a shard is in the store."""
        return f"{self.path}/c/{shard}"

    def knows(self, shard: int) -> bool:
        """Whether it is known where the chunks of a shard are."""
        return shard in self._tails

    def learn(self, shard: int, raw: bytes) -> None:
        """Take the tail of a shard, which must be the one that was committed."""
        with missing_as_error(self.path):
            self._tails[shard] = parse_tail(raw, self.layout, self.digests.of(self._name, shard))

    def fill_locally(self, pieces: Iterable[Piece], file: OneFile) -> None:
        """Read pieces from a local folder."""
        decode, pread, shard, path = self._decode, file.pread, -1, ""
        with missing_as_error(self.path):
            for piece in pieces:
                if piece.shard != shard:
                    shard, path = piece.shard, f"{self._folder}{piece.shard}"
                    if not self.layout.sharded:
                        self.fill_whole(piece, durable.read_file(path))
                        continue
                    tail = self._tails.get(shard) or self._learn_locally(shard, path, file)
                    places, checksums = tail.places, tail.checksums
                if piece.n_chunks > 1:
                    begin, end = self.bytes_of(piece)
                    self.fill(piece, pread(path, begin, end - begin), begin)
                    continue
                # The head of a list or a few rows, mostly: here microseconds are the answer's time.
                offset, size = places.item(piece.first, 0), places.item(piece.first, 1)
                if size == EMPTY:
                    raise CorruptStoreError(f"{path} lacks a chunk.")
                decode(check_chunk(pread(path, offset, size), checksums.item(piece.first)), piece.out)

    def _learn_locally(self, shard: int, path: str, file: OneFile) -> Tail:
        self.digests.fetch(self.store)
        size = self.layout.tail_size
        self.learn(shard, file.pread(path, -size, size))
        return self._tails[shard]

    def bytes_of(self, piece: Piece) -> tuple[int, int]:
        """Where the bytes of a piece begin and end in its shard."""
        places = self._tails[piece.shard].places[piece.first : piece.first + piece.n_chunks].tolist()
        if any(size == EMPTY for _, size in places):
            raise CorruptStoreError(f"{self.key(piece.shard)} lacks a chunk.")
        return min(offset for offset, _ in places), max(offset + size for offset, size in places)

    def fill(self, piece: Piece, block: bytes, begin: int) -> None:
        """Decode a piece from its bytes, which begin at `begin` in the shard."""
        tail = self._tails[piece.shard]
        chosen = slice(piece.first, piece.first + piece.n_chunks)
        with missing_as_error(self.path):
            parts = zip(tail.places[chosen].tolist(), tail.checksums[chosen].tolist(), strict=True)
            cuts = ((offset - begin, offset - begin + length, checksum) for (offset, length), checksum in parts)
            self._decode_many(chunks_of(block, cuts), piece.out)

    def fill_whole(self, piece: Piece, raw: bytes) -> None:
        """Decode the one chunk of an array without shards."""
        with missing_as_error(self.path):
            self.digests.fetch(self.store)
            if shard_digest(raw) != self.digests.of(self._name, 0):
                raise ValueError("its chunk is not the one that was committed")
            self._decode(check_chunk(raw, checksum_of(raw)), piece.out)

    def plan(self, start: int, stop: int) -> tuple[Array, list[Piece]]:
        """Memory for the values `start` to `stop`, and the pieces that fill it, in any order.

        Of the last chunk no more is decoded than is needed, where its codec can.
        """
        if stop <= start:
            return np.empty(0, self.dtype), []
        if self._held is not None:
            held, self._held = self._held, self._held if self.is_small else None
            return held[start:stop], []
        chunk = self.chunk
        first, before = start // chunk, (stop - 1) // chunk * chunk
        values = np.empty(before - first * chunk + self.layout.decoded(stop - before), self.dtype)
        return values[start - first * chunk : stop - first * chunk], self._pieces(values, first, before // chunk + 1)

    def plan_ranges(self, starts: Array, stops: Array) -> tuple[Array, list[Piece], Array]:
        """Memory for ascending ranges with a value or more, the pieces that fill it, and where each range begins in it.

        Ranges that share a chunk make a run, so that none is decoded twice.
        """
        if self._held is not None:
            return *self.plan(0, self.length), starts
        if len(starts) == 1:
            return *self.plan(int(starts[0]), int(stops[0])), starts - starts
        chunk = self.chunk
        firsts, lasts = starts // chunk, (stops - 1) // chunk + 1
        heads = np.flatnonzero(np.append(True, firsts[1:] >= lasts[:-1]))
        ends = np.append(heads[1:], len(starts))
        firsts, before, lasts = firsts[heads], (lasts[ends - 1] - 1) * chunk, lasts[ends - 1]
        places = pointers(before - firsts * chunk + self.layout.decoded(stops[ends - 1] - before))
        values, pieces, cuts = np.empty(places[-1], self.dtype), list[Piece](), itertools.pairwise(places.tolist())
        for first, last, (a, b) in zip(firsts.tolist(), lasts.tolist(), cuts, strict=True):
            pieces += self._pieces(values[a:b], first, last)
        return values, pieces, starts + np.repeat(places[:-1] - firsts * chunk, ends - heads)

    def _pieces(self, values: Array, first: int, last: int) -> list[Piece]:
        """The pieces that fill `values` from the chunks `first` to `last`."""
        per_shard, chunk = self._per_shard, self.chunk
        if last - first == 1:
            return [Piece(self, first // per_shard, first % per_shard, 1, values)]
        pieces, at = list[Piece](), first
        while at < last:
            end = min(last, (at // per_shard + 1) * per_shard, at + _CHUNKS_A_PIECE)
            part = values[(at - first) * chunk : (end - first) * chunk]
            pieces.append(Piece(self, at // per_shard, at % per_shard, end - at, part))
            at = end
        return pieces


class Piece(NamedTuple):
    """Neighbouring chunks of one shard, and the memory for their values."""

    reader: ArrayReader
    shard: int
    first: int
    n_chunks: int
    out: Array

    @property
    def key(self) -> str:
        """Where its shard is in the store."""
        return self.reader.key(self.shard)


def read_all(wanted: Sequence[tuple[ArrayReader, int, int]]) -> list[Array]:
    """Read several slices, of one array or of several, in the order asked for.

    Slices of one array that share a chunk, or need neighbouring chunks, are read as one, so that no chunk is decoded
    twice; separate ones at the same time.
    """
    if len({id(reader) for reader, _, _ in wanted}) == len(wanted):  # as of a top 20, where planning takes a tenth
        return _read_runs(wanted)
    runs = _plan_runs(wanted)
    values = _read_runs([(reader, start, stop) for reader, start, stop, _ in runs])
    out: list[Array] = [np.empty(0, reader.dtype) for reader, _, _ in wanted]
    for (_, first, _, members), block in zip(runs, values, strict=True):
        for i in members:
            _, start, stop = wanted[i]
            out[i] = block[start - first : stop - first]
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


def read_many(wanted: Sequence[tuple[ArrayReader, Array, Array]]) -> list[Array]:
    """Read ranges of several arrays, all at once: of each array all ranges, one after the other.

    As `read_all`, in fewer steps where there are many ranges.

    `wanted`: Of each array the starts and stops of ascending ranges that do not overlap; they may be empty.
    """
    plans = []
    for reader, starts, stops in wanted:
        filled = stops > starts
        starts, stops = (starts, stops) if filled.all() else (starts[filled], stops[filled])  # noqa: PLW2901
        empty = np.empty(0, reader.dtype), list[Piece](), starts
        plans.append((*(reader.plan_ranges(starts, stops) if len(starts) else empty), stops - starts))
    _fill([piece for _, pieces, *_ in plans for piece in pieces])
    return [_cut(block, begins, lengths) for block, _, begins, lengths in plans]


def _cut(block: Array, begins: Array, lengths: Array) -> Array:
    """Ranges of a block, one after the other: by slices, or by one index where they are many and short."""
    ends = begins + lengths
    if len(begins) and (begins[1:] == ends[:-1]).all():  # one range, or blocks of whole chunks
        return block[begins[0] : ends[-1]]
    if len(begins) >= _MANY and (total := int(lengths.sum())) <= _SHORT * len(begins):
        return np.asarray(block[np.arange(total) + np.repeat(begins - pointers(lengths)[:-1], lengths)])
    return np.concatenate([block[:0], *(block[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True))])


def hold_small(readers: Sequence[ArrayReader]) -> None:
    """Read small arrays of a local folder whole, once, and keep them."""
    fresh = [reader for reader in readers if reader.is_local and reader.is_small and not reader.is_held]
    for reader, values in zip(fresh, read_all([(reader, 0, reader.length) for reader in fresh]), strict=True):
        reader.hold(values)


def prefetch(wholes: Iterable[ArrayReader], tails: Iterable[ArrayReader] = ()) -> None:
    """Read whole arrays, which the next read of each finds, and the tails of others, all in one step.

    Does nothing in a local folder, where a step costs no wait.
    """
    readers = [reader for reader in wholes if not reader.is_local]
    plans = [reader.plan(0, reader.length) for reader in readers]
    remote = [r for r in tails if not r.is_local and r.layout.sharded]
    known = [(r, shard) for r in remote for shard in range(r.layout.n_shards) if not r.knows(shard)]
    _fetch_and_fill([piece for _, part in plans for piece in part], known)
    for reader, (values, _) in zip(readers, plans, strict=True):
        reader.hold(values)


def _read_runs(runs: Sequence[tuple[ArrayReader, int, int]]) -> list[Array]:
    """Read slices that share no chunk, all at once."""
    plans = [reader.plan(start, stop) for reader, start, stop in runs]
    _fill([piece for _, part in plans for piece in part])
    return [values for values, _ in plans]


def _fill(pieces: Sequence[Piece]) -> None:
    """Read pieces, all at once where they have to be waited for, in threads where there is much to decode."""
    check_deadline()
    if pieces and not pieces[0].reader.is_local:
        _fetch_and_fill(pieces)
    else:
        _in_threads(_fill_locally, pieces)


def _fill_locally(pieces: Sequence[Piece]) -> None:
    with OneFile() as file:
        for reader, own in itertools.groupby(pieces, lambda piece: piece.reader):
            reader.fill_locally(own, file)


def _in_threads(work: Callable[[Sequence[Piece]], None], pieces: Sequence[Piece]) -> None:
    # A share of the pieces for each thread, because handing one over takes as long as decoding a chunk.
    if len(pieces) > 1 and sum(len(p.out) for p in pieces) >= _WORTH_THREADS:
        n = n_threads()
        at_once(work, [pieces[i::n] for i in range(n)])
    else:
        work(pieces)


def _fetch_and_fill(pieces: Sequence[Piece], known: Sequence[tuple[ArrayReader, int]] = ()) -> None:
    """Fill pieces in two steps of requests: where their chunks are, as far as that is not known; and the chunks.

    Of shards that are wanted whole the first step brings everything.
    """
    readers = {id(r): r for r in (*(p.reader for p in pieces), *(r for r, _ in known))}
    if not readers:
        return
    store = next(iter(readers.values())).store
    wanted = {(id(reader), number): 0 for reader, number in known}  # chunks by shard
    for piece in pieces:
        shard = id(piece.reader), piece.shard
        wanted[shard] = wanted.get(shard, 0) + piece.n_chunks
    first: dict[tuple[int, int], Request] = {}
    for (of, number), count in wanted.items():
        reader = readers[of]
        if not reader.layout.sharded or (count == reader.layout.n_chunks(number) and not reader.knows(number)):
            first[of, number] = reader.key(number), None
        elif not reader.knows(number):
            first[of, number] = reader.key(number), (-reader.layout.tail_size, None)
    unknown = {r.digests.key: r.digests for r in readers.values() if not r.digests.is_known}
    found = store.fetch([*first.values(), *((key, None) for key in unknown)])
    for digests, document in zip(unknown.values(), found[len(first) :], strict=True):
        digests.load(document)
    wholes: dict[tuple[int, int], bytes] = {}
    for (shard, (_, which)), raw in zip(first.items(), found[: len(first)], strict=True):
        reader = readers[shard[0]]
        if which is None:
            wholes[shard] = raw
        if reader.layout.sharded:
            reader.learn(shard[1], raw[-reader.layout.tail_size :])
    joined = _joined([piece for piece in pieces if (id(piece.reader), piece.shard) not in wholes])
    blocks = store.fetch([(members[0].key, span) for span, members in joined])
    chunks = {id(p): (block, span[0]) for (span, members), block in zip(joined, blocks, strict=True) for p in members}

    def fill(share: Sequence[Piece]) -> None:
        for piece in share:
            if id(piece) in chunks:
                piece.reader.fill(piece, *chunks[id(piece)])
            elif piece.reader.layout.sharded:
                piece.reader.fill(piece, wholes[id(piece.reader), piece.shard], 0)
            else:
                piece.reader.fill_whole(piece, wholes[id(piece.reader), piece.shard])

    _in_threads(fill, pieces)


def _joined(pieces: Sequence[Piece]) -> list[tuple[tuple[int, int], list[Piece]]]:
    """Pieces whose bytes touch or nearly do, and where these begin and end."""
    joined: list[tuple[tuple[int, int], list[Piece]]] = []
    for piece in sorted(pieces, key=lambda p: (id(p.reader), p.shard, p.first)):
        begin, end = piece.reader.bytes_of(piece)
        if joined:
            (first, last), members = joined[-1]
            if members[0].reader is piece.reader and members[0].shard == piece.shard and first <= begin <= last + _GAP:
                joined[-1] = (first, max(last, end)), [*members, piece]
                continue
        joined.append(((begin, end), [piece]))
    return joined
