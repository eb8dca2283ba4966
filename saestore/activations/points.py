"""Activations at points, pairs of a sample and a feature, without the dense matrix that they span."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from saestore.activations.lists import iterate_lists
from saestore.activations.slices import iterate_rows, prefers_features
from saestore.segment import Segment

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 22  # points that are looked for at once


def points(segments: Sequence[Segment], rows: Array, features: Array, n_features: int, dtype: Any) -> Array:
    """The activation at every pair, zero where there is none.

    Parameters
    ----------
    rows, features
        int64, of equal length, in any order and with repetitions.

    Notes
    -----
    Reads the lists of the features or the rows of the samples, whichever is less. Memory: the answer; 8 bytes a point
    where they are more than 4 million; and a block of some 4 million points and non-zeros, 400 MB.
    """
    if len(rows) <= _BLOCK:
        return _points(segments, rows, features, n_features, dtype)
    found = np.empty(len(rows), dtype)
    order = np.argsort(rows, kind="stable")  # so that blocks do not read the same rows again
    for start in range(0, len(rows), _BLOCK):
        part = order[start : start + _BLOCK]
        found[part] = _points(segments, rows[part], features[part], n_features, dtype)
    return found


def _points(segments: Sequence[Segment], rows: Array, features: Array, n_features: int, dtype: Any) -> Array:
    # A pair is one number, so that sorted pairs can be searched: 2^63 is a hundred trillion samples of 65,536 features.
    wanted, back = np.unique(rows * n_features + features, return_inverse=True)
    found = np.zeros(len(wanted), dtype)
    row_ids, feature_ids = np.unique(rows), np.unique(features)
    if prefers_features(segments, row_ids, feature_ids):
        entries = _of_lists(segments, feature_ids, n_features, dtype)
    else:
        entries = _of_rows(segments, row_ids, n_features)
    for pairs, data in entries:
        if not len(wanted):
            break
        place = np.searchsorted(wanted, pairs)
        place[place == len(wanted)] = 0
        hit = wanted[place] == pairs
        found[place[hit]] = data[hit]
    return found[back]


def _of_lists(
    segments: Sequence[Segment], features: Array, n_features: int, dtype: Any
) -> Iterator[tuple[Array, Array]]:
    for lists in iterate_lists(segments, features, dtype):
        yield lists.samples * n_features + np.repeat(lists.features, np.diff(lists.indptr)), lists.data


def _of_rows(segments: Sequence[Segment], rows: Array, n_features: int) -> Iterator[tuple[Array, Array]]:
    for part, indptr, ids, data in iterate_rows(segments, rows):
        yield np.repeat(part * n_features, np.diff(indptr)) + ids, data
