"""Writes that happen only where nobody else was quicker: put if absent, put if match.

A claim (a lock, the receipt of a task) is a put if absent; a commit is a put if match. Both return False where another
process was quicker, and both may be repeated: data that is there already, byte for byte, counts as written. So data
that holds a token of its writer shows who was quicker, even where the answer to a request is lost and it is sent again.
"""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zarr.abc.store import Store
from zarr.buffer import default_buffer_prototype
from zarr.storage import LocalStore, MemoryStore, ObjectStore, WrapperStore

from saestore.errors import NotFoundError, StoreWriteError
from saestore.storage import durable
from saestore.storage.repository import RepositoryStore


@dataclass(frozen=True)
class Tagged:
    """A value, and the tag by which its place recognises it."""

    value: bytes
    tag: Any


def put_if_absent(store: Store, key: str, data: bytes) -> bool:
    """Write where nothing is there, as `put_if_match` does with None."""
    return put_if_match(store, key, data, None)


def get_tagged(store: Store, key: str) -> Tagged | None:
    """What is under `key`, to be given to `put_if_match`; None where nothing is there."""
    return _place(store).get(key)


def put_if_match(store: Store, key: str, data: bytes, before: Tagged | None) -> bool:
    """Replace what is under `key` where it is still `before`, from `get_tagged`; None where nothing shall be there.

    Returns whether `key` has `data` now; False where it has been changed since, and is left as it is. Raises what
    `check_conditional` raises.
    """
    return replace_tagged(store, key, data, before) is not None


def replace_tagged(store: Store, key: str, data: bytes, before: Tagged | None) -> Tagged | None:
    """Same, and returns what is there now, for the next one; None where it has been changed since."""
    place = _place(store)
    return place.put(key, data, before) or _found(place, key, data)


def remove(store: Store, key: str, before: Tagged | None) -> None:
    """Remove a key where it is still what was read; on object stores, which have no such condition, only nearly so."""
    if before is not None:
        _place(store).remove(key, before)


def is_shared(store: Store) -> bool:
    """Whether processes of other machines write here that this one cannot see: a lock is a lease then."""
    return isinstance(unwrapped(store), ObjectStore)


def check_conditional(store: Store) -> None:
    """Refuse a place that cannot keep two writers apart, before anything is written there.

    Raises StoreWriteError: The place ignores conditions, or has none (code ``no-conditional-writes``).
    """
    _place(store)


def unwrapped(store: Store) -> Store:
    """The store inside wrappers of it."""
    while isinstance(store, WrapperStore) and not isinstance(store, RepositoryStore):
        store = store._store  # noqa: SLF001
    return store


def _found(place: _Place, key: str, data: bytes) -> Tagged | None:
    found = place.get(key)
    return found if found is not None and found.value == data else None


class _Place(ABC):
    """What one kind of store does for the functions above."""

    @abstractmethod
    def get(self, key: str) -> Tagged | None:
        """Value and tag, None where nothing is there."""

    @abstractmethod
    def put(self, key: str, data: bytes, before: Tagged | None) -> Tagged | None:
        """Write where `before` is still there, None for nothing; returns what is there then."""

    @abstractmethod
    def remove(self, key: str, before: Tagged) -> None:
        """Remove where `before` is still there."""


