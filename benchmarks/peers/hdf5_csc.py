"""HDF5 through h5py: the CSR and the CSC arrays in compressed chunks, a feature's strongest samples first."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.peers.base import Entries, Peer, list_stats

CHUNK = 16_384


class Hdf5(Peer):
    key = "hdf5"
    label = "HDF5 (h5py), CSR and CSC"
    how = (
        f"One file of `indptr`, `indices` and `data` for each order, in chunks of {CHUNK:,} with shuffle and zstd "
        "(hdf5plugin). The CSC arrays are in saestore's order, activations descending, so that the top samples are a "
        "prefix: what a careful user would lay out by hand. Open with its pointers in memory, a query reads slices; "
        "statistics read the CSC arrays whole."
    )
    needs = ("h5py", "hdf5plugin")

    def write(self, matrix: sp.csr_array) -> None:
        import h5py

        with h5py.File(self.folder / "matrix.h5", "w") as file:
            file.attrs["shape"] = matrix.shape
            _save(file.create_group("by_sample"), matrix.indptr, matrix.indices, matrix.data)
            csc = sp.csc_array(matrix)
            feature = np.repeat(np.arange(csc.shape[1], dtype=np.int32), np.diff(csc.indptr))
            order = np.lexsort((csc.indices, -csc.data, feature))
            _save(file.create_group("by_feature"), csc.indptr, csc.indices[order], csc.data[order])

    def open(self) -> None:
        import h5py
        import hdf5plugin  # noqa: F401  (registers the codec)

        self.file = h5py.File(self.folder / "matrix.h5", "r")
        self.shape = tuple(self.file.attrs["shape"].tolist())
        self.feature_ptr, self.sample_ptr = (self.file[f"{name}/indptr"][:] for name in ("by_feature", "by_sample"))
        self.of_feature, self.of_sample = (
            [self.file[f"{name}/{array}"] for array in ("indices", "data")] for name in ("by_feature", "by_sample")
        )

    def _entries(self, start: int, stop: int) -> Entries:
        samples, values = (array[start:stop] for array in self.of_feature)
        return samples, values

    def top_samples(self, feature: int, n: int) -> Entries:
        start, stop = self.feature_ptr[feature : feature + 2].tolist()
        return self._entries(start, min(stop, start + n))

    def column(self, feature: int) -> Entries:
        return self._entries(*self.feature_ptr[feature : feature + 2].tolist())

    def _block(self, start: int, stop: int) -> sp.csr_array:
        pointers = self.sample_ptr[start : stop + 1]
        ids, values = (array[pointers[0] : pointers[-1]] for array in self.of_sample)
        return sp.csr_array((values, ids, pointers - pointers[0]), shape=(stop - start, self.shape[1]))

    def dense(self, start: int, stop: int) -> np.ndarray:
        return self._block(start, stop).toarray()

    def rows(self, samples: np.ndarray) -> Any:
        return sp.vstack([self._block(sample, sample + 1) for sample in samples.tolist()], format="csr")

    def stats(self) -> dict[str, np.ndarray]:
        return list_stats(self.feature_ptr, self.of_feature[1][:], self.shape[0])


def _save(group: Any, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> None:
    import hdf5plugin

    group["indptr"] = indptr.astype(np.int64)
    for name, array in (("indices", indices.astype(np.int32)), ("data", data)):
        chunks = (min(CHUNK, max(1, len(array))),)
        group.create_dataset(name, data=array, chunks=chunks, shuffle=True, compression=hdf5plugin.Zstd(clevel=3))
