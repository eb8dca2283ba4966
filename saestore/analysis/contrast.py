"""Features that differ between groups, or go with a target, with p-values and shares of false discoveries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError, check_at_least, check_choice, did_you_mean
from saestore.format import LEVEL_TABLES
from saestore.kernels import segment_sums
from saestore.query.details import details_of
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.posting_lists import PostingLists
from saestore.query.reader import Level, SetReader
from saestore.query.results import ResultTable
from saestore.query.selection import Condition
from saestore.query.similarity import Sizes
from saestore.query.view import View
from saestore.scoring.fisher import fisher_p
from saestore.scoring.splits import items_of, samples_of
from saestore.stats import Moments
from saestore.tables.label_matrix import check_level

Array = np.ndarray[Any, Any]
Method = Literal["fisher", "correlation", "permutation"]

_BLOCK = 1 << 20  # entries of lists at a time
_CELLS = 1 << 23  # permuted values at a time: 64 MB


@dataclass(frozen=True, repr=False, eq=False)
class FeatureDifferences(ResultTable):
    """Features that two groups are compared by, the smallest p first; ties by the larger difference.

    Attributes
    ----------
    feature, n_active_a, n_active_b
        int64 (n,): the feature, and on how many samples or items of each group it is active.
    rate_a, rate_b
        The same as shares of the groups.
    difference
        ``rate_a - rate_b``.
    mean_a, mean_b
        Mean activation in each group, zeros included.
    p, q
        Fisher's exact test, two-sided, of active against group; adjusted by Benjamini and Hochberg.
    """

    feature: Array
    n_active_a: Array
    n_active_b: Array
    rate_a: Array
    rate_b: Array
    difference: Array
    mean_a: Array
    mean_b: Array
    p: Array
    q: Array


@dataclass(frozen=True, repr=False, eq=False)
class SelectedFeatures(ResultTable):
    """Features that go with a target, the smallest p first; ties by the larger effect.

    Attributes
    ----------
    feature, n_active
        int64 (n,).
    effect
        Difference of firing rates (``fisher``), or Pearson's correlation.
    p, q
        The p-value, and adjusted by Benjamini and Hochberg over all features that are ever active.
    p_max
        For ``permutation``: the share of permutations in which any feature is as strong, which bounds the chance of one
        false discovery (Westfall and Young). Else NaN.
    """

    feature: Array
    n_active: Array
    effect: Array
    p: Array
    q: Array
    p_max: Array


@retry_on_stale_snapshot
def diff(
    acts: SetReader,
    where_a: Any,
    where_b: Any = None,
    level: Level = "item",
    *,
    features: Any = None,
    where: Any = None,
) -> FeatureDifferences:
    """Features that fire more often in one group than in another, with exact p-values.

    Parameters
    ----------
    where_a, where_b
        Conditions, as in every query; by default the second group is all that is not in the first.
    level
        What is counted: items, active by the maximum over their samples in the group, or samples.
    features
        Only these; by default all.
    where
        Only samples that fulfil this, too, are in either group.

    Returns
    -------
    FeatureDifferences
        A row for each feature that is active in either group, the smallest p first.

    Raises
    ------
    InvalidInputError
        A group is empty, or the groups share samples or items.

    Notes
    -----
    Differences of rates as ``diff_features`` of interp_embed (arXiv 2512.10092). Samples of one item resemble each
    other: at the level of samples p-values are too small. Every list is read once. Memory: a byte per sample, 100 bytes
    per feature, and a block of about a million entries or the longest list.
    """
    check_level(level)
    a = samples_of(acts, where_a)
    b = ~a if where_b is None else samples_of(acts, where_b)
    if where is not None:
        allowed = samples_of(acts, where)
        a, b = a & allowed, b & allowed
    if (a & b).any():
        sample = int(np.flatnonzero(a & b)[0])
        message = (
            f"the groups share {np.count_nonzero(a & b):,} samples, such as {sample}; give groups without overlap."
        )
        raise InvalidInputError(message, code="groups-overlap")
    in_a, in_b = a, b
    if level == "item":
        in_a, in_b = (items_of(acts, mask) for mask in (a, b))
        if (in_a & in_b).any():
            item = int(np.flatnonzero(in_a & in_b)[0])
            message = f"item {item} has samples in both groups; compare them with level='sample'."
            raise InvalidInputError(message, code="groups-overlap")
    for name, mask in (("where_a", in_a), ("where_b", in_b)):
        if not mask.any():
            raise InvalidInputError(f"no {level} fulfils {name}; a group needs one or more.", code="empty-group")
    return _differences(acts, features, level, a | b, (in_a, in_b))


def _differences(
    acts: SetReader, features: Any, level: Level, kept: Array, groups: tuple[Array, Array]
) -> FeatureDifferences:
    from scipy.stats import false_discovery_control

    ids = np.unique(acts.select_features(features).ids)
    counts, sums = [], []
    for lists in lists_over(acts, ids, level, kept):
        masks = [group[lists.samples] for group in groups]
        counts.append([segment_sums(mask, lists.indptr).astype(np.int64) for mask in masks])
        sums.append([segment_sums(np.where(mask, lists.data, 0), lists.indptr) for mask in masks])
    (k_a, k_b), (s_a, s_b) = (
        np.concatenate(parts, axis=1) if parts else np.zeros((2, 0), np.int64) for parts in (counts, sums)
    )
    alive = np.flatnonzero(k_a + k_b)
    ids, k_a, k_b, s_a, s_b = ids[alive], k_a[alive], k_b[alive], s_a[alive], s_b[alive]
    n_a, n_b = (int(np.count_nonzero(group)) for group in groups)
    p = fisher_p(k_a, k_b, n_a, n_b)
    q = false_discovery_control(p) if len(p) else p
    difference = k_a / n_a - k_b / n_b
    order = np.lexsort((ids, -np.abs(difference), p))
    columns = (ids, k_a, k_b, k_a / n_a, k_b / n_b, difference, s_a / n_a, s_b / n_b, p, q)
    return FeatureDifferences(*(column[order] for column in columns), _details=partial(details_of, acts))


def counted_rows(acts: SetReader, known: Array, kept: Array, level: Level) -> tuple[Array, Array]:
    """The samples of a mask whose row is known, and the items or samples that have one of them."""
    if level == "sample":
        counted = kept & known
        return counted, counted
    kept = kept & Condition(known, acts.item_index).over_samples(acts.shape[0])
    return kept, items_of(acts, kept)


def lists_over(acts: SetReader, features: Array, level: Level, kept: Array) -> Iterator[PostingLists]:
    """Lists over the samples of a mask, or over the items that have one, by the maximum."""
    return View.of(acts, level, None if kept.all() else Condition(kept, None)).lists(features, _BLOCK)


@retry_on_stale_snapshot
def select_features(
    acts: SetReader,
    target: Any,
    fdr: float = 0.1,
    method: Method | None = None,
    *,
    level: Level = "item",
    where: Any = None,
    features: Any = None,
    n_permutations: int = 1000,
    seed: int = 0,
) -> SelectedFeatures:
    """Features that go with a label or a number, at a bounded share of false discoveries.

    Parameters
    ----------
    target
        A concept, or a column of numbers or of true and false of the level; or an array of one value for each item or
        sample, where NaN and masked values are unknown.
    fdr
        The largest q of a returned feature; 1 returns all.
    method
        ``"fisher"``: active against the label, exact. ``"correlation"``: Pearson's, by its t distribution.
        ``"permutation"``: Pearson's, by permutations of the targets of the items. By default fisher for labels, and
        correlation for numbers.
    level
        ``"item"`` (the maximum over an item's samples) or ``"sample"``.
    where, features
        Only these samples and features.
    n_permutations, seed
        Of ``"permutation"``.

    Returns
    -------
    SelectedFeatures

    Raises
    ------
    NotFoundError
        There is no such concept or column.
    InvalidInputError
        The target has another length or type, only one value, one that is infinite, or does not fit the method.

    Notes
    -----
    Every list is read once. Memory: 8 bytes per item or sample, 100 bytes per feature, a block of about a million
    entries or the longest list, and for permutations 64 MB and 8 bytes for each feature of a block and permutation.
    """
    check_level(level)
    values, known = known_target(acts, target, level)
    method = method if method is not None else ("fisher" if values.dtype == bool else "correlation")
    _check_method(method, values, level, fdr)
    kept, counted = counted_rows(acts, known, samples_of(acts, where), level)
    asked = values[counted]
    if not len(asked) or asked.min() == asked.max():
        message = f"the target has one value on all {len(asked):,} known {level}s that are asked for."
        raise InvalidInputError(message, code="constant-target")
    if method == "fisher":
        table = _differences(acts, features, level, kept, (counted & values, counted & ~values))
        columns = (table.feature, table.n_active_a + table.n_active_b, table.difference, table.p, table.q)
        found = SelectedFeatures(*columns, np.full(len(table), np.nan))
    else:
        ids = np.unique(acts.select_features(features).ids)
        draws = check_at_least("n_permutations", n_permutations, 1) if method == "permutation" else 0
        check_at_least("seed", seed, 0)
        found = _correlations(lists_over(acts, ids, level, kept), values.astype(np.float64), counted, draws, seed)
    return replace(found[found.q <= fdr], _details=partial(details_of, acts))


def known_target(acts: SetReader, target: Any, level: Level) -> tuple[Array, Array]:
    """Values, bool or float64, and which are known."""
    table = LEVEL_TABLES[level]
    if isinstance(target, str):
        names = acts.table(table).info.names
        if target not in names:
            message = f"there is no concept or column {target!r} of {level}s. {did_you_mean(target, names)}"
            raise NotFoundError(message + f"There are {', '.join(names) or 'none'}.", code="unknown-column")
        target = acts.read_column(table, target).array()
    n_rows = acts.n_items if level == "item" else acts.shape[0]
    unknown = np.ma.getmaskarray(np.ma.asarray(target))
    values = np.asarray(np.ma.getdata(target))
    if values.shape != (n_rows,):
        shape = " x ".join(map(str, values.shape)) or "one value"
        message = f"the target is {shape}; give one for each of {n_rows:,} {level}s."
        raise InvalidInputError(message, code="wrong-length")
    if values.dtype.kind not in "biuf":
        message = f"the target holds {values.dtype}; give labels (true and false) or numbers."
        raise InvalidInputError(message, code="target-type")
    if values.dtype.kind == "f":
        unknown = unknown | np.isnan(values)
        if np.isinf(values[~unknown]).any():
            raise InvalidInputError("the target holds an infinite value; give finite numbers.", code="not-finite")
    return (values if values.dtype == bool else np.where(unknown, 0, values).astype(np.float64)), ~unknown


def _check_method(method: str, values: Array, level: Level, fdr: Any) -> None:
    check_choice("method", method, ("fisher", "correlation", "permutation"))
    if method == "fisher" and values.dtype != bool:
        raise InvalidInputError("method='fisher' needs a label; the target holds numbers.", code="target-type")
    if method == "permutation" and level == "sample":
        message = "method='permutation' permutes items, whose samples resemble each other: use level='item'."
        raise InvalidInputError(message, code="permutation-level")
    if not isinstance(fdr, int | float) or not 0 < fdr <= 1:
        raise InvalidInputError(f"fdr={fdr!r}: use a share above 0 and at most 1.", code="bad-option")


def _correlations(
    blocks: Iterator[PostingLists], values: Array, counted: Array, draws: int, seed: int
) -> SelectedFeatures:
    """Pearson's correlation of every active feature with the target, over the counted rows."""
    import scipy.sparse as sp
    from scipy.stats import beta, false_discovery_control

    rows = np.flatnonzero(counted)
    n, y = len(rows), values[rows] - values[rows].mean()
    y /= np.sqrt((y**2).sum())
    ids: list[Array] = []
    active: list[Array] = []
    r: list[Array] = []
    reached, largest = [], np.zeros(draws)
    for lists in blocks:
        lengths = np.diff(lists.indptr)
        x = lists.data.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = Sizes.of(Moments.of_lists(lists.indptr, x, n)).spread
            matrix = sp.csr_array((x, np.searchsorted(rows, lists.samples), lists.indptr), shape=(len(lengths), n))
            found = (matrix @ y) / spread
            usable = np.flatnonzero(np.isfinite(found))
            count, step = np.zeros(len(usable)), max(1, _CELLS // n)
            for first in range(0, draws, step):
                last = min(draws, first + step)
                drawn = [np.random.default_rng([seed, i]).permutation(n) for i in range(first, last)]
                permuted = np.abs((matrix @ y[np.stack(drawn, axis=1)])[usable] / spread[usable, None])
                count += (permuted >= np.abs(found[usable, None]) - 1e-12).sum(axis=1)
                part = slice(first, first + len(drawn))
                largest[part] = np.maximum(largest[part], permuted.max(axis=0, initial=0))
        for kept, new in ((ids, lists.features), (active, lengths), (r, found)):
            kept.append(new[usable])
        reached.append(count)
    feature, n_active = (np.concatenate([np.empty(0, np.int64), *parts]) for parts in (ids, active))
    effect = np.clip(np.concatenate([np.empty(0), *r]), -1, 1)
    p_max = np.full(len(feature), np.nan)
    if draws:
        p = (1 + np.concatenate([np.empty(0), *reached])) / (draws + 1)
        ordered = np.sort(largest)
        p_max = (1 + draws - np.searchsorted(ordered, np.abs(effect) - 1e-12)) / (draws + 1)
    else:
        p = 2 * beta(n / 2 - 1, n / 2 - 1, loc=-1, scale=2).sf(np.abs(effect)) if n > 2 else np.ones(len(effect))
    q = false_discovery_control(np.minimum(p, 1)) if len(p) else p
    order = np.lexsort((feature, -np.abs(effect), p))
    return SelectedFeatures(*(column[order] for column in (feature, n_active, effect, p, q, p_max)))
