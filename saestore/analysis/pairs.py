"""Pairs of features: families within a set, and one-to-one matches with another set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from saestore.analysis.directions import decoder_of, unit_rows
from saestore.errors import InvalidInputError, check_at_least, check_choice
from saestore.query import similarity
from saestore.query.details import names_of
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.reader import SetReader
from saestore.query.results import ResultTable
from saestore.query.rows import iterate_rows
from saestore.scoring.splits import samples_of

Array = np.ndarray[Any, Any]
By = Literal["conditional", "jaccard", "npmi", "cosine"]

_BLOCK = 1 << 20  # non-zeros of a block of rows
EXACT = 1 << 22  # pairs up to which all are considered for a one-to-one match
CANDIDATES = 16  # else the best of each feature


@dataclass(frozen=True, repr=False, eq=False)
class Families(ResultTable):
    """For each feature, as a child, the features that are active with it, the strongest first.

    Attributes
    ----------
    child, parent
        int64 (n,).
    p_parent, p_child
        Share of the child's samples on which the parent is active, and of the parent's on which the child is.
    jaccard, npmi
        Samples of both as a share of the samples of either; normalised pointwise mutual information, from -1 to 1.
    n_both, n_child_alone
        int64: samples on which both are active, and on which the child is and the parent is silent.
    cosine
        Of the decoder directions; NaN where no decoder was given.
    """

    child: Array
    parent: Array
    p_parent: Array
    p_child: Array
    jaccard: Array
    npmi: Array
    n_both: Array
    n_child_alone: Array
    cosine: Array

    def absorbed(self, min_cosine: float = 0.025, max_p: float = 0.99) -> Families:
        """Candidates of absorption: the child points the parent's way, and the parent is silent where the child fires.

        Parameters
        ----------
        min_cosine
            Least cosine of the two directions; 0.025 is the threshold of SAEBench's full absorption.
        max_p
            Largest share of the child's samples on which the parent is active.
        """
        if np.isnan(self.cosine).any():
            raise InvalidInputError("absorbed() needs directions: families(decoder=…).", code="missing-argument")
        return self[(self.cosine >= min_cosine) & (self.p_parent <= max_p)]


@dataclass(frozen=True, repr=False, eq=False)
class OneToOne(ResultTable):
    """Pairs of features of two sets, each feature at most once, the best pair first.

    Attributes
    ----------
    feature, other_feature
        int64 (n,).
    score
        Correlation of the activations, or cosine of the directions.
    n_features
        Active features of the smaller set, the same in each row.
    """

    feature: Array
    other_feature: Array
    score: Array
    n_features: Array

    def share(self, threshold: float = 0.7) -> float:
        """The share of the smaller set's active features that have a partner of this score or more; 0 without pairs."""
        return float(np.count_nonzero(self.score >= threshold) / self.n_features[0]) if len(self) else 0.0

    @property
    def mean_score(self) -> float:
        """The mean score over the smaller set's active features, without a partner 0: PW-MCC (arXiv 2505.20254)."""
        return float(self.score.sum() / self.n_features[0]) if len(self) else 0.0


@retry_on_stale_snapshot
def families(
    acts: SetReader, n: int = 5, *, by: By = "conditional", decoder: Any = None, where: Any = None
) -> Families:
    """For every feature the `n` features that are most strongly active with it, with both directions' shares.

    Parameters
    ----------
    n
        Parents per child at most.
    by
        What the strongest are chosen by: ``"conditional"``, the share of the child's samples on which the parent is
        active; ``"jaccard"``; ``"npmi"``, ``log(P(xy) / P(x) P(y)) / -log P(xy)``; or ``"cosine"`` of the decoder
        directions, whether the features fire together or not, which is where to look for absorption.
    decoder
        Directions, (n_features, d_in), or the SAE: also give cosines, and find candidates of absorption with
        ``absorbed()``.
    where
        Only samples that fulfil this condition.

    Returns
    -------
    Families
        One child after the other; never active features have no row, and, unless `by` is ``"cosine"``, neither have
        pairs that share no sample.

    Notes
    -----
    Co-occurrence is necessary and not sufficient for a hierarchy. Every list is read once, beside the rows, which are
    held. Memory: 10 bytes per non-zero, 300 MB, the answer and the decoder.
    """
    n = min(check_at_least("n", n, 1), acts.shape[1])
    check_choice("by", by, ("conditional", "jaccard", "npmi", "cosine"), "unknown-metric")
    directions = None if decoder is None else unit_rows(decoder_of(acts, decoder))
    used = samples_of(acts, where)
    active = acts.stats(where=where)["n_active"].to_numpy()
    if by == "cosine":
        if directions is None:
            raise InvalidInputError("families(by='cosine') needs decoder=.", code="missing-argument")
        children, parents, cosines = _by_decoder(directions, directions, [active > 0] * 2, n + 1)
        order = np.lexsort((parents, -cosines, children))
        kept = order[_first_others(children[order], parents[order], n)]
        child, parent = children[kept], parents[kept]
        both = _count_pairs(acts, child, parent, used)
    else:
        found = acts.compare(acts, by, n + 1, where=where)
        found = found[_first_others(found.feature, found.other_feature, n)]
        child, parent, both = found.feature, found.other_feature, found.n_both
    score = {
        metric: similarity.pair_score(metric, int(used.sum()), active[child], active[parent], both)
        for metric in ("jaccard", "npmi")
    }
    cosine = np.full(len(child), np.nan)
    if directions is not None:
        cosine = np.einsum("ij,ij->i", directions[child], directions[parent])
    return Families(
        child, parent, both / active[child], both / active[parent], score["jaccard"], score["npmi"], both,
        active[child] - both, cosine, _details=partial(names_of, acts),
    )  # fmt: skip


