"""What a caller may give as labels, checked and turned into one value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.sparse_rows import check_matrix_ids
from saestore.tables.column import as_column
from saestore.tables.column import check_names as check_each_name
from saestore.tables.label_matrix import LabelMatrix, check_level

Array = np.ndarray[Any, Any]

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
        raise InvalidInputError(
            f"a matrix of shape {given.shape} needs names=, one per column; it came with {message}.", code="wrong-names"
        )
    check_names(names)
    _check_length(given.shape[0], "the matrix", level, sizes)
    if not sp.issparse(given):
        columns = {name: _labels(given[:, i], f"concept {name!r}") for i, name in enumerate(names)}
        return of_masks(columns, given.shape[0], level)
    if given.dtype.kind not in _KINDS:
        raise InvalidInputError(
            f"the matrix holds {given.dtype}; labels are true or false, or 0 and 1.", code="invalid-label"
        )
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
        raise InvalidInputError(
            f"{what} holds {values.dtype}; labels are true or false, or 0 and 1.",
            code="invalid-label",
        )
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
    raise InvalidInputError(
        f"{what} has {length:,} values, but level={level!r} needs {sizes[level]:,}: the set has {others}.{hint}",
        code="wrong-length",
    )
