"""Reading bytes of a store: many keys and ranges at once, in any kind of store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from saestore.errors import CorruptStoreError
from saestore.storage import durable
from saestore.storage.open import LocalRoot, Root, missing_as_error
from saestore.storage.places import Request, Span

if TYPE_CHECKING:
    from zarr.abc.store import Store


class SnapshotStore:
    """A store from which committed, immutable content is read: what is missing or empty is damage.

    `store`: Any zarr store, or a local folder.
    """

    def __init__(self, store: Store | Path) -> None:
        if isinstance(store, Path):
            self.folder: Path | None = store
            return
        from zarr.storage import LocalStore

        self._store = store
        self.folder = Path(store.root) if type(store) is LocalStore else None

    @classmethod
    def of(cls, root: Root) -> SnapshotStore:
        """Of an opened store."""
        return cls(root.folder if isinstance(root, LocalRoot) else root.store)

    def fetch(self, requests: Sequence[Request]) -> list[bytes]:
        """The bytes of all requests, made at once; in a local folder one after the other, without zarr.

        Raises CorruptStoreError: Something is missing or empty. Raises UnreachableError: The store does not answer.
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
        from saestore.storage.carriers import read_keys

        values: list[bytes | None] = []
        for (key, _), value in zip(requests, read_keys(self._store, requests), strict=True):
            if isinstance(value, BaseException):
                with missing_as_error(key):
                    raise value
            values.append(value)
        return values

    def names(self, prefix: str) -> set[str]:
        """Names right below a path. Nothing below them is read."""
        if self.folder is not None:
            folder = self.folder / prefix
            return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        from saestore.storage.carriers import names_below

        return names_below(self._store, prefix)


def _read_file(path: str, key: str, which: Span | None) -> bytes | None:
    with missing_as_error(key):
        try:
            if which is None:
                return durable.read_file(path)
            start, stop = which
            return pread(path, start, -start if stop is None else stop - start)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None


def pread(path: str, offset: int, count: int) -> bytes:
    """Bytes of a file; a negative offset counts from its end."""
    with OneFile() as file:
        return file.pread(path, offset, count)


class OneFile:
    """Reads files, of which the last one stays open: opening one takes as long as decoding a chunk."""

    def __init__(self) -> None:
        self._path, self._fd = "", -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def pread(self, path: str, offset: int, count: int) -> bytes:
        """Bytes of a file; a negative offset counts from its end."""
        if path != self._path:
            # A pipe refuses `pread` at once, and what a device gives has not the checksum of a chunk.
            fd, before, self._path = os.open(path, durable.READ_ONLY), self._fd, path
            self._fd = fd
            if before >= 0:
                os.close(before)
        if offset < 0:
            offset += os.fstat(self._fd).st_size
            if offset < 0:
                raise ValueError("the file is shorter than its shard index")
        raw = os.pread(self._fd, count, offset)
        if len(raw) != count:
            raise ValueError(f"{path} is cut short: {len(raw)} of {count} bytes at {offset}")
        return raw
