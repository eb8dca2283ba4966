"""Scores of one feature at a time with all concepts of a level, each with an interval, without another draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from saestore.kernels import segment_sums
from saestore.query.posting_lists import PostingLists, iterate_lists
from saestore.query.reader import Level, SetReader
from saestore.scoring.concept_scores import read_labels, read_observations, score_pieces
from saestore.scoring.observations import BLOCK
from saestore.sparse_rows import pointers
from saestore.storage import in_order
from saestore.tables.label_matrix import ids
from saestore.vocabulary import SCORES

Array = np.ndarray[Any, Any]

_Z = 1.959963984540054  # of a normal distribution, 95 % are within this many standard deviations


def roc_auc_of_all(
    reader: SetReader, level: Level, concepts: Sequence[str] | None = None
) -> Iterator[tuple[Array, Array]]:
    """The ROC AUC of every feature with every concept, some features at a time, in one pass over the store.

    Yields
    ------
    features, values
        Numbers of features, ascending, and float64 (n_features, n_concepts). NaN where it is not defined.

    Notes
    -----
    The rank sum of Mann and Whitney is a product of two sparse matrices. Memory: as `ScoredObservations`, 8 bytes per
    true label, about 150 bytes per entry of a block for each thread, and 32 bytes per feature of a block and concept.
    """
    import scipy.sparse as sp

    observations = read_observations(reader, level, read_labels(reader, level, concepts), None)
    positive = observations.n_positive
    labels = [sp.csr_array(observations.columns[:, group.concepts], dtype=np.int64) for group in observations.groups]

    def score(of_samples: PostingLists) -> tuple[Array, Array]:
        lists = observations.over(of_samples)
        values = np.full((len(lists.features), len(positive)), np.nan)
        for group, of_group in zip(observations.groups, labels, strict=True):
            ranked = group.rank(lists)
            weights = np.int64(2 * ranked.n + 1) - ranked.start - ranked.stop
            shape = len(ranked), of_group.shape[0]
            sums, hits = (
                (sp.csr_array((data, ranked.rows, ranked.indptr), shape) @ of_group).toarray()
                for data in (weights, np.ones_like(weights))
            )
            of_zero = 2 * ranked.n + 1 - 2 * ranked.n_positive - ranked.n_zero
            p = positive[group.concepts]
            sums += (p - hits) * of_zero[:, None]
            defined = (ranked.n_active > 0)[:, None] & (p > 0) & (p < ranked.n)
            with np.errstate(divide="ignore", invalid="ignore"):
                auc = (sums - p * (p + 1)) / (2 * p * (ranked.n - p))
            values[:, group.concepts] = np.where(defined, auc, np.nan)
        return lists.features, values

    features = np.arange(reader.shape[1])
    yield from in_order(score, iterate_lists(reader.segments, features, reader.dtype, BLOCK))


class FeatureScorer:
    """What scoring needs of the labels, kept for many features. Memory: as `ScoredObservations`, and the labels again.

    Parameters
    ----------
    level, where
        As of `Concepts.scores`.
    """

    def __init__(self, reader: SetReader, level: Level, where: Any = None) -> None:
        labels = read_labels(reader, level, None)
        self.reader, self.names = reader, labels.names
        self.observations = read_observations(reader, level, labels, where)
        self._known = {c: group.known for group in self.observations.groups for c in group.concepts.tolist()}
        self._counts: dict[int, tuple[Array, Array]] = {}

    def lists(self, feature: int) -> PostingLists:
        """The feature over the observations that count."""
        return next(self.observations.lists(self.reader.segments, np.array([feature]), self.reader.dtype))

    def scores(self, lists: PostingLists) -> dict[str, Array]:
        """Each of `SCORES`, float64 (n_concepts,); NaN where it is not defined."""
        values = {name: np.full(len(self.names), np.nan) for name in SCORES}
        for group in self.observations.groups:
            for _, concepts, scores in score_pieces(lists, self.observations, group, None):
                for name, of_concepts in scores.items():
                    values[name][concepts] = of_concepts[0]
        return values

    def interval(self, lists: PostingLists, concept: int) -> tuple[float, float]:
        """The 95 % interval of the ROC AUC with a concept; see `auc_interval`. Items are drawn, as in the bootstrap."""
        known, rows, values = self._known[concept], lists.samples, lists.data
        if known is not None:
            rows, values = rows[known[rows]], values[known[rows]]
        true, (positive, negative) = self._true(concept), self._of_items(concept)
        at = np.minimum(np.searchsorted(true, rows), max(0, len(true) - 1))
        hit = true[at] == rows if len(true) else np.zeros(len(rows), bool)
        del at  # as large as the list
        return auc_interval(values, self._items(rows), hit, positive, negative)

    def _true(self, concept: int) -> Array:
        return ids(self.observations.columns, concept)

    def _items(self, rows: Array) -> Array:
        return self.reader.item_index.locate(rows)[0] if self.observations.sizes is None else rows

    def _of_items(self, concept: int) -> tuple[Array, Array]:
        """How many observations of each item that count have a concept, and how many do not have it."""
        if concept not in self._counts:
            observations, known, n_items = self.observations, self._known[concept], self.reader.n_items
            counting = observations.kept if observations.sizes is None else observations.sizes > 0
            counting = counting if known is None else counting & known[: len(counting)]
            if observations.sizes is None:
                ends = np.minimum(self.reader.item_index.pointers(), len(counting))
                total = segment_sums(counting, ends).astype(np.int64)
            else:
                total = counting.astype(np.int64)
            true = self._true(concept)
            positive = np.bincount(self._items(true[counting[true]]), minlength=n_items)
            self._counts[concept] = positive, total - positive
        return self._counts[concept]


def auc_interval(values: Array, items: Array, hit: Array, positive: Array, negative: Array) -> tuple[float, float]:
    """A 95 % interval of the ROC AUC whose observations resemble each other within items.

    Parameters
    ----------
    values, items, hit
        Of each observation that is not 0, descending: its score, its item, and whether it is positive.
    positive, negative
        Of each item, its positive and negative observations, zeros included, int64 (n_items,).

    Returns
    -------
    low, high
        NaN where fewer than two items have a positive, or a negative one.

    Notes
    -----
    The variance is Obuchowski's for clustered data (Biometrics 53, 1997); with one observation per item it is DeLong's
    (Biometrics 44, 1988). The interval is symmetric in the logit of the AUC, so that it stays between 0 and 1.
    """
    n_items, n_positive, n_negative = len(positive), int(positive.sum()), int(negative.sum())
    with_positive, with_negative = np.count_nonzero(positive), np.count_nonzero(negative)
    if min(with_positive, with_negative) < 2:
        return np.nan, np.nan
    narrow = np.int32 if max(n_positive, n_negative) < 1 << 30 else np.int64  # for twice a number
    fresh = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])
    starts: Array = np.append(fresh, len(values)).astype(narrow)  # of runs of equal values
    hits: Array = pointers(hit).astype(narrow)[starts]  # positives before each run
    runs = np.diff(starts), hits, starts - hits, int(np.count_nonzero(values[starts[:-1]] > 0))
    # Of an observation of each value: the share of negatives below it, and of positives above it, ties half.
    below, zero_below = _share_above(*runs[2:], n_negative)
    above, zero_above = _share_above(*runs[1::2], n_positive)
    auc = 1 - (np.diff(hits) @ below + (n_positive - hits[-1]) * zero_below) / n_positive
    if not 0 < auc < 1:
        return auc, auc
    deviations = []
    sides = (hit, positive, 1 - below, 1 - zero_below), (~hit, negative, above, zero_above)
    for mask, total, share, of_zero in sides:
        active = np.bincount(items[mask], minlength=n_items)
        sums = np.bincount(items[mask], np.repeat(share, runs[0])[mask], n_items) + of_zero * (total - active)
        deviations.append(sums - auc * total)
    of_positive, of_negative = deviations
    n_used = np.count_nonzero(positive + negative)
    variance = (
        of_positive @ of_positive * with_positive / (with_positive - 1) / n_positive**2
        + of_negative @ of_negative * with_negative / (with_negative - 1) / n_negative**2
        + 2 * (of_positive @ of_negative) * n_used / (n_used - 1) / (n_positive * n_negative)
    )
    reach = _Z * np.sqrt(max(0.0, variance)) / (auc * (1 - auc))
    low, high = (float(1 / (1 + (1 - auc) / auc * np.exp(sign * reach))) for sign in (1, -1))
    return low, high


def _share_above(before: Array, n_above_zero: int, n: int) -> tuple[Array, float]:
    """The share of `n` observations that are above each run of equal values, ties half; and above zero.

    `before`: How many of them are before each run and after the last, descending and without zeros. `n_above_zero`:
    Runs of values above zero.
    """
    n_zero = n - int(before[-1])
    twice = before[:-1] + before[1:]
    twice[n_above_zero:] += 2 * n_zero
    return twice / (2 * n), (int(before[n_above_zero]) + n_zero / 2) / n
