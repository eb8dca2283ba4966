"""Labels of items from a table whose rows are matched to the items by their keys."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.labels.item_keys import first_of, match_keys, some
from saestore.labels.label_matrix import LabelMatrix, check_names
from saestore.tables.items import Items
from saestore.tables.stored_items import KEY, StoredItems

Array = np.ndarray[Any, Any]

_TEXT = "text"


def from_metadata(path: str | os.PathLike[str], items: StoredItems, n_items: int, *, partial: bool) -> LabelMatrix:
    """Labels of items from a ``metadata.csv``; its rows may be in any order.

    Parameters
    ----------
    partial
        Pass over rows that fit no item.

    Raises
    ------
    InvalidInputError
        An item has no row, a row no item, or a key fits several; the message names the first of them.
    """
    table = Items.from_csv(path)
    if not table.concepts:
        raise InvalidInputError(f"{path} has no column of labels, which hold nothing but 0 and 1.")
    check_names(list(table.concepts))
    row_of = _rows_of_items(str(path), table, items, n_items, partial=partial)
    rows = {name: np.flatnonzero(mask[row_of]) for name, mask in table.concepts.items()}
    return LabelMatrix.of_rows(rows, n_items, "item")


def _rows_of_items(path: str, table: Items, items: StoredItems, n_items: int, *, partial: bool) -> Array:
    """Row of the table for every item."""
    if KEY not in items.names():
        raise InvalidInputError(
            "the set has no keys of items to match; give {name: mask, …} in the order of its items."
        )
    stored, given = items.column(KEY).tolist(), table.key.tolist()
    if _is_numbered(given):
        if not _is_numbered(stored):
            raise InvalidInputError(
                f"{path} has no image_path or text_path, but the items have keys such as {stored[0]!r} to be matched."
            )
        # A row number says nothing where the texts can be compared.
        if _TEXT in items.names() and _TEXT in table.columns:
            stored, given = items.column(_TEXT).tolist(), table.columns[_TEXT].tolist()
    if stored == given:
        return np.arange(n_items)
    item_of = match_keys(given, stored, path)
    strangers = [key for key, item in zip(given, item_of, strict=True) if item is None]
    if strangers and not partial:
        raise InvalidInputError(
            f"{path}: {some(strangers, 'row')} no item of the set, whose keys are such as {stored[0]!r}. Correct them, "
            "or pass over such rows with --partial (partial=True)."
        )
    row_of = np.full(n_items, -1, np.int64)
    for row, item in enumerate(item_of):
        if item is not None:
            row_of[item] = row
    without = [stored[i] for i in np.flatnonzero(row_of < 0)]
    if without:
        raise InvalidInputError(
            f"{path} has no row for {len(without):,} of {n_items:,} items: {first_of(without)}. Labels that are not "
            "given are unknown, not false: add the rows."
        )
    return row_of


def _is_numbered(keys: Sequence[str]) -> bool:
    return all(key == str(i) for i, key in enumerate(keys))
