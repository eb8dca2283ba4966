"""Writing an activation set, segment by segment, so that it can be killed anywhere and go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr
from zarr.storage import LocalStore

from saestore.errors import InvalidInputError, StoreConflictError
from saestore.format import ITEMS, SegmentInfo, SetAttributes
from saestore.segment import Segment, limit_fan_in, merge_segments, plan_merges, write_segment
from saestore.storage import SnapshotStore, local_folder, missing_as_error, write_errors
from saestore.storage.open import PARTIAL
from saestore.tables.stored_items import SPANS
from saestore.tables.stored_labels import LABELS
from saestore.writing.derived import DERIVED, write_derived
from saestore.writing.lock import DOCUMENT, LOCK, SetLock, publish

Array = np.ndarray[Any, Any]
Progress = Callable[[str], None]

DEFAULT_MEMORY = 1 << 30
SEGMENTS = "segments"


class SetWriter:
    """Owns one activation set while it is written; use as a context manager.

    Parameters
    ----------
    root
        Root group of the store, writable.
    path
        ``dataset/sample_type/sae``.

    Notes
    -----
    What a killed process left and the attributes do not name is removed when the next writer takes over.
    """

    def __init__(self, root: zarr.Group, path: str) -> None:
        self._root = root
        self.path = path
        self._lock = SetLock(root, path)
        self.attributes: SetAttributes | None = None

    def __enter__(self) -> Self:
        self._lock.acquire()
        try:
            with self._errors():
                self.attributes = read_attributes(self._root, self.path)
                self._remove_leftovers()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._lock.release()

    def _errors(self) -> Any:
        return write_errors(f"{self._root.store}")

    @property
    def root(self) -> zarr.Group:
        """Root group of the store."""
        return self._root

    @property
    def group(self) -> zarr.Group:
        """The set's group; in a local folder as the root of a store of its own.

        With every node zarr writes those above it too, for a moment and under another name. A process killed then would
        leave half files in folders that it shares with other builders.
        """
        folder = local_folder(self._root)
        if folder is not None:
            return zarr.open_group(LocalStore(folder / self.path), mode="r+", zarr_format=3, use_consolidated=False)
        group = self._root[self.path]
        assert isinstance(group, zarr.Group)  # noqa: S101  (for the type checker)
        return group

    def start(self, attributes: SetAttributes, fill: Callable[[zarr.Group], Mapping[str, str]]) -> None:
        """Create the set; its attributes, written last, make it exist.

        Parameters
        ----------
        fill
            Writes what lies beside the segments (items) and returns the digests of its metadata.

        Raises
        ------
        StoreConflictError
            The set exists.
        """
        if self.attributes is not None:
            raise StoreConflictError(f"{self.path} exists already; pass overwrite=True to replace it.")
        with self._errors():
            group = self._create_groups()
            digests = fill(group)
            group.create_group(SEGMENTS)
            self.commit(replace(attributes, digests=digests))

    def extend(self, attributes: SetAttributes, fill: Callable[[zarr.Group], Mapping[str, str]]) -> None:
        """Take further samples: from this commit on the set has other items, and plans more samples.

        The group of the items before stays until the set is complete again, for those who opened the set before.

        Parameters
        ----------
        attributes
            Of the set from now on, with the segments that it has.
        fill
            Writes the items into a group that no attributes name yet, and returns the digests of its metadata.
        """
        before = self._attributes()
        with self._errors():
            digests = {name: sha for name, sha in before.digests.items() if name.split("/")[0] != before.items}
            self.commit(replace(attributes, digests={**digests, **fill(self.group)}))

    def _create_groups(self) -> zarr.Group:
        """Create the set's group and those above it: a set whose parents are missing would not be found."""
        folder, names = local_folder(self._root), self.path.split("/")
        if folder is None:
            group = self._root
            for name in names:
                group = group.require_group(name)
            return group
        group = zarr.open_group(LocalStore(folder / self.path), mode="a", zarr_format=3, use_consolidated=False)
        group.attrs.put({})
        for depth in range(1, len(names)):
            parent = folder.joinpath(*names[:depth], DOCUMENT)
            # Drafted in the set's own folder, where it is removed if this process is killed.
            draft = folder / self.path / f"{names[depth - 1]}{PARTIAL}"
            draft.write_bytes((folder / self.path / DOCUMENT).read_bytes())
            with suppress(FileExistsError):
                publish(draft, parent)
            draft.unlink()
        return group

    def clear(self) -> None:
        """Remove the set, the lock excepted."""
        self.attributes = None
        with self._errors():
            # Without its attributes the set is gone at once; a killed removal leaves nothing that looks like a set.
            self.group.attrs.put({})
            self._remove_leftovers()

    def commit(self, attributes: SetAttributes) -> None:
        """Rewrite the set's attributes: the only commit there is."""
        with self._errors():
            self.group.attrs.put(attributes.to_json())
        self.attributes = attributes

    def append(self, indptr: Array, indices: Array, data: Array, **changes: Any) -> SegmentInfo:
        """Write and commit the next rows as one segment.

        Parameters
        ----------
        indptr, indices, data
            A CSR matrix: ascending feature ids, no duplicates, no zeros, finite.
        changes
            Attributes of the set that change with this commit.
        """
        attributes = self._attributes()
        parent: Any = self.group[SEGMENTS]
        with self._errors():
            info = write_segment(
                parent,
                attributes.n_samples,
                indptr,
                indices,
                data,
                n_features=attributes.n_features,
                codec=attributes.codec,
            )
            self.commit(replace(attributes.with_segments([*attributes.segments, info]), **changes))
        return info

    def finish(
        self, *, first: int = 0, memory: int = DEFAULT_MEMORY, progress: Progress | None = None, **changes: Any
    ) -> None:
        """Compact, write the arrays at the set's root, and mark the set complete with these changed attributes.

        Parameters
        ----------
        first
            Segments of samples before this one are left as they are.
        """
        attributes = self._attributes()
        if attributes.planned_samples not in (None, attributes.n_samples):
            raise InvalidInputError(
                f"{self.path} has {attributes.n_samples} of {attributes.planned_samples} planned samples."
            )
        self.compact(first=first, memory=memory, progress=progress)
        attributes = self._attributes()
        self.commit(replace(attributes, planned_samples=None, **changes))
        if attributes.items != ITEMS:
            with self._errors():
                self._remove_leftovers()  # the items before an append

    def compact(self, *, first: int = 0, memory: int = DEFAULT_MEMORY, progress: Progress | None = None) -> None:
        """Merge all segments into as few as the format allows, then refresh the arrays at the root.

        Parameters
        ----------
        first
            Segments of samples before this one are left as they are.
        memory
            Bound in bytes; see `saestore.segment.merge_segments`.
        """
        while any(len(run) > 1 for run in self._plan(memory, first)):
            for run in self._plan(memory, first):
                if len(run) > 1:
                    if progress is not None:
                        progress(f"merging {len(run)} segments ({run[0].name} … {run[-1].name})")
                    self._merge(run, memory)
        attributes = self._attributes()
        if attributes.derived != tuple(s.name for s in attributes.segments) and attributes.segments:
            with self._errors():
                self._derive()

    def _plan(self, memory: int, first: int) -> list[list[SegmentInfo]]:
        attributes = self._attributes()
        # The pointers of all segments that are merged at once are in memory: a quarter of the bound is theirs.
        fan_in = max(2, memory // 4 // (8 * (attributes.n_features + 1)))
        segments = [s for s in attributes.segments if s.start >= first]
        return [part for run in plan_merges(segments) for part in limit_fan_in(run, fan_in)]

    def _merge(self, run: list[SegmentInfo], memory: int) -> None:
        attributes = self._attributes()
        parent: Any = self.group[SEGMENTS]
        snapshot = SnapshotStore(parent.store)
        segments = [Segment(snapshot, parent.path, info) for info in run]
        with self._errors():
            merged = merge_segments(
                parent,
                segments,
                n_features=attributes.n_features,
                dtype=attributes.dtype,
                codec=attributes.codec,
                memory=memory,
            )
            kept = [merged if s is run[0] else s for s in attributes.segments if s is run[0] or s not in run]
            self.commit(attributes.with_segments(kept))
            for info in run:
                del parent[info.name]

    def _derive(self) -> None:
        attributes = self._attributes()
        replaced = {*DERIVED, *(SPANS if attributes.items != ITEMS else ())}
        digests = {name: sha for name, sha in attributes.digests.items() if name not in replaced}
        if attributes.derived:
            # From here until they are written anew the arrays at the root cover nothing.
            self.commit(replace(attributes, derived=(), digests=digests))
        group = self.group
        snapshot = SnapshotStore(group.store)
        segments = [Segment(snapshot, f"{group.path}/{SEGMENTS}".strip("/"), info) for info in attributes.segments]
        digests |= write_derived(group, attributes, segments)
        self.commit(replace(attributes, derived=tuple(s.name for s in attributes.segments), digests=digests))

    def _attributes(self) -> SetAttributes:
        if self.attributes is None:
            raise RuntimeError(f"{self.path} was not started")
        return self.attributes

    def _remove_leftovers(self) -> None:
        """Remove what no attributes name: everything where there is no set, else unnamed segments and half files."""
        remove_partial_files(self._root, self.path)
        found = self._root.get(self.path)
        if not isinstance(found, zarr.Group):
            return
        if self.attributes is None:
            _remove_others(found, {LOCK})
            return
        _remove_others(found.get(SEGMENTS), {s.name for s in self.attributes.segments})
        if self.attributes.concepts:
            _remove_others(found.get(LABELS), {info.name for info in self.attributes.concepts.values()})
        elif LABELS in _child_names(found):
            _remove(found, LABELS)
        for name in _child_names(found):
            if name.split("-")[0] == ITEMS and name != self.attributes.items:
                _remove(found, name)


def read_attributes(root: zarr.Group, path: str) -> SetAttributes | None:
    """The attributes of the set at `path`, None where there is none."""
    with missing_as_error(path):
        group = root.get(path)
        if not isinstance(group, zarr.Group) or "format" not in group.attrs:
            return None
        return SetAttributes.from_json(group.attrs.asdict(), path)


def _child_names(group: zarr.Group) -> set[str]:
    """Names of the children of a group, half-written ones of a local folder included."""
    folder = local_folder(group)
    if folder is not None:
        return {p.name for p in folder.iterdir() if p.is_dir()} if folder.is_dir() else set()
    return set(group.keys())


def _remove_others(group: Any, keep: set[str]) -> None:
    """Remove the children of a group, if there is one, but for those to keep."""
    for name in [] if group is None else list(_child_names(group)):
        if name not in keep:
            _remove(group, name)


def _remove(group: zarr.Group, name: str) -> None:
    folder = local_folder(group)
    if folder is None:
        del group[name]
        return
    import shutil

    shutil.rmtree(folder / name)


def remove_partial_files(root: zarr.Group, path: str) -> None:
    """Remove the files that a killed write of zarr's local store left beside its target."""
    folder = local_folder(root)
    if folder is not None:
        for leftover in (folder / path).rglob(f"*{PARTIAL}"):
            leftover.unlink(missing_ok=True)
