"""The strongest samples of features, from prefixes of their lists; the strongest features of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saestore.kernels import descending_bits
from saestore.query.posting_lists import PostingLists
from saestore.query.rows import iterate_rows
from saestore.query.selection import Condition
from saestore.query.view import View, strongest_of_items
from saestore.segment.read import Segment, read_entries
from saestore.sparse_rows import Array, SparseRows, pointers
from saestore.storage import read_all, read_many
from saestore.tables.item_index import ItemIndex

_GROWTH = 4  # how much longer the next prefix is when the last was too short
_FIRST = 1 << 12  # entries of the first one at most, where a condition drops some
_ASKED = 1 << 10  # samples or items that tell how many a condition leaves


@dataclass
class _Prefix:
    """The part of one feature's list in one segment that was read so far."""

    segment: Segment
    start: int
    stop: int
    samples: list[Array] = field(default_factory=list)
    data: list[Array] = field(default_factory=list)

    @property
    def exhausted(self) -> bool:
        return self.start == self.stop

    def next_stop(self, n: int) -> int:
        """Where the next part ends, of `n` entries or more.

        Where a request has to be waited for, whole chunks are read, and three times as many as are known.
        """
        if self.segment.is_local:
            return min(self.stop, self.start + n)
        chunk, known = self.segment.lists[0].chunk, sum(map(len, self.samples))
        return min(self.stop, -(-(self.start + max(n, 3 * known)) // chunk) * chunk)

    def extend(self, samples: Array, data: Array) -> None:
        self.start += len(samples)
        self.samples.append(samples)
        self.data.append(data)


def top_of_lists(
    segments: Sequence[Segment],
    features: Array,
    n: int,
    index: ItemIndex,
    *,
    per_item: bool,
    where: Condition | None,
    dtype: Any,
    alike: Callable[[Array], Array] | None = None,
) -> PostingLists:
    """The `n` strongest entries of every feature, of samples that fulfil `where`; features may repeat.

    `per_item` keeps an item's strongest sample only. `alike` gives values of distinct items: of several items with the
    same value only the strongest appears; None is like nothing. Reads a prefix of `n` entries of every list in every
    segment; where something drops some of them, the prefixes grow until `n` are certain. All prefixes are planned
    together and read at once. Memory: the prefixes.
    """
    # Where nothing is asked for, or nothing may appear, nothing is read: as if the lists were empty.
    exactly = not per_item and where is None and alike is None
    if exactly and len(segments) == 1:
        return _heads(segments[0], features, n)
    nothing_to_find = n == 0 or (where is not None and not where.mask.any())
    lists = {int(f): [] if nothing_to_find else _prefixes(segments, int(f)) for f in features}
    nothing = np.empty(0, np.int64), np.empty(0, dtype)
    results = {f: nothing for f, prefixes in lists.items() if not prefixes}
    length, done = n if exactly else _first_length(n, where), 0
    while len(results) < len(lists):
        unsettled = [f for f in lists if f not in results]
        prefixes = [prefix for f in unsettled for prefix in lists[f]]
        _extend(prefixes, length - done, exactly=exactly)
        groups = None if alike is None else _groups(prefixes, index, alike)
        for f in unsettled:
            result = _settle(lists[f], n, index, per_item=per_item, where=where, groups=groups)
            if result is not None:
                results[f] = result
                lists[f] = []
        length, done = _GROWTH * length, length
    entries = [results[int(f)] for f in features]
    samples, data = (np.concatenate([*(e[i] for e in entries), nothing[i]]) for i in (0, 1))
    return PostingLists(features, pointers([len(s) for s, _ in entries]), samples, data)


def _first_length(n: int, where: Condition | None) -> int:
    """Entries of the first prefixes: a second one costs as much as hundreds of entries more in the first."""
    if where is None or not len(where.mask):
        return _GROWTH * n
    left = float(np.mean(where.mask[:: 1 + len(where.mask) // _ASKED]))
    return max(_GROWTH * n, min(_FIRST, int(_GROWTH * n / max(left, 1 / _FIRST))))


def _heads(segment: Segment, features: Array, n: int) -> PostingLists:
    """The first `n` entries of lists of one segment, which are in order already."""
    if len(features) == 1:  # the most common question of all: numpy's steps for many would take a third more time
        start, stop = segment.feature_ptr[int(features[0]) :][:2].tolist()
        samples, data = read_all([(reader, start, min(stop, start + n)) for reader in segment.lists])
        return PostingLists(features, np.array([0, len(data)]), samples + np.int64(segment.info.start), data)
    distinct, back = np.unique(features, return_inverse=True)
    starts = segment.feature_ptr[distinct]
    stops = np.minimum(segment.feature_ptr[distinct + 1], starts + n)
    samples, data = read_many([(reader, starts, stops) for reader in segment.lists])
    heads = SparseRows(pointers(stops - starts), samples + np.int64(segment.info.start), data).select(back)
    return PostingLists(features, heads.indptr, heads.indices, heads.data)


def _prefixes(segments: Sequence[Segment], feature: int) -> list[_Prefix]:
    spans = [(segment, *segment.feature_ptr[feature : feature + 2].tolist()) for segment in segments]
    return [_Prefix(segment, start, stop) for segment, start, stop in spans if stop > start]


def _extend(prefixes: list[_Prefix], n: int, *, exactly: bool) -> None:
    """Read `n` further entries, or more, of every prefix that has them, all at once."""
    short = [p for p in prefixes if not p.exhausted]
    stops = [min(p.stop, p.start + n) if exactly else p.next_stop(n) for p in short]
    entries = read_entries([(p.segment, p.start, stop) for p, stop in zip(short, stops, strict=True)])
    for prefix, (samples, data) in zip(short, entries, strict=True):
        prefix.extend(samples, data)


def _groups(prefixes: list[_Prefix], index: ItemIndex, alike: Callable[[Array], Array]) -> tuple[Array, Array]:
    """The items of the prefixes, ascending, and a number that items have in common where they are alike."""
    items = np.unique(index.locate(np.concatenate([part for p in prefixes for part in p.samples]))[0])
    numbers: dict[Any, int] = {}
    values = enumerate(alike(items).tolist())
    return items, np.array([numbers.setdefault(i if v is None else (v,), len(numbers)) for i, v in values], np.int64)


def _settle(
    prefixes: list[_Prefix],
    n: int,
    index: ItemIndex,
    *,
    per_item: bool,
    where: Condition | None,
    groups: tuple[Array, Array] | None,
) -> tuple[Array, Array] | None:
    """The first `n` entries where the prefixes suffice to know them, else None."""
    samples = np.concatenate([a for p in prefixes for a in p.samples])
    data = np.concatenate([a for p in prefixes for a in p.data])
    bits = descending_bits(data)
    if len(prefixes) > 1:
        order = np.lexsort((samples, bits))
        samples, data, bits = samples[order], data[order], bits[order]
    certain = len(samples)
    ends = [(descending_bits(p.data[-1])[-1], p.samples[-1][-1]) for p in prefixes if not p.exhausted]
    if ends:
        # An entry behind the end of any prefix may come before later entries of the others.
        last_bits, last_sample = min(ends)
        certain = int(np.count_nonzero((bits < last_bits) | ((bits == last_bits) & (samples <= last_sample))))
    kept = np.arange(certain)
    if where is not None:
        kept = kept[where.keeps(samples[kept])]
    if groups is not None:
        items = index.locate(samples[kept])[0]
        group = groups[1][np.searchsorted(groups[0], items)]
        _, first, back = np.unique(group, return_index=True, return_inverse=True)
        kept = kept[items == items[first][back]]
    if per_item:
        kept = kept[np.sort(np.unique(index.locate(samples[kept])[0], return_index=True)[1])]
    return (samples[kept[:n]], data[kept[:n]]) if len(kept) >= n or not ends else None


def top_of_rows(segments: Sequence[Segment], samples: Array, n: int, dtype: Any) -> SparseRows:
    """The `n` strongest features of every sample, strongest first, ties by ascending feature; samples may repeat."""
    rows, back = np.unique(samples, return_inverse=True)
    parts = [SparseRows(pointers([]), np.empty(0, np.int64), np.empty(0, dtype))]
    for _, block in iterate_rows(segments, rows):
        row = np.repeat(np.arange(len(block)), np.diff(block.indptr))
        order = np.lexsort((block.indices, descending_bits(block.data), row))
        ranked = SparseRows(block.indptr, block.indices[order].astype(np.int64), block.data[order])
        parts.append(ranked.keep(np.arange(block.nnz) - block.indptr[row] < n))
    return SparseRows.concat(parts).select(back)


def top_of_items(view: View, items: Array, n: int) -> tuple[Array, SparseRows, Array]:
    """The `n` strongest features of items, which may repeat.

    Returns the items that count, their features, strongest first, ties by ascending feature, and for each the item's
    sample on which it is strongest.
    """
    unique, back = np.unique(items[view.counting(items)], return_inverse=True)
    picked: list[tuple[Array, Array, Array, Array]] = []
    for samples, block in view.rows_of_items(unique):
        of_entry = np.repeat(samples, np.diff(block.indptr))
        order = np.lexsort((of_entry, descending_bits(block.data), block.indices))
        features, data, of_entry = block.indices[order].astype(np.int64), block.data[order], of_entry[order]
        item, indptr = view.index.locate(of_entry)[0], np.searchsorted(features, np.arange(view.n_features + 1))
        best = strongest_of_items(indptr, item, data, view.all_sizes())
        item, features, data, of_entry = item[best], features[best], data[best], of_entry[best]
        order = np.lexsort((features, descending_bits(data), item))
        item = item[order]
        first = np.arange(len(item)) - np.searchsorted(item, item) < n
        picked.append((item[first], features[order][first], data[order][first], of_entry[order][first]))
    nothing = np.empty(0, np.int64)
    parts = [*picked, (nothing, nothing, np.empty(0, view.dtype), nothing)]
    item, features, data, of_entry = (np.concatenate([part[i] for part in parts]) for i in range(4))
    indptr = np.searchsorted(item, np.append(unique, view.n_rows))
    rows = SparseRows(indptr, features, data).select(back)
    return unique[back], rows, SparseRows(indptr, of_entry, data).select(back).indices
