"""What a shard looks like: the sizes of an array's chunks, the tail with their places, and their codecs.

Pure functions on bytes, which `saestore.storage.reader` reads; see ``docs/decisions/001-local-reads.md``.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.machinery import PathFinder
from typing import Any

import google_crc32c
import numpy as np
from pcodec import ChunkConfig, standalone

from saestore.format import CHUNK, SHARD, shard_digest
from saestore.frames import zstd_size
from saestore.sparse_rows import Array
from saestore.table_info import ArrayInfo

EMPTY = 2**64 - 1  # length of a chunk that a shard does not have
TEXT = np.dtypes.StringDType()
_CRC = 4  # bytes of a checksum
_CRC_OF_ALL = 0x48674BC7  # CRC-32C of anything that its own CRC-32C follows
_BATCH = 256  # values that pcodec decodes together
_PCO_CHUNK = 4  # bytes of the type and the number of values of a chunk
_LARGEST_TEXTS = 1 << 30  # bytes of a decoded chunk of texts
# Chunks of texts that are split here, in twice the time that numcodecs takes, before it is worth its import.
_FEW_CHUNKS, _chunks_of_texts = 4, itertools.count()


@dataclass(frozen=True)
class Layout:
    """What bytes an array has: known before any of them is read."""

    length: int  # number of values
    dtype: np.dtype[Any]
    codec: str  # of the set
    # Values of a chunk and of a shard
    chunk: int
    shard: int
    sharded: bool = True  # False where the array is one chunk without shards

    @classmethod
    def of(
        cls,
        length: int,
        dtype: Any,
        codec: str,
        *,
        sharded: bool = True,
        finer: int = 1,
        chunk: int = CHUNK,
        shard: int = SHARD,
    ) -> Layout:
        """As arrays of a set are written, from the most values of a chunk and of a shard."""
        if not sharded:
            return cls(length, np.dtype(dtype), codec, max(1, length), max(1, length), sharded=False)
        chunk = max(1, min(max(1, chunk // finer), length))
        return cls(length, np.dtype(dtype), codec, chunk, chunk * max(1, min(shard // chunk, -(-length // chunk))))

    @classmethod
    def described(cls, info: ArrayInfo, codec: str) -> Layout:
        """Of an array that the set's attributes describe."""
        dtype = TEXT if info.dtype == "string" else np.dtype(info.dtype)
        return cls(info.length, dtype, codec, info.chunk, info.shard or info.chunk, sharded=info.shard is not None)

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-self.length // self.shard)

    @property
    def per_shard(self) -> int:
        """Chunks of a shard."""
        return self.shard // self.chunk

    @property
    def tail_size(self) -> int:
        """Bytes at the end of a shard: a checksum of each chunk, offset and length of each, and a checksum."""
        return (_CRC + 16) * self.per_shard + _CRC

    def decoded(self, n: Any) -> Any:
        """How many values of a chunk are decoded where its first `n` are wanted, of one number or of several."""
        n = -(-n // self._decoded_at_once) * self._decoded_at_once
        return np.minimum(self.chunk, n) if isinstance(n, np.ndarray) else min(self.chunk, n)

    @cached_property
    def _decoded_at_once(self) -> int:
        return _BATCH if _is_pcodec(self) else self.chunk

    def n_chunks(self, shard: int) -> int:
        """Chunks of one shard that hold values."""
        return -(-(min(self.length, (shard + 1) * self.shard) - shard * self.shard) // self.chunk)


@dataclass(frozen=True, slots=True)
class Tail:
    """Offset and length of every chunk of a shard, uint64 (chunks, 2), and their checksums, uint32 (chunks,)."""

    places: Array
    checksums: Array


def tail_of(chunks: list[bytes], per_shard: int) -> bytes:
    """The tail of a shard of these encoded chunks; later ones are not there."""
    sizes = np.array([len(chunk) for chunk in chunks], np.uint64)
    checksums = np.zeros(per_shard, "<u4")
    checksums[: len(chunks)] = [checksum_of(chunk) for chunk in chunks]
    index = np.full((per_shard, 2), EMPTY, "<u8")
    index[: len(chunks)] = np.stack([np.cumsum(sizes) - sizes, sizes], axis=1)
    raw = index.tobytes()
    return b"".join([checksums.tobytes(), raw, crc(raw)])


def parse_tail(raw: bytes, layout: Layout, digest: str) -> Tail:
    """The tail of a shard, which must be the one that was committed."""
    if len(raw) != layout.tail_size or shard_digest(raw) != digest:
        raise ValueError("the index of a shard is not the one that was committed")
    n = layout.per_shard
    checksums = np.frombuffer(raw, "<u4", n)
    return Tail(np.frombuffer(raw, "<u8", 2 * n, _CRC * n).reshape(n, 2), checksums)


def crc(body: bytes) -> bytes:
    """CRC-32C as it is stored."""
    return int(google_crc32c.value(body)).to_bytes(_CRC, "little")


def check_chunk(raw: bytes, checksum: int) -> bytes:
    """A chunk with its checksum at its end, which must be the one that was committed."""
    # The _CRC of anything together with its _CRC is always the same, so that nothing is cut off and copied.
    if google_crc32c.value(raw) != _CRC_OF_ALL or int.from_bytes(raw[-_CRC:], "little") != checksum:
        raise ValueError("a chunk is not the one that was committed")
    return raw


def chunks_of(block: bytes, cuts: Iterable[tuple[int, int, int]]) -> list[bytes]:
    """Chunks of a block, of which `cuts` has the start, the stop and the checksum."""
    return [check_chunk(block[start:stop], checksum) for start, stop, checksum in cuts]


def checksum_of(raw: bytes) -> int:
    """The checksum that a chunk ends with."""
    return int.from_bytes(raw[-_CRC:], "little")


def decoder(layout: Layout) -> Callable[[bytes, Array], None]:
    """What decodes a chunk into memory for exactly its values, or with pcodec for the first of them."""
    if _is_pcodec(layout):
        return partial(_decode_pcodec, layout.chunk)
    narrow = _decode_bytes if layout.dtype.itemsize == 1 else _decode_blosc
    decode = _decode_texts if layout.dtype.kind == "T" else narrow
    return lambda raw, out: decode(raw[:-_CRC], out)


def _is_pcodec(layout: Layout) -> bool:
    return layout.codec == "pcodec" and layout.dtype.kind != "T" and layout.dtype.itemsize > 1


def _decode_pcodec(chunk: int, raw: bytes, out: Array) -> None:
    progress = standalone.simple_decompress_into(raw, out)  # which ends before the checksum
    if progress.n_processed != len(out) or (len(out) == chunk and not progress.finished):
        raise ValueError(f"a chunk does not hold {len(out)} values")


def decoder_of_many(layout: Layout) -> Callable[[Sequence[bytes], Array], None]:
    """What decodes neighbouring chunks into memory for their values, as `decoder` does for one."""
    decode, chunk = decoder(layout), layout.chunk

    def each(chunks: Sequence[bytes], out: Array) -> None:
        for i, raw in enumerate(chunks):
            decode(raw, out[i * chunk : (i + 1) * chunk])

    def together(chunks: Sequence[bytes], out: Array) -> None:
        # As one file of pcodec, which may have several chunks: threads that decode one after the other wait for the
        # interpreter's lock after each, and two were 1.3 times as fast as one rather than 1.8 times.
        head, begin = _heads(layout.dtype, chunk)
        whole, start = len(out) // chunk, len(head)
        if whole < 2 or not all(raw.startswith(head + begin) for raw in chunks[:whole]):
            return each(chunks, out)
        joined = b"".join([head, *(memoryview(raw)[start : -_CRC - 1] for raw in chunks[:whole]), b"\0"])
        _decode_pcodec(whole * chunk, joined, out[: whole * chunk])
        return each(chunks[whole:], out[whole * chunk :])

    return together if _is_pcodec(layout) else each


@functools.cache
def _heads(dtype: np.dtype[Any], n: int) -> tuple[bytes, bytes]:
    """How a file of pcodec begins, and how its chunk of `n` values does: with its type and their number."""
    types = dtype, np.dtype("f4" if dtype.kind != "f" else "u4")
    of, other = (standalone.simple_compress(np.zeros(n, each), ChunkConfig()) for each in types)
    start = next(i for i, (mine, its) in enumerate(zip(of, other, strict=False)) if mine != its)  # the type
    return of[:start], of[start : start + _PCO_CHUNK]


def _decode_blosc(body: bytes, out: Array) -> None:
    import numcodecs

    if int.from_bytes(body[4:8], "little") != out.nbytes:  # decoded size, in blosc's header
        raise ValueError(f"a chunk does not hold {len(out)} values")
    numcodecs.Blosc().decode(body, out=out)


def _decode_bytes(body: bytes, out: Array) -> None:
    if zstd_size(body) != out.nbytes:
        raise ValueError(f"a chunk does not hold {len(out)} values")
    _decode_zstd(body, out)


def _decode_texts(body: bytes, out: Array) -> None:
    size = zstd_size(body)
    if size is None or size > _LARGEST_TEXTS:
        raise ValueError(f"a chunk of texts claims {size} bytes")
    raw = np.empty(size, np.uint8)
    _decode_zstd(body, raw)
    if "numcodecs" in sys.modules or next(_chunks_of_texts) >= _FEW_CHUNKS:
        import numcodecs

        texts: Any = np.asarray(numcodecs.VLenUTF8().decode(raw)).astype(TEXT)
    else:
        texts = _split(raw.tobytes())
    if len(texts) != len(out):
        raise ValueError(f"a chunk does not hold {len(out)} values")
    out[:] = texts


def _split(raw: bytes) -> list[str]:
    """The texts of a chunk: their number, and of each its length and its UTF-8."""
    texts, at = list[str](), 4
    while at < len(raw):
        start = at + 4
        at = start + int.from_bytes(raw[at:start], "little")
        texts.append(raw[start:at].decode())
    if at != len(raw) or len(texts) != int.from_bytes(raw[:4], "little"):
        raise ValueError("a chunk of texts does not end with its last text")
    return texts


def _decode_zstd(body: bytes, out: Array) -> None:
    decompress = _zstd()
    if decompress is None:
        import numcodecs

        numcodecs.Zstd().decode(body, out)
    elif decompress(out.ctypes.data, out.nbytes, body, len(body)) != out.nbytes:
        raise ValueError("a chunk is not a zstd frame of the size that it claims")


@functools.cache
def _zstd() -> Callable[[int, int, bytes, int], int] | None:
    """The function of zstd in the library of numcodecs, where it can be called.

    Importing numcodecs takes half as long as numpy: it reads the entry points of all installed packages.
    """
    package = importlib.util.find_spec("numcodecs")
    module = PathFinder.find_spec("numcodecs.zstd", package.submodule_search_locations if package else None)
    try:
        function = ctypes.CDLL(str(module and module.origin)).ZSTD_decompress
    except (AttributeError, OSError):  # on Windows a library exports only what Python calls
        return None
    function.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t
    function.restype = ctypes.c_size_t
    return function
