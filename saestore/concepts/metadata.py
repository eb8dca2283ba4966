"""Labels of items from a table whose rows are matched to the items by their keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from saestore.concepts.given import NewLabels, check_names
from saestore.errors import InvalidInputError
from saestore.items.stored import KEY, StoredItems
from saestore.items.table import Items

Array = np.ndarray[Any, Any]

_NAMED = 3  # keys that a message names
_TEXT = "text"


def from_metadata(path: str | os.PathLike[str], items: StoredItems, n_items: int, *, partial: bool) -> NewLabels:
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
    return NewLabels.of_rows(rows, n_items, "item")


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
            f"{path} has no row for {len(without):,} of {n_items:,} items: {_first(without)}. Labels that are not "
            "given are unknown, not false: add the rows."
        )
    return row_of


def match_keys(
    given: Sequence[str], stored: Sequence[str], where: str, name: Callable[[str], str] | None = None
) -> list[Any]:
    """Number of the item that each given key is, or None: the same key, else the only item of the same file name.

    Parameters
    ----------
    name
        What of a key is its file name; by default what follows the last slash.

    Raises
    ------
    InvalidInputError
        A key fits several items, or two keys the same one.
    """
    name = name or (lambda key: PurePosixPath(key.replace("\\", "/")).name)
    exact, by_name = _places(stored, str), _places(stored, name)
    found: list[Any] = []
    for key in given:
        fits = exact.get(key) or by_name.get(name(key)) or []
        if len(fits) > 1:
            raise InvalidInputError(
                f"{where}: {key!r} fits {len(fits)} items, such as {_first([stored[i] for i in fits[:2]])}; give their "
                "full keys."
            )
        found.append(fits[0] if fits else None)
    taken: dict[int, str] = {}
    for key, item in zip(given, found, strict=True):
        if item is not None and item in taken:
            raise InvalidInputError(f"{where}: both {taken[item]!r} and {key!r} are item {stored[item]!r}; keep one.")
        if item is not None:
            taken[item] = key
    return found


def _places(keys: Sequence[str], name: Callable[[str], str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        places.setdefault(name(key), []).append(i)
    return places


def _is_numbered(keys: Sequence[str]) -> bool:
    return all(key == str(i) for i, key in enumerate(keys))


def some(keys: Sequence[str], what: str) -> str:
    """How many keys there are and the first of them, as the beginning of "… fit nothing"."""
    one = len(keys) == 1
    return f"{len(keys):,} {what}{'' if one else 's'} ({_first(keys)}) {'fits' if one else 'fit'}"


def _first(keys: Sequence[str]) -> str:
    return ", ".join(map(repr, keys[:_NAMED])) + (", …" if len(keys) > _NAMED else "")