class _Folder(_Place):
    """A local or network folder: a file is written in full under another name, and linked or renamed."""

    def __init__(self, store: LocalStore) -> None:
        self._root = Path(store.root)

    def get(self, key: str) -> Tagged | None:
        try:
            value = durable.read_file(self._root / key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Tagged(value, value)

    def put(self, key: str, data: bytes, before: Tagged | None) -> Tagged | None:
        path = self._root / key
        if before is None:
            return Tagged(data, data) if durable.create_file(path, data) else None
        if not path.parent.is_dir():
            return None
        with _alone_in(path.parent):
            if self.get(key) != before:
                return None
            durable.replace_file(path, data)
        return Tagged(data, data)

    def remove(self, key: str, before: Tagged) -> None:
        path = self._root / key
        with suppress(FileNotFoundError), _alone_in(path.parent):
            if self.get(key) == before:
                path.unlink(missing_ok=True)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder; without effect where folders cannot be locked."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems; a process that ends lets go of it
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


_one_at_a_time = threading.Lock()


class _Memory(_Place):
    """A store that this process alone sees: in its memory, or an icechunk session that is not committed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._wait_for = _step if type(store) is MemoryStore else _in_thread  # a subclass may have to wait

    def get(self, key: str) -> Tagged | None:
        buffer = self._wait_for(self._store.get(key, default_buffer_prototype()))
        return None if buffer is None else Tagged(buffer.to_bytes(), buffer.to_bytes())

    def put(self, key: str, data: bytes, before: Tagged | None) -> Tagged | None:
        with _one_at_a_time:
            if self.get(key) != before:
                return None
            self._wait_for(self._store.set(key, default_buffer_prototype().buffer.from_bytes(data)))
            return Tagged(data, data)

    def remove(self, key: str, before: Tagged) -> None:
        with _one_at_a_time:
            if self.get(key) == before:
                self._wait_for(self._store.delete(key))


class _Repository(_Memory):
    """An icechunk repository: every write is a commit, of all that was written before it too."""

    _store: RepositoryStore

    def get(self, key: str) -> Tagged | None:
        self._store.refresh()
        return super().get(key)

    def put(self, key: str, data: bytes, before: Tagged | None) -> Tagged | None:
        written = super().put(key, data, before)
        return written if written is not None and self._store.commit(f"saestore: {key}") else None

    def remove(self, key: str, before: Tagged) -> None:
        super().remove(key, before)
        self._store.commit(f"saestore: no more {key}")


def _in_thread(answer: Coroutine[Any, Any, Any]) -> Any:
    async def whole() -> Any:
        return await answer

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:  # this one may have an event loop that runs, as in a notebook
        return thread.submit(asyncio.run, whole()).result()


def _step(answer: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for."""
    try:
        answer.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a store in memory waits")


class _Objects(_Place):
    """An object store by obstore."""

    def __init__(self, store: ObjectStore[Any]) -> None:
        self._store = store.store

    def get(self, key: str) -> Tagged | None:
        import obstore

        try:
            result = obstore.get(self._store, key)
        except FileNotFoundError:
            return None
        return Tagged(result.bytes().to_bytes(), _version(result.meta))

    def put(self, key: str, data: bytes, before: Tagged | None) -> Tagged | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if before is None else before.tag
        try:
            result = obstore.put(self._store, key, data, mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            return None
        except FileNotFoundError:
            if before is None:
                raise NotFoundError(
                    f"{self._store} is not there: create its bucket first, or name another one.", code="missing-bucket"
                ) from None
            return None
        return Tagged(data, _version(result))

    def remove(self, key: str, before: Tagged) -> None:
        if self.get(key) == before:
            self._delete(key)

    def _delete(self, key: str) -> None:
        import obstore

        with suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def check(self, label: str) -> None:
        """Try both conditions with a value that is removed at once."""
        key = f".probe-{uuid.uuid4().hex}"
        try:
            kept = self.put(key, b"1", None) and not self.put(key, b"2", None)
            first = self.get(key)
            if not kept or first is None or first.value != b"1":
                raise _refusal(label, "it ignores `If-None-Match: *` (put if absent)")
            kept = self.put(key, b"3", first) and not self.put(key, b"4", first)
            if not kept or _found(self, key, b"3") is None:
                raise _refusal(label, "it ignores `If-Match` (put if match)")
        except NotImplementedError as error:
            raise _refusal(label, "it has no put if match") from error
        finally:
            with suppress(Exception):
                self._delete(key)


def _version(answer: Any) -> dict[str, str]:
    return {name: answer[name] for name in ("e_tag", "version") if answer.get(name) is not None}


_checked: list[Any] = []  # object stores that keep conditions


def _place(store: Store) -> _Place:
    base = unwrapped(store)
    if isinstance(base, LocalStore):
        return _Folder(base)
    if isinstance(base, RepositoryStore):
        return _Repository(base)
    if isinstance(base, MemoryStore) or type(base).__name__ == "IcechunkStore":
        return _Memory(base)
    if isinstance(base, ObjectStore):
        place = _Objects(base)
        if not any(base.store == each for each in _checked):
            place.check(str(base.store))
            _checked.append(base.store)
        return place
    raise _refusal(str(base), f"a {type(base).__name__} has neither put if absent nor put if match")


def _refusal(label: str, reason: str) -> StoreWriteError:
    return StoreWriteError(
        f"{label} can be read, but not written: {reason}, so two writers could destroy a set. Write to a local folder "
        "and copy it there, or open the place by its s3://, gs:// or az:// URL.",
        code="no-conditional-writes",
    )
