"""Which rows of the embeddings belong to which item, and where a text's tokens stand in it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError
from saestore.files import load_npy, load_npz, load_pt, split_member

__all__ = ["item_pointers", "token_spans"]

# The embedding step cuts a text here, the token counts do not.
_TOKEN_LIMIT = 512


def item_pointers(
    spec: int | str | os.PathLike[str] | Sequence[int] | np.ndarray | None, n_items: int | None, n_rows: int
) -> np.ndarray:
    """Say which rows belong to which item: item i has the rows ``ptr[i]:ptr[i + 1]``.

    Parameters
    ----------
    spec
        None: rows are shared evenly among the items (patches), or, without `n_items`, each row is an item. An int: so
        many rows each. A sequence: the pointers themselves. A path: ``file.npy``, ``file.npz:name`` (the name may be
        left out where the file has one 1-D array), or a ``.pt`` with a list of token counts per word for each text.
    n_items
        Number of items, or None where only `spec` says it.
    n_rows
        Number of rows of the embeddings.

    Returns
    -------
    ndarray of int64, (n_items + 1,)

    Raises
    ------
    NotFoundError
        If there is no such file or array.
    InvalidInputError
        If rows and items do not fit; the message says which number was expected.
    """
    if spec is None:
        return _even(n_rows if n_items is None else n_items, n_rows)
    if isinstance(spec, (int, np.integer)) and not isinstance(spec, bool):
        return _rows_each(int(spec), n_items, n_rows)
    if isinstance(spec, (str, os.PathLike)):
        where, values = _read_array(spec, ndim=1)
        if isinstance(values, list):
            return _from_counts(where, values, n_items, n_rows)
    else:
        where, values = "item_ptr", np.asarray(spec)
    return _checked_pointers(where, values, n_items, n_rows)


def token_totals(path: str | os.PathLike[str]) -> np.ndarray:
    """Number of tokens that a ``token_counts….pt`` says each text has, int64 (n_texts,).

    Raises
    ------
    NotFoundError, InvalidInputError
        There is no such file, or it holds something else; the message names the text.
    """
    return _totals(str(path), _loaded_counts(path))


def token_spans(spec: str | os.PathLike[str] | np.ndarray, n_rows: int) -> np.ndarray:
    """Read where each token starts and stops in its text.

    Parameters
    ----------
    spec
        ``file.npy``, ``file.npz:name``, or the array itself: (n_rows, 2) integers, start and stop in characters.
    n_rows
        Number of rows of the embeddings.

    Returns
    -------
    ndarray of int32, (n_rows, 2)

    Raises
    ------
    NotFoundError
        If there is no such file or array.
    InvalidInputError
        If shape or dtype is another, or a span is negative or stops before it starts (its row is named).
    """
    where, values = _read_array(spec, ndim=2) if isinstance(spec, (str, os.PathLike)) else ("spans", np.asarray(spec))
    if isinstance(values, list) or values.dtype.kind not in "iu" or values.shape != (n_rows, 2):
        got = "a list" if isinstance(values, list) else f"{values.dtype} {values.shape}"
        raise InvalidInputError(f"{where} is {got}; token spans are integers of shape ({n_rows}, 2), one row a token")
    start, stop = values[:, 0], values[:, 1]
    wrong = np.flatnonzero((start < 0) | (stop < start) | (stop > np.iinfo(np.int32).max))
    if wrong.size:
        row = int(wrong[0])
        raise InvalidInputError(
            f"{where} row {row} is {int(start[row])} to {int(stop[row])}; a span needs 0 <= start <= stop < 2^31"
        )
    return values.astype(np.int32)


def _read_array(spec: str | os.PathLike[str], ndim: int) -> tuple[str, np.ndarray | list[Any]]:
    path, name = split_member(spec)
    if path.suffix == ".npz":
        return load_npz(path, name, ndim)
    if path.suffix == ".npy":
        return str(path), load_npy(path)
    if path.suffix == ".pt" and ndim == 1:
        return str(path), _loaded_counts(path)
    known = ".npy, .npz (as file.npz:name)" + (" and .pt with token counts" if ndim == 1 else "")
    raise InvalidInputError(f"{path} has the suffix {path.suffix!r}; known are {known}")


def _loaded_counts(path: str | os.PathLike[str]) -> list[Any]:
    counts = load_pt(path)
    if not isinstance(counts, list):
        raise InvalidInputError(f"{path} holds a {type(counts).__name__}; token counts are a list of lists of int")
    return counts


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
    raise InvalidInputError(message + "; for texts say with --item-ptr which rows belong to which item")


def _rows_each(each: int, n_items: int | None, n_rows: int) -> np.ndarray:
    if each < 1:
        raise InvalidInputError(f"{each} rows per item is not possible; give 1 or more")
    if n_items is None:
        n_items = n_rows // each
    if each * n_items != n_rows:
        raise InvalidInputError(
            f"{n_items:,} items of {each:,} rows each would be {each * n_items:,} rows, but there are {n_rows:,}"
            + (f", which is {n_rows // n_items:,} per item" if n_items and n_rows % n_items == 0 else "")
        )
    return np.arange(n_items + 1, dtype=np.int64) * each


def _checked_pointers(where: str, values: np.ndarray, n_items: int | None, n_rows: int) -> np.ndarray:
    if values.ndim != 1 or values.dtype.kind not in "iu" or values.size == 0:
        raise InvalidInputError(
            f"{where} is {values.dtype} {values.shape}; item pointers are one row of integers, one more than items"
        )
    pointers = values.astype(np.int64)
    if len(pointers) == n_items and int(pointers.sum()) == n_rows:
        raise InvalidInputError(
            f"{where} holds rows per item; give pointers instead, numpy.concatenate([[0], numpy.cumsum(counts)])"
        )
    if n_items is not None and len(pointers) != n_items + 1:
        raise InvalidInputError(
            f"{where} has {len(pointers):,} pointers; {n_items:,} items need {n_items + 1:,}, from 0 to {n_rows}"
        )
    if pointers[0] != 0:
        raise InvalidInputError(f"{where} starts with {pointers[0]}; item pointers start with 0")
    falls = np.flatnonzero(np.diff(pointers) < 0)
    if falls.size:
        item = int(falls[0])
        raise InvalidInputError(
            f"{where} falls from {pointers[item]} to {pointers[item + 1]} at item {item}; item pointers never decrease"
        )
    if pointers[-1] != n_rows:
        raise InvalidInputError(
            f"{where} ends at {pointers[-1]:,}, but the embeddings have {n_rows:,} rows; both must be equal"
        )
    return pointers


def _from_counts(where: str, counts: list[Any], n_items: int | None, n_rows: int) -> np.ndarray:
    totals = _totals(where, counts)
    if n_items is not None and len(counts) != n_items:
        raise InvalidInputError(f"{where} counts tokens of {len(counts):,} texts, but there are {n_items:,} items")
    pointers = np.concatenate([np.zeros(1, np.int64), np.cumsum(totals)])
    if pointers[-1] != n_rows:
        raise InvalidInputError(
            f"{where} counts {pointers[-1]:,} tokens, but the embeddings have {n_rows:,} rows; "
            f"{_culprit(totals, n_rows)}. Give the true pointers with --item-ptr file.npy"
        )
    return pointers


def _totals(where: str, counts: list[Any]) -> np.ndarray:
    totals = np.zeros(len(counts), dtype=np.int64)
    for text, words in enumerate(counts):
        if not isinstance(words, list) or not all(type(count) is int and count >= 0 for count in words):
            raise InvalidInputError(f"{where}: text {text} is no list of token counts (ints from 0 up, one per word)")
        totals[text] = sum(words)
    return totals


def _culprit(totals: np.ndarray, n_rows: int) -> str:
    """Say which text is off, as far as the counts alone can tell."""
    long = np.flatnonzero(totals > _TOKEN_LIMIT)
    if long.size:
        others = ", ".join(f"{text} ({totals[text]:,})" for text in long[1:6])
        also = f", so do {others}{' and more' if long.size > 6 else ''}" if others else ""
        cut = np.minimum(totals, _TOKEN_LIMIT).sum()
        fits = "just what there is" if cut == n_rows else "so another text is off as well"
        return (
            f"text {long[0]} likely: it counts {totals[long[0]]:,} tokens{also}, and embedding cuts texts at "
            f"{_TOKEN_LIMIT}; cut there, they would be {cut:,}, {fits}"
        )
    if totals.sum() > n_rows:
        ends = np.cumsum(totals)
        past = int(np.flatnonzero(ends > n_rows)[0])
        return (
            f"they run past the last row at text {past}; a token that touches two words is counted twice, "
            f"in that text or one before it"
        )
    return "rows are left over after the last text"
