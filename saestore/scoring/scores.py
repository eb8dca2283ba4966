"""Exact scores of every feature with every concept. Pure array functions.

Every score comes from the hits of a feature and a concept: the entries of the feature's list that the concept is true
of. A threshold matters only where it includes a hit, and all zeros are one tie, so the rows in between cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.kernels import segment_sums
from saestore.scoring.ranks import Hits, Ranked
from saestore.scoring.thresholds import count_reaching
from saestore.sparse_rows import keep_entries

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Runs:
    """Thresholds that include hits: the runs of equal activations among the hits of a feature and a concept."""

    indptr: Array  # int64 (n_features * n_concepts + 1,)
    pair: Array  # which feature and concept a run is of
    gain: Array  # hits in it
    # Hits, and rows in all, that a threshold at its activation predicts positive.
    tp: Array
    k: Array
    start: Array  # place of the run's first row in the column
    values: Array  # the activation


def score_all(ranked: Ranked, hits: Hits, n_positive: Array, thresholds: Array | None = None) -> dict[str, Array]:
    """Score every feature with every concept.

    Parameters
    ----------
    n_positive
        Rows of the whole column that each concept is true of, int64 (n_concepts,).
    thresholds
        Where F1, precision and recall are, positive float64 (n_features, n_concepts), NaN for none; by default at the
        best threshold of these rows.

    Returns
    -------
    dict
        Each of `SCORES`, float64 (n_features, n_concepts). NaN for a feature without entries, and for a concept that is
        true of no row, or of all.

    Notes
    -----
    Memory: about 80 bytes per hit and 200 bytes per feature and concept.
    """
    shape = len(ranked), len(n_positive)
    n_hits = np.diff(hits.indptr).reshape(shape)
    runs = _runs(ranked, hits, n_positive - n_hits)
    negative = runs.values < 0
    negative_hits = np.bincount(runs.pair[negative], runs.gain[negative], n_hits.size).reshape(shape)
    # A threshold of 0 includes all that is not negative.
    at_zero = (n_positive - negative_hits).astype(np.int64), (ranked.n_positive + ranked.n_zero)[:, None]
    scores: dict[str, Array] = {}
    # Pairs without a defined score are set to NaN at the end.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scores["roc_auc"] = _roc_auc(ranked, runs, n_hits, n_positive)
        scores["average_precision"] = _average_precision(ranked, runs, n_hits, n_positive, at_zero)
        if thresholds is None:
            scores |= _best_f1(runs, n_hits, n_positive)
        else:
            scores |= _f1_at(ranked, hits, n_positive, thresholds)
        scores |= _means(ranked, hits, n_hits, n_positive)
    undefined = (ranked.n_active == 0)[:, None] | (n_positive == 0) | (n_positive == ranked.n)
    for values in scores.values():
        values[undefined] = np.nan
    return scores


def _runs(ranked: Ranked, hits: Hits, zero_hits: Array) -> Runs:
    counts = np.diff(hits.indptr)
    stop = ranked.stop[hits.entries]
    last = np.ones(len(stop), bool)
    np.not_equal(stop[1:], stop[:-1], out=last[:-1])
    last[hits.indptr[1:][counts > 0] - 1] = True
    ends = np.flatnonzero(last)
    indptr = np.searchsorted(ends, hits.indptr)
    pair = np.repeat(np.arange(len(counts)), np.diff(indptr))
    entries = hits.entries[ends]
    values = ranked.values[entries]
    tp = ends + 1 - hits.indptr[pair]
    negative = values < 0
    if negative.any():
        tp[negative] += zero_hits.reshape(-1)[pair[negative]]
    k, start = stop[ends].astype(np.int64), ranked.start[entries].astype(np.int64)
    return Runs(indptr, pair, np.diff(ends, prepend=-1), tp, k, start, values)


def _integer_sums(values: Array, indptr: Array) -> Array:
    sums = np.zeros(len(indptr) - 1, np.int64)
    filled = np.flatnonzero(np.diff(indptr))
    if len(filled):
        sums[filled] = np.add.reduceat(values, indptr[filled])
    return sums


def _roc_auc(ranked: Ranked, runs: Runs, n_hits: Array, n_positive: Array) -> Array:
    """The rank sum of the positives (Mann and Whitney), ties with their mean rank; twice that, so that it is whole."""
    twice = _integer_sums(runs.gain * (2 * ranked.n + 1 - runs.start - runs.k), runs.indptr).reshape(n_hits.shape)
    zeros = 2 * ranked.n + 1 - 2 * ranked.n_positive - ranked.n_zero
    twice += (n_positive - n_hits) * zeros[:, None]
    auc: Array = (twice - n_positive * (n_positive + 1)) / (2 * n_positive * (ranked.n - n_positive))
    return auc


def _average_precision(
    ranked: Ranked, runs: Runs, n_hits: Array, n_positive: Array, at_zero: tuple[Array, Array]
) -> Array:
    """Precision at each threshold, weighted with the recall that it gains."""
    total = segment_sums(runs.gain * (runs.tp / runs.k), runs.indptr).reshape(n_hits.shape)
    tp, k = at_zero
    total += np.where(ranked.n_zero[:, None] > 0, (n_positive - n_hits) * (tp / k), 0)
    return total / n_positive


def _best_f1(runs: Runs, n_hits: Array, n_positive: Array) -> dict[str, Array]:
    """The highest stored activation above 0 with the best F1; F1 only falls between runs of hits, so they are enough.

    A threshold of 0 or less would predict every observation and is not a detector. Without any other, F1, precision
    and recall are 0 and the threshold is NaN.
    """
    f1 = 2 * runs.tp / (runs.k + n_positive[runs.pair % len(n_positive)])
    f1[runs.values <= 0] = 0
    lengths = np.diff(runs.indptr)
    filled = np.flatnonzero(lengths)
    highest = np.maximum.reduceat(f1, runs.indptr[filled]) if len(filled) else f1
    best = np.flatnonzero(f1 == np.repeat(highest, lengths[filled]))[::-1]
    chosen = np.full(len(lengths), -1)
    chosen[runs.pair[best]] = best  # written last: the first of a pair, which has the highest threshold
    helps = np.flatnonzero(chosen >= 0)
    helps = helps[f1[chosen[helps]] > 0]

    def grid(values: Array, otherwise: float) -> Array:
        full = np.full(len(lengths), otherwise)
        full[helps] = values[chosen[helps]]
        return full.reshape(n_hits.shape)

    return {
        "f1": grid(f1, 0.0),
        "threshold": grid(runs.values, np.nan),
        "precision": grid(runs.tp / runs.k, 0.0),
        "recall": grid(runs.tp, 0.0) / n_positive,
    }


def _f1_at(ranked: Ranked, hits: Hits, n_positive: Array, thresholds: Array) -> dict[str, Array]:
    """F1, precision and recall of predicting what is at least as large as a threshold above 0; 0 without one."""
    shape, cuts = thresholds.shape, np.where(np.isnan(thresholds), np.inf, thresholds).reshape(-1, 1)
    tp = _count(hits.indptr, ranked.values[hits.entries], np.arange(cuts.size), cuts).reshape(shape)
    k = _count(ranked.indptr, ranked.values, np.repeat(np.arange(len(ranked)), shape[1]), cuts).reshape(shape)
    return {
        "f1": 2 * tp / (k + n_positive),
        "threshold": thresholds.copy(),
        "precision": np.where(k > 0, tp / k, 0.0),
        "recall": tp / n_positive,
    }


def _count(indptr: Array, values: Array, lists: Array, cuts: Array) -> Array:
    """`count_reaching` of the values above 0."""
    indptr, values = keep_entries(values > 0, indptr, values)
    return count_reaching(indptr, values, lists, cuts)


def _means(ranked: Ranked, hits: Hits, n_hits: Array, n_positive: Array) -> dict[str, Array]:
    """Mean difference and correlation, from deviations of the active values from their mean.

    Sums of plain products would cancel where the mean is large beside the deviation; these do not. A power of two is
    taken out of every feature first, so that no square leaves float64.
    """
    n, n_active, features = ranked.n, ranked.n_active, len(ranked)
    some = np.flatnonzero(n_active)
    first, last = np.zeros((2, features))
    first[some], last[some] = ranked.values[ranked.indptr[some]], ranked.values[ranked.indptr[some + 1] - 1]
    exponent = np.frexp(np.maximum(np.abs(first), np.abs(last)))[1]
    values = np.ldexp(ranked.values.astype(np.float64), np.repeat(-exponent, n_active))
    mean = segment_sums(values, ranked.indptr) / n_active
    values -= np.repeat(mean, n_active)
    squares = segment_sums(values**2, ranked.indptr) + mean**2 * (n_active * (ranked.n_zero / n))
    squares[(first == last) & (n_active == n)] = np.nan  # a constant correlates with nothing
    # Sum over the positives of what they are above the mean of the column.
    above = segment_sums(values[hits.entries], hits.indptr).reshape(n_hits.shape)
    above += mean[:, None] * ((n_hits * n - n_positive * n_active[:, None]) / n)
    spread = n_positive * ((n - n_positive) / n)
    return {
        "mean_difference": np.ldexp(above / spread, exponent[:, None]),
        "point_biserial": above / np.sqrt(spread * squares[:, None]),
    }
