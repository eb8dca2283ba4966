"""Lines of text, and where in them every character stands."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties


@dataclass
class Word:
    """Characters that stay together on a line.

    Attributes
    ----------
    text
        As drawn.
    chars
        Numbers of its characters in the whole text.
    edges
        Inches from the word's beginning to the beginning of each character, and to its end.
    rtl
        True where it is written from right to left, None where it has no letter to tell.
    space
        Whether a space follows.
    line, x
        Where it stands: inches from the left edge.
    """

    text: str
    chars: Sequence[int]
    edges: list[float]
    rtl: bool | None
    space: bool = False
    line: int = 0
    x: float = 0.0

    @property
    def width(self) -> float:
        """Inches."""
        return self.edges[-1]

    def extent(self, place: int) -> tuple[float, float]:
        """Left and right edge of one of its characters on the line."""
        a, b = self.edges[place], self.edges[place + 1]
        return (self.x + self.width - b, self.x + self.width - a) if self.rtl else (self.x + a, self.x + b)


@dataclass(frozen=True)
class End:
    """Where an ellipsis goes."""

    x: float
    ha: str


@dataclass
class Layout:
    """A text wrapped into lines.

    Words are put in the order in which they are read: from the right in a text that starts with Hebrew or Arabic.

    Parameters
    ----------
    text
        The part of a text that is laid out, and `first` the number of its first character.
    letters, size, room
        Fonts, points, and inches a line may take.
    """

    text: str
    first: int
    letters: Letters
    size: float
    room: float
    words: list[Word] = field(init=False)
    rtl: bool = field(init=False)
    n_lines: int = field(init=False)

    def __post_init__(self) -> None:
        self._space = self.letters.width("n n", self.size) - self.letters.width("nn", self.size)
        self.words = list(self._words())
        self.rtl = next((w.rtl for w in self.words if w.rtl is not None), False)
        self._wrap()
        for line in range(self.n_lines):
            self._order([w for w in self.words if w.line == line])
        self._places = {char: (w, i) for w in self.words for i, char in enumerate(w.chars)}

    def _words(self) -> Iterator[Word]:
        """Words at spaces; a letter of a script without spaces is one by itself, and so is a piece of a long word."""
        held: list[int] = []
        for place, char in enumerate(self.text):
            shown = self.letters.shown(char)
            alone = unicodedata.east_asian_width(char) in "WF"
            if held and (shown == " " or alone):
                yield from self._word(held, space=shown == " ")
                held = []
            if shown == " ":
                continue
            held.append(place)
            if alone or char == "\n":
                yield from self._word(held, space=char == "\n")
                held = []
        if held:
            yield from self._word(held, space=False)

    def _word(self, places: list[int], *, space: bool) -> Iterator[Word]:
        shown = [self.letters.shown(self.text[place]) for place in places]
        edges = [0.0]
        begin = 0
        for i in range(len(places)):
            width = self.letters.width("".join(shown[begin : i + 1]), self.size)
            if width > self.room and i > begin:
                yield self._made(places[begin:i], shown[begin:i], edges, space=False)
                begin, edges = i, [0.0]
                width = self.letters.width(shown[i], self.size)
            edges.append(max(width, edges[-1]))
        yield self._made(places[begin:], shown[begin:], edges, space=space)

    def _made(self, places: list[int], shown: list[str], edges: list[float], *, space: bool) -> Word:
        kinds = [unicodedata.bidirectional(self.text[place]) for place in places]
        strong = next((kind for kind in kinds if kind in ("L", "R", "AL")), None)
        rtl = None if strong is None else strong != "L"
        return Word("".join(shown), [self.first + place for place in places], edges, rtl, space)

    def _wrap(self) -> None:
        line, x = 0, 0.0
        for word in self.words:
            if x and x + word.width > self.room:
                line, x = line + 1, 0.0
            word.line, word.x = line, x
            x += word.width + self._space * word.space
        self.n_lines = line + 1

    def _order(self, words: list[Word]) -> None:
        """Move the words of a line to where they are read: runs of one direction after the other."""
        if not self.rtl and not any(w.rtl for w in words):
            return
        runs: list[list[Word]] = []
        direction: bool | None = None
        for word in words:
            own = direction if word.rtl is None and direction is not None else (word.rtl or False)
            if own != direction:
                runs.append([])
                direction = own
            word.rtl = own
            runs[-1].append(word)
        x = self.room if self.rtl else 0.0
        for run in runs:
            last = self._space * run[-1].space  # on the side of the next run, whatever the direction of this one
            wide = sum(w.width + self._space * w.space for w in run) - last
            left = x - wide if self.rtl else x
            self._place(run, left, wide)
            x += -wide - last if self.rtl else wide + last

    def _place(self, run: list[Word], left: float, wide: float) -> None:
        done = 0.0
        for word in run:
            step = word.width + self._space * word.space
            word.x = left + wide - done - word.width if run[0].rtl else left + done
            done += step

    def lines_around(self, char: int, limit: int) -> range:
        """At most `limit` lines, that of a character in or before their middle."""
        line = self._line(char)
        start = max(0, min(line - (limit - 1) // 2, self.n_lines - limit))
        return range(start, min(self.n_lines, start + limit))

    def _line(self, char: int) -> int:
        """The line of a character, or of the next that is drawn."""
        later = [w.line for w in self.words if len(w.chars) and w.chars[-1] >= char]
        return later[0] if later else self.n_lines - 1

    def words_of(self, lines: range) -> list[Word]:
        """The words on some lines."""
        return [w for w in self.words if w.line in lines]

    def extents(self, start: int, stop: int) -> list[tuple[int, float, float]]:
        """Where the characters `start` to `stop` stand: line, left and right edge, once for each line and word run.

        Characters that are not drawn have the place behind the one before them, as wide as a space.
        """
        found: dict[int, tuple[float, float]] = {}
        for char in range(start, max(stop, start + 1)):
            if char not in self._places:
                continue
            word, place = self._places[char]
            left, right = word.extent(place)
            before = found.get(word.line, (np.inf, -np.inf))
            found[word.line] = min(before[0], left), max(before[1], right)
        if not found and start - 1 in self._places:
            word, place = self._places[start - 1]
            left, right = word.extent(place)
            found[word.line] = (left - self._space, left) if word.rtl else (right, right + self._space)
        return [(line, left, right) for line, (left, right) in found.items()]

    def ends(self, lines: range) -> tuple[End, End]:
        """Where an ellipsis before the first and one behind the last of some lines goes."""
        words = self.words_of(range(lines[-1], lines[-1] + 1))
        if self.rtl:
            return End(self.room, "left"), End(min((w.x for w in words), default=0.0), "right")
        return End(0.0, "right"), End(max((w.x + w.width for w in words), default=0.0), "left")


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
