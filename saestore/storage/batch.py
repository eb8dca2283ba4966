"""Writing many keys of a store at once: encoded arrays and documents, without a zarr call for each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from saestore.storage import durable

if TYPE_CHECKING:
    from zarr.abc.store import Store

DOCUMENT = "zarr.json"
# Values wait until this many bytes are there: a small set is written in one pass, a large one shard by shard.
_FLUSH_BYTES = 1 << 18


class WriteBatch:
    """Collects keys and values and writes them side by side, into a writable zarr store below `prefix`.

    Memory: 256 KiB, or one value that is larger; and a path per key until `sync`.
    """

    def __init__(self, store: Store, prefix: str = "") -> None:
        from zarr.storage import LocalStore

        self._store, self._prefix = store, prefix.strip("/")
        self._pending: dict[str, bytes] = {}
        self._guard = Lock()  # threads write several arrays at the same time
        self._size = 0
        self._folder = Path(store.root) if isinstance(store, LocalStore) else None
        self._files: list[Path] = []  # which may not be on the disk yet
        self.n_bytes = 0  # of all arrays, their documents included

    def put(self, key: str, value: bytes) -> None:
        """Write `value` under `key`, relative to the prefix; at the latest with `flush`."""
        self._put(key, value, len(value))

    def _put(self, key: str, value: bytes, counted: int = 0) -> None:
        with self._guard:
            self.n_bytes += counted
            self._pending[f"{self._prefix}/{key}".strip("/")] = value
            self._size += len(value)
        if self._size >= _FLUSH_BYTES:
            self.flush()

    def put_group(self, path: str, attributes: Mapping[str, Any] | None = None) -> bytes:
        """Write the document of a group; returns it."""
        key, document = f"{path}/{DOCUMENT}".strip("/"), group_document(attributes)
        file = None if self._folder is None else self._folder / self._prefix / key
        if file is not None and file.is_file() and file.read_bytes() == document:
            self._files.append(file)  # a crash while it is written again could tear it
        else:
            self._put(key, document)
        return document

    def flush(self) -> None:
        """Write what is waiting."""
        with self._guard:
            pending, self._pending, self._size = self._pending, {}, 0
        if not pending:
            return
        from saestore.storage.carriers import write_keys

        write_keys(self._store, pending)
        if self._folder is not None:
            self._files += [self._folder / key for key in pending]

    def sync(self) -> None:
        """Write what is waiting; on a local folder all of it is on the disk then, so that a document may name it."""
        self.flush()
        if self._folder is not None:
            durable.flush(self._files, self._folder)
        self._files.clear()


def group_document(attributes: Mapping[str, Any] | None = None) -> bytes:
    """The ``zarr.json`` of a group."""
    return json.dumps({"attributes": dict(attributes or {}), "zarr_format": 3, "node_type": "group"}).encode()
