"""Reading one segment by slices of its two matrices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saestore.errors import CorruptStoreError
from saestore.format import BY_FEATURE, BY_SAMPLE, SEGMENTS, SegmentInfo, SetAttributes, document_digest
from saestore.kernels import runs_of
from saestore.segment.arrays import arrays_of
from saestore.sparse_rows import Array, SparseRows, pointers
from saestore.stats import Moments
from saestore.storage import DOCUMENT, ArrayReader, Digests, SnapshotStore, hold_small, prefetch, read_all, read_many

# A first question reads the tails of the lists of segments up to this many shards (268 million non-zeros); of larger
# ones those that it needs.
_WARM_SHARDS = 64
_SUMS_AT_ONCE = 1 << 22  # features whose sums are read at the same time, of 64 segments of 65,536: 40 bytes each
_LISTS = f"{BY_FEATURE}/indices", f"{BY_FEATURE}/data"
_ROWS = tuple(f"{BY_SAMPLE}/{name}" for name in ("indptr", "indices", "data"))


class Segment:
    """A committed segment of the set at `path`, as `info` describes it. Nothing is read before it is asked for.

    Sample numbers here count within the set, not within the segment.
    """

    def __init__(self, store: SnapshotStore, path: str, info: SegmentInfo, attributes: SetAttributes) -> None:
        self.info, self.store = info, store
        self.path = f"{path}/{SEGMENTS}/{info.name}".strip("/")
        self.set_attributes = attributes
        self.arrays = arrays_of(info, attributes)
        self.n_features = attributes.n_features
        self._digests = Digests(f"{self.path}/{DOCUMENT}", self._shards)
        self._readers: dict[str, ArrayReader] = {}
        self._feature_ptr: Array | None = None

    def reader(self, name: str) -> ArrayReader:
        """Slices of one array of the segment, such as ``by_sample/data``; opened once."""
        held = self._readers.get(name)
        if held is None:
            layout = self.arrays[name].layout_in(self.info.chunk, self.info.shard)
            held = self._readers[name] = ArrayReader(self.store, f"{self.path}/{name}", layout, self._digests, name)
        return held

    def parse(self, document: bytes) -> dict[str, Any]:
        """The attributes of the segment's group, which must be those that were committed."""
        if document_digest(document) != self.info.digest:
            raise CorruptStoreError(
                f"{self.path}: its zarr.json does not agree with its digest; it was damaged or changed by hand. Run "
                "`saestore verify`."
            )
        result: dict[str, Any] = json.loads(document)["attributes"]
        return result

    def _shards(self, document: bytes) -> Mapping[str, Sequence[str]]:
        shards = {str(name): entry["shards"] for name, entry in self.parse(document)["arrays"].items()}
        for name, array in self.arrays.items():
            layout = array.layout_in(self.info.chunk, self.info.shard)
            if len(shards.get(name, ())) != layout.n_shards:  # before anything of that size is allocated
                raise CorruptStoreError(f"{self.path}/{name} has {layout.length} values, and not as many shards.")
        return shards

    @property
    def is_local(self) -> bool:
        """True where the segment is stored in a local folder, where there is nothing to wait for."""
        return self.store.folder is not None

    @property
    def feature_ptr(self) -> Array:
        """Pointers into the lists of the features, int64 (n_features + 1,); read once."""
        if self._feature_ptr is None:
            reader = self.reader(f"{BY_FEATURE}/indptr")
            pointers = reader.read(0, reader.length)
            if pointers[0] != 0 or pointers[-1] != self.info.nnz or (np.diff(pointers) < 0).any():
                raise CorruptStoreError(f"{reader.path} does not ascend from 0 to {self.info.nnz}.")
            self._feature_ptr = pointers
        return self._feature_ptr

    @property
    def knows_lists(self) -> bool:
        """Whether the pointers of the features were read."""
        return self._feature_ptr is not None

    @property
    def lists(self) -> tuple[ArrayReader, ArrayReader]:
        """Readers of the samples and of the activations of the feature lists."""
        return self.reader(_LISTS[0]), self.reader(_LISTS[1])

    def read_entries(self, slices: list[tuple[int, int]]) -> list[tuple[Array, Array]]:
        """Samples (int64) and activations of slices of the concatenated feature lists."""
        return read_entries([(self, a, b) for a, b in slices])

    def read_rows(self, starts: Array, stops: Array) -> SparseRows:
        """The rows of ascending ranges of samples, with gaps between them."""
        return read_rows([(self, starts, stops)])[0]

    def row_pointers(self, start: int, stop: int) -> Array:
        """Pointers of the samples `start` to `stop`, (stop - start + 1,)."""
        return self.reader(f"{BY_SAMPLE}/indptr").read(start - self.info.start, stop - self.info.start + 1)


