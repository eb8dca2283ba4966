"""From what a user names (a file, folder, base name, URL or array) to a source of embeddings."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from saestore.embeddings.base import EmbeddingSource, PartedSource, Table
from saestore.embeddings.chunks import CHUNK_FILE, INFO_SUFFIX, listed_files, open_chunks
from saestore.embeddings.layouts import (
    is_zarr,
    numpy_table,
    open_npy,
    open_pt,
    open_safetensors,
    open_zarr,
    torch_table,
    zarr_table,
)
from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import existing_file, nearby, split_member

__all__ = ["locate", "open_embeddings"]

_OPENERS: dict[str, Callable[[Path], Table]] = {".pt": open_pt, ".npy": open_npy, ".safetensors": open_safetensors}


def open_embeddings(
    spec: str | os.PathLike[str] | np.ndarray | torch.Tensor | zarr.Array[Any] | EmbeddingSource,
) -> EmbeddingSource:
    """Open embeddings in whatever layout, without reading them.

    Parameters
    ----------
    spec
        A ``.pt`` (a tensor, or a dict with ``embeddings``), ``.npy`` or ``.safetensors`` file (``file:key`` chooses a
        tensor); a ``BASE_chunks_info.json``; ``BASE`` or ``BASE.pt`` where chunks or a single file lie under that name;
        a folder with one of these; a zarr array or group (a path or URL); or an array or tensor itself.

    Returns
    -------
    EmbeddingSource
        With (n_rows, d_in) of one of float16, bfloat16, float32, float64.

    Raises
    ------
    NotFoundError
        If nothing is there, or several are and the name does not say which.
    InvalidInputError
        If it is damaged, of another kind, shape or dtype, or would have to be unpickled.
    """
    if isinstance(spec, (str, os.PathLike)):
        return _open_path(os.fspath(spec))
    if isinstance(spec, np.ndarray):
        return _at_hand("numpy array", "array", numpy_table(spec))
    if isinstance(spec, torch.Tensor):
        return _at_hand("torch tensor", "array", torch_table(spec, "torch tensor"))
    if isinstance(spec, zarr.Array):
        where = str(spec.store_path)
        return _at_hand(where, "zarr", zarr_table(spec, where))
    if isinstance(spec, EmbeddingSource):
        return spec
    raise InvalidInputError(
        f"embeddings cannot be a {type(spec).__name__}; give a path, a numpy or zarr array, or a torch tensor"
    )


def locate(path: Path) -> Path:
    """Find what a path stands for: the file itself, or the one set of embeddings in a folder or under a base name.

    Returns
    -------
    Path
        Of a file with a known suffix, a ``BASE_chunks_info.json``, or a zarr folder.

    Raises
    ------
    NotFoundError
        If there is none, or more than one.
    """
    if path.is_file() or is_zarr(path):
        return path
    if path.is_dir():
        found = sorted(target for targets in _bases(path).values() for target in targets)
        wanted = f"the folder {path}"
    else:
        # The pipeline that writes chunks calls them by the name that the single file would have.
        found = sorted(_bases(path.parent).get(path.name.removesuffix(".pt"), ()))
        wanted = str(path)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(target.name for target in found)
        raise NotFoundError(f"{wanted} has several sets of embeddings: {names}; give the path of one of them")
    if path.is_dir():
        raise NotFoundError(f"{wanted} has no embeddings ({', '.join(_OPENERS)}, *{INFO_SUFFIX} or a zarr folder)")
    raise NotFoundError(f"no embeddings at {path}; {nearby(path)}")


def _at_hand(path: str, layout: str, table: Table) -> PartedSource:
    """Make a source of what is not mapped from a file, and so never opened again."""
    return PartedSource.of_one(path, layout, lambda: table)


def _open_path(spec: str) -> EmbeddingSource:
    if "://" in spec:
        return _at_hand(spec, "zarr", open_zarr(spec))
    named, key = split_member(spec)
    path = _whole(locate(named))
    if path.is_dir():
        return _at_hand(str(path), "zarr", open_zarr(str(path)))
    if path.name.endswith(INFO_SUFFIX):
        return open_chunks(path)
    opener = _OPENERS.get(path.suffix)
    if opener is None:
        raise InvalidInputError(
            f"{path} has the suffix {path.suffix!r}; known are {', '.join(_OPENERS)}, *{INFO_SUFFIX} and zarr folders"
        )
    existing_file(path)
    if key is not None:
        return PartedSource.of_one(f"{path}:{key}", "safetensors", partial(open_safetensors, path, key))
    return PartedSource.of_one(str(path), path.suffix.removeprefix("."), partial(opener, path))


def _whole(path: Path) -> Path:
    """Refuse one chunk of several: the rows after it would be missing from the store without a word."""
    match = CHUNK_FILE.fullmatch(path.name)
    if match is None:
        return path
    info = path.with_name(match["base"] + INFO_SUFFIX)
    if not info.is_file():
        return path
    files = [file.name for file in listed_files(info)]
    if path.name in files and len(files) > 1:
        raise InvalidInputError(f"{path} is one of {len(files)} chunks; give {info} to read them all")
    return path


def _bases(folder: Path) -> dict[str, set[Path]]:
    """Return what could be embeddings in a folder, by base name. Chunks count as the list that they need."""
    found: dict[str, set[Path]] = {}
    if not folder.is_dir():
        return found
    for entry in folder.iterdir():
        chunk = CHUNK_FILE.fullmatch(entry.name)
        if entry.name.endswith(INFO_SUFFIX):
            base, target = entry.name.removesuffix(INFO_SUFFIX), entry
        elif chunk is not None:
            base, target = chunk["base"], entry.with_name(chunk["base"] + INFO_SUFFIX)
        elif entry.suffix in _OPENERS or (entry.is_dir() and is_zarr(entry)):
            base, target = entry.name.removesuffix(entry.suffix), entry
        else:
            continue
        found.setdefault(base, set()).add(target)
    return found
