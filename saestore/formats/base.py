"""Rows as a file has them, and the one way in which they become rows of a store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.files import existing_file
from saestore.format import feature_dtype
from saestore.formats.issues import Issue, IssueCollector
from saestore.tables import Items

Array = np.ndarray[Any, Any]

# Entries, stored zeros included, that are read and checked at once: some 100 MiB while they are sorted.
BLOCK = 1 << 21


@dataclass(frozen=True)
class Rows:
    """Some rows, as a CSR matrix; whatever is wrong in the file is still wrong here.

    Attributes
    ----------
    indptr
        int64 (n_rows + 1,), from 0.
    ids
        Feature ids, integers (nnz,).
    values
        Activations (nnz,), float16, float32 or float64.
    """

    indptr: Array
    ids: Array
    values: Array


@dataclass(frozen=True)
class Opened:
    """Activations in somebody's file, opened but not read.

    Attributes
    ----------
    format
        Its name, as ``--format`` has it.
    path
        For messages and records.
    files
        All files that it is made of.
    n_rows, n_features
        Shape; `n_features` is None where the file does not say it.
    dtype
        Dtype that holds every activation exactly: float16, float32 or float64.
    read
        ``read(start, stop)`` gives those rows; cheapest in ascending order.
    step
        Rows to read at once, so that a read stays within some 100 MiB.
    row_capacity
        Places of a row, where every row has as many; zeros in them are padding.
    summed
        True where a feature that comes twice in a row means the sum.
    item_ptr, items
        Which rows belong to which item and what those are, where the file says it.
    faults
        What opening it already showed.
    sae, source
        What is known of the SAE and of where the activations come from.
    """

    format: str
    path: str
    files: tuple[Path, ...]
    n_rows: int
    n_features: int | None
    dtype: str
    read: Callable[[int, int], Rows]
    step: int
    row_capacity: int | None = None
    summed: bool = False
    item_ptr: Any = None
    items: Items | None = None
    faults: tuple[Issue, ...] = ()
    sae: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)


def clean(rows: Rows, first_row: int, findings: IssueCollector, dtype: str, *, summed: bool) -> Rows:
    """Rows as a store holds them: ids strictly ascending in a row, no zeros, everything else counted as a fault.

    What is refused is left out here, so that the rest can still be looked at.

    Notes
    -----
    Memory: some 50 bytes an entry.
    """
    n = len(rows.indptr) - 1
    row = np.repeat(np.arange(n), np.diff(rows.indptr))
    ids, values = rows.ids, rows.values
    keep = _usable(row, ids, values, first_row, findings)
    if not keep.all():
        row, ids, values = row[keep], ids[keep], values[keep]
    key = row * findings.n_features + ids.astype(np.int64, copy=False)
    falls = key[1:] < key[:-1]
    if falls.any():
        findings.unsorted.add(len(np.unique(row[1:][falls])), lambda: (first_row + int(row[1:][falls][0]),))
        order = np.argsort(key, kind="stable")
        key, values = key[order], values[order]
    values = values.astype(dtype, copy=False)
    same = np.flatnonzero(key[1:] == key[:-1])
    if len(same):
        at = int(key[same[0]])
        findings.twice.add(len(same), lambda: (first_row + at // findings.n_features, at % findings.n_features))
        key, values = _merged(key, values, summed=summed)
        over = np.flatnonzero(~np.isfinite(values))  # a sum may overflow where its parts did not
        findings.not_finite.add(
            len(over),
            lambda: (first_row + int(key[over[0]]) // findings.n_features, int(key[over[0]]) % findings.n_features,
                     float(values[over[0]]), False),
        )  # fmt: skip
    row, ids = np.divmod(key, findings.n_features)
    negative = np.flatnonzero(values < 0)
    findings.negative.add(len(negative), lambda: (first_row + int(row[negative[0]]), int(ids[negative[0]])))
    lengths = np.bincount(row, minlength=n)
    findings.count_rows(lengths)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Rows(indptr, ids.astype(feature_dtype(findings.n_features)), values)


def _usable(row: Array, ids: Array, values: Array, first_row: int, findings: IssueCollector) -> Array:
    """Which entries are activations: not zero, finite, of a feature that there is."""
    finite = np.isfinite(values)
    bad = np.flatnonzero(~finite)
    half = values.dtype == np.float16
    findings.not_finite.add(
        len(bad), lambda: (first_row + int(row[bad[0]]), int(ids[bad[0]]), float(values[bad[0]]), half)
    )
    nonzero = values != 0
    zeros = np.flatnonzero(~nonzero)
    findings.zeros.add(len(zeros), lambda: (first_row + int(row[zeros[0]]),))
    inside = (ids >= 0) & (ids < findings.n_features)
    out = np.flatnonzero(~inside & nonzero)
    findings.out_of_range.add(len(out), lambda: (first_row + int(row[out[0]]), int(ids[out[0]])))
    usable: Array = finite & nonzero & inside
    return usable


def _merged(key: Array, values: Array, *, summed: bool) -> tuple[Array, Array]:
    """Add up what has the same place, or keep the first of it; a sum of zero goes."""
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    if not summed:
        return key[starts], values[starts]
    with np.errstate(over="ignore"):
        sums = np.add.reduceat(values, starts)
    kept = sums != 0
    return key[starts][kept], sums[kept]


def nonzeros(values: Array) -> Rows:
    """What is not zero in dense rows."""
    flat = np.ascontiguousarray(values).reshape(-1)
    # Of booleans numpy finds the true ones several times faster than the non-zeros of floats.
    places = np.flatnonzero(flat != 0)
    rows, ids = np.divmod(places, values.shape[1])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(values)))]).astype(np.int64)
    return Rows(indptr, ids, flat[places])


def stored_dtype(dtype: np.dtype[Any], where: str) -> str:
    """Dtype in which a store holds what a file has: its own, at least float32 for integers.

    Raises
    ------
    InvalidInputError
        There is none: complex numbers, text.
    """
    if dtype.kind in "biu":
        return "float32" if dtype.itemsize <= 2 else "float64"
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return f"float{8 * dtype.itemsize}"
    raise InvalidInputError(f"{where} holds {dtype}; activations are float16 to float64, or integers.")


def as_floats(values: Array, dtype: str, where: str) -> Array:
    """Values in the dtype that `stored_dtype` chose.

    Raises
    ------
    InvalidInputError
        An integer of 64 bits that no float64 equals.
    """
    floats = values.astype(dtype, copy=False)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        inexact = np.flatnonzero(floats.astype(values.dtype) != values)
        if len(inexact):
            raise InvalidInputError(f"{where} holds {values[inexact[0]]}, which no float64 equals; give floats.")
    return floats


_SAMPLES = 256
_BYTES = 4096


def fingerprint(files: Iterable[Path]) -> str:
    """SHA-256 (hex) over the sizes of files, in their order, and 256 evenly spaced pieces of 4 KiB of each.

    Names are not part of it: the files may move between an import that was killed and the one that goes on. Of a folder
    (a zarr group) every file in it counts, in the order of the names.
    """
    digest = hashlib.sha256()
    for path in _expanded(files):
        size = path.stat().st_size
        digest.update(f"{size}\n".encode())
        with path.open("rb") as stream:
            for start in np.unique(np.linspace(0, max(0, size - _BYTES), _SAMPLES).astype(np.int64)).tolist():
                stream.seek(start)
                digest.update(stream.read(_BYTES))
    return digest.hexdigest()


def _expanded(files: Iterable[Path]) -> Iterable[Path]:
    for path in files:
        if path.is_dir():
            yield from sorted(inner for inner in path.rglob("*") if inner.is_file())
        else:
            yield existing_file(path)
