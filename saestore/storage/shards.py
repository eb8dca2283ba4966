"""Sharded arrays in a local folder, read without zarr; see ``docs/decisions/001-local-reads.md``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
from numcodecs.pcodec import PCodec as PCodecDecoder

from saestore.errors import CorruptStoreError
from saestore.storage.open import missing_as_error
from saestore.storage.snapshot import SnapshotStore

Array = np.ndarray[Any, Any]
Job = Callable[[], None]  # fills its part of the memory for a slice

EMPTY = 2**64 - 1  # length of a chunk that a shard does not have
_TEXT = np.dtypes.StringDType()
_CHUNKS_A_JOB = 32  # a megabyte or two of what is read at once


@dataclass(frozen=True)
class Layout:
    """Facts of an array's document: its length and dtype, values of a chunk and of a shard."""

    length: int
    dtype: np.dtype[Any]
    chunk: int
    shard: int

    @property
    def index_size(self) -> int:
        """Bytes of the index at the end of a shard: offset and length of each chunk, and a checksum."""
        return 16 * (self.shard // self.chunk) + 4


class LocalShards:
    """A sharded array in a local folder, read with one ``pread`` a run of chunks.

    Knows the codec chains that `saestore.storage.arrays` writes (pcodec or blosc, then CRC-32C, shard index at the
    end); `of` returns None for any other, which zarr then reads.
    """

    def __init__(
        self, path: str, folder: Path, layout: Layout, decode: Callable[[bytes], Array], *, sharded: bool
    ) -> None:
        self.layout = layout
        self._per_shard = layout.shard // layout.chunk
        self._path = path
        self._chunks_folder = f"{folder}/c/"  # a plain string: joining paths costs as much as reading does
        self._decode = decode
        self._sharded = sharded
        self._indexes: dict[int, Array] = {}

    @classmethod
    def of(cls, store: SnapshotStore, path: str) -> LocalShards | None:
        """The array at `path`, or None where zarr has to read it, or to say what is wrong with it."""
        if store.folder is None:
            return None
        folder = store.folder / path
        try:
            found = _parse(json.loads((folder / "zarr.json").read_bytes()))
        except (OSError, KeyError, TypeError, ValueError, AttributeError):
            return None
        if found is None:
            return None
        layout, codecs, sharded = found
        decode = _decoder(codecs, layout.dtype)
        return None if decode is None else cls(path, folder, layout, decode, sharded=sharded)

    def plan(self, start: int, stop: int) -> tuple[Array, list[Job]]:
        """Memory for the values `start` to `stop`, and what fills it, in any order; checksums are verified."""
        chunk, per_shard = self.layout.chunk, self._per_shard
        first, last = start // chunk, (stop - 1) // chunk + 1
        values = np.empty((last - first) * chunk, self.layout.dtype)
        if last - first == 1:
            job = partial(self._fill, first // per_shard, first % per_shard, 1, values)
            return values[start - first * chunk : stop - first * chunk], [job]
        jobs: list[Job] = []
        at = first
        while at < last:
            end = min(last, (at // per_shard + 1) * per_shard, at + _CHUNKS_A_JOB)
            part = values[(at - first) * chunk : (end - first) * chunk]
            jobs.append(partial(self._fill, at // per_shard, at % per_shard, end - at, part))
            at = end
        return values[start - first * chunk : stop - first * chunk], jobs

    def _fill(self, shard: int, first: int, count: int, out: Array) -> None:
        """Read neighbouring chunks of a shard and decode them into `out`."""
        with missing_as_error(self._path):
            path, chunk = f"{self._chunks_folder}{shard}", self.layout.chunk
            if not self._sharded:
                out[:] = self._decoded(Path(path).read_bytes())
                return
            places = self.index(shard)[first : first + count]
            if count == 1:  # the head of a list, mostly: here microseconds are the answer's time
                ((offset, size),) = places.tolist()
                out[:] = self._decoded(_pread(path, offset, size) if size != EMPTY else b"")
                return
            begin, end = bytes_of(places, path)
            block = _pread(path, begin, end - begin)
            for i, (offset, size) in enumerate(places.tolist()):
                out[i * chunk : (i + 1) * chunk] = self._decoded(block[offset - begin : offset - begin + size])

    def _decoded(self, raw: bytes) -> Array:
        values = self._decode(_without_crc(raw))
        if len(values) != self.layout.chunk:
            raise CorruptStoreError(f"a chunk holds {len(values)} values, expected {self.layout.chunk}.")
        return values

    def index(self, shard: int) -> Array:
        """Byte offset and length of every chunk of a shard, (chunks, 2) uint64."""
        held = self._indexes.get(shard)
        if held is None:
            size = self.layout.index_size
            held = parse_index(_pread(f"{self._chunks_folder}{shard}", -size, size))
            self._indexes[shard] = held
        return held


def _parse(meta: dict[str, Any]) -> tuple[Layout, list[tuple[str, dict[str, Any]]], bool] | None:
    """Layout, codecs of a chunk, and whether there are shards, of a one-dimensional array as saestore writes them."""
    grid, keys = _named(meta["chunk_grid"]), _named(meta["chunk_key_encoding"])
    known = meta["node_type"] == "array" and grid[0] == "regular" and keys[0] == "default"
    if not known or len(meta["shape"]) != 1 or meta.get("storage_transformers"):
        return None
    (length,), (shard,) = meta["shape"], grid[1]["chunk_shape"]
    chunk, codecs = shard, [_named(c) for c in meta["codecs"]]
    sharded = codecs[0][0] == "sharding_indexed"
    if sharded:
        if not has_index_at_end(meta):
            return None
        conf = codecs[0][1]
        (chunk,) = conf["chunk_shape"]
        codecs = [_named(c) for c in conf["codecs"]]
    dtype = _TEXT if meta["data_type"] == "string" else np.dtype(meta["data_type"])
    layout = Layout(int(length), dtype, int(chunk), int(shard))
    return None if layout.shard % layout.chunk else (layout, codecs, sharded)


def has_index_at_end(meta: Mapping[str, Any]) -> bool:
    """Whether an array has shards with an index as saestore writes it."""
    (name, conf), *more = [_named(c) for c in meta["codecs"]]
    if name != "sharding_indexed" or more or conf.get("index_location", "end") != "end":
        return False
    return [_named(c)[0] for c in conf["index_codecs"]] == ["bytes", "crc32c"]


def parse_index(raw: bytes) -> Array:
    """Byte offset and length of every chunk of a shard, (chunks, 2) uint64, from the index at its end."""
    return np.frombuffer(_without_crc(raw), "<u8").reshape(-1, 2)


def bytes_of(places: Array, shard: str) -> tuple[int, int]:
    """Where the bytes of neighbouring chunks begin and end."""
    if (places[:, 1] == EMPTY).any():
        raise CorruptStoreError(f"{shard} lacks a chunk.")
    return int(places[:, 0].min()), int(places.sum(axis=1).max())


def _named(spec: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    return spec["name"], dict(spec.get("configuration") or {})


def _decoder(codecs: list[tuple[str, dict[str, Any]]], dtype: np.dtype[Any]) -> Callable[[bytes], Array] | None:
    names = [name for name, _ in codecs]
    if names == ["numcodecs.pcodec", "crc32c"]:
        pcodec = PCodecDecoder()  # decoding needs no parameter: the bytes say all
        return lambda raw: np.asarray(pcodec.decode(raw)).view(dtype)
    if names == ["bytes", "blosc", "crc32c"] and codecs[0][1].get("endian", "little") == "little":
        blosc = numcodecs.Blosc()
        return lambda raw: np.frombuffer(blosc.decode(raw), dtype)
    zstd, text = numcodecs.Zstd(), numcodecs.VLenUTF8()
    if names == ["bytes", "zstd", "crc32c"] and dtype.itemsize == 1:
        return lambda raw: np.frombuffer(zstd.decode(raw), dtype)
    if names == ["vlen-utf8", "zstd", "crc32c"] and dtype.kind == "T":
        return lambda raw: np.asarray(text.decode(zstd.decode(raw))).astype(dtype)
    return None


def _without_crc(raw: bytes) -> bytes:
    body = raw[:-4]
    if len(raw) < 4 or google_crc32c.value(body) != int.from_bytes(raw[-4:], "little"):
        raise ValueError("stored and computed checksums do not match")
    return body


def _pread(path: str, offset: int, count: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        if offset < 0:
            offset += os.fstat(fd).st_size
            if offset < 0:
                raise ValueError("the file is shorter than its shard index")
        raw = os.pread(fd, count, offset)
    finally:
        os.close(fd)
    if len(raw) != count:
        raise ValueError(f"{path} is cut short: {len(raw)} of {count} bytes at {offset}")
    return raw
