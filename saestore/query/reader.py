"""Every question that an activation set answers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saestore.errors import InvalidInputError, check_at_least
from saestore.format import SetAttributes
from saestore.query import distribution, similarity, slices
from saestore.query.details import details_of
from saestore.query.open_set import OpenSet, retry_on_stale_snapshot
from saestore.query.posting_lists import PostingLists
from saestore.query.results import SimilarFeatures, TopFeatures, TopSamples
from saestore.query.selection import Condition, Selection, select
from saestore.query.similarity import Metric, Sizes
from saestore.query.slices import DENSE_LIMIT, check_size
from saestore.query.topk import top_of_items, top_of_lists, top_of_rows
from saestore.query.view import Pooling, View, check_pooling
from saestore.sparse_rows import Array
from saestore.stats import Moments, statistics_table
from saestore.tables.label_matrix import check_level

if TYPE_CHECKING:
    import scipy.sparse
    import xarray

    from saestore.query.set_table import SetTable

Level = Literal["item", "sample"]
_INDEX = int, slice, list, np.ndarray, type(None)  # what is not a condition
_Key = tuple[SetAttributes, Condition | None]


class SetReader(OpenSet):
    """An opened set and every question about it. Analyses, plots and exports take one.

    Features and samples are given as an int, a slice, a list or array of ints, or a boolean mask, by numpy's rules;
    features also as a condition over their table, such as ``'frac_nonzero < 0.01 and name contains "green"'``.
    ``where`` restricts a question to the samples that fulfil a condition; see `SetTable.where`. ``level="item"`` asks
    about items, whose activation is the maximum over their samples, inactive ones included as 0.
    """

    _item_moments: tuple[_Key, Moments] | None = None

    @property
    def samples(self) -> SetTable:
        """The table of the samples: ``samples.where(expression)`` gives numbers, ``samples["column"]`` values."""
        return self._set_table("samples")

    @property
    def items(self) -> SetTable:
        """The table of the images or texts: key, split, columns and concepts."""
        return self._set_table("items")

    @property
    def features(self) -> SetTable:
        """The table of the features: their names, notes, and all else that is known of them."""
        return self._set_table("features")

    def _set_table(self, name: str) -> SetTable:
        from saestore.query.set_table import SetTable  # most questions need no table, and conditions are long to import

        return SetTable(self, name)

    @retry_on_stale_snapshot
    def top_samples(
        self, feature: Any, n: int = 20, *, level: Level = "sample", where: Any = None, unique: bool | str = False
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
        unique
            Of items with the same text show the strongest only; without texts, of items with the same ``hash``, else
            the same key. Or the name of a column of the items, whose values are compared.

        Returns
        -------
        TopSamples
            Strongest first, ties by ascending sample.

        Notes
        -----
        Reads `n` entries of every list in every segment, in two requests per segment once shard indexes are known;
        more where `level`, `where` or `unique` drops some. Memory: those entries, and their items' texts with `unique`.
        """
        n = check_at_least("n", n, 0)
        check_level(level)
        selected = self.select_features(feature)
        features = selected.ids
        if len(features) > 1 and where is not None:
            from saestore.query.where import names_activation

            if names_activation(where):
                each = [self.top_samples(int(f), n, level=level, where=where, unique=unique) for f in features]
                return TopSamples.concat(each)
        condition = self.condition(where, None if where is None else selected.only, lists=True)
        same = None
        if unique is not False:
            from saestore.query.unique import alike

            same = alike(self.items, unique)
        options: dict[str, Any] = {"per_item": level == "item", "where": condition, "alike": same}
        found = top_of_lists(self.segments, features, n, self.item_index, dtype=self.dtype, **options)
        return self._table(found)

    @retry_on_stale_snapshot
    def feature(self, feature: int, *, where: Any = None) -> TopSamples:
        """All samples on which one feature is active, strongest first. Memory: its list."""
        from saestore.query.where import one_feature

        number = one_feature(self, feature, "feature")
        return self.top_samples(number, self.shape[0], where=where)

    def select_features(self, features: Any) -> Selection:
        """Features by numpy's rules for an index, or those that fulfil a condition; see `SetTable.where`."""
        if not isinstance(features, _INDEX):
            from saestore.query.where import as_tree

            if as_tree(features) is not None:
                return Selection(self.features.where(features), scalar=False)
        return select(features, self.shape[1], "feature")

    def _table(self, lists: PostingLists) -> TopSamples:
        items, positions = self.item_index.locate(lists.samples)
        columns = lists.feature_of_entry, lists.samples, items, positions, lists.data
        return TopSamples(*columns, _details=partial(details_of, self))

    def view(
        self, level: Level = "sample", where: Any = None, *, feature: int | None = None, lists: bool = False
    ) -> View:
        """The set as a matrix whose rows are the samples or items that a condition leaves; analyses read from it.

        `feature` is the one that ``activation`` means in the condition; `lists` is as in `condition`.
        """
        return View.of(self, level, self.condition(where, feature, lists=lists))

    @retry_on_stale_snapshot
    def top_features(self, sample: Any = None, n: int = 10, *, item: Any = None, where: Any = None) -> TopFeatures:
        """The strongest features of a sample or an item, or of each of several, strongest first.

        Parameters
        ----------
        sample, item
            One of both: numbers. The activation of an item is the maximum over its samples that fulfil `where`.
        n
            Rows per sample or item at most; only active features appear. Ties by ascending feature.
        """
        n = check_at_least("n", n, 0)
        if sample is None and item is None and where is None:
            message = "top_features() needs sample= or item=, one or several, or where=."
            raise InvalidInputError(message, code="missing-argument")
        if sample is not None and item is not None:
            raise InvalidInputError("top_features() takes sample= or item=, not both.", code="two-levels")
        details = partial(details_of, self)
        if item is not None:
            ids = select(item, self.n_items, "item").ids
            of_item, rows, samples = top_of_items(self.view("item", where), ids, n)
            items = np.repeat(of_item, np.diff(rows.indptr))
            return TopFeatures(items, samples, rows.indices, rows.data, _details=details)
        ids = self._rows(self.view(where=where), sample).ids
        rows = top_of_rows(self.segments, ids, n, self.dtype)
        samples = np.repeat(ids, np.diff(rows.indptr))
        return TopFeatures(self.item_index.locate(samples)[0], samples, rows.indices, rows.data, _details=details)

    @retry_on_stale_snapshot
    def dense(
        self,
        samples: Any = None,
        features: Any = None,
        *,
        level: Level = "sample",
        pooling: Pooling = "max",
        where: Any = None,
        max_bytes: int = DENSE_LIMIT,
    ) -> Array:
        """A dense slice, samples or items x features; an int drops its axis, as in numpy.

        Parameters
        ----------
        samples
            Samples, or items with ``level="item"``.
        level, pooling, where
            As for `sparse`.

        Returns
        -------
        ndarray
            Of the stored dtype; of pooled means and sums float64.

        Raises
        ------
        TooLargeError
            It would be larger than `max_bytes` (4 GiB); nothing was read.

        Notes
        -----
        Reads the lists of the features or the rows of the samples, the smaller of both. Memory: the answer, twice where
        ids are not ascending, and a block of about 4 million non-zeros.
        """
        check_pooling(pooling)
        columns = self.select_features(features)
        view = self.view(level, where, feature=columns.only)
        rows = self._rows(view, samples)
        advice = f"Ask for fewer {level}s or features, use sparse(), or pass max_bytes."
        check_size((len(rows), len(columns)), view.dtype_of(pooling).itemsize, max_bytes, advice)
        return slices.dense(view, rows, columns, pooling)

    @retry_on_stale_snapshot
    def sparse(
        self,
        samples: Any = None,
        features: Any = None,
        *,
        level: Level = "sample",
        pooling: Pooling = "max",
        where: Any = None,
        max_bytes: int = DENSE_LIMIT,
    ) -> scipy.sparse.csr_array:
        """A slice as a `scipy.sparse.csr_array` with sorted ids, samples or items x features.

        Parameters
        ----------
        samples
            Samples, or items with ``level="item"``.
        level
            ``"item"`` gives a row per item, pooled from its samples, inactive ones included as 0.
        pooling
            ``"max"``, ``"mean"`` or ``"sum"`` over the samples of an item.
        where
            Only the samples that fulfil this; an item without such a sample has no row.

        Returns
        -------
        scipy.sparse.csr_array
            Of the stored dtype, float16 as float32; pooled means and sums as float64.

        Raises
        ------
        TooLargeError
            The rows hold more than `max_bytes` (4 GiB) of ids and activations.

        Notes
        -----
        Memory: the answer, and a block of about 4 million non-zeros.
        """
        check_pooling(pooling)
        columns = self.select_features(features)
        view = self.view(level, where, feature=columns.only)
        rows = self._rows(view, samples)
        n_samples = view.n_samples_of(rows)
        expected = min(int(self.nnz * n_samples / max(1, self.shape[0])), len(rows) * self.shape[1])
        check_size((expected,), 8, max_bytes, f"(non-zeros). Ask for fewer {level}s at a time, or pass max_bytes.")
        return slices.sparse(view, rows, columns, pooling)

    def _rows(self, view: View, samples: Any) -> Selection:
        """The requested samples or items, in that order, that count in a view."""
        rows = select(samples, view.n_rows, view.level)
        if view.kept is None:
            return rows
        if rows.scalar:
            message = f"where= chooses among several {view.level}s; give a list, such as [17], not one {view.level}."
            raise InvalidInputError(message, code="one-sample")
        if isinstance(rows.given, range) and rows.given == range(view.n_rows):
            return Selection(np.concatenate([np.empty(0, np.int64), *view.ids()]), scalar=False)
        return Selection(rows.ids[view.counting(rows.ids)], scalar=False)

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
        rows, columns = select(samples, self.shape[0], "sample").ids, self.select_features(features).ids
        if len(rows) != len(columns) and 1 not in (len(rows), len(columns)):
            raise InvalidInputError(
                f"vindex() takes pairs, not {len(rows):,} samples and {len(columns):,} features. dense() gives every "
                "sample with every feature.",
                code="not-pairs",
            )
        rows, columns = np.broadcast_arrays(rows, columns)
        return slices.points(self.segments, rows, columns, self.shape[1], self.dtype)

    @retry_on_stale_snapshot
    def stats(
        self,
        features: Any = None,
        *,
        level: Level = "sample",
        where: Any = None,
        classes: Any = None,
        positions: bool = False,
    ) -> xarray.Dataset:
        """Exact statistics per feature on dimension ``feature``; see `saestore.stats.STATISTICS`.

        Of samples, or with ``level="item"`` of the maxima of items. Of all samples they come from sums that are stored.

        Parameters
        ----------
        classes
            A column of the items or several concepts of items, of which an item has one: also give ``purity``, the
            share of the most frequent class among the samples or items where a feature is active, and ``top_class``.
        positions
            Also give ``n_active_at`` (feature, position): samples at each position of their items where it is active.
        """
        selected = self.select_features(features)
        ids, view = selected.ids, self.view(level, where, feature=selected.only)
        from saestore.query import profile

        table = statistics_table(self._moments(view, ids), ids)
        if classes is not None:
            table = table.assign(profile.purity(self, view, ids, classes))
        return table.assign(profile.positions(self, view, ids)) if positions else table

    def _moments(self, view: View, features: Any = None) -> Moments:
        """Sums over a view. The sums of all features over items are kept until another condition comes."""
        if features is not None or view.level == "sample":
            return view.moments(np.arange(view.n_features) if features is None else features)
        key = self.attributes, view.condition
        if self._item_moments is None or any(a is not b for a, b in zip(self._item_moments[0], key, strict=True)):
            self._item_moments = key, view.moments(np.arange(view.n_features))
        return self._item_moments[1]

    @retry_on_stale_snapshot
    def similar(
        self, feature: int, n: int = 10, metric: Metric = "jaccard", *, level: Level = "sample", where: Any = None
    ) -> SimilarFeatures:
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
        level
            ``"item"`` compares the maxima of items instead of samples.

        Returns
        -------
        SimilarFeatures
            Without features for which the metric is not defined: correlation with a constant column.

        Notes
        -----
        Reads the feature's list and the rows of its samples; with `where` or of items all activations once. Memory:
        the list, a block of about 4 million non-zeros, and about 100 bytes per feature.
        """
        from saestore.query.where import one_feature

        n, number = similarity.check_request(n, metric), one_feature(self, feature, "similar")
        view = self.view(level, where, feature=number)
        lists = next(view.lists(np.array([number])))
        found = similarity.most_similar(metric, n, view, lists, Sizes.of(self._moments(view)))
        return replace(found, _details=partial(details_of, self))

    # These take a set as their first argument, and document themselves.
    quantile = distribution.quantile
    """Exact quantiles: [`quantile`][saestore.query.distribution.quantile]."""
    histogram = distribution.histogram
    """Exact histogram of one feature: [`histogram`][saestore.query.distribution.histogram]."""
    cooccurrence = similarity.cooccurrence
    """How often two features are active together: [`cooccurrence`][saestore.query.similarity.cooccurrence]."""
    compare = similarity.compare
    """Matches among the features of another set: [`compare`][saestore.query.similarity.compare]."""
