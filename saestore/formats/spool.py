"""Entries in whatever order turned into rows, on disk: for matrices that are stored by column or in no order at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np

from saestore.formats.base import Rows
from saestore.storage.open import write_errors

Array = np.ndarray[Any, Any]

_BUCKET = 1 << 12  # rows that are found together


class Spool:
    """A temporary file of entries, from which rows can be read.

    The file lies where the system keeps temporary files (``$TMPDIR``), 16 bytes an entry (20 of float64), and has no
    name: it is gone when this process ends, however it ends.

    Parameters
    ----------
    n_rows
        Number of rows.
    entries
        Blocks of rows, features and activations, in any order. Rows must be within `n_rows`.
    dtype
        Of the activations.
    resources
        What closes the file in the end.

    Notes
    -----
    Memory: a block, and 8 bytes for each block and 4,096 rows. Reading takes what is read, and the 4,096 rows that it
    begins and ends in.
    """

    def __init__(
        self, n_rows: int, entries: Iterable[tuple[Array, Array, Array]], dtype: str, resources: ExitStack
    ) -> None:
        self.n_entries = 0
        self._record = np.dtype([("row", "<i8"), ("feature", "<i4" if np.dtype(dtype).itemsize < 8 else "<i8"),
                                 ("value", dtype)])  # fmt: skip
        self._file = resources.enter_context(tempfile.TemporaryFile(prefix="saestore-"))  # noqa: SIM115
        n_buckets = -(-n_rows // _BUCKET)
        self._blocks: list[Array] = []
        with write_errors(f"a temporary file in {tempfile.gettempdir()}"):
            for rows, features, values in entries:
                # A stable sort of small integers is a radix sort: entries of a row keep the order that they came in.
                bucket = rows // _BUCKET
                order = np.argsort(bucket, kind="stable")
                records = np.empty(len(rows), self._record)
                records["row"], records["feature"], records["value"] = rows[order], features[order], values[order]
                self._file.write(records.view(np.uint8).data)
                ends = np.cumsum(np.bincount(bucket, minlength=n_buckets))
                self._blocks.append(np.concatenate([[0], ends]) + self.n_entries)
                self.n_entries += len(rows)

    def read(self, start: int, stop: int) -> Rows:
        """Rows `start` to `stop`, the entries of a row in the order in which they came."""
        first, last = start // _BUCKET, -(-stop // _BUCKET)
        pieces = [self._slice(int(ends[first]), int(ends[last])) for ends in self._blocks]
        found = np.concatenate(pieces) if pieces else np.empty(0, self._record)
        found = found[(found["row"] >= start) & (found["row"] < stop)]
        found = found[np.argsort(found["row"], kind="stable")]
        counts = np.bincount(found["row"] - start, minlength=stop - start)
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Rows(indptr, found["feature"].astype(np.int64), np.ascontiguousarray(found["value"]))

    def _slice(self, start: int, stop: int) -> Array:
        self._file.seek(start * self._record.itemsize)
        data = self._file.read((stop - start) * self._record.itemsize)
        return np.frombuffer(data, self._record)
