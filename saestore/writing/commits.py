"""The commits of a writer: one document of a set, replaced where it is still the one that this writer knows."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import zarr

from saestore.errors import NotFoundError, StoreConflictError
from saestore.format import DELETED, NEXT, TABLES, SetAttributes
from saestore.storage import DOCUMENT, WriteBatch, durable, group_document, local_folder, write_errors
from saestore.storage.conditional import Tagged, get_tagged, put_if_match, replace_tagged
from saestore.storage.durable import PARTIAL, publish
from saestore.storage.open import root_attributes
from saestore.writing.lock import SetLock

_STEP = 1 << 20  # generations that a writer with a rival may leave out


class SetCommits:
    """The lock and the committed attributes of one set.

    `root`: Root group of the store, writable. `path`: ``dataset/sample_type/sae``.
    """

    def __init__(self, root: zarr.Group, path: str) -> None:
        self._root = root
        self.path = path
        self._lock = SetLock(root, path)
        self.attributes: SetAttributes | None = None
        self._seen: dict[str, Tagged | None] = {}  # documents as this writer last read or wrote them, by key
        self._replaced: SetAttributes | None = None  # what readers see until the set that is written replaces it

    def _errors(self) -> Any:
        return write_errors(f"{self._root.store}")

    @property
    def root(self) -> zarr.Group:
        """Root group of the store."""
        return self._root

    @property
    def _base(self) -> str:
        return f"{self._root.path}/{self.path}".strip("/")

    def _key(self, *below: str) -> str:
        return "/".join([self._base, *below, DOCUMENT])

    def require(self) -> SetAttributes:
        """The attributes of the set, which must have been started."""
        if self.attributes is None:
            raise NotFoundError(f"There is no activation set {self.path} in the store.", code="unknown-set")
        return self.attributes

    def _batch(self) -> WriteBatch:
        """Writes below the set; unlike zarr it leaves the documents of the groups above alone."""
        return WriteBatch(self._root.store, self._base)

    def commit(self, attributes: SetAttributes) -> None:
        """Rewrite the set's attributes: the only commit there is."""
        with self._errors():
            self._commit(self._batch(), attributes)

    def _commit(self, batch: WriteBatch, attributes: SetAttributes) -> None:
        batch.sync()
        self._lock.confirm()
        self._put_document(self._key(*(() if self._replaced is None else (NEXT,))), attributes.to_json())
        self.attributes = attributes

    def _put_document(self, key: str, attributes: Mapping[str, Any]) -> None:
        """Commit a document where it is still the one that this writer read or wrote last."""
        if key not in self._seen:
            self._seen[key] = get_tagged(self._root.store, key)
        written = replace_tagged(self._root.store, key, group_document(attributes), self._seen[key])
        if written is None:
            raise StoreConflictError(
                f"{self.path} was changed by another process meanwhile. Nothing of it is lost, and nothing further is "
                "written; run this again.",
                code="changed-meanwhile",
            )
        self._seen[key] = written

    def _fence(self) -> None:
        """One commit after which a last owner that is alive commits nothing, and names nothing as this writer does."""
        if self.attributes is None:
            count_deletion(self._root)
            self._lock.may_have_rival = False
            return
        batch, before = self._batch(), self.attributes
        for name in TABLES:  # also those that the other one may be about to begin
            batch.put_group(name)
        step = 2 + secrets.randbelow(_STEP)  # the rival may be writing the next generation beside this set
        tables = {name: replace(before.table(name), version=before.table(name).version + step) for name in TABLES}
        self._commit(batch, replace(before, generation=before.generation + step, tables=tables))
        self._lock.may_have_rival = False

    def _flush_document(self) -> None:
        """Have the attributes on the disk that were read: a writer that was killed may have left that to be done."""
        folder = local_folder(self._root)
        if folder is not None and self.attributes is not None:
            durable.flush([folder / self.path / DOCUMENT], folder)

    def _create_parents(self) -> None:
        """Create the groups above the set: a set whose parents are missing would not be found."""
        folder, names = local_folder(self._root), self.path.split("/")
        if folder is None:
            for depth in range(1, len(names)):
                key = "/".join([self._root.path, *names[:depth], DOCUMENT]).strip("/")
                put_if_match(self._root.store, key, group_document(), None)
            return
        for depth in range(1, len(names)):
            parent = folder.joinpath(*names[:depth], DOCUMENT)
            if parent.exists():
                continue
            # Drafted in the set's own folder, where it is removed if this process is killed.
            draft = folder / self.path / f"{names[depth - 1]}{PARTIAL}"
            draft.write_bytes(group_document())
            durable.flush([draft], draft.parent)  # its name is flushed with the set's
            with suppress(FileExistsError):
                publish(draft, parent)
            draft.unlink()


def n_deleted(root: zarr.Group) -> tuple[int, Tagged | None]:
    """How many sets of the store have been deleted: a set that is written later has other names than they had."""
    found = get_tagged(root.store, _root_key(root))
    attributes = {} if found is None else json.loads(found.value)["attributes"]
    return int(attributes.get(DELETED, 0)), found


def count_deletion(root: zarr.Group) -> None:
    """Record one more deletion in the attributes of the store."""
    written = False
    while not written:
        n, before = n_deleted(root)
        written = put_if_match(root.store, _root_key(root), group_document(root_attributes(n + 1)), before)


def _root_key(root: zarr.Group) -> str:
    return f"{root.path}/{DOCUMENT}".strip("/")
