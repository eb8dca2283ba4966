"""What is to be written: the rows of a set, its items, and how both are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from saestore.format import SetAttributes, default_segment_rows
from saestore.progress import Progress
from saestore.sparse_rows import RowSource
from saestore.tables.fingerprint import items_fingerprint, spans_fingerprint
from saestore.tables.item_index import ItemIndex
from saestore.tables.item_pointers import item_pointers, token_spans
from saestore.tables.items import Items, as_items

__all__ = ["ItemTable", "WritePlan", "add_dropped"]

Array = np.ndarray[Any, Any]

_FIRST_ROWS = 4096  # whose activity chooses the size of segments


@dataclass(frozen=True, kw_only=True)
class ItemTable:
    """The items of a set.

    Attributes
    ----------
    index
        Which rows belong to which item.
    items
        The table of items, if there is one.
    path
        The file that the table was read from, if any.
    spans
        int32 (n_rows, 2), the first character of each token in its text and the one after its last, if known.
    columns
        Further columns of samples by name, (n_rows,) each.
    """

    index: ItemIndex
    items: Items | None = None
    path: str | None = None
    spans: Array | None = None
    columns: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, n_rows: int, items: Any, item_ptr: Any, spans: Any, path: str | None = None) -> ItemTable:
        """From what a caller gives for `n_rows` rows.

        Raises NotFoundError, InvalidInputError: A file is missing or damaged, or the rows, the items and the spans do
        not fit each other.
        """
        table = None if items is None else as_items(items)
        index = ItemIndex.of(item_pointers(item_ptr, None if table is None else len(table), n_rows))
        return cls(index=index, items=table, path=path, spans=None if spans is None else token_spans(spans, n_rows))

    @cached_property
    def provenance(self) -> dict[str, str | None]:
        """What the set records of it, by which a later call recognises it."""
        return {
            "items": self.path,
            "items_fingerprint": items_fingerprint(self.items, self.index),
            "token_spans_fingerprint": None if self.spans is None else spans_fingerprint(self.spans),
        }


@dataclass(frozen=True, kw_only=True)
class WritePlan:
    """A set that shall be written.

    Attributes
    ----------
    path
        ``dataset/sample_type/sae``.
    rows, table
        Its rows and its items.
    dtype, codec
        Of the stored activations.
    segment_rows
        Rows per segment; None for about two million non-zeros.
    sae
        What the set records of its SAE.
    dropped
        The record of what ``top_k`` and a narrower dtype drop, before the first row; None where nothing is dropped.
    settings
        Keys of the provenance that must be equal for a set to be taken up, each with its name in messages.
    """

    path: str
    rows: RowSource
    table: ItemTable
    dtype: str
    codec: str = "pcodec"
    segment_rows: int | None = None
    sae: Mapping[str, Any]
    dropped: Mapping[str, Any] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    verb: ClassVar[str] = "read"

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all rows."""
        return self.rows.fingerprint()

    @property
    def provenance(self) -> dict[str, Any]:
        """What the set records of its rows and items."""
        return {**self.rows.provenance(), "fingerprint": self.fingerprint, **self.table.provenance}

    def check(self, first: int, progress: Progress) -> None:
        """Read the rows from `first` on and refuse what must not be stored; nothing is written yet."""

    def measure(self, first: int) -> tuple[float, dict[str, Any]]:
        """Active features per row from row `first` on, and what the set's summary records of them."""
        rows = self.rows.read(first, min(first + _FIRST_ROWS, self.rows.n_rows))
        return rows.nnz / len(rows), {}

    def count_dropped(self, record: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The record of what was dropped so far, with what the last read dropped added."""
        return record

    def attributes(self) -> SetAttributes:
        """Of the new set, before its first row."""
        l0, summary = self.measure(0)
        index = self.table.index
        return SetAttributes(
            n_features=self.rows.n_features,
            dtype=self.dtype,
            codec=self.codec,
            n_items=index.n_items,
            item_size=index.item_size,
            planned_samples=self.rows.n_rows,
            segment_rows=int(self.segment_rows or default_segment_rows(l0)),
            sae=self.sae,
            source=self.provenance,
            dropped=self.dropped,
            summary=summary,
        )


def add_dropped(record: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The record of what was dropped from some rows, with the record of the rows that follow added."""

    def both(name: str) -> tuple[Any, Any]:
        return more.get(name, 0), record.get(name, 0)

    sums = {name: sum(both(name)) for name in ("n_dropped", "sum_dropped", "sum_total")}
    return {
        **record,
        **sums,
        "share_of_sum": sums["sum_dropped"] / sums["sum_total"] if sums["sum_total"] else 0.0,
        "max_relative_error": max(both("max_relative_error")),
    }
