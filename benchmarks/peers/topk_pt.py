"""The `.pt` file of top-k indices and values that SAE pipelines write, memory-mapped and scanned."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.peers.base import Entries, Peer, ranked


class TopkPt(Peer):
    key = "pt"
    label = "torch `.pt`, indices and values"
    how = (
        "A dict of `indices` int64 (n, k) and `values` float32 (n, k), by `torch.save`; opened with "
        "`torch.load(mmap=True, weights_only=True)`. It has one order, by sample: a feature is found by comparing all "
        "indices with it, in numpy on the mapped tensors (faster than torch's `nonzero`), and ranked with numpy; rows "
        "are slices. Rows with fewer than k non-zeros are padded."
    )
    needs = ("torch",)

    def write(self, matrix: sp.csr_array) -> None:
        import torch

        counts = np.diff(matrix.indptr)
        filled = np.arange(counts.max()) < counts[:, None]
        indices, values = np.zeros(filled.shape, np.int64), np.zeros(filled.shape, np.float32)
        indices[filled], values[filled] = matrix.indices, matrix.data
        saved = {
            "indices": torch.from_numpy(indices),
            "values": torch.from_numpy(values),
            "format": "sparse_topk",
            "topk": filled.shape[1],
            "n_features": matrix.shape[1],
        }
        torch.save(saved, self.folder / "sparse.pt")

    def open(self) -> None:
        import torch

        saved = torch.load(self.folder / "sparse.pt", mmap=True, weights_only=True)
        self.indices, self.values, self.n_features = saved["indices"], saved["values"], saved["n_features"]

    def column(self, feature: int) -> Entries:
        values = self.values.numpy().reshape(-1)
        place = np.flatnonzero(self.indices.numpy() == feature)
        place = place[values[place] != 0]  # the rest is padding
        return place // self.values.shape[1], values[place]

    def top_samples(self, feature: int, n: int) -> Entries:
        return ranked(*self.column(feature), n)

    def dense(self, start: int, stop: int) -> np.ndarray:
        import torch

        out = torch.zeros(stop - start, self.n_features)
        return out.scatter_add_(1, self.indices[start:stop], self.values[start:stop]).numpy()

    def rows(self, samples: np.ndarray) -> Any:
        indices, values = self.indices[samples].numpy(), self.values[samples].numpy()
        real = values != 0
        indptr = np.concatenate([[0], np.cumsum(real.sum(1))])
        return sp.csr_array((values[real], indices[real], indptr), shape=(len(samples), self.n_features))

    def stats(self) -> dict[str, np.ndarray]:
        import torch

        real = self.values != 0
        ids, values = self.indices[real], self.values[real].double()
        n, width = len(self.indices), self.n_features
        mean = torch.bincount(ids, values, width) / n
        std = (torch.bincount(ids, values.square(), width) / n - mean.square()).clamp(min=0).sqrt()
        largest = torch.full((width,), -torch.inf, dtype=torch.float64).scatter_reduce_(0, ids, values, "amax")
        largest[largest.isinf()] = torch.nan
        counts = torch.bincount(ids, minlength=width)
        return {"n_active": counts.numpy(), "mean": mean.numpy(), "std": std.numpy(), "max": largest.numpy()}
