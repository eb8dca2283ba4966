"""Polars over Parquet: lazy scans of the same table, predicates pushed down to the row groups."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.peers.base import Entries, Peer
from benchmarks.peers.long_form import as_dense, as_rows, as_stats, columns, load_shape, save_shape

ROW_GROUP = 16_384


class PolarsParquet(Peer):
    key = "polars"
    label = "Polars, Parquet"
    how = (
        f"The same table in two files that Polars sorts and writes (zstd, row groups of {ROW_GROUP:,} with "
        "statistics); `scan_parquet` once, then lazy frames: `filter(feature == f).head(20)`, with the predicate "
        "pushed down to the row groups and the order of the file kept (`top_k` took 1.6 times as long)."
    )
    needs = ("polars",)

    def write(self, matrix: sp.csr_array) -> None:
        import polars as pl

        entries = pl.DataFrame(columns(matrix))
        orders = {"by_feature": (["feature", "activation", "sample"], [False, True, False])}
        orders["by_sample"] = (["sample", "feature"], [False, False])
        for name, (by, descending) in orders.items():
            entries.sort(by, descending=descending).write_parquet(
                self.folder / f"{name}.parquet", compression="zstd", row_group_size=ROW_GROUP, statistics=True
            )
        save_shape(self.folder, matrix)

    def open(self) -> None:
        import polars as pl

        self.shape = load_shape(self.folder)
        self.by_feature, self.by_sample = (
            pl.scan_parquet(self.folder / f"{name}.parquet") for name in ("by_feature", "by_sample")
        )

    def _of(self, feature: int) -> Any:
        import polars as pl

        return self.by_feature.filter(pl.col("feature") == feature).select("sample", "activation")

    def top_samples(self, feature: int, n: int) -> Entries:
        found = self._of(feature).head(n).collect()  # a filter keeps the file's order, strongest first
        return found["sample"].to_numpy(), found["activation"].to_numpy()

    def column(self, feature: int) -> Entries:
        found = self._of(feature).collect()
        return found["sample"].to_numpy(), found["activation"].to_numpy()

    def _samples(self, which: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = self.by_sample.filter(which).collect()
        samples, features, values = (found[name].to_numpy() for name in ("sample", "feature", "activation"))
        return samples, features, values

    def dense(self, start: int, stop: int) -> np.ndarray:
        import polars as pl

        found = self._samples(pl.col("sample").is_between(start, stop - 1))
        return as_dense(found, start, stop, self.shape[1])

    def rows(self, samples: np.ndarray) -> Any:
        import polars as pl

        wanted = pl.Series(samples.astype(np.int32)).implode()
        return as_rows(self._samples(pl.col("sample").is_in(wanted)), samples, self.shape[1])

    def stats(self) -> dict[str, np.ndarray]:
        import polars as pl

        value = pl.col("activation").cast(pl.Float64)
        found = (
            self.by_feature.group_by("feature")
            .agg(
                pl.len().alias("n"), value.sum().alias("total"), (value**2).sum().alias("squares"), largest=value.max()
            )
            .collect()
        )
        return as_stats({name: found[name].to_numpy() for name in found.columns}, self.shape)
