"""Which rows of the embeddings belong to which item, and where a text's tokens stand in it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from saestore import layouts
from saestore.errors import InvalidInputError
from saestore.files import as_numpy
from saestore.npz import load_array


def item_pointers(
    spec: int | str | os.PathLike[str] | Sequence[int] | np.ndarray | None, n_items: int | None, n_rows: int
) -> np.ndarray:
    """Pointers of the items, int64 (n_items + 1,): item i has the rows ``ptr[i]:ptr[i + 1]``.

    `spec` None: rows are shared evenly among the items (patches), or, without `n_items`, each row is an item. An int:
    this many rows each. A sequence: the pointers themselves. A path: ``file.npy``, ``file.npz:name`` (the name may be
    left out where the file has one 1-D array), or a file that a layout knows (see `saestore.layouts`).
    """
    if spec is None:
        return _even(n_rows if n_items is None else n_items, n_rows)
    if isinstance(spec, (int, np.integer)) and not isinstance(spec, bool):
        return _rows_each(int(spec), n_items, n_rows)
    if isinstance(spec, (str, os.PathLike)):
        array = load_array(spec, 1)
        if array is None:
            of_layout: np.ndarray | None = layouts.ask("item_pointers", Path(spec), n_items, n_rows)
            if of_layout is None:
                raise _unknown_suffix(spec, "or the .pt of token counts of a known pipeline")
            return of_layout
        where, values = array
    else:
        where, values = "item_ptr", as_numpy(spec, "item_ptr")
    return _checked_pointers(where, values, n_items, n_rows)


def token_spans(spec: str | os.PathLike[str] | np.ndarray, n_rows: int) -> np.ndarray:
    """Read where each token starts and stops in its text, in characters: int32 (n_rows, 2).

    `spec` is ``file.npy``, ``file.npz:name``, or the array itself.
    """
    where, values = "spans", as_numpy(spec, "spans")
    if isinstance(spec, (str, os.PathLike)):
        array = load_array(spec, 2)
        if array is None:
            raise _unknown_suffix(spec)
        where, values = array
    if values.dtype.kind not in "iu" or values.shape != (n_rows, 2):
        raise InvalidInputError(
            f"{where} is {values.dtype} {values.shape}; token spans are integers of shape ({n_rows}, 2), one per token",
            code="invalid-spans",
        )
    start, stop = values[:, 0], values[:, 1]
    wrong = np.flatnonzero((start < 0) | (stop < start) | (stop > np.iinfo(np.int32).max))
    if wrong.size:
        row = int(wrong[0])
        raise InvalidInputError(
            f"{where} row {row} is {int(start[row])} to {int(stop[row])}; a span needs 0 <= start <= stop < 2^31",
            code="invalid-spans",
        )
    return values.astype(np.int32)


def _unknown_suffix(path: str | os.PathLike[str], more: str = "") -> InvalidInputError:
    known = ".npy and .npz (as file.npz:name)" + (f", {more}" if more else "")
    return InvalidInputError(f"{path} has the suffix {Path(path).suffix!r}; known are {known}", code="unknown-format")


def _even(n_items: int, n_rows: int) -> np.ndarray:
    if n_items > 0 and n_rows >= n_items and n_rows % n_items == 0:
        return np.arange(n_items + 1, dtype=np.int64) * (n_rows // n_items)
    message = f"{n_rows:,} rows do not divide among {n_items:,} items"
    if 0 < n_items < n_rows:
        # Image patches come as a square grid: the nearest one is most likely what was meant.
        side = round(math.sqrt(n_rows / n_items))
        message += f"; {side**2:,} patches per item would be {side**2 * n_items:,} rows"
        if n_rows % side**2 == 0:
            message += f", and {n_rows:,} rows are {n_rows // side**2:,} items of {side**2:,}"
    raise InvalidInputError(
        message + "; for texts give --item-ptr, which rows belong to which item", code="rows-per-item"
    )


def _rows_each(each: int, n_items: int | None, n_rows: int) -> np.ndarray:
    if each < 1:
        raise InvalidInputError(f"{each} rows per item is not possible; give 1 or more", code="too-small")
    if n_items is None:
        n_items = n_rows // each
    if each * n_items != n_rows:
        raise InvalidInputError(
            f"{n_items:,} items of {each:,} rows each would be {each * n_items:,} rows, but there are {n_rows:,}"
            + (f", which is {n_rows // n_items:,} per item" if n_items and n_rows % n_items == 0 else ""),
            code="rows-per-item",
        )
    return np.arange(n_items + 1, dtype=np.int64) * each


def _checked_pointers(where: str, values: np.ndarray, n_items: int | None, n_rows: int) -> np.ndarray:
    is_row = values.ndim == 1 and values.dtype.kind in "iu" and values.size > 0
    pointers = values.astype(np.int64) if is_row else np.zeros(1, np.int64)
    falls, problem = np.flatnonzero(np.diff(pointers) < 0), ""
    if not is_row:
        problem = f"is {values.dtype} {values.shape}; item pointers are one row of integers, one more than items"
    elif len(pointers) == n_items and int(pointers.sum()) == n_rows:
        problem = "holds rows per item; give pointers instead, numpy.concatenate([[0], numpy.cumsum(counts)])"
    elif n_items is not None and len(pointers) != n_items + 1:
        problem = f"has {len(pointers):,} pointers; {n_items:,} items need {n_items + 1:,}, from 0 to {n_rows}"
    elif pointers[0] != 0:
        problem = f"starts with {pointers[0]}; item pointers start with 0"
    elif falls.size:
        one, next_one = pointers[falls[0] : falls[0] + 2]
        problem = f"falls from {one} to {next_one} at item {falls[0]}; item pointers never decrease"
    elif pointers[-1] != n_rows:
        problem = f"ends at {pointers[-1]:,}, but the embeddings have {n_rows:,} rows; both must be equal"
    if problem:
        raise InvalidInputError(f"{where} {problem}", code="invalid-pointers")
    return pointers
