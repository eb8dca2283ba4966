"""A scipy matrix in memory as a row source: stored exactly, or one error."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, check_choice
from saestore.format import feature_dtype
from saestore.sparse_rows import Advance, SparseRows, check_matrix_ids
from saestore.vocabulary import DATA_DTYPES

__all__ = ["MatrixRows"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class MatrixRows:
    """A `RowSource` over a matrix in memory.

    Attributes
    ----------
    rows
        All rows: features ascending, no duplicates, no zeros.
    n_features, dtype
        Width of the matrix; dtype of the stored activations.
    source
        What the set records of the matrix.
    """

    rows: SparseRows
    n_features: int
    dtype: str
    source: Mapping[str, Any]

    @classmethod
    def of(cls, matrix: Any, dtype: str | None, source: Mapping[str, Any]) -> MatrixRows:
        """From any scipy sparse matrix, which is left as it is.

        Raises InvalidInputError: It is not a sparse matrix of finite real numbers that `dtype` can hold.
        """
        csr = _as_csr(matrix)
        data, stored = _exact_values(csr.data, dtype)
        bad = np.flatnonzero(~np.isfinite(data))
        if len(bad):
            row = int(np.searchsorted(csr.indptr, bad[0], "right")) - 1
            raise InvalidInputError(
                f"the activation of sample {row}, feature {int(csr.indices[bad[0]])} is {data[bad[0]]}; "
                "activations must be finite. Nothing was written.",
                code="not-finite",
            )
        ids = csr.indices.astype(feature_dtype(csr.shape[1]))
        return cls(SparseRows(csr.indptr.astype(np.int64), ids, data), csr.shape[1], stored, source)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def read(self, start: int, stop: int, advance: Advance | None = None) -> SparseRows:
        """Rows `start` to `stop`, as views."""
        rows = self.rows[start:stop]
        if advance is not None:
            advance(len(rows), rows.nnz)
        return rows

    def fingerprint(self, n_rows: int | None = None) -> str:
        """SHA-256, in hex, of shape, dtype and every entry of the first `n_rows` rows, by default of all."""
        rows = self.rows[: self.n_rows if n_rows is None else n_rows]
        digest = hashlib.sha256(f"{len(rows)} x {self.n_features} {self.dtype}\n".encode())
        for array in (rows.indptr, rows.indices, rows.data):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def provenance(self) -> dict[str, Any]:
        """The caller's description of the matrix."""
        return {"kind": "matrix", **self.source}


def _as_csr(matrix: Any) -> Any:
    import scipy.sparse as sp

    if not sp.issparse(matrix):
        raise InvalidInputError(
            f"matrix is a {type(matrix).__name__}; give a scipy sparse matrix, such as scipy.sparse.csr_array(dense).",
            code="not-sparse",
        )
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InvalidInputError(
            f"matrix has shape {matrix.shape}; it needs at least one sample and one feature.", code="bad-shape"
        )
    check_matrix_ids(matrix, "matrix")
    if matrix.dtype == np.float16 or not matrix.dtype.isnative:  # scipy holds these, but can do nothing with them
        matrix = matrix.astype(np.float32 if matrix.dtype == np.float16 else matrix.dtype.newbyteorder("="))
    csr = sp.csr_array(matrix)
    if csr is matrix or np.shares_memory(csr.data, matrix.data if hasattr(matrix, "data") else csr.data):
        csr = csr.copy()
    csr.sum_duplicates()
    csr.eliminate_zeros()
    return csr


def _exact_values(data: Array, dtype: str | None) -> tuple[Array, str]:
    """The values in the narrowest stored dtype that holds them exactly, at least float32, or in the requested one."""
    if data.dtype.kind not in "fiub":
        raise InvalidInputError(
            f"activations are {data.dtype}; they must be real numbers (float16 to float64, or int).", code="bad-dtype"
        )
    if dtype is not None:
        check_choice("dtype", dtype, DATA_DTYPES, "unknown-dtype")
    if dtype is None and data.dtype.kind == "f" and data.dtype.itemsize <= 8:
        return data, data.dtype.name
    for name in ("float32", "float64") if dtype is None else (dtype,):
        with np.errstate(over="ignore"):
            cast = data.astype(name)
        with np.errstate(invalid="ignore"):
            same = (cast.astype(data.dtype) == data) | ~np.isfinite(
                data
            )  # values that are not finite are refused later
        if bool(same.all()):
            return cast, name
    raise InvalidInputError(
        f"activation {data[~same][0]!r} of dtype {data.dtype} cannot be stored exactly as {name}.", code="inexact-value"
    )
