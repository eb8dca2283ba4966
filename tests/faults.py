"""A file system that fails: the n-th call below a folder raises an error, or kills the process as far as files go."""

import errno
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

OPENING = {"open", "io.open", "scandir", "listdir"}
CHANGING = {"mkdir", "replace", "rename", "link", "fsync"}
REMOVING = {"unlink", "rmdir"}
# Calls that can fail with each error; opening a file to read it needs no space.
FAILING = {
    errno.EIO: OPENING | CHANGING | REMOVING | {"pread"},
    errno.ENOSPC: CHANGING | {"io.open w"},
    errno.EMFILE: OPENING,
    None: CHANGING | REMOVING | {"io.open w"},  # a kill shows in what has been changed by then
}


class Killed(BaseException):
    """The process is gone: every later change fails with this, too."""


class Faults:
    """Counts the calls below `folder` that can fail with an error, and fails at the call `at`; from 1 on."""

    def __init__(self, folder: Path, error: int | None, at: int) -> None:
        self.error, self.at, self.count = error, at, 0
        self._folder, self._lock = str(folder), threading.Lock()

    @property
    def happened(self) -> bool:
        return self.count >= self.at

    @contextmanager
    def active(self) -> Iterator[None]:
        failing = {name: self._failing(name, getattr(os, name)) for name in self._names()}
        with mock.patch.multiple(os, **failing), mock.patch.object(io, "open", self._failing("io.open", io.open)):
            yield

    def _names(self) -> set[str]:
        return {name for name in FAILING[self.error] if not name.startswith("io.")}

    def _failing(self, name: str, call: Callable) -> Callable:
        def failing(*args: Any, **options: Any) -> Any:
            kind = name
            if name == "io.open" and "r" not in str([*args[1:2], options.get("mode", "r")][0]):
                kind = "io.open w"
            if {kind, name} & FAILING[self.error] and self._is_below(args[0] if args else ".", options.get("dir_fd")):
                self._count(args[0])
            return call(*args, **options)

        return failing

    def _is_below(self, target: Any, dir_fd: int | None) -> bool:
        fd = target if isinstance(target, int) else dir_fd
        if fd is not None:
            target = Path(f"/proc/self/fd/{fd}").readlink()
        return os.fsdecode(target).startswith(self._folder)

    def _count(self, target: Any) -> None:
        with self._lock:
            self.count += 1
            count = self.count
        if self.error is None and count >= self.at:
            raise Killed
        if count == self.at:
            raise OSError(self.error, os.strerror(self.error or 0), str(target))


@cache
def a_dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@contextmanager
def as_a_process_that_ends() -> Iterator[None]:
    """A lock that is left behind names a process that is gone."""
    with mock.patch.object(os, "getpid", a_dead_pid):
        yield
