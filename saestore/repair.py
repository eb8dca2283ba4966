"""Salvaging what is whole of a damaged set: derived data and either order of a segment are made again from the rest."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import zarr

from saestore.errors import CorruptStoreError
from saestore.format import (
    BY_FEATURE,
    BY_SAMPLE,
    SEGMENTS,
    SegmentInfo,
    SetAttributes,
    document_digest,
    shard_digest,
)
from saestore.segment.read import Segment
from saestore.segment.write import write_segment
from saestore.sparse_rows import SparseRows, pointers
from saestore.storage import DOCUMENT, NewArray, SnapshotStore, WriteBatch, group_document, write_errors
from saestore.tables.stored_table import StoredTable
from saestore.tables.table_writer import TableWriter
from saestore.verify import Problem, Progress, Report, verify_set
from saestore.writing.writer import SetWriter


@dataclass(frozen=True)
class Repair:
    """What a repair did."""

    found: Report  # what was wrong before
    mended: tuple[str, ...]  # names of what was made again, and how
    lost: tuple[Problem, ...]  # what is still wrong: it has to be restored from a copy, or built again

    @property
    def ok(self) -> bool:
        """True when nothing is wrong any more."""
        return not self.lost


def repair_set(root: zarr.Group, path: str, progress: Progress | None = None) -> Repair:
    """Make again what can be made of the rest of a set.

    A segment of which one order is damaged is written again from the other one; damaged statistics and derived arrays
    are computed again; a table whose values can be read and whose documents are damaged is written again; documents of
    groups and files that nothing names are put right. What is whole is never changed. The attributes, of which
    everything else follows, must be whole. Memory: about 60 bytes per non-zero of a damaged segment.
    """
    found = verify_set(root, path, progress)
    if found.ok:
        return Repair(found, (), ())
    nodes, mended = [problem.node for problem in found.problems], list[str]()
    with SetWriter(root, path) as writer, write_errors(f"{root.store}"):
        _mend_groups(writer)
        mended += _mend_segments(writer, nodes)
        for table in list(writer.require().tables):
            mended += _mend_table(writer, table, nodes)
        attributes = writer.require()
        broken = [name for name in attributes.arrays if f"{path}/{name}" in nodes]
        if attributes.arrays and (broken or not attributes.is_derived):
            with suppress(CorruptStoreError):  # of a segment that is lost
                writer.commit(replace(attributes, derived=(), arrays={}))
                writer.compact(first=attributes.n_samples)
                mended += [f"{path}/{name}: computed again" for name in broken]
    with SetWriter(root, path):
        pass  # the next writer removes what nothing names
    return Repair(found, tuple(mended), verify_set(root, path, progress).problems)


def _mend_groups(writer: SetWriter) -> None:
    """Write the documents of groups again that can only look one way."""
    path, attributes = writer.path, writer.require()
    parents = ["/".join(path.split("/")[:depth]) for depth in (1, 2)]
    batch = WriteBatch(writer.root.store, writer.root.path)
    for group in [*parents, f"{path}/{SEGMENTS}", *(f"{path}/{table}" for table in attributes.tables)]:
        batch.put_group(group, {})
    batch.sync()


def _mend_segments(writer: SetWriter, nodes: Sequence[str]) -> list[str]:
    store, base = SnapshotStore(writer.root.store), f"{writer.root.path}/{writer.path}".strip("/")
    mended = []
    for info in writer.require().segments:
        place, attributes = f"{writer.path}/{SEGMENTS}/{info.name}", writer.require()
        damaged = [node for node in nodes if node == place or node.startswith(f"{place}/")]
        if not damaged:
            continue
        if place in damaged and _mend_document(writer, Segment(store, base, info, attributes)):
            mended.append(f"{place}: its document was made again of the shards")
            if len(damaged) == 1:
                continue
        rows = _rows_of(Segment(store, base, info, attributes))
        if rows is None:
            continue
        name = _free_name(attributes, info)
        options: dict[str, Any] = {"n_features": attributes.n_features, "codec": attributes.codec, "name": name}
        new = write_segment(writer.root.store, base, info.start, rows[0], **options)
        writer.commit(attributes.with_segments([new if s is info else s for s in attributes.segments]))
        mended.append(f"{place}: written again from {rows[1]}, as {name}")
    return mended


def _mend_document(writer: SetWriter, segment: Segment) -> bool:
    """Make the document of a segment of all that it has digests of; only the one that was committed is written."""
    store, info, groups, arrays = segment.store, segment.info, {}, {}
    try:
        for group in (BY_SAMPLE, BY_FEATURE):
            groups[group] = document_digest(store.fetch([(f"{segment.path}/{group}/{DOCUMENT}", None)])[0])
        for name in segment.arrays:
            reader = segment.reader(name)
            size = (-reader.layout.tail_size, None) if reader.layout.sharded else None
            shards = ((reader.key(shard), size) for shard in range(reader.layout.n_shards))
            document, *tails = store.fetch([(f"{reader.path}/{DOCUMENT}", None), *shards])
            arrays[name] = {"document": document_digest(document), "shards": list(map(shard_digest, tails))}
    except CorruptStoreError:
        return False
    facts = {"start": info.start, "stop": info.stop, "nnz": info.nnz, "n_features": segment.n_features}
    attributes = {**facts, "groups": groups, "arrays": arrays}
    if document_digest(group_document(attributes)) != info.digest:
        return False
    batch = WriteBatch(writer.root.store, segment.path)
    batch.put_group("", attributes)
    batch.sync()
    return True


def _free_name(attributes: SetAttributes, info: SegmentInfo) -> str:
    taken = {s.name.casefold() for s in attributes.segments}
    name, n = f"{info.name}.repaired", 1
    while name.casefold() in taken:
        n += 1
        name = f"{info.name}.repaired{n}"
    return name


def _rows_of(segment: Segment) -> tuple[SparseRows, str] | None:
    """The rows of a segment, from the order that is whole; None where neither is."""
    info = segment.info
    try:
        return segment.read_rows(np.array([info.start]), np.array([info.stop])), BY_SAMPLE
    except CorruptStoreError:
        pass
    try:
        samples, data = segment.read_entries([(0, info.nnz)])[0]
        features = np.repeat(np.arange(segment.n_features), np.diff(segment.feature_ptr))
    except CorruptStoreError:
        return None
    order = np.lexsort((features, samples))
    counts = np.bincount(samples - info.start, minlength=info.n_rows)
    ids = features[order].astype(segment.reader(f"{BY_SAMPLE}/indices").dtype)
    return SparseRows(pointers(counts), ids, data[order]), BY_FEATURE


def _mend_table(writer: SetWriter, table: str, nodes: Sequence[str]) -> list[str]:
    """Write columns and concepts again whose values can be read, though a document is damaged."""
    base, prefix = f"{writer.root.path}/{writer.path}".strip("/"), f"{writer.path}/{table}/"
    stored = StoredTable(SnapshotStore(writer.root.store), base, table, writer.require())
    damaged = {node.removeprefix(prefix) for node in nodes if node.startswith(prefix)}
    info, labels, ptr, read = stored.info, None, None, {}
    mended = _mend_digests(writer, stored, damaged)
    damaged -= set(mended)
    for name, arrays in info.columns.items():
        if damaged & set(arrays):
            with suppress(CorruptStoreError):
                read[name] = stored.read(name, slice(0, info.arrays[arrays[0]].length))
    matrices = [] if info.concepts is None else [info.concepts.true, info.concepts.unknown]
    if any(node.split("/")[0] in matrices for node in damaged):
        with suppress(CorruptStoreError):
            labels = stored.labels()
    if info.pointers in damaged:
        with suppress(CorruptStoreError):
            ptr = stored.reader(info.pointers).read(0, writer.require().n_items + 1)
    made = [f"{prefix}{node}: its document was made again of the shards" for node in mended]
    if not read and labels is None and ptr is None:
        return made

    def fill(batch: WriteBatch, a: SetAttributes) -> SetAttributes:
        changed = TableWriter(batch, table, a.table(table), a.codec)
        for name, column in read.items():
            changed.set_column(name, column)
        if labels is not None:
            changed.set_concepts(labels)
        if ptr is not None:
            changed.set_pointers(ptr)
        return a.with_table(table, changed.info)

    writer.change(fill)
    written = [*read, *(["concepts"] if labels is not None else []), *(["pointers"] if ptr is not None else [])]
    return [*made, *(f"{writer.path}/{table}: {what} written again" for what in written)]


def _mend_digests(writer: SetWriter, stored: StoredTable, damaged: Collection[str]) -> list[str]:
    """Make documents again that hold the digests of many shards; only one that was committed is written."""
    info, mended, batch = stored.info, list[str](), WriteBatch(writer.root.store)
    columns = {array: name for name, arrays in info.columns.items() for array in arrays}
    row = stored.name.removesuffix("s")
    for node in [node for node, array in info.arrays.items() if node in damaged and array.shards is None]:
        reader = stored.reader(node)
        try:
            size = -reader.layout.tail_size, None
            tails = reader.store.fetch([(reader.key(shard), size) for shard in range(reader.layout.n_shards)])
        except CorruptStoreError:
            continue
        column = columns.get(node, "ptr" if node == info.pointers else node)
        attributes = {"column": column} if column != node and "/" not in node else {}
        array = NewArray(
            reader.length,
            reader.dtype,
            "nonzero" if "/" in node else "item_pointer" if node == info.pointers else row,
            reader.layout.codec,
            delta="consecutive" if node.endswith("/indices") else "auto",
            attributes={**attributes, "shards": list(map(shard_digest, tails))},
        )
        if document_digest(array.document()) == info.arrays[node].document:
            batch.put(f"{reader.path}/{DOCUMENT}", array.document())
            mended.append(node)
    batch.sync()
    return mended
