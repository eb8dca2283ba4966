"""The tokens of each text: which of them are stored, and which characters they have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from saestore.errors import InvalidInputError, did_you_mean
from saestore.models.request import select_items
from saestore.sparse_rows import pointers
from saestore.tables.items import Items
from saestore.tables.label_matrix import listed

_AT_ONCE = 1024
_NO_BOS = "none"
_SPECIAL_ROLES = ("bos", "eos", "pad", "cls", "sep", "mask")


@dataclass(frozen=True)
class Tokens:
    """The tokens of one text, or of a window of it."""

    ids: np.ndarray  # int64 (n,), as the model sees them
    # bool (n,): which of them become samples. Special tokens do not, wherever they stand.
    stored: np.ndarray
    spans: np.ndarray  # int32 (n_stored, 2): first character of each stored token, and the one after its last
    cut: bool  # whether the text has more tokens than the limit, and they are left out


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of transformers, with the rules for one SAE."""

    tokenizer: Any  # of transformers, a fast one
    bos: int | None  # id of a first token that is put before the tokenizer's own; None for none
    drop_bos: bool  # whether the first token that the tokenizer itself adds is left out
    max_tokens: int | None  # longer texts are cut to this many tokens, including special ones; None for no limit
    vocab_size: int  # number of the model's token ids
    # In place of cutting longer texts, run them in windows of `max_tokens`, each this many tokens after the one before;
    # None to cut
    stride: int | None = None
    chat: bool = False  # whether texts have their special tokens already, from a chat template

    @classmethod
    def of(
        cls, tokenizer: Any, prepend_bos: bool | None, max_tokens: int | None, vocab_size: int, *,
        bos: str | None = None, chat: bool = False,
    ) -> Self:  # fmt: skip
        """Prepend `bos`, ``"none"`` for none; else a BOS as in the SAE's training, or, if unknown, as the tokenizer."""
        tokenizer.truncation_side = "right"
        own = tokenizer.bos_token_id
        has = not chat and own is not None and tokenizer("a")["input_ids"][:1] == [own]
        if bos is not None:
            prepend_bos = bos != _NO_BOS
        wanted = _token_id(tokenizer, bos) if bos not in (None, _NO_BOS) else own
        if wanted is None and prepend_bos:
            wanted = tokenizer.eos_token_id  # as TransformerLens does, with which such SAEs were trained
            if wanted is None:
                raise InvalidInputError(
                    "the SAE was trained on texts with a BOS token in front, and the tokenizer has no BOS and no EOS: "
                    "name the token with --bos TOKEN (bos=), or run texts without one with --bos none",
                    code="no-bos",
                )
        drop = has and (prepend_bos is False or wanted != own)
        added = wanted if prepend_bos and (not has or drop) else None
        return cls(tokenizer, added, drop, max_tokens, vocab_size, chat=chat)

    def in_windows(self, stride: int | None) -> Self:
        """The same for windows of `max_tokens`, `stride` tokens apart; by default as far apart as they are long."""
        content = self._content
        if content < 1 or not 1 <= (stride or content) <= content:
            raise InvalidInputError(
                f"windows of {self.max_tokens} tokens have {content} besides special ones: a stride is 1 to "
                f"{max(content, 1)}, not {stride}.",
                code="invalid-count",
            )
        return replace(self, stride=stride or content)

    @property
    def _limit(self) -> int | None:
        """Tokens of a row that the tokenizer itself may give."""
        return None if self.max_tokens is None else self.max_tokens - (self.bos is not None) + self.drop_bos

    @property
    def _content(self) -> int:
        """Tokens of the text in a full row."""
        specials = 0 if self.chat else self.tokenizer.num_special_tokens_to_add()
        return (self._limit or 0) - specials

    def __call__(self, texts: list[str]) -> list[list[Tokens]]:
        """Tokenize texts: of each one row, or its windows."""
        overlap = 0 if self.stride is None else self._content - self.stride
        how = {"truncation": self._limit is not None, "max_length": self._limit, "stride": overlap, "verbose": False}
        encoded = self.tokenizer(texts, add_special_tokens=not self.chat, **how)
        following = [[] if self.stride is None else first.overflowing for first in encoded.encodings]
        return [
            [self._one(first), *(self._one(window, seen=overlap) for window in windows)]
            for first, windows in zip(encoded.encodings, following, strict=True)
        ]

    @cached_property
    def _special_ids(self) -> np.ndarray:
        named = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}  # of chat templates
        named |= set(self.tokenizer.all_special_ids)
        named.discard(self.tokenizer.unk_token_id)  # stands for characters of the text, unless it has another role
        named |= {getattr(self.tokenizer, f"{role}_token_id", None) for role in _SPECIAL_ROLES} - {None}
        return np.array(sorted(named), np.int64)

    def _one(self, encoding: Any, seen: int = 0) -> Tokens:
        """One row; its first `seen` tokens of the text are stored by the window before."""
        ids, spans = np.array(encoding.ids, np.int64), np.array(encoding.offsets, np.int32).reshape(-1, 2)
        own = np.array(encoding.special_tokens_mask, np.int64) == 0
        stored = own & (np.cumsum(own) > seen) & ~np.isin(ids, self._special_ids)
        if self.drop_bos:
            ids, spans, stored = ids[1:], spans[1:], stored[1:]
        bos = self.tokenizer.bos_token_id if self.bos is None else self.bos
        if self.bos is not None and ids[:1].tolist() != [bos]:
            ids, stored = np.concatenate([[self.bos], ids]), np.concatenate([[False], stored])
            spans = np.concatenate([np.zeros((1, 2), np.int32), spans])
        elif bos is not None and ids[:2].tolist() == [bos, bos]:  # the text itself begins with one
            ids, spans, stored = ids[1:], spans[1:], stored[1:]
        return Tokens(ids, stored, spans[stored], self.stride is None and bool(encoding.overflowing))

    @property
    def record(self) -> dict[str, Any]:
        """What the store records of it."""
        first = self.tokenizer("", add_special_tokens=not self.chat)["input_ids"]
        specials = self.tokenizer.convert_ids_to_tokens(first[1:] if self.drop_bos else first)
        if self.bos is not None:
            specials = [self.tokenizer.convert_ids_to_tokens(self.bos), *specials]
        more: dict[str, Any] = {"chat": True} if self.chat else {}
        if self.stride is not None:
            more |= {"window": self.max_tokens, "stride": self.stride}
        return {"special_tokens": specials, "max_tokens": self.max_tokens, **more}


