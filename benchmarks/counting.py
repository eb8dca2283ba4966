"""Counts the cost of a question: requests and bytes at a store, decoded chunks. Exact, where seconds are noise."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.storage import WrapperStore

from saestore.storage import reader, shards


@dataclass(frozen=True)
class Costs:
    """Reads and writes of a store, and their bytes."""

    requests: int = 0
    bytes_read: int = 0
    writes: int = 0
    bytes_written: int = 0


class CountingStore(WrapperStore[Store]):
    """A store that logs every read and write: kind, key, bytes."""

    def __init__(self, store: Store, log: list[tuple[str, str, int]] | None = None) -> None:
        super().__init__(store)
        self.log = [] if log is None else log

    def _with_store(self, store: Store) -> "CountingStore":
        return CountingStore(store, self.log)  # zarr opens such copies

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        return self._read(key, await self._store.get(key, prototype, byte_range))

    def get_sync(self, key: str, **kwargs: Any) -> Buffer | None:  # newer versions of zarr read without an event loop
        return self._read(key, self._store.get_sync(key, **kwargs))  # type: ignore[attr-defined]

    # Newer versions of zarr join ranges of one key; the base class does it with `get`, which counts.
    if hasattr(Store, "get_ranges"):
        get_ranges = Store.get_ranges
    if hasattr(Store, "get_ranges_sync"):
        get_ranges_sync = Store.get_ranges_sync

    async def set(self, key: str, value: Buffer, *args: Any) -> None:
        self.log.append(("write", key, len(value)))
        await self._store.set(key, value, *args)

    def set_sync(self, key: str, value: Buffer) -> None:
        self.log.append(("write", key, len(value)))
        self._store.set_sync(key, value)  # type: ignore[attr-defined]

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        self.log.append(("write", key, len(value)))
        await self._store.set_if_not_exists(key, value)

    def _read(self, key: str, value: Buffer | None) -> Buffer | None:
        self.log.append(("read", key, 0 if value is None else len(value)))
        return value

    def taken(self) -> Costs:
        """The costs since the last call."""
        log = self.log.copy()
        self.log.clear()
        number = Counter(kind for kind, _, _ in log)
        size = {kind: sum(n for k, _, n in log if k == kind) for kind in ("read", "write")}
        return Costs(number["read"], size["read"], number["write"], size["write"])


@contextlib.contextmanager
def decoded() -> Iterator[Counter[str]]:
    """Count the chunks that are decoded inside the block, each of which is checked first, and their bytes."""
    counter: Counter[str] = Counter()
    check = shards.check_chunk

    def counted(raw: bytes, checksum: int) -> bytes:
        counter.update(chunks=1, bytes=len(raw))
        return check(raw, checksum)

    with mock.patch.object(shards, "check_chunk", counted), mock.patch.object(reader, "check_chunk", counted):
        yield counter
