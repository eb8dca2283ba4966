"""The ``.pt`` files of the SuperActivators pipeline: rows of (indices, values), and dense with a unit mapping."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, StoreWriteError
from saestore.formats.selection import Block, Selected
from saestore.interop.optional import require

Array = np.ndarray[Any, Any]

_CHUNK_BYTES = 256 << 20  # torch.save wants a tensor whole: this much is in memory, twice


def write_sparse(selected: Selected, folder: Path, base: str) -> list[str]:
    """Write `indices` int64 and `values` float32, (n, k), k the longest row; shorter ones end in zeros.

    Returns the names of the files: ``BASE.pt``, or chunks of 256 MiB and, last, their list.
    """
    torch = require("torch", "sae", f"writing {base}.pt")
    k = max(int(np.diff(block.indptr).max(initial=1)) for block in selected.blocks())
    info = {"n_features": selected.acts.shape[1], "topk": k, "format": "sparse_topk"}
    chunks = _Chunks(folder, base, selected.n_samples, 12 * k, info)
    indices, values = np.zeros((chunks.rows, k), np.int64), np.zeros((chunks.rows, k), np.float32)
    for block in selected.blocks():
        row, place = _descending(block)
        column_ids, activations = block.features, _float32(block)
        for part, into in chunks.split(len(block.samples)):
            inside = (row >= part.start) & (row < part.stop)
            at = row[inside] - part.start + into, place[inside]
            indices[at], values[at] = column_ids[inside], activations[inside]
            if (n := chunks.full(into + len(part))) is not None:
                content = {
                    "indices": torch.from_numpy(indices[:n].copy()),
                    "values": torch.from_numpy(values[:n].copy()),
                }
                torch.save({**content, "format": "sparse_topk", "topk": k}, chunks.next(n))
                indices[:], values[:] = 0, 0
    return chunks.close()


def write_dense(selected: Selected, folder: Path, base: str) -> list[str]:
    """Write float32 (n, n_kept) and ``BASE_unit_mapping.json``: which feature each column is.

    Kept are the features that were asked for, else those that are active on some of the samples.

    Raises
    ------
    StoreWriteError
        It would not fit on the disk.
    """
    torch = require("torch", "sae", f"writing {base}.pt")
    units = _units(selected)
    _check_space(folder, selected.n_samples, len(units))
    chunks = _Chunks(folder, base, selected.n_samples, 4 * len(units), {"feature_dim": len(units)})
    dense = np.zeros((chunks.rows, len(units)), np.float32)
    for block in selected.blocks():
        row, columns, activations = block.rows, np.searchsorted(units, block.features), _float32(block)
        for part, into in chunks.split(len(block.samples)):
            inside = (row >= part.start) & (row < part.stop)
            dense[row[inside] - part.start + into, columns[inside]] = activations[inside]
            if (n := chunks.full(into + len(part))) is not None:
                torch.save(torch.from_numpy(dense[:n].copy()), chunks.next(n))
                dense[:] = 0
    mapping = {
        "kept_units": units.tolist(),
        "unit_id_to_new_idx": {str(unit): place for place, unit in enumerate(units.tolist())},
        "n_original": selected.acts.shape[1],
        "n_filtered": len(units),
    }
    name = f"{base}_unit_mapping.json"
    (folder / name).write_text(json.dumps(mapping))
    return [name, *chunks.close()]


def names_of(folder: Path, base: str) -> list[Path]:
    """What lies under the names that an export of `base` writes."""
    found = [folder / f"{base}.pt", folder / f"{base}_chunks_info.json", folder / f"{base}_unit_mapping.json"]
    return [*(p for p in found if p.exists()), *sorted(folder.glob(f"{base}_chunk_*.pt"))]


class _Chunks:
    """Cuts rows into files of 256 MiB and lists them."""

    def __init__(self, folder: Path, base: str, n_rows: int, row_bytes: int, info: dict[str, Any]) -> None:
        self._folder, self._base, self._n_rows, self._info = folder, base, n_rows, info
        self.rows = min(n_rows, max(1, _CHUNK_BYTES // row_bytes))
        self._done = self._held = 0
        self._entries: list[dict[str, Any]] = []

    def split(self, n: int) -> Iterator[tuple[range, int]]:
        """Cut the next `n` rows at the ends of chunks: which of them, and the row of the chunk at which they begin."""
        start = 0
        while start < n:
            stop = min(n, start + self.rows - self._held)
            part = range(start, stop)
            into, self._held = self._held, (self._held + len(part)) % self.rows
            yield part, into
            start = stop

    def full(self, held: int) -> int | None:
        """The number of rows of the chunk if it is to be written now."""
        return held if held == self.rows or self._done + held == self._n_rows else None

    def next(self, n: int) -> Path:
        """Where to write the next `n` rows."""
        name = f"{self._base}_chunk_{len(self._entries)}.pt" if self.rows < self._n_rows else f"{self._base}.pt"
        entry = {"file": name, "start_idx": self._done, "end_idx": self._done + n, "n_samples": n}
        self._entries.append(entry)
        self._done += n
        return self._folder / name

    def close(self) -> list[str]:
        """List the chunks, where there are several; returns the names of all files, the list last."""
        names = [str(entry["file"]) for entry in self._entries]
        if self.rows >= self._n_rows:
            return names
        info = {**self._info, "chunks": self._entries, "total_samples": self._done, "num_chunks": len(names)}
        name = f"{self._base}_chunks_info.json"
        (self._folder / name).write_text(json.dumps(info, indent=2))
        return [*names, name]


def _descending(block: Block) -> tuple[Array, Array]:
    """Row and place of every entry, the strongest of a row first."""
    row = block.rows
    order = np.lexsort((block.features, -block.activations, row))
    place = np.empty(len(row), np.int64)
    place[order] = np.arange(len(row)) - block.indptr[row]
    return row, place


def _float32(block: Block) -> Array:
    with np.errstate(over="ignore"):
        values = block.activations.astype(np.float32)
    inexact = np.flatnonzero(values != block.activations)
    if len(inexact):
        raise InvalidInputError(
            f"the activation {block.activations[inexact[0]]!r} of sample {block.samples[block.rows[inexact[0]]]} is no "
            "float32, which these files hold."
        )
    return values


def _units(selected: Selected) -> Array:
    if selected.features is not None:
        return selected.features
    active = np.zeros(selected.acts.shape[1], bool)
    for block in selected.blocks():
        active[block.features] = True
    if not active.any():
        raise InvalidInputError(
            "no feature is active on these samples; name those to write with --features (features=)."
        )
    return np.flatnonzero(active)


def _check_space(folder: Path, n_rows: int, width: int) -> None:
    wanted, free = 4 * n_rows * width, shutil.disk_usage(folder).free
    if wanted > free:
        raise StoreWriteError(
            f"{n_rows:,} samples x {width:,} features are {wanted / 1e9:,.1f} GB dense, and {free / 1e9:,.1f} GB are "
            f"free in {folder.parent}; name fewer features with --features (features=)."
        )
