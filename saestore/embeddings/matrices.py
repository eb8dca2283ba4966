"""One function per kind of file or array: open a matrix of embeddings without reading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from saestore.embeddings.base import Matrix, pick
from saestore.errors import InvalidInputError, MissingDependencyError, NotFoundError
from saestore.files import existing_file, load_npy, load_pt

__all__ = [
    "is_zarr",
    "numpy_matrix",
    "open_npy",
    "open_pt",
    "open_safetensors",
    "open_zarr",
    "torch_matrix",
    "zarr_matrix",
]

_SAFETENSORS_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


def torch_matrix(tensor: torch.Tensor, where: str) -> Matrix:
    """Wrap a dense tensor, on any device."""
    if tensor.layout is not torch.strided:
        raise InvalidInputError(
            f"{where} is a tensor of layout {tensor.layout}; embeddings are dense: use .to_dense()", code="not-dense"
        )
    rows = tensor.detach()

    def fill(out: torch.Tensor, start: int, stop: int) -> None:
        out.copy_(rows[start:stop])

    return Matrix(tuple(rows.shape), str(rows.dtype).removeprefix("torch."), fill)


def numpy_matrix(array: np.ndarray) -> Matrix:
    """Wrap an array of any byte order and memory order."""

    def fill(out: torch.Tensor, start: int, stop: int) -> None:
        np.copyto(out.numpy(), array[start:stop])

    return Matrix(array.shape, array.dtype.name, fill)


def zarr_matrix(array: zarr.Array[Any], where: str) -> Matrix:
    """Wrap a zarr array; one with missing chunks is refused, because zarr would read them as zeros."""
    # Shards count whole here, the last one too: more than all is not an error.
    missing = array.nchunks - array.nchunks_initialized
    if missing > 0:
        raise InvalidInputError(
            f"{where}: {missing:,} of {array.nchunks:,} chunks are missing and would read as zeros; write them "
            f"(where zeros are meant, with zarr's setting write_empty_chunks)",
            code="missing-chunk",
        )

    def fill(out: torch.Tensor, start: int, stop: int) -> None:
        try:
            np.copyto(out.numpy(), np.asarray(array[start:stop]))
        # Each codec has its own way to say that bytes are damaged.
        except (RuntimeError, ValueError, TypeError, OSError, KeyError) as error:
            raise InvalidInputError(
                f"{where}: rows {start} to {stop} cannot be decoded ({error})", code="damaged-file"
            ) from error

    return Matrix(tuple(array.shape), np.dtype(array.dtype).name, fill)


def open_pt(path: Path) -> Matrix:
    """Open a ``.pt`` file that holds a tensor, or a dict with the one that `pick` finds."""
    loaded = load_pt(path)
    if isinstance(loaded, dict):
        tensors = {str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        loaded = tensors[pick(shapes, None, str(path), "save that tensor alone with torch.save(tensor, path)")]
    if not isinstance(loaded, torch.Tensor):
        raise InvalidInputError(
            f"{path} holds a {type(loaded).__name__}; embeddings are a tensor or a dict with one", code="no-embeddings"
        )
    return torch_matrix(loaded, str(path))


def open_npy(path: Path) -> Matrix:
    """Open a ``.npy`` file."""
    return numpy_matrix(load_npy(path))


def open_safetensors(path: Path, key: str | None = None) -> Matrix:
    """Open a tensor of a ``.safetensors`` file: `key`, or the one that `pick` finds."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingDependencyError(f"reading {path} needs safetensors; pip install 'saestore[sae]'") from error
    file = existing_file(path)
    try:
        # Not closed here: the mapping lives as long as the table and goes with it.
        opened: Any = safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InvalidInputError(
            f"{file} is truncated or not a .safetensors file ({error})", code="damaged-file"
        ) from error
    shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    name = pick(shapes, key, str(file), f"choose one as {file.name}:KEY")
    rows = opened.get_slice(name)

    def fill(out: torch.Tensor, start: int, stop: int) -> None:
        out.copy_(rows[start:stop])

    dtype = rows.get_dtype()
    return Matrix(tuple(rows.get_shape()), _SAFETENSORS_DTYPES.get(dtype, dtype), fill)


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a zarr array or group, of format 2 or 3."""
    return any((folder / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def open_zarr(location: str) -> Matrix:
    """Open a zarr array, or a group's array that `pick` finds, at a path or URL."""
    try:
        node = zarr.open(location, mode="r")
    except FileNotFoundError as error:
        raise NotFoundError(f"no zarr array or group at {location}", code="no-such-file") from error
    except ImportError as error:
        raise MissingDependencyError(f"reading {location} needs a package for this kind of URL: {error}") from error
    except (ValueError, KeyError, OSError) as error:
        raise InvalidInputError(
            f"{location} is not a zarr array or group that can be read ({error})", code="damaged-file"
        ) from error
    if isinstance(node, zarr.Group):
        arrays = dict(sorted(node.arrays()))
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        name = pick(shapes, None, location, f"choose one as {location.rstrip('/')}/NAME")
        return zarr_matrix(arrays[name], f"{location.rstrip('/')}/{name}")
    return zarr_matrix(node, location)
