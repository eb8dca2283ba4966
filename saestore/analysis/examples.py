"""Examples of features from any part of their range, with the tokens around: for people, cards and language models."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, check_at_least
from saestore.plot.style import number
from saestore.query import html
from saestore.query.details import names_of
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.posting_lists import PostingLists, iterate_lists
from saestore.query.reader import Level, SetReader
from saestore.query.results import ResultTable
from saestore.query.rows import iterate_rows
from saestore.query.selection import Condition
from saestore.query.topk import top_of_lists
from saestore.query.where import names_activation
from saestore.sparse_rows import pointers
from saestore.storage import save_file
from saestore.tables.label_matrix import check_level

Array = np.ndarray[Any, Any]

KINDS = ("top", "quantile", "random", "silent", "near-miss")
_AT_ONCE = 256  # features whose companions are found together
_ACTIVE, _BACKGROUND = 128, 4096  # samples of a feature, and of the set, by which companions are found
_COMPANIONS, _PREFIX = 8, 1 << 12  # companions of a feature, and entries of each that are searched for near misses
_MOST_QUANTILES = 10_000
_TRIES = 32  # draws of silent samples before all samples are listed


@dataclass(frozen=True, repr=False, eq=False)
class ExampleTable(ResultTable):
    """Examples of features: feature by feature, and in the order of `KINDS`.

    Attributes
    ----------
    feature, sample, item, position
        int64 (n,).
    kind
        ``top``, ``quantile``, ``random`` (active), ``silent`` or ``near-miss``.
    quantile
        int64 (n,): 0 is the strongest part of the range; -1 for the other kinds.
    activation
        Of the stored dtype (n,); at the level of items the largest of the item.
    key, text
        Key and text of the item, None where there is none.
    start
        First sample of the window.
    activations
        Activations of the window, a list of floats in each row.
    tokens
        The texts of the tokens of the window, a list in each row; None where the set does not store them.
    """

    feature: Array
    kind: Array
    quantile: Array
    sample: Array
    item: Array
    position: Array
    activation: Array
    key: Array
    text: Array
    start: Array
    activations: Array
    tokens: Array

    def marked(self, row: int, threshold: float = 0.0, marks: tuple[str, str] = ("<<", ">>")) -> str:
        """The window as text, with marks around the runs of tokens above `threshold`; the whole text without tokens."""
        tokens, values = self.tokens[row], self.activations[row]
        if tokens is None:
            return str(self.text[row] or self.key[row] or "")
        return mark_tokens(tokens, np.asarray(values) > threshold, marks)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one JSON object per example and line, with all columns, and return the path."""
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self]
        return save_file(path, "".join(lines).encode("utf-8", "replace"))

    def _repr_html_(self) -> str:
        rows = [
            [str(row["feature"]), f"quantile {row['quantile']}" if row["kind"] == "quantile" else row["kind"],
             number(row["activation"]), str(row["item"]), str(row["position"]), self.marked(i)]
            for i, row in enumerate(self)
        ]  # fmt: skip
        return html.table(["feature", "kind", "activation", "item", "position", "example"], rows, left=(1, 5))


def mark_tokens(tokens: Sequence[str], marked: Array, marks: tuple[str, str] = ("<<", ">>")) -> str:
    """The tokens joined, each run of marked ones between the two marks, as Delphi does."""
    pieces, inside = [], False
    for token, on in zip(tokens, marked.tolist(), strict=True):
        if on != inside:
            pieces.append(marks[0] if on else marks[1])
            inside = on
        pieces.append(token)
    return "".join(pieces) + (marks[1] if inside else "")


