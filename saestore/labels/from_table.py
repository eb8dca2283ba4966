"""Labels of items from a table whose rows are matched to the items by their keys."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from saestore.errors import InvalidInputError
from saestore.format import KEY
from saestore.labels.as_labels import check_names, of_masks
from saestore.labels.item_keys import OnUnmatched, check_on_unmatched, first_of, match_keys, unmatched
from saestore.query.set_table import SetTable
from saestore.sparse_rows import Array
from saestore.tables.items import Items
from saestore.tables.label_matrix import LabelMatrix

_TEXT = "text"


def from_metadata(
    path: str | os.PathLike[str], items: SetTable, n_items: int, *, on_unmatched: OnUnmatched
) -> LabelMatrix:
    """Labels of items from a ``metadata.csv``; its rows may be in any order."""
    table = Items.from_csv(path)
    if not table.concepts:
        message = f"{path} has no column of labels, which hold only 0, 1 and empty cells."
        raise InvalidInputError(message, code="no-concept")
    check_names(list(table.concepts))
    check_on_unmatched(on_unmatched)
    row_of = _rows_of_items(str(path), table, items, n_items, on_unmatched)
    return of_masks({name: mask[row_of] for name, mask in table.concepts.items()}, n_items, "item")


def _rows_of_items(path: str, table: Items, items: SetTable, n_items: int, on_unmatched: OnUnmatched) -> Array:
    """Row of the table for every item."""
    if KEY not in items.names():
        message = "the items of the set have no keys to match; give {name: mask, …} in the order of its items."
        raise InvalidInputError(message, code="no-keys")
    stored, given = items.column(KEY).tolist(), table.key.tolist()
    if _is_numbered(given):
        if not _is_numbered(stored):
            message = f"{path} has no image_path or text_path, but the items have keys such as {stored[0]!r}."
            raise InvalidInputError(message, code="no-keys")
        # A row number says nothing where the texts can be compared.
        if _TEXT in items.names() and _TEXT in table.columns:
            stored, given = items.column(_TEXT).tolist(), table.columns[_TEXT].tolist()
    if stored == given:
        return np.arange(n_items)
    item_of = match_keys(given, stored, path)
    if on_unmatched == "error":
        unmatched([key for key, item in zip(given, item_of, strict=True) if item is None], "row", stored[0], path)
    row_of = np.full(n_items, -1, np.int64)
    for row, item in enumerate(item_of):
        if item is not None:
            row_of[item] = row
    without = [stored[i] for i in np.flatnonzero(row_of < 0)]
    if without:
        raise InvalidInputError(
            f"{path} has no row for {len(without):,} of {n_items:,} items: {first_of(without)}. Add the rows; leave "
            "cells empty where a label is unknown.",
            code="missing-rows",
        )
    return row_of


def _is_numbered(keys: Sequence[str]) -> bool:
    return all(key == str(i) for i, key in enumerate(keys))
