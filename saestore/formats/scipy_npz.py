"""``.npz`` files of ``scipy.sparse.save_npz``: a matrix in any of scipy's formats; written as CSR."""

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
from saestore.files import NpzFile
from saestore.formats.base import Format, Opened, Source, Written, as_floats, rows_per_block, stored_dtype
from saestore.formats.selection import Selected
from saestore.formats.spool import Compressed, Entries, Read, Spool, blocks, checked_rows
from saestore.sparse_rows import SparseRows, pointers

Array = np.ndarray[Any, Any]

_KINDS = ("csr", "csc", "coo", "bsr", "dia")


def open_scipy(source: Source) -> Opened:
    """Open a ``.npz`` of `scipy.sparse.save_npz`, without unpickling anything.

    A CSR matrix is read in the order of the file, CSC and COO go through a temporary file (see `Spool`), and the rare
    BSR and DIA are read into memory.

    Raises
    ------
    InvalidInputError
        It is damaged, is not such a file, or its arrays contradict each other.
    """
    path = source.path
    archive = NpzFile(path, source.resources)
    try:
        kind, shape = archive.read("format").item(), archive.read("shape")
    except NotFoundError as error:
        raise InvalidInputError(
            f"{path} is not a file of scipy.sparse.save_npz: {error}", code="not-a-matrix"
        ) from error
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if kind not in _KINDS:
        raise InvalidInputError(
            f"{path} is a {kind!r} matrix; scipy.sparse.save_npz writes {', '.join(_KINDS)}.", code="not-a-matrix"
        )
    if shape.shape != (2,) or shape.min() < 1:
        raise InvalidInputError(
            f"{path} has the shape {shape.tolist()}; it needs at least one sample and one feature.", code="bad-shape"
        )
    n_rows, n_features = (int(n) for n in shape)
    data = archive["data"]
    dtype = stored_dtype(data.dtype, data.where)
    read, step = _rows(archive, kind, (n_rows, n_features), dtype, source.resources)
    return Opened(
        "scipy",
        str(path),
        (Path(path),),
        n_rows,
        n_features,
        dtype,
        read,
        step,
        sum_duplicates=True,
        item_ptr=archive.read("item_ptr") if "item_ptr" in archive else None,
        source={"layout": f"scipy {kind}"},
    )


def _rows(archive: NpzFile, kind: str, shape: tuple[int, int], dtype: str, resources: ExitStack) -> tuple[Read, int]:
    data = archive["data"]
    if kind in ("csr", "csc"):
        indices = archive["indices"]

        def entries(a: int, b: int) -> tuple[Array, Array]:
            return indices.read(a, b), as_floats(data.read(a, b), dtype, data.where)

        n_entries = min(data.length, indices.length)
        matrix = Compressed(kind, shape, archive.read("indptr"), n_entries, entries, str(archive.path))
        return matrix.open(dtype, resources)
    if kind == "coo":
        spool = Spool(shape[0], _coordinates(archive, shape[0], dtype), dtype, resources)
        return spool.read, spool.step
    import scipy.sparse

    archive.check_size(*archive.names)
    with archive.errors():
        loaded = scipy.sparse.load_npz(archive.path)
        if kind == "bsr":
            loaded.check_format(full_check=True)  # the conversion would write where a wrong index points
        loaded = loaded.tocsr()
    loaded.data = as_floats(loaded.data, dtype, data.where)
    loaded.eliminate_zeros()  # zeros of dense blocks and diagonals mean nothing
    rows = SparseRows(loaded.indptr.astype(np.int64), loaded.indices, loaded.data)
    return lambda start, stop: rows[start:stop], rows_per_block(shape[0], rows.nnz)


def _coordinates(archive: NpzFile, n_rows: int, dtype: str) -> Entries:
    data, rows, columns = archive["data"], archive["row"], archive["col"]

    def entries() -> Iterator[tuple[Array, Array, Array]]:
        for a, b in blocks(data.length):
            values = as_floats(data.read(a, b), dtype, data.where)
            yield checked_rows(rows.read(a, b), n_rows, rows.where), columns.read(a, b), values

    return entries()


def write_scipy(selected: Selected, path: Path) -> Written:
    """Write the selected rows and columns as a CSR array.

    Beside the arrays that scipy reads it has ``sample`` and ``feature``, the numbers of rows and columns in the set,
    and ``item`` and ``item_ptr``: which rows belong to which item.

    Notes
    -----
    Memory: a block, and about 40 bytes per sample. The uncompressed ids and values are in unnamed files beside it while
    it is written.
    """
    index = np.dtype(np.int32 if max(selected.acts.nnz, selected.n_features) < 1 << 31 else np.int64)
    with tempfile.TemporaryFile(dir=path.parent) as ids, tempfile.TemporaryFile(dir=path.parent) as values:
        lengths: list[Array] = []
        for block in selected.blocks():
            ids.write(selected.columns(block.indices).astype(index).data)
            values.write(np.ascontiguousarray(block.data).data)
            lengths.append(np.diff(block.indptr))
        indptr = pointers(np.concatenate(lengths))
        nnz = int(indptr[-1])
        items, item_ptr = selected.items
        with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
            _copy(archive, "indices", ids, index, nnz)
            _put(archive, "indptr", indptr.astype(index))
            _put(archive, "format", np.array(b"csr"))
            _put(archive, "shape", np.array([selected.n_samples, selected.n_features], np.int64))
            _copy(archive, "data", values, selected.dtype, nnz)
            _put(archive, "_is_array", np.array(True))
            extra = {"sample": selected.sample_ids, "feature": selected.feature_ids, "item": items}
            for name, array in {**extra, "item_ptr": item_ptr}.items():
                _put(archive, name, array)
    return Written((path.name,))


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


FORMATS = (Format("scipy", lambda path: path.suffix == ".npz", open_scipy, write_scipy),)
