"""Texts from a file, and the tokens of each: which of them are stored, and which characters they have."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import existing_file
from saestore.models.request import first_few, select_items
from saestore.sparse_rows import pointers
from saestore.tables import Items, as_items

__all__ = ["TextTokens", "Tokenizer", "Tokens", "find_texts", "tokenize"]

_AT_ONCE = 1024


def find_texts(spec: str | os.PathLike[str] | Sequence[str], table: Any) -> Items:
    """Read texts, into a table with a column ``text``.

    Parameters
    ----------
    spec
        ``.txt`` with a text per line, ``.csv`` with a column ``text`` (or ``text_path``, files beside it), ``.jsonl``
        with objects that have ``text``; or a list of texts. Other columns become columns and labels of the items.
    table
        Columns and labels from another table, one row per text; or None.

    Raises
    ------
    NotFoundError, InvalidInputError
        The file does not exist, is of another kind, or not in UTF-8.
    """
    items = _read(spec)
    if table is None:
        return items
    more = as_items(table)
    if len(more) != len(items):
        raise InvalidInputError(
            f"the items have {len(more):,} rows, but there are {len(items):,} texts; both must agree",
            code="item-count",
        )
    return Items(more.key, {**more.columns, "text": items.columns["text"]}, more.concepts)


def _read(spec: str | os.PathLike[str] | Sequence[str]) -> Items:
    if not isinstance(spec, str | os.PathLike):
        if not all(isinstance(text, str) for text in spec) or not len(spec):
            raise InvalidInputError("texts are a file, or a list of at least one str", code="invalid-texts")
        return as_items({"text": list(spec)})
    path = existing_file(spec)
    if path.suffix == ".csv":
        return _with_texts(Items.from_csv(path), path)
    if path.suffix == ".jsonl":
        return as_items(_json_lines(path))
    if path.suffix == ".txt":
        lines = _decoded(path).split("\n")
        return as_items({"text": [line.removesuffix("\r") for line in lines[: len(lines) - (lines[-1] == "")]] or [""]})
    raise InvalidInputError(
        f"{path} has the suffix {path.suffix!r}; texts are .txt, .csv or .jsonl", code="unknown-suffix"
    )


def _with_texts(items: Items, path: Path) -> Items:
    if "text" in items.columns:
        return items
    texts = []
    for key in items.key.tolist():
        file = next((base / key for base in (path.parent, path.parent.parent) if (base / key).is_file()), None)
        if file is None:
            raise NotFoundError(
                f"{path} has no column text, and the file {key} that it names is not in {path.parent}",
                code="text-missing",
            )
        texts.append(_decoded(file))
    column = np.array(texts, np.dtypes.StringDType())
    return Items(items.key, {**items.columns, "text": column}, items.concepts)


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not in UTF-8 (byte {error.start}); convert it", code="not-utf-8") from error


def _json_lines(path: Path) -> dict[str, list[Any]]:
    rows = []
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidInputError(f"{path} line {number} is not JSON: {error}", code="invalid-json") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise InvalidInputError(
                f"{path} line {number} is not an object with a text: {line[:60]}", code="invalid-json"
            )
        rows.append(row)
    if not rows:
        raise InvalidInputError(f"{path} is empty; it needs an object with a text on each line", code="invalid-texts")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


_SPECIAL_ROLES = ("bos", "eos", "pad", "cls", "sep", "mask")


@dataclass(frozen=True)
class Tokens:
    """The tokens of one text.

    Attributes
    ----------
    ids
        int64 (n,), as the model sees them.
    stored
        bool (n,): which of them become samples. Special tokens do not, wherever they stand.
    spans
        int32 (n_stored, 2): first character of each stored token, and the one after its last.
    cut
        Whether the text has more tokens than the limit.
    """

    ids: np.ndarray
    stored: np.ndarray
    spans: np.ndarray
    cut: bool


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of transformers, with the rules for one SAE.

    Attributes
    ----------
    tokenizer
        Of transformers, a fast one.
    bos
        Id of a first token that is put before the tokenizer's own; None for none.
    drop_bos
        Whether the first token that the tokenizer itself adds is left out.
    max_tokens
        Longer texts are cut to this many tokens, including special ones; None for no limit.
    vocab_size
        Number of the model's token ids.
    """

    tokenizer: Any
    bos: int | None
    drop_bos: bool
    max_tokens: int | None
    vocab_size: int

    @classmethod
    def of(cls, tokenizer: Any, prepend_bos: bool | None, max_tokens: int | None, vocab_size: int) -> Self:
        """Prepend BOS as in the SAE's training, or, if that is unknown, as the tokenizer does.

        Raises
        ------
        InvalidInputError
            The SAE expects a BOS and the tokenizer has neither BOS nor EOS.
        """
        bos = tokenizer.bos_token_id
        if bos is None and prepend_bos:
            bos = tokenizer.eos_token_id  # as TransformerLens does, with which such SAEs were trained
        has = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
        if prepend_bos and bos is None:
            raise InvalidInputError(
                "the SAE was trained on texts with a BOS token in front, and the tokenizer has no BOS and no "
                "EOS: it belongs to another model",
                code="no-bos",
            )
        added = bos if prepend_bos and not has else None
        return cls(tokenizer, added, has and prepend_bos is False, max_tokens, vocab_size)

    def __call__(self, texts: list[str]) -> list[Tokens]:
        """Tokenize texts."""
        limit = None if self.max_tokens is None else self.max_tokens - (self.bos is not None) + self.drop_bos
        encoded = self.tokenizer(texts, truncation=limit is not None, max_length=limit, verbose=False)
        return [self._one(encoding) for encoding in encoded.encodings]

    @cached_property
    def _special_ids(self) -> np.ndarray:
        named = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}  # of chat templates
        named |= set(self.tokenizer.all_special_ids)
        named.discard(self.tokenizer.unk_token_id)  # stands for characters of the text, unless it has another role
        named |= {getattr(self.tokenizer, f"{role}_token_id", None) for role in _SPECIAL_ROLES} - {None}
        return np.array(sorted(named), np.int64)

    def _one(self, encoding: Any) -> Tokens:
        ids, spans = np.array(encoding.ids, np.int64), np.array(encoding.offsets, np.int32).reshape(-1, 2)
        stored = (np.array(encoding.special_tokens_mask, np.int64) == 0) & ~np.isin(ids, self._special_ids)
        if self.drop_bos:
            ids, spans, stored = ids[1:], spans[1:], stored[1:]
        bos = self.tokenizer.bos_token_id if self.bos is None else self.bos
        if self.bos is not None and ids[:1].tolist() != [bos]:
            ids, stored = np.concatenate([[self.bos], ids]), np.concatenate([[False], stored])
            spans = np.concatenate([np.zeros((1, 2), np.int32), spans])
        elif bos is not None and ids[:2].tolist() == [bos, bos]:  # the text itself begins with one
            ids, spans, stored = ids[1:], spans[1:], stored[1:]
        return Tokens(ids, stored, spans[stored], bool(encoding.overflowing))

    @property
    def record(self) -> dict[str, Any]:
        """What the store records of it."""
        first = self.tokenizer("")["input_ids"]
        specials = self.tokenizer.convert_ids_to_tokens(first[1:] if self.drop_bos else first)
        if self.bos is not None:
            specials = [self.tokenizer.convert_ids_to_tokens(self.bos), *specials]
        return {"special_tokens": specials, "max_tokens": self.max_tokens}


