"""Creating and filling one-dimensional arrays: codecs, chunk and shard sizes, documents."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from saestore.format import CHUNK, SHARD, document_digest, shard_digest
from saestore.sparse_rows import Array
from saestore.storage.batch import DOCUMENT, WriteBatch
from saestore.storage.shards import Layout, crc, tail_of
from saestore.storage.threads import at_once, n_threads
from saestore.table_info import MOST_DIGESTS, ArrayInfo

Written = tuple[tuple[str, ...], int]  # the digests of consecutive shards, and their bytes

# zarr 3.1 says so at every opening of an array; the format document says it once. Not around each call, because
# `warnings.catch_warnings` is not safe in the threads that read.
warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3")


# How neighbouring values relate, as pcodec is told. Left to find out by itself ("auto") it compresses no better, takes
# two to three times as long, and never tries "lookback", which finds what came before, as LZ77 does.
Delta = Literal["auto", "none", "consecutive", "lookback"]
_PCODEC_DELTA: dict[Delta, dict[str, Any]] = {
    "auto": {},
    # Of order 0, which is none: what numcodecs calls "none" was renamed since, and a store must outlive that.
    "none": {"delta_spec": "try_consecutive", "delta_encoding_order": 0},
    "consecutive": {"delta_spec": "try_consecutive", "delta_encoding_order": 1},
    "lookback": {"delta_spec": "try_lookback"},
}
# A higher level decodes slower. It takes 1 % off activations that descend, as those of lists; off the rest much less.
_PCODEC_LEVEL, _DESCENDING_LEVEL = 6, 7
_QUICK_LEVEL = 0
_ZSTD_LEVEL = 5
_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
_ENCODED_AT_ONCE = 4  # this part of a shard
_CHUNKS_IN_THREADS = 16  # starting threads for fewer takes longer than it gains


@dataclass(frozen=True)
class NewArray:
    """An array that is to be written: its length, dtype, codecs, chunks and shards."""

    length: int
    dtype: np.dtype[Any]
    dim: str  # name of its dimension
    codec: str
    sharded: bool = True  # False makes one chunk of the whole array, for what is always read whole
    finer: int = 1  # how many times smaller chunks are than others
    # How neighbouring values relate: ``consecutive`` where they mostly ascend or descend, ``none`` where they do not,
    # ``lookback`` where runs of them come again.
    delta: Delta = "auto"
    quick: bool = False  # with pcodec: in a seventh of the time, and a quarter larger, for what is merged before long
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """Its chunks and shards, as they are written now."""
        return self.layout_in(**chunk_sizes())

    def layout_in(self, chunk: int, shard: int) -> Layout:
        """Its chunks and shards where these are the most values of either."""
        what = self.length, self.dtype, self.codec
        return Layout.of(*what, sharded=self.sharded, finer=self.finer, chunk=chunk, shard=shard)

    @property
    def dtype_name(self) -> str:
        """Its dtype as Zarr names it."""
        return "string" if self.dtype.kind == "T" else self.dtype.name

    def document(self) -> bytes:
        """The ``zarr.json``: what zarr writes for the same array."""
        codecs, _ = _chain(self.dtype, self.codec, self.delta, quick=self.quick)
        if self.sharded:
            inner = {"chunk_shape": [self.layout.chunk], "codecs": codecs, "index_codecs": _INDEX_CODECS}
            codecs = [{"name": "sharding_indexed", "configuration": {**inner, "index_location": "end"}}]
        fill: Any = "" if self.dtype.kind == "T" else self.dtype.type(0).item()
        document = {
            "shape": [self.length],
            "data_type": self.dtype_name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.layout.shard]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": fill,
            "codecs": codecs,
            "attributes": dict(self.attributes),
            "dimension_names": [self.dim],
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }
        return json.dumps(document).encode()

    def encode(self, values: Array) -> list[bytes]:
        """The chunks of these values, each with its checksum; the last is filled up with 0."""
        _, encode = _chain(self.dtype, self.codec, self.delta, quick=self.quick)
        size = self.layout.chunk

        def encoded(first: int) -> bytes:
            chunk = values[first : first + size].astype(self.dtype, copy=False)
            if len(chunk) < size:
                chunk = np.concatenate([chunk, np.zeros(size - len(chunk), self.dtype)])
            body = bytes(encode(np.ascontiguousarray(chunk)))
            return body + crc(body)

        starts = range(0, len(values), size)
        # A share of the chunks for each thread: handing a chunk over takes as long as encoding a part of it.
        n = n_threads() if len(starts) > _CHUNKS_IN_THREADS else 1
        shares = at_once(lambda i: [encoded(first) for first in starts[i::n]], range(n))
        return [shares[i % n][i // n] for i in range(len(starts))]

    def shard_of(self, chunks: list[bytes]) -> tuple[bytes, str]:
        """The bytes of a shard, and its digest; the chunks' checksums come before the index that Zarr knows."""
        if not self.sharded:
            return chunks[0], shard_digest(chunks[0])
        tail = tail_of(chunks, self.layout.per_shard)
        return b"".join([*chunks, tail]), shard_digest(tail)


