"""Whether stored labels are what the format says."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from saestore.items.labels import StoredLabels


def check_labels(labels: StoredLabels, level: str, n_rows: int) -> Iterator[tuple[str, str]]:
    """What is wrong with labels whose documents and chunks are sound: the array, and what it is.

    Memory: the rows of one concept.
    """
    n_concepts = labels.shape[1]
    # Of samples there may be more since: those have no labels yet.
    if labels.shape[0] > n_rows or (level == "item" and labels.shape[0] < n_rows):
        yield "", f"is of {labels.shape[0]} items or samples, but there are {n_rows}"
    if len(labels.names) != n_concepts or len(set(labels.names)) != n_concepts:
        yield "concept", f"does not hold {n_concepts} different names"
    pointers = labels.pointers
    if len(pointers) != n_concepts + 1 or pointers[0] != 0 or (np.diff(pointers) < 0).any():
        yield "indptr", f"does not lead over {n_concepts} concepts"
        return
    lengths = {name: labels.length(name) for name in ("indices", "data")}
    for name, length in lengths.items():
        if length != pointers[-1]:
            yield name, f"has {length} values, expected {pointers[-1]}"
    if set(lengths.values()) != {int(pointers[-1])}:
        return
    for column in range(n_concepts):
        rows = labels.rows(column).astype(np.int64)
        if (np.diff(rows) <= 0).any() or (len(rows) and not 0 <= rows[0] <= rows[-1] < labels.shape[0]):
            yield "indices", f"do not ascend within the {labels.shape[0]} items or samples in column {column}"
            break
        if not labels.values(column).all():
            yield "data", f"is false in column {column}; only what is true is stored"
            break
