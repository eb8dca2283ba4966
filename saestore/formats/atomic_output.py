"""Files that appear under their own names only when all of them are complete."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from saestore.errors import StoreConflictError
from saestore.formats.base import Written
from saestore.storage import durable
from saestore.storage.durable import PARTIAL
from saestore.storage.open import check_replaceable, write_errors


def write_atomically(
    target: Path, existing: Iterable[Path], write: Callable[[Path], Written | None], *, overwrite: bool
) -> Written:
    """Write a file or folder, or several files beside it, in a folder of its own until all of it is complete.

    `existing` are the paths that the output replaces or that would be taken for a part of it. `write` writes the target
    in ``.<name>.partial``, which a killed export leaves and the next one to the same target removes; its files get
    their names in the order of its answer.
    """
    check_replaceable(target)
    with write_errors(str(target)):
        folder = target.with_name(f".{target.name}{PARTIAL}")
        _settle(folder, target)
    old = [path for path in existing if path.exists()]
    if old and not overwrite:
        raise StoreConflictError(
            f"{old[0]} exists; pass --overwrite (overwrite=True) to replace it, or name another path.",
            code="file-exists",
        )
    with write_errors(str(target)):
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        try:
            durable.make_folder(folder)
            written = write(folder / target.name) or Written((target.name,))
            durable.flush((file for file in folder.rglob("*") if file.is_file()), folder)
            _publish(written, folder, target, old)
        except BaseException:
            aside, replaced = _old_files(folder)
            if not replaced.exists() and not (aside.exists() and any(aside.iterdir())):  # else for `_settle`
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
    return written


def _settle(folder: Path, target: Path) -> None:
    """Put back the old files that an interrupted export had set aside or, if it had all of them, complete it."""
    aside, replaced = _old_files(folder)
    source = folder if replaced.exists() else aside
    if source.exists():
        for path in source.iterdir():
            if path != replaced:
                path.replace(target.with_name(path.name))
        durable.flush_folder(target.parent)


def _old_files(folder: Path) -> tuple[Path, Path]:
    """Where old files go, and its name once it has all of them; not the name of any output."""
    return folder / f"{folder.name}.aside", folder / f"{folder.name}.replaced"


def _publish(written: Written, folder: Path, target: Path, old: list[Path]) -> None:
    """Give what is complete its names, for good before anything old is removed.

    One file or folder replaces another at once. Of several files, and where a system cannot exchange folders, the old
    ones go first, so that old and new are never seen together; where this is interrupted, `_settle` ends it.
    """
    moves = [(folder / name, target.with_name(name)) for name in written.files]
    is_one = len(moves) == 1 and old == [target]
    if is_one and target.is_dir() and durable.exchange(*moves[0]):
        durable.flush_folder(target.parent)
        return
    if not is_one or target.is_dir():
        aside, replaced = _old_files(folder)
        durable.make_folder(aside)
        moves = [*((path, aside / path.name) for path in old), (aside, replaced), *moves]
    done = []
    try:
        for path, name in moves:
            done.append((path, name, name.exists()))
            path.replace(name)
            durable.flush_folder(name.parent)
    except BaseException:
        with suppress(OSError):
            for path, name, is_replaced in reversed(done):
                if not is_replaced and not path.exists():
                    name.replace(path)
        raise
