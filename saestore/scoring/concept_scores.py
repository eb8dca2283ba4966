"""Scoring every feature with every concept, and the intervals of chosen pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError, check_texts
from saestore.kernels import segment_sums
from saestore.query.details import feature_names
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.posting_lists import PostingLists, iterate_lists
from saestore.query.reader import Level, SetReader
from saestore.query.selection import select
from saestore.query.slices import DENSE_LIMIT, check_size
from saestore.scoring.bootstrap import BootstrapSampler, check_bootstrap
from saestore.scoring.metrics import BootstrapCounts
from saestore.scoring.observations import BLOCK, KnownGroup, ScoredObservations
from saestore.scoring.ranks import find_hits, split_by_cost
from saestore.scoring.scores import score_all
from saestore.scoring.splits import described, disjoint
from saestore.storage import in_order
from saestore.tables.label_matrix import LabelMatrix, position_of
from saestore.vocabulary import SCORES

if TYPE_CHECKING:
    import scipy.sparse
    import xarray

Array = np.ndarray[Any, Any]

# Scores that have an interval. F1, precision and recall keep one threshold in every draw.
WITH_INTERVAL = ("roc_auc", "average_precision", "f1", "precision", "recall", "mean_difference", "point_biserial")

_PIECE = 1 << 18  # hits, or pairs of feature and concept, that a thread scores at a time


@dataclass(frozen=True)
class ConceptLabels:
    """Labels of chosen concepts."""

    names: list[str]  # the concepts
    matrix: scipy.sparse.csc_array  # items or samples x concepts, bool CSC
    unknown: scipy.sparse.csc_array  # the same shape, true where a label is not known, bool CSC


@retry_on_stale_snapshot
def concept_scores(
    reader: SetReader,
    level: Level = "item",
    *,
    where: Any = None,
    concepts: Sequence[str] | str | LabelMatrix | None = None,
    features: Any = None,
    choose_on: Any = None,
    report_on: Any = None,
    max_bytes: int = DENSE_LIMIT,
) -> xarray.Dataset:
    """See `Concepts.scores`."""
    labels = read_labels(reader, level, concepts)
    ids, parts = reader.select_features(features).ids, 1 if choose_on is None and report_on is None else 2
    check_size((parts * len(SCORES), len(labels.names), len(ids)), 8, max_bytes, "Choose concepts= or features=.")
    if parts == 1:
        return _scores(reader, level, where, labels, ids)
    chosen_on, reported_on = disjoint(reader, choose_on, report_on, level, where)
    chosen = _scores(reader, level, chosen_on, labels, ids)
    found = _scores(reader, level, reported_on, labels, ids, thresholds=chosen["threshold"].to_numpy())
    names = {name: f"chosen_{name}" for name in (*SCORES, "n_positive", "n_negative") if name != "threshold"}
    both = found.assign({new: chosen[name] for name, new in names.items()})
    return both.assign_attrs(
        choose_on=described(choose_on), report_on=described(report_on), n_chosen_on=chosen.attrs["n"]
    )


def _scores(
    reader: SetReader, level: Level, where: Any, labels: ConceptLabels, ids: Array, *, thresholds: Array | None = None
) -> xarray.Dataset:
    """Scores over what fulfils a condition; F1, precision and recall at given thresholds, or at the best."""
    observations = read_observations(reader, level, labels, where)
    unique, first, back = np.unique(ids, return_index=True, return_inverse=True)
    grids = {name: np.full((len(labels.names), len(unique)), np.nan) for name in SCORES}
    n_active = np.zeros(len(unique), np.int64)
    _ = observations.labels  # before threads ask for them

    def score(block: tuple[int, PostingLists]) -> None:
        begin, lists = block[0], observations.over(block[1])  # in this thread, beside others
        stop = begin + len(lists.features)
        n_active[begin:stop] = np.diff(lists.indptr)
        for group in observations.groups:
            given = None if thresholds is None else thresholds[:, first[begin:stop]].T
            for columns, rows, scores in score_pieces(lists, observations, group, given):
                for name, values in scores.items():
                    grids[name][rows, begin + columns.start : begin + columns.stop] = values.T

    for _ in in_order(score, _with_starts(iterate_lists(reader.segments, unique, reader.dtype, BLOCK))):
        pass
    if not np.array_equal(unique, ids):
        grids, n_active = {name: grid[:, back] for name, grid in grids.items()}, n_active[back]
    coords: dict[str, Any] = {"concept": np.array(labels.names, dtype=object), "feature": ids}
    names = feature_names(reader, ids)
    if names is not None:
        coords["name"] = "feature", names
    return _dataset(grids, n_active, coords, observations, level)


def _with_starts(blocks: Iterable[PostingLists]) -> Iterator[tuple[int, PostingLists]]:
    """Blocks of lists, each with the number of lists before it."""
    done = 0
    for lists in blocks:
        yield done, lists
        done += len(lists.features)


@retry_on_stale_snapshot
def score_intervals(
    reader: SetReader,
    pairs: Sequence[tuple[str, int]],
    level: Level = "item",
    *,
    where: Any = None,
    choose_on: Any = None,
    report_on: Any = None,
    confidence_level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> xarray.Dataset:
    """See `Concepts.intervals`."""
    check_bootstrap(confidence_level, n_resamples, seed)
    names, given = _split_pairs(pairs)
    features = np.array([select(feature, reader.shape[1], "feature").ids[0] for feature in given])
    known = list(dict.fromkeys(names))
    unique, at = np.unique(features, return_inverse=True)
    columns = np.array([known.index(name) for name in names])
    on = {"choose_on": choose_on, "report_on": report_on}
    scores = concept_scores(reader, level, where=where, concepts=known, features=unique, **on)
    if report_on is not None:
        where = disjoint(reader, choose_on, report_on, level, where)[1]
    on_pair = {"concept": ("pair", columns), "feature": ("pair", at)}
    chosen = scores.isel(on_pair).reset_coords(["concept", "feature", *({"name"} & set(scores.coords))])
    observations = read_observations(reader, level, read_labels(reader, level, known), where)
    defined = np.flatnonzero(~np.isnan(chosen["roc_auc"].to_numpy()))
    requested = [(int(columns[i]), int(features[i]), float(chosen["threshold"][i])) for i in defined]
    counts, n_items = _count_pairs(reader, observations, requested)
    sampler = BootstrapSampler(n_items, n_resamples, confidence_level, seed)
    ends = sampler.intervals([each.scores for each in counts])
    for name in WITH_INTERVAL:
        for end in ("low", "high"):
            values = np.full(len(names), np.nan)
            values[defined] = [each[f"{name}_{end}"] for each in ends]
            chosen[f"{name}_{end}"] = ("pair", values)
    return chosen.assign_attrs(confidence_level=confidence_level, n_resamples=n_resamples, seed=seed, n_items=n_items)


def _split_pairs(pairs: Any) -> tuple[list[str], list[Any]]:
    """Concepts and features of ``[(concept, feature), …]``."""
    try:
        split = [(concept, feature) for concept, feature in pairs]
    except (TypeError, ValueError):
        split = []
    if not split or not all(isinstance(concept, str) for concept, _ in split):
        raise InvalidInputError(
            f"pairs={pairs!r}: give (concept, feature) pairs, such as [('color::red', 1234)].", code="bad-pairs"
        )
    return [concept for concept, _ in split], [feature for _, feature in split]


def _count_pairs(
    reader: SetReader, observations: ScoredObservations, pairs: Sequence[tuple[int, int, float]]
) -> tuple[list[BootstrapCounts], int]:
    """Counts for each (column of the labels, feature, threshold), and the number of items to draw from.

    Memory: about 24 bytes per entry of the features' lists and per item, for each pair; 3 bytes per observation.
    """
    index, of_samples = reader.item_index, observations.sizes is None
    counting = observations.kept if observations.sizes is None else observations.sizes > 0
    pointers = np.minimum(index.pointers(), len(counting)) if of_samples else np.arange(len(counting) + 1)
    groups = {concept: group for group in observations.groups for concept in group.concepts.tolist()}
    known_of = {concept: groups[concept].known for concept, _, _ in pairs}
    if known_of and all(known is not None for known in known_of.values()):
        counting = counting & np.any([known for known in known_of.values() if known is not None], axis=0)
    present = np.flatnonzero(segment_sums(counting, pointers))
    labels, counts = observations.columns, {}
    features = np.unique(np.array([feature for _, feature, _ in pairs], np.int64))
    for lists in observations.lists(reader.segments, features, reader.dtype):
        for i, (concept, feature, threshold) in enumerate(pairs):
            at = np.flatnonzero(lists.features == feature)
            if not len(at):
                continue
            known = known_of[concept]
            scored = counting if known is None else counting & known
            true = np.zeros(len(counting), bool)
            true[labels.indices[labels.indptr[concept] : labels.indptr[concept + 1]]] = True
            part = slice(lists.indptr[at[0]], lists.indptr[at[0] + 1])
            entries, values = lists.samples[part], lists.data[part]
            entries, values = entries[scored[entries]], values[scored[entries]]
            items = np.searchsorted(present, index.locate(entries)[0] if of_samples else entries)
            of_items = [segment_sums(mask, pointers)[present].astype(np.int64) for mask in (scored, scored & true)]
            counts[i] = BootstrapCounts.of(values, items, true[entries], (of_items[0], of_items[1]), threshold)
    return [counts[i] for i in range(len(pairs))], len(present)


def read_labels(reader: SetReader, level: Level, concepts: Sequence[str] | str | LabelMatrix | None) -> ConceptLabels:
    """Labels of the chosen concepts, by default of all; or given ones, which the set need not have.

    Raises
    ------
    InvalidInputError, NotFoundError
        The level does not exist; it has no concepts, or not these.
    """
    if isinstance(concepts, LabelMatrix):
        return ConceptLabels(concepts.names, concepts.matrix, concepts.unknown_matrix)
    known, matrix = reader.concept_names(level), reader.concept_matrix(level)
    if not known:
        raise NotFoundError(
            f"{reader.path} has no concepts on {level}s{_elsewhere(reader, level)}; "
            "`saestore label` or acts.concepts.add() gives it some.",
            code="no-concepts",
        )
    unknown = reader.unknown_matrix(level)
    if concepts is None:
        return ConceptLabels(known, matrix, unknown)
    names = check_texts("concepts", concepts)
    columns = [position_of(name, known, f"concept of {level}s") for name in names]
    return ConceptLabels(names, matrix[:, columns], unknown[:, columns])


def _elsewhere(reader: SetReader, level: Level) -> str:
    if level == "sample":
        return ", but on items (level='item')" if reader.concept_names("item") else ""
    return ", but on samples (level='sample')" if reader.concept_names("sample") else ""


def read_observations(reader: SetReader, level: Level, labels: ConceptLabels, where: Any) -> ScoredObservations:
    """Samples or items that are scored, with their labels."""
    index = reader.item_index if level == "item" else None
    condition = reader.condition(where)
    return ScoredObservations.of(labels.matrix, reader.shape[0], condition, index=index, unknown=labels.unknown)


def score_pieces(
    lists: PostingLists, observations: ScoredObservations, group: KnownGroup, thresholds: Array | None
) -> Iterator[tuple[slice, Array, dict[str, Array]]]:
    """Score a block in pieces of bounded memory: a slice of its features, columns of the labels, and their scores."""
    ranked, concepts, labels = group.rank(lists), group.concepts, observations.labels
    hits = segment_sums(labels.lengths(ranked.rows), ranked.indptr)
    costs = (hits * (len(concepts) / max(1, labels.n_columns))).astype(np.int64) + len(concepts)
    for first, last in split_by_cost(costs, _PIECE):
        part = ranked.part(first, last)
        # For one long list, some concepts at a time.
        n_pieces = -(-int(costs[first:last].sum()) // (4 * _PIECE))
        step = -(-len(concepts) // max(1, n_pieces)) or 1
        for start in range(0, len(concepts), step):
            chosen = concepts[start : start + step]
            given = None if thresholds is None else thresholds[first:last, chosen]
            counts = observations.n_positive[chosen]
            yield slice(first, last), chosen, score_all(part, find_hits(part, labels, chosen), counts, given)


def _dataset(
    grids: dict[str, Array], n_active: Array, coords: dict[str, Any], observations: ScoredObservations, level: Level
) -> xarray.Dataset:
    import xarray as xr

    variables: dict[str, Any] = {
        name: (("concept", "feature"), grid, {"description": SCORES[name]}) for name, grid in grids.items()
    }
    counts = {
        "n_positive": "that the concept is known to be true of",
        "n_negative": "that the concept is known to be false of",
        "n_unknown": "whose label is unknown, which do not count",
    }
    for name, which in counts.items():
        variables[name] = ("concept", getattr(observations, name), {"description": f"{level}s {which}"})
    variables["n_active"] = ("feature", n_active, {"description": f"{level}s whose score is not 0"})
    return xr.Dataset(variables, coords, {"level": level, "n": observations.n})
