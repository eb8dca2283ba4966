"""The limit: `os.pread` of exactly the bytes that saestore reads, and their decoding."""

# ruff: noqa: ARG002  (what it lacks)

import json
import os
from pathlib import Path

import numpy as np

from benchmarks.peers.base import Entries, Peer, Unsupported
from benchmarks.peers.saestore_set import SET


class PreadAndDecode(Peer):
    key = "limit"
    label = "the limit: `os.pread` and decoding"
    how = (
        "`os.pread` of the chunks of saestore's files that hold the answer, files open and places known beforehand, "
        "each decoded by the codec: what a query of this format costs before any Python of ours."
    )
    folder_of = "saestore"

    def open(self) -> None:
        import zarr

        group = zarr.open_group(self.folder / "store.zarr", path=f"{SET}/segments", mode="r")
        (name,) = group.group_keys()
        self.indptr = group[f"{name}/by_feature/indptr"][:]
        folder = self.folder / "store.zarr" / SET / "segments" / name / "by_feature"
        self.arrays = [_Chunks(folder / array) for array in ("indices", "data")]

    def top_samples(self, feature: int, n: int) -> Entries:
        start, stop = self.indptr[feature : feature + 2].tolist()
        return self._entries(start, min(stop, start + n))

    def top_items(self, feature: int, split: str, n: int) -> Entries:
        raise Unsupported("what has to be read depends on what was read")

    def column(self, feature: int) -> Entries:
        return self._entries(*self.indptr[feature : feature + 2].tolist())

    def _entries(self, start: int, stop: int) -> Entries:
        samples, values = (array.read(start, stop) for array in self.arrays)
        return samples, values


class _Chunks:
    """Places of all chunks of a sharded pcodec array."""

    def __init__(self, folder: Path) -> None:
        from numcodecs.pcodec import PCodec

        self.decode = PCodec().decode
        meta = json.loads((folder / "zarr.json").read_text())
        (sharding,) = meta["codecs"]
        if [codec["name"] for codec in sharding["configuration"]["codecs"]] != ["numcodecs.pcodec", "crc32c"]:
            raise ValueError(f"{folder} is not in pcodec")
        (length,), (shard,) = meta["shape"], meta["chunk_grid"]["configuration"]["chunk_shape"]
        (self.chunk,) = sharding["configuration"]["chunk_shape"]
        per_shard = shard // self.chunk
        self.places: list[tuple[int, int, int]] = []
        for i in range(-(-length // shard)):
            file = os.open(folder / "c" / str(i), os.O_RDONLY)  # held open as long as the process lives
            tail = 16 * per_shard + 4
            index = np.frombuffer(os.pread(file, tail, os.fstat(file).st_size - tail)[:-4], "<u8").reshape(-1, 2)
            self.places += [(file, int(offset), int(size)) for offset, size in index]

    def read(self, start: int, stop: int) -> np.ndarray:
        first, last = start // self.chunk, max(start, stop - 1) // self.chunk
        chunks = []
        for file, offset, size in self.places[first : last + 1]:
            chunks.append(self.decode(os.pread(file, size - 4, offset)))  # its last four bytes are the checksum
        values = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
        return values[start - first * self.chunk : stop - first * self.chunk]
