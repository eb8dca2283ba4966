"""From what a user names (a file, folder, base name, URL or array) to a source of embeddings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from saestore import layouts
from saestore.embeddings import matrices
from saestore.embeddings.base import DTYPES, EmbeddingSource, Matrix, Names, Part, PartedSource, flattened, pick
from saestore.embeddings.batches import BatchSource, spooled
from saestore.embeddings.matrices import is_zarr, numpy_matrix, torch_matrix, zarr_matrix
from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import LIBRARY_DAMAGE, damage, existing_file, nearby, split_member

Opener = Callable[[Path, str | None, Names], Matrix]
_OPENERS: dict[str, Opener] = {
    ".pt": matrices.open_pt,
    ".npy": matrices.open_npy,
    ".safetensors": matrices.open_safetensors,
    ".npz": matrices.open_npz,
    ".h5": matrices.open_h5,
    ".hdf5": matrices.open_h5,
    ".parquet": matrices.open_parquet,
}
_OF_LAYOUTS = (".pt", ".json")  # suffixes of chunks and of lists of chunks


def open_embeddings(
    spec: Any, *, width: int | None = None, others: Names = (), dtypes: Names = DTYPES
) -> EmbeddingSource:
    """Open embeddings of any layout, without reading them: (n_rows, d_in) of one of `dtypes`.

    `spec` is a ``.pt`` (a tensor, or a dict with ``embeddings``), ``.npy``, ``.npz``, ``.safetensors``, HDF5 or Parquet
    file (``file:key`` chooses a tensor, array, dataset or column); a list of chunks that a layout knows (see
    `saestore.layouts`); the name of one of these without its suffix; a folder with one of these, of
    ``Dataset.save_to_disk`` or of saev's shards (``folder:layer``); a zarr array or group (a path or URL); an array, a
    tensor, a mapping of them or a `datasets.Dataset`; or a pair: batches, and the number of their rows. Batches are a
    list, a loader, a function without arguments that returns an iterator, or an iterator, which goes through a
    temporary file.

    An array of three or more dimensions is taken for rows of `width` values, by default of its last dimension; its
    second dimension then counts the rows of an item. `others` are names of tensors in the file that are read besides,
    such as a mask.
    """
    if isinstance(spec, (str, os.PathLike)):
        with damage(spec, "is damaged, or states sizes that cannot be", *LIBRARY_DAMAGE):
            return _open_path(os.fspath(spec), width, others, dtypes)
    if isinstance(spec, np.ndarray):
        return _at_hand("numpy array", "array", numpy_matrix(spec), width)
    if isinstance(spec, torch.Tensor):
        return _at_hand("torch tensor", "array", torch_matrix(spec, "torch tensor"), width)
    if isinstance(spec, zarr.Array):
        where = str(spec.store_path)
        return _at_hand(where, "zarr", zarr_matrix(spec, where), width)
    if isinstance(spec, EmbeddingSource):
        return spec
    return _open_object(spec, width, others)


def _open_object(spec: Any, width: int | None, others: Names) -> EmbeddingSource:
    if isinstance(spec, tuple) and len(spec) == 2 and (callable(spec[0]) or isinstance(spec[0], Iterable)):
        return _of_batches(*spec)
    if isinstance(spec, Mapping):
        if spec and all(hasattr(each, "select_columns") for each in spec.values()):
            _refuse_splits("the DatasetDict", list(spec), "its [SPLIT]")
        shapes = {str(name): tuple(value.shape) for name, value in spec.items() if hasattr(value, "shape")}
        return open_embeddings(spec[pick(shapes, None, "the mapping", "leave the others out", others)], width=width)
    if hasattr(spec, "features") and hasattr(spec, "select_columns") and hasattr(spec, "__len__"):
        return _at_hand("datasets.Dataset", "arrow", matrices.open_dataset(spec, "the Dataset"), width)
    if hasattr(spec, "__array__"):
        return _at_hand(f"the {type(spec).__name__}", "array", numpy_matrix(np.asarray(spec)), width)
    raise InvalidInputError(
        f"embeddings cannot be a {type(spec).__name__}; give a path, an array, a tensor, a datasets.Dataset, or "
        "batches and the number of their rows, as a pair: embeddings=(batches, n_rows)",
        code="bad-embeddings",
    )


def _refuse_splits(where: str, names: Iterable[str], choose: str) -> None:
    raise InvalidInputError(
        f"{where} has the splits {', '.join(names)}; give one of them, as {choose}", code="several-splits"
    )


def _of_batches(batches: Any, n_rows: Any) -> EmbeddingSource:
    if isinstance(n_rows, bool) or not isinstance(n_rows, Integral) or n_rows < 1:
        raise InvalidInputError(
            f"embeddings=(batches, {n_rows!r}): the second is the number of rows of all batches, at least 1",
            code="wrong-row-count",
        )
    if isinstance(batches, Iterator):
        return spooled(batches, int(n_rows))
    return BatchSource(batches if callable(batches) else lambda: batches, int(n_rows))


def locate(path: Path) -> Path:
    """Find what a path stands for: the file itself, or the one set of embeddings in a folder or under a base name.

    That is a file with a known suffix, a list of chunks, or a zarr folder.
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


def _at_hand(path: str, layout: str, matrix: Matrix, width: int | None, dtypes: Names = DTYPES) -> PartedSource:
    """Make a source of a matrix that is not mapped from a file, and so never opened again."""
    return PartedSource.of_one(path, layout, lambda: matrix, width, dtypes)


def _open_path(spec: str, width: int | None, others: Names, dtypes: Names) -> EmbeddingSource:
    if "://" in spec:
        return _at_hand(spec, "zarr", matrices.open_zarr(spec), width, dtypes)
    foreign = _foreign_folder(spec, width)
    if foreign is not None:
        return foreign
    named, key = split_member(spec)
    path = locate(named)
    if path.is_dir():
        return _at_hand(str(path), "zarr", matrices.open_zarr(str(path)), width, dtypes)
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
    where = str(path) if key is None else f"{path}:{key}"
    opened = partial(opener, path, key, others)
    return PartedSource.of_one(where, path.suffix.removeprefix("."), opened, width, dtypes)


def _foreign_folder(spec: str, width: int | None) -> PartedSource | None:
    """A folder of saev's shards, or of ``Dataset.save_to_disk``; None for others."""
    folder, _, layer = spec.rpartition(":")
    if (Path(spec) / "dataset_dict.json").is_file():
        _refuse_splits(spec, sorted(entry.name for entry in Path(spec).iterdir() if entry.is_dir()), f"{spec}/SPLIT")
    if (Path(spec) / "dataset_info.json").is_file():
        return PartedSource.of_one(spec, "arrow", partial(matrices.open_arrow_folder, Path(spec)), width)
    if layer.isdecimal() and (Path(folder) / "metadata.json").is_file():
        return _saev(Path(folder), int(layer))
    if (Path(spec) / "metadata.json").is_file() and any(Path(spec).glob("acts*.bin")):
        return _saev(Path(spec), None)
    return None


def _saev(path: Path, layer: int | None) -> PartedSource:
    layers, (per_item, width) = matrices.saev_parts(path, layer)
    parts, start = [], 0
    for matrix in layers:
        rows = flattened(matrix, 1)
        parts.append(Part(start, start + rows.shape[0], lambda rows=rows: rows))  # type: ignore[misc]
        start += rows.shape[0]
    return PartedSource(str(path), "saev", width, "float32", parts, item_size=per_item, stated=layers[0].stated)


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
