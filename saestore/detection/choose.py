"""Choosing features and thresholds on the calibration split, over all features, concepts and target recalls at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.detection.inputs import CHOOSE, Inputs, Split
from saestore.query.posting_lists import PostingLists
from saestore.scoring.ranks import find_hits, rank, split_by_cost
from saestore.scoring.thresholds import count_reaching, list_quantiles, middle_best
from saestore.sparse_rows import Array
from saestore.storage import in_order

if TYPE_CHECKING:
    import scipy.sparse


_PIECE = 1 << 19  # positive rows, or pairs of feature and concept, that are evaluated at a time
_AHEAD = 16  # pieces of a block, which are parts of it, that wait while the next block is read


@dataclass(frozen=True)
class FeatureThresholds:
    """The best features of each concept on the calibration split, best first, with one threshold each."""

    # int64 (n,).
    concept: Array
    feature: Array
    # Share of the positive rows that reaches the threshold, and its value, float64.
    target_recall: Array
    threshold: Array
    f1: Array  # on the calibration split
    # Positives, and units in all, that reach the threshold there.
    tp: Array
    predicted: Array
    n_rows: Array  # positive calibration rows on which the feature is above 0

    def __len__(self) -> int:
        return len(self.concept)

    def take(self, index: Array) -> FeatureThresholds:
        """Some of them."""
        return FeatureThresholds(*(getattr(self, f.name)[index] for f in fields(self)))

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
        rests on more; then the lower feature number.
        """
        order = np.lexsort((self.feature, -self.n_rows, -self.f1, self.concept))
        concept = self.concept[order]
        place = np.arange(len(order)) - np.searchsorted(concept, concept)
        return self.take(order[place < n])

    def to_dicts(self, names: Any) -> list[dict[str, Any]]:
        """One dict per candidate, with the name of its concept."""
        renamed = {"f1": "cal_f1", "tp": "cal_tp", "predicted": "cal_predicted", "n_rows": "cal_n_rows"}
        columns = {renamed.get(f.name, f.name): getattr(self, f.name).tolist() for f in fields(self)}
        columns["concept"] = [names[concept] for concept in columns["concept"]]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def best_on_calibration(inputs: Inputs, features: Array, recalls: Array, n: int) -> FeatureThresholds:
    """The `n` best `features` of each concept by F1 on the calibration split, each with its best target recall.

    A threshold is the ``1 - recall`` quantile of the activations above 0 of the concept's positive rows. A feature
    without any is not a candidate. Of several recalls (ascending, as the features) with the same F1 the middle one is
    chosen, of two in the middle the smaller: it is farthest from both ends of what does as well. Units of unknown label
    count for nothing.

    Memory: two blocks of a million entries or the longest list; per processor a piece of about 260,000 positive rows
    and pairs of feature and concept, or one list, with a few hundred bytes each; the candidates.
    """
    split = inputs.of(CHOOSE)
    row_labels, best = inputs.row_labels(split), FeatureThresholds.none()
    parts = (part for lists in inputs.lists(split, features) for part in pieces(lists, row_labels))
    evaluated = in_order(lambda part: _evaluate(inputs, split, part, row_labels, recalls=recalls), parts, _AHEAD)
    for found in evaluated:
        best = (best + found).best(n)
    return best


def pieces(lists: PostingLists, row_labels: scipy.sparse.csr_array) -> Iterator[PostingLists]:
    """Lists over rows, some features at a time."""
    feature = np.repeat(np.arange(len(lists.features)), np.diff(lists.indptr))
    n_labels = np.bincount(feature, np.diff(row_labels.indptr)[lists.samples], len(lists.features))
    for first, last in split_by_cost(n_labels.astype(np.int64) + row_labels.shape[1], _PIECE):
        yield lists.part(first, last)


def _evaluate(
    inputs: Inputs,
    split: Split,
    part: PostingLists,
    row_labels: scipy.sparse.csr_array,
    *,
    recalls: Array,
) -> FeatureThresholds:
    """Every concept with every feature of a piece, at its best target recall."""
    rows, units = part.keep(part.data > 0), inputs.unit_lists(split, part)
    pairs, thresholds, n_rows = thresholds_of(inputs, split, rows, units, row_labels, recalls=recalls)
    if not len(pairs):
        return FeatureThresholds.none()
    tp, predicted = count_units(split, units, pairs, thresholds)
    place, concept = np.divmod(pairs, row_labels.shape[1])
    f1 = 2 * tp / (predicted + split.n_positive[concept][:, None])
    at, each = middle_best(f1), np.arange(len(pairs))
    return FeatureThresholds(
        concept, rows.features[place], recalls[at], thresholds[each, at], f1[each, at], tp[each, at],
        predicted[each, at], n_rows,
    )  # fmt: skip


def thresholds_of(
    inputs: Inputs,
    split: Split,
    rows: PostingLists,
    units: PostingLists,
    row_labels: scipy.sparse.csr_array,
    *,
    recalls: Array,
) -> tuple[Array, Array, Array]:
    """Pairs ``feature * n_concepts + concept`` that have thresholds, these (n_pairs, n_recalls), and positive rows."""
    row_ptr, row_values = _of_pairs(rows, row_labels)
    source_ptr, source = (row_ptr, row_values) if inputs.by_samples else _of_pairs(units, split.labels.tocsr())
    # A concept without positives in the calibration split has no F1.
    lengths = np.diff(source_ptr)
    pairs = np.flatnonzero((lengths > 0) & (np.tile(split.n_positive, len(rows.features)) > 0))
    filled = np.flatnonzero(lengths)
    if not len(pairs):
        return pairs, np.empty((0, len(recalls))), pairs
    thresholds = list_quantiles(np.append(source_ptr[filled], source_ptr[-1]), source, recalls)
    return pairs, thresholds[np.searchsorted(filled, pairs)], np.diff(row_ptr)[pairs]


def count_units(split: Split, units: PostingLists, pairs: Array, thresholds: Array) -> tuple[Array, Array]:
    """True positives, and known units in all, that reach each threshold of each pair, int64 (n_pairs, n_recalls)."""
    place = pairs // split.labels.shape[1]
    predicted = count_reaching(units.indptr, units.data, place, thresholds)
    if split.unknown.nnz:
        predicted -= count_reaching(*_of_pairs(units, split.unknown.tocsr()), pairs, thresholds)
    return count_reaching(*_of_pairs(units, split.labels.tocsr()), pairs, thresholds), predicted


def _of_pairs(lists: PostingLists, labels: scipy.sparse.csr_array) -> tuple[Array, Array]:
    """For every feature and concept the values at true labels, descending: pointers and values."""
    hits = find_hits(rank(lists.indptr, lists.samples, lists.data, labels.shape[0]), labels)
    return hits.indptr.astype(np.int64), lists.data[hits.entries]
