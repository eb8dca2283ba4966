"""Embeddings that a function of the caller makes, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from saestore.embeddings.base import Matrix, checked, rows_fingerprint
from saestore.errors import InvalidInputError

__all__ = ["BatchSource"]


class BatchSource:
    """Embeddings that a function makes, in order, in batches of any size; from the start again for earlier rows.

    A build calls `batches` several times; it must give the same rows each time. Memory: the batches of a read.

    Parameters
    ----------
    batches
        Returns an iterator over tensors or arrays (n, d_in), each in row order.
    n_rows
        Rows of all batches.
    """

    path, layout = "a function", "batches"
    item_size: int | None = None

    def __init__(self, batches: Callable[[], Iterable[Any]], n_rows: int) -> None:
        self._batches, self.n_rows = batches, n_rows
        self._iterator: Iterator[Any] = iter(())
        self._held, self._start = torch.empty(0, 0), 0
        self._rewind()
        first = self._held
        checked(Matrix(tuple(first.shape), str(first.dtype).removeprefix("torch."), lambda *_: None), "a batch")
        self.d_in, self.dtype = int(first.shape[1]), str(first.dtype).removeprefix("torch.")

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
            raise InvalidInputError("the function gives no batch of embeddings", code="wrong-row-count")

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
        if hasattr(self, "d_in") and (rows.ndim != 2 or rows.shape[1] != self.d_in or rows.dtype != self._held.dtype):
            raise InvalidInputError(
                f"a batch is {rows.dtype} of shape {tuple(rows.shape)}; the first was {self._held.dtype}, {self.d_in} "
                "wide",
                code="unequal-chunks",
            )
        self._start += len(self._held)
        self._held = rows
        return True
