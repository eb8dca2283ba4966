"""Questions for samples and features: the strongest of them, and slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saestore.activations import distribution, slices
from saestore.activations.opened import OpenSet, on_snapshot
from saestore.activations.select import select
from saestore.activations.tables import TopFeatures, TopSamples
from saestore.activations.top import top_entries
from saestore.errors import InvalidInputError
from saestore.kernels import descending_bits

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]


class Queries(OpenSet):
    """`top_samples`, `feature`, `top_features`, `dense`, `sparse`."""

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

    @on_snapshot
    def feature(self, feature: int) -> TopSamples:
        """All samples on which one feature is active, strongest first. Memory: its list."""
        chosen = select(feature, self.shape[1], "feature")
        if not chosen.scalar:
            raise InvalidInputError(f"feature() takes one int, not {feature!r}; use top_samples for several.")
        lists = distribution.one_list(self._segments, int(chosen.ids[0]), self.dtype)
        items, positions = self._index.locate(lists.samples)
        return TopSamples(np.full(len(items), chosen.ids[0]), lists.samples, items, positions, lists.data)

    @on_snapshot
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

    @on_snapshot
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

    @on_snapshot
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
