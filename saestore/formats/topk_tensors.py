"""Rows of (indices, values), as many in each row: what top-k code writes with ``torch.save`` or into safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, MissingDependencyError
from saestore.files import existing_file, load_pt
from saestore.formats.base import BLOCK, Opened, Rows
from saestore.formats.chunked import Files, find_files

Array = np.ndarray[Any, Any]

# Names of ids and values: of that pipeline's files, of sparsify's EncoderOutput.
KEYS = {"superactivators": ("indices", "values"), "encoder-output": ("top_indices", "top_acts")}
_REOPEN = 64 << 20  # pages that were read through a mapping count as memory of the process until it is unmapped


@dataclass(frozen=True)
class _Part:
    """One file, mapped: ids and values of (rows, k) or (sequences, positions, k)."""

    ids: Any
    values: Any
    others: dict[str, Any]

    @property
    def rows(self) -> int:
        return int(np.prod(self.values.shape[:-1]))


def load_tensors(path: Path) -> dict[str, Any]:
    """The named tensors (and numbers, and words) of a ``.pt`` or ``.safetensors`` file, mapped from disk.

    Raises
    ------
    InvalidInputError
        It is damaged, or holds something else.
    """
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    loaded = load_pt(path)
    if not isinstance(loaded, dict):
        return {"": loaded}
    return {str(name): value for name, value in loaded.items()}


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingDependencyError(f"reading {path} needs safetensors; pip install 'saestore[sae]'") from error
    try:
        return dict(load_file(existing_file(path)))
    except (SafetensorError, OSError) as error:
        raise InvalidInputError(f"{path} is truncated or not a .safetensors file ({error})") from error


def open_topk(path: Path, layout: str) -> Opened:
    """Open rows of (indices, values), in one file or in chunks.

    Parameters
    ----------
    layout
        A key of `KEYS`.

    Raises
    ------
    InvalidInputError
        A file lacks the two tensors, their shapes differ, or chunks do not fit each other.
    """
    files = find_files(path)
    parts = [_part(file, KEYS[layout]) for file in files.paths]
    first = parts[0]
    for file, part in zip(files.paths, parts, strict=True):
        if part.values.shape[1:] != first.values.shape[1:] or part.values.dtype != first.values.dtype:
            raise InvalidInputError(
                f"{file} has rows of {tuple(part.values.shape[1:])} {part.values.dtype}, {files.paths[0].name} of "
                f"{tuple(first.values.shape[1:])} {first.values.dtype}; all chunks need the same."
            )
    rows = [part.rows for part in parts]
    files.check_rows(rows)
    k = int(first.values.shape[-1])
    return Opened(
        "superactivators-sparse" if layout == "superactivators" else layout,
        str(path),
        files.paths,
        sum(rows),
        _width(first, files),
        _dtype(first.values),
        _Reader(files.paths, rows, KEYS[layout]).read,
        max(1, BLOCK // k),
        row_capacity=k,
        # Sequences of the same length: each is an item.
        item_ptr=int(first.values.shape[1]) if first.values.ndim == 3 else None,
        faults=files.faults,
        sae={"k": k},
        source={"layout": f"{len(rows)} files of {k} places a row" if len(rows) > 1 else f"{k} places a row"},
    )


def _part(path: Path, keys: tuple[str, str]) -> _Part:
    tensors = load_tensors(path)
    missing = [key for key in keys if not hasattr(tensors.get(key), "dtype")]
    if missing:
        found = ", ".join(sorted(name or "a tensor without a name" for name in tensors))
        raise InvalidInputError(f"{path} has no tensor {missing[0]!r}; it holds {found or 'nothing'}.")
    ids, values = tensors.pop(keys[0]), tensors.pop(keys[1])
    if ids.shape != values.shape or values.ndim not in (2, 3) or 0 in values.shape:
        raise InvalidInputError(
            f"{path}: {keys[0]} has the shape {tuple(ids.shape)} and {keys[1]} {tuple(values.shape)}; they need "
            "the same two dimensions, rows and places, none of them 0."
        )
    if not values.is_floating_point() or ids.is_floating_point() or ids.is_complex():
        raise InvalidInputError(
            f"{path}: {keys[0]} is {ids.dtype} and {keys[1]} {values.dtype}; use integers and floats."
        )
    return _Part(ids, values, tensors)


def _dtype(values: Any) -> str:
    name = str(values.dtype).removeprefix("torch.")
    return "float32" if name == "bfloat16" else name


def _width(part: _Part, files: Files) -> int | None:
    """What the list of chunks, the file itself, or the unreduced activations say."""
    for said in (files.info.get("n_features"), part.others.get("n_features")):
        if type(said) is int:
            return said
    pre_acts = part.others.get("pre_acts")
    if pre_acts is not None:
        return int(pre_acts.shape[-1])
    return None


class _Reader:
    """Reads rows across files, each mapped when needed and again after 64 MiB."""

    def __init__(self, paths: tuple[Path, ...], rows: list[int], keys: tuple[str, str]) -> None:
        self._paths, self._keys = paths, keys
        self._starts = np.concatenate([[0], np.cumsum(rows)])
        self._open: tuple[int, Any, Any] | None = None
        self._read = 0

    def read(self, start: int, stop: int) -> Rows:
        pieces = []
        while start < stop:
            place = int(np.searchsorted(self._starts, start, "right")) - 1
            until = min(stop, int(self._starts[place + 1]))
            base = int(self._starts[place])
            pieces.append(self._slice(place, start - base, until - base))
            start = until
        ids, values = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
        n, k = values.shape
        return Rows(np.arange(n + 1, dtype=np.int64) * k, ids.reshape(-1), values.reshape(-1))

    def _slice(self, place: int, start: int, stop: int) -> tuple[Array, Array]:
        if self._open is None or self._open[0] != place or self._read > _REOPEN:
            part = _part(self._paths[place], self._keys)
            k = part.values.shape[-1]
            self._open, self._read = (place, part.ids.reshape(-1, k), part.values.reshape(-1, k)), 0
        _, ids, values = self._open
        part_ids, part_values = ids[start:stop], values[start:stop]
        if part_values.element_size() == 2 and "bfloat16" in str(part_values.dtype):
            part_values = part_values.float()
        self._read += part_ids.nbytes + part_values.nbytes
        return part_ids.numpy(), part_values.numpy()
