"""What a caller may give as labels, checked and turned into one sparse matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.vocabulary import LEVELS

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]

# What an expression and an xarray dataset call something else.
RESERVED = ("item", "position", "sample", "feature")
_KINDS = "biuf"


@dataclass(frozen=True, eq=False)
class LabelMatrix:
    """Labels that are to be put into a set.

    Attributes
    ----------
    names
        Of the concepts, one a column.
    matrix
        `scipy.sparse.csc_array` of bool with sorted ids, items or samples x concepts. Memory: 5 bytes a positive label.
    level
        ``item`` or ``sample``.
    """

    names: list[str]
    matrix: scipy.sparse.csc_array
    level: str

    @classmethod
    def of_rows(cls, rows: Mapping[str, Array], n_rows: int, level: str) -> LabelMatrix:
        """From the ascending rows that have each concept."""
        import scipy.sparse as sp

        pointers = np.concatenate([[0], np.cumsum([len(r) for r in rows.values()], dtype=np.int64)])
        ids = np.concatenate([np.empty(0, np.int64), *rows.values()])
        dtype = np.int32 if max(n_rows, len(ids)) < 1 << 31 else np.int64
        parts = np.ones(len(ids), bool), ids.astype(dtype), pointers.astype(dtype)
        return cls(list(rows), sp.csc_array(parts, shape=(n_rows, len(rows))), level)

    def rows(self, column: int) -> Array:
        """Rows that have a concept, ascending."""
        return np.asarray(self.matrix.indices[self.matrix.indptr[column] : self.matrix.indptr[column + 1]])


def as_labels(given: Any, level: str, n_items: int, n_samples: int, names: Sequence[str] | None = None) -> LabelMatrix:
    """Check labels given as a mapping of names to masks, or as a matrix with `names`.

    Raises
    ------
    InvalidInputError
        A name or a length does not fit, or a value is neither 0 nor 1; the message says which.
    """
    if isinstance(given, LabelMatrix):
        labels = given
    elif level not in LEVELS:
        raise InvalidInputError(f"level={level!r}: use 'item' or 'sample'.")
    elif isinstance(given, Mapping):
        if names is not None:
            raise InvalidInputError("names= goes with a matrix; a mapping has its names already.")
        check_names(list(given))
        sizes = {"item": n_items, "sample": n_samples}
        rows = {name: _rows_of(mask, f"concept {name!r}", level, sizes) for name, mask in given.items()}
        labels = LabelMatrix.of_rows(rows, sizes[level], level)
    else:
        labels = _of_matrix(given, level, {"item": n_items, "sample": n_samples}, names)
    if not labels.names:
        raise InvalidInputError("there is no concept in what was given; give {name: mask, …}.")
    _check_length(labels.matrix.shape[0], "the matrix", labels.level, {"item": n_items, "sample": n_samples})
    return labels


def check_names(names: Sequence[Any]) -> None:
    """Refuse what cannot be the name of a concept."""
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise InvalidInputError(f"{name!r} is no name of a concept; give a text such as 'color::red'.")
        if name in RESERVED:
            raise InvalidInputError(
                f"a concept cannot be called {name!r}, which means something else; choose another name."
            )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InvalidInputError(f"concept {twice[0]!r} is given twice; give each name once.")


def _of_matrix(given: Any, level: str, sizes: Mapping[str, int], names: Sequence[str] | None) -> LabelMatrix:
    import scipy.sparse as sp

    if not sp.issparse(given) and not (isinstance(given, np.ndarray) and given.ndim == 2):
        raise InvalidInputError(
            f"labels cannot be a {type(given).__name__}; give {{name: mask, …}}, a scipy sparse matrix or a 2-D array "
            "with names=[…], or the path of a metadata.csv."
        )
    if given.ndim != 2 or names is None or len(names) != given.shape[1]:
        told = "no names" if names is None else f"{len(names):,} names"
        raise InvalidInputError(f"a matrix of shape {given.shape} needs names=, one a column; it came with {told}.")
    check_names(names)
    _check_length(given.shape[0], "the matrix", level, sizes)
    if given.dtype.kind not in _KINDS:
        raise InvalidInputError(f"the matrix holds {given.dtype}; labels are true or false, or 0 and 1.")
    matrix = sp.csc_array(given, copy=True)
    matrix.sum_duplicates()
    _check_values(matrix.data, "the matrix")
    matrix.eliminate_zeros()
    matrix.data = np.ones(matrix.nnz, bool)
    return LabelMatrix(list(names), matrix, level)


def _rows_of(mask: Any, what: str, level: str, sizes: Mapping[str, int]) -> Array:
    try:
        values = np.asarray(mask)
    except ValueError as e:
        raise InvalidInputError(f"{what} is no mask: {e}.") from e
    if values.ndim != 1:
        raise InvalidInputError(f"{what} has {values.ndim} dimensions; give one value for each {level}.")
    _check_length(len(values), what, level, sizes)
    _check_values(values, what)
    return np.flatnonzero(values)


def _check_length(length: int, what: str, level: str, sizes: Mapping[str, int]) -> None:
    if length == sizes[level]:
        return
    fits = [other for other, size in sizes.items() if size == length]
    hint = f" That is how many {fits[0]}s there are: pass level={fits[0]!r}." if fits else ""
    others = " and ".join(f"{size:,} {name}s" for name, size in sizes.items())
    raise InvalidInputError(
        f"{what} has {length:,} values, but level={level!r} needs {sizes[level]:,}: the set has {others}.{hint}"
    )


def _check_values(values: Array, what: str) -> None:
    if values.dtype == bool:
        return
    if values.dtype.kind not in _KINDS:
        raise InvalidInputError(f"{what} holds {values.dtype}; labels are true or false, or 0 and 1.")
    wrong = values[(values != 0) & (values != 1)]
    if wrong.size:
        raise InvalidInputError(
            f"{what} holds {wrong.reshape(-1)[0].item()!r}; labels are true or false, or 0 and 1. Numbers of items or "
            "samples are no mask: numpy.isin(numpy.arange(n), numbers) makes one of them."
        )
