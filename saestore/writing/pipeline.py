"""The one way in which a set is written: compare it with what is there, start or take it up, append segments, finish.

`saestore.build`, `saestore.import_activations` and `Store.write` are doors to it. They differ in their row source.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import zarr

from saestore.errors import InvalidInputError, NotFoundError, StoreConflictError, check_at_least, check_choice
from saestore.format import MAX_ROWS_PER_SEGMENT, TASKS, SetAttributes
from saestore.progress import Progress
from saestore.segment.merge import MOST_SEGMENTS
from saestore.sparse_rows import SparseRows
from saestore.storage import WriteBatch, open_root, read_attributes
from saestore.tables.item_index import ItemIndex
from saestore.tables.items import Items
from saestore.tables.table_writer import write_tables
from saestore.vocabulary import CODECS
from saestore.writing.compare import check_prefix, refuse_other
from saestore.writing.lock import SetLock
from saestore.writing.plan import WritePlan
from saestore.writing.writer import SetWriter

__all__ = [
    "Destination",
    "check_storage_options",
    "first_of_last_append",
    "path_of",
    "plan_set",
    "start_set",
    "write_set",
]

Array = np.ndarray[Any, Any]

# The merge at the end uses at most this much, so that the peak does not depend on the number of samples.
MERGE_MEMORY = 256 << 20


def path_of(items: Any) -> str | None:
    """The file that a table of items is read from, None for a table in memory."""
    return str(items) if isinstance(items, str | os.PathLike) else None


class Destination:
    """A store to write to, opened once; where there is none, it is created when a set is written.

    `location`: A folder, URL or zarr store, or the root group of an open one. Raises StoreFormatError,
    StoreWriteError: What is there is not a store, or it cannot be written.
    """

    def __init__(self, location: Any) -> None:
        self._location = location
        self.root: zarr.Group | None = location if isinstance(location, zarr.Group) else None
        if self.root is None:
            try:
                self.root = open_root(location, "r+")
            except NotFoundError:
                return

    def create(self) -> zarr.Group:
        """The root group, of a new store where there was none."""
        if self.root is None:
            self.root = open_root(self._location, "a")
        return self.root

    def attributes(self, path: str, *, locked: bool = False) -> SetAttributes | None:
        """The attributes of the set at `path`, None where there is none.

        `locked`: Do not mind that another process writes the set. Raises LockedError: Another process writes the set.
        """
        if self.root is None:
            return None
        if not locked:
            SetLock(self.root, path).check()
        return read_attributes(self.root, path)


def write_set(
    plan: WritePlan,
    destination: Destination,
    progress: Progress,
    *,
    append: bool = False,
    overwrite: bool = False,
    memory: int | None = None,
) -> zarr.Group:
    """Write a set, or finish the one that an earlier call of the same content left.

    Parameters
    ----------
    append
        Add the rows that a complete set does not have yet; the rows of the set must be the first of the plan.
    overwrite
        Replace a set of other content. Readers see the old set until the new one is complete.
    memory
        Bound in bytes on a merge, by default 256 MiB.

    Returns
    -------
    zarr.Group
        The root of the store.

    Raises
    ------
    StoreConflictError
        The store has a set of other content at this path.
    LockedError, StoreWriteError
        Another process writes the set, or the store cannot be written: what is committed stays.

    Notes
    -----
    One thread sorts, compresses and writes a segment while this one reads the next. Memory: two segments of about two
    million non-zeros (100 MiB each), and `memory` for a merge.
    """
    memory = MERGE_MEMORY if memory is None else check_at_least("memory", memory, 1)
    existing = None if overwrite else destination.attributes(plan.path)
    if existing is not None:
        _refuse_planned(existing, plan.path)
    root = destination.root
    is_done = existing is not None and root is not None and _is_done(plan, root, existing, append=append)
    if is_done and existing is not None and root is not None and SetLock(root, plan.path).check() is None:
        progress.line(f"{plan.path} is complete already ({existing.n_samples:,} samples); nothing to do.")
        return root
    plan.check(0 if existing is None else existing.n_samples, progress)
    root = destination.create()
    with SetWriter(root, plan.path, resumes=partial(_is_begun, plan, planned=False) if overwrite else None) as writer:
        if not _begin(plan, writer, append=append):
            return root
        _refuse_planned(writer.require(), plan.path)
        _append_segments(plan, writer, progress, memory)
        writer.finish(first=first_of_last_append(writer.require()), memory=memory, progress=progress.line)
    return root


def plan_set(
    plan: WritePlan,
    destination: Destination,
    progress: Progress,
    *,
    record: Mapping[str, Any],
    append: bool = False,
    overwrite: bool = False,
) -> tuple[zarr.Group, SetAttributes]:
    """Begin a set, or further samples of one, whose segments other processes will write; takes what `write_set` takes.

    The same call finds the plan that an earlier one left.

    `record`: What the set records of the plan, besides its token and its number of tasks. Returns zarr.Group,
    SetAttributes: The root of the store, and the attributes of the set; their ``plan`` is None where nothing is left
    to do.
    """
    existing = None if overwrite else destination.attributes(plan.path)
    if existing is not None and existing.plan is not None and destination.root is not None:
        refuse_other(plan, existing)
        progress.line(f"{plan.path} is planned already.")
        return destination.root, existing
    if existing is None or destination.root is None or not _is_done(plan, destination.root, existing, append=append):
        plan.check(0 if existing is None else existing.n_samples, progress)
    root = destination.create()
    with SetWriter(root, plan.path, resumes=partial(_is_begun, plan, planned=True) if overwrite else None) as writer:
        if _begin(plan, writer, append=append) and writer.require().plan is None:
            attributes = writer.require()
            first, n = attributes.n_samples, plan.rows.n_rows
            tasks = {"first": first, "n_tasks": -(-(n - first) // attributes.segment_rows)}
            planned = replace(attributes, plan={"token": uuid.uuid4().hex, **tasks, **record})
            writer.extend(planned, _with_tasks)
        return root, writer.require()


def _with_tasks(batch: WriteBatch, attributes: SetAttributes) -> SetAttributes:
    batch.put_group(TASKS)  # as a group, so that a listing of the set shows nothing that zarr does not know
    return attributes


def _refuse_planned(existing: SetAttributes, path: str) -> None:
    if existing.plan is not None:
        raise StoreConflictError(
            f"{path} is planned as {existing.plan['n_tasks']:,} tasks: run them and commit (`saestore run {path}`, "
            f"`saestore commit {path}`), or give the plan up with --overwrite (overwrite=True).",
            code="planned-set",
        )


def _begin(plan: WritePlan, writer: SetWriter, *, append: bool) -> bool:
    """Create the set, or take up the one that is there; False where it is complete and nothing is left to do."""
    if writer.attributes is None:
        table = plan.table
        start_set(writer, plan.attributes(), table.items, table.index, table.spans, columns=table.columns)
        return True
    # Once more, now that no other process can change the set.
    if _is_done(plan, writer.root, writer.attributes, append=append):
        return False
    if writer.attributes.complete:
        _plan_more(plan, writer, writer.attributes)
    return True


def first_of_last_append(attributes: SetAttributes) -> int:
    """The first sample that was added last; what comes before is not merged again."""
    appends: Any = attributes.source.get("appended", [])
    return int(appends[-1]["n_samples"]) if appends else 0


def _is_done(plan: WritePlan, root: zarr.Group, existing: SetAttributes, *, append: bool) -> bool:
    """Refuse a set of other content; True when the set is complete and nothing is left to do."""
    if append and existing.complete and plan.rows.n_rows != existing.n_samples:
        check_prefix(plan, root, existing)
        return False
    refuse_other(plan, existing)
    return existing.complete


def _is_begun(plan: WritePlan, existing: SetAttributes, *, planned: bool) -> bool:
    """Whether a set is the beginning of the plan's, left by an interrupted call; `planned` ones only where allowed."""
    try:
        refuse_other(plan, existing)
    except StoreConflictError:
        return False
    return not existing.complete and (planned or existing.plan is None)


