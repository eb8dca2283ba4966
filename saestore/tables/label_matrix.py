"""Concepts as one value: a sparse matrix of what is true, and one of what is unknown where anything is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import NotFoundError, check_choice, did_you_mean
from saestore.sparse_rows import Array, pointers
from saestore.vocabulary import LEVELS

if TYPE_CHECKING:
    import scipy.sparse


@dataclass(frozen=True, eq=False)
class LabelMatrix:
    """Concepts of one level."""

    names: list[str]  # of the concepts, one per column
    # `scipy.sparse.csc_array` of bool with sorted ids, items or samples x concepts: where a concept is true. Memory: 5
    # bytes per positive label.
    matrix: scipy.sparse.csc_array
    level: str  # ``item`` or ``sample``
    unknown: scipy.sparse.csc_array | None = None  # the same for unknown labels; None where all are known

    @classmethod
    def of_rows(
        cls, rows: Mapping[str, Array], n_rows: int, level: str, unknown: Mapping[str, Array] | None = None
    ) -> LabelMatrix:
        """From the ascending rows where each concept is true, and those where it is unknown."""
        known = unknown is None or not any(len(ids) for ids in unknown.values())
        not_known = None if known or unknown is None else csc_of_rows([unknown[name] for name in rows], n_rows)
        return cls(list(rows), csc_of_rows(list(rows.values()), n_rows), level, not_known)

    @property
    def n_rows(self) -> int:
        """Number of items or samples."""
        return int(self.matrix.shape[0])

    @property
    def unknown_matrix(self) -> scipy.sparse.csc_array:
        """`unknown`, an empty matrix where all are known."""
        return csc_of_rows([[]] * len(self.names), self.n_rows) if self.unknown is None else self.unknown

    def mask(self, name: str) -> Array:
        """Where a concept is true, bool (n_rows,)."""
        return _mask(self.matrix, position_of(name, self.names))

    def unknown_mask(self, name: str) -> Array | None:
        """Where a concept is unknown, bool (n_rows,); None where all is known."""
        if self.unknown is None:
            return None
        mask = _mask(self.unknown, position_of(name, self.names))
        return mask if mask.any() else None

    def resized(self, n_rows: int) -> LabelMatrix:
        """With this many rows; the labels of further ones are unknown."""
        if n_rows == self.n_rows:
            return self
        matrix, unknown = self.matrix.copy(), self.unknown_matrix
        matrix.resize(n_rows, len(self.names))
        rows = [np.append(ids(unknown, i), np.arange(self.n_rows, n_rows)) for i in range(len(self.names))]
        return replace(self, matrix=matrix, unknown=csc_of_rows([r[r < n_rows] for r in rows], n_rows))

    def updated(self, other: LabelMatrix) -> LabelMatrix:
        """With the concepts of another matrix, which replace concepts of the same name in their place."""
        sources = {name: (self, i) for i, name in enumerate(self.names)}
        sources |= {name: (other, i) for i, name in enumerate(other.names)}
        return self._picked(list(sources), list(sources.values()))

    def without(self, names: Sequence[str]) -> LabelMatrix:
        """Without some concepts."""
        left = [name for name in self.names if name not in names]
        return self._picked(left, [(self, self.names.index(name)) for name in left])

    def _picked(self, names: list[str], sources: Sequence[tuple[LabelMatrix, int]]) -> LabelMatrix:
        true = [ids(source.matrix, i) for source, i in sources]
        unknown = [np.empty(0, np.int64) if s.unknown is None else ids(s.unknown, i) for s, i in sources]
        rows = dict(zip(names, true, strict=True)), self.n_rows, self.level, dict(zip(names, unknown, strict=True))
        return LabelMatrix.of_rows(*rows)


def csc_of_rows(rows: Sequence[Any], n_rows: int) -> scipy.sparse.csc_array:
    """A matrix of bool, from the ascending rows of each column."""
    indices = np.concatenate([np.empty(0, np.int64), *rows])
    return csc_of(pointers([len(each) for each in rows]), indices, (n_rows, len(rows)))


def csc_of(indptr: Array, indices: Array, shape: tuple[int, int]) -> scipy.sparse.csc_array:
    """A matrix of bool, from the pointers of the columns and their ascending rows."""
    import scipy.sparse as sp

    dtype = np.int32 if max(shape[0], len(indices)) < 1 << 31 else np.int64  # scipy wants one signed type for both
    return sp.csc_array((np.ones(len(indices), bool), indices.astype(dtype), indptr.astype(dtype)), shape=shape)


def ids(matrix: scipy.sparse.csc_array, column: int) -> Array:
    """Rows of a column, ascending."""
    return np.asarray(matrix.indices[matrix.indptr[column] : matrix.indptr[column + 1]])


def _mask(matrix: scipy.sparse.csc_array, column: int) -> Array:
    mask = np.zeros(matrix.shape[0], bool)
    mask[ids(matrix, column)] = True
    return mask


def position_of(name: object, names: Sequence[str], what: str = "concept") -> int:
    """Index of a name in a list of names, or an error that names those it is like."""
    if isinstance(name, str) and name in names:
        return names.index(name)
    hint = did_you_mean(name, names)
    raise NotFoundError(
        f"There is no {what} {name!r}. {hint}There are {listed(names)}.", code=f"unknown-{what.split(maxsplit=1)[0]}"
    )


def listed(names: Sequence[object], most: int = 30) -> str:
    """Names for a message, the first of them where they are many."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return (", ".join(map(str, names[:most])) or "none") + more


def check_level(level: object) -> None:
    """Refuse anything but a level."""
    check_choice("level", level, LEVELS, "unknown-level")
