"""A table inside a store, written: new versions of columns and concepts beside those that are there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.format import CSC_ATTRS, KEY, TOKEN_SPANS, SetAttributes, document_digest
from saestore.sparse_rows import Array
from saestore.storage import WriteBatch, write_array
from saestore.table_info import ArrayInfo, ConceptsInfo, TableInfo
from saestore.tables.column import Column, as_column
from saestore.tables.item_index import ItemIndex
from saestore.tables.items import Items
from saestore.tables.label_matrix import LabelMatrix

if TYPE_CHECKING:
    import scipy.sparse


_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]{,99}\Z")


class TableWriter:
    """Writes a new version of a table, ``samples``, ``items`` or ``features``, from what `info` describes.

    Its own `info` describes the new one; nothing names it until it is committed.
    """

    def __init__(self, batch: WriteBatch, name: str, info: TableInfo, codec: str) -> None:
        self._batch, self._table, self._codec = batch, name, codec
        self._taken = {node.casefold() for node in info.nodes}
        self.info = replace(info, version=info.version + 1)
        batch.put_group(name)

    def set_column(self, name: str, column: Column) -> None:
        """Add a column, or replace it."""
        self._forget(self.info.columns.get(name, ()))
        base = name if _PLAIN.match(name) else f"column-{len(self.info.columns)}"
        parts = {base: column.values} | ({} if column.unknown is None else {f"{base}-unknown": column.unknown})
        arrays = tuple(self._write(part, values, self._table.removesuffix("s"), name) for part, values in parts.items())
        self.info = replace(self.info, columns={**self.info.columns, name: arrays})

    def remove_columns(self, names: Iterable[str]) -> None:
        """Remove columns, where they are there."""
        gone = [name for name in names if name in self.info.columns]
        self._forget([node for name in gone for node in self.info.columns[name]])
        self.info = replace(self.info, columns={n: a for n, a in self.info.columns.items() if n not in gone})

    def set_pointers(self, pointers: Array | None) -> None:
        """Give items their pointers, int64 (n_items + 1,)."""
        if self.info.pointers is not None:
            self._forget([self.info.pointers])
        name = None if pointers is None else self._write("ptr", pointers, "item_pointer", "ptr")
        self.info = replace(self.info, pointers=name)

    def set_concepts(self, labels: LabelMatrix) -> None:
        """Replace all concepts."""
        old = self.info.concepts
        for group in () if old is None else (old.true, old.unknown):
            self._forget([node for node in (*self.info.arrays, *self.info.groups) if node.split("/")[0] == group])
        concepts = None
        if labels.names:
            unknown = None if labels.unknown is None else self._write_matrix("unknown", labels.unknown)
            true = self._write_matrix("concepts", labels.matrix)
            concepts = ConceptsInfo(tuple(labels.names), true, unknown, labels.n_rows)
        self.info = replace(self.info, concepts=concepts)

    def _write_matrix(self, base: str, matrix: scipy.sparse.csc_array) -> str:
        name = self._free(base)
        rows = np.dtype(np.uint32 if matrix.shape[0] < 1 << 32 else np.int64)
        arrays: dict[str, tuple[Array, str, dict[str, Any]]] = {
            "indptr": (matrix.indptr.astype(np.int64), "pointer", {"sharded": False}),
            "indices": (matrix.indices.astype(rows), "nonzero", {"delta": "consecutive"}),
            "data": (np.ones(matrix.nnz, bool), "nonzero", {}),
        }
        document = self._batch.put_group(f"{self._table}/{name}", {**CSC_ATTRS, "shape": list(map(int, matrix.shape))})
        self.info = replace(self.info, groups={**self.info.groups, name: document_digest(document)})
        for array, (values, dim, options) in arrays.items():
            path = f"{self._table}/{name}/{array}"
            self._note(f"{name}/{array}", write_array(self._batch, path, values, dim, self._codec, **options))
        return name

    def _write(self, base: str, values: Array, dim: str, column: str) -> str:
        name = self._free(base)
        attributes = {} if column == name else {"column": column}
        path = f"{self._table}/{name}"
        self._note(name, write_array(self._batch, path, values, dim, self._codec, attributes=attributes))
        return name

    def _free(self, base: str) -> str:
        """A name that no node of the table has or had when this writer came."""
        name = base if self.info.version == 1 else f"{base}.{self.info.version}"
        while name.casefold() in self._taken:
            name += "_"
        self._taken.add(name.casefold())
        return name

    def _note(self, node: str, array: ArrayInfo) -> None:
        self.info = replace(self.info, arrays={**self.info.arrays, node: array})

    def _forget(self, nodes: Iterable[str]) -> None:
        gone = set(nodes)
        arrays = {node: array for node, array in self.info.arrays.items() if node not in gone}
        groups = {node: document for node, document in self.info.groups.items() if node not in gone}
        self.info = replace(self.info, arrays=arrays, groups=groups)


def write_tables(
    batch: WriteBatch, attributes: SetAttributes, items: Items | None, index: ItemIndex, spans: Array | None, *,
    columns: Mapping[str, Array] | None = None,
) -> SetAttributes:  # fmt: skip
    """Write what a set is started or extended with; returns its attributes with the tables.

    `spans` are int32 (n_samples, 2): first character of a token in its text, and the one after its last. `columns` are
    further ones of samples, (n_samples,) each.
    """
    if items is not None or index.item_size is None or "items" in attributes.tables:
        before = attributes.table("items")
        writer = TableWriter(batch, "items", before, attributes.codec)
        writer.set_pointers(index.pointers() if index.item_size is None else None)
        if items is not None:
            writer.set_column(KEY, Column(items.key))
            for name, values in items.columns.items():
                writer.set_column(name, as_column(values, f"column {name!r}"))
            writer.set_concepts(labels_of_items(items))
        attributes = attributes.with_table("items", writer.info)
    of_samples = dict(columns or {})
    if spans is not None:
        of_samples |= dict(zip(TOKEN_SPANS, spans.T, strict=True))
    if of_samples:
        writer = TableWriter(batch, "samples", attributes.table("samples"), attributes.codec)
        for name, values in of_samples.items():
            writer.set_column(name, Column(np.ascontiguousarray(values)))
        attributes = attributes.with_table("samples", writer.info)
    return attributes


def labels_of_items(items: Items) -> LabelMatrix:
    """The concepts that a table of items came with."""
    rows = {name: np.flatnonzero(np.ma.filled(labels, False)) for name, labels in items.concepts.items()}
    unknown = {name: np.flatnonzero(np.ma.getmaskarray(labels)) for name, labels in items.concepts.items()}
    return LabelMatrix.of_rows(rows, len(items), "item", unknown)
