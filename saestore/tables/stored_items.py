"""Items inside a store: the group ``items`` of an activation set."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from saestore.errors import NotFoundError
from saestore.format import ITEMS
from saestore.storage import create_array, missing_as_error, write_array
from saestore.tables.item_index import POINTERS, ItemIndex
from saestore.tables.items import Items
from saestore.tables.stored_labels import StoredLabels, position_of

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]

KEY, CONCEPTS, CONCEPT = "key", "concepts", "concept"
SPANS = ("char_start", "char_stop")
_RESERVED = (KEY, CONCEPTS, CONCEPT, POINTERS)
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*\Z")


def write_items(
    group: zarr.Group,
    items: Items | None,
    index: ItemIndex,
    codec: str,
    spans: Array | None,
    *,
    name: str = ITEMS,
) -> list[str]:
    """Write items, their pointers and, for texts, every token's characters; returns the names of all nodes.

    Parameters
    ----------
    group
        The set's group.
    spans
        int32 (n_samples, 2): first character of a token in its text, and the one after its last.
    name
        Of the group. Beside `ITEMS` spans lie at the set's root; in any other they lie inside it, because those at the
        root belong to the items before.
    """
    target = group.create_group(name, attributes={"n_items": index.n_items})
    names = []
    if index.item_size is None:
        write_array(target, POINTERS, index.pointers(), ("item_pointer",), codec)
        names.append(POINTERS)
    if items is not None:
        names += _write_table(target, items, codec)
    written = [name, *(f"{name}/{each}" for each in names)]
    if spans is not None:
        for place, values in zip(span_nodes(name), spans.T, strict=True):
            write_array(group, place, np.ascontiguousarray(values), ("sample",), codec)
            written.append(place)
    return written


def span_nodes(items: str) -> list[str]:
    """Where the spans of tokens are, relative to the set, when the items are in the group `items`."""
    return [name if items == ITEMS else f"{items}/{name}" for name in SPANS]


def _write_table(target: zarr.Group, items: Items, codec: str) -> list[str]:
    write_array(target, KEY, items.key, ("item",), codec)
    names = [KEY]
    for i, (column, values) in enumerate(items.columns.items()):
        name = column if _PLAIN.match(column) and column not in _RESERVED else f"column-{i}"
        write_array(target, name, values, ("item",), codec, attributes={"column": column})
        names.append(name)
    if items.concepts:
        labels = np.array(list(items.concepts), np.dtypes.StringDType())
        write_array(target, CONCEPT, labels, ("concept",), codec)
        matrix = np.stack(list(items.concepts.values()), axis=1)
        array = create_array(target, CONCEPTS, matrix.shape, np.bool_, ("item", "concept"), codec)
        array[...] = matrix
        names += [CONCEPT, CONCEPTS]
    target.attrs["columns"] = names
    return names


@dataclass(frozen=True)
class StoredItems:
    """The items of a set, read when asked for.

    Attributes
    ----------
    group
        The group ``items``.
    labels
        Labels that replace those which the set was started with; None where none were given since.

    Notes
    -----
    Memory: the columns that were asked for, 8 to some 100 bytes an item each.
    """

    group: zarr.Group
    labels: StoredLabels | None = None

    @cached_property
    def _columns(self) -> dict[str, str]:
        """Column name -> array name, concepts and pointers excepted."""
        found = {}
        for name in self.group.attrs.get("columns", []):  # type: ignore[union-attr]
            if name not in (POINTERS, CONCEPT, CONCEPTS):
                with missing_as_error(f"{self.group.path}/{name}"):
                    attrs = self.group[str(name)].attrs
                found[str(attrs.get("column", name))] = str(name)
        return found

    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self._columns)

    def column(self, name: str, items: Array | None = None) -> Array:
        """One column, (n_items,), or its values at some items, of which only the chunks they lie in are read.

        Raises
        ------
        NotFoundError
            There is none of that name.
        """
        if name not in self._columns:
            raise NotFoundError(f"The items have no column {name!r}; they have {', '.join(self._columns) or 'none'}.")
        return self._read(self._columns[name], items)

    @cached_property
    def concept_names(self) -> list[str]:
        """Names of the concepts, in the order of their columns."""
        if self.labels is not None:
            return self.labels.names
        columns: Any = self.group.attrs.get("columns", [])
        return [str(name) for name in self._read(CONCEPT)] if CONCEPT in columns else []

    def concept(self, name: str) -> Array:
        """Which items have a concept, bool (n_items,).

        Raises
        ------
        NotFoundError
            There is none of that name.
        """
        if self.labels is not None:
            return self.labels.mask(name)
        place = position_of(name, self.concept_names, "concept of items")
        with missing_as_error(f"{self.group.path}/{CONCEPTS}"):
            array: Any = self.group[CONCEPTS]
            return np.asarray(array[:, place])

    def concept_matrix(self) -> scipy.sparse.csc_array:
        """All labels of the items, bool, items x concepts."""
        import scipy.sparse as sp

        if self.labels is not None:
            return self.labels.matrix()
        if not self.concept_names:
            return sp.csc_array((int(self.group.attrs["n_items"]), 0), dtype=bool)  # type: ignore[arg-type]
        return sp.csc_array(self._read(CONCEPTS))

    def _read(self, name: str, rows: Array | None = None) -> Array:
        with missing_as_error(f"{self.group.path}/{name}"):  # also of items that an append has replaced
            array: Any = self.group[name]
            return np.asarray(array[...] if rows is None else array.oindex[rows])