def _append_segments(plan: WritePlan, writer: SetWriter, progress: Progress, memory: int) -> None:
    """Commit the rows that are not committed yet, segment by segment."""
    attributes = writer.require()
    done, n, step, dropped = attributes.n_samples, plan.rows.n_rows, attributes.segment_rows, attributes.dropped
    if done:
        progress.line(f"{plan.path}: going on after {done:,} of {n:,} samples.")
    first = first_of_last_append(attributes)
    quick = n - first > step  # then they are merged
    if quick:
        writer.make_room(memory, most=MOST_SEGMENTS // 2, before=first)
    pending: Future[None] | None = None
    with progress.bar(plan.path, plan.verb, n, done) as bar, ThreadPoolExecutor(1) as sink:
        for start in range(done, n, step):
            segment = [plan.rows.read(start, min(start + step, n), bar.advance)]
            dropped = plan.count_dropped(dropped)
            if pending is not None:
                pending.result()
            changes = {"quick": quick} | ({} if dropped is None else {"dropped": dropped})
            pending = sink.submit(_write_segment, writer, segment, changes, first, memory)
        if pending is not None:
            pending.result()


def _write_segment(
    writer: SetWriter, segment: list[SparseRows], changes: Mapping[str, Any], first: int, memory: int
) -> None:
    # The list lets go of it, so that it is freed before the next one is read.
    writer.append(segment.pop(), **changes)
    writer.merge_level(first, memory)


def _plan_more(plan: WritePlan, writer: SetWriter, existing: SetAttributes) -> None:
    """Write the table of all items beside the one that is there, and plan the samples that are to come."""
    plan.measure(existing.n_samples)  # for its warning
    appends: Any = existing.source.get("appended", [])
    step = {"n_samples": existing.n_samples, "n_items": existing.n_items}
    table = plan.table
    attributes = replace(
        existing,
        planned_samples=plan.rows.n_rows,
        n_items=table.index.n_items,
        item_size=table.index.item_size,
        source={**plan.provenance, "appended": [*appends, step][-MOST_SEGMENTS:]},
    )
    start_set(writer, attributes, table.items, table.index, table.spans, columns=table.columns)


def start_set(
    writer: SetWriter,
    attributes: SetAttributes,
    items: Items | None,
    index: ItemIndex,
    spans: Array | None = None,
    *,
    columns: Mapping[str, Array] | None = None,
) -> None:
    """Create a set with its items, or give a complete set more items, of which no samples are there yet.

    `attributes`: Of the set from then on. `items`, `index`, `spans`, `columns`: As `write_tables` takes them.
    """
    add = writer.start if writer.attributes is None else writer.extend
    add(attributes, lambda batch, a: write_tables(batch, a, items, index, spans, columns=columns))


def check_storage_options(codec: str, segment_rows: int | None) -> None:
    """Refuse a codec or a number of rows per segment that the format does not have."""
    check_choice("codec", codec, CODECS, "unknown-codec")
    rows = 1 if segment_rows is None else check_at_least("segment_rows", segment_rows, 1, "bad-segment-rows")
    if rows > MAX_ROWS_PER_SEGMENT:
        raise InvalidInputError(
            f"segment_rows {segment_rows}: use 1 to {MAX_ROWS_PER_SEGMENT}.", code="bad-segment-rows"
        )