def read_entries(slices: Sequence[tuple[Segment, int, int]]) -> list[tuple[Array, Array]]:
    """Samples (int64) and activations of slices of several segments' feature lists, all planned and read at once."""
    readers = [segment.lists for segment, _, _ in slices]
    wanted = [(ids, a, b) for (ids, _), (_, a, b) in zip(readers, slices, strict=True)]
    wanted += [(data, a, b) for (_, data), (_, a, b) in zip(readers, slices, strict=True)]
    blocks, half = read_all(wanted), len(slices)
    return [
        (rows + np.int64(segment.info.start), data)
        for (segment, _, _), rows, data in zip(slices, blocks[:half], blocks[half:], strict=True)
    ]


def read_rows(parts: Sequence[tuple[Segment, Array, Array]], *, values: bool = True) -> list[SparseRows]:
    """Rows of several segments, of each the ascending ranges of samples, all planned and read at once.

    Without `values` activations are not read: each is True.
    """
    open_rows([segment for segment, _, _ in parts])
    spans = [(s.reader(_ROWS[0]), a - s.info.start, b - s.info.start + 1) for s, a, b in parts]
    found, wanted, counts = read_many(spans), [], []
    for (segment, starts, stops), pointers_of_rows in zip(parts, found, strict=True):
        lengths = stops - starts
        ends = np.cumsum(lengths + 1)
        counts.append(np.delete(np.diff(pointers_of_rows), ends[:-1] - 1))  # what is between two ranges is not theirs
        first, last = pointers_of_rows[ends - lengths - 1], pointers_of_rows[ends - 1]
        if (counts[-1] < 0).any() or (last > segment.info.nnz).any() or (first < 0).any():
            raise CorruptStoreError(f"{segment.path}/{_ROWS[0]} does not ascend to {segment.info.nnz}.")
        wanted += [(segment.reader(name), first, last) for name in (_ROWS[1:] if values else _ROWS[1:2])]
    read = read_many(wanted)
    ids = read[::2] if values else read
    data = read[1::2] if values else [np.ones(len(each), bool) for each in ids]
    return [SparseRows(pointers(count), *entries) for count, *entries in zip(counts, ids, data, strict=True)]


def read_moments(segments: Sequence[Segment], features: Array | None = None) -> Moments:
    """The stored sums of one segment or of several together, of all features or of ascending distinct ones.

    Memory: the sums of 4 million features, 168 MB, or of one segment.
    """
    total: Moments | None = None
    names = Moments.names()
    step = max(1, _SUMS_AT_ONCE // segments[0].n_features) if segments else 1
    for first in range(0, len(segments), step):
        some = segments[first : first + step]
        arrays = read_of_features(some, names, features)
        for i, segment in enumerate(some):
            moments = Moments(segment.info.n_rows, *arrays[i * len(names) : (i + 1) * len(names)])
            total = moments if total is None else total + moments
    if total is None:
        raise ValueError("there is no segment to read the sums of")
    return total


def read_of_features(segments: Sequence[Segment], names: Sequence[str], features: Array | None = None) -> list[Array]:
    """Per-feature arrays, of all features or of ascending distinct ones: all of one segment, then of the next."""
    readers = [segment.reader(name) for segment in segments for name in names]
    whole = features is None or all(reader.length <= reader.chunk for reader in readers)  # then in one step
    if whole or features is None:
        values = read_all([(reader, 0, reader.length) for reader in readers])
        return values if features is None else [each[features] for each in values]
    return read_many([(reader, *runs_of(features)) for reader in readers])


def active_features(segments: Sequence[Segment], n_features: int) -> Array:
    """Which features are active in a sample of one of the segments, bool (n_features,)."""
    active = np.zeros(n_features, bool)
    for counts in read_of_features(segments, ["n_active"]):
        active |= counts > 0
    return active


def open_lists(
    segments: Sequence[Segment], wholes: Sequence[ArrayReader] = (), tails: Sequence[ArrayReader] = ()
) -> None:
    """Read what every question about features needs, and further arrays, in one step; in a local folder nothing."""
    lacking = [s for s in segments if not s.knows_lists and not s.is_local]
    if not lacking and not wholes and not tails:
        return
    lists = _few_shards([s.reader(name) for s in lacking for name in _LISTS])
    prefetch([*(s.reader(f"{BY_FEATURE}/indptr") for s in lacking), *wholes], [*lists, *tails])
    for segment in lacking:
        _ = segment.feature_ptr


def open_rows(segments: Sequence[Segment]) -> None:
    """Read what questions about samples need to know of segments, in one step: where their rows begin."""
    hold_small([s.reader(_ROWS[0]) for s in segments])
    readers = [s.reader(name) for s in segments if not s.is_local for name in _ROWS]
    prefetch([reader for reader in readers[:: len(_ROWS)] if reader.is_small], _few_shards(readers))


def _few_shards(readers: Sequence[ArrayReader]) -> list[ArrayReader]:
    return [reader for reader in readers if reader.layout.n_shards <= _WARM_SHARDS]
