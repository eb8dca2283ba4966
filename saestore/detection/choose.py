"""Choosing features and thresholds on the calibration split, over all features, concepts and shares at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.detection.inputs import CALIBRATION, Inputs, Split
from saestore.query.posting_lists import PostingLists
from saestore.scoring.quantile_thresholds import count_reaching, list_quantiles, middle_best
from saestore.scoring.ranks import find_hits, rank

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]

_PIECE = 1 << 18  # positive rows, or pairs of feature and concept, that are worked on at a time


@dataclass(frozen=True)
class FeatureThresholds:
    """The best of each concept on the calibration split, best first: one threshold for each feature.

    Attributes
    ----------
    concept, feature
        int64 (n,).
    p, threshold
        Share of the positive rows that the threshold lets through, and its value, float64.
    f1
        On the calibration split.
    tp, predicted
        Positives, and units in all, that reach the threshold there.
    n_rows
        Positive calibration rows on which the feature is above 0.
    """

    concept: Array
    feature: Array
    p: Array
    threshold: Array
    f1: Array
    tp: Array
    predicted: Array
    n_rows: Array

    def __len__(self) -> int:
        return len(self.concept)

    def take(self, places: Array) -> FeatureThresholds:
        """Some of them."""
        return FeatureThresholds(*(getattr(self, f.name)[places] for f in fields(self)))

    def of(self, concept: int) -> FeatureThresholds:
        """Those of one concept."""
        return self.take(np.flatnonzero(self.concept == concept))

    def __add__(self, other: FeatureThresholds) -> FeatureThresholds:
        return FeatureThresholds(*(np.append(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))

    @classmethod
    def none(cls) -> FeatureThresholds:
        """No candidates."""
        ids, values = np.empty(0, np.int64), np.empty(0)
        return cls(ids, ids, values, values, values, ids, ids, ids)

    def best(self, n: int) -> FeatureThresholds:
        """The `n` best of each concept.

        By F1; of equal ones the feature that is active on more of the concept's calibration rows, since its threshold
        rests on more; then the one with the lower number.
        """
        order = np.lexsort((self.feature, -self.n_rows, -self.f1, self.concept))
        concept = self.concept[order]
        place = np.arange(len(order)) - np.searchsorted(concept, concept)
        return self.take(order[place < n])


def best_on_calibration(inputs: Inputs, features: Array, p: Array, n: int) -> FeatureThresholds:
    """The `n` best (feature, p) of each concept by F1 on the calibration split; each feature with its best p.

    A threshold is the ``1 - p`` quantile of the activations above 0 of the concept's positive rows. A feature with none
    is no candidate. Of several p with the same F1 the middle one is taken, of two in the middle the smaller: it is the
    farthest from both ends of what does as well on the calibration split.

    Parameters
    ----------
    features
        Ascending.
    p
        Ascending float64.

    Notes
    -----
    Memory: a block of a million entries or the longest list; of a block a piece of some 260,000 positive rows and pairs
    of feature and concept, or those of one list, with a few hundred bytes each; the candidates.
    """
    split = inputs.of(CALIBRATION)
    row_labels, unit_labels = inputs.row_labels(split), split.labels.tocsr()
    found = FeatureThresholds.none()
    for lists in inputs.blocks(split, features):
        for rows, units in _pieces(inputs, split, lists, row_labels):
            found = (found + _evaluate(inputs, split, rows, units, (row_labels, unit_labels), p=p)).best(n)
    return found


def _pieces(
    inputs: Inputs, split: Split, lists: PostingLists, row_labels: scipy.sparse.csr_array
) -> Iterator[tuple[PostingLists, PostingLists]]:
    """Some features at a time: their lists over rows, above 0, and over units."""
    n_concepts = row_labels.shape[1]
    labelled = np.concatenate([[0], np.cumsum(np.diff(row_labels.indptr)[lists.samples])])[lists.indptr]
    cost = labelled + n_concepts * np.arange(len(lists.features) + 1)
    first = 0
    while first < len(lists.features):
        last = max(first + 1, int(np.searchsorted(cost, cost[first] + _PIECE, "right")) - 1)
        a, b = lists.indptr[first], lists.indptr[last]
        part = PostingLists(
            lists.features[first:last], lists.indptr[first : last + 1] - a, lists.samples[a:b], lists.data[a:b]
        )
        rows = part.keep(part.data > 0)
        units = rows
        if inputs.level == "item":
            sizes = np.diff(split.starts, append=len(split.rows))
            items = split.item_of_row[part.samples]
            units = PostingLists(part.features, *inputs.pooling.of_lists(part.indptr, items, part.data, sizes))
        yield rows, units
        first = last


def _evaluate(
    inputs: Inputs,
    split: Split,
    rows: PostingLists,
    units: PostingLists,
    labels: tuple[scipy.sparse.csr_array, scipy.sparse.csr_array],
    *,
    p: Array,
) -> FeatureThresholds:
    """Every concept with every feature of a piece, at its best p."""
    row_ptr, row_values = _of_pairs(rows, labels[0])
    unit_ptr, unit_values = _of_pairs(units, labels[1])
    n_concepts = labels[0].shape[1]
    from_ptr, from_values = (
        (row_ptr, row_values) if inputs.level == "sample" or inputs.pooling.is_activation else (unit_ptr, unit_values)
    )
    # A concept without positives in the calibration split has nothing to be measured by.
    lengths = np.diff(from_ptr)
    pairs = np.flatnonzero((lengths > 0) & (np.tile(split.n_positive, len(rows.features)) > 0))
    if not len(pairs):
        return FeatureThresholds.none()
    place, concept = np.divmod(pairs, n_concepts)
    thresholds = _quantiles_of(from_ptr, from_values, pairs, 1 - p)
    predicted = count_reaching(units.indptr, units.data, place, thresholds)
    tp = count_reaching(unit_ptr, unit_values, pairs, thresholds)
    f1 = 2 * tp / (predicted + split.n_positive[concept][:, None])
    at = middle_best(f1)
    each = np.arange(len(pairs))
    return FeatureThresholds(
        concept, rows.features[place], p[at], thresholds[each, at], f1[each, at], tp[each, at], predicted[each, at],
        np.diff(row_ptr)[pairs],
    )  # fmt: skip


def _of_pairs(lists: PostingLists, labels: scipy.sparse.csr_array) -> tuple[Array, Array]:
    """For every feature and concept the values of its positives, descending: pointers and values."""
    hits = find_hits(rank(lists.indptr, lists.samples, lists.data, labels.shape[0]), labels)
    return hits.indptr.astype(np.int64), lists.data[hits.entries]


def _quantiles_of(indptr: Array, values: Array, pairs: Array, q: Array) -> Array:
    """Quantiles of those lists that are not empty."""
    filled = np.flatnonzero(np.diff(indptr))
    shortened = np.append(indptr[filled], indptr[-1])
    found = list_quantiles(shortened, values, q)
    return found[np.searchsorted(filled, pairs)]
