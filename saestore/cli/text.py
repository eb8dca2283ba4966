"""Text in a terminal: how wide it is, cutting it, and marking a token in it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

ELLIPSIS = "…"
_JOINERS = "\u200c\u200d"  # they shape Persian and join emojis; every other format character is left out
_SPACES = re.compile(r"\s+")


def width(text: str) -> int:
    """Columns that a text takes in a terminal."""
    return len(text) if text.isascii() else sum(map(_char_width, text))


def _char_width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def clean(text: str) -> str:
    """The text on one line, without what would move the cursor or colour the terminal."""
    return "".join(map(_shown, _SPACES.sub(" ", text)))


def _shown(char: str) -> str:
    if char.isprintable() or char in _JOINERS:
        return char
    return "" if unicodedata.category(char) == "Cf" else "\N{REPLACEMENT CHARACTER}"


def clip(text: str, limit: int) -> str:
    """At most `limit` columns of a text, its end cut."""
    return text if width(text) <= limit else _head(text, limit - 1) + ELLIPSIS[:limit]


def clip_start(text: str, limit: int) -> str:
    """At most `limit` columns of a text, its start cut: paths differ at their end."""
    if width(text) <= limit:
        return text
    # A mark whose letter was cut off would sit on the ellipsis.
    tail = _head(text[::-1], limit - 1)[::-1]
    while tail and _char_width(tail[0]) == 0:
        tail = tail[1:]
    return ELLIPSIS[:limit] + tail


def _head(text: str, limit: int) -> str:
    used = 0
    for i, char in enumerate(text):
        used += _char_width(char)
        if used > limit:
            return text[:i]
    return text


@dataclass(frozen=True)
class Marked:
    """A text with one token of it in brackets."""

    before: str
    token: str
    after: str

    @classmethod
    def of(cls, text: str, start: int, stop: int) -> Marked:
        """Mark the characters `start` to `stop`; the spaces that many tokenizers count to a token stay outside."""
        token = text[start:stop]
        inner = token.strip()
        if not clean(inner):
            # Nothing but white space or format characters: show which.
            return cls(clean(text[:start]), token.encode("unicode_escape").decode(), clean(text[stop:]))
        start += len(token) - len(token.lstrip())
        stop = start + len(inner)
        return cls(clean(text[:start]), clean(inner), clean(text[stop:]))

    def __str__(self) -> str:
        return f"{self.before}[{self.token}]{self.after}"

    def fit(self, limit: int) -> str:
        """At most `limit` columns around the token."""
        if width(str(self)) <= limit:
            return str(self)
        mark = f"[{clip(self.token, max(1, limit - 2))}]"
        room = max(0, limit - width(mark))
        left = min(width(self.before), max(room // 2, room - width(self.after)))
        return clip_start(self.before, left) + mark + clip(self.after, room - left)
