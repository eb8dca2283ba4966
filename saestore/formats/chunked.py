"""Which files a name stands for, where a ``BASE_chunks_info.json`` may list several."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import existing_file, nearby
from saestore.formats.issues import Issue

INFO_SUFFIX = "_chunks_info.json"
_NUMBERED = re.compile(r"(?P<base>.+)_chunk_(?P<number>[0-9]+)\.[a-z]+\Z")


@dataclass(frozen=True)
class Files:
    """The files of one matrix, in the order of their rows.

    Attributes
    ----------
    base
        Their common name, without folder and suffix.
    paths
        The files.
    info
        What the list says beside them; empty where there is none.
    n_samples
        Rows of each file as the list has it, None where it does not say.
    faults
        What the list had wrong.
    """

    base: str
    paths: tuple[Path, ...]
    info: dict[str, Any]
    n_samples: tuple[int | None, ...]
    faults: tuple[Issue, ...] = ()

    def check_rows(self, found: list[int]) -> None:
        """Refuse files that have another number of rows than the list says.

        Raises
        ------
        InvalidInputError
            Names the file: all rows after it would be those of other samples.
        """
        for path, said, rows in zip(self.paths, self.n_samples, found, strict=True):
            if said is not None and said != rows:
                raise InvalidInputError(
                    f"{path} has {rows:,} rows, but the list of chunks says {said:,}; all rows after it would shift."
                )
        total = self.info.get("total_samples")
        if total not in (None, 0, sum(found)):
            raise InvalidInputError(
                f"the chunks of {self.base} add up to {sum(found):,} rows, but their list says total_samples {total:,}."
            )


def find_files(path: Path) -> Files:
    """The file at `path`, or the chunks that it stands for: ``BASE_chunks_info.json``, ``BASE`` or ``BASE.pt``.

    Raises
    ------
    NotFoundError
        Nothing is there, or a chunk is missing.
    InvalidInputError
        The list cannot be read, or `path` is one chunk of several.
    """
    if path.name.endswith(INFO_SUFFIX):
        return _listed(path)
    numbered = _NUMBERED.fullmatch(path.name)
    if numbered is not None and path.is_file():
        info = path.with_name(numbered["base"] + INFO_SUFFIX)
        raise InvalidInputError(
            f"{path} is one of several chunks; give {info}"
            + ("." if info.exists() else ", which lists them all. It is missing: without it none can be read.")
        )
    if path.is_file():
        return Files(path.stem, (path,), {}, (None,))
    info = path.with_name(path.name.removesuffix(path.suffix if path.suffix == ".pt" else "") + INFO_SUFFIX)
    if info.is_file():
        return _listed(info)
    raise NotFoundError(f"no file {path}, and no {info.name}; {nearby(path)}")


def _listed(info: Path) -> Files:
    try:
        listed = json.loads(existing_file(info).read_text(encoding="utf-8"))
        entries = [dict(entry) for entry in listed["chunks"]]
        paths = [info.parent / str(entry["file"]) for entry in entries]
        sizes = [_rows(entry) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"{info} is not a list of chunks ({type(error).__name__}: {error}); it needs chunks with file and n_samples"
        ) from error
    if not entries:
        raise InvalidInputError(f"{info} lists no chunks.")
    for path in paths:
        if not path.is_file():
            raise NotFoundError(f"a chunk is missing: {path}, listed in {info.name}; {nearby(path)}")
    _check_order(paths, info)
    rest = {name: value for name, value in listed.items() if name != "chunks"}
    faults = _wrong_bounds(entries, sizes, info)
    return Files(info.name.removesuffix(INFO_SUFFIX), tuple(paths), rest, tuple(sizes), faults)


def _rows(entry: dict[str, Any]) -> int | None:
    if "n_samples" in entry:
        return int(entry["n_samples"])
    return int(entry["shape"][0]) if entry.get("shape") else None


def _check_order(paths: list[Path], info: Path) -> None:
    """The number in a chunk's name is the order of its rows."""
    numbers = [match["number"] for path in paths if (match := _NUMBERED.fullmatch(path.name))]
    if any(int(b) != int(a) + 1 for a, b in pairwise(numbers)) or (numbers and int(numbers[0]) != 0):
        raise InvalidInputError(
            f"{info} lists the chunks {', '.join(numbers)}; they must be 0, 1, 2 … in this order, none missing."
        )


def _wrong_bounds(entries: list[dict[str, Any]], sizes: list[int | None], info: Path) -> tuple[Issue, ...]:
    """Start and end of a chunk are known to be wrong in these lists; its number of samples is not."""
    wrong, start = [], 0
    for number, (entry, size) in enumerate(zip(entries, sizes, strict=True)):
        if size is None:
            return ()
        said = entry.get("start_idx", start), entry.get("end_idx", start + size)
        if said != (start, start + size):
            wrong.append((number, said, (start, start + size)))
        start += size
    if not wrong:
        return ()
    number, said, true = wrong[0]
    return (
        Issue(
            "wrong_end_idx",
            "corrected",
            f"{info.name} has wrong rows for {len(wrong)} of {len(entries)} chunks: chunk {number} says {said[0]:,} to "
            f"{said[1]:,} and is {true[0]:,} to {true[1]:,}; n_samples is right",
            len(wrong),
        ),
    )
