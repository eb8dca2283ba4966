"""Columns of activations as ranks, and which of their entries a concept is true of. Pure array functions.

A feature's list is the non-zeros of its column, strongest first; all zeros share one place between the positive and the
negative ones. So a list and the length of the column say everything, and what is scored need not be made dense.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Ranked:
    """Columns of some features over the same rows: samples, or items.

    Attributes
    ----------
    n
        Length of a column.
    indptr
        int64 (n_features + 1,): feature i has the entries ``indptr[i]:indptr[i + 1]``.
    rows
        Row of every entry.
    values
        Activation of every entry, descending in a feature, never zero.
    start, stop
        int64: equal values of a column take the places ``start:stop`` of it, sorted descending with its zeros.
    n_positive
        Entries above zero of every feature, int64 (n_features,).
    """

    n: int
    indptr: Array
    rows: Array
    values: Array
    start: Array
    stop: Array
    n_positive: Array

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def n_active(self) -> Array:
        """Entries of every feature, int64 (n_features,)."""
        return np.diff(self.indptr)

    @property
    def n_zero(self) -> Array:
        """Zeros of every column, int64 (n_features,); they take the places from `n_positive` on."""
        return self.n - self.n_active

    def part(self, first: int, last: int) -> Ranked:
        """Some features that follow one another."""
        a, b = self.indptr[first], self.indptr[last]
        pieces = (self.rows[a:b], self.values[a:b], self.start[a:b], self.stop[a:b])
        return Ranked(self.n, self.indptr[first : last + 1] - a, *pieces, self.n_positive[first:last])


@dataclass(frozen=True)
class Hits:
    """Entries that a concept is true of, for every feature and concept.

    Attributes
    ----------
    indptr
        (n_features * n_concepts + 1,): feature i and concept c have ``indptr[j]:indptr[j + 1]`` where
        ``j = i * n_concepts + c``.
    entries
        Places in the entries of a `Ranked`, ascending for each of them, hence strongest first.
    """

    indptr: Array
    entries: Array


def rank(indptr: Array, rows: Array, values: Array, n: int) -> Ranked:
    """Find the places of the entries of lists in impact order, in columns of length `n`.

    Notes
    -----
    Memory: some 60 bytes an entry.
    """
    lengths, n_entries = np.diff(indptr), len(values)
    fresh = np.ones(n_entries, bool)
    np.not_equal(values[1:], values[:-1], out=fresh[1:])
    fresh[indptr[:-1][lengths > 0]] = True
    firsts = np.flatnonzero(fresh)
    sizes = np.diff(firsts, append=n_entries)
    feature = np.repeat(np.arange(len(lengths)), np.diff(np.searchsorted(firsts, indptr)))
    start = firsts - indptr[feature]
    negative = values[firsts] < 0
    start[negative] += (n - lengths)[feature[negative]]
    n_negative = np.bincount(feature[negative], sizes[negative], len(lengths)).astype(np.int64)
    return Ranked(
        n, indptr, rows, values, np.repeat(start, sizes), np.repeat(start + sizes, sizes), lengths - n_negative
    )


def item_maxima(indptr: Array, items: Array, values: Array, sizes: Array) -> tuple[Array, Array, Array]:
    """PostingLists over samples to lists over items, whose score is the maximum of their samples.

    Parameters
    ----------
    indptr, values
        PostingLists in impact order.
    items
        Item of every entry.
    sizes
        Samples of every item (n_items,). One with a sample that is not active scores 0 at least.

    Returns
    -------
    indptr, items, values
        PostingLists in impact order, without the items that score 0.
    """
    import scipy.sparse as sp

    by_feature = sp.csr_array((np.arange(len(items)), items, indptr), (len(indptr) - 1, len(sizes)))
    by_item = by_feature.tocsc()  # a stable counting sort: an item's entries by feature, still strongest first
    item = np.repeat(np.arange(len(sizes)), np.diff(by_item.indptr))
    fresh = np.ones(len(items), bool)
    fresh[1:] = (by_item.indices[1:] != by_item.indices[:-1]) | (item[1:] != item[:-1])
    firsts = np.flatnonzero(fresh)
    strongest = by_item.data[firsts]
    all_active = np.diff(firsts, append=len(items)) == sizes[item[firsts]]
    kept = np.zeros(len(items), bool)
    kept[strongest[(values[strongest] > 0) | all_active]] = True
    return shorten(indptr, kept), items[kept], values[kept]


def shorten(indptr: Array, kept: Array) -> Array:
    """Pointers of lists of which only the entries `kept` (a mask) remain."""
    return np.concatenate([[0], np.cumsum(kept)])[indptr]


def find_hits(ranked: Ranked, labels: scipy.sparse.csr_array) -> Hits:
    """Find the entries that concepts are true of.

    Parameters
    ----------
    labels
        Rows x concepts, bool, without stored False.

    Notes
    -----
    Memory: some 24 bytes a hit and 8 bytes for each feature and concept.
    """
    import scipy.sparse as sp

    n_concepts = labels.shape[1]
    of_entry = labels[ranked.rows]
    per_feature = np.diff(of_entry.indptr[ranked.indptr])
    pair = np.repeat(np.arange(len(ranked)) * n_concepts, per_feature)
    pair += of_entry.indices
    shape = (len(ranked.rows), len(ranked) * n_concepts)
    by_pair = sp.csr_array((of_entry.data, pair, of_entry.indptr), shape).tocsc()  # a stable counting sort, again
    return Hits(by_pair.indptr, by_pair.indices)
