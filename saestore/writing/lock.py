"""One builder at a time: a lock that names its owner, and that a dead process does not keep."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import zarr

from saestore.errors import LockedError, StoreWriteError
from saestore.format import split_set_path
from saestore.storage import DOCUMENT, group_document, local_folder, missing_as_error, write_errors
from saestore.storage.conditional import (
    Tagged,
    check_conditional,
    get_tagged,
    is_shared,
    put_if_match,
    remove,
)
from saestore.storage.durable import PARTIAL

LOCK = "lock"
LEASE = 120.0  # seconds that a lock of an object store holds after the last sign of its owner
_HEARTBEATS = 5  # in a lease
_BROKEN = "broken"  # in a lock that a person took from an owner that may be alive
_RIVAL = "rival"  # in a lock whose owner has a rival: one that lost it and may be alive
_stuck: set[str] = set()  # tokens of locks of this process that could not be given back


class SetLock:
    """The lock of one activation set, a Zarr group ``lock`` whose attributes name its owner.

    It is a group so that a listing of the set shows nothing that Zarr does not know. It is put where none is, or in the
    place of a dead owner's: of many that try one gets it. On an object store it is a lease that a thread renews.
    """

    def __init__(self, root: zarr.Group, path: str) -> None:
        split_set_path(path)  # before anything is written or removed
        self._root, self._set, self._store = root, path, root.store
        self._path = f"{path}/{LOCK}"
        self._key = f"{root.path}/{self._path}/{DOCUMENT}".strip("/")
        self._token = uuid.uuid4().hex
        self._renewed = 0.0  # when the lease began, by this process's clock
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None
        # It was taken from an owner that may still be alive, and nothing fences that one off.
        self.may_have_rival = False

    def acquire(self) -> None:
        """Take the lock, from a dead owner if need be.

        Raises LockedError: A living process, or one that may be alive, holds it. Raises StoreWriteError: The store was
        opened to read, or its place cannot keep two writers apart.
        """
        if self._store.read_only:
            raise StoreWriteError(
                f"{self._store} was opened read-only. Open it with mode='a' to write {self._set}.", code="read-only"
            )
        with write_errors(f"{self._store}"):
            check_conditional(self._store)
            while True:
                found = self._found()
                before = {} if found is None else _owner(found, self._path)
                if found is not None and not _is_dead(before):
                    raise LockedError(self._refusal(before))
                self.may_have_rival = bool(before) and (_RIVAL in before or not _is_gone(before))
                try:
                    if self._put(found):
                        break
                except BaseException:
                    with suppress(Exception):  # it may be there, and only its name not yet on the disk
                        self.release()
                    raise
        if is_shared(self._store):
            self._stop = threading.Event()
            self._heart = threading.Thread(target=self._renew, args=(self._stop,), daemon=True)
            self._heart.start()

    def check(self) -> dict[str, Any] | None:
        """Refuse as `acquire` does, without taking the lock; returns the dead owner that it has, if any."""
        holder = read_lock(self._root, self._path)
        if holder is not None and not _is_dead(holder):
            raise LockedError(self._refusal(holder))
        return holder

    def confirm(self) -> None:
        """Refuse to commit where the lock is not this one's any more: another may write now.

        Raises LockedError: The lock is gone, or another's, or the lease has not been renewed in time.
        """
        holder = read_lock(self._root, self._path) or {}
        if holder.get("token") != self._token or holder.get(_BROKEN) or (is_shared(self._store) and self._left() <= 0):
            raise LockedError(
                f"{self._set} is not locked by this process any more; nothing further is written. Run it again.",
                code="lock-lost",
            )

    def release(self) -> None:
        """Give the lock back, if it is still this one's."""
        self._stop.set()
        if self._heart is not None:
            self._heart.join()  # what it renews meanwhile could not be removed
        if is_shared(self._store) and self._left() < LEASE / _HEARTBEATS:
            return  # another may have it by the time that it is removed
        try:
            with write_errors(f"{self._store}"):
                found = self._found()
                holder = {} if found is None else _owner(found, self._path)
                if found is not None and holder.get("token") == self._token:
                    self._remove(found, holder if self.may_have_rival else None)
        except BaseException:
            _stuck.add(self._token)  # a later writer of this process takes it
            raise

    def break_(self, *, force: bool) -> dict[str, Any] | None:
        """Break the lock on a person's word; returns its owner, None where there is no lock.

        Where the owner may be alive, a mark stays by which the next writer knows that it may have a rival.

        Raises LockedError: Its owner is alive, and `force` is False.
        """
        if self._store.read_only:
            raise StoreWriteError(
                f"{self._store} was opened read-only. Open it with mode='r+' to unlock {self._set}.", code="read-only"
            )
        found = self._found()
        holder = {} if found is None else _owner(found, self._path)
        if found is None or holder.get(_BROKEN):
            return None
        if not force and _is_running(holder):
            raise LockedError(
                f"{self._set} is being written by {describe_owner(holder)}, which is alive. Stop it first; or break "
                "the lock with --force (force=True), and what it writes from then on is lost.",
                code="owner-alive",
            )
        with write_errors(f"{self._store}"):
            self._remove(found, None if _is_gone(holder) and _RIVAL not in holder else holder)
        return holder

    def _remove(self, found: Tagged, rival: dict[str, Any] | None) -> None:
        """Remove the lock, or leave a mark for the next one where an owner may be alive that nothing fences off."""
        if rival is not None:
            put_if_match(self._store, self._key, group_document({**rival, _BROKEN: True}), found)
            return
        folder = local_folder(self._root)
        if folder is not None:
            for draft in (folder / self._path).glob(f"*{PARTIAL}"):  # of processes killed while they asked for it
                draft.unlink(missing_ok=True)
        remove(self._store, self._key, found)
        if folder is not None:
            with suppress(OSError):  # not empty: the next one is asking for it
                (folder / self._path).rmdir()

    def _found(self) -> Tagged | None:
        with missing_as_error(self._path):
            return get_tagged(self._store, self._key)

    def _put(self, before: Tagged | None) -> bool:
        """Write this owner where `before` still is, and begin the lease."""
        begun = time.monotonic()
        owner: dict[str, Any] = {
            "host": socket.gethostname(),
            **_machine(),
            "pid": os.getpid(),
            "started": _process_start(os.getpid()),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "token": self._token,
        }
        if self.may_have_rival:
            owner[_RIVAL] = True
        if is_shared(self._store):
            owner["expires"] = time.time() + LEASE
        try:
            if not put_if_match(self._store, self._key, group_document(owner), before):
                return False
        except FileNotFoundError:  # just given back, with its folder
            return False
        self._renewed = begun
        return True

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(LEASE / _HEARTBEATS):
            with suppress(Exception):  # a server that does not answer now may do so the next time
                found = get_tagged(self._store, self._key)
                holder = {} if found is None else _owner(found, self._path)
                if holder.get("token") != self._token or holder.get(_BROKEN):
                    return
                if not stop.is_set():
                    self._put(found)

    def _left(self) -> float:
        return self._renewed + LEASE - time.monotonic()

    def _refusal(self, holder: dict[str, Any]) -> str:
        return (
            f"{self._set} is being written by {describe_owner(holder)}. Wait for it, or stop it; if it is gone for "
            f"certain, run `saestore unlock {self._set}`."
        )


