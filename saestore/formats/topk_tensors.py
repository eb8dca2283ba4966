"""Rows of (indices, values), as many per row, in ``.pt`` or ``.safetensors`` files: read from one file or several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.files import as_numpy, load_tensors, refuse_unused
from saestore.formats.base import BLOCK, Format, Opened, Source, as_floats, bad_shape, stored_dtype
from saestore.formats.in_memory import in_file, open_mapping
from saestore.formats.named_arrays import is_named, pair_of, rows_per_item, stated_shape
from saestore.sparse_rows import Array, SparseRows, pointers

_OF_LAYOUTS = ("indices", "values")  # left to a layout that knows more of such files
_REOPEN = 64 << 20  # pages that were read through a mapping count as memory of the process until it is unmapped


def open_topk(
    name: str, path: Path, files: Sequence[Path], keys: tuple[str, str], others: Sequence[str] = ()
) -> tuple[Opened, list[int]]:
    """Open rows of (indices, values) in one file, or in several that follow each other; and the rows of each file.

    `keys` are the names of the tensors of ids and values, `others` of tensors that are read besides, such as a mask.
    """
    opened = [_part(file, keys, others) for file in files]
    parts, more = [values for _, values, _ in opened], opened[0][2]
    first = parts[0]
    for file, part in zip(files, parts, strict=True):
        if part.shape[1:] != first.shape[1:] or part.dtype != first.dtype:
            raise InvalidInputError(
                f"{file} has rows of {tuple(part.shape[1:])} {part.dtype}, {files[0].name} of "
                f"{tuple(first.shape[1:])} {first.dtype}; all chunks need the same.",
                code="unequal-chunks",
            )
    n_rows, shape = [math.prod(part.shape[:-1]) for part in parts], tuple(first.shape)
    k = shape[-1]
    ptr: Any = more.get("item_ptr")
    dtype = stored_dtype(as_numpy(first[:0], "").dtype, f"{path}:{keys[1]}")
    layout = f"{len(files)} files of {k} places a row" if len(files) > 1 else f"{k} places a row"
    reader = _Reader(files, n_rows, keys, others)
    return Opened(
        name, str(path), tuple(files), sum(n_rows), stated_shape(more, str(path))[-1], dtype, reader.read,
        max(1, BLOCK // k),
        row_capacity=k,
        item_ptr=ptr.numpy() if len(files) == 1 and hasattr(ptr, "numpy") else rows_per_item(shape),
        sae={"k": k},
        source={"layout": layout},
    ), n_rows  # fmt: skip


def _part(path: Path, keys: tuple[str, str], others: Sequence[str]) -> tuple[Any, Any, dict[str, Any]]:
    """One file, mapped: ids and values of (rows, k) or (sequences, …, k), and what else is in it."""
    tensors = load_tensors(path)
    missing = [key for key in keys if not hasattr(tensors.get(key), "dtype")]
    if missing:
        names = ", ".join(sorted(name or "a tensor without a name" for name in tensors))
        raise InvalidInputError(
            f"{path} has no tensor {missing[0]!r}; it holds {names or 'nothing'}.", code="no-such-tensor"
        )
    ids, values = tensors.pop(keys[0]), tensors.pop(keys[1])
    if ids.shape != values.shape or values.ndim < 2 or 0 in values.shape:
        raise bad_shape(
            f"{path}: {keys[0]} has the shape {tuple(ids.shape)} and {keys[1]} {tuple(values.shape)}; they need "
            "the same dimensions, rows and places at least, none of them 0."
        )
    if ids.is_floating_point() or ids.is_complex():
        raise InvalidInputError(f"{path}: {keys[0]} is {ids.dtype}; use integers.", code="unsupported-dtype")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if hasattr(tensor, "shape")}
    refuse_unused(shapes, (*keys, "item_ptr", *others), int(np.prod(values.shape[:-1])), str(path))
    return ids, values, tensors


class _Reader:
    """Reads rows across files, each mapped when needed and again after 64 MiB."""

    def __init__(self, paths: Sequence[Path], n_rows: list[int], keys: tuple[str, str], others: Sequence[str]) -> None:
        self._paths, self._keys, self._others = paths, keys, others
        self._starts = pointers(n_rows)
        self._open: tuple[int, Any, Any] | None = None
        self._n_read = 0

    def read(self, start: int, stop: int) -> SparseRows:
        """These rows as they are in the files, padding included."""
        parts = []
        while start < stop:
            file = int(np.searchsorted(self._starts, start, "right")) - 1
            until = min(stop, int(self._starts[file + 1]))
            first = int(self._starts[file])
            parts.append(self._slice(file, start - first, until - first))
            start = until
        ids, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        n, k = values.shape
        return SparseRows(np.arange(n + 1, dtype=np.int64) * k, ids.reshape(-1), values.reshape(-1))

    def _slice(self, file: int, start: int, stop: int) -> tuple[Array, Array]:
        if self._open is None or self._open[0] != file or self._n_read > _REOPEN:
            ids, values, _ = _part(self._paths[file], self._keys, self._others)
            k = values.shape[-1]
            self._open, self._n_read = (file, ids.reshape(-1, k), values.reshape(-1, k)), 0
        ids, values = self._open[1][start:stop], self._open[2][start:stop]
        self._n_read += ids.nbytes + values.nbytes
        floats = as_numpy(values, self._keys[1])
        return ids.numpy(), as_floats(floats, stored_dtype(floats.dtype, ""), self._keys[1])


def _is_named_tensors(path: Path) -> bool:
    if path.suffix not in (".pt", ".safetensors") or not path.is_file():
        return False
    tensors = load_tensors(path, sparse=True)
    return is_named(tensors) and (pair_of(tensors) != _OF_LAYOUTS or getattr(tensors["values"], "ndim", 0) == 1)


def _open(source: Source) -> Opened:
    path, tensors = source.path, load_tensors(source.path, sparse=True)
    keys = pair_of(tensors)
    if keys is not None and getattr(tensors[keys[0]], "shape", None) == getattr(tensors[keys[1]], "shape", None):
        return open_topk("encoder-output", path, [path], keys, source.others)[0]
    return in_file(open_mapping("encoder-output", tensors, str(path), source), path)


FORMATS = (Format("encoder-output", _is_named_tensors, _open),)
