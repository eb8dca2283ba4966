"""Confidence intervals of results: items are drawn again, with all their samples, as everywhere in saestore."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from saestore.concepts.bootstrap import Places, draw, score_draws
from saestore.detection.metrics import METRICS, ratios

Array = np.ndarray[Any, Any]

WITH_INTERVAL = tuple(name for name in METRICS if name not in ("tp", "fp", "tn", "fn"))
_HELD = 1 << 22  # copies of items that are kept between one result and the next: 32 MB
_CELLS = 1 << 21  # numbers of a score's distinct values times draws that are worked on at a time


class Draws:
    """The same draws of items for every result, so that methods are compared on the same items.

    Parameters
    ----------
    items
        Place of every unit among the items that are drawn, int64 (n_units,).
    n_items, resamples, confidence, seed
        How many items there are, how often they are drawn, the share of draws inside of an interval, and of what.
    """

    def __init__(self, items: Array, n_items: int, resamples: int, confidence: float, seed: int) -> None:
        self.items = items
        self.n_items = n_items
        self.resamples, self.confidence, self.seed = resamples, confidence, seed
        self._held = list(self._draw()) if n_items * resamples <= _HELD else None

    def _draw(self) -> Iterator[Array]:
        return draw(self.n_items, self.resamples, self.seed)

    def intervals(self, scores: Array, truth: Array, predicted: Array) -> dict[str, float]:
        """Percentile intervals of `WITH_INTERVAL`, as ``f1_low`` and ``f1_high``, and so on.

        A draw in which a metric is not defined is left out of its interval; NaN where that is so in all of them.

        Notes
        -----
        Memory: some 150 MB, and 80 bytes a draw.
        """
        found: dict[str, list[Array]] = {name: [] for name in WITH_INTERVAL}
        ranked = _rank(scores, truth, self.items, self.n_items)
        cells = [
            self._count(cell)
            for cell in (predicted & truth, predicted & ~truth, ~predicted & truth, ~predicted & ~truth)
        ]
        for copies in self._draw() if self._held is None else self._held:
            step = max(1, _CELLS // len(ranked.values))
            for first in range(0, copies.shape[1], step):
                some = copies[:, first : first + step]
                values = ratios(*(cell @ some for cell in cells))
                values["roc_auc"], values["average_precision"] = score_draws(ranked, some)[:2]
                for name in WITH_INTERVAL:
                    found[name].append(values[name])
        return self._ends({name: np.concatenate(values) for name, values in found.items()})

    def ends_of(self, counts: Mapping[str, Array], measure: Callable[..., Mapping[str, Array]]) -> dict[str, float]:
        """Intervals of what `measure` makes of counts, given for every item as float64 or int (n_items,)."""
        found = [
            measure(**{name: count.astype(np.float64) @ copies for name, count in counts.items()})
            for copies in (self._draw() if self._held is None else self._held)
        ]
        return self._ends({name: np.concatenate([each[name] for each in found]) for name in found[0]})

    def _count(self, units: Array) -> Array:
        return np.bincount(self.items[units], minlength=self.n_items).astype(np.float64)

    def _ends(self, values: dict[str, Array]) -> dict[str, float]:
        tail = (1 - self.confidence) / 2
        ends: dict[str, float] = {}
        for name, drawn in values.items():
            known = drawn[~np.isnan(drawn)]
            low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
            ends[f"{name}_low"], ends[f"{name}_high"] = float(low), float(high)
        return ends


def _rank(scores: Array, truth: Array, items: Array, n_items: int) -> Places:
    """Units of every item at each distinct score, the largest first."""
    import scipy.sparse as sp

    values, place = np.unique(-scores, return_inverse=True)
    shape = len(values), n_items
    rows = sp.csr_array((np.ones(len(scores)), (place, items)), shape)
    hits = sp.csr_array((np.ones(int(truth.sum())), (place[truth], items[truth])), shape)
    return Places(-values, rows, hits, 0)
