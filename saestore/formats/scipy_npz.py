"""What ``scipy.sparse.save_npz`` wrote: a matrix of any of its formats."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError
from saestore.formats.base import BLOCK, Opened, Rows, as_floats, stored_dtype
from saestore.formats.npz import Archive
from saestore.formats.selection import Selected
from saestore.formats.spool import Spool
from saestore.kernels import expand_pointers

Array = np.ndarray[Any, Any]
Entries = Iterator[tuple[Array, Array, Array]]

FORMATS = ("csr", "csc", "coo", "bsr", "dia")


def open_scipy(path: Path, resources: ExitStack) -> Opened:
    """Open a ``.npz`` of `scipy.sparse.save_npz`, without unpickling anything.

    A CSR matrix is read in the order of the file. Any other is written to a temporary file first (see `Spool`).

    Raises
    ------
    InvalidInputError
        It is damaged, is no such file, or its arrays contradict each other.
    """
    archive = Archive(path, resources)
    try:
        kind = _format(archive)
        shape = archive.read("shape")
    except NotFoundError as error:
        raise InvalidInputError(f"{path} was not written by scipy.sparse.save_npz: {error}") from error
    if kind not in FORMATS:
        raise InvalidInputError(f"{path} is a {kind!r} matrix; scipy.sparse.save_npz writes {', '.join(FORMATS)}.")
    if shape.shape != (2,) or shape.min() < 1:
        raise InvalidInputError(f"{path} has the shape {shape.tolist()}; it needs at least one sample and one feature.")
    n_rows, n_features = (int(n) for n in shape)
    data = archive["data"]
    dtype = stored_dtype(data.dtype, data.where)
    if kind == "csr":
        read, step = _csr(archive, n_rows, dtype)
    else:
        spool = Spool(n_rows, _ENTRIES[kind](archive, (n_rows, n_features), dtype), dtype, resources)
        read, step = spool.read, _rows_of(n_rows, spool.n_entries)
    return Opened(
        "scipy",
        str(path),
        (Path(path),),
        n_rows,
        n_features,
        dtype,
        read,
        step,
        summed=True,
        item_ptr=archive.read("item_ptr") if "item_ptr" in archive else None,
        source={"layout": f"scipy {kind}"},
    )


def _format(archive: Archive) -> str:
    value = archive.read("format").item()
    return value.decode() if isinstance(value, bytes) else str(value)


def _rows_of(n_rows: int, n_entries: int) -> int:
    """Rows that have about a block of entries."""
    return int(min(n_rows, max(1, BLOCK * n_rows // max(1, n_entries))))


def _pointers(archive: Archive, n: int) -> Array:
    indptr = archive.read("indptr").astype(np.int64)
    nnz = archive["data"].length
    if len(indptr) != n + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any():
        raise InvalidInputError(f"{archive.path}: indptr does not ascend from 0 in {n + 1:,} steps; it is damaged.")
    if indptr[-1] > min(nnz, archive["indices"].length):
        raise InvalidInputError(f"{archive.path}: indptr ends at {indptr[-1]:,}, but there are {nnz:,} activations.")
    return indptr


def _csr(archive: Archive, n_rows: int, dtype: str) -> tuple[Any, int]:
    """Reads the file forwards. Memory: 8 bytes a row for the pointers, and the rows that are read."""
    indptr = _pointers(archive, n_rows)
    indices, data = archive["indices"], archive["data"]

    def read(start: int, stop: int) -> Rows:
        a, b = int(indptr[start]), int(indptr[stop])
        values = as_floats(data.read(a, b), dtype, data.where)
        return Rows(indptr[start : stop + 1] - a, indices.read(a, b), values)

    return read, _rows_of(n_rows, int(indptr[-1]))


def _blocks(length: int, size: int = 1) -> Iterator[tuple[int, int]]:
    """Start and stop of runs of `length` things of which each has `size` entries."""
    step = max(1, BLOCK // size)
    yield from ((start, min(start + step, length)) for start in range(0, length, step))


def _checked(rows: Array, n_rows: int, where: str) -> Array:
    outside = np.flatnonzero((rows < 0) | (rows >= n_rows))
    if len(outside):
        raise InvalidInputError(f"{where} names sample {rows[outside[0]]}; there are {n_rows:,}. It is damaged.")
    return rows.astype(np.int64, copy=False)


def _csc_entries(archive: Archive, shape: tuple[int, int], dtype: str) -> Entries:
    indptr = _pointers(archive, shape[1])
    indices, data = archive["indices"], archive["data"]
    for start, stop in _blocks(int(indptr[-1])):
        columns = expand_pointers(indptr, start, stop)
        rows = _checked(indices.read(start, stop), shape[0], indices.where)
        yield rows, columns, as_floats(data.read(start, stop), dtype, data.where)


def _coo_entries(archive: Archive, shape: tuple[int, int], dtype: str) -> Entries:
    data = archive["data"]
    rows, columns = archive["row"], archive["col"]
    for start, stop in _blocks(data.length):
        row = _checked(rows.read(start, stop), shape[0], rows.where)
        yield row, columns.read(start, stop), as_floats(data.read(start, stop), dtype, data.where)


def _bsr_entries(archive: Archive, shape: tuple[int, int], dtype: str) -> Entries:
    data, indices = archive["data"], archive["indices"]
    _, height, width = data.shape
    indptr = _pointers_of_blocks(archive, shape[0] // height)
    for start, stop in _blocks(indices.length, height * width):
        row = expand_pointers(indptr, start, stop)
        values = data.read(start * height * width, stop * height * width)
        rows = (row * height)[:, None, None] + np.arange(height)[None, :, None] + np.zeros((1, 1, width), np.int64)
        columns = (indices.read(start, stop).astype(np.int64) * width)[:, None, None] + np.arange(width)[None, None, :]
        columns = np.broadcast_to(columns, rows.shape)
        values = as_floats(values, dtype, data.where)
        keep = values != 0  # a block is dense: its zeros say nothing
        yield _checked(rows.ravel()[keep], shape[0], indices.where), columns.ravel()[keep], values[keep]


def _pointers_of_blocks(archive: Archive, n: int) -> Array:
    indptr = archive.read("indptr").astype(np.int64)
    if len(indptr) != n + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any():
        raise InvalidInputError(f"{archive.path}: indptr does not ascend from 0 in {n + 1:,} steps; it is damaged.")
    return indptr


def _dia_entries(archive: Archive, shape: tuple[int, int], dtype: str) -> Entries:
    data, offsets = archive["data"], archive.read("offsets").astype(np.int64)
    width = data.shape[1]
    for diagonal, offset in enumerate(offsets.tolist()):
        for start, stop in _blocks(width):
            values = as_floats(data.read(diagonal * width + start, diagonal * width + stop), dtype, data.where)
            columns = np.arange(start, stop)
            rows = columns - offset
            keep = (rows >= 0) & (rows < shape[0]) & (columns < shape[1]) & (values != 0)
            yield rows[keep], columns[keep], values[keep]


_ENTRIES = {"csc": _csc_entries, "coo": _coo_entries, "bsr": _bsr_entries, "dia": _dia_entries}


def write_scipy(selected: Selected, path: Path) -> None:
    """Write the selected rows and columns as a CSR array.

    Beside what scipy reads lie ``sample`` and ``feature``, the numbers that rows and columns have in the set, and
    ``item`` and ``item_ptr``: which rows are whose.

    Notes
    -----
    Memory: a block, and some 40 bytes a sample. While it is written the uncompressed ids and values
    lie beside it, unnamed.
    """
    index = np.dtype(np.int32 if max(selected.acts.nnz, selected.n_features) < 1 << 31 else np.int64)
    with tempfile.TemporaryFile(dir=path.parent) as ids, tempfile.TemporaryFile(dir=path.parent) as values:
        lengths, nnz = [np.zeros(1, np.int64)], 0
        for block in selected.blocks():
            ids.write(selected.columns(block.features).astype(index).data)
            values.write(np.ascontiguousarray(block.activations).data)
            lengths.append(np.diff(block.indptr))
            nnz += len(block.features)
        items, item_ptr = selected.items
        samples = np.arange(selected.n_samples) if selected.samples is None else selected.samples
        with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
            _copy(archive, "indices", ids, index, nnz)
            _put(archive, "indptr", np.cumsum(np.concatenate(lengths)).astype(index))
            _put(archive, "format", np.array(b"csr"))
            _put(archive, "shape", np.array([selected.n_samples, selected.n_features], np.int64))
            _copy(archive, "data", values, selected.dtype, nnz)
            _put(archive, "_is_array", np.array(True))
            extra = {"sample": samples, "feature": selected.feature_ids, "item": items, "item_ptr": item_ptr}
            for name, array in extra.items():
                _put(archive, name, array)


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    info = zipfile.ZipInfo(f"{name}.npy")  # with the date of 1980: equal input gives equal bytes
    info.compress_type = zipfile.ZIP_DEFLATED
    info._compresslevel = 1  # type: ignore[attr-defined]  # noqa: SLF001
    return archive.open(info, "w", force_zip64=True)


def _put(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    with _member(archive, name) as stream:
        np.lib.format.write_array(stream, array, allow_pickle=False)


def _copy(archive: zipfile.ZipFile, name: str, source: IO[bytes], dtype: np.dtype[Any], length: int) -> None:
    with _member(archive, name) as stream:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(stream, header)
        source.seek(0)
        shutil.copyfileobj(source, stream, 1 << 20)
