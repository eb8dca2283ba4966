"""Confidence intervals of the scores of chosen features with chosen concepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.activations.units import Units
from saestore.concepts.bootstrap import WITH_INTERVAL, Places, intervals
from saestore.errors import InvalidInputError
from saestore.items.index import ItemIndex
from saestore.segment import Segment

if TYPE_CHECKING:
    import xarray

Array = np.ndarray[Any, Any]


def check(confidence: float, resamples: int, seed: int) -> None:
    """Refuse what no interval can be made with."""
    if not 0 < confidence < 1:
        raise InvalidInputError(f"confidence={confidence!r}: use a share between 0 and 1, such as 0.95.")
    if resamples < 1:
        raise InvalidInputError(f"resamples={resamples!r}: use 1 or more.")
    if seed < 0:
        raise InvalidInputError(f"seed={seed!r}: use 0 or more.")


def split_pairs(pairs: Any) -> tuple[list[str], list[Any]]:
    """Concepts and features of ``[(concept, feature), …]``."""
    try:
        found = [(concept, feature) for concept, feature in pairs]
    except (TypeError, ValueError):
        found = []
    if not found or not all(isinstance(concept, str) for concept, _ in found):
        raise InvalidInputError(f"pairs={pairs!r}: give (concept, feature) pairs, such as [('color::red', 1234)].")
    return [concept for concept, _ in found], [feature for _, feature in found]


def count_places(
    segments: Sequence[Segment],
    units: Units,
    index: ItemIndex,
    dtype: Any,
    pairs: Sequence[tuple[int, int, float]],
) -> tuple[list[Places | None], int]:
    """What the draws need of each (concept's column in the labels, feature, threshold); how many items there are.

    Memory: some 24 bytes for each entry of the features' lists and for each item, a pair.
    """
    of_kept = np.flatnonzero(units.kept)
    item_of_kept = index.locate(of_kept)[0]
    present, n_rows = np.unique(item_of_kept, return_counts=True)
    if units.sizes is not None:
        n_rows = np.ones(len(present), np.int64)
    labels = units.labels.tocsc()
    found: list[Places | None] = [None] * len(pairs)
    features = np.unique([feature for _, feature, _ in pairs])
    for ids, ranked in units.ranked(segments, features, dtype):
        for i, feature in enumerate(ids.tolist()):
            column = ranked.part(i, i + 1)
            items = column.rows if units.sizes is not None else index.locate(column.rows)[0]
            for place, (concept, wanted, threshold) in enumerate(pairs):
                if wanted == feature and not np.isnan(threshold):
                    true = np.zeros(labels.shape[0], bool)
                    true[labels.indices[labels.indptr[concept] : labels.indptr[concept + 1]]] = True
                    totals = n_rows, _true_rows(units, true, of_kept, item_of_kept, present)
                    where = np.searchsorted(present, items)
                    found[place] = Places.of(column, where, true[column.rows], totals, threshold)
    return found, len(present)


def _true_rows(units: Units, true: Array, of_kept: Array, item_of_kept: Array, present: Array) -> Array:
    """How many rows of every item a concept is true of."""
    if units.sizes is not None:
        return true[present].astype(np.int64)
    return np.bincount(np.searchsorted(present, item_of_kept), true[of_kept], len(present)).astype(np.int64)


def add_intervals(scores: xarray.Dataset, places: Sequence[Places | None], n_items: int) -> xarray.Dataset:
    """Give the scores of pairs, on ``pair``, both ends of their intervals; its attributes say what kind of."""
    resamples, confidence, seed = (scores.attrs[name] for name in ("resamples", "confidence", "seed"))
    defined = [i for i, place in enumerate(places) if place is not None]
    ends = np.full((2, len(places), len(WITH_INTERVAL)), np.nan)
    if defined:
        chosen = [place for place in places if place is not None]
        ends[:, defined] = intervals(chosen, n_items, resamples, confidence, seed)
    for i, name in enumerate(WITH_INTERVAL):
        for end, values in zip(("low", "high"), ends[:, :, i], strict=True):
            scores[f"{name}_{end}"] = ("pair", values)
    return scores.assign_attrs(n_items=n_items)