def _first_others(child: Array, parent: Array, n: int) -> Array:
    """Indices of the first `n` pairs of each child with another feature; children ascend."""
    others = np.flatnonzero(child != parent)
    return others[np.arange(len(others)) - np.searchsorted(child[others], child[others]) < n]


def _count_pairs(acts: SetReader, one: Array, other: Array, used: Array) -> Array:
    """Samples on which both features of each pair are active, int64, in one pass over the rows."""
    import scipy.sparse as sp

    both = np.zeros(len(one), np.int64)
    for rows, block in iterate_rows(acts.segments, np.flatnonzero(used), _BLOCK, values=False):
        entries = np.ones(block.nnz, np.int32), block.indices.astype(np.int64), block.indptr
        columns = sp.csr_array(entries, shape=(len(rows), acts.shape[1])).tocsc()
        both += np.asarray(columns[:, one].multiply(columns[:, other]).sum(axis=0)).ravel()
    return both


@retry_on_stale_snapshot
def match(
    acts: SetReader,
    other: SetReader,
    by: Literal["correlation", "cosine", "jaccard", "decoder"] = "correlation",
    *,
    decoder: Any = None,
    other_decoder: Any = None,
    where: Any = None,
) -> OneToOne:
    """Pairs of features of two sets, one to one, of the largest total score (the Hungarian method).

    Parameters
    ----------
    other
        Another set, such as of an SAE with another seed; over the same samples unless `by` is ``"decoder"``.
    by
        ``"correlation"``, ``"cosine"`` or ``"jaccard"`` of the activations, or ``"decoder"``: cosine of the directions.
    decoder, other_decoder
        For ``"decoder"``: the directions of each set, or its SAE.
    where
        Over the samples of this set that fulfil this condition; not for ``"decoder"``.

    Returns
    -------
    OneToOne
        Without features whose only partners score 0 or less. ``share(0.7)`` is the share of stable features,
        ``mean_score`` the mean over all.

    Raises
    ------
    InvalidInputError
        The samples are not the same, or the directions have another width.

    Notes
    -----
    Exact up to 4 million pairs of features. Beyond, each feature has its 16 best partners as candidates. Memory: as
    `compare`.
    """
    if not isinstance(other, SetReader):
        raise InvalidInputError(f"match() takes another set, not a {type(other).__name__}.", code="not-a-set")
    check_choice("by", by, ("correlation", "cosine", "jaccard", "decoder"), "unknown-metric")
    shape = acts.shape[1], other.shape[1]
    n = shape[1] if shape[0] * shape[1] <= EXACT else CANDIDATES
    used = None if where is None else samples_of(acts, where)
    alive = [each.stats(where=used)["n_active"].to_numpy() > 0 for each in (acts, other)]
    if by == "decoder":
        if decoder is None or other_decoder is None:
            message = "match(by='decoder') needs decoder= and other_decoder=."
            raise InvalidInputError(message, code="missing-argument")
        directions = unit_rows(decoder_of(acts, decoder)), unit_rows(decoder_of(other, other_decoder))
        rows, columns, scores = _by_decoder(*directions, alive, n)
    else:
        found = acts.compare(other, by, n, where=where)
        rows, columns, scores = found.feature, found.other_feature, found.score
    return replace(one_to_one(rows, columns, scores, alive), _details=partial(names_of, acts, other=other))


