"""Columns that are computed from activations: statistics of features, and the maxima of items."""

from __future__ import annotations

from typing import Any

import numpy as np

from saestore.query import distribution
from saestore.query.open_set import OpenSet, retry_on_stale_snapshot
from saestore.query.view import View
from saestore.query.where_names import feature_of
from saestore.stats import STATISTICS
from saestore.tables.column import Column

STATISTIC_NAMES = tuple(s.name for s in STATISTICS)


@retry_on_stale_snapshot
def statistic(reader: OpenSet, name: str, rows: Any = None) -> Column | None:
    """A statistic of all features or of some, over all samples; None where there is none of this name."""
    formula = next((s for s in STATISTICS if s.name == name), None)
    if formula is None:
        return None
    n_features = reader.shape[1]
    ids = np.arange(n_features)[slice(None) if rows is None else rows]
    return Column(np.asarray(formula.of(distribution.all_moments(reader.segments, ids, n_features, reader.dtype))))


@retry_on_stale_snapshot
def item_maximum(reader: OpenSet, name: str) -> Column | None:
    """The activation of ``feature[N]`` of every item, the maximum over its samples; None for another name."""
    feature = feature_of(name, reader.shape[1])
    if feature is None:
        return None
    values = np.zeros(reader.n_items, reader.dtype)
    for lists in View.of(reader, "item", None).lists(np.array([feature])):
        values[lists.samples] = lists.data
    return Column(values)
