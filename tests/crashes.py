"""A machine that crashes: records what a job does to a folder, and what may be on the disk after any of its steps.

What was not flushed is lost, kept, or torn, each file and each change of a folder for itself: a file has its old
content, none, half of the new one or zeros; of the names that changed in a folder any may be there and any may not.
"""

import builtins
import io
import itertools
import os
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from saestore.storage import durable

Files = dict[str, bytes]
_CALLS = ("mkdir", "replace", "rename", "link", "unlink", "rmdir", "fsync")


class Recorder:
    """The log of all changes and flushes below a folder that is empty when it starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.log: list[tuple[Any, ...]] = []  # of nodes by their numbers; 0 is the folder
        self._nodes: dict[int, dict[str, int] | bytes] = {0: {}}
        self._writing: dict[int, tuple[Any, int]] = {}  # files that are being written, and how they are read here
        self._numbers, self._lock = itertools.count(1), threading.RLock()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Record what this process does."""
        calls = {name: self._watched(name, getattr(os, name)) for name in _CALLS}
        with (
            mock.patch.multiple(os, **calls),
            mock.patch.object(durable, "exchange", self._watched("exchange", durable.exchange)),
            mock.patch.object(io, "open", self._opening(io.open)),
            mock.patch.object(builtins, "open", self._opening(builtins.open)),
        ):
            yield
        self._save()

    def _watched(self, name: str, call: Callable) -> Callable:
        def watched(*args: Any, **options: Any) -> Any:
            paths = self._paths(name, args, options)
            if not any(path.is_relative_to(self.folder) for path in paths):
                return call(*args, **options)
            with self._lock:
                self._save()
                result = call(*args, **options)
                getattr(self, f"_{name}")(*paths)
                return result

        return watched

    def _paths(self, name: str, args: tuple, options: dict) -> list[Path]:
        if name == "fsync":
            fd = args[0] if isinstance(args[0], int) else args[0].fileno()
            return [Path(f"/proc/self/fd/{fd}").readlink()]
        descriptor = options.get("dir_fd")
        above = Path.cwd() if descriptor is None else Path(f"/proc/self/fd/{descriptor}").readlink()
        n_paths = 2 if name in ("replace", "rename", "link", "exchange") else 1
        return [above / os.fsdecode(each) for each in args[:n_paths]]

    def _opening(self, call: Callable) -> Callable:
        def opening(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            path = Path.cwd() / os.fsdecode(file) if isinstance(file, str | bytes | os.PathLike) else None
            named = path is not None and "opener" not in options
            if not named or not set(mode) & set("wxa+") or not path.is_relative_to(self.folder):
                return call(file, mode, *args, **options)
            with self._lock:
                self._save()
                result = call(file, mode, *args, **options)
                above, name = self._place(path)
                entries = self._entries(above)
                if name not in entries:
                    self._create(path, b"")
                self._writing[entries[name]] = result, os.open(path, os.O_RDONLY)
                return result

        return opening

    def _save(self) -> None:
        """Log what was written to files since the last change."""
        for number, (file, fd) in list(self._writing.items()):
            closed, content = file.closed, os.pread(fd, 1 << 26, 0)
            if content != self._nodes[number]:
                self._nodes[number] = content
                self.log.append(("write", number, content))
            if closed:
                os.close(fd)
                del self._writing[number]

    def _entries(self, number: int) -> dict[str, int]:
        entries = self._nodes[number]
        assert isinstance(entries, dict)
        return entries

    def _place(self, path: Path) -> tuple[int, str]:
        """The number of the folder of a path, and the last part."""
        number, parts = 0, path.relative_to(self.folder).parts
        for part in parts[:-1]:
            number = self._entries(number)[part]
        return number, parts[-1]

    def _change(self, path: Path, number: int | None) -> tuple[int, str, int | None]:
        above, name = self._place(path)
        if number is None:
            del self._entries(above)[name]
        else:
            self._entries(above)[name] = number
        return above, name, number

    def _create(self, path: Path, node: dict[str, int] | bytes) -> None:
        number = next(self._numbers)
        self._nodes[number] = node
        self.log.append(("names", [self._change(path, number)], number, isinstance(node, dict)))

    def _mkdir(self, path: Path) -> None:
        if path != self.folder:
            self._create(path, {})

    def _fsync(self, path: Path) -> None:
        if path == self.folder:
            self.log.append(("flush", 0))
            return
        above, name = self._place(path)
        self.log.append(("flush", self._entries(above)[name]))

    def _unlink(self, path: Path) -> None:
        above, name = self._place(path)
        if name in self._entries(above):  # else a temporary file that had no name
            self.log.append(("names", [self._change(path, None)]))

    def _rmdir(self, path: Path) -> None:
        self.log.append(("names", [self._change(path, None)]))

    def _link(self, source: Path, target: Path) -> None:
        above, name = self._place(source)
        self.log.append(("names", [self._change(target, self._entries(above)[name])]))

    def _rename(self, source: Path, target: Path) -> None:
        above, name = self._place(source)
        number = self._entries(above)[name]
        self.log.append(("names", [self._change(source, None), self._change(target, number)]))

    _replace = _rename

    def _exchange(self, path: Path, other: Path) -> None:
        numbers = [self._entries(above)[name] for above, name in map(self._place, (path, other))]
        self.log.append(("names", [self._change(path, numbers[1]), self._change(other, numbers[0])]))


class _Disk:
    """What is flushed, and what is not yet, after some of the log."""

    def __init__(self) -> None:
        self.flushed: dict[int, Any] = {0: {}}  # content of files, entries of folders
        self.written: dict[int, bytes] = {}  # content that is not flushed
        self.changes: dict[int, list[list[tuple[int, str, int | None]]]] = {0: []}

    def apply(self, entry: tuple[Any, ...]) -> None:
        match entry:
            case ("write", number, content):
                self.written[number] = content
            case ("flush", number) if number in self.changes:
                while self.changes[number]:
                    self._flush_first(number)
            case ("flush", number):
                self.flushed[number] = self.written.pop(number, self.flushed[number])
            case ("names", change, *created):
                if created:
                    number, is_folder = created
                    self.flushed[number] = {} if is_folder else b""
                    if is_folder:
                        self.changes[number] = []
                for above in {above for above, _, _ in change}:
                    self.changes[above].append(change)

    def _flush_first(self, number: int) -> None:
        """Flush the oldest change of a folder; of a rename in both of its folders, each with all that was before."""
        change = self.changes[number][0]
        for above in {above for above, _, _ in change} - {number}:
            while any(each is change for each in self.changes[above][1:]):
                self._flush_first(above)
        for above in {above for above, _, _ in change}:
            self.changes[above] = [each for each in self.changes[above] if each is not change]
        self._apply(change, self.flushed)

    @staticmethod
    def _apply(change: list[tuple[int, str, int | None]], entries: dict[int, dict[str, int]]) -> None:
        for above, name, number in change:
            if above in entries and number is None:
                entries[above].pop(name, None)
            elif above in entries:
                entries[above][name] = number

    def files(self, keep: Callable[[], bool], torn: Callable[[bytes, bytes], bytes]) -> Files:
        """The files after a crash."""
        entries = {number: dict(self.flushed[number]) for number in self.changes}
        kept: dict[int, bool] = {}
        for number, changes in self.changes.items():
            for change in changes:
                if kept.setdefault(id(change), keep()):  # a rename is in both folders or in none
                    self._apply(change, {number: entries[number]})
        found: Files = {}

        def walk(number: int, path: str) -> None:
            for name, child in entries[number].items():
                if child in entries:
                    walk(child, f"{path}{name}/")
                else:
                    old = self.flushed[child]
                    found[path + name] = torn(old, self.written[child]) if child in self.written else old

        walk(0, "")
        return found


_TEARS: tuple[Callable[[bytes, bytes], bytes], ...] = (
    lambda old, _: old,
    lambda _, new: new,
    lambda *_: b"",
    lambda _, new: new[: len(new) // 2],
    lambda _, new: bytes(len(new)),
)


def undisturbed(log: list[tuple[Any, ...]], first: int = 0) -> Iterator[Files]:
    """The files that running processes see, from a step on: then, whenever a document may have changed, at the end."""
    for step, disk in _steps(log):
        names = {name for _, name, _ in log[step - 1][1]} if log[step - 1][0] == "names" else set()
        if step in (first, len(log)) or (step > first and "zarr.json" in names):
            yield disk.files(lambda: True, _TEARS[1])


def crashes(log: list[tuple[Any, ...]], seed: int, steps: Collection[int]) -> Iterator[tuple[int, Files]]:
    """Each of these steps, and five states of the files after a crash that follows it."""
    random = np.random.default_rng(seed)

    def torn(old: bytes, new: bytes) -> bytes:
        return _TEARS[random.integers(len(_TEARS))](old, new)

    for step, disk in _steps(log):
        if step in steps:
            yield step, disk.files(lambda: False, _TEARS[0])
            yield step, disk.files(lambda: True, _TEARS[2])
            for likely in (0.1, 0.5, 0.9):
                yield step, disk.files(lambda likely=likely: random.random() < likely, torn)


def torn_where_whole(log: list[tuple[Any, ...]], first: int = 0) -> set[str]:
    """Names whose file is replaced by one that is not flushed: a crash may leave neither content."""
    names: dict[tuple[int, str], int] = {}
    found = set()
    for step, disk in _steps(log):
        if log[step - 1][0] == "names":
            for above, name, number in log[step - 1][1]:
                if number in disk.written and (above, name) in names and step > first:
                    found.add(name)
                names.pop((above, name), None)
                if number is not None:
                    names[above, name] = number
    return found


def _steps(log: list[tuple[Any, ...]]) -> Iterator[tuple[int, _Disk]]:
    disk = _Disk()
    for step, entry in enumerate(log, 1):
        disk.apply(entry)
        yield step, disk
