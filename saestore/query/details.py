"""What a set knows of the samples and features in an answer: names, keys, texts, tokens, rows and columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from saestore.query.results import NAMES
from saestore.query.sample_coords import SampleCoordinates
from saestore.sparse_rows import Array
from saestore.tables.column import as_objects

if TYPE_CHECKING:
    from saestore.query.reader import SetReader
    from saestore.query.results import ResultTable


NAME = "name"  # the column of the features that is shown beside their numbers
_OF_SAMPLES = {"key": "key", "token": "token", "row": "row", "col": "column"}


def feature_names(reader: SetReader, features: Array) -> Array | None:
    """Names of features, objects (n,), None where a feature has none; None where the set has no names."""
    if NAME not in reader.table("features").info.columns:
        return None
    unique, back = np.unique(features, return_inverse=True)
    names = as_objects(reader.read_column("features", NAME, unique).array())
    return np.array([name or None for name in names.tolist()], object)[back]


def names_of(reader: SetReader, table: ResultTable, other: SetReader | None = None) -> dict[str, Array]:
    """Names of the features of an answer, by the name of their column; ``other_feature`` is one of another set."""
    found: dict[str, Array] = {}
    for column, shown in NAMES.items():
        source = other if column == "other_feature" else reader
        if source is not None and column in table.columns:
            names = feature_names(source, table.columns[column])
            found |= {} if names is None else {shown: names}
    return found


def details_of(reader: SetReader, table: ResultTable, other: SetReader | None = None) -> dict[str, Array]:
    """Further columns of an answer; see `ResultTable.with_details`. ``other_feature`` is of the set `other`."""
    columns, details = table.columns, names_of(reader, table, other)
    if "sample" in columns:
        along = SampleCoordinates(reader).by_name
        details |= {shown: along[name].at(columns["sample"]) for name, shown in _OF_SAMPLES.items() if name in along}
        if "text" in reader.table("items").info.columns:
            items, back = np.unique(columns["item"], return_inverse=True)
            details["text"] = reader.read_column("items", "text", items).array().astype(object)[back]
    return details
