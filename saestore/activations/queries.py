"""Questions for samples and features: the strongest of them, and slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saestore.activations import distribution, slices
from saestore.activations.opened import OpenSet, on_snapshot
from saestore.activations.select import Selection, select
from saestore.activations.tables import TopFeatures, TopSamples
from saestore.activations.top import top_entries
from saestore.errors import InvalidInputError
from saestore.kernels import descending_bits

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]


class Queries(OpenSet):
    """`samples`, `top_samples`, `feature`, `top_features`, `dense`, `sparse`."""

    @on_snapshot
    def samples(self, where: Any) -> Array:
        """Samples that fulfil a condition, ascending, int64.

        Parameters
        ----------
        where
            An expression (``'split == "test" and color::red'``), a mapping of names to a value or to several
            (``{"split": ["cal", "test"], "color::red": True}``), or a boolean mask per sample or per item. A name is a
            column of the items, a concept of items or of samples, ``item``, ``position`` or ``sample``;
            ``sample.NAME`` is a concept of samples where items have one of the same name.

        Raises
        ------
        NotFoundError
            A name that is nothing of these; the message says which are like it.
        InvalidInputError
            What is no condition; in an expression the message marks the place.

        Notes
        -----
        Memory: 8 bytes a sample that fulfils it, a byte for every sample, and the columns that are named.
        """
        chosen = self._condition(where)
        return np.arange(self.shape[0]) if chosen is None else chosen.samples(self.shape[0])

    @on_snapshot
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
            Only samples that fulfil this; see `samples`.

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

    @on_snapshot
    def feature(self, feature: int, *, where: Any = None) -> TopSamples:
        """All samples on which one feature is active, strongest first; `where` as in `samples`. Memory: its list."""
        chosen = select(feature, self.shape[1], "feature")
        if not chosen.scalar:
            raise InvalidInputError(f"feature() takes one int, not {feature!r}; use top_samples for several.")
        condition = self._condition(where)
        lists = distribution.one_list(self._segments, int(chosen.ids[0]), self.dtype)
        if condition is not None:
            lists = lists.kept(condition.keeps(lists.samples))
        items, positions = self._index.locate(lists.samples)
        return TopSamples(np.full(len(items), chosen.ids[0]), lists.samples, items, positions, lists.data)

    @on_snapshot
    def top_features(self, sample: Any = None, n: int = 10, *, where: Any = None) -> TopFeatures:
        """The strongest features of a sample, or of each of several, strongest first, ties by ascending feature.

        Parameters
        ----------
        n
            Rows for each sample at most; only active features appear.
        where
            Of the samples only those that fulfil this; see `samples`.
        """
        if n < 0:
            raise InvalidInputError(f"n={n}: use 0 or more.")
        if sample is None and where is None:
            raise InvalidInputError("top_features() needs sample=, one or several, or where=.")
        samples = self._rows(sample, where).ids
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

    @on_snapshot
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
            Of the samples only those that fulfil this; ``samples(where)`` says which of all do.

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
        return slices.dense(self._segments, rows, columns, self.dtype)

    @on_snapshot
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
            Of the samples only those that fulfil this; ``samples(where)`` says which of all do.

        Raises
        ------
        TooLargeError
            The rows hold more than `max_bytes` (4 GiB) of ids and activations.
        """
        rows, columns = self._rows(samples, where), select(features, self.shape[1], "feature")
        expected = int(self.nnz * len(rows) / max(1, self.shape[0]))
        slices.check_size((expected,), 8, max_bytes, "(non-zeros). Ask for fewer samples at a time, or pass max_bytes.")
        return slices.sparse(self._segments, rows, columns, self.shape[1], self.dtype)

    def _rows(self, samples: Any, where: Any) -> Selection:
        """Samples that were asked for, in that order, and fulfil a condition."""
        rows = select(samples, self.shape[0], "sample")
        condition = self._condition(where)
        if condition is None:
            return rows
        if rows.scalar:
            raise InvalidInputError("where= chooses among several samples; give a list, such as [17], not one.")
        return Selection(rows.ids[condition.keeps(rows.ids)], scalar=False)
