"""Columns of activations as ranks, and which of their entries a concept is true of. Pure array functions.

A feature's list is the non-zeros of its column, strongest first. All zeros share one place between the positive and the
negative values, so a list and the length of the column are enough, and no column is made dense.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.sparse_rows import NonEmptyRows, pointers

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Ranked:
    """Columns of features over the same rows: samples, or items."""

    n: int  # length of a column
    indptr: Array  # int64 (n_features + 1,): feature i has the entries ``indptr[i]:indptr[i + 1]``
    rows: Array  # row of every entry
    values: Array  # activation of every entry, descending in a feature, never zero
    # int32 or int64: equal values of a column take the places ``start:stop`` of it, sorted descending with its zeros.
    start: Array
    stop: Array
    n_positive: Array  # entries above zero of every feature, int64 (n_features,)

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
        """Consecutive features."""
        a, b = self.indptr[first], self.indptr[last]
        pieces = (self.rows[a:b], self.values[a:b], self.start[a:b], self.stop[a:b])
        return Ranked(self.n, self.indptr[first : last + 1] - a, *pieces, self.n_positive[first:last])


@dataclass(frozen=True)
class Hits:
    """Entries that a concept is true of, for every feature and concept."""

    # (n_features * n_concepts + 1,): feature i and concept c have ``indptr[j]:indptr[j + 1]`` where ``j = i *
    # n_concepts + c``.
    indptr: Array
    entries: Array  # indices into the entries of a `Ranked`, ascending for each pair, hence strongest first


def rank(indptr: Array, rows: Array, values: Array, n: int) -> Ranked:
    """Find the places of the entries of lists in impact order, in columns of length `n`.

    Memory: about 24 bytes per entry.
    """
    lengths, n_entries = np.diff(indptr), len(values)
    fresh = np.ones(n_entries, bool)
    np.not_equal(values[1:], values[:-1], out=fresh[1:])
    fresh[indptr[:-1][lengths > 0]] = True
    place = np.dtype(np.int32 if max(n, n_entries) < 1 << 31 else np.int64)
    firsts = np.flatnonzero(fresh).astype(place)
    sizes = np.diff(firsts, append=place.type(n_entries))
    starts = np.searchsorted(firsts, indptr.astype(place))  # of each list among the runs of equal values
    negative = np.flatnonzero(values[firsts] < 0)
    feature = np.searchsorted(starts, negative, "right") - 1
    n_negative = np.bincount(feature, sizes[negative], len(lengths)).astype(np.int64)
    start = firsts  # which is not needed any more
    start -= np.repeat(indptr[:-1].astype(place), np.diff(starts))
    start[negative] += (n - lengths)[feature].astype(place)
    stop = start + sizes
    return Ranked(n, indptr, rows, values, np.repeat(start, sizes), np.repeat(stop, sizes), lengths - n_negative)


def find_hits(ranked: Ranked, labels: scipy.sparse.csr_array | NonEmptyRows, concepts: Array | None = None) -> Hits:
    """Find the entries that some concepts are true of.

    Parameters
    ----------
    labels
        Rows x all concepts, bool, without stored False.
    concepts
        Columns of the labels, ascending; by default all.

    Notes
    -----
    Memory: about 24 bytes per hit and 8 bytes per feature and concept.
    """
    import scipy.sparse as sp

    of_entry = labels[ranked.rows]
    if concepts is not None and len(concepts) < of_entry.shape[1]:
        of_entry = of_entry[:, concepts]
    n_concepts = of_entry.shape[1]
    per_feature = np.diff(of_entry.indptr[ranked.indptr])
    pair = np.repeat(np.arange(len(ranked)) * n_concepts, per_feature)
    pair += of_entry.indices
    shape = (len(ranked.rows), len(ranked) * n_concepts)
    by_pair = sp.csr_array((of_entry.data, pair, of_entry.indptr), shape).tocsc()  # a stable counting sort, again
    return Hits(by_pair.indptr, by_pair.indices)


def split_by_cost(costs: Array, limit: int) -> list[tuple[int, int]]:
    """Consecutive parts, each of a total cost of about `limit` or of one element: first and last + 1 of each."""
    ends, parts, first = pointers(costs), [], 0
    while first < len(costs):
        last = max(first + 1, int(np.searchsorted(ends, ends[first] + limit, "right")) - 1)
        parts.append((first, last))
        first = last
    return parts
