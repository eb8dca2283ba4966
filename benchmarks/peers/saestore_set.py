"""saestore itself, by its public interface."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.peers.base import Entries, Peer, Unsupported

SET = "Synthetic/patch/sae"


class Saestore(Peer):
    key = "saestore"
    label = "saestore"
    how = (
        "`Store.write`, then the methods of `ActivationSet`: `top_samples` (with `per` and `where` for items of a "
        "split), `feature`, `dense`, `sparse`, `stats`, `concept_scores`. "
        "Both orders, lossless, default codec; a chunk's checksum is verified at every read."
    )
    codec = "pcodec"

    def write(self, matrix: sp.csr_array) -> None:
        import saestore

        pointers = np.arange(0, matrix.shape[0] + 1, self.item_size)
        store = saestore.open(self.folder / "store.zarr", mode="a")
        store.write(SET, matrix, item_ptr=pointers, items=self.items, codec=self.codec)

    def open(self) -> None:
        import saestore

        self.acts = saestore.open(self.folder / "store.zarr")[SET]

    def top_samples(self, feature: int, n: int) -> Entries:
        top = self.acts.top_samples(feature, n)
        return top.sample, top.activation

    def top_items(self, feature: int, split: str, n: int) -> Entries:
        top = self.acts.top_samples(feature, n, level="item", where={"split": split})
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
        if not hasattr(self.acts, "concept_scores"):
            raise Unsupported("not in this version")
        return self.acts.concepts.scores(level="item")


class SaestoreBlosc(Saestore):
    key = "saestore-blosc"
    label = "saestore, `--codec blosc`"
    how = "The same with blosc (zstd, bit shuffle) instead of pcodec."
    codec = "blosc"
