"""Images: where their files are, which part of an image a model saw, and drawing on one of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError, reached, require, shown
from saestore.files import damage, existing_folder, image_errors
from saestore.labels.patch_grid import Fit, Patches
from saestore.sparse_rows import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from saestore.query.reader import SetReader


_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
_MAX_PIXELS = 640  # of the longer side: more than a picture shows
# The assumption where the set does not record how images became squares.
_SQUASHED = {"resize": {"height": 1, "width": 1}, "crop": None}


def is_image(key: str) -> bool:
    """Whether a key is the path of an image."""
    return Path(key).suffix.lower() in _SUFFIXES


@dataclass(frozen=True)
class Box:
    """A rectangle in shares of an image, from its upper left corner."""

    left: float
    top: float
    right: float
    bottom: float

    def subbox(self, row: float, column: float, rows: float, columns: float) -> Box:
        """The part of this box from share `row` to `rows` of its height and `column` to `columns` of its width."""
        wide, high = self.right - self.left, self.bottom - self.top
        return Box(self.left + column * wide, self.top + row * high, self.left + columns * wide, self.top + rows * high)


@dataclass(frozen=True)
class ImageView:
    """Which part of its images a model saw, in which patches."""

    patches: Patches | None  # None where an image is a single sample
    assumed: bool  # True where the set does not record how its images were resized

    @classmethod
    def of(cls, acts: SetReader, fit: Fit | None) -> ImageView:
        """By `fit`, else by the set's attributes, else squashed."""
        source = acts.attributes.source
        if acts.item_index.item_size == 1:
            return cls(None, False)
        try:
            patches = Patches.of(acts.item_index, source, fit, acts.items)
        except InvalidInputError as error:
            message = f"{acts.path} cannot be drawn on its images: {error}"
            raise InvalidInputError(message, code="no-patch-grid") from error
        assumed = fit is None and not source.get("transform") and patches.transform == _SQUASHED
        return cls(patches, assumed)

    @classmethod
    def of_any(cls, acts: SetReader) -> ImageView:
        """By the set's attributes; without patches where it has no grid of them."""
        try:
            return cls.of(acts, None)
        except InvalidInputError:
            return cls(None, False)

    def box(self, width: int, height: int) -> Box:
        """The part of an image of `width` x `height` pixels that the model saw; larger than the image if padded."""
        if self.patches is None:
            return Box(0, 0, 1, 1)
        down, across = self.patches.edges(height, width)
        return Box(across[0] / width, down[0] / height, across[-1] / width, down[-1] / height)


@reached("the image")
def find_image(acts: SetReader, key: str, images: Any) -> Path:
    """Find the file of an image: below `images`, else where the build found it."""
    source = acts.attributes.source
    bases = []
    if images is not None:
        bases = [images_folder(images)]
    elif source.get("images"):
        bases = [Path(str(source["images"]))]
    elif source.get("kind") == "images":
        bases = [Path(str(source.get("path"))), Path(str(source.get("path"))).parent]
    if images is None and source.get("items"):
        bases.append(Path(str(source["items"])).parent)
    paths = [_inside(base, key) for base in bases or [Path()]]
    for path in paths:
        if path.is_file():
            return path
    message = f"The image {paths[0]} does not exist; pass the folder that {key!r} starts in as images=."
    raise NotFoundError(message, code="image-missing")


def images_folder(images: Any) -> Path:
    """The folder that was given as images=, if it is one."""
    if not isinstance(images, str | os.PathLike):
        message = f"images={shown(images)}: give the folder that the keys of the items start in."
        raise InvalidInputError(message, code="not-a-path")
    return existing_folder(images, "of images ", "folder-missing")


def _inside(folder: Path, key: str) -> Path:
    """The path of an image in a folder; a key that leads out of the folder, by ``..`` or a link, is refused."""
    path = folder / key
    try:
        inside = "\0" not in key and path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        inside = False
    if not inside:
        message = f"The key {key!r} leads out of the folder {folder}; images are read from that folder only."
        raise InvalidInputError(message, code="outside-images")
    return path


def is_turned(acts: SetReader) -> bool:
    """Whether the model saw the images of a set turned by their EXIF orientation."""
    return bool((acts.attributes.source.get("transform") or {}).get("exif", True))


def read_image(acts: SetReader, key: str, images: str | os.PathLike[str] | None) -> Array:
    """Read an image as the model saw it: RGB, uint8 (height, width, 3), at most 640 pixels on its longer side."""
    image_module, image_ops = (require(f"PIL.{name}", "plot", "drawing images") for name in ("Image", "ImageOps"))
    path = find_image(acts, key, images)
    kinds = image_errors()
    with damage(path, "cannot be read as an image", *kinds, code="unreadable-image"), image_module.open(path) as image:
        image.draft("RGB", (_MAX_PIXELS, _MAX_PIXELS))  # decodes no more than that of a JPEG
        small = (image_ops.exif_transpose(image) if is_turned(acts) else image).convert("RGB")
        small.thumbnail((_MAX_PIXELS, _MAX_PIXELS))
        return np.asarray(small)


@dataclass(frozen=True)
class Frame:
    """An image in an Axes whose unit is the inch: its upper left corner and its size, in inches."""

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

    def veil(self, visible: Box) -> None:
        """Make pale what the model did not see."""
        for side in (
            Box(0, 0, visible.left, 1),
            Box(visible.right, 0, 1, 1),
            Box(0, 0, 1, visible.top),
            Box(0, visible.bottom, 1, 1),
        ):
            if side.right > side.left and side.bottom > side.top:
                self._rectangle(side, facecolor="white", alpha=0.6, edgecolor="none", zorder=0.5)

    def outline(self, box: Box, zorder: float = 1) -> None:
        """Frame a part, dark on light so that it shows on any image."""
        for colour, width in (("white", 2.2), ("black", 1.0)):
            self._rectangle(box, fill=False, edgecolor=colour, linewidth=width * self.scale, zorder=zorder)

    def _rectangle(self, box: Box, **style: Any) -> None:
        from matplotlib.patches import Rectangle

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
        corner = Box(left, 0.975 - down, left + across, 0.975)
        self.show(corner, self.pixels[c:d, a:b], interpolation="bicubic", zorder=1.5)
        self.outline(corner, zorder=2)
