"""anndata's sparse matrices on disk: two zarr groups, CSR for rows and CSC for columns, read by its backed classes."""

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.peers.base import Entries, Peer, list_stats, ranked


class AnndataZarr(Peer):
    key = "anndata"
    label = "anndata, zarr CSR and CSC"
    how = (
        "`anndata.io.write_elem` of the CSR and of the CSC matrix, in the zarr format, chunks and codec that anndata "
        "and zarr choose themselves; `anndata.io.sparse_dataset` opened once with its pointers cached, `csc[:, f]` for "
        "a column and `csr[a:b]` for rows; the top samples are ranked with numpy; statistics from `to_memory()`."
    )
    needs = ("anndata",)

    def write(self, matrix: sp.csr_array) -> None:
        import anndata
        import zarr

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what its next version will do otherwise
            chosen = anndata.settings.zarr_write_format
            group = zarr.open_group(self.folder / "matrix.zarr", mode="w", zarr_format=chosen)
            anndata.io.write_elem(group, "csr", sp.csr_matrix(matrix))
            anndata.io.write_elem(group, "csc", sp.csc_matrix(matrix))

    def open(self) -> None:
        import anndata
        import zarr

        group: Any = zarr.open_group(self.folder / "matrix.zarr", mode="r")
        self.csr, self.csc = (anndata.io.sparse_dataset(group[name]) for name in ("csr", "csc"))
        self.csr[:1], self.csc[:, 0]  # reads and keeps the pointers

    def column(self, feature: int) -> Entries:
        column = self.csc[:, feature]
        return column.indices, column.data

    def top_samples(self, feature: int, n: int) -> Entries:
        return ranked(*self.column(feature), n)

    def dense(self, start: int, stop: int) -> np.ndarray:
        return self.csr[start:stop].toarray()

    def rows(self, samples: np.ndarray) -> Any:
        return self.csr[samples]

    def stats(self) -> dict[str, np.ndarray]:
        csc = self.csc.to_memory()
        return list_stats(csc.indptr, csc.data, csc.shape[0])
