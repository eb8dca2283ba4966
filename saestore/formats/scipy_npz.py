"""``.npz`` files of ``scipy.sparse.save_npz`` and of arrays with the usual names; written as scipy's CSR."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.formats.base import Format, Opened, Source
from saestore.formats.in_memory import in_file, open_object, renamed
from saestore.formats.named_arrays import has_ids, of_parts, open_named, stated_shape
from saestore.formats.selection import Selected
from saestore.npz import NpzFile
from saestore.sparse_rows import Array, pointers

_KINDS = ("csr", "csc", "coo", "bsr", "dia")
_COMPRESSED = {"ids": "indices", "values": "data", "indptr": "indptr"}
_SCIPY = {"csr": _COMPRESSED, "csc": _COMPRESSED, "coo": {"rows": "row", "columns": "col", "values": "data"}}


def open_npz(source: Source) -> Opened:
    """Open a ``.npz`` of `scipy.sparse.save_npz`, or of arrays with the usual names, without unpickling anything.

    CSC and COO go through a `Spool`, and the rare BSR and DIA are read into memory.
    """
    path = source.path
    archive = NpzFile(path, source.resources)
    kind = archive.scalar("format", "SU")
    kind = kind.decode(errors="replace") if isinstance(kind, bytes) else kind
    if kind not in (None, *_KINDS):
        raise InvalidInputError(
            f"{path} is a {kind!r} matrix; scipy.sparse.save_npz writes {', '.join(_KINDS)}.", code="not-a-matrix"
        )
    if kind is not None:
        item_ptr = archive.read("item_ptr") if "item_ptr" in archive else None
        return replace(_of_scipy(archive, kind, source), item_ptr=item_ptr, files=(path,))
    arrays = {name: archive[name] for name in archive.names}
    return renamed(open_named(arrays, str(path), source.resources, source.others), "npz", str(path), files=(path,))


def _of_scipy(archive: NpzFile, kind: str, source: Source) -> Opened:
    where = str(archive.path)
    if "shape" not in archive:
        raise InvalidInputError(f"{where} has no array 'shape'; it is damaged.", code="not-a-matrix")
    n_rows, width = stated_shape({"shape": archive["shape"]}, where, (2,))
    assert n_rows is not None and width is not None  # noqa: S101, PT018  (where there is a shape it has numbers)
    if kind in _SCIPY:
        arrays = {role: archive[name] for role, name in _SCIPY[kind].items()}
        opened = of_parts(kind, (n_rows, width), arrays, where, source.resources)
        return renamed(opened, "scipy", where, sum_duplicates=True)  # as scipy reads them
    import scipy.sparse

    archive.check_size(*archive.names)
    with archive.errors():
        return in_file(open_object(scipy.sparse.load_npz(archive.path), source), archive.path)


def write_scipy(selected: Selected, path: Path) -> None:
    """Write the selected rows and columns as a CSR array.

    ``sample`` and ``feature`` are the numbers of rows and columns in the set, ``item`` and ``item_ptr`` the items of
    the rows. Memory: a block, and about 40 bytes per sample; ids and values go through unnamed temporary files.
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
            _copy(archive, "data", values, selected.dtype, nnz)
            shape = np.array([selected.n_samples, selected.n_features], np.int64)
            arrays = {"indptr": indptr.astype(index), "format": np.array(b"csr"), "shape": shape}
            arrays |= {"_is_array": np.array(True), "sample": selected.sample_ids, "feature": selected.feature_ids}
            for name, array in {**arrays, "item": items, "item_ptr": item_ptr}.items():
                with _member(archive, name) as stream:
                    np.lib.format.write_array(stream, array, allow_pickle=False)


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    info = zipfile.ZipInfo(f"{name}.npy")  # with the date of 1980: equal input gives equal bytes
    info.compress_type = zipfile.ZIP_DEFLATED
    info._compresslevel = 1  # type: ignore[attr-defined]  # noqa: SLF001
    return archive.open(info, "w", force_zip64=True)


def _copy(archive: zipfile.ZipFile, name: str, source: IO[bytes], dtype: np.dtype[Any], length: int) -> None:
    with _member(archive, name) as stream:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(stream, header)
        source.seek(0)
        shutil.copyfileobj(source, stream, 1 << 20)


def _is_npz(path: Path, *, of_scipy: bool) -> bool:
    """Whether a file is of scipy, or of named arrays; a damaged one is for the error that opening it raises."""
    if path.suffix != ".npz" or not path.is_file():
        return path.suffix == ".npz" and not of_scipy
    with ExitStack() as resources:
        archive = NpzFile(path, resources)
        if of_scipy:
            return "format" in archive
        return len(archive.names) > 1 or any(has_ids(name, archive[name].dtype) for name in archive.names)


FORMATS = (
    Format("scipy", partial(_is_npz, of_scipy=True), open_npz, write_scipy),
    Format("npz", partial(_is_npz, of_scipy=False), open_npz),
)
