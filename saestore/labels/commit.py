"""Changing the labels of a set: the old ones, or the new ones, and nothing between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from saestore.storage import write_errors
from saestore.tables.stored_labels import LABELS, write_labels

if TYPE_CHECKING:
    from saestore.writing.writer import SetWriter

from collections.abc import Sequence
from functools import partial

import zarr

from saestore.errors import InvalidInputError, NotFoundError, StoreConflictError
from saestore.format import SetAttributes
from saestore.labels.label_matrix import LabelMatrix, as_labels
from saestore.storage import SnapshotStore
from saestore.tables.stored_items import StoredItems
from saestore.tables.stored_labels import StoredLabels, listed
from saestore.vocabulary import LEVELS
from saestore.writing import SetWriter

Array = np.ndarray[Any, Any]


def add_labels(root: zarr.Group, path: str, given: LabelMatrix, *, overwrite: bool = False) -> None:
    """Add concepts to the set at `path`, after those of their level that it has; `overwrite` replaces, in its place.

    Raises
    ------
    StoreConflictError
        The level has one of the names already.
    InvalidInputError
        The labels do not fit the set, or they are of samples and the set is still being built.

    Notes
    -----
    Memory: what is given, one concept of those that are there, two shards.
    """
    with SetWriter(root, path) as writer:
        attributes = _present(writer)
        # Of the set as it is now, which may be another one than was opened.
        as_labels(given, given.level, attributes.n_items, attributes.n_samples)
        _check_growing(attributes, given.level, path)
        _check_columns(writer.group, attributes, given.names)
        columns = stored_columns(writer.group, attributes, given.level)
        twice = [name for name in given.names if name in columns]
        if twice and not overwrite:
            raise StoreConflictError(
                f"{path} has {listed(twice, 5)} already (level {given.level!r}); pass overwrite=True to replace."
            )
        for i, name in enumerate(given.names):
            columns[name] = Column(len(given.rows(i)), partial(given.rows, i))
        commit_labels(writer, {given.level: columns})


def remove_labels(root: zarr.Group, path: str, names: Sequence[str], level: str | None = None) -> None:
    """Remove concepts, of both levels unless one is named.

    Raises
    ------
    NotFoundError
        There is no concept of one of the names.
    """
    with SetWriter(root, path) as writer:
        attributes = _present(writer)
        levels = [level] if level is not None else list(LEVELS)
        stored = {each: stored_columns(writer.group, attributes, each) for each in levels}
        missing = [name for name in names if not any(name in columns for columns in stored.values())]
        if missing:
            known = listed([name for columns in stored.values() for name in columns])
            raise NotFoundError(f"{path} has no concept {missing[0]!r}; there are {known}. Nothing was removed.")
        left = {level: {n: c for n, c in columns.items() if n not in names} for level, columns in stored.items()}
        commit_labels(writer, {level: left[level] for level in stored if len(left[level]) < len(stored[level])})


def _present(writer: SetWriter) -> SetAttributes:
    if writer.attributes is None:
        raise NotFoundError(f"There is no activation set {writer.path} in the store.")
    return writer.attributes


def _check_growing(attributes: SetAttributes, level: str, path: str) -> None:
    if level == "sample" and not attributes.complete:
        raise InvalidInputError(
            f"{path} is still being built ({attributes.n_samples:,} of {attributes.planned_samples:,} samples): labels "
            "of samples need all of them. Finish the build first; labels of items can be given now."
        )


def _check_columns(group: zarr.Group, attributes: SetAttributes, names: Sequence[str]) -> None:
    items: Any = group[attributes.items]
    taken = [name for name in names if name in StoredItems(items).names()]
    if taken:
        raise InvalidInputError(f"the items have a column {taken[0]!r}; give the concept another name.")


def stored_columns(group: zarr.Group, attributes: SetAttributes, level: str) -> dict[str, Column]:
    """The labels of one level that the set at `group` has."""
    info = attributes.concepts.get(level)
    if info is not None:
        labels = StoredLabels(SnapshotStore(group.store), f"{group.path}/{LABELS}/{info.name}".strip("/"), info)
        if level == "sample" and labels.shape[0] != attributes.n_samples:
            return {}  # what they say of the samples that came since is unknown: nobody reads them any more
        names, counts, rows = labels.names, labels.counts().tolist(), labels.rows
    elif level == "item":
        items: Any = group[attributes.items]
        names = StoredItems(items).concept_names
        given = LabelMatrix(names, StoredItems(items).concept_matrix(), level)
        counts, rows = np.diff(given.matrix.indptr).tolist(), given.rows
    else:
        return {}
    return {name: Column(count, partial(rows, i)) for i, (name, count) in enumerate(zip(names, counts, strict=True))}


class Column(NamedTuple):
    """One concept: how many items or samples have it, and a function that returns them, ascending."""

    size: int
    rows: Callable[[], Array]


def commit_labels(writer: SetWriter, levels: Mapping[str, Mapping[str, Column]]) -> None:
    """Replace all labels of some levels in one commit.

    A reader that opened the set before finds the old groups gone, and reads the attributes again.
    """
    attributes = writer.attributes
    if attributes is None:
        raise RuntimeError(f"{writer.path} was not started")
    found = dict(attributes.concepts)
    with write_errors(f"{writer.group.store}"):
        parent: Any = writer.group.require_group(LABELS)
        for level, columns in levels.items():
            old = attributes.concepts.get(level)
            number = 1 if old is None else int(old.name.rpartition("-")[2]) + 1
            found[level] = write_labels(
                parent,
                f"{level}-{number}",
                names=list(columns),
                n_rows=attributes.n_items if level == "item" else attributes.n_samples,
                columns=(column.rows() for column in columns.values()),
                nnz=sum(column.size for column in columns.values()),
                codec=attributes.codec,
            )
    writer.commit(replace(attributes, concepts=found))
    with write_errors(f"{writer.group.store}"):
        for level in levels:
            if level in attributes.concepts:
                del parent[attributes.concepts[level].name]