@retry_on_stale_snapshot
def examples(
    acts: SetReader,
    feature: Any,
    *,
    quantiles: int = 10,
    n: int = 5,
    random: int = 5,
    near_misses: int = 5,
    context: int = 16,
    level: Level = "sample",
    where: Any = None,
    seed: int = 0,
) -> ExampleTable:
    """Examples of one feature or of many: the strongest, from each quantile, at random, silent ones and near misses.

    Parameters
    ----------
    feature
        One feature or many, also a condition; all of them together are one pass over the store.
    quantiles
        The active samples, strongest first, are cut into this many parts of equal size; 0 for none.
    n
        ExampleTable per part, drawn without replacement; and this many of the strongest.
    random
        ExampleTable drawn from all active samples, and as many from the silent ones.
    near_misses
        Samples on which the feature is silent and its companions are active. Companions are the 8 features with the
        largest ``P(active | feature active) - P(active)``, by up to 128 active and 4,096 other samples; a near miss is
        ranked by the sum of these differences over its active companions, of whose lists the 4,096 strongest are read.
    context
        Tokens on either side in the window, which ends at the ends of the item.
    level
        ``"item"`` takes the strongest sample of each item; a silent item has no active sample at all.
    where
        Only samples that fulfil this condition; ``activation`` is each feature's own.
    seed
        The same seed gives the same examples of a feature, independent of the other features.

    Returns
    -------
    ExampleTable
        Fewer rows where there are fewer samples; a feature that is never active has silent examples only.

    Raises
    ------
    OutOfRangeError
        There is no such feature.
    InvalidInputError
        A number is negative, or the level is unknown.

    Notes
    -----
    Memory: a block of about 4 million entries or the longest list, and the examples; near misses take
    about 1 MB more for each of 256 features.
    """
    numbers = {"quantiles": quantiles, "n": n, "random": random, "near_misses": near_misses, "context": context}
    for name, value in {**numbers, "seed": seed}.items():
        check_at_least(name, value, 0)
    if quantiles > _MOST_QUANTILES:
        raise InvalidInputError(f"quantiles={quantiles}: use at most {_MOST_QUANTILES:,}.", code="bad-option")
    n, random, near_misses, context = (min(each, acts.shape[0]) for each in (n, random, near_misses, context))
    check_level(level)
    ids = acts.select_features(feature).ids
    of_one = names_activation(where)  # another condition for each feature
    if of_one and len(ids) > 1:
        same = {**numbers, "level": level, "where": where, "seed": seed}
        return ExampleTable.concat([examples(acts, int(each), **same) for each in ids])
    distinct, back = np.unique(ids, return_inverse=True)
    picker = _Picker(acts, level, acts.condition(where, int(ids[0]) if of_one and len(ids) else None), seed)
    parts = [_table(acts, None, [], context)]
    for block in iterate_lists(acts.segments, distinct, acts.dtype):
        n_lists = len(block.features)
        for whole in (block.part(i, min(i + _AT_ONCE, n_lists)) for i in range(0, n_lists, _AT_ONCE)):
            lists = whole if picker.where is None else whole.keep(picker.where.keeps(whole.samples))
            near = picker.near_misses(lists, near_misses)
            picked = [picker.pick(lists, i, (quantiles, n, random), near[i]) for i in range(len(lists.features))]
            parts.append(_table(acts, whole, picked, context))
    table = replace(ExampleTable.concat(parts), _details=partial(names_of, acts))
    if np.array_equal(distinct, ids):
        return table
    return table[np.concatenate([np.flatnonzero(table.feature == distinct[i]) for i in back])]


