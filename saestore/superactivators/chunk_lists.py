"""Matrices in several ``.pt`` files: ``BASE_chunk_<i>.pt``, listed in ``BASE_chunks_info.json``; read and written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import below, nearby, read_json
from saestore.formats.issues import Issue

if TYPE_CHECKING:
    from saestore.embeddings.base import PartedSource

INFO_SUFFIX = "_chunks_info.json"
CHUNK_BYTES = 256 << 20  # torch.save needs a tensor whole: this much is in memory, twice
_CHUNK = re.compile(r"(?P<base>.+)_chunk_(?P<number>[0-9]+)\.pt")


@dataclass(frozen=True)
class Chunks:
    """The files of one matrix, in the order of their rows."""

    base: str  # their common name, without folder and suffix
    files: tuple[Path, ...]  # the files
    entries: tuple[dict[str, Any], ...] = ()  # facts of the list about each; empty without a list
    facts: dict[str, Any] | None = None  # what else is in the list

    def check(self, shapes: Sequence[tuple[int, ...]]) -> tuple[Issue, ...]:
        """Compare the list with the shapes of the files; returns an issue where only the ranges of rows are wrong."""
        wrong, start = [], 0
        for number, (file, entry, shape) in enumerate(zip(self.files, self.entries, shapes, strict=False)):
            rows = shape[0]
            listed = tuple(entry.get("shape") or shape)
            if entry.get("n_samples", rows) != rows or listed[: len(shape)] != shape[: len(listed)]:
                raise InvalidInputError(
                    f"{file} has the shape {shape}, but the list of chunks has {entry.get('n_samples', listed)}; all "
                    "rows after it would shift.",
                    code="wrong-chunk-size",
                )
            bounds = entry.get("start_idx", start), entry.get("end_idx", start + rows)
            if bounds != (start, start + rows):
                wrong.append(
                    f"chunk {number} is listed as {bounds[0]:,} to {bounds[1]:,} and is {start:,} to {start + rows:,}"
                )
            start += rows
        total = (self.facts or {}).get("total_samples")
        if total not in (None, 0, start):
            raise InvalidInputError(
                f"the chunks of {self.base} add up to {start:,} rows, but total_samples of their list is {total:,}.",
                code="wrong-chunk-size",
            )
        if not wrong:
            return ()
        message = f"the list of chunks has wrong rows for {len(wrong)} of {len(self.files)} chunks: {wrong[0]}"
        return (Issue("wrong_end_idx", "fixed", f"{message}; the sizes of the files are right", len(wrong)),)


def list_of(path: Path) -> tuple[str, Path] | None:
    """Base name and list of a chunk or of a list; None for other files."""
    if path.name.endswith(INFO_SUFFIX):
        return path.name.removesuffix(INFO_SUFFIX), path
    match = _CHUNK.fullmatch(path.name)
    return None if match is None else (match["base"], path.with_name(match["base"] + INFO_SUFFIX))


def find_chunks(path: Path) -> Chunks:
    """The file at `path`, or the chunks of the list at ``BASE_chunks_info.json``, ``BASE`` or ``BASE.pt``."""
    info = path.with_name(path.name.removesuffix(".pt") + INFO_SUFFIX)
    if (target := list_of(path)) is not None:
        info = target[1]
        if info != path and path.is_file():
            reason = "." if info.exists() else ", which lists them all. It is missing: without it none can be read."
            raise InvalidInputError(f"{path} is one of several chunks; give {info}{reason}", code="one-chunk")
        return _read(info)
    if path.is_file():
        return Chunks(path.stem, (path,))
    if info.is_file():
        return _read(info)
    raise NotFoundError(f"no file {path}, and no {info.name}; {nearby(path)}", code="no-such-file")


def _read(info: Path) -> Chunks:
    if not info.exists():
        raise NotFoundError(
            f"no {info}, which lists the chunks and their rows; without it none can be read", code="no-chunk-list"
        )
    try:
        facts = dict(read_json(info))
        entries = [dict(entry) for entry in facts.pop("chunks")]
        files = [below(str(entry["file"]), info.parent)[0] for entry in entries]
        n = int(facts.get("num_chunks", len(files)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"{info} is not a list of chunks ({type(error).__name__}: {error}); it needs chunks with a file each",
            code="bad-chunk-list",
        ) from error
    if not entries or n != len(entries):
        raise InvalidInputError(
            f"{info} lists {len(entries)} chunks, but its num_chunks is {n}; it needs at least one",
            code="bad-chunk-list",
        )
    for file in files:
        if not file.is_file():
            raise NotFoundError(
                f"a chunk is missing: {file}, listed in {info.name}; {nearby(file)}", code="missing-chunk"
            )
    # The number in a chunk's name is the order of its rows.
    matches = [_CHUNK.fullmatch(file.name) for file in files]
    if all(matches):
        order = sorted(range(len(files)), key=lambda i: int(matches[i]["number"]))  # type: ignore[index]
        files, entries = [files[i] for i in order], [entries[i] for i in order]
        numbers = [int(match["number"]) for i in order if (match := matches[i])]
        if numbers != list(range(len(numbers))):
            raise InvalidInputError(
                f"{info} lists the chunks {', '.join(map(str, numbers))}; each of 0, 1, 2 … must be there once.",
                code="missing-chunk",
            )
    return Chunks(info.name.removesuffix(INFO_SUFFIX), tuple(files), tuple(entries), facts)


def open_dense_chunks(path: Path, chunks: Chunks) -> tuple[PartedSource, tuple[Issue, ...]]:
    """Dense rows of embeddings or activations in chunks, after a look into each of them."""
    from saestore.embeddings.base import Part, PartedSource, checked
    from saestore.embeddings.matrices import open_pt

    matrices = [checked(open_pt(file), str(file)) for file in chunks.files]
    issues = chunks.check([matrix.shape for matrix in matrices])
    first, parts, start = matrices[0], [], 0
    for file, matrix in zip(chunks.files, matrices, strict=True):
        if (matrix.shape[1], matrix.dtype) != (first.shape[1], first.dtype):
            raise InvalidInputError(
                f"{file} is {matrix.dtype} of width {matrix.shape[1]}, but {chunks.files[0].name} is {first.dtype} of "
                f"width {first.shape[1]}; all chunks need the same",
                code="unequal-chunks",
            )
        parts.append(Part(start, start + matrix.shape[0], partial(open_pt, file)))
        start += matrix.shape[0]
    return PartedSource(str(path), "pt chunks", first.shape[1], first.dtype, parts), issues


def open_listed_embeddings(path: Path) -> PartedSource | None:
    """Embeddings of a list of chunks; None for other files, also for a chunk without a list that names it."""
    target = list_of(path)
    if target is None:
        return None
    if target[1] != path:
        if not target[1].is_file():
            return None
        chunks = _read(target[1])
        if path not in chunks.files or len(chunks.files) == 1:
            return None
    chunks = find_chunks(path)
    source, issues = open_dense_chunks(path, chunks)
    if issues:
        raise InvalidInputError(f"{path}: {issues[0].message}", code="wrong-chunk-bounds")
    return source


class ChunkWriter:
    """Cuts rows into files of about 256 MiB, ``BASE.pt`` where one is enough, and lists them with further `facts`."""

    def __init__(self, path: Path, n_rows: int, row_bytes: int, facts: dict[str, Any]) -> None:
        self._folder, self._base, self._n_rows, self._facts = path.parent, base_name(path), n_rows, facts
        self.chunk_rows = min(n_rows, max(1, CHUNK_BYTES // row_bytes))
        self._written = self._pending = 0
        self._entries: list[dict[str, Any]] = []

    def split(self, n: int) -> Iterator[tuple[slice, int, int | None]]:
        """Cut the next `n` rows at the ends of files: which of them, their first row in the file, the file's rows.

        The last is None where the file is not full yet.
        """
        start = 0
        while start < n:
            stop = min(n, start + self.chunk_rows - self._pending)
            into, end = self._pending, self._pending + stop - start
            full = end == self.chunk_rows or self._written + end == self._n_rows
            self._pending = 0 if full else end
            yield slice(start, stop), into, end if full else None
            start = stop

    def next_file(self, n: int) -> Path:
        """Where to write the next `n` rows."""
        name = f"{self._base}.pt"
        if self.chunk_rows < self._n_rows:
            name = f"{self._base}_chunk_{len(self._entries)}.pt"
        entry = {"file": name, "start_idx": self._written, "end_idx": self._written + n, "n_samples": n}
        self._entries.append(entry)
        self._written += n
        return self._folder / name

    def close(self) -> tuple[str, ...]:
        """Write the list, where there are several files; returns the names of all, the list last."""
        names = tuple(str(entry["file"]) for entry in self._entries)
        if self.chunk_rows >= self._n_rows:
            return names
        facts = {**self._facts, "chunks": self._entries, "total_samples": self._written, "num_chunks": len(names)}
        (self._folder / f"{self._base}{INFO_SUFFIX}").write_text(json.dumps(facts, indent=2))
        return (*names, f"{self._base}{INFO_SUFFIX}")


def base_name(path: Path) -> str:
    """The name of a matrix from the path of its file, with or without ``.pt``."""
    return path.name.removesuffix(".pt")
