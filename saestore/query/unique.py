"""Near-duplicate items: which values of items are compared, so that one of several equal items is shown."""

from __future__ import annotations

from collections.abc import Callable

from saestore.errors import NotFoundError, did_you_mean
from saestore.query.set_table import SetTable
from saestore.sparse_rows import Array
from saestore.tables.column import as_objects
from saestore.tables.label_matrix import listed

_COMPARED = ("text", "hash", "key")  # the first of these columns that the items have


def alike(items: SetTable, unique: bool | str) -> Callable[[Array], Array]:
    """From distinct items to the values by which they are the same, None for unknown ones."""
    names = items.columns
    column = next((name for name in _COMPARED if name in names), None) if unique is True else str(unique)
    if unique is not True and unique not in names:
        raise NotFoundError(
            f"unique={unique!r}: the items have no such column. {did_you_mean(str(unique), names)}They have "
            f"{listed(names)}; or pass unique=True.",
            code="unknown-column",
        )
    if column is None:
        return lambda ids: ids
    return lambda ids: as_objects(items.column(column, ids))
