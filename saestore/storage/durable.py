"""What survives a crash of the machine on a local folder: data first, then the document that names it, then removals.

A rename alone keeps no order: without a flush a file system may keep the new name and lose the bytes under it.
"""

from __future__ import annotations

import errno
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from saestore.errors import check_choice

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

PARTIAL = ".partial"  # how zarr's local store, too, ends the name of a file that it is writing
_DRAFT_SECONDS = 3600  # no file of saestore takes longer to write
_AT_ONCE = 32  # flushes
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
READ_ONLY = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # what file systems without hard links return
_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # what file systems that cannot flush a folder return


_fast: set[Path] = set()  # folders in which nothing is flushed


def set_durability(folder: Path | None, durability: str) -> None:
    """Flush what is written below a folder (``full``), or leave that to the system (``fast``), in this process."""
    check_durability(durability)
    if folder is not None:
        (_fast.add if durability == "fast" else _fast.discard)(folder)


@contextmanager
def at_durability(folder: Path | None, durability: str | None) -> Iterator[None]:
    """Same, for a while; None leaves it as it is."""
    before = "fast" if folder in _fast else "full"
    if durability is not None:
        set_durability(folder, durability)
    try:
        yield
    finally:
        set_durability(folder, before)


def check_durability(durability: str) -> None:
    """Refuse anything but ``full`` and ``fast``."""
    check_choice("durability", durability, ("full", "fast"), "unknown-durability")


def flush(files: Iterable[Path], top: Path) -> None:
    """Have files on the disk, and their names: every folder from theirs up to `top`.

    All at once: a journal takes them together, and none is of use before the commit that follows.
    """
    nodes: dict[Path, Callable[[Path], None]] = dict.fromkeys(files, _flush)
    for file in list(nodes):
        folder = file.parent
        while folder not in nodes and folder.is_relative_to(top):
            nodes[folder] = flush_folder
            folder = folder.parent
    if len(nodes) < 2 or _is_fast(top):
        for node, act in nodes.items():
            act(node)
        return
    list(_pool().map(lambda node: nodes[node](node), nodes))


@cache
def _pool() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(_AT_ONCE, "saestore-flush")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of the threads


def flush_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    if os.name == "nt":  # which cannot open folders
        return
    try:
        _flush(folder)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and have their names on the disk."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    while not _made(folder):
        pass
    for path in made:
        flush_folder(path.parent)


def _made(folder: Path) -> bool:
    """Make a folder where there is none; False where another process removed it at the moment that it was asked for."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        try:
            is_folder = stat.S_ISDIR(folder.lstat().st_mode)  # it may be there again
        except FileNotFoundError:
            return False
        if not is_folder and not folder.is_dir():
            raise
    return True


def exchange(path: Path, other: Path) -> bool:
    """Let two files or folders change names at once; False where the system cannot."""
    import ctypes

    try:
        call = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux
        return False
    return bool(call(_HERE, os.fsencode(path), _HERE, os.fsencode(other), _EXCHANGE) == 0)


def open_file(path: str | os.PathLike[str]) -> int:
    """Open a file to read, and nothing else: a pipe may never answer, and some devices never end."""
    fd = os.open(path, READ_ONLY)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise IsADirectoryError(errno.EISDIR, "not a file", os.fspath(path))
    return fd


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The content of a file, and of nothing else."""
    with open(open_file(path), "rb") as file:
        return file.read()


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file at once: after a crash it has the old content or the new one."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        _write_flushed(draft, content)
        draft.replace(path)
    except Exception:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def drafts(folder: Path, *, old: bool) -> list[Path]:
    """Files of a folder that somebody is writing or, if so old that nobody can be, left half written."""
    found, now = [], time.time()
    for path in folder.glob(f"*{PARTIAL}"):
        with suppress(FileNotFoundError):  # finished meanwhile
            if (now - path.stat().st_mtime > _DRAFT_SECONDS) is old:
                found.append(path)
    return found


def create_file(path: Path, content: bytes) -> bool:
    """Write a file where there is none, whole at once; False where another process was quicker."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    make_folder(path.parent)
    try:
        _write_flushed(draft, content)
        publish(draft, path)
    except FileExistsError:
        return False
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    flush_folder(path.parent)
    return True


def publish(draft: Path, target: Path) -> None:
    """Give a file, written in full, a second name; `FileExistsError` if that is taken."""
    try:
        os.link(draft, target)
    except OSError as error:
        if draft.stat().st_nlink > 1:  # a network file system repeated the request, and lost the first answer
            return
        if error.errno not in _NO_LINKS:
            raise
        with target.open("xb") as file:
            file.write(draft.read_bytes())
        _flush(target)


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        if not _is_fast(path):
            os.fsync(file.fileno())


def _is_fast(path: Path) -> bool:
    return bool(_fast) and any(folder == path or folder in path.parents for folder in _fast)


def _flush(path: Path) -> None:
    if _is_fast(path):
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
