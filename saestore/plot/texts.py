"""Texts with their tokens shaded by a feature's activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from saestore.plot.style import number, tints
from saestore.plot.text_layout import Layout, Letters
from saestore.plot.top_rows import Canvas, Row

if TYPE_CHECKING:
    from saestore.query.reader import SetReader

Array = np.ndarray[Any, Any]

_WIDE, _NARROW, _GUTTER, _GAP = 9.3, 5.0, 1.4, 0.14  # inches: at most and at least, the column of values, between texts
_SIZE, _LINE = 11.0, 0.235  # points, inches from line to line
_LINES = 4  # of a text at most
_AROUND = 1000  # characters of a text on either side of its strongest token that are laid out at most


class Paragraphs:
    """A page of texts.

    Parameters
    ----------
    rows
        What to show; the items of `acts` have a column ``text``.
    """

    kind = "text"

    def __init__(self, acts: SetReader, rows: Sequence[Row], canvas: Canvas) -> None:
        texts = acts.items.column("text", np.array([row.item for row in rows])).tolist()
        samples = [row.start + np.arange(len(row.activations)) for row in rows]
        spans = acts.spans(np.concatenate(samples))
        given = spans is not None
        width = _WIDE if canvas.size is None else min(_WIDE, max(_NARROW, canvas.size[0]))
        self.letters = Letters([acts.path, *texts, *(row.split for row in rows)], canvas.dpi)
        parts = np.split(spans, np.cumsum([len(s) for s in samples])[:-1]) if spans is not None else [None] * len(rows)
        self._paragraphs = [
            Paragraph(row, text, part, self.letters, width) for row, text, part in zip(rows, texts, parts, strict=True)
        ]
        self.size = (width, sum(p.high + _GAP for p in self._paragraphs))
        self.note = "underlined: the strongest token" if given else "where tokens stand in the texts is not stored"

    def draw(self, ax: Axes, bottom: float, scale: float, strongest: float) -> None:
        """Draw the texts, one below the other."""
        top = bottom + self.size[1] - _GAP / 2
        for paragraph in self._paragraphs:
            paragraph.draw(ax, top, scale, strongest)
            top -= paragraph.high + _GAP


class Paragraph:
    """One text, laid out around its strongest token."""

    def __init__(self, row: Row, text: str, spans: Array | None, letters: Letters, width: float) -> None:
        self._row, self._letters = row, letters
        self._spans = np.empty((0, 2), np.int64) if spans is None else _trimmed(text, spans)
        peak = int(self._spans[row.position, 0]) if spans is not None else 0
        first = max(0, peak - _AROUND)
        shown = text[first : peak + _AROUND]
        self._layout = Layout(shown, first, letters, _SIZE, width - _GUTTER - letters.width("…", _SIZE))
        self._lines = self._layout.lines_around(peak, _LINES)
        self._cut = (first > 0 or self._lines.start > 0,
                     first + len(shown) < len(text) or self._lines.stop < self._layout.n_lines)  # fmt: skip
        self.high = max(2, len(self._lines)) * _LINE

    def draw(self, ax: Axes, top: float, scale: float, strongest: float) -> None:
        """Draw it with its upper edge at `top` inches."""
        style: dict[str, Any] = {"va": "baseline", "family": self._letters.families}
        base = top - 0.72 * _LINE
        row = self._row
        ax.text(_GUTTER - 0.3, base, number(row.strongest), ha="right", fontsize=_SIZE * scale, **style)
        label = self._letters.clip(f"item {row.item}" + (f" · {row.split}" if row.split else ""), 8, _GUTTER - 0.25)
        ax.text(_GUTTER - 0.3, base - 0.19, label, ha="right", fontsize=8 * scale, alpha=0.65, **style)
        self._shade(ax, base, scale, strongest)
        for word in self._layout.words_of(self._lines):
            y = base - (word.line - self._lines.start) * _LINE
            ax.text(_GUTTER + word.x, y, word.text, fontsize=_SIZE * scale, parse_math=False, **style)
        before, after = self._layout.ends(self._lines)
        style |= {"fontsize": _SIZE * scale, "alpha": 0.65}
        if self._cut[0]:
            ax.text(_GUTTER + before.x, base, "…", ha=before.ha, **style)
        if self._cut[1]:
            ax.text(_GUTTER + after.x, base - (len(self._lines) - 1) * _LINE, "…", ha=after.ha, **style)

    def _shade(self, ax: Axes, base: float, scale: float, strongest: float) -> None:
        colours = tints(self._row.activations, strongest)
        for token in _one_a_place(self._spans, self._row):
            is_peak = bool((self._spans[token] == self._spans[self._row.position]).all())
            for line, left, right in self._layout.extents(*self._spans[token].tolist()):
                if line not in self._lines:
                    continue
                y = base - (line - self._lines.start) * _LINE
                ax.add_patch(
                    Rectangle(
                        (_GUTTER + left, y - 0.06), right - left, 0.215, facecolor=colours[token], edgecolor="none"
                    )
                )
                if is_peak:
                    ax.plot([_GUTTER + left, _GUTTER + right], [y - 0.06] * 2, color="0.5", linewidth=1.6 * scale,
                            solid_capstyle="butt")  # fmt: skip


def _trimmed(text: str, spans: Array) -> Array:
    """Spans without the spaces that many tokenizers count to a token; those of spaces alone stay."""
    trimmed = spans.astype(np.int64)
    for i, (start, stop) in enumerate(spans.tolist()):
        token = text[start:stop]
        if token.strip():
            trimmed[i] = start + len(token) - len(token.lstrip()), stop - len(token) + len(token.rstrip())
    return trimmed


def _one_a_place(spans: Array, row: Row) -> list[int]:
    """Active tokens; of several with the same characters, as the bytes of an emoji have, the strongest."""
    strongest: dict[tuple[int, int], int] = {}
    for token in np.argsort(np.abs(row.activations[: len(spans)]), kind="stable").tolist():
        if row.activations[token]:
            strongest[tuple(spans[token].tolist())] = token
    return list(strongest.values())
