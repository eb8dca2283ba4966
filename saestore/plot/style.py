"""What all pictures share: colours, numbers in words, titles, and the rows that they show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from saestore.errors import InvalidInputError, shown
from saestore.errors import escape as escape_control
from saestore.query.details import feature_names
from saestore.query.html import escape
from saestore.sparse_rows import Array
from saestore.storage import save_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from saestore.query.reader import SetReader
    from saestore.query.results import TopSamples


# Orange and blue: of the pairs tried, the furthest from each other and from grey for protan, deutan and tritan vision.
POSITIVE, NEGATIVE = "#ff5a00", "#1f5fff"
_OPACITY = 0.7  # of the strongest activation: what lies below stays visible
_FAINTEST = 0.08  # of the weakest: to be seen at all


_PAGE = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark"><title>{title}</title></head>\n'
    '<body style="{style}">\n{body}\n</body></html>\n'
)


@dataclass(frozen=True)
class HtmlPage:
    """A page that a notebook shows, and `save` writes to a file.

    Attributes
    ----------
    title
        Feature and set.
    html
        The page without head; every text is escaped, and nothing is loaded from elsewhere.
    """

    title: str
    html: str
    _what: ClassVar[str] = "page"
    _style: ClassVar[str] = "margin: 0"

    def __repr__(self) -> str:
        return escape_control(f"<{self._what} of {self.title}; save(path) writes the page>")

    def _repr_html_(self) -> str:
        return self.html

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page as one HTML file that needs nothing else, and return its path."""
        page = _PAGE.format(title=escape(self.title), style=self._style, body=self._repr_html_())
        return save_file(path, page.encode("utf-8", "xmlcharrefreplace"))


@dataclass(frozen=True)
class Row:
    """One row of a table of top samples, with the activations of its whole item."""

    item: int
    key: str
    split: str  # "" if the items have none
    start: int  # first sample of the item
    position: int  # position of the row's sample in the item
    activations: Array  # activations of all samples of the item, (samples,)

    @property
    def strongest(self) -> float:
        """The activation of the row's sample."""
        return float(self.activations[self.position])


def rows_of(acts: SetReader, feature: int, top: TopSamples) -> list[Row]:
    """Add the activations of whole items to a table of top samples, in one read. Memory: those activations."""
    starts = top.sample - top.position
    size = acts.item_index.item_size
    stops = starts + size if size is not None else acts.item_index.pointers()[top.item + 1]
    stops = np.minimum(stops, acts.shape[0])  # of a set that is being built, the last item may be there in part
    samples = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])
    values = np.split(acts.dense(samples, feature), np.cumsum(stops - starts)[:-1])
    names = acts.items.names()
    keys = acts.items.column("key", top.item) if "key" in names else top.item.astype(str)
    splits = acts.items.column("split", top.item) if "split" in names else np.full(len(top), "")
    columns = zip(
        top.item.tolist(), keys.tolist(), splits.tolist(), starts.tolist(), top.position.tolist(), values, strict=True
    )
    return [Row(*column) for column in columns]


def value_range(rows: Sequence[Row]) -> tuple[float, float]:
    """Lowest and highest activation of all rows, zero included."""
    low, high = (float(f([f(row.activations) for row in rows])) for f in (np.min, np.max))
    return min(0.0, low), max(0.0, high)


def opacity(activations: Array, strongest: float) -> Array:
    """Opacity of a tint, float64, shape of `activations`: 0 for zero, 0.08 to 0.7 by magnitude for the others."""
    share = np.clip(np.abs(activations.astype(np.float64)) / max(strongest, np.finfo(np.float64).tiny), 0, 1)
    return np.where(activations == 0, 0, _FAINTEST + (_OPACITY - _FAINTEST) * share)


def tints(activations: Array, strongest: float) -> Array:
    """RGBA of activations, float64 (..., 4): the sign is the colour, the magnitude the opacity."""
    from matplotlib.colors import to_rgba

    colours = np.where(activations[..., None] < 0, to_rgba(NEGATIVE), to_rgba(POSITIVE))
    colours[..., 3] = opacity(activations, strongest)
    return colours


def number(value: float) -> str:
    """A value in few characters: three digits, thousands in full."""
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """A share of one as a percentage with two digits at least."""
    return f"{100 * share:.{3 if share >= 1e-3 else 2}g} %"


def named(acts: Any, feature: int) -> str:
    """First line of a title."""
    names = feature_names(acts, np.array([feature % acts.shape[1]]))
    name = "" if names is None or names[0] is None else f" ({names[0]})"
    return f"Feature {feature}{name} of {acts.path}"


def summary(acts: SetReader, feature: int, n_rows: int, kind: str, where: Any) -> str:
    """Second line of a title: how many items (`kind`) are shown, and on how many samples the feature is active."""
    stats = acts.stats(feature, where=where)
    active, share = int(stats["n_active"].item()), float(stats["frac_nonzero"].item())
    shown = f"{n_rows} strongest {kind}s" if n_rows > 1 else f"strongest {kind}"
    samples = f"{stats.attrs['n_samples']:,} samples" + ("" if where is None else " selected")
    return f"{shown}; active on {active:,} of {samples} ({percent(share)})"


def silence(acts: SetReader, feature: int) -> str:
    """Why there is no row to show."""
    dead = not int(acts.stats(feature)["n_active"].item())
    return f"active on none of {acts.shape[0]:,} samples" if dead else "active on none of the selected samples"


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """`ax`, or the only Axes of a new pyplot figure of `size` inches, which a notebook shows by itself."""
    if ax is not None:
        return _checked(ax)
    import matplotlib.pyplot as plt

    return plt.figure(figsize=size, layout="constrained").add_subplot()


def _checked(ax: Any) -> Axes:
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise InvalidInputError(f"ax={shown(ax)}: give the Axes of a matplotlib figure, or None.", code="not-axes")
    return ax


def inches_of(ax: Axes) -> tuple[float, float]:
    """Width and height of an Axes."""
    ax = _checked(ax)
    box, dpi = ax.get_window_extent(), getattr(ax.figure, "figure", ax.figure).dpi  # of the figure, not of a part of it
    return box.width / dpi, box.height / dpi


def width(text: str, size: float) -> float:
    """Inches that a text takes at `size` points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return float(text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0]) / 72


def clip(text: str, size: float, room: float, *, start: bool = False) -> str:
    """A text on one line, its end (or its start) replaced by an ellipsis where it needs more than `room` inches."""
    text = "".join(char if char.isprintable() else "?" for char in text)
    if width(text, size) <= room:
        return text
    low, high = 0, len(text)  # characters that fit
    while low < high:
        middle = (low + high + 1) // 2
        fits = width(_cut(text, middle, start=start), size) <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    return _cut(text, low, start=start)


def _cut(text: str, count: int, *, start: bool) -> str:
    return f"…{text[len(text) - count :]}" if start else f"{text[:count].rstrip()}…"


def titled(ax: Axes, *lines: str, size: float = 10.0, room: float | None = None) -> None:
    """Give an Axes a title of `size` points, each line cut to the width of the Axes."""
    room = inches_of(ax)[0] if room is None else room
    ax.set_title("\n".join(clip(line, size, room) for line in lines), fontsize=size, parse_math=False)


def nothing_to_show(ax: Axes, title: str, message: str) -> Axes:
    """An Axes with a text: why it is empty."""
    ax.set_axis_off()
    titled(ax, title)
    ax.text(0.5, 0.5, message, transform=ax.transAxes, ha="center", va="center", wrap=True, alpha=0.7)
    return ax