@dataclass(frozen=True)
class TextTokens:
    """Facts about all texts before the model runs. Memory: 8 bytes per token, and the texts.

    Attributes
    ----------
    items
        The texts that are left.
    ptr
        int64 (n_texts + 1,): the stored tokens of text i are ``ptr[i]:ptr[i + 1]``.
    spans
        int32 (n_tokens, 2), characters.
    lengths
        int64 (n_texts,): tokens of each text as the model sees it, including special ones.
    digests
        uint8 (n, 16): digest of each text's tokens and characters.
    cut
        Keys of the texts that were cut.
    skipped
        Keys of the texts without tokens, with the reason.
    """

    items: Items
    ptr: np.ndarray
    spans: np.ndarray
    lengths: np.ndarray
    digests: np.ndarray
    cut: list[str]
    skipped: dict[str, str]


def tokenize(items: Items, tokenizer: Tokenizer, *, skip_bad: bool, advance: Callable[[int], None]) -> TextTokens:
    """Tokenize all texts once, to know how many rows each has.

    Raises
    ------
    InvalidInputError
        Texts are empty and `skip_bad` is False (names them), or the model does not know a token.
    """
    counts, lengths, spans, digests, cut = [], [], [], [], []
    for text, tokens in _tokenized(items.columns["text"].tolist(), tokenizer, advance):
        if tokens.ids.max(initial=0) >= tokenizer.vocab_size:
            raise InvalidInputError(
                f"the tokenizer gives a text the token {tokens.ids.max()}, and the model has "
                f"{tokenizer.vocab_size:,}; it belongs to another model. The text: {text[:60]!r}",
                code="other-tokenizer",
            )
        counts.append(int(tokens.stored.sum()))
        lengths.append(len(tokens.ids))
        spans.append(tokens.spans)
        content = json.dumps(text).encode() + tokens.ids.tobytes() + tokens.stored.tobytes()
        digests.append(hashlib.sha256(content).digest()[:16])
        cut.append(tokens.cut)
    good = np.array(counts) > 0
    skipped = dict.fromkeys(items.key[~good].tolist(), "it has no tokens")
    if skipped and (not skip_bad or len(skipped) == len(items)):
        raise InvalidInputError(
            f"{len(skipped):,} of {len(items):,} texts have no tokens (counted from 0, or by path): "
            f"{first_few(skipped)}. Nothing was written. Remove them, or use --skip-bad (skip_bad=True)",
            code="empty-text",
        )
    return TextTokens(
        select_items(items, good),
        pointers(np.array(counts)[good]),
        np.concatenate(spans) if spans else np.zeros((0, 2), np.int32),
        np.array(lengths, np.int64)[good],
        np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)[good],
        items.key[np.array(cut) & good].tolist(),
        skipped,
    )


def _tokenized(texts: list[str], tokenizer: Tokenizer, advance: Callable[[int], None]) -> Iterator[tuple[str, Tokens]]:
    for start in range(0, len(texts), _AT_ONCE):
        block = texts[start : start + _AT_ONCE]
        yield from zip(block, tokenizer(block), strict=True)
        advance(len(block))
