"""Which features are worth a look: those that are dead, ubiquitous or weak on the calibration rows are left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.detection.inputs import CALIBRATION, Inputs
from saestore.errors import InvalidInputError
from saestore.scoring.quantile_thresholds import list_quantiles

Array = np.ndarray[Any, Any]

MIN_P99_PERCENTILE = 5.0
_FENCE = 3.0  # interquartile ranges above the upper quartile, in the logarithm: Tukey's "far out"


@dataclass(frozen=True)
class PruningRules:
    """What a feature must fulfil; None is taken from the data.

    Attributes
    ----------
    min_active
        Calibration rows on which it is above 0, at least.
    max_fraction
        Share of the calibration rows on which it is, at most.
    min_p99_percentile
        The 99th percentile of its activations above 0 is at least this percentile of those of all features. 0 cuts
        nothing.
    """

    min_active: int | None = None
    max_fraction: float | None = None
    min_p99_percentile: float = MIN_P99_PERCENTILE

    def __post_init__(self) -> None:
        if self.min_active is not None and self.min_active < 1:
            raise InvalidInputError(f"min_active={self.min_active!r}: use 1 (a feature that never fires) or more.")
        if self.max_fraction is not None and not 0 < self.max_fraction <= 1:
            raise InvalidInputError(f"max_fraction={self.max_fraction!r}: use a share of the rows, above 0, up to 1.")
        if not 0 <= self.min_p99_percentile <= 100:
            raise InvalidInputError(f"min_p99_percentile={self.min_p99_percentile!r}: use 0 to 100.")


# Leaves out dead features only, which could not be chosen anyway.
KEEP_ALL = PruningRules(1, 1.0, 0.0)


@dataclass(frozen=True)
class Pruned:
    """What is left, and every number behind it.

    Attributes
    ----------
    features
        Ascending ids of what is left.
    n_active
        Calibration rows on which each feature of the set is above 0.
    p99
        99th percentile of those activations, NaN where there is none.
    report
        The cuts and how many features each of them took, JSON-able; a feature counts for the first that took it.
    """

    features: Array
    n_active: Array
    p99: Array
    report: dict[str, Any]


def prune(inputs: Inputs, cuts: PruningRules) -> Pruned:
    """Measure every feature on the calibration rows, and leave out what the cuts say.

    Memory: 16 bytes a feature and a block.
    """
    split = inputs.of(CALIBRATION)
    n_active, p99 = np.zeros(inputs.shape[1], np.int64), np.full(inputs.shape[1], np.nan)
    for lists in inputs.blocks(split, np.arange(inputs.shape[1])):
        positive = lists.keep(lists.data > 0)
        counts = np.diff(positive.indptr)
        n_active[lists.features] = counts
        some = counts > 0
        indptr = np.append(0, np.cumsum(counts[some]))
        p99[lists.features[some]] = list_quantiles(indptr, positive.data, np.array([0.99]))[:, 0]
    return choose(n_active, p99, len(split.rows), cuts)


def choose(n_active: Array, p99: Array, n_rows: int, cuts: PruningRules) -> Pruned:
    """Apply the cuts to what was measured."""
    fraction = n_active / n_rows
    min_active = default_min_active(n_rows) if cuts.min_active is None else cuts.min_active
    alive = n_active >= min_active
    max_fraction = default_max_fraction(fraction[alive]) if cuts.max_fraction is None else cuts.max_fraction
    usual = alive & (fraction <= max_fraction)
    weakest = float(np.percentile(p99[usual], cuts.min_p99_percentile)) if usual.any() else float("nan")
    kept = usual & (p99 >= weakest)
    report = {
        "split": CALIBRATION,
        "n_rows": n_rows,
        "n_features": len(n_active),
        "min_active": min_active,
        "max_fraction": max_fraction,
        "min_p99_percentile": cuts.min_p99_percentile,
        "min_p99": weakest,
        "never_active": int((n_active == 0).sum()),
        "dead": int((~alive).sum()),
        "ubiquitous": int((alive & ~usual).sum()),
        "weak": int((usual & ~kept).sum()),
        "kept": int(kept.sum()),
    }
    return Pruned(np.flatnonzero(kept), n_active, p99, report)


def default_min_active(n_rows: int) -> int:
    """Two rows, or one in ten thousand where that is more: below, a quantile of activations says nothing."""
    return max(2, -(-n_rows // 10_000))


def default_max_fraction(fractions: Array) -> float:
    """The far-out fence of the logarithms of the shares of rows on which features are active, at most 1."""
    if not len(fractions):
        return 1.0
    low, high = np.quantile(np.log(fractions), [0.25, 0.75])
    return min(1.0, float(np.exp(high + _FENCE * (high - low))))
