"""A store seen as a snapshot, for immutable arrays."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.storage import LocalStore, WrapperStore

from saestore.errors import CorruptStoreError


class IndexRead(Exception):
    """The index of a shard was asked for and is there; its chunks are not wanted."""


@dataclass(eq=False)
class _Span:
    """Bytes that will be asked for piece by piece, and are requested at once."""

    start: int
    stop: int
    value: Buffer | None = None


class SnapshotStore(WrapperStore[Store]):
    """A store seen as a snapshot: shard indexes are read once, and a chunk that is missing is damage, not zeros.

    Right for immutable arrays only. Memory: 16 bytes per chunk that was ever touched, a thousandth of the data.
    `documents` keeps the bytes of every ``zarr.json`` that was read, for checksums.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._indexes: dict[tuple[str, int], Buffer] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._index_only: set[str] = set()
        self._spans: dict[str, list[_Span]] = {}
        self.documents: dict[str, bytes] = {}

    @property
    def folder(self) -> Path | None:
        """The folder of a store in the local file system, else None."""
        return Path(self._store.root) if type(self._store) is LocalStore else None

    @property
    def read_only(self) -> bool:
        """Always: zarr would wrap a writable store again on every opening, and lose what this one has cached."""
        return True

    def index(self, key: str, size: int, read: Callable[[], Any]) -> bytes:
        """The last `size` bytes of a shard, its index; where it is not in memory, `read` has to ask for it."""
        if (key, size) not in self._indexes or key in self._index_only:
            with self._locks.setdefault(key, threading.Lock()):
                if (key, size) not in self._indexes:
                    self._read_index(key, read)
        return self._indexes[key, size].to_bytes()

    def _read_index(self, key: str, read: Callable[[], Any]) -> None:
        # Zarr reads an index with the chunk that it wants; nobody wants chunks of this shard before it is there.
        self._index_only.add(key)
        try:
            with suppress(IndexRead):
                read()
        finally:
            self._index_only.discard(key)

    @contextmanager
    def joined(self, key: str, start: int, stop: int) -> Iterator[None]:
        """Request these bytes of a shard at once, when the first of them are asked for."""
        span = _Span(start, stop)
        spans = self._spans.setdefault(key, [])
        spans.append(span)
        try:
            yield
        finally:
            spans.remove(span)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read a key, shard indexes and what was joined from memory where it was read before."""
        span = self._span(key, byte_range)
        held = self._held(key, byte_range, span)
        if held is not None:
            return held
        wanted = byte_range if span is None else RangeByteRequest(span.start, span.stop)
        return self._remember(key, byte_range, await self._store.get(key, prototype, wanted), span)

    def get_sync(self, key: str, **kwargs: Any) -> Buffer | None:
        """Same, for the codec pipelines of newer zarr versions that read without an event loop."""
        byte_range = kwargs.get("byte_range")
        span = self._span(key, byte_range)
        held = self._held(key, byte_range, span)
        if held is not None:
            return held
        if span is not None:
            kwargs["byte_range"] = RangeByteRequest(span.start, span.stop)
        value = self._store.get_sync(key, **kwargs)  # type: ignore[attr-defined]
        return self._remember(key, byte_range, value, span)

    # How newer zarr versions read chunks of a shard; they join neighbours themselves.
    if hasattr(Store, "get_ranges"):

        async def get_ranges(self, key: str, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            """Read ranges of a shard."""
            self._want_chunks(key)
            async for found in self._store.get_ranges(key, *args, **kwargs):  # type: ignore[attr-defined]
                yield found

        def get_ranges_sync(self, key: str, *args: Any, **kwargs: Any) -> Any:
            """Same, without an event loop."""
            self._want_chunks(key)
            return self._store.get_ranges_sync(key, *args, **kwargs)  # type: ignore[attr-defined]

    def _want_chunks(self, key: str) -> None:
        if key in self._index_only:
            raise IndexRead(key)

    def _span(self, key: str, byte_range: ByteRequest | None) -> _Span | None:
        if not isinstance(byte_range, RangeByteRequest):
            return None
        self._want_chunks(key)
        inside = (s for s in self._spans.get(key, ()) if s.start <= byte_range.start and byte_range.end <= s.stop)
        return next(inside, None)

    def _held(self, key: str, byte_range: ByteRequest | None, span: _Span | None) -> Buffer | None:
        if isinstance(byte_range, SuffixByteRequest):
            return self._indexes.get((key, byte_range.suffix))
        return None if span is None else _part(span, byte_range)

    def _remember(
        self, key: str, byte_range: ByteRequest | None, value: Buffer | None, span: _Span | None
    ) -> Buffer | None:
        if value is None or not len(value):  # of an empty shard, too, zarr 3.1 would make zeros
            if "/c/" in key:
                raise CorruptStoreError(f"{key} is missing although a committed segment names it.")
        elif isinstance(byte_range, SuffixByteRequest):
            self._indexes[key, byte_range.suffix] = value
        elif span is not None:
            span.value = value
            return _part(span, byte_range)
        elif key.endswith("zarr.json"):
            self.documents[key] = value.to_bytes()
        return value


def _part(span: _Span, byte_range: ByteRequest | None) -> Buffer | None:
    if span.value is None or not isinstance(byte_range, RangeByteRequest):
        return None
    return span.value[byte_range.start - span.start : byte_range.end - span.start]
