"""Every threshold of every feature and concept, measured: the table from which `detect` takes the best rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from saestore.detection.choose import count_units, pieces, thresholds_of
from saestore.detection.inputs import CHOOSE, REPORT, Inputs, inputs_of
from saestore.detection.options import DetectionOptions
from saestore.query.details import details_of
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.posting_lists import PostingLists
from saestore.query.reader import Level, SetReader
from saestore.query.results import ResultTable
from saestore.query.slices import DENSE_LIMIT, check_size
from saestore.scoring.metrics import ratios
from saestore.sparse_rows import Array

_RATIOS = ("precision", "recall", "accuracy", "f1", "tpr", "fpr", "tnr", "fnr")


@dataclass(frozen=True, repr=False, eq=False)
class DetectionGrid(ResultTable):
    """A row for each feature, concept and target recall, with results on the split that is reported on.

    Attributes
    ----------
    concept, feature, target_recall
        The concept's name, int64 and float64.
    threshold
        Quantile of the activations on the split that is chosen on, float64.
    tp, fp, tn, fn
        Units of known label, int64.
    precision, recall, accuracy, f1, tpr, fpr, tnr, fnr
        float64, as `saestore.scoring.metrics.METRICS`.
    """

    concept: Array
    feature: Array
    target_recall: Array
    threshold: Array
    tp: Array
    fp: Array
    tn: Array
    fn: Array
    precision: Array
    recall: Array
    accuracy: Array
    f1: Array
    tpr: Array
    fpr: Array
    tnr: Array
    fnr: Array


@retry_on_stale_snapshot
def detection_grid(
    reader: SetReader,
    level: Level = "item",
    *,
    concepts: Sequence[str] | str | None = None,
    features: Any = None,
    choose_on: Any = "cal",
    report_on: Any = "test",
    where: Any = None,
    options: DetectionOptions | None = None,
) -> DetectionGrid:
    """Every threshold of every feature and concept, measured: one row for each target recall.

    Parameters
    ----------
    level, concepts, features
        As for `detect`; no feature is left out, but for those that are never above 0 where the concept is true.
    choose_on
        The split, or the condition, whose activations set the thresholds.
    report_on
        The split, or the condition, that is measured, which may be the same.
    where
        As for `detect`.
    options
        ``score`` and ``target_recalls`` count.

    Returns
    -------
    DetectionGrid
        By concept and feature; ``to_pandas().to_csv(path)`` writes it.

    Raises
    ------
    NotFoundError
        There is no such concept or split.
    TooLargeError
        The table would be larger than 4 GiB; nothing was read.

    Notes
    -----
    Memory: 130 bytes per row, and as `detect`.
    """
    options, on = DetectionOptions.of(options, {}), {CHOOSE: choose_on, REPORT: report_on}
    inputs = inputs_of(reader, level, concepts, options.score, on, where=where)
    recalls = np.array(options.target_recalls)
    inputs.need(CHOOSE, REPORT)
    ids = np.unique(reader.select_features(features).ids)
    check_size((len(ids), len(inputs.names), len(recalls)), 160, DENSE_LIMIT, "Choose concepts= or features=.")
    ids_0, grid_0 = np.empty(0, np.int64), np.empty((0, len(recalls)))
    parts = [(ids_0, ids_0, grid_0, grid_0, grid_0), *_parts(inputs, ids, recalls)]
    concept, feature, threshold, tp, predicted = map(np.concatenate, zip(*parts, strict=True))
    order = np.lexsort((feature, concept))
    concept, tp, predicted, split = concept[order], tp[order], predicted[order], inputs.of(REPORT)
    fn, negatives = split.n_positive[concept][:, None] - tp, (split.n_known - split.n_positive)[concept][:, None]
    counts = {"tp": tp, "fp": predicted - tp, "tn": negatives - predicted + tp, "fn": fn}
    measured = ratios(**counts)
    return DetectionGrid(
        np.repeat(np.array(inputs.names, object)[concept], len(recalls)),
        np.repeat(feature[order], len(recalls)),
        np.tile(recalls, len(concept)),
        threshold[order].ravel(),
        *(values.ravel().astype(np.int64) for values in counts.values()),
        *(measured[name].ravel() for name in _RATIOS),
        _details=partial(details_of, reader),
    )


def _parts(inputs: Inputs, features: Array, recalls: Array) -> Iterator[tuple[Array, ...]]:
    """Some pairs at a time: concept, feature, thresholds, true positives and predicted units."""
    chosen, reported, n_concepts = inputs.of(CHOOSE), inputs.of(REPORT), len(inputs.names)
    row_labels = inputs.row_labels(chosen)
    for lists in inputs.lists(chosen, features):
        for piece in pieces(lists, row_labels):
            rows, units = piece.keep(piece.data > 0), inputs.unit_lists(chosen, piece)
            pairs, thresholds, _ = thresholds_of(inputs, chosen, rows, units, row_labels, recalls=recalls)
            for first, stop, part in _reported(inputs, rows.features):
                some = slice(*np.searchsorted(pairs, [first * n_concepts, stop * n_concepts]))
                place, concept = np.divmod(pairs[some], n_concepts)
                counts = count_units(reported, part, pairs[some] - first * n_concepts, thresholds[some])
                yield concept, rows.features[place], thresholds[some], *counts


def _reported(inputs: Inputs, features: Array) -> Iterator[tuple[int, int, PostingLists]]:
    """Lists over the units that are reported on, with the places of their features among `features`."""
    first, split = 0, inputs.of(REPORT)
    for lists in inputs.lists(split, features):
        stop = first + len(lists.features)
        yield first, stop, inputs.unit_lists(split, lists)
        first = stop
