"""Which samples and features are exported, and reading them a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.query.selection import select

if TYPE_CHECKING:
    from saestore.query.reader import SetReader

Array = np.ndarray[Any, Any]

BLOCK = 1 << 20  # non-zeros that are read and written at once: some 50 MiB


@dataclass(frozen=True)
class Block:
    """Some samples with their activations.

    Attributes
    ----------
    samples
        Their numbers in the set, int64 (n,).
    indptr
        int64 (n + 1,).
    features
        Numbers of features in the set, int64 (nnz,), ascending in a sample.
    activations
        float32 or float64 (nnz,).
    """

    samples: Array
    indptr: Array
    features: Array
    activations: Array

    @property
    def rows(self) -> Array:
        """Which of `samples` each entry is of, int64 (nnz,)."""
        return np.repeat(np.arange(len(self.samples)), np.diff(self.indptr))


@dataclass
class Selected:
    """Samples and features of a set; None stands for all of them.

    Attributes
    ----------
    written
        Non-zeros that the last pass over the blocks gave.

    Notes
    -----
    Memory: 8 bytes a selected sample.
    """

    acts: SetReader
    samples: Array | None
    features: Array | None
    progress: Callable[[str], None] | None = None
    written: int = 0

    @classmethod
    def of(cls, acts: SetReader, where: Any, features: Any, progress: Callable[[str], None] | None) -> Selected:
        """Resolve ``where=`` and ``features=`` as the queries do.

        Raises
        ------
        InvalidInputError
            Nothing is selected, or the set is not complete.
        """
        if not acts.attributes.complete:
            raise InvalidInputError(
                f"{acts.path} has {len(acts):,} of {acts.attributes.planned_samples:,} planned samples; finish it "
                "before it is exported."
            )
        samples = None if where is None else acts.samples.where(where)
        if samples is not None and not len(samples):
            raise InvalidInputError(f"no sample of {acts.path} fulfils the condition; nothing was written.")
        chosen = None if features is None else np.unique(select(features, acts.shape[1], "feature").ids)
        if chosen is not None and not len(chosen):
            raise InvalidInputError("no feature was given; name at least one, or leave features out for all.")
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
    def feature_ids(self) -> Array:
        """Their numbers in the set, ascending."""
        return np.arange(self.acts.shape[1]) if self.features is None else self.features

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the blocks: float32, which holds every float16, or float64."""
        return np.dtype(np.result_type(self.acts.dtype, np.float32))

    @cached_property
    def items(self) -> tuple[Array, Array]:
        """Selected items, int64, and which selected samples are theirs: int64 (items + 1,), as pointers."""
        pointers = np.minimum(self.acts.item_index.pointers(), self.acts.shape[0])
        if self.samples is None:
            return np.arange(self.acts.n_items), pointers
        items, counts = np.unique(self.acts.item_index.locate(self.samples)[0], return_counts=True)
        return items, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def blocks(self) -> Iterator[Block]:
        """The samples in ascending order, about a million non-zeros at a time."""
        n, nnz = self.acts.shape[0], self.acts.nnz
        step = max(1, min(BLOCK, BLOCK * n // max(1, nnz)))
        self.written = 0
        for start in range(0, self.n_samples, step):
            stop = min(start + step, self.n_samples)
            samples = np.arange(start, stop) if self.samples is None else self.samples[start:stop]
            wanted = slice(start, stop) if self.samples is None else samples
            block = self._block(samples, wanted)
            self.written += len(block.features)
            yield block
            if self.progress is not None:
                self.progress(f"{self.acts.path}: {stop:,} of {self.n_samples:,} samples")

    def _block(self, samples: Array, wanted: Any) -> Block:
        matrix = self.acts.sparse(samples=wanted)
        indptr, ids, data = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data
        if self.features is not None:
            keep = np.isin(ids, self.features)
            kept = np.concatenate([[0], np.cumsum(keep)])
            indptr, ids, data = kept[indptr], ids[keep], data[keep]
        return Block(samples, indptr, ids, data)

    def columns(self, features: Array) -> Array:
        """Places of features among the selected ones."""
        return features if self.features is None else np.searchsorted(self.features, features)
