"""scipy's own files: the CSR and the CSC matrix, loaded whole and then asked in memory."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.peers.base import Entries, Peer, list_stats, ranked


class ScipyNpz(Peer):
    key = "scipy"
    label = "scipy `.npz`, all in memory"
    how = (
        "`scipy.sparse.save_npz` of the CSR and of the CSC matrix; opening is `load_npz` of both, everything after it "
        "happens in memory: a slice between two pointers for a column, ranked with numpy; scipy's own row slicing."
    )
    compressed = False

    def write(self, matrix: sp.csr_array) -> None:
        sp.save_npz(self.folder / "csr.npz", matrix, compressed=self.compressed)
        sp.save_npz(self.folder / "csc.npz", sp.csc_array(matrix), compressed=self.compressed)

    def open(self) -> None:
        self.csr, self.csc = (sp.load_npz(self.folder / f"{name}.npz") for name in ("csr", "csc"))

    def column(self, feature: int) -> Entries:
        inside = slice(*self.csc.indptr[feature : feature + 2])
        return self.csc.indices[inside], self.csc.data[inside]

    def top_samples(self, feature: int, n: int) -> Entries:
        return ranked(*self.column(feature), n)

    def dense(self, start: int, stop: int) -> np.ndarray:
        return self.csr[start:stop].toarray()

    def rows(self, samples: np.ndarray) -> Any:
        return self.csr[samples]

    def stats(self) -> dict[str, np.ndarray]:
        return list_stats(self.csc.indptr, self.csc.data, self.csc.shape[0])


class ScipyNpzCompressed(ScipyNpz):
    key = "scipy-compressed"
    label = "scipy `.npz`, compressed"
    how = "The same with `save_npz(compressed=True)`, scipy's default (deflate)."
    compressed = True
