"""What images and texts share: items of which some are left out, and names in messages."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from saestore.tables import Items

__all__ = ["chosen", "some"]

_NAMED = 5


def chosen(items: Items, mask: np.ndarray, **more: np.ndarray) -> Items:
    """The items where `mask` is True, with more columns, which replace those of the same name.

    A concept that gives way to such a column is none any more.
    """
    columns = {name: values[mask] for name, values in {**items.columns, **more}.items()}
    concepts = {name: values[mask] for name, values in items.concepts.items() if name not in more}
    return Items(items.key[mask], columns, concepts)


def some(names: Iterable[str]) -> str:
    """The first few of them."""
    listed = list(names)
    more = f" and {len(listed) - _NAMED:,} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more
