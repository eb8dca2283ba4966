"""Files that appear under their own names only when all of them are whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from saestore.errors import StoreConflictError
from saestore.storage.open import write_errors

PARTIAL = ".partial"


class Output:
    """What an export writes, in a folder of its own beside the target until it is done.

    A killed export leaves that folder, ``.<name>.partial``, which the next one to the same target removes.

    Parameters
    ----------
    target
        The file or folder that is asked for.
    existing
        What is there already under the names that will be written, or that would be taken for a part of it.
    overwrite
        Replace it.

    Raises
    ------
    StoreConflictError
        Something is there, and `overwrite` is False.
    """

    def __init__(self, target: Path, existing: Iterable[Path], *, overwrite: bool) -> None:
        self.target = target
        self._existing = [path for path in existing if path.exists()]
        if self._existing and not overwrite:
            raise StoreConflictError(
                f"{self._existing[0]} is there already; pass --overwrite (overwrite=True) to replace it, or name "
                "another path."
            )
        self.folder = target.with_name(f".{target.name}{PARTIAL}")

    def __enter__(self) -> Self:
        with write_errors(str(self.target)):
            with suppress(FileNotFoundError):
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, fill: Callable[[Path], None]) -> None:
        """Write the file or folder that is asked for."""
        with write_errors(str(self.target)):
            fill(self.folder / self.target.name)

    def write_all(self, fill: Callable[[Path], list[str]]) -> list[str]:
        """Write several files; returns their names, the one last that makes them look complete."""
        with write_errors(str(self.target)):
            return fill(self.folder)

    def publish(self, names: Sequence[str]) -> list[Path]:
        """Give everything its own name, in this order: the last one is what makes the output look complete."""
        done = []
        with write_errors(str(self.target)):
            # One file takes the place of another at once. Of folders and several files the old ones must go first, so
            # that what is old and what is new are never seen together.
            if not (len(names) == 1 and self._existing == [self.target] and self.target.is_file()):
                aside = self.folder / "replaced"
                aside.mkdir()
                for old in self._existing:
                    old.rename(aside / old.name)
            for name in names:
                (self.folder / name).replace(self.target.with_name(name))
                done.append(self.target.with_name(name))
        return done
