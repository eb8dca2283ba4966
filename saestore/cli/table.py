"""Text and tables in a terminal: how wide a text is, cutting it, marking a token in it, and aligned columns."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from saestore.errors import escape

ELLIPSIS = "…"
_JOINERS = "\u200c\u200d"  # they shape Persian and join emojis; every other format character is left out
_SPACES = re.compile(r"\s+")
_GAP = "  "
_NARROWEST = 10  # columns that a text keeps, however many others there are
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


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


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    cells: Sequence[str | Marked]
    right: bool = False
    # Which end of a text gives way where the table is too wide; None for what must be read whole.
    cut: Literal["start", "end"] | None = None

    def __post_init__(self) -> None:
        cells = [cell if isinstance(cell, Marked) else escape(cell, one_line=True) for cell in self.cells]
        object.__setattr__(self, "cells", cells)

    @property
    def narrowest(self) -> int:
        """The fewest columns in which cells that differ can be distinguished."""
        if not any(isinstance(cell, Marked) for cell in self.cells):
            texts = {str(cell) for cell in self.cells}
            cut = clip_start if self.cut == "start" else clip
            for limit in range(_NARROWEST, max(map(width, texts), default=0)):
                if len({cut(text, limit) for text in texts}) == len(texts):
                    return limit
            return max(_NARROWEST, *map(width, texts), 0) if len(texts) > 1 else _NARROWEST
        return _NARROWEST

    def fitted(self, limit: int) -> list[str]:
        """The head and the cells, each padded to `limit`."""
        return [self._padded(cell, limit) for cell in (self.name, *self.cells)]

    def _padded(self, cell: str | Marked, limit: int) -> str:
        if isinstance(cell, Marked):
            text = cell.fit(limit)
        else:
            text = clip_start(cell, limit) if self.cut == "start" else clip(cell, limit)
        space = " " * (limit - width(text))
        return space + text if self.right else text + space


def numbers(name: str, values: Iterable[int]) -> Column:
    """A column of ids, as one would type them."""
    return Column(name, [str(v) for v in values], right=True)


def counts(name: str, values: Iterable[int]) -> Column:
    """A column of counts."""
    return Column(name, [f"{v:,}" for v in values], right=True)


def decimals(name: str, values: Iterable[float | None]) -> Column:
    """A column of real numbers, all with the same number of decimals: five digits of the largest one."""
    known = [math.nan if v is None else float(v) for v in values]
    largest = max((abs(v) for v in known if math.isfinite(v)), default=0.0)
    if largest == 0 or 1e-4 <= largest < 1e7:
        places = min(6, max(0, 4 - math.floor(math.log10(largest or 1))))
        cells = [f"{v:.{places}f}" for v in known]
    else:
        cells = [f"{v:.4g}" for v in known]
    return Column(name, ["-" if math.isnan(v) else c for v, c in zip(known, cells, strict=True)], right=True)


def measured(name: str, values: Any) -> Column:
    """A column of an array: counts where they are ints, else real numbers."""
    return (counts if values.dtype.kind in "iu" else decimals)(name, values.tolist())


def first_of_each(name: str, rows: Sequence[Mapping[str, Any]]) -> Column:
    """A column whose value stands once, in the first of the rows that have it."""
    values = [row[name] for row in rows]
    cells = [each if i == 0 or values[i - 1] != each else "" for i, each in enumerate(values)]
    return Column(name, cells, cut="end")


def interval(name: str, rows: Sequence[Mapping[str, Any]], confidence_level: float, places: int) -> Column:
    """A column of the ends of an interval."""
    ends = [(row[f"{name}_low"], row[f"{name}_high"]) for row in rows]
    cells = ["-" if math.isnan(low) else f"{low:.{places}f} to {high:.{places}f}" for low, high in ends]
    return Column(f"{100 * confidence_level:g}% interval", cells, right=True)


def size(n_bytes: float) -> str:
    """A number of bytes for people."""
    unit = 0
    while n_bytes >= 999.5 and unit + 1 < len(_UNITS):
        n_bytes, unit = n_bytes / 1000, unit + 1
    return f"{n_bytes:,.0f} {_UNITS[unit]}" if unit == 0 else f"{n_bytes:.3g} {_UNITS[unit]}"


def render(columns: Sequence[Column], limit: int) -> list[str]:
    """The lines of a table, the first its head, none wider than `limit`."""
    widths = [max(width(str(cell)) for cell in (c.name, *c.cells)) for c in columns]
    flexible = [c.cut is not None or any(isinstance(cell, Marked) for cell in c.cells) for c in columns]
    least = [min(w, c.narrowest) if flex else w for c, w, flex in zip(columns, widths, flexible, strict=True)]
    # The names of the rows come first: where they cannot be told apart, the last of the other columns are left out.
    kept = list(range(len(columns)))
    while sum(least[i] + len(_GAP) for i in kept) - len(_GAP) > limit and not all(flexible[i] for i in kept):
        kept.remove(max(i for i in kept if not flexible[i]))
    columns, widths, least = [columns[i] for i in kept], [widths[i] for i in kept], [least[i] for i in kept]
    excess = sum(widths) + len(_GAP) * (len(columns) - 1) - limit
    while excess > 0 and widths != least:
        widest = max((i for i in range(len(widths)) if widths[i] > least[i]), key=lambda i: widths[i])
        # Down to the next widest at once, else by one.
        others = [widths[i] for i in range(len(widths)) if i != widest and widths[i] > least[i]]
        step = max(1, min(excess, widths[widest] - max(least[widest], *others, 0)))
        widths[widest], excess = widths[widest] - step, excess - step
    fitted = [c.fitted(w) for c, w in zip(columns, widths, strict=True)]
    return [clip(_GAP.join(cells).rstrip(), limit) for cells in zip(*fitted, strict=True)]


def pairs(rows: Sequence[tuple[str, str]], limit: int) -> list[str]:
    """Labels and values, one below the other; a long value goes on in its own column."""
    import textwrap

    rows = [(escape(name, one_line=True), escape(value, one_line=True)) for name, value in rows]
    label = max((width(name) for name, _ in rows), default=0)
    lines = []
    for name, value in rows:
        parts = textwrap.wrap(value, max(_NARROWEST, limit - label - len(_GAP) - 2), break_on_hyphens=False) or [""]
        heads = [name] + [""] * (len(parts) - 1)
        lines += [f"  {head.ljust(label)}{_GAP}{part}".rstrip() for head, part in zip(heads, parts, strict=True)]
    return [clip(line, limit) for line in lines]
