"""Rows of a hidden state, computed when they are read: what a build takes in place of embeddings on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch

from saestore.errors import InvalidInputError, OutOfRangeError
from saestore.format import canonical_json

__all__ = ["ModelSource", "Runner"]


class Runner(Protocol):
    """Runs a model on some of the items."""

    def __call__(self, first: int, stop: int) -> torch.Tensor:
        """Return the stored rows of items ``first`` to ``stop``, one after the other, on the CPU."""
        ...


class ModelSource:
    """An embedding source whose rows come out of a model.

    Items go through the model in groups that do not depend on what is read, so that a row is the same to the last bit
    in whatever order and in however many builds the rows are asked for. The rows of the last group are kept.

    Memory: the hidden states of one group, and what the model itself takes.

    Parameters
    ----------
    runner
        Gives the rows of a group.
    path
        Where the items lie, for messages and records.
    width, dtype
        Of a row.
    ptr
        int64 (n_items + 1,): the rows of item i are ``ptr[i]`` to ``ptr[i + 1] - 1``.
    groups
        int64 (n_groups + 1,): the items of group g are ``groups[g]`` to ``groups[g + 1] - 1``.
    keys
        Names of the items, for messages.
    digests
        uint8 (n_items, 16), of each item's content.
    facts
        What besides the items decides the rows; JSON-able.
    """

    layout = "model"

    def __init__(
        self,
        runner: Runner,
        *,
        path: str,
        width: int,
        dtype: str,
        ptr: np.ndarray,
        groups: np.ndarray,
        keys: np.ndarray,
        digests: np.ndarray,
        facts: Mapping[str, Any],
    ) -> None:
        self.path = path
        self.n_rows, self.d_in, self.dtype = int(ptr[-1]), width, dtype
        self._runner, self._ptr, self._groups = runner, ptr, groups
        self._keys, self._digests, self._facts = keys, digests, facts
        self._held: tuple[int, torch.Tensor] | None = None

    def __repr__(self) -> str:
        return f"<rows of a model {self.n_rows:,} x {self.d_in:,} {self.dtype}: {self.path}>"

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return rows ``start`` to ``stop`` on the CPU, (stop - start, width).

        Raises
        ------
        OutOfRangeError
            If the slice leaves the rows that there are.
        InvalidInputError
            If the model gives NaN or infinity, or an image cannot be read any more; names the item.
        """
        if not 0 <= start <= stop <= self.n_rows:
            raise OutOfRangeError(f"rows {start} to {stop} are not within the {self.n_rows:,} rows of {self.path}")
        borders = self._ptr[self._groups]
        parts = []
        row = start
        while row < stop:
            group = int(np.searchsorted(borders, row, "right")) - 1
            first, until = int(borders[group]), min(stop, int(borders[group + 1]))
            parts.append(self._rows(group)[row - first : until - first])
            row = until
        return torch.cat(parts) if parts else torch.empty(0, self.d_in, dtype=getattr(torch, self.dtype))

    def _rows(self, group: int) -> torch.Tensor:
        if self._held is None or self._held[0] != group:
            self._held = None  # before the next one is made
            first, stop = int(self._groups[group]), int(self._groups[group + 1])
            rows = self._runner(first, stop)
            finite = torch.isfinite(rows).all(dim=1)
            if not finite.all():
                row = int(self._ptr[first]) + int(torch.argmin(finite.to(torch.uint8)))
                item = int(np.searchsorted(self._ptr, row, "right")) - 1
                raise InvalidInputError(
                    f"the model gives NaN or infinity for {self._keys[item]} (row {row:,}). What is committed stays. "
                    f"In {self.dtype} some models overflow: try --model-dtype float32 (model_dtype=) or bfloat16"
                )
            self._held = group, rows
        return self._held[1]

    def fingerprint(self, n_rows: int | None = None) -> str:
        """Return a sha256 (hex) over the model, what is done to the items, and each item's content.

        Parameters
        ----------
        n_rows
            Of the first so many rows only, as a source of just their items would have it.
        """
        n_rows = self.n_rows if n_rows is None else n_rows
        n_items = int(np.searchsorted(self._ptr, n_rows, "left"))
        sha = hashlib.sha256(canonical_json({**self._facts, "n_rows": n_rows, "d_in": self.d_in, "dtype": self.dtype}))
        sha.update(np.ascontiguousarray(self._digests[:n_items]).tobytes())
        return sha.hexdigest()
