"""Confidence intervals of scores: items are drawn again, with all their samples. Pure array functions.

Samples of one item resemble each other, so it is items that are drawn, whatever is scored. A draw is so many copies of
every item, and the scores of all draws come from sparse matrices of counts times those numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.scoring.metrics import METRICS, ratios
from saestore.scoring.scored_observations import ScoredObservations
from saestore.segment import Segment
from saestore.tables.item_index import ItemIndex

if TYPE_CHECKING:
    import xarray

from dataclasses import dataclass
from typing import TYPE_CHECKING

from saestore.scoring.ranks import Ranked

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]

# What has an interval, in the order of `score_draws`. F1, precision and recall keep one threshold in every draw.
WITH_INTERVAL = ("roc_auc", "average_precision", "f1", "precision", "recall", "mean_difference", "point_biserial")

_CELLS = 1 << 21  # numbers in a matrix of draws


@dataclass(frozen=True)
class BootstrapCounts:
    """The column of one feature beside one concept: how many rows of every item have each of its values.

    Attributes
    ----------
    values
        Distinct values of the column, descending, float64 (n_values,).
    rows, hits
        n_values x n_items: rows with that value, and those of them that the concept is true of.
    threshold
        Which of the values is the threshold of F1, precision and recall.
    """

    values: Array
    rows: scipy.sparse.csr_array
    hits: scipy.sparse.csr_array
    threshold: int

    @classmethod
    def of(
        cls, column: Ranked, items: Array, true: Array, totals: tuple[Array, Array], threshold: float
    ) -> BootstrapCounts:
        """Count.

        Parameters
        ----------
        column
            One feature.
        items, true
            Of every entry: its item, and whether the concept is true of it.
        totals
            Of every item: its rows, zeros included, and those that the concept is true of.
        """
        import scipy.sparse as sp

        values = np.unique(np.append(column.values, [0] if column.n_zero[0] else []))[::-1].astype(np.float64)
        place = np.searchsorted(-values, -column.values.astype(np.float64))
        counts = []
        for total, chosen in zip(totals, (np.ones(len(items), bool), true), strict=True):
            zeros = total - np.bincount(items[chosen], minlength=len(total))
            at = np.append(place[chosen], np.full(np.count_nonzero(zeros), np.searchsorted(-values, 0)))
            which = np.append(items[chosen], np.flatnonzero(zeros))
            how_many = np.append(np.ones(int(chosen.sum())), zeros[zeros != 0])
            counts.append(sp.csr_array((how_many, (at, which)), shape=(len(values), len(total))))
        return cls(values, counts[0], counts[1], int(np.searchsorted(-values, -threshold)))


def draw(n_items: int, n_resamples: int, seed: int) -> Iterator[Array]:
    """How often each item is drawn, float64 (n_items, some draws), until there are `n_resamples` draws.

    Memory: some 4 million numbers, or one draw where that is more.
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, 2 * _CELLS // n_items)
    for first in range(0, n_resamples, at_once):
        count = min(at_once, n_resamples - first)
        drawn = rng.integers(0, n_items, (count, n_items))
        drawn += n_items * np.arange(count)[:, None]
        yield np.ascontiguousarray(np.bincount(drawn.ravel(), minlength=drawn.size).reshape(count, -1).T, np.float64)


