"""The samples or items with the largest weighted sum of activations, exactly, from prefixes of the posting lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from saestore.analysis.directions import numbers_of
from saestore.errors import InvalidInputError, NotFoundError, check_at_least, check_choice
from saestore.query.details import details_of
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.reader import Level, SetReader
from saestore.query.results import ResultTable
from saestore.query.selection import select, select_one
from saestore.query.view import View, pool
from saestore.segment.read import Segment, read_entries
from saestore.sparse_rows import SparseRows
from saestore.tables.label_matrix import check_level

Array = np.ndarray[Any, Any]
Pooling = Literal["max", "mean"]

_FIRST, _GROWTH = 32, 4  # entries of each list that are read at first, and how much longer the next prefix is


@dataclass(frozen=True, repr=False, eq=False)
class SearchHits(ResultTable):
    """Samples, or items with their best sample, by descending score; ties by ascending sample or item.

    Attributes
    ----------
    sample, item, position
        int64 (n,).
    score
        The weighted sum, float64 (n,).
    """

    sample: Array
    item: Array
    position: Array
    score: Array


@retry_on_stale_snapshot
def search(
    acts: SetReader,
    query: Any = None,
    n: int = 20,
    level: Level = "sample",
    *,
    sample: int | None = None,
    item: int | None = None,
    pooling: Pooling = "max",
    where: Any = None,
) -> SearchHits:
    """The samples or items with the largest ``sum over f of w_f a_f``: exact maximum inner product search.

    Parameters
    ----------
    query
        A mapping of features to weights; a vector of d_sae weights; or words, which weigh each feature 1 that has them
        in its name, note or explanation.
    n
        Rows at most; only those with a score above 0.
    level
        ``"item"`` scores the pooled activations of items.
    sample, item
        Instead of a query: more like this sample, or like this item by its pooled activations.
    pooling
        The activation of an item: ``"max"`` or ``"mean"`` over its samples.
    where
        Only these samples; an item consists of its samples that fulfil it.

    Returns
    -------
    SearchHits
        At the level of items, ``sample`` is the sample of the item that scores best by itself.

    Raises
    ------
    InvalidInputError
        The query is empty, not finite or of another length, or there is more than one.
    NotFoundError
        No name, note or explanation has the words.

    Notes
    -----
    The threshold algorithm (Fagin, Lotem and Naor 2003) on lists in impact order: prefixes of the lists of positive
    weights are read until no unread sample can have a larger score than the n-th best. Scores of the candidates come
    from their rows. Memory: the prefixes, the candidates' scores and the rows of a block.
    """
    n = check_at_least("n", n, 0)
    check_level(level)
    check_choice("pooling", pooling, ("max", "mean"))
    if sum(value is not None for value in (query, sample, item)) != 1:
        raise InvalidInputError("search() takes one of query, sample= and item=.", code="missing-argument")
    weights = _weights(acts, query, sample, item, pooling)
    return _Search(acts, weights, acts.view(level, where), pooling).best(n)


def _weights(acts: SetReader, query: Any, sample: Any, item: Any, pooling: Pooling) -> Array:
    """The weight of every feature, float64 (n_features,)."""
    n_features, weights = acts.shape[1], np.zeros(acts.shape[1])
    if sample is not None:
        weights = acts.dense(select_one(sample, acts.shape[0], "sample", "search")).astype(np.float64)
    elif item is not None:
        number = select_one(item, acts.n_items, "item", "search")
        weights = acts.dense(number, level="item", pooling=pooling).astype(np.float64)
    elif isinstance(query, str):
        hits = acts.features.search(query)
        if not len(hits):
            message = f"no feature has {query!r} in its name, note or explanation."
            raise NotFoundError(message, code="nothing-found")
        weights[hits] = 1
    elif isinstance(query, Mapping):
        ids = select(list(query), n_features, "feature").ids
        given = numbers_of(list(query.values()), "the query")
        if given.shape != ids.shape:
            message = f"the weights of the query have the shape {given.shape}; give a number for each feature."
            raise InvalidInputError(message, code="wrong-length")
        np.add.at(weights, ids, given)
    else:
        weights = numbers_of(query, "the query")
        if weights.shape != (n_features,):
            message = f"the query has the shape {weights.shape}; give {n_features:,} weights, or a mapping of features."
            raise InvalidInputError(message, code="wrong-length")
    if not weights.any():
        raise InvalidInputError("every weight of the query is 0; give one that is not.", code="empty-query")
    return weights


@dataclass
class _Prefix:
    """The list of one feature in one segment: where the unread part starts, and whether it is read at once."""

    segment: Segment
    feature: int
    start: int
    stop: int
    whole: bool


class _Search:
    """One search: the lists that are read, the candidates, and their scores."""

    def __init__(self, acts: SetReader, weights: Array, view: View, pooling: Pooling) -> None:
        self.acts, self.weights, self.view, self.pooling = acts, weights, view, pooling
        self.candidates, self.scores, self.samples = np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64)
        # A negative weight raises a score only where an activation is negative: such lists are read whole.
        lowest = acts.stats(np.flatnonzero(weights < 0))["min"].to_numpy()
        eager = np.flatnonzero(weights < 0)[lowest < 0]
        whole, features = set(eager.tolist()), np.append(np.flatnonzero(weights > 0), eager).tolist()
        self.prefixes = [
            _Prefix(segment, f, int(segment.feature_ptr[f]), int(segment.feature_ptr[f + 1]), f in whole)
            for segment in acts.segments
            for f in features
        ]
        self.next = np.array([np.inf] * len(self.prefixes))  # the last activation that was read of each list

    def best(self, n: int) -> SearchHits:
        """Read until the `n` best are certain."""
        length, done = max(_FIRST, n), 0
        while True:
            found = self._read(length - done)
            self._score(found)
            order = np.lexsort((self.candidates, -self.scores))[:n]
            order = order[self.scores[order] > 0]
            bound = self._bound()
            if not n or bound <= 0 or (len(order) == n and self.scores[order[-1]] > bound):
                items, positions = self.acts.item_index.locate(self.samples[order])
                columns = self.samples[order], items, positions, self.scores[order]
                return SearchHits(*columns, _details=partial(details_of, self.acts))
            done, length = length, _GROWTH * length

    def _read(self, n: int) -> Array:
        """Samples of the next `n` entries of every list, or of the whole lists that are read at once."""
        asked = []
        for prefix in self.prefixes:
            start, prefix.start = prefix.start, prefix.stop if prefix.whole else min(prefix.stop, prefix.start + n)
            asked.append((prefix.segment, start, prefix.start))
        entries = read_entries(asked)
        for i, (_, data) in enumerate(entries):
            exhausted = self.prefixes[i].start == self.prefixes[i].stop
            self.next[i] = 0.0 if exhausted else max(0.0, float(data[-1]))
        return np.unique(np.concatenate([np.empty(0, np.int64), *(samples for samples, _ in entries)]))

    def _bound(self) -> float:
        """The largest score of a sample or item that was not read: of one segment, or of several where items cross."""
        by_segment: dict[int, dict[int, float]] = {}
        for prefix, value in zip(self.prefixes, self.next.tolist(), strict=True):
            most = max(0.0, float(self.weights[prefix.feature])) * value
            by_segment.setdefault(id(prefix.segment), {})[prefix.feature] = most
        if self.view.level == "item":
            features = {f for values in by_segment.values() for f in values}
            return sum(max(values.get(f, 0.0) for values in by_segment.values()) for f in features)
        return max((sum(values.values()) for values in by_segment.values()), default=0.0)

    def _score(self, samples: Array) -> None:
        """Score the candidates among these samples that have no score yet."""
        if self.view.kept is not None:
            samples = samples[self.view.kept[samples]]
        if self.view.level == "sample":
            fresh = np.setdiff1d(samples, self.candidates)
            blocks = (self._products(block) for _, block in self.view.rows(fresh))
            scores, rows = np.concatenate([np.empty(0), *blocks]), fresh
        else:
            fresh = np.setdiff1d(self.view.index.locate(samples)[0], self.candidates)
            scores, rows = self._of_items(fresh)
        self.candidates = np.append(self.candidates, fresh)
        self.scores, self.samples = np.append(self.scores, scores), np.append(self.samples, rows)

    def _products(self, block: SparseRows) -> Array:
        return np.bincount(block.rows(), self.weights[block.indices] * block.data, len(block))

    def _of_items(self, items: Array) -> tuple[Array, Array]:
        """Scores of items by their pooled activations, and the best sample of each by its own score."""
        view, n_features = self.view, self.view.n_features
        scores, best = np.zeros(len(items)), [np.empty(0, np.int64)]
        for samples, block in view.rows_of_items(items):
            item = view.index.locate(samples)[0]
            order = np.lexsort((samples, -self._products(block), item))
            best.append(samples[order[np.flatnonzero(np.diff(item[order], prepend=-1))]])
            kept = self.weights[block.indices] != 0
            of_entry = item[block.rows()[kept]]
            key = of_entry.astype(np.int64) * n_features + block.indices[kept]
            data = block.data[kept].astype(np.float64)
            key, pooled = pool(key, data, view.all_sizes()[of_entry], self.pooling)
            at, feature = np.searchsorted(items, key // n_features), key % n_features
            scores += np.bincount(at, self.weights[feature] * pooled, len(items))
        return scores, np.concatenate(best)
