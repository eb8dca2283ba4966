"""Changing the tables of a set: columns and concepts are added, replaced and removed in one commit each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError, StoreConflictError
from saestore.format import KEY, LEVEL_TABLES, SetAttributes
from saestore.storage import SnapshotStore, WriteBatch
from saestore.tables.column import Column, check_names
from saestore.tables.label_matrix import LabelMatrix, listed, position_of
from saestore.tables.stored_table import StoredTable
from saestore.tables.table_writer import TableWriter
from saestore.writing.writer import SetWriter

Array = np.ndarray[Any, Any]


def set_columns(writer: SetWriter, table: str, columns: Mapping[str, Column]) -> None:
    """Add columns to a table of a set, or replace columns of the same name.

    Raises InvalidInputError: A column has another length than the table, or a name that means something else.
    """
    check_names(columns, "column")
    attributes = writer.require()
    concepts = attributes.table(table).concepts
    for name, column in columns.items():
        if concepts is not None and name in concepts.names:
            raise InvalidInputError(
                f"the {table} have a concept {name!r}; give the column another name, or change the concept with "
                "concepts.add(…, overwrite=True).",
                code="name-taken",
            )
        if len(column) != attributes.n_rows(table):
            raise InvalidInputError(
                f"column {name!r} has {len(column):,} values; there are {attributes.n_rows(table):,} {table}.",
                code="wrong-length",
            )
    _check_complete(attributes, table, writer.path)

    def fill(batch: WriteBatch, a: SetAttributes) -> SetAttributes:
        changed = TableWriter(batch, table, a.table(table), a.codec)
        for name, column in columns.items():
            changed.set_column(name, column)
        return a.with_table(table, changed.info)

    writer.change(fill)


def remove_columns(writer: SetWriter, table: str, names: Sequence[str]) -> None:
    """Remove columns or concepts of a table of a set.

    Raises NotFoundError: There is none of one of the names. Nothing is removed.
    """
    info = writer.require().table(table)
    for name in names:
        position_of(name, info.names, f"column of the {table}")
        if (table, name) == ("items", KEY):
            raise InvalidInputError(f"{KEY!r} names the items and cannot be removed.", code="reserved-name")
    _remove(writer, {table: names})


def add_labels(writer: SetWriter, labels: LabelMatrix, *, overwrite: bool = False) -> None:
    """Add concepts to a set; `overwrite` replaces concepts of the same name in their place.

    Raises
    ------
    StoreConflictError
        The level has one of the names already.
    InvalidInputError
        The labels do not fit the set, or they are of samples and the set is still being built.

    Notes
    -----
    Memory: all concepts of the level twice, 5 bytes per positive label.
    """
    table = LEVEL_TABLES[labels.level]
    attributes = writer.require()
    _check_complete(attributes, table, writer.path)
    info, n_rows = attributes.table(table), attributes.n_rows(table)
    if labels.n_rows != n_rows:
        raise InvalidInputError(
            f"the labels are of {labels.n_rows:,} {table}; the set has {n_rows:,} now.", code="wrong-length"
        )
    taken = [name for name in labels.names if name in info.columns]
    if taken:
        raise InvalidInputError(
            f"the {table} have a column {taken[0]!r}; give the concept another name.", code="name-taken"
        )
    stored = _stored(writer, table).labels()
    twice = [name for name in labels.names if name in stored.names]
    if twice and not overwrite:
        raise StoreConflictError(
            f"{writer.path} has {listed(twice, 5)} already (level {labels.level!r}); pass --overwrite "
            "(overwrite=True) to replace.",
            code="concept-exists",
        )
    _set_concepts(writer, {table: stored.updated(labels)}, {})


def remove_labels(writer: SetWriter, names: Sequence[str], level: str | None = None) -> None:
    """Remove concepts, of both levels unless one is named.

    Raises NotFoundError: There is no concept of one of the names. Nothing is removed.
    """
    attributes = writer.require()
    tables = LEVEL_TABLES.values() if level is None else [LEVEL_TABLES[level]]
    found = {table: attributes.table(table).concepts for table in tables}
    known = {table: concepts.names for table, concepts in found.items() if concepts is not None}
    missing = [name for name in names if not any(name in of for of in known.values())]
    if missing:
        raise NotFoundError(
            f"{writer.path} has no concept {missing[0]!r}; there are "
            f"{listed([n for of in known.values() for n in of])}. Nothing was removed.",
            code="unknown-concept",
        )
    _remove(writer, {table: [n for n in names if n in of] for table, of in known.items()})


def _remove(writer: SetWriter, names: Mapping[str, Sequence[str]]) -> None:
    left = {}
    for table, gone in names.items():
        concepts = writer.require().table(table).concepts
        if concepts is not None and set(gone) & set(concepts.names):
            left[table] = _stored(writer, table).labels().without(gone)
    _set_concepts(writer, left, names)


def _set_concepts(writer: SetWriter, labels: Mapping[str, LabelMatrix], columns: Mapping[str, Sequence[str]]) -> None:
    """Commit these concepts by table, and remove these columns."""

    def fill(batch: WriteBatch, a: SetAttributes) -> SetAttributes:
        for table in [name for name in {**labels, **columns} if name in labels or columns.get(name)]:
            changed = TableWriter(batch, table, a.table(table), a.codec)
            changed.remove_columns(columns.get(table, ()))
            if table in labels:
                changed.set_concepts(labels[table])
            a = a.with_table(table, changed.info)
        return a

    writer.change(fill)


def _stored(writer: SetWriter, table: str) -> StoredTable:
    path = f"{writer.root.path}/{writer.path}".strip("/")
    return StoredTable(SnapshotStore(writer.root.store), path, table, writer.require())


def _check_complete(attributes: SetAttributes, table: str, path: str) -> None:
    if table == "samples" and not attributes.complete:
        raise InvalidInputError(
            f"{path} is still being built ({attributes.n_samples:,} of {attributes.planned_samples:,} samples). Finish "
            "the build before you give labels or columns of samples; labels and columns of items can be given now.",
            code="incomplete-set",
        )
