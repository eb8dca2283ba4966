"""Scoring every feature with every concept, and the intervals of chosen pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import NotFoundError
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.reader import Level, SetReader
from saestore.query.selection import select
from saestore.query.slices import DENSE_LIMIT, check_size
from saestore.scoring.bootstrap import add_intervals, check, count_places, split_pairs
from saestore.scoring.ranks import Ranked, find_hits
from saestore.scoring.scored_observations import ScoredObservations
from saestore.scoring.scores import SCORES, score_all
from saestore.tables.label_matrix import position_of

if TYPE_CHECKING:
    import scipy.sparse
    import xarray

Array = np.ndarray[Any, Any]

_PIECE = 1 << 19  # hits, or pairs of feature and concept, that are scored at a time


@retry_on_stale_snapshot
def concept_scores(
    reader: SetReader,
    level: Level = "item",
    *,
    where: Any = None,
    concepts: Sequence[str] | str | None = None,
    features: Any = None,
    max_bytes: int = DENSE_LIMIT,
) -> xarray.Dataset:
    """See `Concepts.scores`."""
    names, labels = labels_of(reader, level, concepts)
    ids = select(features, reader.shape[1], "feature").ids
    check_size((len(SCORES), len(names), len(ids)), 8, max_bytes, "Choose concepts= or features=.")
    units = units_of(reader, level, labels, where)
    unique, back = np.unique(ids, return_inverse=True)
    grids = {name: np.full((len(names), len(unique)), np.nan) for name in SCORES}
    n_active, done = np.zeros(len(unique), np.int64), 0
    for _, ranked in units.ranked(reader.segments, unique, reader.dtype):
        n_active[done : done + len(ranked)] = ranked.n_active
        for columns, rows, scores in _score_pieces(ranked, units):
            for name, values in scores.items():
                grids[name][rows, done + columns.start : done + columns.stop] = values.T
        done += len(ranked)
    if not np.array_equal(unique, ids):
        grids, n_active = {name: grid[:, back] for name, grid in grids.items()}, n_active[back]
    return _dataset(grids, n_active, {"concept": np.array(names, dtype=object), "feature": ids}, units, level)


@retry_on_stale_snapshot
def score_intervals(
    reader: SetReader,
    pairs: Sequence[tuple[str, int]],
    level: Level = "item",
    *,
    where: Any = None,
    confidence_level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> xarray.Dataset:
    """See `Concepts.intervals`."""
    check(confidence_level, n_resamples, seed)
    names, given = split_pairs(pairs)
    features = np.array([select(feature, reader.shape[1], "feature").ids[0] for feature in given])
    known = list(dict.fromkeys(names))
    unique, at = np.unique(features, return_inverse=True)
    columns = np.array([known.index(name) for name in names])
    scores = concept_scores(reader, level, where=where, concepts=known, features=unique)
    on_pair = {"concept": ("pair", columns), "feature": ("pair", at)}
    chosen = scores.isel(on_pair).reset_coords(["concept", "feature"])
    chosen = chosen.assign_attrs(confidence_level=confidence_level, n_resamples=n_resamples, seed=seed)
    units = units_of(reader, level, labels_of(reader, level, known)[1], where)
    wanted = list(zip(columns.tolist(), features.tolist(), chosen["threshold"].to_numpy().tolist(), strict=True))
    places, n_items = count_places(reader.segments, units, reader.item_index, reader.dtype, wanted)
    return add_intervals(chosen, places, n_items)


def labels_of(reader: SetReader, level: Level, concepts: Sequence[str] | str | None) -> tuple[list[str], Any]:
    """Names and labels of the chosen concepts, units x concepts."""
    import scipy.sparse as sp

    known, matrix = reader.concept_names(level), reader.concept_matrix(level)
    if not known:
        raise NotFoundError(
            f"{reader.path} has no concepts on {level}s{_elsewhere(reader, level)}; "
            "give it some with acts.concepts.add()."
        )
    if concepts is None:
        return known, sp.csr_array(matrix)
    names = [concepts] if isinstance(concepts, str) else list(concepts)
    places = [position_of(name, known, f"concept of {level}s") for name in names]
    return names, sp.csr_array(matrix[:, places])


def _elsewhere(reader: SetReader, level: Level) -> str:
    if level == "sample":
        return ", but on items (level='item')" if reader.concept_names("item") else ""
    return ", but on samples (level='sample')" if reader.concept_names("sample") else ""


def units_of(reader: SetReader, level: Level, labels: scipy.sparse.csr_array, where: Any) -> ScoredObservations:
    """Samples or items that are scored, with their labels."""
    condition = reader.condition(where)
    if level == "sample":
        return ScoredObservations.of_samples(labels, reader.shape[0], condition)
    return ScoredObservations.of_items(labels, reader.shape[0], condition, reader.item_index)


def _score_pieces(ranked: Ranked, units: ScoredObservations) -> Iterator[tuple[slice, slice, dict[str, Array]]]:
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
    grids: dict[str, Array], n_active: Array, coords: dict[str, Array], units: ScoredObservations, level: Level
) -> xarray.Dataset:
    import xarray as xr

    variables: dict[str, Any] = {
        name: (("concept", "feature"), grid, {"description": SCORES[name]}) for name, grid in grids.items()
    }
    variables["n_positive"] = ("concept", units.n_positive, {"description": f"{level}s that the concept is true of"})
    variables["n_negative"] = ("concept", units.n - units.n_positive, {"description": f"{level}s that it is not"})
    variables["n_active"] = ("feature", n_active, {"description": f"{level}s whose score is not 0"})
    return xr.Dataset(variables, coords, {"level": level, "n": units.n})
