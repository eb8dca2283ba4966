"""Committing labels: a new group for all of a level, named by one rewrite of the set's attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from saestore.items.labels import LABELS, write_labels
from saestore.storage import write_errors

if TYPE_CHECKING:
    from saestore.writing.writer import SetWriter

Array = np.ndarray[Any, Any]


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
