"""Tables for people: aligned columns that never run over the width they are given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from saestore.cli.text import Marked, clip, clip_start, width
from saestore.errors import escape

_GAP = "  "
_NARROWEST = 10  # columns that a text keeps, however many others there are
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


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
