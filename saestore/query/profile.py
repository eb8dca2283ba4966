"""Where features fire: at which positions of their items, and on items of which classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError
from saestore.query.slices import DENSE_LIMIT, check_size
from saestore.query.view import View
from saestore.sparse_rows import Array
from saestore.tables.label_matrix import position_of

if TYPE_CHECKING:
    from saestore.query.reader import SetReader


def counts_by_group(view: View, features: Array, group_of: Callable[[Array], Array], n_groups: int) -> Array:
    """Rows of each group on which each feature is active, int64 (len(features), n_groups).

    `group_of` gives the groups of rows of the view, -1 for rows that count for nothing. Memory: the answer, and a block
    of about 4 million entries.
    """
    distinct, back = np.unique(features, return_inverse=True)
    check_size((len(distinct), n_groups), 8, DENSE_LIMIT, "Choose features=.")
    parts = [np.empty((0, n_groups), np.int64)]
    for lists in view.lists(distinct):
        group = group_of(lists.samples)
        key = np.repeat(np.arange(len(lists.features)) * n_groups, np.diff(lists.indptr)) + group
        counts = np.bincount(key[group >= 0], minlength=len(lists.features) * n_groups)
        parts.append(counts.reshape(-1, n_groups))
    return np.concatenate(parts)[back]


def purity(acts: SetReader, view: View, features: Array, classes: Any) -> dict[str, Any]:
    """Variables of a dataset: the share of the most frequent class among active rows, and that class.

    `classes` are a column of the items, or names of concepts of items; an item belongs to the first that is true of it.
    """
    names, of_items = _classes(acts, classes)

    def class_of(rows: Array) -> Array:
        return of_items[rows if view.level == "item" else acts.item_index.locate(rows)[0]]

    counts = counts_by_group(view, features, class_of, len(names))
    total = counts.sum(axis=1)
    share = np.divide(counts.max(axis=1, initial=0), total, out=np.full(len(total), np.nan), where=total > 0)
    best = names[counts.argmax(axis=1)]
    best[total == 0] = None
    return {
        "purity": ("feature", share, {"long_name": "share of the most frequent class where it is active"}),
        "top_class": ("feature", best, {"long_name": "that class; None where it is never active"}),
    }


def _classes(acts: SetReader, classes: Any) -> tuple[Array, Array]:
    """Names of the classes, and the class of each item, -1 where unknown."""
    if isinstance(classes, str):
        column = acts.read_column("items", classes)
        values, number = np.unique(column.values, return_inverse=True)
        return values.astype(object), number if column.known is None else np.where(column.known, number, -1)
    if not isinstance(classes, Sequence) or not classes:
        message = f"classes={classes!r}: give a column of the items, or a list of their concepts."
        raise InvalidInputError(message, code="bad-classes")
    known, of_items = acts.concept_names("item"), np.full(acts.n_items, -1)
    for number, name in reversed(list(enumerate(classes))):
        position_of(name, known, "concept of items")
        of_items[acts.concept_mask(name, "item")] = number
    return np.array(classes, object), of_items


def positions(acts: SetReader, view: View, features: Array) -> dict[str, Any]:
    """Variables of a dataset: on how many samples at each position of their items each feature is active."""
    if view.level != "sample":
        raise InvalidInputError("positions=True counts samples; use level='sample'.", code="positions-level")
    sizes = np.diff(np.minimum(acts.item_index.pointers(), acts.shape[0]))
    if not sizes.any():
        raise NotFoundError(f"{acts.path} has no samples yet.", code="no-samples")
    counts = counts_by_group(view, features, lambda rows: acts.item_index.locate(rows)[1], int(sizes.max()))
    return {"n_active_at": (("feature", "position"), counts, {"long_name": "samples at a position where it is active"})}