def _token_id(tokenizer: Any, token: str) -> int:
    vocabulary = tokenizer.get_vocab()
    if token not in vocabulary:
        special = [*tokenizer.all_special_tokens]
        raise InvalidInputError(
            f"the tokenizer has no token {token!r}. {did_you_mean(token, special)}--bos (bos=) takes one of its tokens"
            f"{', such as ' if special else ''}{', '.join(special[:5])}, or none.",
            code="unknown-token",
        )
    return int(vocabulary[token])


@dataclass(frozen=True)
class TextTokens:
    """Facts about all texts before the model runs. Memory: 16 bytes per token, and the texts."""

    items: Items  # the texts that are left
    ptr: np.ndarray  # int64 (n_texts + 1,): the stored tokens of text i are ``ptr[i]:ptr[i + 1]``
    spans: np.ndarray  # int32 (n_tokens, 2), characters
    ids: np.ndarray  # int64 (n_tokens,)
    # int64 (n_windows, 2): text and number of each row of tokens; one per text unless longer ones run in windows
    windows: np.ndarray
    # int64 (n_windows + 1,): the stored tokens of window i are ``window_ptr[i]:window_ptr[i + 1]``
    window_ptr: np.ndarray
    lengths: np.ndarray  # int64 (n_windows,): tokens of each window as the model sees it, including special ones
    # uint8 (n_windows, 16): digest of each window's tokens and, with a text's first, its characters
    digests: np.ndarray
    cut: list[str]  # keys of the texts that were cut
    skipped: dict[str, str]  # keys of the texts without tokens, with the reason


def tokenize(items: Items, tokenizer: Tokenizer, *, skip_bad: bool, advance: Callable[[int], None]) -> TextTokens:
    """Tokenize all texts once, to know how many rows each has; `skip_bad` leaves out texts without tokens."""
    counts, spans, ids, cut = [], [], [], []
    windows: list[tuple[int, int, int, int, bytes]] = []  # text, number, stored, length, digest
    for i, (text, rows) in enumerate(_tokenized(items.columns["text"].tolist(), tokenizer, advance)):
        counts.append(sum(int(tokens.stored.sum()) for tokens in rows))
        cut.append(rows[0].cut)
        for number, tokens in enumerate(rows):
            if tokens.ids.max(initial=0) >= tokenizer.vocab_size:
                raise InvalidInputError(
                    f"the tokenizer gives a text the token {tokens.ids.max()}, and the model has "
                    f"{tokenizer.vocab_size:,}; it belongs to another model. The text: {text[:60]!r}",
                    code="other-tokenizer",
                )
            spans.append(tokens.spans)
            ids.append(tokens.ids[tokens.stored])
            content = b"" if number else json.dumps(text).encode()
            sha = hashlib.sha256(content + tokens.ids.tobytes() + tokens.stored.tobytes())
            windows.append((i, number, int(tokens.stored.sum()), len(tokens.ids), sha.digest()[:16]))
    good = np.array(counts) > 0
    skipped = dict.fromkeys(items.key[~good].tolist(), "it has no tokens")
    if skipped and (not skip_bad or len(skipped) == len(items)):
        raise InvalidInputError(
            f"{len(skipped):,} of {len(items):,} texts have no tokens (counted from 0, or by path): "
            f"{listed([*skipped], 5)}. Nothing was written. Remove them, or use --skip-bad (skip_bad=True)",
            code="empty-text",
        )
    number_of = np.cumsum(good) - 1  # among the texts that are left
    kept = [window for window in windows if window[2]]
    return TextTokens(
        select_items(items, good),
        pointers(np.array(counts)[good]),
        np.concatenate(spans),
        np.concatenate(ids),
        np.array([(number_of[text], number) for text, number, *_ in kept], np.int64),
        pointers(np.array([stored for _, _, stored, *_ in kept])),
        np.array([length for *_, length, _ in kept], np.int64),
        np.frombuffer(b"".join(digest for *_, digest in kept), np.uint8).reshape(-1, 16),
        items.key[np.array(cut) & good].tolist(),
        skipped,
    )


def _tokenized(
    texts: list[str], tokenizer: Tokenizer, advance: Callable[[int], None]
) -> Iterator[tuple[str, list[Tokens]]]:
    for start in range(0, len(texts), _AT_ONCE):
        block = texts[start : start + _AT_ONCE]
        yield from zip(block, tokenizer(block), strict=True)
        advance(len(block))
