"""Confidence intervals by the bootstrap over items. Pure array functions.

Samples of one item resemble each other, so items are drawn with all their samples, for every score. A draw is a
number of copies per item, and a score in all draws comes from sparse counts times those numbers.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.scoring.thresholds import decimal, list_quantiles
from saestore.sparse_rows import pointers

Array = np.ndarray[Any, Any]
Measure = Callable[[Array], Mapping[str, Array]]

_DRAWN = 1 << 22  # numbers of copies that are drawn at a time, and that are kept if they are all: 32 MB


class BootstrapSampler:
    """The same draws of items for every score, so that methods are compared on the same items.

    Parameters
    ----------
    n_items
        Items that are drawn with replacement, as many as there are.
    n_resamples, confidence_level, seed
        Number of draws, share of the draws inside an interval, and seed of `numpy.random.default_rng`.
    """

    def __init__(self, n_items: int, n_resamples: int, confidence_level: float, seed: int) -> None:
        self.n_items = n_items
        self.n_resamples, self.confidence_level, self.seed = n_resamples, confidence_level, seed
        self._cached = list(self._draw()) if n_items * n_resamples <= _DRAWN else None

    def draws(self) -> Iterator[Array]:
        """How often each item is drawn, float64 (n_items, some draws), until there are `n_resamples` draws."""
        yield from self._draw() if self._cached is None else self._cached

    def _draw(self) -> Iterator[Array]:
        rng = np.random.default_rng(self.seed)
        at_once = max(1, _DRAWN // max(1, self.n_items))
        for first in range(0, self.n_resamples if self.n_items else 0, at_once):
            count = min(at_once, self.n_resamples - first)
            drawn = rng.integers(0, self.n_items, (count, self.n_items))
            drawn += self.n_items * np.arange(count)[:, None]
            copies = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(count, -1)
            yield np.ascontiguousarray(copies.T, np.float64)

    def intervals(self, measures: Sequence[Measure]) -> list[dict[str, float]]:
        """Percentile intervals of all that each measure makes of copies: ``f1_low`` and ``f1_high``, and so on.

        A draw in which a score is NaN does not count for it; the ends are NaN where that is so in all draws.

        Memory: about 100 MB, 8 bytes per measure, score and draw, and 32 bytes per score and draw.
        """
        values: list[dict[str, list[Array]]] = [{} for _ in measures]
        for copies in self.draws():
            for measure, lists in zip(measures, values, strict=True):
                for name, value in measure(copies).items():
                    lists.setdefault(name, []).append(value)
        return [self._ends(lists) for lists in values]

    def _ends(self, values: Mapping[str, list[Array]]) -> dict[str, float]:
        if not values:
            return {}
        tail = (1 - decimal(self.confidence_level)) / 2
        drawn = -np.sort([-np.concatenate(parts) for parts in values.values()])  # descending, NaN last
        defined = ~np.isnan(drawn)
        lengths = np.count_nonzero(defined, axis=1)
        ends = np.full((len(values), 2), np.nan)
        ends[lengths > 0] = list_quantiles(pointers(lengths[lengths > 0]), drawn[defined], [1 - tail, tail])
        result: dict[str, float] = {}
        for name, (low, high) in zip(values, ends.tolist(), strict=True):
            result[f"{name}_low"], result[f"{name}_high"] = low, high
        return result


def check_bootstrap(confidence_level: float, n_resamples: int, seed: int) -> None:
    """Refuse options that give no interval.

    Raises
    ------
    InvalidInputError
        The confidence level is not between 0 and 1, there is no resample, or the seed is negative.
    """
    if not (is_number(confidence_level) and 0 < confidence_level < 1):
        raise InvalidInputError(
            f"confidence_level={confidence_level!r}: use a share between 0 and 1, such as 0.95.", code="bad-option"
        )
    if not (is_number(n_resamples, whole=True) and n_resamples >= 1):
        raise InvalidInputError(f"n_resamples={n_resamples!r}: use a whole number, 1 or more.", code="bad-option")
    if not (is_number(seed, whole=True) and seed >= 0):
        raise InvalidInputError(f"seed={seed!r}: use a whole number, 0 or more.", code="bad-option")


def is_number(value: Any, *, whole: bool = False) -> bool:
    """Whether a value is a number of Python or numpy; a boolean is not one."""
    return isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
