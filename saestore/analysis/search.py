"""The samples or items with the largest weighted sum of activations, exactly, from prefixes of the posting lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError
from saestore.query.details import details_of
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.reader import Level, SetReader
from saestore.query.results import ResultTable
from saestore.query.rows import iterate_rows
from saestore.query.selection import check_at_least, select, select_one
from saestore.segment import Segment, read_entries
from saestore.sparse_rows import pointers
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
    if pooling not in ("max", "mean"):
        raise InvalidInputError(f"pooling={pooling!r}: use 'max' or 'mean'.", code="unknown-choice")
    if sum(value is not None for value in (query, sample, item)) != 1:
        raise InvalidInputError("search() takes one of query, sample= and item=.", code="missing-argument")
    weights = _weights(acts, query, sample, item, pooling)
    condition = acts.condition(where)
    allowed = None
    if condition is not None:
        allowed = np.zeros(acts.shape[0], bool)
        allowed[condition.samples(acts.shape[0])] = True
    return _Search(acts, weights, level, pooling, allowed).best(n)


def _weights(acts: SetReader, query: Any, sample: Any, item: Any, pooling: Pooling) -> Array:
    """The weight of every feature, float64 (n_features,)."""
    n_features, weights = acts.shape[1], np.zeros(acts.shape[1])
    if sample is not None or item is not None:
        ids = np.array([0])
        if sample is not None:
            ids[0] = select_one(sample, acts.shape[0], "sample", "search")
        else:
            number = select_one(item, acts.n_items, "item", "search")
            ids = np.arange(*np.minimum(acts.item_index.pointers()[number : number + 2], acts.shape[0]))
        rows = acts.sparse(ids)
        pooled = rows.max(axis=0) if pooling == "max" and len(ids) else rows.sum(axis=0) / max(1, len(ids))
        weights[:] = pooled.toarray().ravel() if hasattr(pooled, "toarray") else pooled
    elif isinstance(query, str):
        hits = acts.features.search(query)
        if not len(hits):
            message = f"no feature has {query!r} in its name, note or explanation."
            raise NotFoundError(message, code="nothing-found")
        weights[hits] = 1
    elif isinstance(query, Mapping):
        ids = select(list(query), n_features, "feature").ids
        np.add.at(weights, ids, _numbers(list(query.values())))
    else:
        weights = _numbers(query)
        if weights.shape != (n_features,):
            message = f"the query has the shape {weights.shape}; give {n_features:,} weights, or a mapping of features."
            raise InvalidInputError(message, code="wrong-length")
    if not weights.any():
        raise InvalidInputError("every weight of the query is 0; give one that is not.", code="empty-query")
    return weights


def _numbers(values: Any) -> Array:
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError) as e:
        raise InvalidInputError(f"the query holds what is not a number: {e}.", code="bad-query") from e
    if not np.isfinite(numbers).all():
        raise InvalidInputError("a weight of the query is not finite; give finite numbers.", code="bad-query")
    return numbers


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

    def __init__(self, acts: SetReader, weights: Array, level: Level, pooling: Pooling, allowed: Array | None) -> None:
        self.acts, self.weights, self.level, self.pooling, self.allowed = acts, weights, level, pooling, allowed
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
        if self.level == "item":
            features = {f for values in by_segment.values() for f in values}
            return sum(max(values.get(f, 0.0) for values in by_segment.values()) for f in features)
        return max((sum(values.values()) for values in by_segment.values()), default=0.0)

    def _score(self, samples: Array) -> None:
        """Score the candidates among these samples that have no score yet."""
        acts = self.acts
        if self.allowed is not None:
            samples = samples[self.allowed[samples]]
        if self.level == "sample":
            fresh = np.setdiff1d(samples, self.candidates)
            scores, rows = self._of_samples(fresh), fresh
        else:
            fresh = np.setdiff1d(acts.item_index.locate(samples)[0], self.candidates)
            scores, rows = self._of_items(fresh)
        self.candidates = np.append(self.candidates, fresh)
        self.scores, self.samples = np.append(self.scores, scores), np.append(self.samples, rows)

    def _of_samples(self, samples: Array) -> Array:
        parts: list[Array] = [np.empty(0)]
        for _, block in iterate_rows(self.acts.segments, samples):
            products = self.weights[block.indices] * block.data
            parts.append(np.bincount(block.rows(), products, len(block)))
        return np.concatenate(parts)

    def _of_items(self, items: Array) -> tuple[Array, Array]:
        """Scores of items by their pooled activations, and the best sample of each by its own score."""
        ptr = np.minimum(self.acts.item_index.pointers(), self.acts.shape[0])
        lengths = ptr[items + 1] - ptr[items]
        samples = np.arange(int(lengths.sum())) + np.repeat(ptr[items] - pointers(lengths)[:-1], lengths)
        of_item = np.repeat(np.arange(len(items)), lengths)
        if self.allowed is not None:
            kept = self.allowed[samples]
            samples, of_item = samples[kept], of_item[kept]
        sizes, done = np.bincount(of_item, minlength=len(items)), 0
        keys: list[Array] = []
        values, own = [], np.zeros(len(samples))
        n_features, asked = self.acts.shape[1], self.weights != 0
        for part, block in iterate_rows(self.acts.segments, samples):
            row = block.rows()
            own[done : done + len(part)] = np.bincount(row, self.weights[block.indices] * block.data, len(part))
            kept = asked[block.indices]
            keys.append(of_item[done + row[kept]] * n_features + block.indices[kept])
            values.append(block.data[kept].astype(np.float64))
            done += len(part)
        key, back = np.unique(np.concatenate([np.empty(0, np.int64), *keys]), return_inverse=True)
        data = np.concatenate([np.empty(0), *values])
        item, feature = key // n_features, key % n_features
        if self.pooling == "mean":
            pooled = np.bincount(back, data, len(key)) / sizes[item]
        else:
            pooled = np.full(len(key), -np.inf)
            np.maximum.at(pooled, back, data)
            partly = np.bincount(back, minlength=len(key)) < sizes[item]
            pooled[partly] = np.maximum(pooled[partly], 0)
        scores = np.bincount(item, self.weights[feature] * pooled, len(items))
        order = np.lexsort((samples, -own, of_item))
        return scores, samples[order[np.searchsorted(of_item, np.arange(len(items)))]]
