"""Embeddings in several ``.pt`` files: ``BASE_chunk_<i>.pt``, listed in ``BASE_chunks_info.json``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from saestore.embeddings.base import Part, PartedSource, checked
from saestore.embeddings.layouts import open_pt
from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import existing_file, nearby

__all__ = ["CHUNK_FILE", "INFO_SUFFIX", "listed_files", "open_chunks"]

INFO_SUFFIX = "_chunks_info.json"
CHUNK_FILE = re.compile(r"(?P<base>.+)_chunk_[0-9]+\.pt")


@dataclass(frozen=True)
class _Chunk:
    """One entry of the list, as it says it is."""

    file: Path
    start: int
    stop: int
    shape: tuple[int, ...]


def listed_files(info: Path) -> list[Path]:
    """Return the files that a ``BASE_chunks_info.json`` lists, in row order."""
    return [chunk.file for chunk in _read(info)[0]]


def open_chunks(info: Path) -> PartedSource:
    """Open the chunks that a ``BASE_chunks_info.json`` lists, after looking into each of them.

    Raises
    ------
    NotFoundError
        If the list or a chunk is missing.
    InvalidInputError
        If the list cannot be read, chunks leave a gap or overlap or do not add up, or a chunk is not what it says.
    """
    chunks, total = _read(info)
    _check_order(chunks, total, info)
    kinds = [_look_into(chunk, number, len(chunks), info) for number, chunk in enumerate(chunks)]
    d_in, dtype = kinds[0]
    for chunk, kind in zip(chunks, kinds, strict=True):
        if kind != kinds[0]:
            raise InvalidInputError(
                f"{chunk.file} is {kind[1]} of width {kind[0]}, but {chunks[0].file.name} is {dtype} of width {d_in}; "
                f"all chunks need the same"
            )
    parts = [Part(chunk.start, chunk.stop, partial(open_pt, chunk.file)) for chunk in chunks]
    return PartedSource(str(info), "pt chunks", d_in, dtype, parts)


def _look_into(chunk: _Chunk, number: int, n_chunks: int, info: Path) -> tuple[int, str]:
    """Return width and dtype of a chunk, once it is there and as large as the list says."""
    if not chunk.file.exists():
        raise NotFoundError(
            f"chunk {number} of {n_chunks} is missing: {chunk.file}, listed in {info.name}; {nearby(chunk.file)}"
        )
    table = checked(open_pt(chunk.file), str(chunk.file))
    if table.shape != chunk.shape:
        raise InvalidInputError(f"{chunk.file} has the shape {table.shape}, but {info.name} says {chunk.shape}")
    return table.shape[1], table.dtype


def _read(info: Path) -> tuple[list[_Chunk], int]:
    if not info.exists():
        base = info.name.removesuffix(INFO_SUFFIX)
        raise NotFoundError(
            f"no {info}, which lists the chunks {base}_chunk_<i>.pt and their rows; without it none can be read"
        )
    try:
        listed = json.loads(existing_file(info).read_text(encoding="utf-8"))
        chunks = [_chunk(info.parent, entry) for entry in listed["chunks"]]
        total = int(listed["total_samples"])
        number = int(listed.get("num_chunks", len(chunks)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"{info} is not a list of chunks ({type(error).__name__}: {error}); it needs total_samples, and "
            f"chunks with file, start_idx, end_idx and shape each"
        ) from error
    if not chunks or number != len(chunks):
        raise InvalidInputError(
            f"{info} lists {len(chunks)} chunks, but says num_chunks {number}; it needs at least one"
        )
    return sorted(chunks, key=lambda chunk: chunk.start), total


def _chunk(folder: Path, entry: dict[str, Any]) -> _Chunk:
    shape = tuple(int(n) for n in entry["shape"])
    return _Chunk(folder / str(entry["file"]), int(entry["start_idx"]), int(entry["end_idx"]), shape)


def _check_order(chunks: list[_Chunk], total: int, info: Path) -> None:
    row = 0
    for chunk in chunks:
        name = chunk.file.name
        if chunk.start != row:
            what = "a gap" if chunk.start > row else "an overlap"
            raise InvalidInputError(f"{info}: {name} starts at row {chunk.start}, expected {row}: there is {what}")
        if not chunk.shape or chunk.stop - chunk.start != chunk.shape[0]:
            raise InvalidInputError(
                f"{info}: {name} has the rows {chunk.start} to {chunk.stop}, but the shape {chunk.shape}; "
                f"end_idx - start_idx and the first number of the shape must be equal"
            )
        row = chunk.stop
    if row != total:
        raise InvalidInputError(f"{info}: the chunks add up to {row:,} rows, but total_samples is {total:,}")