class _Picker:
    """Chooses samples of features; every feature has its own random numbers."""

    def __init__(self, acts: SetReader, level: Level, where: Condition | None, seed: int) -> None:
        self.acts, self.level, self.where, self.seed = acts, level, where, seed
        self.allowed = None if where is None else np.flatnonzero(where.over_samples(acts.shape[0]))

    def _items(self, samples: Array) -> Array:
        return self.acts.item_index.locate(samples)[0]

    def _one_per_item(self, samples: Array) -> Array:
        """Indices of the first sample of each item, in their order; at the level of samples of all."""
        if self.level == "sample":
            return np.arange(len(samples))
        return np.sort(np.unique(self._items(samples), return_index=True)[1])

    def pick(
        self, lists: PostingLists, i: int, counts: tuple[int, int, int], near: Array
    ) -> tuple[Array, Array, Array]:
        """Samples, kinds (places in `KINDS`) and quantiles of the examples of one feature.

        `counts` are the number of quantiles, examples for each, and examples at random.
        """
        quantiles, n, random = counts
        rng = np.random.default_rng([self.seed, int(lists.features[i])])
        active = lists.samples[lists.indptr[i] : lists.indptr[i + 1]]
        ranked = active[self._one_per_item(active)]
        chosen = [(0, -1, ranked[:n])]
        ends = np.arange(quantiles + 1) * len(ranked) // max(1, quantiles)
        for q in range(quantiles):
            part = ranked[ends[q] : ends[q + 1]]
            chosen.append((1, q, part[np.sort(rng.permutation(len(part))[:n])]))
        chosen.append((2, -1, ranked[np.sort(rng.permutation(len(ranked))[:random])]))
        chosen.append((3, -1, self._silent(rng, active, random)))
        chosen.append((4, -1, near))
        lengths = [len(samples) for _, _, samples in chosen]
        kinds, of_quantile = (np.repeat([row[k] for row in chosen], lengths) for k in (0, 1))
        return np.concatenate([samples for _, _, samples in chosen]), kinds, of_quantile

    def _silent(self, rng: np.random.Generator, active: Array, n: int) -> Array:
        """Samples at random on which the feature is silent; of items that have no active sample."""
        taken = np.unique(active if self.level == "sample" else self._items(active))
        allowed, n_allowed = self.allowed, self.acts.shape[0] if self.allowed is None else len(self.allowed)
        found = np.empty(0, np.int64)
        for _ in range(_TRIES if n_allowed else 0):
            draw = rng.integers(0, n_allowed, 2 * n)
            found = np.append(found, self._unless(taken, draw if allowed is None else allowed[draw]))
            found = found[np.sort(np.unique(found, return_index=True)[1])]
            found = found[self._one_per_item(found)]
            if len(found) >= n:
                return found[:n]
        # Few are left: they are listed, and not all samples.
        index, n_samples = self.acts.item_index, self.acts.shape[0]
        free = np.ones(n_samples if self.level == "sample" else index.n_items, bool)
        free[taken] = False
        if self.level == "item":
            free = np.repeat(free, np.diff(np.minimum(index.pointers(), n_samples)))
        left = rng.permutation(np.flatnonzero(free) if allowed is None else allowed[free[allowed]])
        return left[self._one_per_item(left)][:n]

    def _unless(self, taken: Array, samples: Array) -> Array:
        """The samples that are not among `taken`, ascending, or whose item is not."""
        units = samples if self.level == "sample" else self._items(samples)
        free: Array = np.searchsorted(taken, units) == np.searchsorted(taken, units, "right")
        return np.asarray(samples[free])

    def near_misses(self, lists: PostingLists, n: int) -> list[Array]:
        """Samples of each feature that share its companions and lack it, the nearest first."""
        if not n:
            return [np.empty(0, np.int64)] * len(lists.features)
        found = companions(self.acts, lists, self.allowed, self.seed)
        asked = np.unique(np.concatenate([np.empty(0, np.int64), *(features for features, _ in found)]))
        prefixes = top_of_lists(
            self.acts.segments, asked, _PREFIX, self.acts.item_index,
            per_item=False, where=self.where, dtype=self.acts.dtype,
        )  # fmt: skip
        near = []
        for i, (features, gains) in enumerate(found):
            at = np.searchsorted(asked, features)
            parts = [prefixes.samples[prefixes.indptr[a] : prefixes.indptr[a + 1]] for a in at]
            samples, back = np.unique(np.concatenate([np.empty(0, np.int64), *parts]), return_inverse=True)
            shared = np.bincount(back, np.repeat(gains, list(map(len, parts))), len(samples))
            active = lists.samples[lists.indptr[i] : lists.indptr[i + 1]]
            taken = np.unique(active if self.level == "sample" else self._items(active))
            # Most often the first few dozens suffice, so that not all are sorted.
            for most in (16 * n, len(samples)):
                left = self._unless(taken, samples[_largest(shared, most)])
                left = left[self._one_per_item(left)][:n]
                if len(left) == n:
                    break
            near.append(left)
        return near


def _largest(values: Array, n: int) -> Array:
    """Indices of the `n` largest values and of those that equal the last of them, largest first, ties by index."""
    chosen = np.arange(len(values))
    if n < len(values):
        chosen = np.flatnonzero(values >= np.partition(values, len(values) - n)[len(values) - n])
    return chosen[np.argsort(-values[chosen], kind="stable")]


