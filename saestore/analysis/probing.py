"""Sparse probes of concepts, and the effects of features on a probe of the embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from saestore.analysis.contrast import counted_rows, known_target, lists_over
from saestore.analysis.directions import decoder_of, numbers_of
from saestore.errors import InvalidInputError, check_at_least, check_choice, require
from saestore.kernels import segment_sums
from saestore.query.details import names_of
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.posting_lists import PostingLists, iterate_lists
from saestore.query.reader import Level, SetReader
from saestore.query.results import ResultTable
from saestore.scoring.bootstrap import BootstrapSampler, check_bootstrap
from saestore.scoring.metrics import BootstrapCounts, evaluate
from saestore.scoring.splits import described, disjoint, samples_of
from saestore.tables.label_matrix import check_level, position_of

Array = np.ndarray[Any, Any]

_MEASURES = ("accuracy", "f1", "roc_auc")
_BLOCK = 1 << 20  # entries of a list at a time


@dataclass(frozen=True, repr=False, eq=False)
class SparseProbes(ResultTable):
    """Logistic probes on few features, one row for each number of features, measured on the test split.

    Attributes
    ----------
    k
        Number of features.
    features, coefficients
        A list in each row.
    intercept
        float64.
    accuracy, f1, roc_auc
        On the test split, each with ``_low`` and ``_high``, the ends of its interval by the bootstrap over items.
    n_train, n_test
        Samples or items of known label.
    """

    k: Array
    features: Array
    coefficients: Array
    intercept: Array
    accuracy: Array
    accuracy_low: Array
    accuracy_high: Array
    f1: Array
    f1_low: Array
    f1_high: Array
    roc_auc: Array
    roc_auc_low: Array
    roc_auc_high: Array
    n_train: Array
    n_test: Array


@dataclass(frozen=True, repr=False, eq=False)
class FeatureEffects(ResultTable):
    """Effects of features on a linear probe, the largest first.

    Attributes
    ----------
    feature
        int64 (n,).
    effect
        ``mean_difference * alignment``, clamped or without its sign as the variant asks.
    mean_difference
        Mean activation where the concept is true minus where it is false.
    alignment
        Product of the probe's weights and the feature's decoder direction.
    """

    feature: Array
    effect: Array
    mean_difference: Array
    alignment: Array


@retry_on_stale_snapshot
def probe(
    acts: SetReader,
    concept: Any,
    k: Sequence[int] | int = (1, 2, 5),
    *,
    level: Level = "item",
    pooling: Literal["mean", "max"] = "mean",
    choose_on: Any = "train",
    report_on: Any = "test",
    where: Any = None,
    confidence_level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> SparseProbes:
    """Logistic probes of a concept on its k best features, as SAEBench's sparse probing does it.

    The k features have the largest ``|mean where true - mean where false|`` on one split, which also fits the probe
    (`sklearn.linear_model.LogisticRegression` with its defaults); the other split measures it.

    Parameters
    ----------
    concept
        A concept of the level, or true and false for each item or sample, where what is masked is unknown.
    k
        Numbers of features, at most as many as the set has.
    level
        ``"item"`` or ``"sample"``.
    pooling
        Activation of an item: the mean over its samples, as in SAEBench, or the maximum.
    choose_on, report_on
        Values of the items' column ``split``, or conditions as in every query.
    where
        Only samples that fulfil this, too; an item consists of its samples that do.
    confidence_level, n_resamples, seed
        Of the intervals, by the bootstrap over items.

    Raises
    ------
    NotFoundError
        There is no such concept or split.
    InvalidInputError
        A split has no known positive or no known negative, or an item is in both.
    MissingDependencyError
        scikit-learn is not installed.

    Notes
    -----
    Every list is read once, and the lists of the k best features twice more. Memory: 16 bytes per sample, and a block.
    """
    linear = require("sklearn", "detect", "probe()") and require("sklearn.linear_model", "detect", "probe()")
    check_level(level)
    check_bootstrap(confidence_level, n_resamples, seed)
    check_choice("pooling", pooling, ("mean", "max"))
    sizes = sorted({min(check_at_least("k", each, 1), acts.shape[1]) for each in np.atleast_1d(k).tolist()})
    if not sizes:
        raise InvalidInputError("k is empty; give numbers of features, such as [1, 2, 5].", code="missing-argument")
    truth, known = _labels_of(acts, concept, level)
    (on_train, train), (on_test, test) = [
        counted_rows(acts, known, part, level) for part in disjoint(acts, choose_on, report_on, level, where)
    ]
    for on, mask in ((choose_on, train), (report_on, test)):
        if len(np.unique(truth[mask])) < 2:
            name = concept if isinstance(concept, str) else "label"
            message = f"{described(on)} has {level}s of known {name!r} of one class only; a probe needs both."
            raise InvalidInputError(message, code="one-class")
    difference = _mean_differences(acts, truth, (on_train, train), level, pooling)
    best = np.argsort(-np.abs(difference), kind="stable")[: sizes[-1]]
    x, x_test = (
        acts.dense(None, best, level=level, pooling=pooling, where=kept).astype(np.float64)
        for kept in (on_train, on_test)
    )
    items = acts.item_index.locate(np.flatnonzero(test))[0] if level == "sample" else np.flatnonzero(test)
    present, items = np.unique(items, return_inverse=True)
    sampler = BootstrapSampler(len(present), n_resamples, confidence_level, seed)
    rows: list[tuple[Any, ...]] = []
    for each in sizes:
        fitted = linear.LogisticRegression(max_iter=1000).fit(x[:, :each], truth[train])
        scores = fitted.decision_function(x_test[:, :each])
        values = evaluate(scores, truth[test], 0.0)
        counts = BootstrapCounts.of_column(scores, truth[test], items, len(present), 0.0)
        ends = sampler.intervals([counts.metrics])[0]
        measured = [(values[name], ends[f"{name}_low"], ends[f"{name}_high"]) for name in _MEASURES]
        sums = int(train.sum()), int(test.sum())
        about = each, best[:each].tolist(), fitted.coef_[0].tolist(), float(fitted.intercept_[0])
        rows.append((*about, *(v for three in measured for v in three), *sums))
    return SparseProbes(*map(_column, zip(*rows, strict=True)))


def _column(values: Sequence[Any]) -> Array:
    out = np.empty(len(values), object if isinstance(values[0], list) else type(values[0]))
    out[:] = values
    return out


def _labels_of(acts: SetReader, concept: Any, level: Level) -> tuple[Array, Array]:
    """Whether each row has a concept, and where that is known."""
    if isinstance(concept, str):
        position_of(concept, acts.concept_names(level), f"concept of {level}s")
    truth, known = known_target(acts, concept, level)
    if not np.isin(truth[known], (0, 1)).all():
        raise InvalidInputError("the concept holds numbers; give true and false, or 0 and 1.", code="target-type")
    return truth.astype(bool), known


def _mean_differences(acts: SetReader, truth: Array, counted: tuple[Array, Array], level: Level, pooling: str) -> Array:
    """Mean where true minus mean where false, of every feature, over the used items or samples."""
    (kept, used), ids, index = counted, np.arange(acts.shape[1]), acts.item_index
    weights = np.where(truth, 1 / max(1, (truth & used).sum()), -1 / max(1, (~truth & used).sum())) * used
    of_items = level == "item" and pooling == "mean"
    if of_items:
        weights /= np.maximum(segment_sums(kept, np.minimum(index.pointers(), acts.shape[0])), 1)

    def weighted(samples: Array, data: Array) -> Array:
        weight: Array = weights[index.locate(samples)[0]] * kept[samples] if of_items else weights[samples]
        return weight * data

    pooled = level == "item" and pooling == "max"
    lists_of = lists_over(acts, ids, "item", kept) if pooled else iterate_lists(acts.segments, ids, acts.dtype)
    return np.concatenate([segment_sums(_in_blocks(weighted, lists), lists.indptr) for lists in lists_of])


def _in_blocks(function: Callable[[Array, Array], Array], lists: PostingLists) -> Array:
    """A function of samples and activations, float64 for each, of a block of them at a time."""
    values = np.empty(len(lists.data))
    for start in range(0, len(values), _BLOCK):
        part = slice(start, start + _BLOCK)
        values[part] = function(lists.samples[part], lists.data[part])
    return values


@retry_on_stale_snapshot
def attribute(
    acts: SetReader,
    probe: Any,
    concept: Any,
    decoder: Any,
    *,
    variant: Literal["signed", "tpp", "scr"] = "signed",
    level: Level = "sample",
    where: Any = None,
) -> FeatureEffects:
    """Effect of every feature on a linear probe of the embeddings: ``(mean_pos - mean_neg) * (w . d_f)``.

    Parameters
    ----------
    probe
        Weights of the probe in the space of the embeddings, (d_in,), or an estimator with ``coef_``.
    concept
        What the probe is for: the name of a concept of the level, or bool for each item or sample.
    decoder
        Directions, (n_features, d_in), or the SAE in any form that `saestore.build` takes.
    variant
        ``"tpp"`` clamps the difference of means at 0, ``"scr"`` takes the absolute value of the effect, as
        ``scr_and_tpp/main.py`` of SAEBench does for targeted probe perturbation and spurious correlation removal.
    level
        Means over samples, or over items, whose activation is the mean over their samples.
    where
        Only these samples; an item consists of its samples that fulfil it.

    Returns
    -------
    FeatureEffects
        A row per feature, the largest effect first.

    Notes
    -----
    Every list is read once. Memory: the decoder, 24 bytes per sample and a block of lists.
    """
    check_level(level)
    check_choice("variant", variant, ("signed", "tpp", "scr"))
    directions = decoder_of(acts, decoder)
    weights = numbers_of(getattr(probe, "coef_", probe), "the probe").reshape(-1)
    if weights.shape != (directions.shape[1],):
        message = f"the probe has {len(weights):,} weights; the decoder has d_in {directions.shape[1]:,}."
        raise InvalidInputError(message, code="wrong-probe")
    truth, known = _labels_of(acts, concept, level)
    kept, used = counted_rows(acts, known, samples_of(acts, where), level)
    if len(np.unique(truth[used])) < 2:
        raise InvalidInputError("the concept has one class only on what is asked for.", code="one-class")
    difference, alignment = _mean_differences(acts, truth, (kept, used), level, "mean"), directions @ weights
    effect = (np.maximum(difference, 0) if variant == "tpp" else difference) * alignment
    effect = np.abs(effect) if variant == "scr" else effect
    order = np.argsort(-effect, kind="stable")
    columns = order, effect[order], difference[order], alignment[order]
    return FeatureEffects(*columns, _details=partial(names_of, acts))
