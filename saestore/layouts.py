"""The one place where packages are named that know the files of a particular research pipeline.

A layout is a package with any of the functions of `Layout`. It is imported when a file or name is met that nothing else
understands, so that nobody imports it without having such files. A further layout is a further name in `LAYOUTS`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

LAYOUTS = ("saestore.superactivators",)


class Layout(Protocol):
    """What a layout may know. Each function returns None for a file that is not one of its own."""

    def activation_format(self, path: Path) -> str | None:
        """The import format of a file of activations, a key of `saestore.vocabulary.FORMATS`."""

    def embeddings_target(self, path: Path) -> tuple[str, Path] | None:
        """For one file of several of a matrix: the matrix's base name, and the file that stands for all of them."""

    def open_embeddings(self, path: Path) -> Any | None:
        """An `saestore.embeddings.base.EmbeddingSource` over several files."""

    def item_pointers(self, path: Path, n_items: int | None, n_rows: int) -> np.ndarray[Any, Any] | None:
        """Which rows belong to which item, int64 (n_items + 1,)."""

    def add_ground_truth(self, reader: Any, folder: Any, overwrite: bool, report: Any) -> list[str] | None:
        """Give a set the concepts of a folder of ground truth; the names of those that it did not have."""


def ask(question: str, *args: Any) -> Any:
    """The first answer of a layout's function `question` that is not None; None where no layout knows one."""
    for name in LAYOUTS:
        function = getattr(import_module(name), question, None)
        answer = None if function is None else function(*args)
        if answer is not None:
            return answer
    return None