def _chain(
    dtype: np.dtype[Any], codec: str, delta: Delta, *, quick: bool = False
) -> tuple[list[dict[str, Any]], Callable[[Array], Any]]:
    """The codecs of a chunk as a document names them, and what encodes one, the checksum at its end excepted.

    Every chunk ends in a CRC-32C, so that no flipped bit passes unnoticed. pcodec knows no bool and no text.
    """
    import numcodecs

    crc: dict[str, Any] = {"name": "crc32c"}
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = numcodecs.Zstd(level=_ZSTD_LEVEL)
    by_zstd = {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": False}}
    if dtype.kind == "T":
        text = numcodecs.VLenUTF8()
        codecs = [{"name": "vlen-utf8", "configuration": {}}, by_zstd, crc]
        return codecs, lambda values: zstd.encode(text.encode(values.astype(object)))
    if codec == "pcodec" and dtype.itemsize > 1:
        usual = _DESCENDING_LEVEL if delta == "consecutive" and dtype.kind == "f" else _PCODEC_LEVEL
        level = _QUICK_LEVEL if quick else usual
        settings = {"level": level, **_PCODEC_DELTA[delta]}
        return [{"name": "numcodecs.pcodec", "configuration": settings}, crc], _pcodec(level, delta)
    if codec == "blosc" and dtype.itemsize > 1:
        blosc = {"typesize": dtype.itemsize, "cname": "zstd", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0}
        encode = numcodecs.Blosc("zstd", 5, numcodecs.Blosc.BITSHUFFLE).encode
        return [little, {"name": "blosc", "configuration": blosc}, crc], encode
    return [{"name": "bytes"} if dtype.itemsize == 1 else little, by_zstd, crc], zstd.encode


def _pcodec(level: int, delta: Delta) -> Callable[[Array], bytes]:
    """As numcodecs encodes a chunk, without making the same configuration for every one."""
    from pcodec import ChunkConfig, DeltaSpec, standalone

    kinds = {"auto": DeltaSpec.auto, "lookback": DeltaSpec.try_lookback}
    order = _PCODEC_DELTA[delta].get("delta_encoding_order")
    configuration = ChunkConfig(level, delta_spec=kinds[delta]() if order is None else DeltaSpec.try_consecutive(order))
    return lambda values: standalone.simple_compress(values, configuration)


def packed_bytes(values: Array, delta: Delta, finer: int = 1) -> int:
    """Size of values that pcodec encodes in chunks this many times finer, in bytes."""
    _, encode = _chain(values.dtype, "pcodec", delta)
    chunk = max(1, CHUNK // finer)
    return sum(len(encode(values[first : first + chunk])) for first in range(0, len(values), chunk))


class ArrayWriter:
    """Fills an array, whose document is there already, from pieces of any length, writing whole shards only.

    Memory: two quarters of a shard, a million values each, and a shard as it is stored.

    `first`, `stop`: Fill only these values, from the beginning of a shard to the end of one.
    """

    def __init__(self, batch: WriteBatch, path: str, array: NewArray, first: int = 0, stop: int | None = None) -> None:
        self._batch, self._path, self._array = batch, path, array
        self._pieces: list[Array] = []
        self._waiting = 0
        self._chunks: list[bytes] = []
        layout = array.layout
        self._per_shard, self._step = layout.per_shard, max(1, layout.per_shard // _ENCODED_AT_ONCE) * layout.chunk
        self._first = first // layout.shard
        self._shards: list[str] = []
        self._written, self._stop = first, array.length if stop is None else stop
        self._n_bytes = 0

    def append(self, piece: Array) -> None:
        """Add the next values."""
        self._pieces.append(piece)
        self._waiting += len(piece)
        if self._waiting >= self._step:
            self._encode(self._waiting // self._step * self._step)

    def finish(self) -> Written:
        """Write what is left; the pieces must add up to what shall be filled."""
        self._encode(self._waiting)
        if self._chunks:
            self._write_shard()
        if self._written != self._stop:
            raise RuntimeError(f"{self._path}: values up to {self._written} of {self._stop} were written")
        return tuple(self._shards), self._n_bytes

    def close(self) -> ArrayInfo:
        """Write what is left; returns what a set's attributes will hold."""
        info, array = described(self._array, self.finish())
        if array is not self._array:
            self._batch.put(f"{self._path}/{DOCUMENT}", array.document())
        return info

    def _encode(self, count: int) -> None:
        if not count:
            return
        values = self._pieces[0] if len(self._pieces) == 1 else np.concatenate(self._pieces)
        for first in range(0, count, self._step):
            self._chunks += self._array.encode(values[first : min(first + self._step, count)])
            while len(self._chunks) >= self._per_shard:
                self._write_shard()
        self._written += count
        self._waiting -= count
        self._pieces = [values[count:].copy()] if self._waiting else []  # a view would keep what is written

    def _write_shard(self) -> None:
        content, digest = self._array.shard_of(self._chunks[: self._per_shard])
        self._chunks = self._chunks[self._per_shard :]
        self._batch.put(f"{self._path}/c/{self._first + len(self._shards)}", content)
        self._n_bytes += len(content)
        self._shards.append(digest)


def begin_array(batch: WriteBatch, path: str, array: NewArray) -> ArrayWriter:
    """Write the document of an array, which icechunk wants before its shards, and return what fills it."""
    batch.put(f"{path}/{DOCUMENT}", array.document())
    return ArrayWriter(batch, path, array)


def array_info(array: NewArray, written: Written) -> ArrayInfo:
    """What is committed of an array that is written."""
    document, layout, (shards, n_bytes) = array.document(), array.layout, written
    shard = layout.shard if layout.sharded else None
    sizes = layout.length, array.dtype_name, layout.chunk, shard, n_bytes + len(document)
    return ArrayInfo(*sizes, document_digest(document), shards)


def described(array: NewArray, written: Written) -> tuple[ArrayInfo, NewArray]:
    """What a set's attributes hold of an array, and the array with its last document.

    The digests of many shards are in that document, so that the attributes do not grow with the number of samples.
    """
    if len(written[0]) <= MOST_DIGESTS:
        return array_info(array, written), array
    array = replace(array, attributes={**array.attributes, "shards": written[0]})
    return replace(array_info(array, written), shards=None), array


def write_array(batch: WriteBatch, path: str, values: Array, dim: str, codec: str, **options: Any) -> ArrayInfo:
    """Write an array; `options` are attributes of `NewArray`. Memory: one shard."""
    writer = begin_array(batch, path, NewArray(len(values), values.dtype, dim, codec, **options))
    writer.append(values)
    return writer.close()


def chunk_sizes() -> dict[str, int]:
    """Most values of a chunk and of a shard that is written now."""
    return {"chunk": CHUNK, "shard": SHARD}
