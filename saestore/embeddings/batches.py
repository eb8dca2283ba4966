"""Embeddings that come in batches, from a function, a list, a loader or an iterator."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from saestore.embeddings.base import REMAP_BYTES, Matrix, Part, PartedSource, checked, rows_fingerprint
from saestore.errors import InvalidInputError


class BatchSource:
    """Embeddings in batches of any size, in order; from the start again for earlier rows.

    `batches` returns an iterator over tensors or arrays, (n, d_in) or (n_items, rows, d_in), each in row order. A build
    goes through them several times; they must have the same rows each time. Memory: the batches of a read.
    """

    path, layout = "batches", "batches"
    item_size: int | None
    _shape: tuple[int, ...] | None = None  # of a row in a batch, or of an item

    def __init__(self, batches: Callable[[], Iterable[Any]], n_rows: int) -> None:
        self._batches, self.n_rows = batches, n_rows
        self._iterator: Iterator[Any] = iter(())
        self._held, self._start = torch.empty(0, 0), 0
        self._rewind()
        self.dtype = str(self._held.dtype).removeprefix("torch.")
        self.d_in = checked(Matrix(tuple(self._held.shape), self.dtype, lambda *_: None), "a batch").shape[1]
        shape = self._shape or ()
        self.item_size = None if len(shape) < 2 else int(np.prod(shape[:-1]))

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return rows ``start`` to ``stop`` on the CPU; refuses batches that end before them or differ in width."""
        if start < self._start:
            self._rewind()
        parts = []
        while start < stop:
            end = self._start + len(self._held)
            if start < end:
                parts.append(self._held[start - self._start : stop - self._start])
                start += len(parts[-1])
            elif not self._advance():
                raise InvalidInputError(
                    f"the batches end after {end:,} rows, and {self.n_rows:,} were declared", code="wrong-row-count"
                )
        if stop == self.n_rows and (self._start + len(self._held) > stop or next(self._iterator, None) is not None):
            raise InvalidInputError(
                f"the batches go on after the {self.n_rows:,} rows that were declared", code="wrong-row-count"
            )
        return torch.cat(parts) if parts else self._held[:0]

    def fingerprint(self, n_rows: int | None = None) -> str:
        """Return a SHA-256 (hex), as of a file with these rows."""
        return rows_fingerprint(self, n_rows)

    def _rewind(self) -> None:
        batches = self._batches()
        if not isinstance(batches, Iterable):
            raise InvalidInputError(
                f"the function returns {type(batches).__name__}, not an iterator over batches", code="bad-embeddings"
            )
        self._iterator, self._start = iter(batches), 0
        self._held = self._held[:0]
        if not self._advance():
            raise InvalidInputError(
                "there is no batch of embeddings; batches are read several times, so a function must return a new "
                "iterator each time",
                code="wrong-row-count",
            )

    def _advance(self) -> bool:
        batch = next(self._iterator, None)
        if batch is None:
            return False
        if isinstance(batch, np.ndarray):
            batch = batch.astype(batch.dtype.newbyteorder("="), copy=False)  # which torch asks for
        try:
            rows = torch.as_tensor(batch).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInputError(
                f"a batch is not an array of numbers but {type(batch).__name__} ({error})", code="bad-embeddings"
            ) from error
        shape = tuple(rows.shape[1:])
        if self._shape is not None and (shape != self._shape or rows.dtype != self._held.dtype):
            raise InvalidInputError(
                f"a batch is {rows.dtype} of shape {tuple(rows.shape)}; the first was {self._held.dtype}, and "
                f"{' x '.join(map(str, self._shape))} in each row",
                code="unequal-chunks",
            )
        self._shape = shape
        self._start += len(self._held)
        self._held = rows.flatten(0, -2) if rows.ndim > 2 else rows
        return True


def spooled(batches: Iterator[Any], n_rows: int) -> PartedSource:
    """Embeddings in batches that can be read only once, through an unnamed temporary file in ``$TMPDIR``."""
    source = BatchSource(lambda: batches, n_rows)
    step = max(1, REMAP_BYTES // (4 * source.d_in))
    with tempfile.TemporaryFile(prefix="saestore-") as file:
        for start in range(0, n_rows, step):
            file.write(source.read(start, min(start + step, n_rows)).contiguous().view(torch.uint8).numpy().data)
        file.flush()
        stored = np.memmap(file, np.uint8, "c", shape=(n_rows, file.tell() // n_rows))
    rows = torch.from_numpy(stored).view(getattr(torch, source.dtype))

    def fill(out: torch.Tensor, start: int, stop: int) -> None:
        out.copy_(rows[start:stop])

    parts = [Part(0, n_rows, lambda: Matrix(tuple(rows.shape), source.dtype, fill))]
    return PartedSource("batches", "batches", source.d_in, source.dtype, parts, item_size=source.item_size)
