"""Texts from a file, and the tokens of each: which of them are stored, and where they stand in their text."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import existing_file
from saestore.models.common import chosen, some
from saestore.tables import Items, as_items

__all__ = ["TextTokens", "Tokenizer", "find_texts", "tokenize"]

_AT_ONCE = 1024


def find_texts(spec: str | os.PathLike[str] | Sequence[str], table: Any) -> Items:
    """Read texts, into a table with a column ``text``.

    Parameters
    ----------
    spec
        ``.txt`` with a text a line, ``.csv`` with a column ``text`` (or ``text_path``, files beside it), ``.jsonl``
        with objects that have ``text``; or the texts themselves. Other columns become items' columns and labels.
    table
        Columns and labels from elsewhere, one row a text; None for none.

    Raises
    ------
    NotFoundError, InvalidInputError
        If there is no such file, it is of another kind, or not in UTF-8.
    """
    items = _read(spec)
    if table is None:
        return items
    more = as_items(table)
    if len(more) != len(items):
        raise InvalidInputError(
            f"the items have {len(more):,} rows, but there are {len(items):,} texts; both must agree"
        )
    return Items(more.key, {**more.columns, "text": items.columns["text"]}, more.concepts)


def _read(spec: str | os.PathLike[str] | Sequence[str]) -> Items:
    if not isinstance(spec, str | os.PathLike):
        if not all(isinstance(text, str) for text in spec) or not len(spec):
            raise InvalidInputError("texts are a file, or a list of at least one str")
        return as_items({"text": list(spec)})
    path = existing_file(spec)
    if path.suffix == ".csv":
        return _with_texts(Items.from_csv(path), path)
    if path.suffix == ".jsonl":
        return as_items(_json_lines(path))
    if path.suffix == ".txt":
        lines = _decoded(path).split("\n")
        return as_items({"text": [line.removesuffix("\r") for line in lines[: len(lines) - (lines[-1] == "")]] or [""]})
    raise InvalidInputError(f"{path} has the suffix {path.suffix!r}; texts are .txt, .csv or .jsonl")


def _with_texts(items: Items, path: Path) -> Items:
    if "text" in items.columns:
        return items
    texts = []
    for key in items.key.tolist():
        found = next((base / key for base in (path.parent, path.parent.parent) if (base / key).is_file()), None)
        if found is None:
            raise NotFoundError(f"{path} has no column text, and the file {key} that it names is not in {path.parent}")
        texts.append(_decoded(found))
    column = np.array(texts, np.dtypes.StringDType())
    return Items(items.key, {**items.columns, "text": column}, items.concepts)


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not in UTF-8 (byte {error.start}); convert it") from error


def _json_lines(path: Path) -> dict[str, list[Any]]:
    rows = []
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidInputError(f"{path} line {number} is not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise InvalidInputError(f"{path} line {number} is no object with a text: {line[:60]}")
        rows.append(row)
    if not rows:
        raise InvalidInputError(f"{path} is empty; it needs an object with a text on each line")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of transformers, and what it does to each text.

    Attributes
    ----------
    tokenizer
        Of transformers, a fast one.
    bos
        Id of a first token that is put before what the tokenizer makes; None for none.
    drop_bos
        Whether the first token that the tokenizer itself adds is left out.
    max_tokens
        Longer texts are cut: so many tokens, special ones included; None for no limit.
    """

    tokenizer: Any
    bos: int | None
    drop_bos: bool
    max_tokens: int | None

    @classmethod
    def of(cls, tokenizer: Any, prepend_bos: bool | None, max_tokens: int | None) -> Tokenizer:
        """Do with BOS as the SAE expects, or, where it says nothing, as the tokenizer does.

        Raises
        ------
        InvalidInputError
            If the SAE expects a BOS and the tokenizer has none.
        """
        bos = tokenizer.bos_token_id
        has = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
        if prepend_bos and bos is None:
            raise InvalidInputError(
                "the SAE was trained on texts with a BOS token in front, and the tokenizer has none: it is that of "
                "another model"
            )
        added = bos if prepend_bos and not has else None
        return cls(tokenizer, added, has and prepend_bos is False, max_tokens)

    def __call__(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, bool]]:
        """Of each text: ids int64 (n,), which are stored bool (n,), spans int32 (stored, 2), and whether it was cut."""
        limit = None if self.max_tokens is None else self.max_tokens - (self.bos is not None) + self.drop_bos
        made = self.tokenizer(texts, truncation=limit is not None, max_length=limit, verbose=False)
        return [self._one(encoding) for encoding in made.encodings]

    def _one(self, encoding: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
        ids, spans = np.array(encoding.ids, np.int64), np.array(encoding.offsets, np.int32).reshape(-1, 2)
        stored = np.array(encoding.special_tokens_mask, np.int64) == 0
        if self.drop_bos:
            ids, spans, stored = ids[1:], spans[1:], stored[1:]
        if self.bos is not None:
            ids, stored = np.concatenate([[self.bos], ids]), np.concatenate([[False], stored])
            spans = np.concatenate([np.zeros((1, 2), np.int32), spans])
        return ids, stored, spans[stored], bool(encoding.overflowing)

    @property
    def record(self) -> dict[str, Any]:
        """What the store says of it."""
        first = self.tokenizer("")["input_ids"]
        specials = self.tokenizer.convert_ids_to_tokens(first[1:] if self.drop_bos else first)
        if self.bos is not None:
            specials = [self.tokenizer.convert_ids_to_tokens(self.bos), *specials]
        return {"special_tokens": specials, "max_tokens": self.max_tokens}


@dataclass(frozen=True)
class TextTokens:
    """What is known of all texts before the model runs. Memory: 8 bytes a token, and the texts.

    Attributes
    ----------
    items
        Of the texts that are left.
    ptr
        int64 (n_texts + 1,): the stored tokens of text i are ``ptr[i]`` to ``ptr[i + 1] - 1``.
    spans
        int32 (n_tokens, 2), characters.
    lengths
        int64 (n_texts,): tokens of each text as the model sees it, special ones included.
    digests
        uint8 (n, 16): of each text's tokens and characters.
    cut
        Keys of the texts that were cut.
    skipped
        Keys of the texts that have no tokens, and why.
    """

    items: Items
    ptr: np.ndarray
    spans: np.ndarray
    lengths: np.ndarray
    digests: np.ndarray
    cut: list[str]
    skipped: dict[str, str]


def tokenize(items: Items, tokenizer: Tokenizer, *, skip_bad: bool, advance: Callable[[int], None]) -> TextTokens:
    """Tokenize all texts once, to know how many rows each will have.

    Raises
    ------
    InvalidInputError
        If texts are empty, and `skip_bad` is False: names them.
    """
    counts, lengths, spans, digests, cut = [], [], [], [], []
    for text, (ids, stored, places, was_cut) in _tokenized(items.columns["text"].tolist(), tokenizer, advance):
        counts.append(int(stored.sum()))
        lengths.append(len(ids))
        spans.append(places)
        digests.append(hashlib.sha256(json.dumps(text).encode() + ids.tobytes() + stored.tobytes()).digest()[:16])
        cut.append(was_cut)
    good = np.array(counts) > 0
    skipped = dict.fromkeys(items.key[~good].tolist(), "it has no tokens")
    if skipped and (not skip_bad or len(skipped) == len(items)):
        raise InvalidInputError(
            f"{len(skipped):,} of {len(items):,} texts have no tokens, which are (counting from 0, or by path) "
            f"{some(skipped)}. Nothing was written. Remove them, or leave them out with "
            "--skip-bad (skip_bad=True)"
        )
    kept = chosen(items, good)
    ptr = np.concatenate([[0], np.cumsum(np.array(counts)[good])]).astype(np.int64)
    whole = np.concatenate(spans) if spans else np.zeros((0, 2), np.int32)
    matrix = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)[good]
    return TextTokens(
        kept, ptr, whole, np.array(lengths, np.int64)[good], matrix, items.key[np.array(cut) & good].tolist(), skipped
    )


def _tokenized(texts: list[str], tokenizer: Tokenizer, advance: Callable[[int], None]) -> Iterator[tuple[str, Any]]:
    for start in range(0, len(texts), _AT_ONCE):
        block = texts[start : start + _AT_ONCE]
        yield from zip(block, tokenizer(block), strict=True)
        advance(len(block))
