"""`saestore.export`: an activation set, or a part of it, as a file that another program reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.errors import InvalidInputError, check_choice, check_path, check_texts, reached
from saestore.formats.atomic_output import write_atomically
from saestore.formats.base import load_format
from saestore.formats.selection import Selected
from saestore.progress import Progress, ProgressOption
from saestore.storage.places import expanded
from saestore.vocabulary import EXPORT_FORMATS, EXPORT_SUFFIXES

if TYPE_CHECKING:
    from saestore.query.reader import SetReader


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    format: str  # its format
    # Size of the written part.
    n_samples: int
    n_features: int
    nnz: int
    files: tuple[Path, ...]  # the files or folders
    notes: tuple[str, ...] = ()  # what was changed on the way

    def to_json(self) -> dict[str, Any]:
        """JSON-able values."""
        return {**vars(self), "files": [str(path) for path in self.files], "notes": list(self.notes)}


@reached("the output")
def export(
    acts: SetReader,
    path: str | os.PathLike[str],
    *,
    format: str = "auto",
    where: Any = None,
    features: Any = None,
    tokens: Any = None,
    pad_token: int = 0,
    clip: bool = False,
    columns: Sequence[str] | str = (),
    unembedding: Any = None,
    overwrite: bool = False,
    progress: ProgressOption = False,
) -> Exported:
    """Write an activation set, or a part of it, in another program's format.

    Parameters
    ----------
    acts
        The set, complete.
    path
        The file or folder to write.
    format
        One of `saestore.vocabulary.EXPORT_FORMATS`; by default the format of the suffix of `path`.
    where
        Only samples that fulfil this, as in ``acts.top_samples``.
    features
        Only these: an int, a slice, a list or array of ints, or a boolean mask.
    tokens
        For ``delphi``: the token id of every sample of the set, an array, ``file.npy`` or ``file.npz:name``.
    pad_token
        For ``delphi``: the token id where an item has no token, and everywhere without `tokens`.
    clip
        For ``delphi``, which keeps float16: write larger activations as 65,504 instead of refusing them.
    columns
        For ``parquet``: columns and concepts of items and samples to join, by the names of conditions, or ``"all"``.
    unembedding
        For ``neuronpedia``: ``(matrix, tokens)``, d_in x vocabulary or vocabulary x d_in, an array or a file; and the
        texts of the tokens, a list, or a JSON file of a list, of ``{text: id}`` or of a tokenizer.
    overwrite
        Replace existing files.
    progress
        True shows lines on stderr, False shows nothing, a function receives every line.

    Returns
    -------
    Exported
        What was written, and where.

    Raises
    ------
    InvalidInputError
        Nothing is selected, the format cannot hold the values, or the set is not complete.
    StoreConflictError
        A file of this name exists, and `overwrite` is False.
    StoreWriteError
        The place is full or read-only; nothing appears under the name that was asked for.
    MissingDependencyError
        The format needs a package that is not installed.

    Notes
    -----
    Memory: a block of about a million non-zeros, and about 40 bytes per sample; for ``.pt`` files 512 MiB, since torch
    writes a tensor whole.
    """
    target = expanded(check_path("path", path))
    check_texts("columns", columns)
    into = load_format(_format_name(format, target))
    options = {
        "tokens": tokens, "pad_token": pad_token, "clip": clip, "columns": columns, "unembedding": unembedding,
    }  # fmt: skip
    given = {"tokens": tokens is not None, "pad_token": pad_token != 0, "clip": clip, "columns": len(columns) > 0}
    given["unembedding"] = unembedding is not None
    into.check_options([name for name, is_given in given.items() if is_given], target)
    selected = Selected.of(acts, where, features, Progress(progress).line)
    if into.write is None:
        raise RuntimeError(f"{into.name} has no writer")
    write, own = into.write, {name: options[name] for name in into.options if name in options}
    written = write_atomically(
        target, into.existing(target), lambda place: write(selected, place, **own), overwrite=overwrite
    )
    files = tuple(target.with_name(name) for name in written.files)
    return Exported(into.name, selected.n_samples, selected.n_features, selected.nnz, files, written.notes)


def _format_name(name: str, target: Path) -> str:
    if name == "auto":
        name = EXPORT_SUFFIXES.get(target.suffix, "")
        if not name:
            raise InvalidInputError(
                f"the suffix of {target} shows no format (known are {', '.join(EXPORT_SUFFIXES)}); pass --format "
                f"(format=), one of {', '.join(EXPORT_FORMATS)}.",
                code="unknown-format",
            )
    check_choice("format", name, EXPORT_FORMATS, "unknown-format")
    return name
