"""Every question that an activation set answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import zarr

from saestore.errors import InvalidInputError
from saestore.format import LEVEL_TABLES, digest
from saestore.kernels import descending_bits
from saestore.query import distribution, similarity, slices
from saestore.query.open_set import OpenSet, retry_on_stale_snapshot
from saestore.query.results import FeatureMatches, Histogram, SimilarFeatures, TopFeatures, TopSamples
from saestore.query.selection import Selection, select
from saestore.query.set_table import SetTable
from saestore.query.similarity import Metric, Sizes
from saestore.query.slices import DENSE_LIMIT, check_size
from saestore.query.topk import top_entries
from saestore.stats import statistics_table
from saestore.tables.label_matrix import check_level, csc_of_rows, position_of

if TYPE_CHECKING:
    import scipy.sparse
    import xarray

Array = np.ndarray[Any, Any]
Level = Literal["item", "sample"]


class SetReader(OpenSet):
    """An opened set and every question about it; what analyses, plots and exports take."""

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
            Rows for each feature at most. Only samples where the feature is active appear; negative activations come
            last.
        level
            ``"item"`` returns each item once, with its strongest sample.
        where
            Only samples that fulfil this; see `samples.where`.

        Returns
        -------
        TopSamples
            Strongest first, ties by ascending sample.

        Notes
        -----
        Reads `n` entries of every list in every segment, in two requests a segment once shard indexes are known; more
        where `level` or `where` drops some. Memory: those entries.
        """
        if n < 0:
            raise InvalidInputError(f"n={n}: use 0 or more.")
        if level not in ("sample", "item"):
            raise InvalidInputError(f"level={level!r}: use 'sample' or 'item'.")
        features = select(feature, self.shape[1], "feature").ids
        entries = top_entries(
            self.segments,
            features,
            n,
            self._index,
            per_item=level == "item",
            where=self.condition(where),
            dtype=self.dtype,
        )
        samples = np.concatenate([s for s, _ in entries] or [np.empty(0, np.int64)])
        data = np.concatenate([d for _, d in entries] or [np.empty(0, self.dtype)])
        which = np.repeat(features, [len(s) for s, _ in entries])
        items, positions = self._index.locate(samples)
        return TopSamples(which, samples, items, positions, data)

    @retry_on_stale_snapshot
    def feature(self, feature: int, *, where: Any = None) -> TopSamples:
        """All samples on which one feature is active, strongest first. Memory: its list."""
        chosen = select(feature, self.shape[1], "feature")
        if not chosen.scalar:
            raise InvalidInputError(f"feature() takes one int, not {feature!r}; use top_samples for several.")
        condition = self.condition(where)
        lists = distribution.one_list(self.segments, int(chosen.ids[0]), self.dtype)
        if condition is not None:
            lists = lists.kept(condition.keeps(lists.samples))
        items, positions = self._index.locate(lists.samples)
        return TopSamples(np.full(len(items), chosen.ids[0]), lists.samples, items, positions, lists.data)

    @retry_on_stale_snapshot
    def top_features(self, sample: Any = None, n: int = 10, *, where: Any = None) -> TopFeatures:
        """The strongest features of a sample, or of each of several, strongest first, ties by ascending feature.

        Parameters
        ----------
        n
            Rows for each sample at most; only active features appear.
        where
            Of the samples only those that fulfil this; see `samples.where`.
        """
        if n < 0:
            raise InvalidInputError(f"n={n}: use 0 or more.")
        if sample is None and where is None:
            raise InvalidInputError("top_features() needs sample=, one or several, or where=.")
        samples = self._rows(sample, where).ids
        rows: dict[int, tuple[Array, Array]] = {}
        for part, indptr, ids, data in slices.iterate_rows(self.segments, np.unique(samples)):
            for i, row in enumerate(part):
                values, found = data[indptr[i] : indptr[i + 1]], ids[indptr[i] : indptr[i + 1]]
                order = np.lexsort((found, descending_bits(values)))[:n]
                rows[int(row)] = found[order].astype(np.int64), values[order]
        picked = [rows[int(s)] for s in samples]
        return TopFeatures(
            np.repeat(samples, [len(f) for f, _ in picked]),
            np.concatenate([f for f, _ in picked] or [np.empty(0, np.int64)]),
            np.concatenate([d for _, d in picked] or [np.empty(0, self.dtype)]),
        )

    @retry_on_stale_snapshot
    def dense(
        self,
        samples: Any = None,
        features: Any = None,
        *,
        where: Any = None,
        max_bytes: int = slices.DENSE_LIMIT,
    ) -> Array:
        """A dense slice, samples x features, of the stored dtype; an int drops its axis, as in numpy.

        Parameters
        ----------
        where
            Of the samples only those that fulfil this; ``samples.where`` says which of all do.

        Raises
        ------
        TooLargeError
            It would be larger than `max_bytes` (4 GiB); nothing was read.

        Notes
        -----
        Reads the lists of the features or the rows of the samples, whichever is less. Memory: the answer, twice where
        ids are not ascending, and a block of some 4 million non-zeros.
        """
        rows, columns = self._rows(samples, where), select(features, self.shape[1], "feature")
        slices.check_size(
            (len(rows), len(columns)),
            self.dtype.itemsize,
            max_bytes,
            "Ask for fewer samples or features, use sparse(), or pass max_bytes.",
        )
        return slices.dense(self.segments, rows, columns, self.dtype)

    @retry_on_stale_snapshot
    def sparse(
        self,
        samples: Any = None,
        features: Any = None,
        *,
        where: Any = None,
        max_bytes: int = slices.DENSE_LIMIT,
    ) -> scipy.sparse.csr_array:
        """A slice as a `scipy.sparse.csr_array` with sorted ids, samples x features; float16 comes as float32.

        Parameters
        ----------
        where
            Of the samples only those that fulfil this; ``samples.where`` says which of all do.

        Raises
        ------
        TooLargeError
            The rows hold more than `max_bytes` (4 GiB) of ids and activations.
        """
        rows, columns = self._rows(samples, where), select(features, self.shape[1], "feature")
        expected = int(self.nnz * len(rows) / max(1, self.shape[0]))
        slices.check_size((expected,), 8, max_bytes, "(non-zeros). Ask for fewer samples at a time, or pass max_bytes.")
        return slices.sparse(self.segments, rows, columns, self.shape[1], self.dtype)

    def _rows(self, samples: Any, where: Any) -> Selection:
        """Samples that were asked for, in that order, and fulfil a condition."""
        rows = select(samples, self.shape[0], "sample")
        condition = self.condition(where)
        if condition is None:
            return rows
        if rows.scalar:
            raise InvalidInputError("where= chooses among several samples; give a list, such as [17], not one.")
        return Selection(rows.ids[condition.keeps(rows.ids)], scalar=False)

    @property
    def location(self) -> str:
        """Where the store is, as zarr names it: a URL, or which object in memory."""
        return f"{self.root.store}/{self.root.path}".rstrip("/")

    def __dask_tokenize__(self) -> tuple[str, str, str]:
        """What names the content of the set, so that dask can tell equal arrays by it."""
        return self.location, self.path, digest(self.attributes.to_json())

    @retry_on_stale_snapshot
    def vindex(self, samples: Any, features: Any) -> Array:
        """The activation at each pair of a sample and a feature, of the stored dtype, (n,).

        Parameters
        ----------
        samples, features
            Ints, of equal length or one of them a single int.

        Notes
        -----
        Memory: 12 bytes a pair, and blocks of some 4 million pairs and non-zeros, 400 MB; never the dense matrix of all
        the samples and features that occur.
        """
        rows, columns = select(samples, self.shape[0], "sample").ids, select(features, self.shape[1], "feature").ids
        try:
            rows, columns = np.broadcast_arrays(rows, columns)
        except ValueError:
            raise InvalidInputError(
                f"vindex() takes pairs: {len(rows):,} samples and {len(columns):,} features are none. "
                "dense() gives every sample with every feature."
            ) from None
        return slices.points(self.segments, rows, columns, self.shape[1], self.dtype)

    @retry_on_stale_snapshot
    def stats(self, features: Any = None, *, where: Any = None) -> xarray.Dataset:
        """Exact statistics of every feature on dimension ``feature``; `saestore.stats.STATISTICS` says which.

        Parameters
        ----------
        where
            Over the samples only that fulfil this; see `samples.where`. By default over all, from sums that are stored.
        """
        ids = select(features, self.shape[1], "feature").ids
        chosen = self.condition(where)
        if chosen is None:
            moments = distribution.all_moments(self.segments, ids, self.shape[1], self.dtype)
        else:
            unique, back = np.unique(ids, return_inverse=True)
            rows = chosen.samples(self.shape[0])
            moments = distribution.moments_where(self.segments, unique, self.shape[1], rows, self.dtype).take(back)
        return statistics_table(moments, ids)

    @retry_on_stale_snapshot
    def quantile(
        self, q: Any, features: Any = None, *, over: Literal["all", "active"] = "all", where: Any = None
    ) -> xarray.DataArray:
        """Exact quantiles of features, by linear interpolation as `numpy.quantile`.

        Parameters
        ----------
        q
            One or several probabilities.
        over
            ``"all"`` samples, zeros included, or the ``"active"`` ones; NaN where there is none.
        where
            Over the samples only that fulfil this; see `samples.where`.

        Returns
        -------
        xarray.DataArray
            On (quantile, feature), float64.
        """
        import xarray as xr

        if over not in ("all", "active"):
            raise InvalidInputError(f"over={over!r}: use 'all' or 'active'.")
        try:
            probabilities = np.atleast_1d(np.asarray(q, np.float64))
        except (TypeError, ValueError):
            probabilities = np.array([np.nan])
        if probabilities.ndim != 1 or not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise InvalidInputError(f"q={q!r}: quantiles are probabilities from 0 to 1.")
        ids = select(features, self.shape[1], "feature").ids
        unique, back = np.unique(ids, return_inverse=True)
        values = distribution.quantiles(
            self.segments,
            probabilities,
            unique,
            self.shape[0],
            self.dtype,
            active=over == "active",
            where=self.condition(where),
        )
        return xr.DataArray(
            values[:, back], dims=("quantile", "feature"), coords={"quantile": probabilities, "feature": ids}
        )

    @retry_on_stale_snapshot
    def histogram(
        self,
        feature: int,
        bins: Any = 50,
        *,
        range: tuple[float, float] | None = None,
        over: Literal["all", "active"] = "active",
        where: Any = None,
    ) -> Histogram:
        """Exact histogram of one feature, as `numpy.histogram`, over its ``"active"`` samples or over ``"all"``.

        Parameters
        ----------
        where
            Over the samples only that fulfil this; see `samples.where`.
        """
        if over not in ("all", "active"):
            raise InvalidInputError(f"over={over!r}: use 'all' or 'active'.")
        if isinstance(bins, str) and over == "all":
            raise InvalidInputError(f"bins={bins!r} needs over='active': how to bin all samples is for you to say.")
        values = self.feature(feature, where=where).activation
        n_samples = self.shape[0] if where is None else len(self.samples.where(where))
        zeros = n_samples - len(values) if over == "all" else 0
        counts, edges = distribution.histogram(values, zeros, bins, range)
        return Histogram(edges[:-1], edges[1:], counts.astype(np.int64))

    @retry_on_stale_snapshot
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
        similarity.check_request(n, metric)
        chosen = select(feature, self.shape[1], "feature")
        if not chosen.scalar:
            raise InvalidInputError(f"similar() takes one int, not {feature!r}; ask for one feature after the other.")
        lists = distribution.one_list(self.segments, int(chosen.ids[0]), self.dtype)
        n_both, dot = similarity.overlap_of_list(self.segments, lists, self.shape[1])
        sizes = self._sizes()
        scores = similarity.score(metric, sizes.take(chosen.ids), sizes, n_both, dot)
        n_both[chosen.ids] = 0
        order = np.argsort(-scores, kind="stable")
        order = order[(n_both > 0)[order] & ~np.isnan(scores[order])][:n]
        return SimilarFeatures(order, scores[order], n_both[order])

    @retry_on_stale_snapshot
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
        counts = similarity.cooccurrence(self.segments, unique, self.shape[0], self.dtype)
        return xr.DataArray(
            counts[np.ix_(back, back)],
            dims=("feature", "other_feature"),
            coords={"feature": ids, "other_feature": ids},
            name="n_both",
        )

    @retry_on_stale_snapshot
    def compare(self, other: SetReader, metric: Metric = "correlation", n: int = 1) -> FeatureMatches:
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
        similarity.check_request(n, metric)
        if not isinstance(other, SetReader):
            raise InvalidInputError(f"compare() takes another activation set, not a {type(other).__name__}.")
        similarity.check_same_samples(self, other)
        matches, scores, n_both = similarity.best_matches(
            metric, n, (self.segments, self._sizes(), self.dtype), (other.segments, other._sizes(), other.dtype)
        )
        rows, places = np.nonzero(matches >= 0)
        found = (values[rows, places] for values in (matches, scores, n_both))
        return FeatureMatches(rows, *found)

    def _sizes(self) -> Sizes:
        n_features = self.shape[1]
        return Sizes.of(distribution.all_moments(self.segments, np.arange(n_features), n_features, self.dtype))

    def concept_names(self, level: Level | None = None) -> list[str]:
        """Names of the concepts of a level, in the order of their columns; by default of both, those of items first."""
        if level is None:
            return list(dict.fromkeys([*self.concept_names("item"), *self.concept_names("sample")]))
        check_level(level)
        return self.table(LEVEL_TABLES[level]).concept_names

    def concept_mask(self, name: str, level: Level | None = None) -> Array:
        """Which items or samples have a concept, bool (n_items,) or (n_samples,); False where it is unknown.

        Parameters
        ----------
        level
            Of which level; by default that of items where they have it, else that of samples.

        Raises
        ------
        NotFoundError
            There is no concept of this name; the message says what there is.
        """
        if level is None:
            level = "sample" if name in self.concept_names("sample") else "item"
            level = "item" if name in self.concept_names("item") else level
            position_of(name, self.concept_names())
        position_of(name, self.concept_names(level), f"concept of {level}s")
        return np.ma.filled(self.read_column(LEVEL_TABLES[level], name).array(), False)

    def concept_matrix(self, level: Level = "item") -> scipy.sparse.csc_array:
        """All labels of a level that are true, bool, items or samples x concepts in the order of ``concept_names``.

        Memory: 5 bytes per positive label.
        """
        return self.labels(level).matrix

    def unknown_matrix(self, level: Level = "item") -> scipy.sparse.csc_array:
        """All labels of a level that are unknown, as `concept_matrix` has those that are true."""
        labels = self.labels(level)
        return csc_of_rows([[]] * len(labels.names), labels.n_rows) if labels.unknown is None else labels.unknown

    def __reduce__(self) -> tuple[Any, ...]:
        # Shard indexes and pointers are not sent along: whoever unpickles the set opens it there.
        return _open, (type(self), self.root, self.path)


def _open(cls: type[SetReader], root: zarr.Group, path: str) -> SetReader:
    return cls(root, path)
