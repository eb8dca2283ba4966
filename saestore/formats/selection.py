"""Which samples and features are exported, and reading them a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError, shown
from saestore.sparse_rows import Array, SparseRows, pointers

if TYPE_CHECKING:
    from saestore.query.reader import SetReader


BLOCK = 1 << 20  # non-zeros that are read and written at once: about 50 MiB


@dataclass(frozen=True, eq=False)
class Block(SparseRows):
    """Samples with their activations: int64 numbers of features in the set, and float32 or float64 activations."""

    samples: Array  # their numbers in the set, int64 (n,)


@dataclass
class Selected:
    """Samples and features of a set; None stands for all of them. Memory: 8 bytes per selected sample."""

    acts: SetReader
    samples: Array | None
    features: Array | None
    progress: Callable[[str], None] | None = None
    nnz: int = 0  # non-zeros that the last pass over the blocks gave

    @classmethod
    def of(cls, acts: SetReader, where: Any, features: Any, progress: Callable[[str], None] | None) -> Selected:
        """Resolve ``where=`` and ``features=`` as the queries do."""
        from saestore.query.reader import SetReader

        if not isinstance(acts, SetReader):
            raise InvalidInputError(f"acts={shown(acts)}: give an activation set.", code="not-a-set")
        if not acts.attributes.complete:
            raise InvalidInputError(
                f"{acts.path} has {len(acts):,} of {acts.attributes.planned_samples:,} planned samples; complete it "
                "before you export it.",
                code="incomplete-set",
            )
        samples = None if where is None else acts.samples.where(where)
        if samples is not None and not len(samples):
            raise InvalidInputError(
                f"no sample of {acts.path} fulfils the condition; nothing was written.", code="nothing-selected"
            )
        chosen = None if features is None else np.unique(acts.select_features(features).ids)
        if chosen is not None and not len(chosen):
            raise InvalidInputError(
                "no feature was given; name at least one, or leave features out for all.", code="nothing-selected"
            )
        return cls(acts, samples, chosen, progress)

    @property
    def n_samples(self) -> int:
        """Number of selected samples."""
        return self.acts.shape[0] if self.samples is None else len(self.samples)

    @property
    def n_features(self) -> int:
        """Number of selected features."""
        return self.acts.shape[1] if self.features is None else len(self.features)

    @property
    def sample_ids(self) -> Array:
        """Numbers of the samples in the set, ascending."""
        return np.arange(self.n_samples) if self.samples is None else self.samples

    @property
    def feature_ids(self) -> Array:
        """Numbers of the features in the set, ascending."""
        return np.arange(self.n_features) if self.features is None else self.features

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the blocks: float32, which holds every float16, or float64."""
        return np.dtype(np.result_type(self.acts.dtype, np.float32))

    @cached_property
    def items(self) -> tuple[Array, Array]:
        """The selected items, int64, and pointers to their selected samples, int64 (n_items + 1,)."""
        if self.samples is None:
            return np.arange(self.acts.n_items), np.minimum(self.acts.item_index.pointers(), self.acts.shape[0])
        items, counts = np.unique(self.acts.item_index.locate(self.samples)[0], return_counts=True)
        return items, pointers(counts)

    def blocks(self) -> Iterator[Block]:
        """The samples in ascending order, about a million non-zeros at a time."""
        n, nnz = self.acts.shape[0], self.acts.nnz
        step = max(1, min(BLOCK, BLOCK * n // max(1, nnz)))
        self.nnz = 0
        for start in range(0, self.n_samples, step):
            stop = min(start + step, self.n_samples)
            samples = np.arange(start, stop) if self.samples is None else self.samples[start:stop]
            matrix = self.acts.sparse(samples=slice(start, stop) if self.samples is None else samples)
            rows = SparseRows(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data)
            if self.features is not None:
                rows = rows.keep(np.isin(rows.indices, self.features))
            self.nnz += rows.nnz
            yield Block(rows.indptr, rows.indices, rows.data, samples)
            if self.progress is not None:
                self.progress(f"{self.acts.path}: {stop:,} of {self.n_samples:,} samples")

    def columns(self, features: Array) -> Array:
        """Places of features among the selected ones."""
        return features if self.features is None else np.searchsorted(self.features, features)
