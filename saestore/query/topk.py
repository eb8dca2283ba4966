"""The strongest samples of features: prefixes of their lists, one a segment, merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saestore.kernels import descending_bits
from saestore.query.selection import Condition
from saestore.segment import Segment, read_entries
from saestore.tables.item_index import ItemIndex

Array = np.ndarray[Any, Any]
_GROWTH = 4  # how much longer the next prefix is when the last was too short


@dataclass
class _Prefix:
    """What was read so far of one feature's list in one segment."""

    segment: int
    start: int
    stop: int
    read: int = 0
    samples: list[Array] = field(default_factory=list)
    data: list[Array] = field(default_factory=list)

    @property
    def exhausted(self) -> bool:
        return self.start + self.read >= self.stop

    def next_slice(self, wanted: int) -> tuple[int, int]:
        """The slice that makes the prefix `wanted` entries long."""
        return self.start + self.read, min(self.stop, self.start + max(wanted, self.read))


def top_entries(
    segments: Sequence[Segment],
    features: Array,
    n: int,
    index: ItemIndex,
    *,
    per_item: bool,
    where: Condition | None,
    dtype: Any,
) -> list[tuple[Array, Array]]:
    """Samples and activations of the `n` strongest entries of every feature.

    Parameters
    ----------
    per_item
        Keep an item's strongest sample only.
    where
        Samples that may appear.

    Notes
    -----
    Reads a prefix of `n` entries of every list in every segment; where a condition or `per_item` drops some of them,
    the prefixes grow until `n` are certain. All prefixes are planned together and read at once. Memory:
    the prefixes.
    """
    # Of none wanted, or none that may appear, there is nothing to read: as if the lists were empty.
    nothing_to_find = n == 0 or (where is not None and not where.mask.any())
    lists = {int(f): [] if nothing_to_find else _prefixes(segments, int(f)) for f in features}
    nothing = np.empty(0, np.int64), np.empty(0, dtype)
    results: dict[int, tuple[Array, Array]] = {f: nothing for f, prefixes in lists.items() if not prefixes}
    wanted = n if not per_item and where is None else _GROWTH * n
    while len(results) < len(lists):
        open_features = [f for f in lists if f not in results]
        _extend(segments, [p for f in open_features for p in lists[f]], wanted)
        for f in open_features:
            found = _settle(lists[f], n, index, per_item, where)
            if found is not None:
                results[f] = found
                lists[f] = []
        wanted *= _GROWTH
    return [results[int(f)] for f in features]


def _prefixes(segments: Sequence[Segment], feature: int) -> list[_Prefix]:
    found = []
    for i, segment in enumerate(segments):
        start, stop = segment.feature_ptr[feature : feature + 2]
        if stop > start:
            found.append(_Prefix(i, int(start), int(stop)))
    return found


def _extend(segments: Sequence[Segment], prefixes: list[_Prefix], wanted: int) -> None:
    """Read on, so that every prefix is `wanted` entries long or whole."""
    short = [p for p in prefixes if not p.exhausted]
    entries = read_entries([(segments[p.segment], *p.next_slice(wanted)) for p in short])
    for prefix, (samples, data) in zip(short, entries, strict=True):
        prefix.read += len(samples)
        prefix.samples.append(samples)
        prefix.data.append(data)


def _settle(
    prefixes: list[_Prefix], n: int, index: ItemIndex, per_item: bool, where: Condition | None
) -> tuple[Array, Array] | None:
    """The first `n` entries where the prefixes suffice to know them, else None."""
    samples = np.concatenate([a for p in prefixes for a in p.samples])
    data = np.concatenate([a for p in prefixes for a in p.data])
    bits = descending_bits(data)
    order = np.lexsort((samples, bits)) if len(prefixes) > 1 else np.arange(len(samples))
    samples, data, bits = samples[order], data[order], bits[order]
    certain = len(samples)
    ends = [(descending_bits(p.data[-1])[-1], p.samples[-1][-1]) for p in prefixes if not p.exhausted]
    if ends:
        # What lies behind the end of any prefix may come before later entries of the others.
        last_bits, last_sample = min(ends)
        certain = int(np.count_nonzero((bits < last_bits) | ((bits == last_bits) & (samples <= last_sample))))
    samples, data = samples[:certain], data[:certain]
    if where is not None:
        kept = where.keeps(samples)
        samples, data = samples[kept], data[kept]
    if per_item:
        first = np.sort(np.unique(index.locate(samples)[0], return_index=True)[1])
        samples, data = samples[first], data[first]
    if len(samples) >= n or not ends:
        return samples[:n], data[:n]
    return None
