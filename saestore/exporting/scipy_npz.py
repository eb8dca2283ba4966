"""A ``.npz`` that `scipy.sparse.load_npz` reads, written in bounded memory."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from saestore.exporting.selection import Selected

Array = np.ndarray[Any, Any]


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
