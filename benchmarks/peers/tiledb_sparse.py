"""TileDB: two sparse arrays, feature x sample and sample x feature, each in the order of its own questions."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.peers.base import Entries, Peer, list_stats, ranked
from benchmarks.peers.long_form import as_dense, as_rows, columns

CAPACITY = 16_384  # cells of a data tile, the least that is read


class TiledbSparse(Peer):
    key = "tiledb"
    label = "TileDB, sparse arrays"
    how = (
        f"Two 2-D sparse arrays, (feature, sample) and (sample, feature), row-major, data tiles of {CAPACITY:,} cells, "
        "coordinates by zstd after double delta, activations by zstd after byte shuffle; one space tile spans the "
        "minor dimension, so that a feature or a run of samples lies in consecutive data tiles. Opened once; queries "
        "through `multi_index` with `return_incomplete` off; TileDB has no top-k, so a feature is read whole and "
        "ranked with numpy; statistics from the whole array with numpy."
    )
    needs = ("tiledb",)

    def write(self, matrix: sp.csr_array) -> None:
        import tiledb

        found = columns(matrix)
        sizes = dict(zip(("sample", "feature"), matrix.shape, strict=True))
        for name in ("feature", "sample"):
            other = "sample" if name == "feature" else "feature"
            uri = str(self.folder / f"by_{name}")
            tiledb.Array.create(uri, _schema({name: sizes[name], other: sizes[other]}))
            with tiledb.open(uri, "w") as array:
                array[found[name], found[other]] = found["activation"]

    def open(self) -> None:
        import tiledb

        self.by_feature, self.by_sample = (
            tiledb.open(str(self.folder / f"by_{name}"), "r") for name in ("feature", "sample")
        )
        self.shape = self.by_sample.shape

    def column(self, feature: int) -> Entries:
        found = self.by_feature.query(dims=["sample"], attrs=["activation"]).multi_index[feature]
        return found["sample"], found["activation"]

    def top_samples(self, feature: int, n: int) -> Entries:
        return ranked(*self.column(feature), n)

    def _samples(self, which: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = self.by_sample.multi_index[which]
        return found["sample"], found["feature"], found["activation"]

    def dense(self, start: int, stop: int) -> np.ndarray:
        return as_dense(self._samples(slice(start, stop - 1)), start, stop, self.shape[1])

    def rows(self, samples: np.ndarray) -> Any:
        return as_rows(self._samples(samples.tolist()), samples, self.shape[1])

    def stats(self) -> dict[str, np.ndarray]:
        found = self.by_feature.query(dims=["feature"], attrs=["activation"])[:]
        indptr = np.searchsorted(found["feature"], np.arange(self.shape[1] + 1))
        return list_stats(indptr, found["activation"], self.shape[0])


def _schema(sizes: dict[str, int]) -> Any:
    import tiledb

    zstd = tiledb.ZstdFilter(level=3)
    coordinates = tiledb.FilterList([tiledb.DoubleDeltaFilter(), zstd])
    (major, n_major), (minor, n_minor) = sizes.items()
    dims = [
        tiledb.Dim(major, domain=(0, n_major - 1), tile=n_major, dtype=np.int32, filters=coordinates),
        tiledb.Dim(minor, domain=(0, n_minor - 1), tile=n_minor, dtype=np.int32, filters=coordinates),
    ]
    activation = tiledb.Attr("activation", dtype=np.float32, filters=[tiledb.ByteShuffleFilter(), zstd])
    return tiledb.ArraySchema(
        tiledb.Domain(*dims), [activation], sparse=True, capacity=CAPACITY, cell_order="row-major"
    )
