"""Writing an activation set, segment by segment, so that it can be killed anywhere and go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr

from saestore.errors import CorruptStoreError, InvalidInputError, LockedError, StoreConflictError, StoreFormatError
from saestore.format import ATTEMPT, NEXT, SEGMENTS, TABLES, TASKS, SegmentInfo, SetAttributes, digest, segment_name
from saestore.segment.merge import (
    MOST_SEGMENTS,
    Engine,
    last_level,
    level_start,
    limit_fan_in,
    merge_segments,
    plan_merges,
)
from saestore.segment.read import Segment, active_features
from saestore.segment.write import write_segment
from saestore.sparse_rows import SparseRows
from saestore.storage import SnapshotStore, WriteBatch, local_folder, read_attributes
from saestore.storage.conditional import get_tagged, remove
from saestore.table_info import TableInfo
from saestore.tables.item_index import ItemIndex
from saestore.vocabulary import DEFAULT_MEMORY
from saestore.writing import leftovers
from saestore.writing.commits import SetCommits, count_deletion, n_deleted
from saestore.writing.derived import DERIVED, write_derived
from saestore.writing.lock import LOCK

Array = np.ndarray[Any, Any]
Progress = Callable[[str], None]

# Writes the tables of a set and returns its attributes with them.
Fill = Callable[[WriteBatch, SetAttributes], SetAttributes]


class SetWriter(SetCommits):
    """Owns one activation set while it is written; use as a context manager.

    Parameters
    ----------
    root
        Root group of the store, writable.
    path
        ``dataset/sample_type/sae``.
    resumes
        Write another set beside the one that is there, which `finish` puts in its place in one commit. Called with the
        attributes that an earlier writer left: True where its work is the beginning of this one's.

    Notes
    -----
    What a killed process left and the attributes do not name is removed when the next writer takes over.
    """

    def __init__(self, root: zarr.Group, path: str, *, resumes: Callable[[SetAttributes], bool] | None = None) -> None:
        super().__init__(root, path)
        self._resumes = resumes
        self._held_back = False  # whether the attributes name segments that no commit has named yet
        self._active: Array | None = None  # which features are active in a committed sample, once that is counted

    def __enter__(self) -> Self:
        self._lock.acquire()
        try:
            with self._errors():
                self._seen[self._key()] = get_tagged(self._root.store, self._key())
                self.attributes = read_attributes(self._root, self.path)
                if self._lock.may_have_rival:
                    self._fence()
                self._flush_document()
                if self._resumes is None:
                    self._refuse_planned_next()
                elif self.attributes is not None and not self._resumes(self.attributes):
                    self._replaced, self.attributes = self.attributes, self._read_next(self._resumes)
                self._remove_leftovers()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if isinstance(value, CorruptStoreError):
                self._lock.confirm()  # what is missing may have been removed by who has the lock now
        finally:
            self._lock.release()
        folder = local_folder(self._root)
        if folder is not None and self.attributes is None:
            with suppress(OSError):  # not empty: another writer is there already
                (folder / self.path).rmdir()

    def start(self, attributes: SetAttributes, fill: Fill) -> None:
        """Create the set; its attributes, written last, make it exist.

        Raises StoreConflictError: The set exists.
        """
        if self.attributes is not None:
            raise StoreConflictError(
                f"{self.path} exists already; pass --overwrite (overwrite=True) to replace it.", code="set-exists"
            )
        with self._errors():
            self._create_parents()
            batch = self._batch()
            batch.put_group(SEGMENTS)
            if self._replaced is not None:  # arrays of another version have other names
                versions = {name: TableInfo(table.version) for name, table in self._replaced.tables.items()}
                attributes = replace(attributes, generation=self._replaced.generation + 1, tables=versions)
            else:
                attributes = replace(attributes, generation=1 + n_deleted(self._root)[0])
            filled = fill(batch, replace(attributes, identity=digest(attributes.to_json())))
            tables = {name: table for name, table in filled.tables.items() if table.arrays}
            self._commit(batch, replace(filled, tables=tables))

    def _read_next(self, resumes: Callable[[SetAttributes], bool]) -> SetAttributes | None:
        with suppress(StoreFormatError, CorruptStoreError):  # then it is begun anew
            result = read_attributes(self._root, f"{self.path}/{NEXT}")
            if result is not None and resumes(result):
                return result
        return None

    def _refuse_planned_next(self) -> None:
        """Leave a set alone that planned tasks are about to replace: this writer would remove what they wrote."""
        following = None if self.attributes is None else self._read_next(lambda a: a.plan is not None)
        if following is not None and following.plan is not None:
            raise LockedError(
                f"{self.path} is about to be replaced by a plan of {following.plan['n_tasks']:,} tasks: commit it "
                f"first (`saestore commit {self.path}`), or give it up by building with --overwrite (overwrite=True).",
                code="planned-set",
            )

    def change(self, fill: Fill) -> None:
        """Write new versions of tables, commit them, and remove what they replace.

        A reader that opened the set before finds arrays gone, and reads the attributes again.
        """
        before = self.require()
        with self._errors():
            batch = self._batch()
            self._commit(batch, fill(batch, before))
            self._remove_leftovers()

    def extend(self, attributes: SetAttributes, fill: Fill) -> None:
        """Take further samples: from this commit on the set has other items, and plans more samples.

        What this replaces stays until the next writer, for those who opened the set before.

        `attributes`: Of the set from now on, with the segments and tables that it has.
        """
        with self._errors():
            batch = self._batch()
            self._commit(batch, fill(batch, attributes))

    def clear(self) -> None:
        """Remove the set, all of it while the lock is held."""
        self.attributes = None
        with self._errors():
            self._lock.confirm()
            count_deletion(self._root)  # before: what is written here later has other names
            # Without its attributes the set is gone at once; a killed removal leaves nothing that looks like a set.
            self._put_document(self._key(), {})
            self._remove_leftovers()
            remove(self._root.store, self._key(), self._seen[self._key()])

    def _replace(self) -> None:
        """Put the set that was written in the place of the other one."""
        if self._replaced is not None:
            self._replaced = None
            with self._errors():
                self._commit(self._batch(), self.require())
                self._remove_leftovers()

    def append(self, rows: SparseRows, *, quick: bool = False, **changes: Any) -> SegmentInfo:
        """Write and commit the next rows as one segment.

        Parameters
        ----------
        rows
            With ascending feature ids, no duplicates, no zeros, finite.
        quick
            Encode it for the merge that follows, in a seventh of the time.
        changes
            Attributes of the set that change with this commit.
        """
        a = self.require()
        with self._errors():
            info = write_segment(
                self._root.store,
                self._base,
                a.n_samples,
                rows,
                n_features=a.n_features,
                codec=a.codec,
                name=segment_name(a.n_samples, a.n_samples + len(rows), a.generation),
                quick=quick,
            )
            changes |= {"dead_features": self._count_dead(rows)}
            self.commit(replace(a.with_segments([*a.segments, info]), **changes))
        return info

    def _count_dead(self, rows: SparseRows) -> int | None:
        """Features that are active neither in what is committed nor in these rows; None where `finish` counts them."""
        a = self.require()
        if self._active is None and a.segments and a.n_samples + len(rows) == a.planned_samples:
            return None
        if self._active is None:
            self._active = active_features(self._segments(a.segments), a.n_features)
        self._active[rows.indices] = True
        return a.n_features - int(np.count_nonzero(self._active))

    def hold_back(self, attributes: SetAttributes) -> None:
        """Take segments that others wrote, for `finish`: its first commit names at most 16.

        Merges before that are lost where it is killed, and what they merged stays until it ends.
        """
        self.attributes, self._held_back = attributes, True

    def merge_level(self, first: int, memory: int) -> None:
        """Merge as many of the last segments as leave room for one more among 16, while a set of any size is written.

        `first`: Segments of samples before this one, of which `make_room` left a few, stay as they are.
        """
        a = self.require()
        n = -(-(a.n_samples - first) // a.segment_rows)
        n_last = last_level(n, MOST_SEGMENTS - 1 - sum(s.start < first for s in a.segments))
        if n_last > 1:
            self._merge_all(first + (n - n_last) * a.segment_rows, memory)

    def make_room(self, memory: int, *, most: int = MOST_SEGMENTS - 1, before: int | None = None) -> None:
        """Merge the last of the segments, of samples `before` this one, where there are more than `most`."""
        infos = [s for s in self.require().segments if before is None or s.start < before]
        start = level_start([s.n_rows for s in infos], most)
        if start < len(infos):
            self._merge_all(infos[start].start, memory)

    def finish(
        self,
        *,
        first: int = 0,
        memory: int = DEFAULT_MEMORY,
        progress: Progress | None = None,
        engine: Engine | None = None,
        **changes: Any,
    ) -> None:
        """Compact, write the arrays at the set's root, and mark the set complete with these changed attributes.

        `first`: Segments of samples before this one are left as they are. `engine`: Runs the parts of a merge, by
        default this process.
        """
        attributes = self.require()
        if attributes.planned_samples not in (None, attributes.n_samples):
            raise InvalidInputError(
                f"{self.path} has {attributes.n_samples} of {attributes.planned_samples} planned samples.",
                code="incomplete-set",
            )
        self._merge_all(first, memory, progress, engine)
        self.make_room(memory)
        self._replace()
        self._refresh(planned_samples=None, **changes)

    def compact(
        self,
        *,
        first: int = 0,
        memory: int = DEFAULT_MEMORY,
        progress: Progress | None = None,
        engine: Engine | None = None,
    ) -> None:
        """Merge all segments into as few as the format allows, then refresh the arrays at the root.

        Parameters
        ----------
        first
            Segments of samples before this one are left as they are.
        memory
            Bound in bytes; see `saestore.segment.merge_segments`.
        engine
            Runs the parts of a merge, by default this process.
        """
        self._merge_all(first, memory, progress, engine)
        self._refresh()

    def _merge_all(
        self, first: int, memory: int, progress: Progress | None = None, engine: Engine | None = None
    ) -> None:
        while any(len(run) > 1 for run in self._plan(memory, first)):
            for run in self._plan(memory, first):
                if len(run) > 1:
                    if progress is not None:
                        progress(f"merging {len(run)} segments ({run[0].name} … {run[-1].name})")
                    self._merge(run, memory, engine)
        for info in [s for s in self.require().segments if s.start >= first]:
            if ATTEMPT in info.name:
                self._merge([info], memory, engine)

    def _plan(self, memory: int, first: int) -> list[list[SegmentInfo]]:
        attributes = self.require()
        # The pointers of all segments that are merged at once are in memory: a quarter of the bound is theirs.
        fan_in = max(2, memory // 4 // (8 * (attributes.n_features + 1)))
        segments = [s for s in attributes.segments if s.start >= first]
        return [part for run in plan_merges(segments) for part in limit_fan_in(run, fan_in)]

    def _merge(self, run: list[SegmentInfo], memory: int, engine: Engine | None) -> None:
        a = self.require()
        with self._errors():
            merged = merge_segments(
                self._root.store,
                self._base,
                self._segments(run),
                n_features=a.n_features,
                dtype=a.dtype,
                codec=a.codec,
                memory=memory,
                name=segment_name(run[0].start, run[-1].stop, a.generation),
                engine=engine,
            )
            kept = [merged if s is run[0] else s for s in a.segments if s is run[0] or s not in run]
            if self._held_back and len(kept) > MOST_SEGMENTS:
                self.attributes = a.with_segments(kept)
                return
            self._held_back = False
            self.commit(a.with_segments(kept))
            for info in run:
                leftovers.remove(self._root, f"{self.path}/{SEGMENTS}/{info.name}")

    def _segments(self, infos: Sequence[SegmentInfo]) -> list[Segment]:
        snapshot = SnapshotStore(self._root.store)
        return [Segment(snapshot, self._base, info, self.require()) for info in infos]

    def _refresh(self, **changes: Any) -> None:
        """Write the arrays at the root again where they do not cover the segments; commit with these changes."""
        attributes = self.require()
        if attributes.segments and not attributes.is_derived:
            if attributes.arrays:
                # From here until they are written anew the arrays at the root cover nothing.
                self.commit(replace(attributes, derived=(), arrays={}))
            with self._errors():
                index = ItemIndex.read(SnapshotStore(self._root.store), self._base, attributes)
                changes |= write_derived(self._batch(), attributes, index, self._segments(attributes.segments))
        if changes:
            self.commit(replace(attributes, **changes))
        with self._errors():
            self._remove_leftovers()  # such as the items before an append

    def _remove_leftovers(self) -> None:
        """Remove what the attributes do not name, and half files; where there is no set, everything.

        Of a set that exists the groups of tables and the arrays at its root stay: a next writer, who may have the lock
        by now, writes them under the same names.
        """
        leftovers.remove_partial_files(self._root, self.path)
        kept = [a for a in (self._replaced, self.attributes) if a is not None]
        keep: dict[str, set[str]] = {name: set() for name in TABLES} if kept else {}
        for a in kept:
            keep.setdefault(SEGMENTS, set()).update(s.name for s in a.segments)
            for name, table in a.tables.items():
                keep.setdefault(name, set()).update(table.nodes)
        following = self._replaced is not None and self.attributes is not None
        also = [NEXT] if following else []
        if self._is_planned():
            del keep[SEGMENTS]  # tasks write segments that only their receipts name
            also += [SEGMENTS, TASKS]
        gone = leftovers.others(self._root, self.path, {LOCK, *keep, *(DERIVED if kept else ()), *also})
        for name, nodes in keep.items():
            gone += leftovers.others(self._root, f"{self.path}/{name}", nodes)
        if gone:
            self._lock.confirm()  # after the listing: whoever has the lock next writes under other names
        for path in gone:
            leftovers.remove(self._root, path)

    def _is_planned(self) -> bool:
        """Whether tasks of other processes may be writing segments."""
        a = self.attributes
        return a is not None and a.plan is not None and a.n_samples != a.planned_samples
