"""One activation set: every question that can be asked of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

import numpy as np
import zarr

from saestore.activations import distribution, slices
from saestore.activations.select import Condition, condition, select
from saestore.activations.tables import Histogram, TopFeatures, TopSamples
from saestore.activations.top import top_entries
from saestore.errors import CorruptStoreError, InvalidInputError, NotFoundError
from saestore.format import SetAttributes
from saestore.items.index import ITEMS, ItemIndex
from saestore.items.stored import SPANS, StoredItems
from saestore.kernels import descending_bits
from saestore.segment import Segment, warm_all
from saestore.stats import statistics_table
from saestore.storage import SnapshotStore, missing_as_error, stored_bytes
from saestore.writing.writer import SEGMENTS, read_attributes

if TYPE_CHECKING:
    import scipy.sparse
    import xarray

Array = np.ndarray[Any, Any]
P = ParamSpec("P")
R = TypeVar("R")
Self = TypeVar("Self", bound="ActivationSet")

# Opening reads the pointers of segments up to this many bytes in all; those of further ones come with the first query.
_EAGER_POINTERS = 256 << 20


def _on_snapshot(query: Callable[Concatenate[Self, P], R]) -> Callable[Concatenate[Self, P], R]:
    """Ask again on the present segments when those that were opened are gone: compaction merged them meanwhile."""

    @functools.wraps(query)
    def asked(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return query(self, *args, **kwargs)
        except CorruptStoreError:
            if not self._reopened():
                raise
            return query(self, *args, **kwargs)

    return asked


class ActivationSet:
    """The activations of one SAE over one sample type of one dataset.

    Features and samples are given as an int, a slice, a list or array of ints, or a boolean mask, by numpy's rules.

    Parameters
    ----------
    root
        Root group of the store.
    path
        Full path of the set.

    Attributes
    ----------
    path : str
    attributes : SetAttributes
        What the store says of the set, as of opening.
    """

    def __init__(self, root: zarr.Group, path: str) -> None:
        self._root = root
        self.path = path
        self._open()

    def _open(self) -> None:
        attributes = read_attributes(self._root, self.path)
        while True:
            if attributes is None:
                raise NotFoundError(f"There is no activation set {self.path} in the store.")
            try:
                self._open_segments(attributes)
                return
            except CorruptStoreError:
                # A compaction may have merged the segments just after they were named.
                before, attributes = attributes, read_attributes(self._root, self.path)
                if attributes == before:
                    raise

    def _open_segments(self, attributes: SetAttributes) -> None:
        self.attributes = attributes
        snapshot = SnapshotStore(self._root.store)
        prefix = f"{self._root.path}/{self.path}".strip("/")
        self._segments = [Segment(snapshot, f"{prefix}/{SEGMENTS}", info) for info in attributes.segments]
        self._index = ItemIndex.read(self.group, attributes, snapshot)
        eager = _EAGER_POINTERS // (8 * (attributes.n_features + 1))
        warm_all(self._segments[:eager])

    def _reopened(self) -> bool:
        """Open anew; True if the segments differ from those before."""
        before = self.attributes.segments
        self._open()
        return before != self.attributes.segments

    @property
    def group(self) -> zarr.Group:
        """The set's Zarr group."""
        group: Any = self._root[self.path]
        return group  # type: ignore[no-any-return]

    @functools.cached_property
    def items(self) -> StoredItems:
        """The images or texts of the dataset: key, split, labels."""
        group: Any = self.group[ITEMS]
        return StoredItems(group)

    @property
    def item_index(self) -> ItemIndex:
        """Which item a sample belongs to, and which place in it."""
        return self._index

    def spans(self, samples: Any = None) -> Array | None:
        """Characters of tokens in their texts: first, and the one after the last, int32 (n, 2); None where unknown."""
        ids = select(samples, self.shape[0], "sample").ids
        if any(name not in self.group for name in SPANS):
            return None
        columns: list[Any] = [self.group[name] for name in SPANS]
        with missing_as_error(f"{self.path}/{' and '.join(SPANS)}"):
            return np.stack([np.asarray(column.oindex[ids]) for column in columns], axis=1)

    @property
    def shape(self) -> tuple[int, int]:
        """Samples x features."""
        return self.attributes.n_samples, self.attributes.n_features

    @property
    def nnz(self) -> int:
        """Number of non-zeros."""
        return self.attributes.nnz

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the activations."""
        return np.dtype(self.attributes.dtype)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.attributes.n_items

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        state = "" if self.attributes.complete else f", building: {self.attributes.planned_samples:,} planned"
        return (
            f"<ActivationSet {self.path}: {self.shape[0]:,} samples x {self.shape[1]:,} features, "
            f"{self.nnz:,} non-zeros ({self.nnz / max(1, self.shape[0]):.1f} a sample), {self.dtype}, "
            f"{self.n_items:,} items{state}>"
        )

    @_on_snapshot
    def info(self) -> dict[str, Any]:
        """What there is to say of the set, as JSON-able values: sizes, provenance, what was dropped.

        Returns
        -------
        dict
            ``stored_bytes`` are those of all arrays of the set, ``dense_bytes`` those of a float32 tensor, ``ratio`` is
            dense to stored; ``l0`` is the mean number of active features a sample.
        """
        a, (n_samples, n_features) = self.attributes, self.shape
        moments = distribution.all_moments(self._segments, np.arange(n_features), n_features, self.dtype)
        stored, dense = stored_bytes(self.group), 4 * n_samples * n_features
        return {
            "path": self.path,
            "n_samples": n_samples,
            "n_features": n_features,
            "n_items": a.n_items,
            "nnz": a.nnz,
            "l0": a.nnz / n_samples if n_samples else None,
            "dead_features": int((moments.n_active == 0).sum()),
            "stored_bytes": stored,
            "dense_bytes": dense,
            "ratio": dense / stored,
            "bytes_per_nonzero": stored / a.nnz if a.nnz else None,
            "dtype": a.dtype,
            "codec": a.codec,
            "segments": [s.name for s in a.segments],
            "complete": a.complete,
            "planned_samples": a.planned_samples,
            "sae": dict(a.sae),
            "source": dict(a.source),
            "dropped": None if a.dropped is None else dict(a.dropped),
            "summary": dict(a.summary),
        }

    def _condition(self, where: Any) -> Condition | None:
        if where is None:
            return None  # and the items need not be opened
        return condition(where, self.shape[0], self._index, self.items)

    @_on_snapshot
    def top_samples(
        self, feature: Any, n: int = 20, *, per: Literal["sample", "item"] = "sample", where: Any = None
    ) -> TopSamples:
        """The samples on which a feature, or each of several, is strongest.

        Parameters
        ----------
        feature
            One feature or many; the answer holds them one after the other.
        n
            Rows for each feature at most. Only samples where the feature is active appear; negative activations come
            last.
        per
            ``"item"`` returns each item once, with its strongest sample.
        where
            A mapping of item columns and concepts to values (``{"split": "test"}``), or a boolean mask per sample or
            per item.

        Returns
        -------
        TopSamples
            Strongest first, ties by ascending sample.

        Notes
        -----
        Reads `n` entries of every list in every segment, in two requests a segment once shard indexes are known; more
        where `per` or `where` drops some. Memory: those entries.
        """
        if n < 0:
            raise InvalidInputError(f"n={n}: use 0 or more.")
        if per not in ("sample", "item"):
            raise InvalidInputError(f"per={per!r}: use 'sample' or 'item'.")
        features = select(feature, self.shape[1], "feature").ids
        entries = top_entries(
            self._segments,
            features,
            n,
            self._index,
            per_item=per == "item",
            where=self._condition(where),
            dtype=self.dtype,
        )
        samples = np.concatenate([s for s, _ in entries] or [np.empty(0, np.int64)])
        data = np.concatenate([d for _, d in entries] or [np.empty(0, self.dtype)])
        which = np.repeat(features, [len(s) for s, _ in entries])
        items, positions = self._index.locate(samples)
        return TopSamples(which, samples, items, positions, data)

    @_on_snapshot
    def feature(self, feature: int) -> TopSamples:
        """All samples on which one feature is active, strongest first. Memory: its list."""
        chosen = select(feature, self.shape[1], "feature")
        if not chosen.scalar:
            raise InvalidInputError(f"feature() takes one int, not {feature!r}; use top_samples for several.")
        lists = distribution.one_list(self._segments, int(chosen.ids[0]), self.dtype)
        items, positions = self._index.locate(lists.samples)
        return TopSamples(np.full(len(items), chosen.ids[0]), lists.samples, items, positions, lists.data)

    @_on_snapshot
    def top_features(self, sample: Any, n: int = 10) -> TopFeatures:
        """The strongest features of a sample, or of each of several, strongest first, ties by ascending feature.

        Parameters
        ----------
        n
            Rows for each sample at most; only active features appear.
        """
        if n < 0:
            raise InvalidInputError(f"n={n}: use 0 or more.")
        samples = select(sample, self.shape[0], "sample").ids
        rows: dict[int, tuple[Array, Array]] = {}
        for part, indptr, ids, data in slices.iterate_rows(self._segments, np.unique(samples)):
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

    @_on_snapshot
    def dense(self, samples: Any = None, features: Any = None, *, max_bytes: int = slices.DENSE_LIMIT) -> Array:
        """A dense slice, samples x features, of the stored dtype; an int drops its axis, as in numpy.

        Raises
        ------
        TooLargeError
            It would be larger than `max_bytes` (4 GiB); nothing was read.

        Notes
        -----
        Reads the lists of the features or the rows of the samples, whichever is less. Memory: the answer, twice where
        ids are not ascending, and a block of some 4 million non-zeros.
        """
        rows, columns = select(samples, self.shape[0], "sample"), select(features, self.shape[1], "feature")
        slices.check_size(
            (len(rows), len(columns)),
            self.dtype.itemsize,
            max_bytes,
            "Ask for fewer samples or features, use sparse(), or pass max_bytes.",
        )
        return slices.dense(self._segments, rows, columns, self.dtype)

    @_on_snapshot
    def sparse(
        self, samples: Any = None, features: Any = None, *, max_bytes: int = slices.DENSE_LIMIT
    ) -> scipy.sparse.csr_array:
        """A slice as a `scipy.sparse.csr_array` with sorted ids, samples x features; float16 comes as float32.

        Raises
        ------
        TooLargeError
            The rows hold more than `max_bytes` (4 GiB) of ids and activations.
        """
        rows, columns = select(samples, self.shape[0], "sample"), select(features, self.shape[1], "feature")
        expected = int(self.nnz * len(rows) / max(1, self.shape[0]))
        slices.check_size((expected,), 8, max_bytes, "(non-zeros). Ask for fewer samples at a time, or pass max_bytes.")
        return slices.sparse(self._segments, rows, columns, self.shape[1], self.dtype)

    @_on_snapshot
    def stats(self, features: Any = None, *, where: Any = None) -> xarray.Dataset:
        """Exact statistics of every feature on dimension ``feature``; `saestore.stats.STATISTICS` says which.

        Parameters
        ----------
        where
            Over these samples only: a mapping, or a boolean mask per sample or per item. By default over all samples,
            from sums that are stored.
        """
        ids = select(features, self.shape[1], "feature").ids
        chosen = self._condition(where)
        if chosen is None:
            moments = distribution.all_moments(self._segments, ids, self.shape[1], self.dtype)
        else:
            unique, back = np.unique(ids, return_inverse=True)
            rows = chosen.samples(self.shape[0])
            moments = distribution.moments_where(self._segments, unique, self.shape[1], rows, self.dtype).take(back)
        return statistics_table(moments, ids)

    @_on_snapshot
    def quantile(self, q: Any, features: Any = None, *, over: Literal["all", "active"] = "all") -> xarray.DataArray:
        """Exact quantiles of features, by linear interpolation as `numpy.quantile`.

        Parameters
        ----------
        q
            One or several probabilities.
        over
            ``"all"`` samples, zeros included, or the ``"active"`` ones; NaN where there is none.

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
            self._segments, probabilities, unique, self.shape[0], self.dtype, active=over == "active"
        )
        return xr.DataArray(
            values[:, back], dims=("quantile", "feature"), coords={"quantile": probabilities, "feature": ids}
        )

    @_on_snapshot
    def histogram(
        self,
        feature: int,
        bins: Any = 50,
        *,
        range: tuple[float, float] | None = None,
        over: Literal["all", "active"] = "active",
    ) -> Histogram:
        """Exact histogram of one feature, as `numpy.histogram`, over its ``"active"`` samples or over ``"all"``."""
        if over not in ("all", "active"):
            raise InvalidInputError(f"over={over!r}: use 'all' or 'active'.")
        if isinstance(bins, str) and over == "all":
            raise InvalidInputError(f"bins={bins!r} needs over='active': how to bin all samples is for you to say.")
        values = self.feature(feature).activation
        zeros = self.shape[0] - len(values) if over == "all" else 0
        counts, edges = distribution.histogram(values, zeros, bins, range)
        return Histogram(edges[:-1], edges[1:], counts.astype(np.int64))
