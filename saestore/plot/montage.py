"""Several images in one Axes, whose unit is the inch, the patches tinted where a feature is active."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import NotFoundError
from saestore.labels.patch_grid import Fit
from saestore.plot.images import Box, Frame, ImageView, is_image, read_image
from saestore.plot.style import (
    Row,
    axes_or_new,
    clip,
    inches_of,
    named,
    nothing_to_show,
    number,
    rows_of,
    silence,
    summary,
    tints,
    titled,
    value_range,
    width,
)  # fmt: skip
from saestore.sparse_rows import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from saestore.query.reader import SetReader
    from saestore.query.results import TopSamples


# Inches: title of two lines, edge around everything, a line of the foot, another line, the scale in the foot.
_TITLE, _EDGE, _FOOT, _LINE, _SCALE = 0.5, 0.1, 0.36, 0.2, 1.6
_COLUMNS, _GAP, _CAPTION = 4, 0.15, 0.34
_WIDE, _ALONE = 2.6, 5.2  # an image among several, and a single one
_SMALL, _LARGE = 9.0, 11.0  # points


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
    """Draw the images that the rows of `top` belong to."""
    if not len(top):
        return nothing_to_show(axes_or_new(ax, (6.4, 2.0)), named(acts, feature), silence(acts, feature))
    rows = rows_of(acts, feature, top)
    if not any(is_image(row.key) for row in rows):
        advice = "acts.plot.tokens shows texts" if "text" in acts.items.names() else "their items have no images"
        message = f"Keys such as {rows[0].key!r} of {acts.path} are not paths of images; {advice}."
        raise NotFoundError(message, code="no-images")
    view = ImageView.of(acts, fit)
    pixels = [read_image(acts, row.key, images) for row in rows]
    page = Page(rows, pixels, view, None if ax is None else inches_of(ax))
    if ax is None:
        ax = _new_axes(page.size)
    page.draw(ax)
    titled(ax, named(acts, feature), summary(acts, feature, len(rows), "image", where),
           size=_LARGE * page.scale, room=page.size[0] * page.scale)  # fmt: skip
    return ax


def _new_axes(size: tuple[float, float]) -> Axes:
    """An Axes of `size` inches in a new figure that has room for its title."""
    import matplotlib.pyplot as plt

    wide, high = size[0] + 2 * _EDGE, size[1] + _TITLE + 2 * _EDGE
    return plt.figure(figsize=(wide, high)).add_axes((_EDGE / wide, _EDGE / high, size[0] / wide, size[1] / high))


@dataclass
class Page:
    """Images in lines, with captions, and a foot that explains the tints."""

    # What to show.
    rows: Sequence[Row]
    pixels: Sequence[Array]
    view: ImageView  # which part of the images the model saw
    room: tuple[float, float] | None  # inches of the Axes; None if the Axes is made to fit

    def __post_init__(self) -> None:
        self._wide = _ALONE if len(self.rows) == 1 else _WIDE
        self._high = self._wide * min(1.0, max(p.shape[0] / p.shape[1] for p in self.pixels))
        self._range = value_range(self.rows)
        self._strongest = max(self._range[1], -self._range[0])
        self._note = "framed: the strongest patch" if self.view.patches else ""
        if self.view.assumed and any(p.shape[0] != p.shape[1] for p in self.pixels):
            self._note += "; images taken as squashed to a square"
        self._columns = min(_COLUMNS, len(self.rows))
        if self.room is not None:
            self._columns = max(range(1, len(self.rows) + 1), key=lambda columns: self._zoom(self._size(columns)))
        wide, high = self._size(self._columns)
        self._beside = self._scale_width() + 0.3 + width(self._note, _SMALL) <= wide
        self._foot = _FOOT + (0 if self._beside else _LINE)
        self.size = wide, high + self._foot
        self.scale = self._zoom(self.size)

    def _size(self, columns: int) -> tuple[float, float]:
        lines = -(-len(self.rows) // columns)
        return columns * (self._wide + _GAP) - _GAP, lines * (self._high + _CAPTION)

    def _zoom(self, size: tuple[float, float]) -> float:
        return 1.0 if self.room is None else min(self.room[0] / size[0], self.room[1] / size[1])

    def draw(self, ax: Axes) -> None:
        """Draw the images, line by line, and the foot."""
        ax.set_axis_off()
        ax.set(xlim=(0, self.size[0]), ylim=(0, self.size[1]), aspect="equal")
        for i, (row, pixels) in enumerate(zip(self.rows, self.pixels, strict=True)):
            line, column = divmod(i, self._columns)
            left, top = column * (self._wide + _GAP), self.size[1] - line * (self._high + _CAPTION)
            zoom = min(self._wide / pixels.shape[1], self._high / pixels.shape[0])
            frame = Frame(ax, pixels, left, top, zoom * pixels.shape[1], zoom * pixels.shape[0], self.scale)
            frame.show(Box(0, 0, 1, 1), pixels)
            if self.view.patches is not None:
                self._draw_patches(frame, row, self.view.patches.at(row.item).grid)
            self._draw_caption(ax, row, left, top - frame.high - 0.16)
        self._draw_foot(ax)

    def _draw_patches(self, frame: Frame, row: Row, shape: tuple[int, int]) -> None:
        visible = self.view.box(frame.pixels.shape[1], frame.pixels.shape[0])
        frame.veil(visible)
        n_rows, n_columns = shape
        activations = np.zeros(n_rows * n_columns, row.activations.dtype)
        activations[: len(row.activations)] = row.activations
        grid = activations.reshape(n_rows, n_columns)
        frame.show(visible, tints(grid, self._strongest))

        def box(r: int, c: int, rows: int, columns: int) -> Box:
            return visible.subbox(r / n_rows, c / n_columns, rows / n_rows, columns / n_columns)

        r, c = divmod(row.position, n_columns)
        frame.outline(box(r, c, r + 1, c + 1))
        rows, columns = np.nonzero(np.abs(grid) >= abs(row.strongest) / 4)
        frame.lens(box(rows.min(), columns.min(), rows.max() + 1, columns.max() + 1))

    def _draw_caption(self, ax: Axes, row: Row, left: float, y: float) -> None:
        value = clip(number(row.strongest) + (f" · {row.split}" if row.split else ""), _SMALL, self._wide / 2)
        style: dict[str, Any] = {"va": "baseline", "fontsize": _SMALL * self.scale, "parse_math": False}
        name = clip(Path(row.key).stem, _SMALL, self._wide - width(value, _SMALL) - 0.1, start=True)
        ax.text(left, y, name, **style)
        ax.text(left + self._wide, y, value, ha="right", alpha=0.65, **style)

    def _scale_width(self) -> float:
        return sum(width(text, _SMALL) + 0.08 for text in ("activation", *map(number, self._range))) + _SCALE

    def _draw_foot(self, ax: Axes) -> None:
        """Explain tints and marks in the lowest inches of the Axes."""
        low, high = self._range
        y = self._foot - _FOOT / 2
        style: dict[str, Any] = {"fontsize": _SMALL * self.scale, "va": "center", "alpha": 0.65}
        x = 0.0
        for text in ("activation", number(low)):
            ax.text(x, y, text, **style)
            x += width(text, _SMALL) + 0.08
        colours = tints(np.linspace(low, high, 128), self._strongest)
        extent = x, x + _SCALE, y - 0.07, y + 0.07
        ax.imshow(colours[None], extent=extent, aspect="equal", interpolation="nearest")
        ax.text(x + _SCALE + 0.08, y, number(high), **style)
        if self._beside:
            ax.text(self._scale_width() + 0.22, y, self._note, **style)
        else:
            ax.text(0, y - _LINE, clip(self._note, _SMALL, self.size[0]), **style)
