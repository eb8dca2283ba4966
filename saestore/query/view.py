"""The rows that a question is about: samples, or items with the pooled activations of their samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saestore.errors import check_choice
from saestore.kernels import segment_sums
from saestore.query import distribution
from saestore.query.posting_lists import BLOCK, PostingLists, iterate_lists
from saestore.query.rows import ROW, iterate_rows
from saestore.query.selection import Condition, Selection
from saestore.segment.read import Segment, open_lists
from saestore.sparse_rows import Array, SparseRows, keep_entries, pointers
from saestore.stats import Moments
from saestore.tables.item_index import ItemIndex
from saestore.tables.label_matrix import check_level

if TYPE_CHECKING:
    from saestore.query.open_set import OpenSet

Pooling = Literal["max", "mean", "sum"]
POOLINGS: tuple[Pooling, ...] = ("max", "mean", "sum")

_ROWS_BLOCK = 1 << 22  # non-zeros of a block of items
_IDS_BLOCK = 1 << 20
_UNLIMITED = 1 << 62


@dataclass(frozen=True, eq=False)
class View:
    """A set as a question sees it: a matrix whose rows are its samples or its items.

    Memory: a byte per sample where there is a condition, and 16 bytes per item.
    """

    segments: Sequence[Segment]
    n_features: int
    dtype: np.dtype[Any]
    # What the rows are: ``sample``, or ``item`` with the maximum over its samples, inactive ones included as 0.
    level: str
    index: ItemIndex
    n_rows: int  # rows of the matrix: samples or items of the set
    kept: Array | None  # which samples count, bool (n_samples,); None where all do
    sizes: Array | None  # at the level of items: how many samples of each item count, int64 (n_items,). Else None
    condition: Condition | None  # what the samples fulfil, None where all count

    @classmethod
    def of(cls, acts: OpenSet, level: str, condition: Condition | None) -> View:
        """Of a set, at a level, of the samples that fulfil a condition."""
        check_level(level)
        (n_samples, n_features), index, kept = acts.shape, acts.item_index, None
        common = acts.segments, n_features, acts.dtype, level, index
        kept = None if condition is None else condition.over_samples(n_samples)
        if level == "sample":
            return cls(*common, n_samples, kept, None, condition)
        bounds = np.minimum(index.pointers(), n_samples)
        sizes = np.diff(bounds) if kept is None else segment_sums(kept, bounds).astype(np.int64)
        return cls(*common, index.n_items, kept, sizes, condition)

    @property
    def n(self) -> int:
        """How many rows count."""
        counts = self.kept if self.sizes is None else self.sizes
        return self.n_rows if counts is None else int(np.count_nonzero(counts))

    def ids(self) -> Iterator[Array]:
        """The rows that count, ascending int64: samples that fulfil the condition, or items with such a sample.

        A million rows at a time.
        """
        counts = self.kept if self.sizes is None else self.sizes
        for start in range(0, self.n_rows, _IDS_BLOCK):
            stop = min(start + _IDS_BLOCK, self.n_rows)
            yield np.arange(start, stop) if counts is None else start + np.flatnonzero(counts[start:stop])

    def dtype_of(self, pooling: Pooling) -> np.dtype[Any]:
        """Dtype of pooled activations: as stored for a maximum and for samples, else float64."""
        return self.dtype if pooling == "max" or self.level == "sample" else np.dtype(np.float64)

    def counting(self, rows: Array) -> Array:
        """Which of these rows count, bool (n,)."""
        if self.sizes is not None:
            return np.asarray(self.sizes[rows] > 0)
        return np.ones(len(rows), bool) if self.kept is None else np.asarray(self.kept[rows])

    def n_samples_of(self, rows: Selection) -> int:
        """How many samples these rows have."""
        return len(rows) if self.sizes is None else int(self.sizes[rows.ids].sum())

    def lists(self, features: Array, block: int = BLOCK) -> Iterator[PostingLists]:
        """Lists of ascending distinct `features` over the rows that count, about `block` entries at a time.

        ``samples`` of a list at the level of items are items. Memory: a block, or the longest list if that is longer.
        """
        lists = iterate_lists(self.segments, features, self.dtype, block)
        return lists_over(lists, self.kept, self.index, self.sizes)

    def rows(self, ids: Array, pooling: Pooling = "max", *, values: bool = True) -> Iterator[tuple[Array, SparseRows]]:
        """These rows, distinct and ascending, of those that count: their numbers and entries, a block at a time.

        At the level of items entries are of the stored dtype with ``max``, else float64, and never 0. Of samples they
        need no activations where a question has no use for their `values`.
        Memory: a block of about 4 million non-zeros, or the largest item if that is larger.
        """
        if self.sizes is None:
            yield from iterate_rows(self.segments, ids, values=values)
            return
        for samples, block in self.rows_of_items(ids):
            items = self.index.locate(samples)[0]
            of_entry = np.repeat(items, np.diff(block.indptr))
            key = of_entry.astype(np.int64) * self.n_features + block.indices
            key, data = pool(key, block.data, self.sizes[of_entry], pooling)
            row, feature = np.divmod(key, self.n_features)
            items = np.unique(items)
            counts = np.bincount(np.searchsorted(items, row), minlength=len(items))
            yield items, SparseRows(pointers(counts), feature, data)

    def all_rows(self, *, values: bool = True) -> Iterator[tuple[Array, SparseRows]]:
        """All rows that count, as `rows` gives them."""
        for ids in self.ids():
            yield from self.rows(ids, values=values)

    def rows_of_items(self, items: Array) -> Iterator[tuple[Array, SparseRows]]:
        """The samples of ascending distinct items that count, and their entries: all of an item in one block."""
        for part in self._blocks(items):
            yield from iterate_rows(self.segments, self._samples(part), _UNLIMITED)

    def _blocks(self, items: Array) -> Iterator[Array]:
        """Items in blocks of about as many non-zeros, from the mean number per sample; none without samples."""
        items = items[self.all_sizes()[items] > 0]
        nnz, n_samples = sum(s.info.nnz for s in self.segments), sum(s.info.n_rows for s in self.segments)
        ends, first = pointers(self.all_sizes()[items] * max(ROW, -(-nnz // max(1, n_samples)))), 0
        while first < len(items):
            last = max(first + 1, int(np.searchsorted(ends, ends[first] + _ROWS_BLOCK, "right")) - 1)
            yield items[first:last]
            first = last

    def all_sizes(self) -> Array:
        """Samples of each item that count; none at the level of samples."""
        return np.empty(0, np.int64) if self.sizes is None else self.sizes

    def _samples(self, items: Array) -> Array:
        """The samples of items that count, ascending."""
        bounds = np.minimum(self.index.pointers(), self.n_samples)
        sizes = np.diff(bounds)[items]
        samples: Array = np.arange(sizes.sum()) + np.repeat(bounds[items] - pointers(sizes)[:-1], sizes)
        return samples if self.kept is None else samples[self.kept[samples]]

    @property
    def n_samples(self) -> int:
        """Samples of the set."""
        return sum(s.info.n_rows for s in self.segments)

    def moments(self, features: Array) -> Moments:
        """Sums of features over the rows that count: from their lists where those are shorter, else from the rows."""
        if self.sizes is None and self.kept is None:
            return distribution.all_moments(self.segments, features, self.n_features, self.dtype)
        distinct, back = np.unique(features, return_inverse=True)
        if self._prefers_lists(distinct):
            n, parts = self.n, [Moments.zeros(0, 0, self.dtype)]
            parts += [Moments.of_lists(lists.indptr, lists.data, n) for lists in self.lists(distinct)]
            arrays = [np.concatenate([p.arrays()[name] for p in parts]) for name in Moments.names()]
            return Moments(n, *arrays).take(back)
        total = Moments.zeros(self.n_features, 0, self.dtype)
        for ids, block in self.all_rows():
            total += Moments.of_entries(block.indices, block.data, self.n_features, len(ids))
        return total.take(features)

    def _prefers_lists(self, features: Array) -> bool:
        """Whether the lists of distinct features are shorter than the rows that count, which also need no pooling."""
        if self.sizes is not None:
            return len(features) < self.n_features // 2
        open_lists(self.segments)
        in_lists = sum(int((s.feature_ptr[features + 1] - s.feature_ptr[features]).sum()) for s in self.segments)
        return in_lists <= sum(s.info.nnz for s in self.segments) * self.n / max(1, self.n_rows)


def check_pooling(pooling: str) -> None:
    """Refuse a pooling that does not exist."""
    check_choice("pooling", pooling, POOLINGS, "unknown-pooling")


def lists_over(
    blocks: Iterable[PostingLists], kept: Array | None, index: ItemIndex | None, sizes: Array | None
) -> Iterator[PostingLists]:
    """Lists over the samples that are kept or, with `sizes`, over their items: see `View`."""
    for lists in blocks:
        over = lists if kept is None else lists.keep(kept[lists.samples])
        if index is not None and sizes is not None:
            items = index.locate(over.samples)[0]
            over = PostingLists(over.features, *item_maxima(over.indptr, items, over.data, sizes))
        yield over


def item_maxima(indptr: Array, items: Array, values: Array, sizes: Array) -> tuple[Array, Array, Array]:
    """From lists over samples, and the item of each entry, to lists over items with the maximum of their samples.

    `sizes` are the samples of every item (n_items,); an inactive one scores 0. Items of score 0 are left out.
    """
    ends, kept_items, maxima = keep_entries(strongest_of_items(indptr, items, values, sizes), indptr, items, values)
    return ends, kept_items, maxima


def strongest_of_items(indptr: Array, items: Array, values: Array, sizes: Array) -> Array:
    """Which entries are the strongest of their item, and not below an inactive sample, bool; see `item_maxima`."""
    import scipy.sparse as sp

    # Narrow numbers, as scipy would look through wide ones to find that they are.
    index = np.int32 if max(len(items), len(sizes)) < 1 << 31 else np.int64
    numbers = (part.astype(index, copy=False) for part in (np.arange(len(items), dtype=index), items, indptr))
    by_feature = sp.csr_array(tuple(numbers), (len(indptr) - 1, len(sizes)))
    by_item = by_feature.tocsc()  # a stable counting sort: an item's entries by feature, still strongest first
    fresh = np.empty(len(items) + 1, bool)
    np.not_equal(by_item.indices[1:], by_item.indices[:-1], out=fresh[1:-1])
    fresh[by_item.indptr] = True
    firsts = np.flatnonzero(fresh[:-1])
    strongest = by_item.data[firsts]
    counts = values[strongest] > 0
    if not counts.all():
        item = np.searchsorted(by_item.indptr, firsts, "right") - 1
        counts |= np.diff(firsts, append=len(items)) == sizes[item]
        strongest = strongest[counts]
    kept = np.zeros(len(items), bool)
    kept[strongest] = True
    return kept


def pool(key: Array, data: Array, sizes: Array, pooling: Pooling) -> tuple[Array, Array]:
    """One value for each distinct key of entries in any order, ascending, without those that are 0.

    `sizes` is how many values the key of every entry has in all, zeros included.
    """
    order = np.argsort(key, kind="stable")
    key, data = key[order], data[order]
    fresh = np.ones(len(key), bool)
    fresh[1:] = key[1:] != key[:-1]
    firsts = np.flatnonzero(fresh)
    sizes = sizes[order][firsts]
    if pooling == "max":
        pooled = np.maximum.reduceat(data, firsts) if len(firsts) else data
        some_inactive = np.diff(firsts, append=len(key)) < sizes
        pooled[(pooled < 0) & some_inactive] = 0
    else:
        pooled = segment_sums(data, np.append(firsts, len(key)))
        pooled = pooled / sizes if pooling == "mean" else pooled
    left = pooled != 0
    return key[firsts][left], pooled[left]
