"""Questions for features that tell a concept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saestore.activations.intervals import add_intervals, check, count_places, split_pairs
from saestore.activations.opened import OpenSet, on_snapshot
from saestore.activations.select import select
from saestore.activations.slices import DENSE_LIMIT, check_size
from saestore.activations.units import Units
from saestore.concepts.ranks import Ranked, find_hits
from saestore.concepts.scores import SCORES, score_all
from saestore.errors import InvalidInputError, NotFoundError
from saestore.items.labels import position_of

if TYPE_CHECKING:
    import scipy.sparse
    import xarray

Array = np.ndarray[Any, Any]
Level = Literal["item", "sample"]

_PIECE = 1 << 19  # hits, or pairs of feature and concept, that are scored at a time


class Scores(OpenSet):
    """`concept_scores`."""

    @on_snapshot
    def concept_scores(
        self,
        level: Level = "item",
        *,
        where: Any = None,
        concepts: Sequence[str] | str | None = None,
        features: Any = None,
        max_bytes: int = DENSE_LIMIT,
    ) -> xarray.Dataset:
        """Score every feature with every concept, exactly; `saestore.concepts.scores.SCORES` says by what.

        Parameters
        ----------
        level
            ``"sample"`` scores the activations of samples with their labels; ``"item"`` the maximum over an item's
            samples, inactive ones included as 0, with the labels of the items. Items without samples are left out.
        where
            Over these samples or items only, as in every query: a mapping, an expression, or a boolean mask.
        concepts
            Names; by default all.
        features
            By default all.

        Returns
        -------
        xarray.Dataset
            On (concept, feature), float64: ``roc_auc``, ``average_precision``, ``f1`` (the best over all thresholds)
            with ``threshold`` (the highest that reaches it), ``precision`` and ``recall`` there, ``mean_difference``,
            ``point_biserial``. On concept: ``n_positive``, ``n_negative``. On feature: ``n_active``, the samples or
            items whose score is not 0. A feature with none has NaN for scores, and so has a concept that is true of
            all or none.

        Raises
        ------
        NotFoundError
            There is no such concept, or none at all.
        TooLargeError
            The scores would be larger than `max_bytes` (4 GiB); nothing was read.

        Notes
        -----
        A threshold predicts positive what is at least as large, as in `sklearn.metrics.precision_recall_curve`; it may
        be 0 or negative, where it is best to say yes to all that is not, or less, negative.

        Memory: the scores (64 bytes for each concept and feature), the labels and a byte a sample, and a block of a
        million entries or the longest list.
        """
        names, labels = self._labels(level, concepts)
        ids = select(features, self.shape[1], "feature").ids
        check_size((len(SCORES), len(names), len(ids)), 8, max_bytes, "Choose concepts= or features=.")
        units = self._units(level, labels, where)
        unique, back = np.unique(ids, return_inverse=True)
        grids = {name: np.full((len(names), len(unique)), np.nan) for name in SCORES}
        n_active, done = np.zeros(len(unique), np.int64), 0
        for _, ranked in units.ranked(self._segments, unique, self.dtype):
            n_active[done : done + len(ranked)] = ranked.n_active
            for columns, rows, scores in _score_pieces(ranked, units):
                for name, values in scores.items():
                    grids[name][rows, done + columns.start : done + columns.stop] = values.T
            done += len(ranked)
        if not np.array_equal(unique, ids):
            grids, n_active = {name: grid[:, back] for name, grid in grids.items()}, n_active[back]
        return _dataset(grids, n_active, {"concept": np.array(names, dtype=object), "feature": ids}, units, level)

    @on_snapshot
    def score_intervals(
        self,
        pairs: Sequence[tuple[str, int]],
        level: Level = "item",
        *,
        where: Any = None,
        confidence: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
    ) -> xarray.Dataset:
        """Scores of some (concept, feature) pairs with their confidence intervals, by the bootstrap over items.

        Parameters
        ----------
        pairs
            ``[("color::red", 1234), …]``.
        level, where
            As for `concept_scores`.
        confidence
            Share of the draws inside of an interval, whose ends are percentiles.
        resamples
            How often items are drawn, with replacement, as many as there are; each comes with all its samples.
        seed
            Of `numpy.random.default_rng`.

        Returns
        -------
        xarray.Dataset
            On ``pair``: ``concept``, ``feature``, all that `concept_scores` gives, and ``roc_auc_low``,
            ``roc_auc_high`` and so on for every score but the threshold. F1, precision and recall are those of that one
            threshold in every draw. NaN where the score is NaN.

        Notes
        -----
        Memory: the lists of the features, 56 bytes for each pair and draw, and some 200 MB.
        """
        check(confidence, resamples, seed)
        names, given = split_pairs(pairs)
        features = np.array([select(feature, self.shape[1], "feature").ids[0] for feature in given])
        known = list(dict.fromkeys(names))
        unique, at = np.unique(features, return_inverse=True)
        columns = np.array([known.index(name) for name in names])
        scores = self.concept_scores(level, where=where, concepts=known, features=unique)
        on_pair = {"concept": ("pair", columns), "feature": ("pair", at)}
        chosen = scores.isel(on_pair).reset_coords(["concept", "feature"])
        chosen = chosen.assign_attrs(confidence=confidence, resamples=resamples, seed=seed)
        units = self._units(level, self._labels(level, known)[1], where)
        wanted = list(zip(columns.tolist(), features.tolist(), chosen["threshold"].to_numpy().tolist(), strict=True))
        places, n_items = count_places(self._segments, units, self._index, self.dtype, wanted)
        return add_intervals(chosen, places, n_items)

    def _labels(self, level: Level, concepts: Sequence[str] | str | None) -> tuple[list[str], Any]:
        """Names and labels of the chosen concepts, units x concepts."""
        import scipy.sparse as sp

        if level == "item":
            known, matrix = list(self.items.concept_names), self.items.concept_matrix()
        elif level == "sample":
            labels = self._stored_labels(level)
            known, matrix = ([], sp.csc_array((0, 0))) if labels is None else (list(labels.names), labels.matrix())
        else:
            raise InvalidInputError(f"level={level!r}: use 'item' or 'sample'.")
        if not known:
            raise NotFoundError(
                f"{self.path} has no concepts on {level}s{self._elsewhere(level)}; give it some with add_concepts()."
            )
        if concepts is None:
            return known, sp.csr_array(matrix)
        names = [concepts] if isinstance(concepts, str) else list(concepts)
        places = [position_of(name, known, f"concept of {level}s") for name in names]
        return names, sp.csr_array(matrix[:, places])

    def _elsewhere(self, level: Level) -> str:
        if level == "sample":
            return ", but on items (level='item')" if self.items.concept_names else ""
        return ", but on samples (level='sample')" if self._stored_labels("sample") else ""

    def _units(self, level: Level, labels: scipy.sparse.csr_array, where: Any) -> Units:
        condition = self._condition(where)
        if level == "sample":
            return Units.of_samples(labels, self.shape[0], condition)
        return Units.of_items(labels, self.shape[0], condition, self._index)


def _score_pieces(ranked: Ranked, units: Units) -> Iterator[tuple[slice, slice, dict[str, Array]]]:
    """Score a block in pieces of bounded memory: slices of its features and of the concepts, and their scores."""
    n_concepts = len(units.n_positive)
    n_labels = np.diff(units.labels.indptr)[ranked.rows]
    cost = np.concatenate([[0], np.cumsum(n_labels)])[ranked.indptr] + n_concepts * np.arange(len(ranked) + 1)
    first = 0
    while first < len(ranked):
        last = max(first + 1, int(np.searchsorted(cost, cost[first] + _PIECE, "right")) - 1)
        part = ranked.part(first, last)
        # Of one long list, some concepts at a time.
        pieces = -(-int(cost[last] - cost[first]) // (4 * _PIECE))
        step = -(-n_concepts // max(1, pieces)) or 1
        for start in range(0, n_concepts, step):
            chosen = slice(start, min(start + step, n_concepts))
            labels = units.labels if step >= n_concepts else units.labels[:, chosen]
            yield slice(first, last), chosen, score_all(part, find_hits(part, labels), units.n_positive[chosen])
        first = last


def _dataset(
    grids: dict[str, Array], n_active: Array, coords: dict[str, Array], units: Units, level: Level
) -> xarray.Dataset:
    import xarray as xr

    variables: dict[str, Any] = {
        name: (("concept", "feature"), grid, {"description": SCORES[name]}) for name, grid in grids.items()
    }
    variables["n_positive"] = ("concept", units.n_positive, {"description": f"{level}s that the concept is true of"})
    variables["n_negative"] = ("concept", units.n - units.n_positive, {"description": f"{level}s that it is not"})
    variables["n_active"] = ("feature", n_active, {"description": f"{level}s whose score is not 0"})
    return xr.Dataset(variables, coords, {"level": level, "n": units.n})
