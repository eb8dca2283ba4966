"""Labels in files of arrays: ``.npy``, ``.npz`` of one array a concept, ``.npz`` of a scipy sparse matrix."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.files import load_npy
from saestore.npz import NpzFile
from saestore.sparse_rows import check_matrix_ids

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]

_SPARSE = {"format", "shape", "data"}  # what `scipy.sparse.save_npz` writes, whatever the format


def read_arrays(
    path: str | os.PathLike[str], names: Sequence[str]
) -> Mapping[str, Array] | scipy.sparse.sparray | Array:
    """Masks by name, or a matrix that `names` go with.

    Parameters
    ----------
    names
        Of the columns; for a ``.npz`` of one array a concept those to take, by default all.
    """
    file = Path(path)
    if file.suffix == ".npy":
        values = load_npy(file)
        if values.ndim == 1 and len(names) == 1:
            return {names[0]: values}
        if values.ndim != 2 or len(names) != values.shape[1]:
            raise InvalidInputError(
                f"{file} has shape {values.shape}; name its columns with --concept, one each: {len(names)} are named.",
                code="wrong-names",
            )
        return np.asarray(values)
    if file.suffix != ".npz":
        raise InvalidInputError(
            f"{file} has the suffix {file.suffix!r}; labels are read from .npy and .npz files.", code="unknown-suffix"
        )
    with ExitStack() as resources:
        archive = NpzFile(file, resources)
        arrays = {name: archive.read(name) for name in archive.names}
    if set(arrays) >= _SPARSE:
        return _sparse(file, names)
    missing = [name for name in names if name not in arrays]
    if missing:
        raise InvalidInputError(
            f"{file} has no array {missing[0]!r}; it has {', '.join(arrays)}.", code="unknown-array"
        )
    return {name: arrays[name] for name in names or arrays}


def _sparse(file: Path, names: Sequence[str]) -> scipy.sparse.sparray:
    import scipy.sparse as sp

    try:
        loaded = sp.load_npz(file)
    except (ValueError, KeyError, NotImplementedError, TypeError) as e:
        raise InvalidInputError(
            f"{file} is not a sparse matrix of scipy.sparse.save_npz ({e}).", code="unreadable-file"
        ) from e
    check_matrix_ids(loaded, str(file))
    if len(names) != loaded.shape[1]:
        raise InvalidInputError(
            f"{file} has shape {loaded.shape}; name its columns with --concept, one each: {len(names)} are named.",
            code="wrong-names",
        )
    return sp.coo_array(loaded)
