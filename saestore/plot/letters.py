"""Text in pictures: which characters can be drawn, in which fonts, and how wide they are."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties

# Fonts for scripts that matplotlib's own lacks, where they are installed. Only outlines: it cannot draw bitmaps.
_FALLBACKS = (
    "Noto Sans", "Segoe UI", "Arial Unicode MS", "DejaVu Sans",
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Hiragino Sans", "PingFang SC", "Microsoft YaHei",
    "Yu Gothic", "Malgun Gothic", "WenQuanYi Zen Hei", "Droid Sans Fallback",
    "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Thai",
    "Noto Sans Tamil", "Nirmala UI", "Leelawadee UI",
    "Noto Emoji", "Segoe UI Emoji", "Segoe UI Symbol", "Apple Symbols", "Noto Sans Symbols", "Noto Sans Symbols 2",
    "Noto Sans Symbols2", "Symbola", "Unifont",
)  # fmt: skip
_BOX = "\N{WHITE SQUARE}"
_NEW_LINE = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"


class Letters:
    """Fonts that hold what some texts are made of, and the widths in them.

    Parameters
    ----------
    texts
        What will be drawn.
    dpi
        Resolution of the figure: letters are fitted to its pixels, which changes their widths a little.
    """

    def __init__(self, texts: Iterable[str], dpi: float) -> None:
        missing = {char for text in texts for char in text if char.isprintable()} - {" "}
        self.families: list[str] = []
        for family, path in _candidates():
            characters = _characters(path)
            if not self.families or any(ord(char) in characters for char in missing):
                self.families.append(family)
                missing = {char for char in missing if ord(char) not in characters}
        self._missing = missing
        first = _characters(_candidates()[0][1])
        self._box = _BOX if ord(_BOX) in first else "?"
        self._new_line = _NEW_LINE if ord(_NEW_LINE) in first else " "
        self._renderer: Any = RendererAgg(1, 1, dpi)  # type: ignore[no-untyped-call]
        self._dpi = dpi
        self._widths: dict[tuple[str, float], float] = {}

    def shown(self, char: str) -> str:
        """What is drawn for a character: itself, a box where no font has it, nothing for what only joins others."""
        if char in self._missing:
            return "" if unicodedata.category(char) in ("Mn", "Me", "Cf") else self._box
        if char.isprintable():
            return char
        if char.isspace():
            return self._new_line if char == "\n" else " "
        return "" if unicodedata.category(char) == "Cf" else self._box

    def clean(self, text: str) -> str:
        """A text as it can be drawn, on one line."""
        return "".join(map(self.shown, text))

    def width(self, text: str, size: float) -> float:
        """Inches that a text takes at `size` points."""
        if not text:
            return 0.0
        key = text, size
        if key not in self._widths:
            font = FontProperties(family=self.families, size=size)
            self._widths[key] = self._renderer.get_text_width_height_descent(text, font, ismath=False)[0] / self._dpi
        return self._widths[key]

    def clip(self, text: str, size: float, room: float, *, start: bool = False) -> str:
        """A text cut to `room` inches, its end or its start replaced by an ellipsis."""
        text = self.clean(text)
        if self.width(text, size) <= room:
            return text
        low, high = 0, len(text)  # characters that fit
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.width(_cut(text, middle, start=start), size) <= room
            low, high = (middle, high) if fits else (low, middle - 1)
        return _cut(text, low, start=start)


def _cut(text: str, count: int, *, start: bool) -> str:
    return f"…{text[len(text) - count :]}" if start else f"{text[:count].rstrip()}…"


def _candidates() -> list[tuple[str, str]]:
    """Families and files of fonts: the user's own first, then the fallbacks that are installed."""
    wanted = list(mpl.rcParams["font.family"])
    rc: Any = mpl.rcParams
    generic = [name for family in wanted for name in rc.get(f"font.{family}", [family])]
    installed = set(font_manager.get_font_names())
    names = [name for name in dict.fromkeys([*generic, *_FALLBACKS]) if name in installed]
    return [(name, str(font_manager.findfont(FontProperties(family=name)))) for name in names]


@cache
def _characters(path: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(path).get_charmap())
