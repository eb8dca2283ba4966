"""Creating and filling one-dimensional arrays: codecs, chunk and shard sizes, documents."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import google_crc32c
import numcodecs
import numcodecs.pcodec
import numpy as np
import zarr

from saestore.format import CHUNK, SHARD
from saestore.storage.batch import DOCUMENT, WriteBatch
from saestore.storage.reader import at_once
from saestore.storage.shards import EMPTY

Array = np.ndarray[Any, Any]

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
_PCODEC_LEVEL = 8
_ZSTD_LEVEL = 5
_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
_CHUNKS_IN_THREADS = 16  # starting threads for fewer takes longer than it gains


@dataclass(frozen=True)
class NewArray:
    """An array that is to be written: its length, dtype, codecs, chunks and shards.

    Attributes
    ----------
    dim
        Name of its dimension.
    sharded
        False makes one chunk of the whole array, for what is always read whole.
    finer
        How many times smaller chunks are than others.
    delta
        How neighbouring values relate: ``consecutive`` where they mostly ascend or descend, ``none`` where they do not,
        ``lookback`` where runs of them come again.
    """

    length: int
    dtype: np.dtype[Any]
    dim: str
    codec: str
    sharded: bool = True
    finer: int = 1
    delta: Delta = "auto"
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chunk(self) -> int:
        """Values of a chunk."""
        return max(1, min(max(1, CHUNK // self.finer), self.length) if self.sharded else self.length)

    @property
    def shard(self) -> int:
        """Values of a shard, a whole number of chunks."""
        return (
            self.chunk * max(1, min(SHARD // self.chunk, -(-self.length // self.chunk))) if self.sharded else self.chunk
        )

    def document(self) -> bytes:
        """The ``zarr.json``: what zarr writes for the same array."""
        codecs, _ = _chain(self.dtype, self.codec, self.delta)
        if self.sharded:
            inner = {"chunk_shape": [self.chunk], "codecs": codecs, "index_codecs": _INDEX_CODECS}
            codecs = [{"name": "sharding_indexed", "configuration": {**inner, "index_location": "end"}}]
        fill: Any = "" if self.dtype.kind == "T" else self.dtype.type(0).item()
        document = {
            "shape": [self.length],
            "data_type": "string" if self.dtype.kind == "T" else self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.shard]}},
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

    def encode_shard(self, values: Array) -> bytes:
        """The bytes of a shard of these values, at most `shard` of them; the last chunk is filled up with 0."""
        _, encode = _chain(self.dtype, self.codec, self.delta)

        def encoded(first: int) -> bytes:
            chunk = values[first : first + self.chunk].astype(self.dtype, copy=False)
            if len(chunk) < self.chunk:
                chunk = np.concatenate([chunk, np.zeros(self.chunk - len(chunk), self.dtype)])
            body = bytes(encode(np.ascontiguousarray(chunk)))
            return body + _crc(body)

        starts = range(0, len(values), self.chunk)
        chunks = at_once(encoded, starts) if len(starts) > _CHUNKS_IN_THREADS else [encoded(first) for first in starts]
        if not self.sharded:
            return chunks[0]
        sizes = np.array([len(chunk) for chunk in chunks], np.uint64)
        index = np.full((self.shard // self.chunk, 2), EMPTY, "<u8")  # chunks after the last value are not there
        index[: len(chunks)] = np.stack([np.cumsum(sizes) - sizes, sizes], axis=1)
        raw = index.tobytes()
        return b"".join([*chunks, raw, _crc(raw)])


def _crc(body: bytes) -> bytes:
    return int(google_crc32c.value(body)).to_bytes(4, "little")


def _chain(dtype: np.dtype[Any], codec: str, delta: Delta) -> tuple[list[dict[str, Any]], Callable[[Array], Any]]:
    """The codecs of a chunk as a document names them, and what encodes one, the checksum at its end excepted.

    Every chunk ends in a CRC-32C, so that no flipped bit passes unnoticed. pcodec knows no bool and no text.
    """
    crc: dict[str, Any] = {"name": "crc32c"}
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = numcodecs.Zstd(level=_ZSTD_LEVEL)
    by_zstd = {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": False}}
    if dtype.kind == "T":
        text = numcodecs.VLenUTF8()
        codecs = [{"name": "vlen-utf8", "configuration": {}}, by_zstd, crc]
        return codecs, lambda values: zstd.encode(text.encode(values.astype(object)))
    if codec == "pcodec" and dtype.itemsize > 1:
        settings = {"level": _PCODEC_LEVEL, **_PCODEC_DELTA[delta]}
        return [{"name": "numcodecs.pcodec", "configuration": settings}, crc], numcodecs.pcodec.PCodec(
            **settings
        ).encode
    if codec == "blosc" and dtype.itemsize > 1:
        blosc = {"typesize": dtype.itemsize, "cname": "zstd", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0}
        encode = numcodecs.Blosc("zstd", 5, numcodecs.Blosc.BITSHUFFLE).encode
        return [little, {"name": "blosc", "configuration": blosc}, crc], encode
    return [{"name": "bytes"} if dtype.itemsize == 1 else little, by_zstd, crc], zstd.encode


def packed_bytes(values: Array, delta: Delta, finer: int = 1) -> int:
    """Size of values that pcodec encodes in chunks this many times finer, in bytes."""
    codec, chunk = numcodecs.pcodec.PCodec(level=_PCODEC_LEVEL, **_PCODEC_DELTA[delta]), max(1, CHUNK // finer)
    return sum(len(codec.encode(values[first : first + chunk])) for first in range(0, len(values), chunk))


class ArrayWriter:
    """Fills an array from pieces of any length, writing whole shards only; at the end its document.

    Memory: two shards.

    Parameters
    ----------
    first, stop
        Fill only these values, from the beginning of a shard to the end of one.
    """

    def __init__(self, batch: WriteBatch, path: str, array: NewArray, first: int = 0, stop: int | None = None) -> None:
        self._batch, self._path, self._array = batch, path, array
        self._pieces: list[Array] = []
        self._waiting = 0
        self._shards = first // array.shard
        self._written, self._stop = first, array.length if stop is None else stop

    def append(self, piece: Array) -> None:
        """Add the next values."""
        self._pieces.append(piece)
        self._waiting += len(piece)
        if self._waiting >= self._array.shard:
            self._flush(self._waiting // self._array.shard * self._array.shard)

    def finish(self) -> None:
        """Write what is left; the pieces must add up to what shall be filled."""
        self._flush(self._waiting)
        if self._written != self._stop:
            raise RuntimeError(f"{self._path}: values up to {self._written} of {self._stop} were written")

    def close(self) -> str:
        """Write what is left and the document; returns its digest."""
        self.finish()
        return write_document(self._batch, self._path, self._array)

    def _flush(self, count: int) -> None:
        if not count:
            return
        values = self._pieces[0] if len(self._pieces) == 1 else np.concatenate(self._pieces)
        self._pieces = []
        for first in range(0, count, self._array.shard):
            shard = self._array.encode_shard(values[first : min(first + self._array.shard, count)])
            self._batch.put(f"{self._path}/c/{self._shards}", shard)
            self._shards += 1
        self._written += count
        self._waiting -= count
        self._pieces = [values[count:].copy()] if self._waiting else []  # a view would keep what is written


def write_document(batch: WriteBatch, path: str, array: NewArray) -> str:
    """Write the document of an array; returns its digest."""
    document = array.document()
    batch.put(f"{path}/{DOCUMENT}", document)
    return hashlib.sha256(document).hexdigest()


def write_array(batch: WriteBatch, path: str, values: Array, dim: str, codec: str, **options: Any) -> str:
    """Write an array; returns the digest of its document. `options` are attributes of `NewArray`. Memory: one shard."""
    writer = ArrayWriter(batch, path, NewArray(len(values), values.dtype, dim, codec, **options))
    writer.append(values)
    return writer.close()


def stored_bytes(group: zarr.Group) -> int:
    """Bytes of all arrays in a group and below, as stored, their documents included."""
    total = sum(int(array.nbytes_stored()) for _, array in group.arrays())
    return total + sum(stored_bytes(below) for _, below in group.groups())
