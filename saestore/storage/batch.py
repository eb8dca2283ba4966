"""Writing many keys of a store at once: encoded arrays and documents, without a zarr call for each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.buffer import Buffer
from zarr.abc.store import Store
from zarr.storage import LocalStore, WrapperStore

from saestore.storage import durable

DOCUMENT = "zarr.json"
# Values wait until this many bytes are there: a small set is written in one pass, a large one shard by shard.
_FLUSH_BYTES = 1 << 18


class WriteBatch:
    """Collects keys and values and writes them side by side.

    Parameters
    ----------
    store
        A writable zarr store.
    prefix
        Path below which every key is.

    Notes
    -----
    Memory: 256 KiB, or one value that is larger; and a path per key until `sync`.
    """

    def __init__(self, store: Store, prefix: str = "") -> None:
        self._store, self._prefix = store, prefix.strip("/")
        self._pending: dict[str, bytes] = {}
        self._size = 0
        self._folder = Path(store.root) if isinstance(store, LocalStore) else None
        self._files: list[Path] = []  # which may not be on the disk yet
        self.n_bytes = 0  # of all arrays, their documents included

    def put(self, key: str, value: bytes) -> None:
        """Write `value` under `key`, relative to the prefix; at the latest with `flush`."""
        self.n_bytes += len(value)
        self._put(key, value)

    def _put(self, key: str, value: bytes) -> None:
        self._pending[f"{self._prefix}/{key}".strip("/")] = value
        self._size += len(value)
        if self._size >= _FLUSH_BYTES:
            self.flush()

    def put_group(self, path: str, attributes: Mapping[str, Any] | None = None) -> bytes:
        """Write the document of a group; returns it."""
        document = group_document(attributes)
        self._put(f"{path}/{DOCUMENT}".strip("/"), document)
        return document

    def flush(self) -> None:
        """Write what is waiting."""
        if not self._pending:
            return
        pending, self._pending, self._size = self._pending, {}, 0
        carrier = _Carrier(self._store, pending)
        zarr.create_group(carrier, zarr_format=3)
        if not carrier.done:
            raise RuntimeError("zarr created a group without writing its document")
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


class _Carrier(WrapperStore[Store]):
    """Writes all pending values where zarr, in its own event loop, writes the document of a group.

    zarr has no public function that writes bytes. The group itself is not written, nor are those above it.
    """

    def __init__(self, store: Store, pending: Mapping[str, bytes]) -> None:
        super().__init__(store)
        self._pending, self.done = pending, False

    async def get(self, *_: Any, **__: Any) -> Buffer | None:
        """Nothing is there yet."""
        return None

    async def exists(self, key: str) -> bool:  # noqa: ARG002
        """Nothing is there yet."""
        return False

    async def set(self, key: str, value: Buffer) -> None:  # noqa: ARG002
        """Write the pending values instead of the document."""
        if not self.done:
            self.done = True
            kind = type(value)
            await asyncio.gather(*(self._store.set(k, kind.from_bytes(v)) for k, v in self._pending.items()))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Same."""
        await self.set(key, value)