def intervals(
    pairs: Sequence[BootstrapCounts], n_items: int, n_resamples: int, confidence_level: float, seed: int
) -> Array:
    """Percentile intervals, float64 (2, n_pairs, len(WITH_INTERVAL)): lower ends and upper ends.

    A score that is not defined in a draw, because the concept is true of all or none there, leaves the draw out; NaN
    where that is so in all of them.

    Notes
    -----
    Memory: the pairs, 56 bytes for each and every resample, and some 200 MB.
    """
    found = np.full((len(pairs), len(WITH_INTERVAL), n_resamples), np.nan)
    done = 0
    for copies in draw(n_items, n_resamples, seed):
        for i, pair in enumerate(pairs):
            step = max(1, _CELLS // len(pair.values))
            for first in range(0, copies.shape[1], step):
                scores = score_draws(pair, copies[:, first : first + step])
                found[i, :, done + first : done + first + scores.shape[1]] = scores
        done += copies.shape[1]
    ends = np.full((2, *found.shape[:2]), np.nan)
    defined = ~np.isnan(found).all(axis=2)
    tail = (1 - confidence_level) / 2
    ends[:, defined] = np.nanquantile(found[defined], [tail, 1 - tail], axis=1)
    return ends


def score_draws(pair: BootstrapCounts, copies: Array) -> Array:
    """The scores of `WITH_INTERVAL` in every draw, (len(WITH_INTERVAL), n_draws)."""
    rows, hits = pair.rows @ copies, pair.hits @ copies
    misses = rows - hits
    n, p = rows.sum(axis=0), hits.sum(axis=0)
    q = n - p
    k, tp = np.cumsum(rows, axis=0), np.cumsum(hits, axis=0)
    # Before the first row that was drawn, k is 0, and so is what it divides.
    precision = np.divide(tp, k, out=np.zeros_like(k), where=k > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = q - (k - tp) + misses / 2
        tp_at, k_at = tp[pair.threshold], k[pair.threshold]
        scores = [
            (hits * below).sum(axis=0) / (p * q),
            (hits * precision).sum(axis=0) / p,
            2 * tp_at / (k_at + p),
            tp_at / k_at,
            tp_at / p,
            *_means(pair.values, rows, hits, misses),
        ]
    found = np.stack(scores)
    found[:, (p == 0) | (q == 0)] = np.nan
    return found


def _means(values: Array, rows: Array, hits: Array, misses: Array) -> tuple[Array, Array]:
    scale = np.abs(values).max()
    values = values / scale
    n, p, q = rows.sum(axis=0), hits.sum(axis=0), misses.sum(axis=0)
    centred = values[:, None] - values @ rows / n
    difference = values @ hits / p - values @ misses / q
    deviation = np.sqrt((rows * centred**2).sum(axis=0) / n)
    constant = np.count_nonzero(rows, axis=0) == 1
    return difference * scale, np.where(constant, np.nan, difference * np.sqrt(p * q) / n / deviation)


def check(confidence_level: float, n_resamples: int, seed: int) -> None:
    """Refuse what no interval can be made with."""
    if not 0 < confidence_level < 1:
        raise InvalidInputError(f"confidence_level={confidence_level!r}: use a share between 0 and 1, such as 0.95.")
    if n_resamples < 1:
        raise InvalidInputError(f"n_resamples={n_resamples!r}: use 1 or more.")
    if seed < 0:
        raise InvalidInputError(f"seed={seed!r}: use 0 or more.")


def split_pairs(pairs: Any) -> tuple[list[str], list[Any]]:
    """Concepts and features of ``[(concept, feature), …]``."""
    try:
        found = [(concept, feature) for concept, feature in pairs]
    except (TypeError, ValueError):
        found = []
    if not found or not all(isinstance(concept, str) for concept, _ in found):
        raise InvalidInputError(f"pairs={pairs!r}: give (concept, feature) pairs, such as [('color::red', 1234)].")
    return [concept for concept, _ in found], [feature for _, feature in found]


def count_places(
    segments: Sequence[Segment],
    units: ScoredObservations,
    index: ItemIndex,
    dtype: Any,
    pairs: Sequence[tuple[int, int, float]],
) -> tuple[list[BootstrapCounts | None], int]:
    """What the draws need of each (concept's column in the labels, feature, threshold); how many items there are.

    Memory: some 24 bytes for each entry of the features' lists and for each item, a pair.
    """
    of_kept = np.flatnonzero(units.kept)
    item_of_kept = index.locate(of_kept)[0]
    present, n_rows = np.unique(item_of_kept, return_counts=True)
    if units.sizes is not None:
        n_rows = np.ones(len(present), np.int64)
    labels = units.labels.tocsc()
    found: list[BootstrapCounts | None] = [None] * len(pairs)
    features = np.unique([feature for _, feature, _ in pairs])
    for ids, ranked in units.ranked(segments, features, dtype):
        for i, feature in enumerate(ids.tolist()):
            column = ranked.part(i, i + 1)
            items = column.rows if units.sizes is not None else index.locate(column.rows)[0]
            for place, (concept, wanted, threshold) in enumerate(pairs):
                if wanted == feature and not np.isnan(threshold):
                    true = np.zeros(labels.shape[0], bool)
                    true[labels.indices[labels.indptr[concept] : labels.indptr[concept + 1]]] = True
                    totals = n_rows, _true_rows(units, true, of_kept, item_of_kept, present)
                    where = np.searchsorted(present, items)
                    found[place] = BootstrapCounts.of(column, where, true[column.rows], totals, threshold)
    return found, len(present)


def _true_rows(units: ScoredObservations, true: Array, of_kept: Array, item_of_kept: Array, present: Array) -> Array:
    """How many rows of every item a concept is true of."""
    if units.sizes is not None:
        return true[present].astype(np.int64)
    return np.bincount(np.searchsorted(present, item_of_kept), true[of_kept], len(present)).astype(np.int64)


def add_intervals(scores: xarray.Dataset, places: Sequence[BootstrapCounts | None], n_items: int) -> xarray.Dataset:
    """Give the scores of pairs, on ``pair``, both ends of their intervals; its attributes say what kind of."""
    n_resamples, confidence_level, seed = (scores.attrs[name] for name in ("n_resamples", "confidence_level", "seed"))
    defined = [i for i, place in enumerate(places) if place is not None]
    ends = np.full((2, len(places), len(WITH_INTERVAL)), np.nan)
    if defined:
        chosen = [place for place in places if place is not None]
        ends[:, defined] = intervals(chosen, n_items, n_resamples, confidence_level, seed)
    for i, name in enumerate(WITH_INTERVAL):
        for end, values in zip(("low", "high"), ends[:, :, i], strict=True):
            scores[f"{name}_{end}"] = ("pair", values)
    return scores.assign_attrs(n_items=n_items)


METRICS_WITH_INTERVAL = tuple(name for name in METRICS if name not in ("tp", "fp", "tn", "fn"))
_HELD = 1 << 22  # copies of items that are kept between one result and the next: 32 MB
_DRAW_CELLS = 1 << 21  # numbers of a score's distinct values times draws that are worked on at a time


class BootstrapSampler:
    """The same draws of items for every result, so that methods are compared on the same items.

    Parameters
    ----------
    items
        Place of every unit among the items that are drawn, int64 (n_units,).
    n_items, n_resamples, confidence_level, seed
        How many items there are, how often they are drawn, the share of draws inside of an interval, and of what.
    """

    def __init__(self, items: Array, n_items: int, n_resamples: int, confidence_level: float, seed: int) -> None:
        self.items = items
        self.n_items = n_items
        self.n_resamples, self.confidence_level, self.seed = n_resamples, confidence_level, seed
        self._held = list(self._draw()) if n_items * n_resamples <= _HELD else None

    def _draw(self) -> Iterator[Array]:
        return draw(self.n_items, self.n_resamples, self.seed)

    def intervals(self, scores: Array, truth: Array, predicted: Array) -> dict[str, float]:
        """Percentile intervals of `METRICS_WITH_INTERVAL`, as ``f1_low`` and ``f1_high``, and so on.

        A draw in which a metric is not defined is left out of its interval; NaN where that is so in all of them.

        Notes
        -----
        Memory: some 150 MB, and 80 bytes a draw.
        """
        found: dict[str, list[Array]] = {name: [] for name in METRICS_WITH_INTERVAL}
        ranked = _rank(scores, truth, self.items, self.n_items)
        cells = [
            self._count(cell)
            for cell in (predicted & truth, predicted & ~truth, ~predicted & truth, ~predicted & ~truth)
        ]
        for copies in self._draw() if self._held is None else self._held:
            step = max(1, _DRAW_CELLS // len(ranked.values))
            for first in range(0, copies.shape[1], step):
                some = copies[:, first : first + step]
                values = ratios(*(cell @ some for cell in cells))
                values["roc_auc"], values["average_precision"] = score_draws(ranked, some)[:2]
                for name in METRICS_WITH_INTERVAL:
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
        tail = (1 - self.confidence_level) / 2
        ends: dict[str, float] = {}
        for name, drawn in values.items():
            known = drawn[~np.isnan(drawn)]
            low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
            ends[f"{name}_low"], ends[f"{name}_high"] = float(low), float(high)
        return ends


def _rank(scores: Array, truth: Array, items: Array, n_items: int) -> BootstrapCounts:
    """ScoredObservations of every item at each distinct score, the largest first."""
    import scipy.sparse as sp

    values, place = np.unique(-scores, return_inverse=True)
    shape = len(values), n_items
    rows = sp.csr_array((np.ones(len(scores)), (place, items)), shape)
    hits = sp.csr_array((np.ones(int(truth.sum())), (place[truth], items[truth])), shape)
    return BootstrapCounts(-values, rows, hits, 0)