def describe_owner(holder: dict[str, Any]) -> str:
    """The owner of a lock, in words."""
    return f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('time')}"


def read_lock(root: zarr.Group, path: str) -> dict[str, Any] | None:
    """The owner that a lock records, None where there is no lock."""
    with missing_as_error(path):
        found = get_tagged(root.store, f"{root.path}/{path}/{DOCUMENT}".strip("/"))
        return None if found is None else _owner(found, path)


def _owner(found: Tagged, path: str) -> dict[str, Any]:
    with missing_as_error(path):
        return dict(json.loads(found.value)["attributes"])


def holder_of(root: zarr.Group, path: str) -> dict[str, Any] | None:
    """Who holds the lock of the set at `path`, None where nobody does or the owner is dead."""
    holder = read_lock(root, f"{path}/{LOCK}")
    return None if holder is None or _is_dead(holder) else holder


def _is_dead(holder: dict[str, Any]) -> bool:
    """True when the owner is gone, or has not renewed its lease; what is unknown is alive."""
    expires = holder.get("expires")
    is_over = isinstance(expires, int | float) and expires < time.time()
    return bool(holder.get(_BROKEN)) or is_over or _is_gone(holder)


def _is_running(holder: dict[str, Any]) -> bool:
    """True when the owner is known to be alive."""
    expires = holder.get("expires")
    if isinstance(expires, int | float):
        return not _is_dead(holder)
    return _is_here(holder) and not _is_gone(holder)


def _is_here(holder: dict[str, Any]) -> bool:
    """True when the owner ran where its process would be seen."""
    pid, here = holder.get("pid"), _machine()
    names = ("boot", "pid_namespace")
    if holder.get("host") != socket.gethostname() or type(pid) is not int or pid < 1:
        return False
    return all(here[name] is not None and here[name] == holder.get(name) for name in names)


def _is_gone(holder: dict[str, Any]) -> bool:
    """True when the owner's process has ended, or the machine was restarted."""
    if not _is_here(holder):
        return _is_of_former_boot(holder)
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    started = holder.get("started")
    if holder.get("token") in _stuck:
        return True
    return started is not None and started != _process_start(holder["pid"])


def _is_of_former_boot(holder: dict[str, Any]) -> bool:
    here = _machine()
    same = all(here[name] and here[name] == holder.get(name) for name in ("machine", "pid_namespace"))
    boots = here["boot"], holder.get("boot")
    return same and holder.get("host") == socket.gethostname() and all(boots) and boots[0] != boots[1]


def _machine() -> dict[str, str | None]:
    """Which boot of which machine this is, and which processes are seen here: containers share names of hosts."""
    result: dict[str, str | None] = {"machine": None, "boot": None, "pid_namespace": None}
    with suppress(OSError):
        result["machine"] = Path("/etc/machine-id").read_text().strip() or None
    with suppress(OSError):
        result["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        result["pid_namespace"] = str(Path("/proc/self/ns/pid").readlink())
    return result


def _process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: a recycled pid has another one. None where unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rsplit(")", 1)[-1].split()
    return None if fields[0] == "Z" else int(fields[19])
