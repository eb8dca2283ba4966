"""Rows of a hidden state, computed when they are read, in place of embeddings on disk."""

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
    """An embedding source whose rows are computed by a model.

    Items go through the model in fixed groups, so that a row is identical to the last bit in every order of reading and
    in every build. The rows of the last group are kept.

    Memory: the hidden states of one group, and the model.

    Parameters
    ----------
    runner
        Computes the rows of a group.
    path
        Where the items are, for messages and records.
    width, dtype
        Width and dtype of a row.
    ptr
        int64 (n_items + 1,): the rows of item i are ``ptr[i]`` to ``ptr[i + 1] - 1``.
    groups
        int64 (n_groups + 1,): the items of group g are ``groups[g]`` to ``groups[g + 1] - 1``.
    keys
        Names of the items, for messages.
    digests
        uint8 (n_items, 16): digest of each item's content.
    facts
        JSON-able settings that decide the rows, besides the items.
    """

    layout = "model"
    item_size: int | None = None

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
        self._cached: tuple[int, torch.Tensor] | None = None

    def __repr__(self) -> str:
        return f"<rows of a model {self.n_rows:,} x {self.d_in:,} {self.dtype}: {self.path}>"

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return rows ``start`` to ``stop`` on the CPU, (stop - start, width).

        Raises
        ------
        OutOfRangeError
            The slice is not within the rows.
        InvalidInputError
            The model gives NaN or infinity, or an image cannot be read any more; names the item.
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
        if self._cached is None or self._cached[0] != group:
            self._cached = None  # before the next one is made
            first, stop = int(self._groups[group]), int(self._groups[group + 1])
            rows = self._runner(first, stop)
            finite = torch.isfinite(rows).all(dim=1)
            if not finite.all():
                row = int(self._ptr[first]) + int(torch.argmin(finite.to(torch.uint8)))
                item = int(np.searchsorted(self._ptr, row, "right")) - 1
                raise InvalidInputError(
                    f"the model gives NaN or infinity for {self._keys[item]} (row {row:,}). What is committed stays. "
                    f"In {self.dtype} some models overflow: try --model-dtype float32 (model_dtype=) or bfloat16",
                    code="not-finite",
                )
            self._cached = group, rows
        return self._cached[1]

    def fingerprint(self, n_rows: int | None = None) -> str:
        """Return a sha256 (hex) over the model, the preparation of the items, and each item's content.

        Parameters
        ----------
        n_rows
            Only the first `n_rows` rows, as for a source of only their items.
        """
        n_rows = self.n_rows if n_rows is None else n_rows
        n_items = int(np.searchsorted(self._ptr, n_rows, "left"))
        sha = hashlib.sha256(canonical_json({**self._facts, "n_rows": n_rows, "d_in": self.d_in, "dtype": self.dtype}))
        sha.update(np.ascontiguousarray(self._digests[:n_items]).tobytes())
        return sha.hexdigest()
