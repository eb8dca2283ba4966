"""Token counts per word, from which the rows of each text follow."""

from __future__ import annotations

import os

import numpy as np

from saestore.errors import InvalidInputError
from saestore.files import load_pt
from saestore.sparse_rows import Array, pointers

# The embedding step cuts a text here, the token counts do not.
_TOKEN_LIMIT = 512
_LISTED = 5


def token_totals(path: str | os.PathLike[str]) -> Array:
    """Number of tokens of each text by a ``token_counts….pt``, int64 (n_texts,)."""
    counts = load_pt(path)
    if not isinstance(counts, list):
        raise InvalidInputError(
            f"{path} holds a {type(counts).__name__}; token counts are a list of lists of int", code="bad-token-counts"
        )
    for text, words in enumerate(counts):
        if not isinstance(words, list) or not all(type(count) is int and count >= 0 for count in words):
            raise InvalidInputError(
                f"{path}: text {text} is not a list of token counts (ints from 0 up, one per word)",
                code="bad-token-counts",
            )
    return np.array([sum(words) for words in counts], np.int64)


def pointers_of_counts(path: str | os.PathLike[str], n_items: int | None, n_rows: int) -> Array:
    """Which rows belong to which text, int64 (n_texts + 1,)."""
    totals = token_totals(path)
    if n_items is not None and len(totals) != n_items:
        raise InvalidInputError(
            f"{path} counts tokens of {len(totals):,} texts, but there are {n_items:,} items", code="wrong-item-count"
        )
    ptr = pointers(totals)
    if ptr[-1] != n_rows:
        raise InvalidInputError(
            f"{path} counts {ptr[-1]:,} tokens, but the embeddings have {n_rows:,} rows; {_culprit(totals, n_rows)}. "
            "Give the true pointers with --item-ptr file.npy",
            code="wrong-token-counts",
        )
    return ptr


def _culprit(totals: Array, n_rows: int) -> str:
    """The text that is likely wrong, as far as the counts alone show it."""
    long = np.flatnonzero(totals > _TOKEN_LIMIT)
    if long.size:
        others = ", ".join(f"{text} ({totals[text]:,})" for text in long[1 : _LISTED + 1])
        also = f", so do {others}{' and more' if long.size > _LISTED + 1 else ''}" if others else ""
        cut = np.minimum(totals, _TOKEN_LIMIT).sum()
        fits = "exactly the rows" if cut == n_rows else "so another text is wrong as well"
        return (
            f"text {long[0]} likely: it counts {totals[long[0]]:,} tokens{also}, and embedding cuts texts at "
            f"{_TOKEN_LIMIT}; cut there, they would be {cut:,}, {fits}"
        )
    past = np.flatnonzero(np.cumsum(totals) > n_rows)
    if past.size:
        return (
            f"they run past the last row at text {past[0]}; a token that touches two words is counted twice, in that "
            "text or one before it"
        )
    return "rows are left over after the last text"
