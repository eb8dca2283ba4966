"""Which features are considered: those that are dead, ubiquitous or weak on the calibration samples are left out."""

from __future__ import annotations

from typing import Any

import numpy as np

from saestore.detection.inputs import CHOOSE, Inputs
from saestore.detection.options import DetectionOptions
from saestore.scoring.splits import described
from saestore.scoring.thresholds import decimal, list_quantiles, quantiles_of
from saestore.sparse_rows import Array, pointers

_FENCE = 3.0  # interquartile ranges above the upper quartile, in the logarithm: Tukey's "far out"


def prune(inputs: Inputs, options: DetectionOptions, named: Array | None = None) -> tuple[Array, dict[str, Any]]:
    """Measure every feature on the calibration samples and `choose`; `named` ones are all kept.

    Memory: 16 bytes per feature and a block.
    """
    if named is not None:
        return named, {"split": described(inputs.on[CHOOSE]), "n_features": inputs.shape[1], "kept": len(named)}
    split = inputs.of(CHOOSE)
    n_active, p99 = np.zeros(inputs.shape[1], np.int64), np.full(inputs.shape[1], np.nan)
    for lists in inputs.lists(split, np.arange(inputs.shape[1])):
        positive = lists.keep(lists.data > 0)
        counts = np.diff(positive.indptr)
        n_active[lists.features] = counts
        some = counts > 0
        p99[lists.features[some]] = list_quantiles(pointers(counts[some]), positive.data, np.array([0.01]))[:, 0]
    kept, rules = choose(n_active, p99, len(split.rows), options)
    return kept, {"split": described(inputs.on[CHOOSE]), **rules}


def choose(n_active: Array, p99: Array, n_rows: int, options: DetectionOptions) -> tuple[Array, dict[str, Any]]:
    """Features that are kept, ascending, and the rules with the number of features that each of them left out.

    `n_active` counts the calibration samples on which each feature is above 0, `p99` is the 99th percentile of these
    activations, NaN without any; there are `n_rows` such samples.
    """
    fraction = n_active / n_rows
    min_active = default_min_active(n_rows) if options.min_active is None else options.min_active
    alive = n_active >= min_active
    max_fraction = default_max_fraction(fraction[alive]) if options.max_fraction is None else options.max_fraction
    usual = alive & (fraction <= max_fraction)
    share = 1 - decimal(options.min_p99_percentile) / 100
    weakest = float(quantiles_of(p99[usual], [share])[0]) if usual.any() else float("nan")
    kept = usual & (p99 >= weakest)
    return np.flatnonzero(kept), {
        "n_rows": n_rows,
        "n_features": len(n_active),
        "min_active": min_active,
        "max_fraction": max_fraction,
        "min_p99_percentile": options.min_p99_percentile,
        "min_p99": weakest,
        "never_active": int((n_active == 0).sum()),
        "dead": int((~alive).sum()),
        "ubiquitous": int((alive & ~usual).sum()),
        "weak": int((usual & ~kept).sum()),
        "kept": int(kept.sum()),
    }


def default_min_active(n_rows: int) -> int:
    """Two samples, or one in ten thousand if that is more: fewer give no meaningful quantile."""
    return max(2, -(-n_rows // 10_000))


def default_max_fraction(fractions: Array) -> float:
    """The far-out fence of the logarithms of the shares of samples on which features are active, at most 1."""
    if not len(fractions):
        return 1.0
    logs = np.log(fractions)
    low, high = np.quantile(logs, [0.25, 0.75])
    fence = high + _FENCE * (high - low)
    # No share within the fence is above it, as the rounding of the exponential may have it.
    return min(1.0, max(float(np.exp(fence)), float(fractions[logs <= fence].max())))
