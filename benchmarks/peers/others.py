"""What a user would use instead of saestore. Each peer imports its packages only where it needs them."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.peers.base import Entries, Peer, csc_stats, stats_of_groups

HOOKPOINT = "layers.0"
SPLITS = 5  # the default of its CacheConfig
CHUNK = 16_384
# DuckDB's default by feature; smaller by sample, so that random rows skip more of them. Other sizes were not faster.
ROW_GROUPS = {"by_feature": 122_880, "by_sample": 32_768}
ORDERS = {"by_feature": "feature, activation DESC, sample", "by_sample": "sample, feature"}
SUMS = (
    "SELECT feature, count(*) AS n, sum(activation::DOUBLE) AS total, sum(activation::DOUBLE ** 2) AS squares, "
    "max(activation) AS largest FROM by_feature GROUP BY feature"
)


class AnndataZarr(Peer):
    key = "anndata"
    label = "anndata, zarr CSR and CSC"
    usage = (
        "`anndata.io.write_elem` of the CSR and of the CSC matrix, with the default zarr format, chunks and "
        "codec; `anndata.io.sparse_dataset`, opened once with its pointers cached, `csc[:, f]` for a column and "
        "`csr[a:b]` for rows; the top samples are ranked with numpy; statistics from `to_memory()`."
    )
    needs = ("anndata",)

    def write(self, matrix: sp.csr_array) -> None:
        import anndata
        import zarr

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of changes in its next version
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

    def dense(self, start: int, stop: int) -> np.ndarray:
        return self.csr[start:stop].toarray()

    def rows(self, samples: np.ndarray) -> Any:
        return self.csr[samples]

    def stats(self) -> dict[str, np.ndarray]:
        csc = self.csc.to_memory()
        return csc_stats(csc.indptr, csc.data, csc.shape[0])


class Delphi(Peer):
    key = "delphi"
    label = "Delphi's latent cache"
    usage = (
        f"eai-delphi 0.1.3: `LatentCache.save_splits({SPLITS})`, its default number of files, and `save_config`; the "
        "`LatentDataset` is opened once; the `TensorBuffer` of the feature's file loads that latent "
        "(`load_data_per_latent`), as Delphi's own iteration does; ranked with numpy. It stores float16 only, and one "
        "order. An item is a sequence."
    )
    needs = ("delphi", "asyncer", "faiss", "sentence_transformers", "simple_parsing", "blobfile", "orjson", "jaxtyping")

    def write(self, matrix: sp.csr_array) -> None:
        import torch
        from delphi.config import CacheConfig
        from delphi.latents import LatentCache

        n_items = -(-matrix.shape[0] // self.item_size)
        sample = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        locations = np.stack([*np.divmod(sample, self.item_size), matrix.indices], axis=1)
        cache = LatentCache(None, {}, batch_size=n_items)
        cache.width = matrix.shape[1]
        # The state that LatentCache.run leaves after its batches of dense activations.
        cache.cache.latent_locations[HOOKPOINT] = torch.from_numpy(locations)
        cache.cache.latent_activations[HOOKPOINT] = torch.from_numpy(matrix.data)
        cache.cache.tokens[HOOKPOINT] = torch.zeros(n_items, self.item_size, dtype=torch.int64)
        cache.save_splits(SPLITS, self.folder)
        config = CacheConfig(cache_ctx_len=self.item_size, n_tokens=matrix.shape[0], n_splits=SPLITS)
        cache.save_config(self.folder, config, model_name="")

    def open(self) -> None:
        from delphi.config import ConstructorConfig, SamplerConfig
        from delphi.latents import LatentDataset

        # Any tokenizer but None, for which Delphi would download one; it is not used.
        self.dataset = LatentDataset(
            self.folder, SamplerConfig(), ConstructorConfig(), tokenizer=object(), modules=[HOOKPOINT]
        )
        self.first = np.array([int(Path(buffer.path).stem.split("_")[0]) for buffer in self.dataset.buffers])
        self.item_size = self.dataset.tokens.shape[1]

    def column(self, feature: int) -> Entries:
        import torch

        buffer = self.dataset.buffers[np.searchsorted(self.first, feature, side="right") - 1]
        buffer.latents = torch.tensor([feature])
        _, locations, activations = buffer.load_data_per_latent()
        if not locations:
            return np.empty(0, np.int64), np.empty(0, np.float16)
        index, values = locations[0].numpy(), activations[0].numpy()
        return index[:, 0] * self.item_size + index[:, 1], values


class TopkPt(Peer):
    key = "pt"
    label = "torch `.pt`, indices and values"
    usage = (
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
        index = np.flatnonzero(self.indices.numpy() == feature)
        index = index[values[index] != 0]  # the rest is padding
        return index // self.values.shape[1], values[index]

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


class Hdf5(Peer):
    key = "hdf5"
    label = "HDF5 (h5py), CSR and CSC"
    usage = (
        f"One file of `indptr`, `indices` and `data` for each order, in chunks of {CHUNK:,} with shuffle and zstd "
        "(hdf5plugin). The CSC arrays are in saestore's order, activations descending, so that the top samples are a "
        "prefix: the layout that a careful user would choose. The file stays open with its pointers in memory; a query "
        "reads slices; statistics read the whole CSC arrays."
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
        return tuple(array[start:stop] for array in self.of_feature)

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
        return csc_stats(self.feature_ptr, self.of_feature[1][:], self.shape[0])


def _save(group: Any, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> None:
    import hdf5plugin

    group["indptr"] = indptr.astype(np.int64)
    for name, array in (("indices", indices.astype(np.int32)), ("data", data)):
        chunks = (min(CHUNK, max(1, len(array))),)
        group.create_dataset(name, data=array, chunks=chunks, shuffle=True, compression=hdf5plugin.Zstd(clevel=3))


class DuckdbParquet(Peer):
    key = "duckdb"
    label = "DuckDB, Parquet"
    usage = (
        "A row per non-zero (sample int32, feature int32, activation float32) in two Parquet files that DuckDB writes "
        f"(zstd): one sorted by feature, activation descending, sample (row groups of {ROW_GROUPS['by_feature']:,}), "
        f"the other by sample and feature (of {ROW_GROUPS['by_sample']:,}), so that the statistics of row groups skip "
        "almost all of them. One connection with its caches of files and of Parquet metadata on; `WHERE feature = ? "
        "LIMIT 20`, without a sort, as DuckDB keeps the order of a file; answers by `fetchnumpy`."
    )
    needs = ("duckdb", "pyarrow")

    def write(self, matrix: sp.csr_array) -> None:
        import duckdb
        import pyarrow as pa

        samples = np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))
        columns = {"sample": samples, "feature": matrix.indices.astype(np.int32), "activation": matrix.data}
        with duckdb.connect() as connection:
            connection.register("entries", pa.table(columns))
            for name, order in ORDERS.items():
                connection.execute(
                    f"COPY (FROM entries ORDER BY {order}) TO '{self.folder / name}.parquet' "
                    f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUPS[name]})"
                )
        (self.folder / "shape.json").write_text(json.dumps(matrix.shape))  # the last samples may have no row

    def open(self) -> None:
        import duckdb

        self.shape = tuple(json.loads((self.folder / "shape.json").read_text()))
        self.connection = duckdb.connect()
        self.connection.execute("SET parquet_metadata_cache = true")
        for name in ORDERS:
            self.connection.execute(f"CREATE VIEW {name} AS FROM read_parquet('{self.folder / name}.parquet')")

    def _ask(self, sql: str, *parameters: Any) -> tuple[np.ndarray, ...]:
        return tuple(np.asarray(column) for column in self.connection.execute(sql, parameters).fetchnumpy().values())

    def top_samples(self, feature: int, n: int) -> Entries:
        # In the file's order, strongest first: `preserve_insertion_order` is on by default.
        return self._ask("SELECT sample, activation FROM by_feature WHERE feature = ? LIMIT ?", feature, n)

    def column(self, feature: int) -> Entries:
        return self._ask("SELECT sample, activation FROM by_feature WHERE feature = ?", feature)

    def dense(self, start: int, stop: int) -> np.ndarray:
        samples, features, values = self._ask("FROM by_sample WHERE sample >= ? AND sample < ?", start, stop)
        out = np.zeros((stop - start, self.shape[1]), np.float32)
        out[samples - start, features] = values
        return out

    def rows(self, samples: np.ndarray) -> Any:
        stored, features, values = self._ask("FROM by_sample WHERE sample IN (SELECT unnest(?))", samples.tolist())
        entries = (values, (np.searchsorted(samples, stored), features))
        return sp.coo_array(entries, shape=(len(samples), self.shape[1])).tocsr()

    def stats(self) -> dict[str, np.ndarray]:
        return stats_of_groups(self.shape, *self._ask(SUMS))