def companions(
    acts: SetReader, lists: PostingLists, allowed: Array | None, seed: int, n: int = _COMPANIONS
) -> list[tuple[Array, Array]]:
    """The features that are active with each feature of `lists`, and ``P(active | feature active) - P(active)``.

    Both shares are by samples at random, up to 128 of the feature and 4,096 of the set; best first, above 0 only.
    Memory: the rows of these samples, and 16 bytes per feature of the set and of `lists`.
    """
    import scipy.sparse as sp

    n_samples, n_features = acts.shape
    pool = np.arange(n_samples) if allowed is None and n_samples <= _BACKGROUND else allowed
    rng = np.random.default_rng(seed)
    if pool is None:
        background = np.unique(rng.integers(0, n_samples, _BACKGROUND))
    else:
        background = np.sort(rng.permutation(pool)[:_BACKGROUND])
    picked = []
    for i, feature in enumerate(lists.features.tolist()):
        active = lists.samples[lists.indptr[i] : lists.indptr[i + 1]]
        picked.append(active[np.random.default_rng([seed, feature]).permutation(len(active))[:_ACTIVE]])
    rows = np.unique(np.concatenate([background, *picked]))
    groups = [background, *picked]
    lengths = list(map(len, groups))
    member = sp.csr_array(
        (np.ones(sum(lengths), np.float32), np.searchsorted(rows, np.concatenate(groups)), pointers(lengths)),
        shape=(len(groups), len(rows)),
    )
    counts, done = np.zeros((len(groups), n_features), np.float32), 0
    for part, block in iterate_rows(acts.segments, rows, values=False):
        ones = sp.csr_array(
            (np.ones(block.nnz, np.float32), block.indices.astype(np.int64), block.indptr),
            shape=(len(part), n_features),
        )
        counts += (member[:, done : done + len(part)] @ ones).toarray()
        done += len(part)
    found, base = [], counts[0].astype(np.float64) / max(1, lengths[0])
    for i, feature in enumerate(lists.features.tolist()):
        gain = counts[i + 1].astype(np.float64) / max(1, lengths[i + 1]) - base
        gain[feature] = 0
        positive = np.flatnonzero(gain > 0)
        best = positive[np.argsort(-gain[positive], kind="stable")[:n]]
        found.append((best, gain[best]))
    return found


def _table(
    acts: SetReader, lists: PostingLists | None, picked: Sequence[tuple[Array, Array, Array]], context: int
) -> ExampleTable:
    """Add to the samples of each feature their items, windows, keys and texts."""
    nothing = np.empty(0, np.int64)
    samples, kinds, of_quantile = (np.concatenate([nothing, *(p[k] for p in picked)]) for k in range(3))
    which = np.repeat(np.arange(len(picked)), [len(p[0]) for p in picked])
    items, positions = acts.item_index.locate(samples)
    ptr = np.minimum(acts.item_index.pointers(), acts.shape[0])
    start = np.maximum(ptr[items], samples - context)
    lengths = np.minimum(ptr[items + 1], samples + context + 1) - start
    windows = np.arange(int(lengths.sum())) + np.repeat(start - pointers(lengths)[:-1], lengths)
    values, ends = np.zeros(len(windows), acts.dtype), pointers(np.bincount(which, lengths, len(picked)).astype(int))
    for i in range(len(picked)):
        asked = slice(ends[i], ends[i + 1])
        values[asked] = _values_at(lists, i, windows[asked])
    keys, texts = (_of_items(acts, name, items) for name in ("key", "text"))
    return ExampleTable(
        nothing if lists is None else lists.features[which], np.array(KINDS, object)[kinds], of_quantile,
        samples, items, positions, values[pointers(lengths)[:-1] + samples - start], keys, texts, start,
        _ragged(values.tolist(), lengths), _tokens(acts, windows, np.repeat(texts, lengths), lengths),
    )  # fmt: skip


def _values_at(lists: PostingLists | None, i: int, samples: Array) -> Array | int:
    """Activations of a feature on samples, from its list."""
    if lists is None or lists.indptr[i] == lists.indptr[i + 1]:
        return 0
    part = slice(lists.indptr[i], lists.indptr[i + 1])
    order = np.argsort(lists.samples[part])
    entries, data = lists.samples[part][order], lists.data[part][order]
    at = np.minimum(np.searchsorted(entries, samples), len(entries) - 1)
    return np.where(entries[at] == samples, data[at], 0)


def _of_items(acts: SetReader, name: str, items: Array) -> Array:
    if name not in acts.items.names() or not len(items):
        return np.full(len(items), None, object)
    distinct, back = np.unique(items, return_inverse=True)
    return acts.items.column(name, distinct).astype(object)[back]


def _tokens(acts: SetReader, samples: Array, texts: Array, lengths: Array) -> Array:
    """The texts of the tokens of each window."""
    spans = acts.spans(samples) if len(samples) and texts[0] is not None else None
    if spans is None:
        return np.full(len(lengths), None, object)
    return _ragged([text[a:b] for text, (a, b) in zip(texts, spans.tolist(), strict=True)], lengths)


def _ragged(values: list[Any], lengths: Array) -> Array:
    ends, out = pointers(lengths), np.empty(len(lengths), object)
    for i in range(len(out)):
        out[i] = values[ends[i] : ends[i + 1]]
    return out
