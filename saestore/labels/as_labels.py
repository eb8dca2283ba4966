"""What a caller may give as labels, checked and turned into one value; also from ``.npy`` and ``.npz`` files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.files import load_npy
from saestore.npz import NpzFile
from saestore.sparse_rows import Array, check_matrix_ids
from saestore.tables.column import as_column
from saestore.tables.column import check_names as check_each_name
from saestore.tables.label_matrix import LabelMatrix, check_level

if TYPE_CHECKING:
    import scipy.sparse


_KINDS = "biuf"


def as_labels(given: Any, level: str, n_items: int, n_samples: int, names: Sequence[str] | None = None) -> LabelMatrix:
    """Check labels given as a mapping of names to masks, or as a matrix with `names`.

    Masked values, NaN, None and ``pandas.NA`` are unknown.
    """
    sizes = {"item": n_items, "sample": n_samples}
    if isinstance(given, LabelMatrix):
        labels = given
    elif isinstance(given, Mapping):
        check_level(level)
        if names is not None:
            raise InvalidInputError("names= goes with a matrix; a mapping has its own names.", code="unexpected-names")
        check_names(list(given))
        masks = {name: _mask_of(mask, f"concept {name!r}", level, sizes) for name, mask in given.items()}
        labels = of_masks(masks, sizes[level], level)
    else:
        check_level(level)
        labels = _of_matrix(given, level, sizes, names)
    if not labels.names:
        raise InvalidInputError("no concept was given; give {name: mask, …}.", code="no-concept")
    _check_length(labels.n_rows, "the matrix", labels.level, sizes)
    return labels


def of_masks(masks: Mapping[str, Array], n_rows: int, level: str) -> LabelMatrix:
    """Labels from masks of bool, in which what is masked is unknown."""
    true = {name: np.flatnonzero(np.ma.filled(mask, False)) for name, mask in masks.items()}
    unknown = {name: np.flatnonzero(np.ma.getmaskarray(mask)) for name, mask in masks.items()}
    return LabelMatrix.of_rows(true, n_rows, level, unknown)


def check_names(names: Sequence[Any]) -> None:
    """Refuse what cannot be the name of a concept, and names that are given twice."""
    check_each_name(names, "concept")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InvalidInputError(f"concept {twice[0]!r} is given twice; give each name once.", code="duplicate-name")


def _of_matrix(given: Any, level: str, sizes: Mapping[str, int], names: Sequence[str] | None) -> LabelMatrix:
    import scipy.sparse as sp

    if not sp.issparse(given) and not (isinstance(given, np.ndarray) and given.ndim == 2):
        raise InvalidInputError(
            f"labels cannot be a {type(given).__name__}; give {{name: mask, …}}, a scipy sparse matrix or a 2-D array "
            "with names=[…], or the path of a metadata.csv.",
            code="unsupported-labels",
        )
    if given.ndim != 2 or names is None or len(names) != given.shape[1]:
        message = "no names" if names is None else f"{len(names):,} names"
        message = f"a matrix of shape {given.shape} needs names=, one per column; it came with {message}."
        raise InvalidInputError(message, code="wrong-names")
    check_names(names)
    _check_length(given.shape[0], "the matrix", level, sizes)
    if not sp.issparse(given):
        columns = {name: _labels(given[:, i], f"concept {name!r}") for i, name in enumerate(names)}
        return of_masks(columns, given.shape[0], level)
    if given.dtype.kind not in _KINDS:
        message = f"the matrix holds {given.dtype}; labels are true or false, or 0 and 1."
        raise InvalidInputError(message, code="invalid-label")
    check_matrix_ids(given, "the matrix")
    matrix = sp.csc_array(given, copy=True)
    matrix.sum_duplicates()
    unknown = matrix.copy()
    values = _labels(matrix.data, "the matrix")
    matrix.data, unknown.data = np.ma.filled(values, False), np.ma.getmaskarray(values)
    for each in (matrix, unknown):
        each.eliminate_zeros()
    return LabelMatrix(list(names), matrix, level, unknown if unknown.nnz else None)


def _mask_of(mask: Any, what: str, level: str, sizes: Mapping[str, int]) -> Array:
    try:
        length = len(mask)
    except (TypeError, RuntimeError) as e:
        raise InvalidInputError(f"{what} is not a mask: {e}.", code="invalid-mask") from e
    _check_length(length, what, level, sizes)
    return _labels(mask, what)


def _labels(given: Any, what: str) -> Array:
    """A mask of bool, masked where labels are unknown, from values of 0 and 1."""
    column = as_column(given, what)
    values, known = column.values, column.known
    if values.dtype.kind not in _KINDS:
        message = f"{what} holds {values.dtype}; labels are true or false, or 0 and 1."
        raise InvalidInputError(message, code="invalid-label")
    wrong = values[(values != 0) & (values != 1) & (True if known is None else known)]
    if wrong.size:
        raise InvalidInputError(
            f"{what} holds {wrong[0].item()!r}; labels are true or false, or 0 and 1. For numbers of items or samples "
            "use numpy.isin(numpy.arange(n), numbers).",
            code="invalid-label",
        )
    labels: Array = values == 1
    return labels if known is None else np.ma.MaskedArray(labels, ~known)


def _check_length(length: int, what: str, level: str, sizes: Mapping[str, int]) -> None:
    if length == sizes[level]:
        return
    fits = [other for other, size in sizes.items() if size == length]
    hint = f" That is how many {fits[0]}s there are: pass level={fits[0]!r}." if fits else ""
    others = " and ".join(f"{size:,} {name}s" for name, size in sizes.items())
    message = f"{what} has {length:,} values, but level={level!r} needs {sizes[level]:,}: the set has {others}.{hint}"
    raise InvalidInputError(message, code="wrong-length")


_SPARSE = {"format", "shape", "data"}  # what `scipy.sparse.save_npz` writes, whatever the format


def read_arrays(
    path: str | os.PathLike[str], names: Sequence[str]
) -> Mapping[str, Array] | scipy.sparse.sparray | Array:
    """Masks by name, of a ``.npz`` of masks those that `names` choose; or a matrix, whose columns `names` are."""
    file = Path(path)
    if file.suffix == ".npy":
        values = load_npy(file)
        if values.ndim == 1 and len(names) == 1:
            return {names[0]: values}
        _check_names(file, values.shape, names)
        return np.asarray(values)
    if file.suffix != ".npz":
        message = f"{file} has the suffix {file.suffix!r}; labels are read from .npy and .npz files."
        raise InvalidInputError(message, code="unknown-suffix")
    with ExitStack() as resources:
        archive = NpzFile(file, resources)
        arrays = {name: archive.read(name) for name in archive.names}
    if set(arrays) >= _SPARSE:
        return _sparse(file, names)
    missing = [name for name in names if name not in arrays]
    if missing:
        message = f"{file} has no array {missing[0]!r}; it has {', '.join(arrays)}."
        raise InvalidInputError(message, code="unknown-array")
    return {name: arrays[name] for name in names or arrays}


def _sparse(file: Path, names: Sequence[str]) -> scipy.sparse.sparray:
    import scipy.sparse as sp

    try:
        loaded = sp.load_npz(file)
    except (ValueError, KeyError, NotImplementedError, TypeError) as e:
        message = f"{file} is not a sparse matrix of scipy.sparse.save_npz ({e})."
        raise InvalidInputError(message, code="unreadable-file") from e
    check_matrix_ids(loaded, str(file))
    _check_names(file, loaded.shape, names)
    return sp.coo_array(loaded)


def _check_names(file: Path, shape: tuple[int, ...], names: Sequence[str]) -> None:
    if len(shape) != 2 or len(names) != shape[1]:
        message = f"{file} has shape {shape}; name its columns with --concept, one each: {len(names)} are named."
        raise InvalidInputError(message, code="wrong-names")
