"""Scores of items from the activations of their samples: the largest, the mean, or the mean of the n largest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.query.view import item_maxima
from saestore.sparse_rows import keep_entries

Array = np.ndarray[Any, Any]

_TOP = re.compile(r"top-([1-9][0-9]*)")


@dataclass(frozen=True)
class Pooling:
    """How an item is scored."""

    name: str  # ``max``, ``mean`` or ``top-N``
    largest: int | None  # how many of an item's strongest samples are averaged; None for all

    @classmethod
    def of(cls, name: Any) -> Pooling:
        """Pooling by its name; anything else raises an error."""
        if isinstance(name, str) and name in ("max", "mean"):
            return cls(name, 1 if name == "max" else None)
        match = _TOP.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise InvalidInputError(
                f"score={name!r}: use 'max', 'mean', or 'top-3' for the mean of the 3 strongest.", code="bad-option"
            )
        return cls(name, int(match[1]))

    @property
    def is_activation(self) -> bool:
        """Whether a score is the activation of one sample, so that thresholds of samples apply to it."""
        return self.largest == 1

    def of_lists(self, indptr: Array, items: Array, values: Array, sizes: Array) -> tuple[Array, Array, Array]:
        """From lists over samples to lists over the items that score above 0.

        Parameters
        ----------
        indptr, items, values
            Lists in impact order, all entries of the samples that count; the item of each.
        sizes
            Samples of every item that count, int64 (n_items,).

        Returns
        -------
        indptr, items, scores
            Descending in every list; of the dtype of `values` for the maximum, else float64.
        """
        if self.largest == 1:
            indptr, items, values = keep_entries(values > 0, indptr, items, values)
            return item_maxima(indptr, items, values, sizes)
        feature = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        order = np.lexsort((feature, items))  # stable: still strongest first
        feature, items, values = feature[order], items[order], values[order].astype(np.float64)
        fresh = np.ones(len(items), bool)
        fresh[1:] = (items[1:] != items[:-1]) | (feature[1:] != feature[:-1])
        firsts = np.flatnonzero(fresh)
        scores = _mean_of_groups(firsts, values, sizes[items[firsts]], self.largest)
        feature, items = feature[firsts], items[firsts]
        kept = np.lexsort((items, -scores, feature))
        kept = kept[scores[kept] > 0]
        return np.searchsorted(feature[kept], np.arange(len(indptr))), items[kept], scores[kept]

    def of_column(self, column: Array, starts: Array) -> Array:
        """Scores of items from a column over their samples, float64.

        Parameters
        ----------
        column
            float64, every sample of every item, zeros included.
        starts
            Where each item starts; none is empty.
        """
        if self.largest == 1:
            best: Array = np.maximum.reduceat(column, starts)
            return best
        sizes = np.diff(starts, append=len(column))
        item = np.repeat(np.arange(len(starts)), sizes)
        order = np.lexsort((-column, item))
        return _mean_of_groups(starts, column[order], sizes, self.largest)


def _mean_of_groups(firsts: Array, values: Array, sizes: Array, largest: int | None) -> Array:
    """Mean of the largest of groups of `sizes` numbers, of which `values` holds those that are not 0, descending.

    The sums go from the largest value down, one by one, so that they are the same numbers with the zeros and without.
    """
    counts = np.diff(firsts, append=len(values))
    group = np.repeat(np.arange(len(firsts)), counts)
    place = np.arange(len(values)) - firsts[group]
    place += np.where(values < 0, (sizes - counts)[group], 0)  # the zeros come before the negative ones
    taken = sizes if largest is None else np.minimum(sizes, largest)
    counted = place < taken[group]
    sums = np.bincount(group[counted], values[counted], len(firsts))
    means: Array = sums / taken
    return means
