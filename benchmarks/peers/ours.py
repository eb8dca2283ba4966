"""saestore by its public interface, and the limit that the disk and the codec set for its format."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.peers.base import Entries, Peer, Unsupported

SET = "Synthetic/patch/sae"


class Saestore(Peer):
    key = "saestore"
    label = "saestore"
    usage = (
        "`Store.write`, then the methods of `ActivationSet`: `top_samples` (with `per` and `where` for items of a "
        "split), `feature`, `dense`, `sparse`, `stats`, `concept_scores`. Both orders, lossless, default codec; the "
        "checksum of a chunk is verified at every read."
    )

    def write(self, matrix: sp.csr_array) -> None:
        import saestore

        pointers = np.arange(0, matrix.shape[0] + 1, self.item_size)
        store = saestore.open(self.folder / "store.zarr", mode="a")
        store.write(SET, matrix, item_ptr=pointers, items=self.items)

    def open(self) -> None:
        import saestore

        self.acts = saestore.open(self.folder / "store.zarr")[SET]

    def top_samples(self, feature: int, n: int) -> Entries:
        top = self.acts.top_samples(feature, n)
        return top.sample, top.activation

    def top_items(self, feature: int, split: str | None, n: int) -> Entries:
        where = None if split is None else {"split": split}
        top = self.acts.top_samples(feature, n, level="item", where=where)
        return top.sample, top.activation

    def column(self, feature: int) -> Entries:
        entries = self.acts.feature(feature)
        return entries.sample, entries.activation

    def dense(self, start: int, stop: int) -> np.ndarray:
        return self.acts.dense(samples=slice(start, stop))

    def rows(self, samples: np.ndarray) -> Any:
        return self.acts.sparse(samples=samples)

    def stats(self) -> dict[str, np.ndarray]:
        table = self.acts.stats()
        return {name: table[name].values for name in ("n_active", "mean", "std", "max")}

    def scores(self) -> Any:
        """The ROC AUC of every feature with every concept of the items."""
        return self.acts.concepts.scores(level="item")


class PreadAndDecode(Peer):
    key = "limit"
    label = "the limit: `os.pread` and decoding"
    usage = (
        "`os.pread` of the chunks of saestore's files that hold the answer, with open files and known offsets, each "
        "decoded by the codec: the cost of a query of this format without any Python of ours."
    )
    folder_of = "saestore"

    def open(self) -> None:
        import zarr

        group = zarr.open_group(self.folder / "store.zarr", path=f"{SET}/segments", mode="r")
        (name,) = group.group_keys()
        self.indptr = group[f"{name}/by_feature/indptr"][:]
        folder = self.folder / "store.zarr" / SET / "segments" / name
        self.arrays = [_Chunks(folder / "by_feature" / array) for array in ("indices", "data")]
        self.rows_of_samples = [_Chunks(folder / "by_sample" / array) for array in ("indices", "data")]

    def top_samples(self, feature: int, n: int) -> Entries:
        start, stop = self.indptr[feature : feature + 2].tolist()
        return self._entries(start, min(stop, start + n))

    def top_items(self, feature: int, split: str, n: int) -> Entries:  # noqa: ARG002
        raise Unsupported("the chunks to read depend on the chunks read before")

    def column(self, feature: int) -> Entries:
        return self._entries(*self.indptr[feature : feature + 2].tolist())

    def _entries(self, start: int, stop: int) -> Entries:
        return tuple(array.read(start, stop) for array in self.arrays)


class _Chunks:
    """The offsets of all chunks of a sharded pcodec array."""

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
        self.offsets: list[tuple[int, int, int]] = []
        for i in range(-(-length // shard)):
            file = os.open(folder / "c" / str(i), os.O_RDONLY)  # open until the process ends
            tail = 16 * per_shard + 4
            index = np.frombuffer(os.pread(file, tail, os.fstat(file).st_size - tail)[:-4], "<u8").reshape(-1, 2)
            self.offsets += [(file, int(offset), int(size)) for offset, size in index]
        del self.offsets[-(-length // self.chunk) :]  # the last shard has room for more

    def read(self, start: int, stop: int) -> np.ndarray:
        first, last = start // self.chunk, max(start, stop - 1) // self.chunk
        chunks = []
        for file, offset, size in self.offsets[first : last + 1]:
            chunks.append(self.decode(os.pread(file, size - 4, offset)))  # its last four bytes are the checksum
        values = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
        return values[start - first * self.chunk : stop - first * self.chunk]
