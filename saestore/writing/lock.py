"""One builder at a time: a lock that names its owner, and that a dead process does not keep."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import zarr
from zarr.errors import ContainsGroupError
from zarr.storage import LocalStore, MemoryStore

from saestore.errors import LockedError, StoreWriteError
from saestore.format import split_set_path
from saestore.storage import DOCUMENT, missing_as_error, write_errors
from saestore.storage.durable import publish

LOCK = "lock"
_DRAFT = ".draft"


class SetLock:
    """The lock of one activation set, a Zarr group ``lock`` whose attributes name its owner.

    It is a group so that a listing of the set shows nothing that Zarr does not know. In a local folder it is created
    exclusively; elsewhere it is written, and read again to see who won.
    """

    def __init__(self, root: zarr.Group, path: str) -> None:
        split_set_path(path)  # before anything is written or removed
        self._root = root
        self._path = f"{path}/{LOCK}"
        self._set = path
        store = root.store
        base = Path(store.root) / root.path if isinstance(store, LocalStore) else None
        self._file = None if base is None else base / self._path / DOCUMENT
        self._token = uuid.uuid4().hex

    def acquire(self) -> None:
        """Take the lock, from a dead process of this host if need be.

        Raises
        ------
        LockedError
            A living process, or one of another host, holds it.
        """
        owner = {
            "host": socket.gethostname(),
            **_machine(),
            "pid": os.getpid(),
            "started": _process_start(os.getpid()),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "token": self._token,
        }
        if self._root.store.read_only:
            raise StoreWriteError(
                f"{self._root.store} was opened read-only. Open it with mode='a' to write {self._set}."
            )
        with write_errors(f"{self._root.store}"):
            while not self._create(owner):
                self._remove_of_dead(self.check())

    def check(self) -> dict[str, Any] | None:
        """Refuse as `acquire` does, without taking the lock; returns the dead owner that it has, if any."""
        holder = read_lock(self._root, self._path)
        if holder is not None and not _is_dead(holder):
            raise LockedError(self._refusal(holder))
        return holder

    def confirm(self) -> None:
        """Refuse to commit where the lock is not this one's any more: somebody broke it, and may write now.

        Raises
        ------
        LockedError
            The lock is gone, or another's.
        """
        if (read_lock(self._root, self._path) or {}).get("token") != self._token:
            raise LockedError(
                f"{self._set} is not locked by this process any more; nothing further is written. Run it again.",
                code="lock-lost",
            )

    def release(self) -> None:
        """Give the lock back, if it is still this one's."""
        holder = read_lock(self._root, self._path)
        if holder is None or holder.get("token") != self._token:
            return
        if self._file is None:
            del self._root[self._path]
            return
        for draft in self._file.parent.glob(f"*{_DRAFT}"):  # of processes killed while they asked for the lock
            draft.unlink(missing_ok=True)
        self._file.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: the next one is asking for it
            self._file.parent.rmdir()

    def _create(self, owner: dict[str, Any]) -> bool:
        if self._file is None:
            try:
                self._root.create_group(self._path, attributes=owner)
            except ContainsGroupError:
                return False
            if not isinstance(self._root.store, MemoryStore):
                time.sleep(0.05)  # whoever wrote at the same moment has written by now; the last one owns it
            return (read_lock(self._root, self._path) or {}).get("token") == self._token
        document = json.dumps({"attributes": owner, "zarr_format": 3, "node_type": "group"}, indent=2)
        folder = self._file.parent
        # Written in full under another name, then linked: nobody ever reads half a lock.
        draft = folder / f"{self._token}{_DRAFT}"
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # `exist_ok` would raise it where somebody removes the folder meanwhile
                folder.mkdir()
            draft.write_text(document)
            publish(draft, self._file)
        except (FileExistsError, FileNotFoundError):  # taken, or just given back with its folder
            return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _remove_of_dead(self, holder: dict[str, Any] | None) -> None:
        if holder is None:
            return
        if self._file is None:
            del self._root[self._path]
            return
        # Of two that find the same dead owner, one can rename the file; a slow one may get the lock of the quick one,
        # and puts it back.
        aside = self._file.with_name(f"stale-{self._token}{_DRAFT}")
        with suppress(FileNotFoundError, FileExistsError):
            self._file.rename(aside)
            if json.loads(aside.read_text())["attributes"].get("token") != holder.get("token"):
                os.link(aside, self._file)
        aside.unlink(missing_ok=True)

    def _refusal(self, holder: dict[str, Any]) -> str:
        return (
            f"{self._set} is being written by process {holder.get('pid')} on {holder.get('host')} since "
            f"{holder.get('time')}. Wait for it, or stop it; if that host is gone, delete the group "
            f"{self._path} in the store."
        )


def read_lock(root: zarr.Group, path: str) -> dict[str, Any] | None:
    """The owner that a lock records, None where there is no lock."""
    with missing_as_error(path):
        group = root.get(path)
        return None if group is None else dict(group.attrs)


def holder_of(root: zarr.Group, path: str) -> dict[str, Any] | None:
    """Who holds the lock of the set at `path`, None where nobody does or the owner is dead."""
    holder = read_lock(root, f"{path}/{LOCK}")
    return None if holder is None or _is_dead(holder) else holder


def _is_dead(holder: dict[str, Any]) -> bool:
    """True when the owner ran on this host, where its process would be seen, and is gone; what is unknown is alive."""
    pid, here = holder.get("pid"), _machine()
    if holder.get("host") != socket.gethostname() or type(pid) is not int or pid < 1:
        return False
    if any(holder.get(name) != value for name, value in here.items()) or None in here.values():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    started = holder.get("started")
    return started is not None and started != _process_start(pid)


def _machine() -> dict[str, str | None]:
    """Which boot of which machine this is, and which processes are seen here: containers share names of hosts."""
    result: dict[str, str | None] = {"boot": None, "pid_namespace": None}
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
