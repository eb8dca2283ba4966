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
from saestore.storage.open import write_errors


def write_atomically(
    target: Path, existing: Iterable[Path], write: Callable[[Path], Written | None], *, overwrite: bool
) -> Written:
    """Write a file or folder, or several files beside it, in a folder of its own until all of it is complete.

    `existing` are the paths that the output replaces or that would be taken for a part of it. `write` writes the target
    in ``.<name>.partial``, which a killed export leaves and the next one to the same target removes; its files get
    their names in the order of its answer.
    """
    old = [path for path in existing if path.exists()]
    if old and not overwrite:
        raise StoreConflictError(
            f"{old[0]} exists; pass --overwrite (overwrite=True) to replace it, or name another path.",
            code="file-exists",
        )
    folder = target.with_name(f".{target.name}{PARTIAL}")
    made = [parent for parent in target.absolute().parents if not parent.exists()]
    with write_errors(str(target)):
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        try:
            written = write(folder / target.name) or Written((target.name,))
            durable.flush((file for file in folder.rglob("*") if file.is_file()), folder)
            # One file replaces another at once. Of folders and several files the old ones go first, so that old and
            # new are never seen together.
            moves = [(folder / name, target.with_name(name)) for name in written.files]
            if not (len(moves) == 1 and old == [target] and target.is_file()):
                aside = folder / "replaced"
                aside.mkdir()
                moves = [*((path, aside / path.name) for path in old), *moves]
            _move(moves, (target.parent, *(new.parent for new in made)))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return written


def _move(moves: list[tuple[Path, Path]], folders: Iterable[Path]) -> None:
    """Give files their names for good, before the old ones go; all of them, or none where there is none yet."""
    done = []
    try:
        for path, name in moves:
            done.append((path, name, name.exists()))
            path.replace(name)
        for folder in folders:
            durable.flush_folder(folder)
    except BaseException:
        for path, name, is_replaced in reversed(done):
            with suppress(OSError):
                if not is_replaced:
                    name.replace(path)
        raise
