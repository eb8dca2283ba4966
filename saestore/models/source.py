"""Rows of a hidden state, computed when they are read, in place of embeddings on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from saestore.errors import InvalidInputError, OutOfRangeError
from saestore.format import canonical_json


class Runner(Protocol):
    """Runs a model on some of the items."""

    def __call__(self, first: int, stop: int) -> torch.Tensor:
        """Return the stored rows of items ``first`` to ``stop``, one after the other, on the CPU."""
        ...


@dataclass(repr=False, eq=False)
class ModelSource:
    """An embedding source whose rows are computed by a model.

    Items go through the model in fixed groups, so that a row is identical to the last bit in every order of reading and
    in every build. The rows of the last group are kept. Memory: the hidden states of one group, and the model.
    """

    runner: Runner  # computes the rows of a group
    path: str  # where the items are, for messages and records
    d_in: int  # width of a row
    dtype: str
    ptr: np.ndarray  # int64 (n_items + 1,): the rows of item i are ``ptr[i]:ptr[i + 1]``
    groups: np.ndarray  # int64 (n_groups + 1,): the items of group g are ``groups[g]:groups[g + 1]``
    keys: np.ndarray  # names of the items, for messages
    digests: np.ndarray  # uint8 (n_items, 16): digest of each item's content
    facts: Mapping[str, Any]  # JSON-able settings that decide the rows, besides the items
    layout: str = "model"
    item_size: int | None = None
    _cached: tuple[int, torch.Tensor] | None = None

    def __post_init__(self) -> None:
        self.n_rows = int(self.ptr[-1])

    def __repr__(self) -> str:
        return f"<rows of a model {self.n_rows:,} x {self.d_in:,} {self.dtype}: {self.path}>"

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return rows ``start`` to ``stop`` on the CPU, (stop - start, d_in); refuses NaN and infinity, by the item."""
        if not 0 <= start <= stop <= self.n_rows:
            raise OutOfRangeError(f"rows {start} to {stop} are not within the {self.n_rows:,} rows of {self.path}")
        borders = self.ptr[self.groups]
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
            first, stop = int(self.groups[group]), int(self.groups[group + 1])
            rows = self.runner(first, stop)
            finite = torch.isfinite(rows).all(dim=1)
            if not finite.all():
                row = int(self.ptr[first]) + int(torch.argmin(finite.to(torch.uint8)))
                item = int(np.searchsorted(self.ptr, row, "right")) - 1
                raise InvalidInputError(
                    f"the model gives NaN or infinity for {self.keys[item]} (row {row:,}). What is committed stays. "
                    f"In {self.dtype} some models overflow: try --model-dtype float32 (model_dtype=) or bfloat16",
                    code="not-finite",
                )
            self._cached = group, rows
        return self._cached[1]

    def fingerprint(self, n_rows: int | None = None) -> str:
        """SHA-256 (hex) over model, preparation, and each item's content; of the first `n_rows` rows if given."""
        n_rows = self.n_rows if n_rows is None else n_rows
        n_items = int(np.searchsorted(self.ptr, n_rows, "left"))
        sha = hashlib.sha256(canonical_json({**self.facts, "n_rows": n_rows, "d_in": self.d_in, "dtype": self.dtype}))
        sha.update(np.ascontiguousarray(self.digests[:n_items]).tobytes())
        return sha.hexdigest()
