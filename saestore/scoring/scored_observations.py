"""What is scored against labels: columns over samples, or over items with the maximum of their samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.kernels import segment_sums
from saestore.query.posting_lists import iterate_lists
from saestore.query.selection import Condition
from saestore.scoring.ranks import Ranked, item_maxima, rank, shorten
from saestore.segment import Segment
from saestore.tables.item_index import ItemIndex

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 20  # entries of lists that are ranked at a time


@dataclass(frozen=True)
class ScoredObservations:
    """Samples, or items, that count, and their labels.

    Attributes
    ----------
    kept
        Which samples count, bool (n_samples,); those of items, for their maximum.
    labels
        ScoredObservations x concepts, bool; a row for every unit of the set that has labels.
    index, sizes
        For items: which samples are theirs, and how many of those count, int64 (n_items,). Else None.
    n
        How many units count: samples, or items with a sample that does.
    n_positive
        Of these, how many each concept is true of, int64 (n_concepts,).

    Notes
    -----
    Memory: a byte a sample and 8 bytes an item, and the labels: 5 bytes for each that is true.
    """

    kept: Array
    labels: scipy.sparse.csr_array
    index: ItemIndex | None
    sizes: Array | None
    n: int
    n_positive: Array

    @classmethod
    def of_samples(cls, labels: scipy.sparse.csr_array, n_samples: int, where: Condition | None) -> ScoredObservations:
        """Samples that have labels and fulfil a condition."""
        kept = _kept(n_samples, where)
        kept[labels.shape[0] :] = False
        return cls(kept, labels, None, None, int(kept.sum()), _count(labels, kept))

    @classmethod
    def of_items(
        cls, labels: scipy.sparse.csr_array, n_samples: int, where: Condition | None, index: ItemIndex
    ) -> ScoredObservations:
        """Items that have labels and a sample that fulfils a condition."""
        kept = _kept(n_samples, where)
        pointers = np.minimum(index.pointers(), n_samples)
        kept[pointers[labels.shape[0]] :] = False
        sizes = segment_sums(kept, pointers).astype(np.int64)
        return cls(kept, labels, index, sizes, int(np.count_nonzero(sizes)), _count(labels, sizes > 0))

    def ranked(
        self, segments: Sequence[Segment], features: Array, dtype: Any, block: int = _BLOCK
    ) -> Iterator[tuple[Array, Ranked]]:
        """Distinct `features` with the ranks of their columns, in blocks of about `block` entries.

        Memory: some 100 bytes an entry of a block, or of the longest list where that is longer.
        """
        for lists in iterate_lists(segments, features, dtype, block):
            kept = self.kept[lists.samples]
            indptr, rows, values = shorten(lists.indptr, kept), lists.samples[kept], lists.data[kept]
            if self.index is not None and self.sizes is not None:
                indptr, rows, values = item_maxima(indptr, self.index.locate(rows)[0], values, self.sizes)
            yield lists.features, rank(indptr, rows, values, self.n)


def _kept(n_samples: int, where: Condition | None) -> Array:
    if where is None:
        return np.ones(n_samples, bool)
    kept = np.zeros(n_samples, bool)
    kept[where.samples(n_samples)] = True
    return kept


def _count(labels: scipy.sparse.csr_array, counted: Array) -> Array:
    of_rows = np.repeat(counted[: labels.shape[0]], np.diff(labels.indptr))
    return np.bincount(labels.indices[of_rows], minlength=labels.shape[1])
