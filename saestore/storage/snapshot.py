"""Reading bytes of a store: many keys and ranges at once, in any kind of store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import zarr
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.buffer.cpu import buffer_prototype
from zarr.storage import LocalStore, WrapperStore

from saestore.errors import CorruptStoreError
from saestore.storage.open import missing_as_error

# Requests that wait at the same time, unless zarr's configuration has `saestore.requests_at_once`.
REQUESTS_AT_ONCE = 64
# A key, and which bytes of it; None for all.
Request = tuple[str, ByteRequest | None]


class SnapshotStore:
    """A store from which committed, immutable content is read: what is missing or empty is damage.

    Parameters
    ----------
    store
        Any zarr store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.folder = Path(store.root) if type(store) is LocalStore else None

    def fetch(self, requests: Sequence[Request]) -> list[bytes]:
        """The bytes of all requests, made at once; in a local folder one after the other, without zarr.

        Raises
        ------
        CorruptStoreError
            Something is missing or empty.
        UnreachableError
            The store does not answer.
        """
        found = self.find(requests)
        for (key, _), value in zip(requests, found, strict=True):
            if not value:
                raise CorruptStoreError(f"{key} is missing although committed attributes name it.")
        return [value for value in found if value is not None]

    def find(self, requests: Sequence[Request]) -> list[bytes | None]:
        """Same, with None for keys that are not there."""
        if not requests:
            return []
        if self.folder is not None:
            return [_read_file(f"{self.folder}/{key}", key, which) for key, which in requests]
        carrier = _Carrier(self._store, requests)
        zarr.open_group(carrier, mode="r", zarr_format=3, use_consolidated=False)
        for (key, _), value in zip(requests, carrier.values, strict=True):
            if isinstance(value, BaseException):
                with missing_as_error(key):
                    raise value
        return [value.to_bytes() if isinstance(value, Buffer) else None for value in carrier.values]

    def names(self, prefix: str) -> set[str]:
        """Names right below a path. Nothing below them is read."""
        if self.folder is not None:
            folder = self.folder / prefix
            return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        carrier = _Carrier(self._store, [], prefix)
        zarr.open_group(carrier, mode="r", zarr_format=3, use_consolidated=False)
        return carrier.names


def _read_file(path: str, key: str, which: ByteRequest | None) -> bytes | None:
    with missing_as_error(key):
        try:
            if isinstance(which, RangeByteRequest):
                return pread(path, which.start, which.end - which.start)
            if isinstance(which, SuffixByteRequest):
                return pread(path, -which.suffix, which.suffix)
            return Path(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None


def pread(path: str, offset: int, count: int) -> bytes:
    """Bytes of a file; a negative offset counts from its end."""
    fd = os.open(path, os.O_RDONLY)
    try:
        if offset < 0:
            offset += os.fstat(fd).st_size
            if offset < 0:
                raise ValueError("the file is shorter than its shard index")
        raw = os.pread(fd, count, offset)
    finally:
        os.close(fd)
    if len(raw) != count:
        raise ValueError(f"{path} is cut short: {len(raw)} of {count} bytes at {offset}")
    return raw


class _Carrier(WrapperStore[Store]):
    """Reads everything that is asked for where zarr, in its own event loop, reads the document of a group.

    zarr has no public function that reads bytes, and stores may be bound to its event loop.
    """

    def __init__(self, store: Store, requests: Sequence[Request], prefix: str | None = None) -> None:
        super().__init__(store)
        self._requests, self._prefix = requests, prefix
        self.names: set[str] = set()
        self.values: list[Buffer | BaseException | None] = []

    @property
    def read_only(self) -> bool:
        """Always: zarr would make a copy of one that can be written."""
        return True

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:  # noqa: ARG002
        """Read what is asked for, and answer with the document of an empty group."""
        limit = asyncio.Semaphore(int(zarr.config.get("saestore.requests_at_once", REQUESTS_AT_ONCE)))

        async def one(request: Request) -> Buffer | None:
            async with limit:
                try:
                    return await self._store.get(request[0], buffer_prototype, request[1])
                except FileNotFoundError:
                    return None

        if self._prefix is not None:
            self.names = {name.strip("/") async for name in self._store.list_dir(self._prefix)}
        self.values = await asyncio.gather(*map(one, self._requests), return_exceptions=True)
        return prototype.buffer.from_bytes(b'{"zarr_format": 3, "node_type": "group", "attributes": {}}')
