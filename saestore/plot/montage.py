"""Several images or texts in one Axes, whose unit is the inch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from saestore.errors import NotFoundError
from saestore.labels.patch_grid import Fit
from saestore.plot.images import Pictures, is_image
from saestore.plot.style import axes_or_new, figure_of, named, nothing_to_show, number, percent, tints
from saestore.plot.text_layout import Letters
from saestore.plot.texts import Paragraphs
from saestore.plot.top_rows import Canvas, Row, rows_of

if TYPE_CHECKING:
    from saestore.query.reader import SetReader
    from saestore.query.results import TopSamples

_TITLE, _EDGE = 0.5, 0.1  # inches above for two lines, and around all
_FOOT, _LINE, _SCALE = 0.36, 0.2, 1.6  # below for the scale, a further line of it, its length
_QUIET = 0.65  # opacity of what is less important
_SMALL, _LARGE = 9.0, 11.0  # points


class Page(Protocol):
    """What is drawn between title and scale.

    Attributes
    ----------
    letters
        Fonts for all its words.
    size
        Inches.
    kind
        What it shows many of.
    note
        What its marks mean.
    """

    letters: Letters
    size: tuple[float, float]
    kind: str
    note: str

    def draw(self, ax: Axes, bottom: float, scale: float, strongest: float) -> None:
        """Draw it into the inches from `bottom` upwards, letters and lines `scale` times their size."""


def draw(
    acts: SetReader,
    feature: int,
    top: TopSamples,
    ax: Axes | None,
    *,
    where: Any,
    images: str | os.PathLike[str] | None,
    fit: Fit | None,
) -> Axes:
    """Draw what the rows of `top` are samples of."""
    if not len(top):
        dead = not int(acts.stats(feature)["n_active"].item())
        says = f"active on none of {acts.shape[0]:,} samples" if dead else "active on none of the samples asked for"
        return nothing_to_show(axes_or_new(ax, (6.4, 2.0)), named(acts, feature), says)
    rows = rows_of(acts, feature, top)
    page = _page(acts, rows, images, fit, _canvas(ax))
    low = min(0.0, *(float(row.activations.min()) for row in rows))
    high = max(0.0, *(float(row.activations.max()) for row in rows))
    foot = Foot(page, low, high)
    size = page.size[0], page.size[1] + foot.high
    ax = _new_axes(size) if ax is None else ax
    scale = _canvas(ax).zoom(size)
    ax.set_axis_off()
    ax.set(xlim=(0, size[0]), ylim=(0, size[1]), aspect="equal")
    page.draw(ax, foot.high, scale, max(high, -low))
    foot.draw(ax, scale)
    lines = [page.letters.clip(line, _LARGE, size[0]) for line in _title(acts, feature, rows, page.kind, where)]
    ax.set_title("\n".join(lines), fontsize=_LARGE * scale, family=page.letters.families, parse_math=False)
    return ax


def _canvas(ax: Axes | None) -> Canvas:
    if ax is None:
        return Canvas(float(mpl.rcParams["figure.dpi"]), None)
    dpi, box = float(figure_of(ax).dpi), ax.get_window_extent()
    return Canvas(dpi, (box.width / dpi, box.height / dpi))


def _new_axes(size: tuple[float, float]) -> Axes:
    """An Axes of so many inches in a new figure that has room for its title."""
    import matplotlib.pyplot as plt

    wide, high = size[0] + 2 * _EDGE, size[1] + _TITLE + 2 * _EDGE
    return plt.figure(figsize=(wide, high)).add_axes((_EDGE / wide, _EDGE / high, size[0] / wide, size[1] / high))


def _page(
    acts: SetReader, rows: Sequence[Row], images: str | os.PathLike[str] | None, fit: Fit | None, canvas: Canvas
) -> Page:
    if "text" in acts.items.names():
        return Paragraphs(acts, rows, canvas)
    if any(is_image(row.key) for row in rows):
        return Pictures(acts, rows, images, fit, canvas)
    raise NotFoundError(
        f"There is nothing to show of {acts.path}: its items have no column 'text', and keys such as {rows[0].key!r} "
        "are no images."
    )


def _title(acts: SetReader, feature: int, rows: Sequence[Row], kind: str, where: Any) -> list[str]:
    stats = acts.stats(feature, where=where)
    active, share = int(stats["n_active"].item()), float(stats["frac_nonzero"].item())
    shown = f"{len(rows)} strongest {kind}s" if len(rows) > 1 else f"strongest {kind}"
    samples = f"{stats.attrs['n_samples']:,} samples" + ("" if where is None else " selected")
    return [named(acts, feature), f"{shown}; active on {active:,} of {samples} ({percent(share)})"]


class Foot:
    """What a tint and a mark mean, below a page."""

    def __init__(self, page: Page, low: float, high: float) -> None:
        self._page, self._low, self._high = page, low, high
        names = ("activation", number(low), number(high))
        wide = sum(page.letters.width(name, _SMALL) + 0.08 for name in names) + _SCALE
        self._beside = wide + 0.3 + page.letters.width(page.note, _SMALL) <= page.size[0]
        self.high = _FOOT + (0 if self._beside else _LINE)

    def draw(self, ax: Axes, scale: float) -> None:
        """Draw it into the lowest inches of the Axes."""
        letters, y = self._page.letters, self.high - _FOOT / 2
        style: dict[str, Any] = {"fontsize": _SMALL * scale, "va": "center", "alpha": _QUIET}
        style["family"] = letters.families
        x = 0.0
        for text in ("activation", number(self._low)):
            ax.text(x, y, text, **style)
            x += letters.width(text, _SMALL) + 0.08
        colours = tints(np.linspace(self._low, self._high, 128), max(self._high, -self._low))
        place = x, x + _SCALE, y - 0.07, y + 0.07
        ax.imshow(colours[None], extent=place, aspect="equal", interpolation="nearest")
        x += _SCALE + 0.08
        ax.text(x, y, number(self._high), **style)
        x += letters.width(number(self._high), _SMALL) + 0.3
        if self._beside:
            ax.text(x, y, self._page.note, **style)
        else:
            ax.text(0, y - _LINE, letters.clip(self._page.note, _SMALL, self._page.size[0]), **style)
