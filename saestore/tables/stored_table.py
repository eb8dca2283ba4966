"""A table inside a store, read: columns and concepts of samples, items or features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import CorruptStoreError, NotFoundError, did_you_mean
from saestore.format import SetAttributes
from saestore.kernels import runs_of
from saestore.sparse_rows import Array
from saestore.storage import ArrayReader, SnapshotStore, read_all, read_many
from saestore.table_info import TableInfo
from saestore.tables.column import Column
from saestore.tables.label_matrix import LabelMatrix, csc_of, listed

if TYPE_CHECKING:
    import scipy.sparse


class StoredTable:
    """One table of the set at `path`, ``samples``, ``items`` or ``features``: immutable, read when asked for.

    Memory: the answers, and 8 bytes per concept.
    """

    def __init__(self, store: SnapshotStore, path: str, name: str, attributes: SetAttributes) -> None:
        self._store, self._path = store, f"{path}/{name}".strip("/")
        self.name, self.n_rows, self._codec = name, attributes.n_rows(name), attributes.codec
        self.info: TableInfo = attributes.table(name)
        self._readers: dict[str, ArrayReader] = {}
        self._read_pointers: dict[str, Array] = {}
        self._held: dict[tuple[str, int], Array] = {}

    def reader(self, node: str) -> ArrayReader:
        """Slices of one array of the table; opened once."""
        if node not in self._readers:
            info = self.info.arrays[node]
            self._readers[node] = ArrayReader.described(self._store, f"{self._path}/{node}", info, self._codec)
        return self._readers[node]

    @property
    def concept_names(self) -> list[str]:
        """Names of the concepts, in the order of their columns."""
        return [] if self.info.concepts is None else list(self.info.concepts.names)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Dtype of a column or concept."""
        return np.dtype(bool) if name in self.concept_names else self.reader(self._arrays(name)[0]).dtype

    def read(self, name: str, rows: Array | slice | None = None) -> Column:
        """Values of a column or concept, of all rows or of some; of a column only the chunks are read that hold them.

        Raises NotFoundError: There is none of that name.
        """
        if name in self.concept_names:
            return self._concept(name) if rows is None else self._concept(name).at(rows)
        arrays = [self.reader(node) for node in self._arrays(name)]
        if rows is None:
            rows = slice(0, self.n_rows)
        if isinstance(rows, slice):
            parts = [a.read(min(rows.start, a.length), min(rows.stop, a.length)) for a in arrays]
            return Column(*parts).resized(rows.stop - rows.start)
        unique, back = np.unique(rows, return_inverse=True)
        inside = unique[unique < arrays[0].length]
        runs = runs_of(inside)
        return Column(*read_many([(array, *runs) for array in arrays])).resized(len(unique)).at(back)

    def _arrays(self, name: str) -> tuple[str, ...]:
        if name not in self.info.columns:
            hint = did_you_mean(name, self.info.names)
            raise NotFoundError(
                f"The {self.name} have no column {name!r}. {hint}They have {listed(self.info.names)}.",
                code="unknown-column",
            )
        return self.info.columns[name]

    def _concept(self, name: str) -> Column:
        info = self.info.concepts
        if info is None:
            raise RuntimeError(f"{self._path} has no concepts")
        masks = [np.zeros(info.n_rows, bool) for _ in range(1 if info.unknown is None else 2)]
        for (group, column, span), mask in zip(self._places(name), masks, strict=True):
            rows = self._held.pop((group, column), None)
            rows = self.reader(f"{group}/indices").read(*span) if rows is None else rows
            mask[self._checked(rows, group)] = True
        unknown = masks[1] if len(masks) > 1 and masks[1].any() else None
        return Column(masks[0], unknown).resized(self.n_rows)

    def arrays_of(self, name: str, most: int) -> tuple[list[ArrayReader], list[ArrayReader]]:
        """Arrays of a column or concept that are read whole, and arrays that are read in part: all of more values."""
        info = self.info.concepts
        if info is None or name not in info.names:
            readers = [self.reader(node) for node in self._arrays(name)]
            return [r for r in readers if r.length <= most], [r for r in readers if r.length > most]
        groups = [group for group in (info.true, info.unknown) if group is not None]
        wholes = [self.reader(f"{group}/indptr") for group in groups if group not in self._read_pointers]
        return wholes, [self.reader(f"{group}/indices") for group in groups]

    def hold_concepts(self, names: Sequence[str]) -> None:
        """Read the rows of several concepts in one step, and keep them for the next `read` of each."""
        if len(names) > 1 and not self._store.folder:
            wanted = [place for name in names for place in self._places(name)]
            read = read_all([(self.reader(f"{group}/indices"), *span) for group, _, span in wanted])
            self._held = {(group, column): rows for (group, column, _), rows in zip(wanted, read, strict=True)}

    def _places(self, name: str) -> list[tuple[str, int, tuple[int, int]]]:
        """Where a concept is stored: of each matrix the group, the column, and which of its entries."""
        info = self.info.concepts
        if info is None:
            raise RuntimeError(f"{self._path} has no concepts")
        column = info.names.index(name)
        spans = {group: self._pointers(group) for group in (info.true, info.unknown) if group is not None}
        return [(group, column, (int(p[column]), int(p[column + 1]))) for group, p in spans.items()]

    def _pointers(self, group: str) -> Array:
        if group not in self._read_pointers:
            reader = self.reader(f"{group}/indptr")
            info, nnz = self.info.concepts, self.reader(f"{group}/indices").length
            if info is None or reader.length != len(info.names) + 1:  # before memory is taken for it
                raise CorruptStoreError(f"{reader.path} claims {reader.length:,} values, not one more than concepts.")
            pointers = reader.read(0, reader.length)
            if pointers[0] != 0 or pointers[-1] != nnz or (np.diff(pointers) < 0).any():
                raise CorruptStoreError(f"{reader.path} does not ascend.")
            self._read_pointers[group] = pointers
        return self._read_pointers[group]

    def _checked(self, rows: Array, group: object) -> Array:
        """Rows of concepts as they are stored, which must be rows of the table."""
        info = self.info.concepts
        if info is None or (len(rows) and (int(rows.max()) >= info.n_rows or int(rows.min()) < 0)):
            raise CorruptStoreError(f"{self._path}/{group} has a row beyond its concepts.")
        return rows

    def labels(self) -> LabelMatrix:
        """All concepts of the table. Memory: 5 bytes per positive label."""
        info, level = self.info.concepts, self.name.removesuffix("s")
        if info is None:
            return LabelMatrix.of_rows({}, self.n_rows, level)
        shape = info.n_rows, len(info.names)
        unknown = None if info.unknown is None else self._matrix(info.unknown, shape)
        return LabelMatrix(list(info.names), self._matrix(info.true, shape), level, unknown).resized(self.n_rows)

    def _matrix(self, group: str, shape: tuple[int, int]) -> scipy.sparse.csc_array:
        reader, indptr = self.reader(f"{group}/indices"), self._pointers(group)
        return csc_of(indptr, self._checked(reader.read(0, reader.length), group), shape)
