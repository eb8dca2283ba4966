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

from saestore import layouts
from saestore.embeddings.base import EmbeddingSource, Matrix, PartedSource
from saestore.embeddings.matrices import (
    is_zarr,
    numpy_matrix,
    open_npy,
    open_pt,
    open_safetensors,
    open_zarr,
    torch_matrix,
    zarr_matrix,
)
from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import existing_file, nearby, split_member

__all__ = ["locate", "open_embeddings"]

_OPENERS: dict[str, Callable[[Path], Matrix]] = {".pt": open_pt, ".npy": open_npy, ".safetensors": open_safetensors}
_OF_LAYOUTS = (".pt", ".json")  # suffixes of chunks and of lists of chunks


def open_embeddings(
    spec: str | os.PathLike[str] | np.ndarray | torch.Tensor | zarr.Array[Any] | EmbeddingSource,
) -> EmbeddingSource:
    """Open embeddings of any layout, without reading them.

    Parameters
    ----------
    spec
        A ``.pt`` (a tensor, or a dict with ``embeddings``), ``.npy`` or ``.safetensors`` file (``file:key`` chooses a
        tensor); a list of chunks that a layout knows (see `saestore.layouts`); the name of one of these without its
        suffix; a folder with one of these; a zarr array or group (a path or URL); or an array or tensor itself.

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
        return _at_hand("numpy array", "array", numpy_matrix(spec))
    if isinstance(spec, torch.Tensor):
        return _at_hand("torch tensor", "array", torch_matrix(spec, "torch tensor"))
    if isinstance(spec, zarr.Array):
        where = str(spec.store_path)
        return _at_hand(where, "zarr", zarr_matrix(spec, where))
    if isinstance(spec, EmbeddingSource):
        return spec
    raise InvalidInputError(
        f"embeddings cannot be a {type(spec).__name__}; give a path, a numpy or zarr array, or a torch tensor",
        code="bad-embeddings",
    )


def locate(path: Path) -> Path:
    """Find what a path stands for: the file itself, or the one set of embeddings in a folder or under a base name.

    Returns
    -------
    Path
        A file with a known suffix, a list of chunks, or a zarr folder.

    Raises
    ------
    NotFoundError
        If there is none, or more than one.
    """
    if path.is_file() or is_zarr(path):
        return path
    if path.is_dir():
        targets = sorted(target for of_base in _bases(path).values() for target in of_base)
        where = f"the folder {path}"
    else:
        # The pipeline that writes chunks names them by the single file that they would be.
        targets = sorted(_bases(path.parent).get(path.name.removesuffix(".pt"), ()))
        where = str(path)
    if len(targets) == 1:
        return targets[0]
    if targets:
        names = ", ".join(target.name for target in targets)
        raise NotFoundError(
            f"{where} has several sets of embeddings: {names}; give the path of one of them", code="ambiguous-path"
        )
    if path.is_dir():
        raise NotFoundError(
            f"{where} has no embeddings ({', '.join(_OPENERS)}, a list of chunks or a zarr folder)",
            code="no-embeddings",
        )
    raise NotFoundError(f"no embeddings at {path}; {nearby(path)}", code="no-such-file")


def _at_hand(path: str, layout: str, matrix: Matrix) -> PartedSource:
    """Make a source of a matrix that is not mapped from a file, and so never opened again."""
    return PartedSource.of_one(path, layout, lambda: matrix)


def _open_path(spec: str) -> EmbeddingSource:
    if "://" in spec:
        return _at_hand(spec, "zarr", open_zarr(spec))
    named, key = split_member(spec)
    path = locate(named)
    if path.is_dir():
        return _at_hand(str(path), "zarr", open_zarr(str(path)))
    if path.suffix in _OF_LAYOUTS:
        source: EmbeddingSource | None = layouts.ask("open_embeddings", path)
        if source is not None:
            return source
    opener = _OPENERS.get(path.suffix)
    if opener is None:
        raise InvalidInputError(
            f"{path} has the suffix {path.suffix!r}; known are {', '.join(_OPENERS)}, lists of chunks and zarr folders",
            code="unknown-format",
        )
    existing_file(path)
    if key is not None:
        return PartedSource.of_one(f"{path}:{key}", "safetensors", partial(open_safetensors, path, key))
    return PartedSource.of_one(str(path), path.suffix.removeprefix("."), partial(opener, path))


def _bases(folder: Path) -> dict[str, set[Path]]:
    """Files and folders that may be embeddings, by base name. Chunks count as the list that they need."""
    bases: dict[str, set[Path]] = {}
    if not folder.is_dir():
        return bases
    for entry in folder.iterdir():
        base, target = entry.name.removesuffix(entry.suffix), entry
        listed = layouts.ask("embeddings_target", entry) if entry.suffix in _OF_LAYOUTS else None
        if listed is not None:
            base, target = listed
        elif entry.suffix not in _OPENERS and not (entry.is_dir() and is_zarr(entry)):
            continue
        bases.setdefault(base, set()).add(target)
    return bases
