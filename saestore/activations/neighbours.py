"""Questions for features that are active together, in one set or in two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.activations import distribution, overlap
from saestore.activations.opened import OpenSet, on_snapshot
from saestore.activations.overlap import METRICS, Metric, Sizes
from saestore.activations.select import select
from saestore.activations.slices import DENSE_LIMIT, check_size
from saestore.activations.tables import Table
from saestore.errors import InvalidInputError

if TYPE_CHECKING:
    import xarray

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, repr=False, eq=False)
class SimilarFeatures(Table):
    """Features that are active together with one, most similar first, ties by ascending feature.

    Attributes
    ----------
    feature
        int64 (n,).
    score
        The metric, float64 (n,).
    n_both
        Samples on which both are active, int64 (n,).
    """

    feature: Array
    score: Array
    n_both: Array


@dataclass(frozen=True, repr=False, eq=False)
class FeatureMatches(Table):
    """Features of another set that match those of this one, best first for each, ties by ascending feature.

    Attributes
    ----------
    feature, other_feature
        int64 (n,).
    score
        The metric, float64 (n,).
    n_both
        Samples on which both are active, int64 (n,).
    """

    feature: Array
    other_feature: Array
    score: Array
    n_both: Array


class Neighbours(OpenSet):
    """`similar`, `cooccurrence`, `compare`."""

    @on_snapshot
    def similar(self, feature: int, n: int = 10, metric: Metric = "jaccard") -> SimilarFeatures:
        """The features that are most like one, of those that are active on at least one sample with it.

        Parameters
        ----------
        feature
            One feature; it is not in the answer itself.
        n
            Rows at most.
        metric
            ``"jaccard"``: samples on which both are active, as a share of those on which either is. ``"cosine"`` of
            the two columns of activations. ``"correlation"`` of them, over all samples.

        Returns
        -------
        SimilarFeatures
            Without features for which the metric is not defined: correlation with one that is constant.

        Notes
        -----
        Reads the feature's list and the rows of its samples. Memory: the list, a block of some 4 million non-zeros, and
        some 100 bytes a feature.
        """
        _check(n, metric)
        chosen = select(feature, self.shape[1], "feature")
        if not chosen.scalar:
            raise InvalidInputError(f"similar() takes one int, not {feature!r}; ask for one feature after the other.")
        lists = distribution.one_list(self._segments, int(chosen.ids[0]), self.dtype)
        n_both, dot = overlap.overlap_of_list(self._segments, lists, self.shape[1])
        sizes = self._sizes()
        scores = overlap.score(metric, sizes.take(chosen.ids), sizes, n_both, dot)
        n_both[chosen.ids] = 0
        order = np.argsort(-scores, kind="stable")
        order = order[(n_both > 0)[order] & ~np.isnan(scores[order])][:n]
        return SimilarFeatures(order, scores[order], n_both[order])

    @on_snapshot
    def cooccurrence(self, features: Any, *, max_bytes: int = DENSE_LIMIT) -> xarray.DataArray:
        """On how many samples each two of some features are active together; with itself, on how many each is.

        Parameters
        ----------
        features
            Some features, in any order.

        Returns
        -------
        xarray.DataArray
            On (feature, other_feature), int64.

        Raises
        ------
        TooLargeError
            It would be larger than `max_bytes` (4 GiB); nothing was read.

        Notes
        -----
        Memory: the answer, two blocks of some 4 million entries of the features' lists, and 8 bytes a sample.
        """
        import xarray as xr

        ids = np.atleast_1d(select(features, self.shape[1], "feature").ids)
        check_size((len(ids), len(ids)), 8, max_bytes, "Ask for fewer features, or for similar() of one.")
        unique, back = np.unique(ids, return_inverse=True)
        counts = overlap.cooccurrence(self._segments, unique, self.shape[0], self.dtype)
        return xr.DataArray(
            counts[np.ix_(back, back)],
            dims=("feature", "other_feature"),
            coords={"feature": ids, "other_feature": ids},
            name="n_both",
        )

    @on_snapshot
    def compare(self, other: Neighbours, metric: Metric = "correlation", n: int = 1) -> FeatureMatches:
        """Which features of another set over the same samples match the features of this one.

        Parameters
        ----------
        other
            An activation set of another SAE, say, with the same items and samples.
        metric
            As for `similar`.
        n
            Matches for each feature at most.

        Returns
        -------
        FeatureMatches
            One feature after the other. A feature that shares no sample with any of the other set, as a dead one does,
            has no row.

        Raises
        ------
        InvalidInputError
            The samples are not the same: other numbers of them, or other items; the message says which.

        Notes
        -----
        Reads the lists of this set once for every 2,048 features of the other. Memory: some 400 MB, 8 bytes a sample,
        and the answer.
        """
        _check(n, metric)
        if not isinstance(other, Neighbours):
            raise InvalidInputError(f"compare() takes another activation set, not a {type(other).__name__}.")
        self._check_same_samples(other)
        matches, scores, n_both = overlap.best_matches(
            metric, n, (self._segments, self._sizes(), self.dtype), (other._segments, other._sizes(), other.dtype)
        )
        rows, places = np.nonzero(matches >= 0)
        found = (values[rows, places] for values in (matches, scores, n_both))
        return FeatureMatches(rows, *found)

    def _sizes(self) -> Sizes:
        n_features = self.shape[1]
        return Sizes.of(distribution.all_moments(self._segments, np.arange(n_features), n_features, self.dtype))

    def _check_same_samples(self, other: Neighbours) -> None:
        told = self._difference(other)
        if told:
            raise InvalidInputError(f"{told}; compare sets over the same samples.")

    def _difference(self, other: Neighbours) -> str:
        """What tells the samples of another set from those of this one, "" where nothing does."""
        for what, mine, theirs in (("samples", self.shape[0], other.shape[0]), ("items", self.n_items, other.n_items)):
            if mine != theirs:
                return f"{self.path} has {mine:,} {what} and {other.path} has {theirs:,}"
        sizes, other_sizes = np.diff(self._index.pointers()), np.diff(other.item_index.pointers())
        for item in np.flatnonzero(sizes != other_sizes):
            return f"item {item} has {sizes[item]:,} samples in {self.path} and {other_sizes[item]:,} in {other.path}"
        if "key" in self.items.names() and "key" in other.items.names():
            keys, other_keys = self.items.column("key"), other.items.column("key")
            for item in np.flatnonzero(keys != other_keys):
                return (
                    f"item {item} is {str(keys[item])!r} in {self.path} and {str(other_keys[item])!r} in {other.path}"
                )
        return ""


def _check(n: int, metric: str) -> None:
    if n < 1:
        raise InvalidInputError(f"n={n}: use 1 or more.")
    if metric not in METRICS:
        raise InvalidInputError(f"metric={metric!r}: use one of {', '.join(map(repr, METRICS))}.")
