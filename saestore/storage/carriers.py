"""Reading and writing many keys of any zarr store at once, inside zarr's own event loop.

zarr has no public function that reads or writes bytes, and stores may be bound to its event loop. Each carrier does its
work where zarr reads, or writes, the document of a group. Local folders are read without this module, and without zarr.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import zarr
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.buffer.cpu import buffer_prototype
from zarr.storage import WrapperStore

from saestore.storage.places import Request, Span

# Requests that wait at the same time, unless zarr's configuration has `saestore.requests_at_once`.
REQUESTS_AT_ONCE = 64
_DOCUMENT = "zarr.json"


def read_keys(store: Store, requests: Sequence[Request]) -> list[bytes | BaseException | None]:
    """What each request brings: bytes, None where nothing is there, or the error."""
    carrier = _Reads(store, requests)
    zarr.open_group(carrier, mode="r", zarr_format=3, use_consolidated=False)
    return [value.to_bytes() if isinstance(value, Buffer) else value for value in carrier.values]


def names_below(store: Store, prefix: str) -> set[str]:
    """Names right below a path."""
    carrier = _Reads(store, [], prefix)
    zarr.open_group(carrier, mode="r", zarr_format=3, use_consolidated=False)
    return carrier.names


def write_keys(store: Store, pending: Mapping[str, bytes]) -> None:
    """Write all values, side by side."""
    carrier = _Writes(store, pending)
    zarr.create_group(carrier, zarr_format=3)
    if not carrier.done:
        raise RuntimeError("zarr created a group without writing its document")


def _as_zarr(which: Span | None) -> ByteRequest | None:
    if which is None:
        return None
    start, stop = which
    return SuffixByteRequest(-start) if stop is None else RangeByteRequest(start, stop)


class _Reads(WrapperStore[Store]):
    """Reads everything that is asked for where zarr reads the document of a group."""

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
                    return await self._store.get(request[0], buffer_prototype, _as_zarr(request[1]))
                except FileNotFoundError:
                    return None

        if self._prefix is not None:
            self.names = {name.strip("/") async for name in self._store.list_dir(self._prefix)}
        self.values = await asyncio.gather(*map(one, self._requests), return_exceptions=True)
        return prototype.buffer.from_bytes(b'{"zarr_format": 3, "node_type": "group", "attributes": {}}')


class _Writes(WrapperStore[Store]):
    """Writes all pending values where zarr writes the document of a group; neither it nor those above are written."""

    def __init__(self, store: Store, pending: Mapping[str, bytes]) -> None:
        super().__init__(store)
        self._pending, self.done = pending, False
        while isinstance(store, WrapperStore):
            store = store._store  # noqa: SLF001
        self._in_order = type(store).__name__ == "IcechunkStore"

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
            kind, documents = type(value), [k for k in self._pending if k.endswith(_DOCUMENT)]
            # icechunk takes a shard only of an array that it knows; elsewhere one step is enough.
            steps = [documents, self._pending.keys() - documents] if self._in_order else [self._pending]
            for keys in steps:
                await asyncio.gather(*(self._store.set(k, kind.from_bytes(self._pending[k])) for k in keys))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Same."""
        await self.set(key, value)
