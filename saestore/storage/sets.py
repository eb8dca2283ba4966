"""Which activation sets a store has, and their attributes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.errors import CorruptStoreError, UnreachableError
from saestore.format import SET_LEVELS, SetAttributes
from saestore.storage.batch import DOCUMENT
from saestore.storage.open import Root, group_attributes, group_of, local_folder, missing_as_error
from saestore.storage.snapshot import SnapshotStore

if TYPE_CHECKING:
    import zarr

_FEW_ATTRIBUTES = 10  # a group with more of them is a set, though its attribute `format` may be damaged


def read_attributes(root: Root, path: str) -> SetAttributes | None:
    """The attributes of the set at `path`, None where there is none."""
    with missing_as_error(path):
        attributes = _attributes_at(root, path) or {}
        if not attributes or (len(attributes) < _FEW_ATTRIBUTES and "format" not in attributes):
            return None
        return SetAttributes.from_json(attributes, path)


def is_set_at(root: Root, path: str) -> bool:
    """Whether a group at `path` says that it is a set."""
    with missing_as_error(path):
        return "format" in (_attributes_at(root, path) or {})


def _attributes_at(root: Root, path: str) -> Mapping[str, Any] | None:
    """The attributes of a group, None where there is no group. In a local folder zarr is asked only about damage."""
    folder = SnapshotStore.of(root).folder
    if folder is not None and {"", ".", ".."}.isdisjoint(path.split("/")):
        found = group_attributes(folder / root.path / path)
        if found is not None:
            return found
    import zarr

    group = group_of(root).get(path)
    return group.attrs.asdict() if isinstance(group, zarr.Group) else None


def find_sets(root: Root) -> tuple[list[str], dict[str, CorruptStoreError]]:
    """Paths of all activation sets, sorted, and an error for every group on the way that cannot be read, by path."""
    listed = _in_groups if local_folder(root) is None else _in_folder
    level: dict[str, Any] = {"": root}
    damaged = {}
    for _ in SET_LEVELS:
        below = {}
        for path, parent in level.items():
            for name, child in listed(root, path, parent):
                node = f"{path}/{name}".strip("/")
                if isinstance(child, CorruptStoreError):
                    damaged[node] = child
                else:
                    below[node] = child
        level = below
    attributes = {path: child if isinstance(child, Mapping) else child.attrs for path, child in level.items()}
    return sorted(path for path, each in attributes.items() if "format" in each), damaged


def _in_groups(_: Root, __: str, parent: zarr.Group) -> Iterator[tuple[str, zarr.Group | CorruptStoreError]]:
    """The groups in a group, as zarr lists them."""
    try:
        with missing_as_error(parent.path or "the store"), _no_listing(parent):
            found = list(parent.groups())
        yield from found
    except CorruptStoreError as e:
        yield "", e


@contextmanager
def _no_listing(group: zarr.Group) -> Iterator[None]:
    try:
        yield
    except Exception as e:
        from zarr.storage import ObjectStore

        from saestore.storage.conditional import unwrapped

        store = unwrapped(group.store)
        if not isinstance(store, ObjectStore) or type(store.store).__name__ != "HTTPStore":
            raise
        raise UnreachableError(
            f"{store} does not list what it has, as most HTTP servers. Name a set by its full path: "
            "store['dataset/sample_type/sae'].",
            code="no-listing",
        ) from e


def _in_folder(root: Root, path: str, _: Any) -> Iterator[tuple[str, Mapping[str, Any] | CorruptStoreError]]:
    """The attributes of the groups in a local folder."""
    folder = (local_folder(root) or Path()) / path
    whole = f"{root.path}/{path}".strip("/")
    # A folder without a document is no node of the hierarchy, such as that of a set whose lock was just taken.
    with missing_as_error(whole or "the store"), os.scandir(folder) as entries:  # a glob hides errors
        names = sorted(entry.name for entry in entries if (folder / entry.name / DOCUMENT).exists())
    for name in names:
        try:
            with missing_as_error(f"{whole}/{name}".strip("/")):
                attributes = _attributes_at(root, f"{path}/{name}".strip("/"))
            if attributes is not None:
                yield name, attributes
        except CorruptStoreError as e:
            yield name, e
