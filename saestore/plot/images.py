"""Images with the patches tinted on which a feature is active."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from saestore.errors import InvalidInputError, MissingDependencyError
from saestore.labels.patch_grid import Fit
from saestore.plot.seen import Box, ImageView, find_image
from saestore.plot.style import number, tints
from saestore.plot.text_layout import Letters
from saestore.plot.top_rows import Canvas, Row

if TYPE_CHECKING:
    from saestore.query.reader import SetReader

Array = np.ndarray[Any, Any]

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
_COLUMNS, _GAP, _CAPTION = 4, 0.15, 0.34  # inches, as are those below
_WIDE, _ALONE = 2.6, 5.2  # an image, and one that is alone
_MAX_PIXELS = 640  # of the longer side: more than is seen


def is_image(key: str) -> bool:
    """Whether a key is the path of an image."""
    return Path(key).suffix.lower() in _SUFFIXES


class Pictures:
    """A page of images.

    Parameters
    ----------
    rows
        What to show: keys are paths below `images`.
    images, fit
        As in `Plots.top`.
    """

    kind = "image"

    def __init__(
        self,
        acts: SetReader,
        rows: Sequence[Row],
        images: str | os.PathLike[str] | None,
        fit: Fit | None,
        canvas: Canvas,
    ) -> None:
        self._rows = rows
        self._seen = ImageView.of(acts, fit)
        self._pixels = [_read(acts, row.key, images) for row in rows]
        self.letters = Letters([acts.path, *(row.key + row.split for row in rows)], canvas.dpi)
        self._wide = _ALONE if len(rows) == 1 else _WIDE
        self._high = self._wide * min(1.0, max(p.shape[0] / p.shape[1] for p in self._pixels))
        self._columns = min(_COLUMNS, len(rows))
        if canvas.size is not None:
            self._columns = max(range(1, len(rows) + 1), key=lambda columns: canvas.zoom(self._size(columns)))
        self.size = self._size(self._columns)
        self.note = "framed: the strongest patch" if self._seen.patches else ""
        if self._seen.assumed and any(p.shape[0] != p.shape[1] for p in self._pixels):
            self.note += "; images taken as squashed to a square"

    def _size(self, columns: int) -> tuple[float, float]:
        lines = -(-len(self._rows) // columns)
        return columns * (self._wide + _GAP) - _GAP, lines * (self._high + _CAPTION)

    def draw(self, ax: Axes, bottom: float, scale: float, strongest: float) -> None:
        """Draw the images, line by line."""
        for place, (row, pixels) in enumerate(zip(self._rows, self._pixels, strict=True)):
            line, column = divmod(place, self._columns)
            left = column * (self._wide + _GAP)
            top = bottom + self.size[1] - line * (self._high + _CAPTION)
            zoom = min(self._wide / pixels.shape[1], self._high / pixels.shape[0])
            frame = Frame(ax, pixels, left, top, zoom * pixels.shape[1], zoom * pixels.shape[0], scale)
            frame.show(Box(0, 0, 1, 1), pixels)
            if self._seen.patches is not None:
                self._draw_patches(frame, row, self._seen.patches.grid, strongest)
            self._draw_caption(ax, row, left, top - frame.high, scale)

    def _draw_patches(self, frame: Frame, row: Row, shape: tuple[int, int], strongest: float) -> None:
        seen = self._seen.box(frame.pixels.shape[1], frame.pixels.shape[0])
        frame.veil(seen)
        n_rows, n_columns = shape
        activations = np.zeros(n_rows * n_columns, row.activations.dtype)
        activations[: len(row.activations)] = row.activations
        grid = activations.reshape(n_rows, n_columns)
        frame.show(seen, tints(grid, strongest))

        def box(r: int, c: int, rows: int, columns: int) -> Box:
            return seen.part(r / n_rows, c / n_columns, rows / n_rows, columns / n_columns)

        r, c = divmod(row.position, n_columns)
        frame.outline(box(r, c, r + 1, c + 1))
        rows, columns = np.nonzero(np.abs(grid) >= abs(row.strongest) / 4)
        frame.lens(box(rows.min(), columns.min(), rows.max() + 1, columns.max() + 1))

    def _draw_caption(self, ax: Axes, row: Row, left: float, bottom: float, scale: float) -> None:
        size, y = 9.0, bottom - 0.16
        value = number(row.strongest) + (f" · {row.split}" if row.split else "")
        room = self._wide - self.letters.width(value, size) - 0.1
        style: dict[str, Any] = {"va": "baseline", "fontsize": size * scale, "family": self.letters.families}
        ax.text(left, y, self.letters.clip(Path(row.key).stem, size, room, start=True), **style)
        ax.text(left + self._wide, y, self.letters.clean(value), ha="right", alpha=0.65, **style)


@dataclass(frozen=True)
class Frame:
    """Where an image stands in the Axes: its upper left corner and its size, in inches."""

    ax: Axes
    pixels: Array
    left: float
    top: float
    wide: float
    high: float
    scale: float

    def _extent(self, box: Box) -> tuple[float, float, float, float]:
        return (
            self.left + box.left * self.wide,
            self.left + box.right * self.wide,
            self.top - box.bottom * self.high,
            self.top - box.top * self.high,
        )

    def show(self, box: Box, values: Array, **style: Any) -> None:
        """Draw pixels or tints into a part of the image."""
        smooth = "antialiased" if values is self.pixels else "nearest"
        style = {"interpolation": smooth, "aspect": "equal", **style}
        self.ax.imshow(values, extent=self._extent(box), **style)

    def veil(self, seen: Box) -> None:
        """Make pale what the model did not see."""
        sides = Box(0, 0, seen.left, 1), Box(seen.right, 0, 1, 1), Box(0, 0, 1, seen.top), Box(0, seen.bottom, 1, 1)
        for hidden in sides:
            if hidden.right > hidden.left and hidden.bottom > hidden.top:
                self._rectangle(hidden, facecolor="white", alpha=0.6, edgecolor="none", zorder=0.5)

    def outline(self, box: Box, zorder: float = 1) -> None:
        """Frame a part, dark on light so that it is seen on any image."""
        for colour, width in (("white", 2.2), ("black", 1.0)):
            self._rectangle(box, fill=False, edgecolor=colour, linewidth=width * self.scale, zorder=zorder)

    def _rectangle(self, box: Box, **style: Any) -> None:
        left, right, low, high = self._extent(box)
        self.ax.add_patch(Rectangle((left, low), right - left, high - low, **style))

    def lens(self, box: Box) -> None:
        """Show a small part enlarged, without tint, in the lower corner that is further from it."""
        high, wide = self.pixels.shape[:2]
        reach = 0.65 * max((box.right - box.left) * wide, (box.bottom - box.top) * high)  # pixels to each side
        if reach > 0.25 * min(high, wide):
            return
        reach = max(reach, 0.06 * min(high, wide))
        x, y = (box.left + box.right) / 2 * wide, (box.top + box.bottom) / 2 * high
        a, b, c, d = (
            round(v) for v in (max(0, x - reach), min(wide, x + reach), max(0, y - reach), min(high, y + reach))
        )
        size = 0.4 * self.high
        across, down = size * (b - a) / (2 * reach) / self.wide, size * (d - c) / (2 * reach) / self.high
        left = 0.025 if x > wide / 2 else 0.975 - across
        place = Box(left, 0.975 - down, left + across, 0.975)
        self.show(place, self.pixels[c:d, a:b], interpolation="bicubic", zorder=1.5)
        self.outline(place, zorder=2)


def _read(acts: SetReader, key: str, images: str | os.PathLike[str] | None) -> Array:
    """An image as RGB, uint8 (height, width, 3), no larger than is seen."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise MissingDependencyError("drawing images needs pillow: `pip install 'saestore[plot]'`.") from error
    path = find_image(acts, key, images)
    try:
        with Image.open(path) as image:
            image.draft("RGB", (_MAX_PIXELS, _MAX_PIXELS))  # of a JPEG, decodes no more than that
            small = image.convert("RGB")
            small.thumbnail((_MAX_PIXELS, _MAX_PIXELS))
            return np.asarray(small)
    except (UnidentifiedImageError, OSError) as error:
        raise InvalidInputError(f"{path} cannot be read as an image: {error}") from error
