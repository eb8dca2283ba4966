"""What survives a crash of the machine on a local folder: data first, then the document that names it, then removals.

A rename alone keeps no order: without a flush a file system may keep the new name and lose the bytes under it.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PARTIAL = ".partial"  # how zarr's local store, too, ends the name of a file that it is writing
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)  # what file systems without hard links return
_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # what file systems that cannot flush a folder return


def flush(files: Iterable[Path], top: Path) -> None:
    """Have files on the disk, then their names: every folder from theirs up to `top`."""
    files = list(files)
    flush_files(files)
    flush_folders({file.parent for file in files}, top)


def flush_files(files: Iterable[Path]) -> None:
    """Have the content of files on the disk."""
    for file in files:
        _flush(file)


def flush_folders(folders: Iterable[Path], top: Path) -> None:
    """Have the names in folders, and in those above them up to `top`, on the disk."""
    above = {each for folder in folders for each in (folder, *folder.parents) if top in (each, *each.parents)}
    for folder in sorted(above, key=lambda each: -len(each.parts)):
        flush_folder(folder)


def flush_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    if os.name == "nt":  # which cannot open folders
        return
    try:
        _flush(folder)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file at once: after a crash it has the old content or the new one."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    path.parent.mkdir(exist_ok=True)
    try:
        _write_flushed(draft, content)
        draft.replace(path)
    except Exception:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def create_file(path: Path, content: bytes) -> bool:
    """Write a file where there is none, whole at once; False where another process was quicker."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    path.parent.mkdir(parents=True, exist_ok=True)
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
            file.flush()
            os.fsync(file.fileno())


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
