"""One builder at a time: a lock that says who holds it, and that a dead process does not keep."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import zarr
from zarr.errors import ContainsGroupError
from zarr.storage import LocalStore

from saestore.errors import LockedError
from saestore.storage import write_errors

LOCK = "lock"


class SetLock:
    """The lock of one activation set, a Zarr group ``lock`` whose attributes name its owner.

    It is a group so that a listing of the set shows nothing that Zarr does not know. In a local folder it is created
    exclusively; elsewhere it is written, and read again to see who won.
    """

    def __init__(self, root: zarr.Group, path: str) -> None:
        self._root = root
        self._path = f"{path}/{LOCK}"
        self._set = path
        store = root.store
        base = Path(store.root) / root.path if isinstance(store, LocalStore) else None
        self._file = None if base is None else base / self._path / "zarr.json"
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
            "pid": os.getpid(),
            "started": _process_start(os.getpid()),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "token": self._token,
        }
        with write_errors(f"{self._root.store}"):
            while not self._create(owner):
                holder = self._holder()
                if holder is not None and not _is_dead(holder):
                    raise LockedError(self._refusal(holder))
                self._remove_of_dead(holder)

    def release(self) -> None:
        """Give the lock back, if it is still this one's."""
        holder = self._holder()
        if holder is not None and holder.get("token") == self._token:
            del self._root[self._path]

    def _create(self, owner: dict[str, Any]) -> bool:
        if self._file is None:
            try:
                self._root.create_group(self._path, attributes=owner)
            except ContainsGroupError:
                return False
            time.sleep(0.05)  # whoever wrote at the same moment has written by now; the last one owns it
            holder = self._holder()
            return holder is not None and holder.get("token") == self._token
        document = json.dumps({"attributes": owner, "zarr_format": 3, "node_type": "group"}, indent=2)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # Written in full under another name, then linked: nobody ever reads half a lock.
        draft = self._file.with_name(f"zarr.{self._token}.partial")
        draft.write_text(document)
        try:
            os.link(draft, self._file)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def _holder(self) -> dict[str, Any] | None:
        group = self._root.get(self._path)
        return None if group is None else dict(group.attrs)

    def _remove_of_dead(self, holder: dict[str, Any] | None) -> None:
        if holder is None:
            return
        if self._file is None:
            del self._root[self._path]
            return
        # Of two that find the same dead owner, one can rename the file.
        aside = self._file.with_name(f"zarr.{self._token}.stale")
        try:
            self._file.rename(aside)
        except FileNotFoundError:
            return
        aside.unlink()

    def _refusal(self, holder: dict[str, Any]) -> str:
        return (
            f"{self._set} is being written by process {holder.get('pid')} on {holder.get('host')} since "
            f"{holder.get('time')}. Wait for it, or stop it; if that host is gone, delete the group "
            f"{self._path} in the store."
        )


def holder_of(root: zarr.Group, path: str) -> dict[str, Any] | None:
    """Who holds the lock of the set at `path`, None where nobody does or the owner is dead."""
    group = root.get(f"{path}/{LOCK}")
    holder = None if group is None else dict(group.attrs)
    return None if holder is None or _is_dead(holder) else holder


def _is_dead(holder: dict[str, Any]) -> bool:
    """True when the owner ran on this host and is gone."""
    if holder.get("host") != socket.gethostname():
        return False
    pid = int(holder.get("pid", -1))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    started = holder.get("started")
    return started is not None and started != _process_start(pid)


def _process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: a recycled pid has another one. None where unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rsplit(")", 1)[-1].split()
    return None if fields[0] == "Z" else int(fields[19])
