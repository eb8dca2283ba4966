"""DuckDB over Parquet: a table with one row a non-zero, in the two orders that let it skip row groups."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.peers.base import Entries, Peer
from benchmarks.peers.long_form import as_dense, as_rows, as_stats, columns, load_shape, save_shape

# Its default by feature; by sample smaller ones, of which random rows leave out more. Others took longer, or as long.
ROW_GROUPS = {"by_feature": 122_880, "by_sample": 32_768}


class DuckdbParquet(Peer):
    key = "duckdb"
    label = "DuckDB, Parquet"
    how = (
        "A row a non-zero (sample int32, feature int32, activation float32) in two Parquet files that DuckDB writes "
        f"(zstd): one sorted by feature, activation descending, sample (row groups of {ROW_GROUPS['by_feature']:,}), "
        f"the other by sample and feature (of {ROW_GROUPS['by_sample']:,}), so that the statistics of row groups leave "
        "out almost all. One connection with its caches of files and of Parquet metadata on; `WHERE feature = ? LIMIT "
        "20`, as DuckDB keeps the order of a file and so need not sort; answers by `fetchnumpy`."
    )
    needs = ("duckdb", "pyarrow")

    def write(self, matrix: sp.csr_array) -> None:
        import duckdb
        import pyarrow as pa

        entries = pa.table(columns(matrix))
        orders = {"by_feature": "feature, activation DESC, sample", "by_sample": "sample, feature"}
        with duckdb.connect() as connection:
            connection.register("entries", entries)
            for name, order in orders.items():
                connection.execute(
                    f"COPY (FROM entries ORDER BY {order}) TO '{self.folder / name}.parquet' "
                    f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUPS[name]})"
                )
        save_shape(self.folder, matrix)

    def open(self) -> None:
        import duckdb

        self.shape = load_shape(self.folder)
        self.connection = duckdb.connect()
        self.connection.execute("SET parquet_metadata_cache = true")
        for name in ("by_feature", "by_sample"):
            self.connection.execute(f"CREATE VIEW {name} AS FROM read_parquet('{self.folder / name}.parquet')")

    def _ask(self, sql: str, *parameters: Any) -> dict[str, np.ndarray]:
        found = self.connection.execute(sql, parameters).fetchnumpy()
        return {name: np.asarray(column) for name, column in found.items()}

    def top_samples(self, feature: int, n: int) -> Entries:
        # In the file's order, strongest first, which `preserve_insertion_order` (on by default) promises.
        found = self._ask("SELECT sample, activation FROM by_feature WHERE feature = ? LIMIT ?", feature, n)
        return found["sample"], found["activation"]

    def column(self, feature: int) -> Entries:
        found = self._ask("SELECT sample, activation FROM by_feature WHERE feature = ?", feature)
        return found["sample"], found["activation"]

    def dense(self, start: int, stop: int) -> np.ndarray:
        found = self._ask("FROM by_sample WHERE sample >= ? AND sample < ?", start, stop)
        return as_dense((found["sample"], found["feature"], found["activation"]), start, stop, self.shape[1])

    def rows(self, samples: np.ndarray) -> Any:
        found = self._ask("FROM by_sample WHERE sample IN (SELECT unnest(?))", samples.tolist())
        return as_rows((found["sample"], found["feature"], found["activation"]), samples, self.shape[1])

    def stats(self) -> dict[str, np.ndarray]:
        found = self._ask(
            "SELECT feature, count(*) AS n, sum(activation::DOUBLE) AS total, "
            "sum(activation::DOUBLE ** 2) AS squares, max(activation) AS largest FROM by_feature GROUP BY feature"
        )
        return as_stats(found, self.shape)