def one_to_one(rows: Array, columns: Array, scores: Array, alive: Sequence[Array]) -> OneToOne:
    """The pairs of the largest total score, of pairs of a feature of each set; `alive` are masks of both sets."""
    kept = scores > 0
    pairs = _assign(rows[kept], columns[kept], scores[kept], (len(alive[0]), len(alive[1])))
    order = np.lexsort((pairs[0], -pairs[2]))
    smaller = np.full(len(order), min(int(mask.sum()) for mask in alive))
    return OneToOne(pairs[0][order], pairs[1][order], pairs[2][order], smaller)


def _by_decoder(mine: Array, theirs: Array, alive: list[Array], n: int) -> tuple[Array, Array, Array]:
    """Pairs of active features and the cosines of their directions, the `n` best of each feature."""
    if mine.shape[1] != theirs.shape[1]:
        message = f"the directions have {mine.shape[1]:,} and {theirs.shape[1]:,} numbers; they need the same d_in."
        raise InvalidInputError(message, code="wrong-decoder")
    ids, other_ids = (np.flatnonzero(mask) for mask in alive)
    n, parts = min(n, len(other_ids)), []
    for first in range(0, len(ids) if n else 0, 1024):
        some = ids[first : first + 1024]
        cosine = mine[some] @ theirs[other_ids].T
        best = np.argpartition(-cosine, n - 1, axis=1)[:, :n]
        values = np.take_along_axis(cosine, best, axis=1)
        parts.append((np.repeat(some, n), other_ids[best].ravel(), values.ravel()))
    empty = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    rows, columns, scores = (np.concatenate([empty[i], *(part[i] for part in parts)]) for i in range(3))
    return rows, columns, scores


def _assign(rows: Array, columns: Array, scores: Array, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """The pairs of the largest total score; a feature may stay alone.

    A pair that scores as much as the best other pairs of its row and its column together is part of a best matching:
    the two that could take its place score no more. Such pairs are taken first, again and again, and the Hungarian
    method is left with the rest.
    """
    free, taken = np.arange(len(rows)), [np.empty(0, np.int64)]
    while len(free):
        bests = [_best_and_next(side[free], scores[free], n) for side, n in zip((rows, columns), shape, strict=True)]
        (of_row, next_row), (of_column, next_column) = bests
        r, c, value = rows[free], columns[free], scores[free]
        at = np.arange(len(free))
        sure = (of_row[r] == at) & (of_column[c] == at) & (value >= next_row[r] + next_column[c])
        if not sure.any():
            break
        taken.append(free[sure])
        free = free[~(np.isin(r, r[sure]) | np.isin(c, c[sure]))]
    taken.append(free[_hungarian(rows[free], columns[free], scores[free])])
    chosen = np.concatenate(taken)
    return rows[chosen], columns[chosen], scores[chosen]


def _best_and_next(side: Array, scores: Array, n: int) -> tuple[Array, Array]:
    """Of each row or column: the index of its best pair, and the score of the next one, 0 without any."""
    order = np.lexsort((-scores, side))
    first = np.flatnonzero(np.diff(side[order], prepend=-1))
    best, following = np.full(n, -1), np.zeros(n)
    best[side[order[first]]] = order[first]
    second = first + 1
    second = second[np.diff(first, append=len(order)) > 1]
    following[side[order[second]]] = scores[order[second]]
    return best, following


def _hungarian(rows: Array, columns: Array, scores: Array) -> Array:
    """Indices of the pairs of the largest total score; a row may stay alone."""
    import scipy.sparse as sp
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    ids, at = np.unique(rows, return_inverse=True)
    others, to = np.unique(columns, return_inverse=True)
    n, m = len(ids), len(others)
    if not n:
        return np.empty(0, np.int64)
    # Each row also has a partner of its own, of almost no score: so all can be matched, and all weights are stored.
    tiny = 1e-12
    data = np.append(scores + tiny, np.full(n, tiny))
    entries = data, (np.append(at, np.arange(n)), np.append(to, m + np.arange(n)))
    row, column = min_weight_full_bipartite_matching(sp.csr_array(entries, shape=(n, m + n)), maximize=True)
    partner = np.full(n, -1)
    partner[row] = column
    return np.flatnonzero(partner[at] == to)
