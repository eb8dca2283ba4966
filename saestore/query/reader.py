"""Every question that an activation set answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saestore.errors import InvalidInputError
from saestore.format import LEVEL_TABLES
from saestore.query import distribution, similarity, slices
from saestore.query.open_set import OpenSet, retry_on_stale_snapshot
from saestore.query.posting_lists import PostingLists, one_list
from saestore.query.results import FeatureMatches, Histogram, SimilarFeatures, TopFeatures, TopSamples
from saestore.query.selection import Selection, check_at_least, select, select_one
from saestore.query.set_table import SetTable
from saestore.query.similarity import Metric, Sizes
from saestore.query.slices import DENSE_LIMIT, check_size
from saestore.query.topk import top_of_lists, top_of_rows
from saestore.stats import statistics_table
from saestore.tables.label_matrix import check_level, csc_of_rows, position_of

if TYPE_CHECKING:
    import scipy.sparse
    import xarray

Array = np.ndarray[Any, Any]
Level = Literal["item", "sample"]


class SetReader(OpenSet):
    """An opened set and every question about it. Analyses, plots and exports take one.

    Features and samples are given as an int, a slice, a list or array of ints, or a boolean mask, by numpy's rules.
    ``where`` restricts a question to the samples that fulfil a condition; see `SetTable.where`.
    """

    @property
    def samples(self) -> SetTable:
        """The table of the samples: ``samples.where(expression)`` gives numbers, ``samples["column"]`` values."""
        return SetTable(self, "samples")

    @property
    def items(self) -> SetTable:
        """The table of the images or texts: key, split, columns and concepts."""
        return SetTable(self, "items")

    @property
    def features(self) -> SetTable:
        """The table of the features: their names, notes, and all else that is known of them."""
        return SetTable(self, "features")

    @retry_on_stale_snapshot
    def top_samples(
        self, feature: Any, n: int = 20, *, level: Literal["sample", "item"] = "sample", where: Any = None
    ) -> TopSamples:
        """The samples on which a feature, or each of several, is strongest.

        Parameters
        ----------
        feature
            One feature or many; the answer holds them one after the other.
        n
            Rows per feature at most. Only samples where the feature is active appear; negative activations come last.
        level
            ``"item"`` returns each item once, with its strongest sample.

        Returns
        -------
        TopSamples
            Strongest first, ties by ascending sample.

        Notes
        -----
        Reads `n` entries of every list in every segment, in two requests per segment once shard indexes are known;
        more where `level` or `where` drops some. Memory: those entries.
        """
        n = check_at_least("n", n, 0)
        check_level(level)
        features, condition = self._features(feature), self.condition(where, lists=True)
        return self._table(
            top_of_lists(
                self.segments, features, n, self.item_index, per_item=level == "item", where=condition, dtype=self.dtype
            )
        )

    @retry_on_stale_snapshot
    def feature(self, feature: int, *, where: Any = None) -> TopSamples:
        """All samples on which one feature is active, strongest first. Memory: its list."""
        feature = select_one(feature, self.shape[1], "feature", "feature")
        condition = self.condition(where, lists=True)
        lists = one_list(self.segments, feature, self.dtype)
        return self._table(lists if condition is None else lists.keep(condition.keeps(lists.samples)))

    def _features(self, features: Any) -> Array:
        return select(features, self.shape[1], "feature").ids

    def _table(self, lists: PostingLists) -> TopSamples:
        items, positions = self.item_index.locate(lists.samples)
        return TopSamples(lists.feature_of_entry, lists.samples, items, positions, lists.data)

    @retry_on_stale_snapshot
    def top_features(self, sample: Any = None, n: int = 10, *, where: Any = None) -> TopFeatures:
        """The strongest features of a sample, or of each of several, strongest first, ties by ascending feature.

        At most `n` rows per sample; only active features appear.
        """
        n = check_at_least("n", n, 0)
        if sample is None and where is None:
            message = "top_features() needs sample=, one or several, or where=."
            raise InvalidInputError(message, code="missing-argument")
        samples = self._rows(sample, where).ids
        rows = top_of_rows(self.segments, samples, n, self.dtype)
        return TopFeatures(np.repeat(samples, np.diff(rows.indptr)), rows.indices, rows.data)

    @retry_on_stale_snapshot
    def dense(
        self, samples: Any = None, features: Any = None, *, where: Any = None, max_bytes: int = DENSE_LIMIT
    ) -> Array:
        """A dense slice, samples x features, of the stored dtype; an int drops its axis, as in numpy.

        Raises
        ------
        TooLargeError
            It would be larger than `max_bytes` (4 GiB); nothing was read.

        Notes
        -----
        Reads the lists of the features or the rows of the samples, the smaller of both. Memory: the answer, twice where
        ids are not ascending, and a block of about 4 million non-zeros.
        """
        rows, columns = self._rows(samples, where), select(features, self.shape[1], "feature")
        advice = "Ask for fewer samples or features, use sparse(), or pass max_bytes."
        check_size((len(rows), len(columns)), self.dtype.itemsize, max_bytes, advice)
        return slices.dense(self.segments, rows, columns, self.dtype)

    @retry_on_stale_snapshot
    def sparse(
        self, samples: Any = None, features: Any = None, *, where: Any = None, max_bytes: int = DENSE_LIMIT
    ) -> scipy.sparse.csr_array:
        """A slice as a `scipy.sparse.csr_array` with sorted ids, samples x features; float16 comes as float32.

        Raises
        ------
        TooLargeError
            The rows hold more than `max_bytes` (4 GiB) of ids and activations.
        """
        rows, columns = self._rows(samples, where), select(features, self.shape[1], "feature")
        expected = int(self.nnz * len(rows) / max(1, self.shape[0]))
        check_size((expected,), 8, max_bytes, "(non-zeros). Ask for fewer samples at a time, or pass max_bytes.")
        return slices.sparse(self.segments, rows, columns, self.shape[1], self.dtype)

    def _rows(self, samples: Any, where: Any) -> Selection:
        """The requested samples, in that order, that fulfil a condition."""
        rows, condition = select(samples, self.shape[0], "sample"), self.condition(where)
        if condition is None:
            return rows
        if rows.scalar:
            message = "where= chooses among several samples; give a list, such as [17], not one sample."
            raise InvalidInputError(message, code="one-sample")
        return Selection(rows.ids[condition.keeps(rows.ids)], scalar=False)

    @retry_on_stale_snapshot
    def vindex(self, samples: Any, features: Any) -> Array:
        """The activation at each pair of a sample and a feature, of the stored dtype, (n,).

        Parameters
        ----------
        samples, features
            Ints, of equal length or one of them a single int.

        Notes
        -----
        Memory: 12 bytes per pair, and blocks of about 4 million pairs and non-zeros, 400 MB; never the dense matrix of
        all the samples and features that occur.
        """
        rows, columns = select(samples, self.shape[0], "sample").ids, self._features(features)
        if len(rows) != len(columns) and 1 not in (len(rows), len(columns)):
            raise InvalidInputError(
                f"vindex() takes pairs, not {len(rows):,} samples and {len(columns):,} features. dense() gives every "
                "sample with every feature.",
                code="not-pairs",
            )
        rows, columns = np.broadcast_arrays(rows, columns)
        return slices.points(self.segments, rows, columns, self.shape[1], self.dtype)

    @retry_on_stale_snapshot
    def stats(self, features: Any = None, *, where: Any = None) -> xarray.Dataset:
        """Exact statistics per feature on dimension ``feature``; see `saestore.stats.STATISTICS`.

        Without `where` they come from sums that are stored.
        """
        ids, condition, n_features = self._features(features), self.condition(where), self.shape[1]
        if condition is None:
            return statistics_table(distribution.all_moments(self.segments, ids, n_features, self.dtype), ids)
        rows = condition.samples(self.shape[0])
        return statistics_table(distribution.moments_where(self.segments, ids, n_features, rows, self.dtype), ids)

    @retry_on_stale_snapshot
    def quantile(
        self, q: Any, features: Any = None, *, active_only: bool = False, where: Any = None
    ) -> xarray.DataArray:
        """Exact quantiles of features, by linear interpolation as `numpy.quantile`.

        Parameters
        ----------
        q
            One or several probabilities.
        active_only
            Over the samples only on which the feature is active; NaN where there is none. By default over all samples,
            zeros included.

        Returns
        -------
        xarray.DataArray
            On (quantile, feature), float64.
        """
        import xarray as xr

        ids, condition = self._features(features), self.condition(where)
        probabilities, values = distribution.quantiles(
            self.segments, q, ids, self.shape[0], self.dtype, active_only=active_only, where=condition
        )
        coords = {"quantile": probabilities, "feature": ids}
        return xr.DataArray(values, dims=("quantile", "feature"), coords=coords)

    @retry_on_stale_snapshot
    def histogram(
        self,
        feature: int,
        bins: Any = 50,
        *,
        range: tuple[float, float] | None = None,
        active_only: bool = True,
        where: Any = None,
    ) -> Histogram:
        """Exact histogram of one feature, as `numpy.histogram`, over its active samples or over all samples."""
        if isinstance(bins, str) and not active_only:
            message = f"bins={bins!r} needs active_only=True; give a number of bins or their edges for all samples."
            raise InvalidInputError(message, code="wrong-bins")
        values, condition = self.feature(feature, where=where).activation, self.condition(where)
        n_samples = self.shape[0] if condition is None else len(condition.samples(self.shape[0]))
        zeros = 0 if active_only else n_samples - len(values)
        counts, edges = distribution.histogram(values, zeros, bins, range)
        return Histogram(edges[:-1], edges[1:], counts.astype(np.int64))

    @retry_on_stale_snapshot
    def similar(self, feature: int, n: int = 10, metric: Metric = "jaccard", *, where: Any = None) -> SimilarFeatures:
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
            Without features for which the metric is not defined: correlation with a constant column.

        Notes
        -----
        Reads the feature's list and the rows of its samples. Memory: the list, a block of about 4 million non-zeros,
        and about 100 bytes per feature.
        """
        n, condition = similarity.check_request(n, metric), self.condition(where)
        lists = one_list(self.segments, select_one(feature, self.shape[1], "feature", "similar"), self.dtype)
        if condition is None:
            return similarity.most_similar(metric, n, self.segments, lists, self._sizes())
        rows, n_features = condition.samples(self.shape[0]), self.shape[1]
        moments = distribution.moments_where(self.segments, np.arange(n_features), n_features, rows, self.dtype)
        lists = lists.keep(condition.keeps(lists.samples))
        return similarity.most_similar(metric, n, self.segments, lists, Sizes.of(moments))

    @retry_on_stale_snapshot
    def cooccurrence(self, features: Any, *, max_bytes: int = DENSE_LIMIT) -> xarray.DataArray:
        """The number of samples on which each two features are active together; with itself, on which each is active.

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
        Memory: the answer, two blocks of about 4 million entries of the features' lists, and 8 bytes per sample.
        """
        import xarray as xr

        ids = self._features(features)
        check_size((len(ids), len(ids)), 8, max_bytes, "Ask for fewer features, or for similar() of one.")
        counts = similarity.cooccurrence(self.segments, ids, self.shape[0], self.dtype)
        dims = ("feature", "other_feature")
        return xr.DataArray(counts, dims=dims, coords=dict.fromkeys(dims, ids), name="n_both")

    @retry_on_stale_snapshot
    def compare(self, other: SetReader, metric: Metric = "correlation", n: int = 1) -> FeatureMatches:
        """The features of another set over the same samples that match the features of this one.

        Parameters
        ----------
        other
            An activation set, such as of another SAE, with the same items and samples.
        metric
            As for `similar`.
        n
            Matches per feature at most.

        Returns
        -------
        FeatureMatches
            One feature after the other. A feature that shares no sample with any of the other set has no row.

        Raises
        ------
        InvalidInputError
            The samples are not the same: other numbers of them, or other items. The message names the difference.

        Notes
        -----
        Reads the lists of this set once for every 2,048 features of the other. Memory: about 400 MB, 8 bytes per
        sample, and the answer.
        """
        n = similarity.check_request(n, metric)
        if not isinstance(other, SetReader):
            raise InvalidInputError(f"compare() takes another set, not a {type(other).__name__}.", code="not-a-set")
        similarity.check_same_samples(self, other)
        mine, theirs = (self.segments, self._sizes(), self.dtype), (other.segments, other._sizes(), other.dtype)
        return similarity.best_matches(metric, n, mine, theirs)

    def _sizes(self) -> Sizes:
        n_features = self.shape[1]
        return Sizes.of(distribution.all_moments(self.segments, np.arange(n_features), n_features, self.dtype))

    @retry_on_stale_snapshot
    def concept_names(self, level: Level | None = None) -> list[str]:
        """Names of the concepts of a level, in the order of their columns; by default of both, items first."""
        if level is None:
            return list(dict.fromkeys([*self.concept_names("item"), *self.concept_names("sample")]))
        check_level(level)
        return self.table(LEVEL_TABLES[level]).concept_names

    def concept_mask(self, name: str, level: Level | None = None) -> Array:
        """Whether each item or sample has a concept, bool (n_items,) or (n_samples,); False where unknown.

        Parameters
        ----------
        level
            By default items where they have the concept, else samples.

        Raises
        ------
        NotFoundError
            There is no concept of this name; the message names those that there are.
        """
        if level is None:
            level = "sample" if name in self.concept_names("sample") else "item"
            level = "item" if name in self.concept_names("item") else level
            position_of(name, self.concept_names())
        position_of(name, self.concept_names(level), f"concept of {level}s")
        return np.ma.filled(self.read_column(LEVEL_TABLES[level], name).array(), False)

    def concept_matrix(self, level: Level = "item") -> scipy.sparse.csc_array:
        """Where concepts are true, bool, items or samples x concepts in the order of `concept_names`.

        Memory: 5 bytes per positive label.
        """
        return self.labels(level).matrix

    def unknown_matrix(self, level: Level = "item") -> scipy.sparse.csc_array:
        """Where concepts are unknown, as `concept_matrix` has where they are true."""
        labels = self.labels(level)
        return csc_of_rows([[]] * len(labels.names), labels.n_rows) if labels.unknown is None else labels.unknown
