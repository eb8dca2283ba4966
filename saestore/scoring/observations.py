"""What is scored against labels: columns over samples, or over items with the maximum of their samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.kernels import segment_sums
from saestore.query.posting_lists import PostingLists, iterate_lists
from saestore.query.selection import Condition
from saestore.query.view import lists_over
from saestore.scoring.ranks import Ranked, rank
from saestore.segment.read import Segment
from saestore.sparse_rows import NonEmptyRows
from saestore.tables.item_index import ItemIndex

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]

BLOCK = 1 << 18  # entries of lists that a thread ranks at a time


@dataclass(frozen=True)
class KnownGroup:
    """Concepts whose labels are known of the same observations."""

    concepts: Array  # columns of the labels, int64
    known: Array | None  # whether the label of each observation is known, bool; None where all are
    n: int  # how many known observations are scored

    def rank(self, lists: PostingLists) -> Ranked:
        """Ranks of lists over observations, among those that are known."""
        if self.known is not None:
            lists = lists.keep(self.known[lists.samples])
        return rank(lists.indptr, lists.samples, lists.data, self.n)


@dataclass(frozen=True)
class ScoredObservations:
    """Samples or items that are scored, and their labels.

    Memory: 1 byte per sample, 8 bytes per item, 5 bytes per true label, 1 byte per observation and group, and for
    `labels` a quarter of a byte per observation and up to 9 per true label more.
    """

    kept: Array  # which samples count, bool (n_samples,); at the level of items, for the maximum of their item
    # Observations x concepts, bool CSC; a row for every sample or item of the set that has labels.
    columns: scipy.sparse.csc_array
    # At the level of items: the samples of each item, and how many of them count, int64 (n_items,). Else None.
    index: ItemIndex | None
    sizes: Array | None
    n: int  # how many observations count: samples, or items with a sample that does
    groups: list[KnownGroup]  # the concepts, grouped by what is known
    # How many observations that fulfil the condition each concept is known to be true of, false of, and not known of,
    # int64 (n_concepts,).
    n_positive: Array
    n_negative: Array
    n_unknown: Array

    @classmethod
    def of(
        cls,
        labels: scipy.sparse.csc_array,
        n_samples: int,
        where: Condition | None,
        *,
        index: ItemIndex | None = None,
        unknown: scipy.sparse.csc_array,
    ) -> ScoredObservations:
        """Samples with a known label that fulfil a condition; with `index`, items that have such a sample.

        Parameters
        ----------
        unknown
            Observations x concepts, true where a label is not known.
        """
        kept = np.ones(n_samples, bool) if where is None else where.over_samples(n_samples).copy()
        sizes, counted = None, kept
        labelled = np.bincount(unknown.indices, minlength=labels.shape[0]) < labels.shape[1]  # for one concept or more
        if index is None:
            n_all = np.count_nonzero(kept)
            kept[: len(labelled)] &= labelled[:n_samples]
            kept[len(labelled) :] = False
        else:
            pointers = np.minimum(index.pointers(), n_samples)
            n_all = np.count_nonzero(segment_sums(kept, pointers))
            kept[: pointers[len(labelled)]] &= np.repeat(labelled, np.diff(pointers[: len(labelled) + 1]))
            kept[pointers[len(labelled)] :] = False
            sizes = segment_sums(kept, pointers).astype(np.int64)
            counted = sizes > 0
        groups = _groups(unknown, counted, labels.shape[1])
        n_positive, n_known = np.zeros((2, labels.shape[1]), np.int64)
        for group in groups:
            known = counted if group.known is None else counted & group.known
            n_positive[group.concepts] = _count(labels, known)[group.concepts]
            n_known[group.concepts] = group.n
        n = int(np.count_nonzero(counted))
        return cls(kept, labels, index, sizes, n, groups, n_positive, n_known - n_positive, n_all - n_known)

    @cached_property
    def labels(self) -> NonEmptyRows:
        """The labels by observation, for what looks at one observation after the other."""
        return NonEmptyRows.of_columns(self.columns)

    def lists(
        self, segments: Sequence[Segment], features: Array, dtype: Any, block: int = BLOCK
    ) -> Iterator[PostingLists]:
        """Lists of ascending distinct `features` over observations that count, in blocks of about `block` entries.

        Memory: about 100 bytes per entry of a block, or of the longest list where that is longer.
        """
        return map(self.over, iterate_lists(segments, features, dtype, block))

    def over(self, lists: PostingLists) -> PostingLists:
        """Lists over samples as lists over observations that count."""
        return next(lists_over([lists], self._filter, self.index, self.sizes))

    @cached_property
    def _filter(self) -> Array | None:
        return None if self.kept.all() else self.kept


def _groups(unknown: scipy.sparse.csc_array, counted: Array, n_concepts: int) -> list[KnownGroup]:
    if not unknown.nnz:
        return [KnownGroup(np.arange(n_concepts), None, int(np.count_nonzero(counted)))]
    alike: dict[bytes, list[int]] = {}
    for concept in range(n_concepts):
        rows = unknown.indices[unknown.indptr[concept] : unknown.indptr[concept + 1]]
        alike.setdefault(np.sort(rows).tobytes(), []).append(concept)
    groups = []
    for concepts in alike.values():
        known = np.ones(len(counted), bool)
        known[unknown.indices[unknown.indptr[concepts[0]] : unknown.indptr[concepts[0] + 1]]] = False
        groups.append(KnownGroup(np.array(concepts), known, int(np.count_nonzero(counted & known))))
    return groups


def _count(columns: scipy.sparse.csc_array, counted: Array) -> Array:
    return segment_sums(counted[columns.indices], columns.indptr).astype(np.int64)
