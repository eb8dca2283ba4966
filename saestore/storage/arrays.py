"""Creating and filling arrays: codecs, chunk and shard sizes, dimension names."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numcodecs.pcodec
import numpy as np
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ZstdCodec

from saestore.format import CHUNK, SHARD

# pcodec knows no bool and no bytes, and zarr's string codec makes bytes: these go through zstd.
_PCODEC_KINDS = "fiu"


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


def codec_arguments(dtype: np.dtype[Any], codec: str, delta: Delta = "auto") -> dict[str, Any]:
    """Arguments of ``create_array`` that name the codecs for an array of `dtype`.

    Every chunk ends in a CRC-32C, so that no flipped bit passes unnoticed.
    """
    if dtype.kind == "T":
        return {"compressors": [ZstdCodec(level=5), Crc32cCodec()]}
    if codec == "pcodec" and dtype.kind in _PCODEC_KINDS and dtype.itemsize > 1:
        from zarr.codecs.numcodecs import PCodec

        return {
            "serializer": PCodec(level=_PCODEC_LEVEL, **_PCODEC_DELTA[delta]),
            "compressors": [Crc32cCodec()],
            "filters": None,
        }
    if codec == "blosc" and dtype.itemsize > 1:
        shuffled = BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle", typesize=dtype.itemsize)
        return {"serializer": BytesCodec(), "compressors": [shuffled, Crc32cCodec()], "filters": None}
    endian = None if dtype.itemsize == 1 else "little"
    return {
        "serializer": BytesCodec(endian=endian),
        "compressors": [ZstdCodec(level=5), Crc32cCodec()],
        "filters": None,
    }


def create_array(  # noqa: PLR0917
    group: zarr.Group,
    name: str,
    shape: Sequence[int],
    dtype: Any,
    dims: Sequence[str],
    codec: str,
    *,
    sharded: bool = True,
    finer: int = 1,
    delta: Delta = "auto",
    attributes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> zarr.Array[Any]:
    """Create an array whose first dimension is chunked and sharded; further dimensions are kept whole.

    Parameters
    ----------
    sharded
        False makes one chunk of the whole array, for what is always read whole.
    finer
        How many times smaller chunks are than others.
    delta
        How neighbouring values relate: ``consecutive`` where they mostly ascend or descend, ``none`` where they do not,
        ``lookback`` where runs of them come again.
    """
    dtype = np.dtype(dtype) if not isinstance(dtype, np.dtype) else dtype
    length, rest = int(shape[0]), tuple(int(n) for n in shape[1:])
    width = max(1, int(np.prod(rest, dtype=np.int64)))
    chunk = max(1, min(max(1, CHUNK // finer // width), length)) if sharded else max(1, length)
    per_shard = max(1, min(SHARD // max(1, chunk * width), -(-length // chunk)))
    return group.create_array(
        name,
        shape=(length, *rest),
        dtype=dtype,
        chunks=(chunk, *(max(1, n) for n in rest)),
        shards=(chunk * per_shard, *(max(1, n) for n in rest)) if sharded else None,
        dimension_names=tuple(dims),
        attributes=dict(attributes or {}),
        fill_value="" if dtype.kind == "T" else dtype.type(0),
        overwrite=overwrite,
        # A chunk that is missing is damage, never zeros: so zeros are written too.
        config={"write_empty_chunks": True},
        **codec_arguments(dtype, codec, delta),
    )


def packed_bytes(values: np.ndarray[Any, Any], delta: Delta, finer: int = 1) -> int:
    """What pcodec makes of values in so fine chunks, in bytes."""
    codec, chunk = numcodecs.pcodec.PCodec(level=_PCODEC_LEVEL, **_PCODEC_DELTA[delta]), max(1, CHUNK // finer)
    return sum(len(codec.encode(values[first : first + chunk])) for first in range(0, len(values), chunk))


def write_array(
    group: zarr.Group, name: str, values: np.ndarray[Any, Any], dims: Sequence[str], codec: str, **kwargs: Any
) -> None:
    """Create an array and write all of it. Memory: `values` and one shard."""
    array = create_array(group, name, values.shape, values.dtype, dims, codec, **kwargs)
    if values.size:
        array[...] = values


def stored_bytes(group: zarr.Group) -> int:
    """Bytes of all arrays in a group and below, as stored, their metadata not counted."""
    total = sum(int(array.nbytes_stored()) for _, array in group.arrays())
    return total + sum(stored_bytes(below) for _, below in group.groups())


class ShardWriter:
    """Fills a one-dimensional array from pieces of any length, writing whole shards only.

    Memory: two shards. A write that is not aligned would read, decode and rewrite a shard for every piece.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._array = array
        self._shard = int((array.shards or array.chunks)[0])
        self._pieces: list[np.ndarray[Any, Any]] = []
        self._held = 0
        self._written = 0

    def append(self, piece: np.ndarray[Any, Any]) -> None:
        """Add the next values."""
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held >= self._shard:
            self._flush(self._held // self._shard * self._shard)

    def close(self) -> None:
        """Write what is left; the pieces must add up to the array."""
        self._flush(self._held)
        if self._written != self._array.shape[0]:
            raise RuntimeError(f"{self._array.path}: {self._written} of {self._array.shape[0]} values were written")

    def _flush(self, count: int) -> None:
        if not count:
            return
        values = np.concatenate(self._pieces)
        self._array[self._written : self._written + count] = values[:count]
        self._written += count
        self._held -= count
        self._pieces = [values[count:]] if self._held else []
