"""Where an image lies, and which part of it a model saw: what leads from a patch back to its pixels."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saestore.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from saestore.activations import ActivationSet

# What `fit` means, in the words of the record that a build from images keeps.
_FITS: dict[str, dict[str, Any]] = {
    "squash": {"resize": {"height": 1, "width": 1}, "crop": None},
    "crop": {"resize": {"shortest_edge": 1}, "crop": [1, 1]},
}
# Embeddings under these names were made of images whose middle was cut out.
_CROPPED = ("CLIP_SAE_patch_embeddings_", "CLIP_SAE_cls_embeddings_")


@dataclass(frozen=True)
class Box:
    """A rectangle in shares of an image, from its upper left corner."""

    left: float
    top: float
    right: float
    bottom: float

    def part(self, row: float, column: float, rows: float, columns: float) -> Box:
        """Where the shares `row` to `rows` down and `column` to `columns` across this box lie in the image."""
        wide, high = self.right - self.left, self.bottom - self.top
        return Box(self.left + column * wide, self.top + row * high, self.left + columns * wide, self.top + rows * high)


@dataclass(frozen=True)
class Seen:
    """What was done to images, and the patches that they were cut into.

    Attributes
    ----------
    transform
        ``resize``: ``{"shortest_edge": n}``, ``{"height": h, "width": w}`` or None; ``crop``: [height, width] from the
        middle, or None.
    grid
        Rows and columns of patches.
    assumed
        True where nothing says what was done.
    """

    transform: Mapping[str, Any]
    grid: tuple[int, int]
    assumed: bool

    @classmethod
    def of(cls, acts: ActivationSet, fit: str | None) -> Seen:
        """As `fit` says it, else the set, else squashed."""
        source = acts.attributes.source
        said = source.get("transform")
        said = said if isinstance(said, Mapping) else {}
        if fit is None and not said and Path(str(source.get("path", ""))).name.startswith(_CROPPED):
            fit = "crop"
        assumed = fit is None and not said
        return cls(_FITS[fit or "squash"] if fit or assumed else said, _grid(acts, said), assumed)

    def box(self, width: int, height: int) -> Box:
        """Which part of an image of `width` x `height` pixels the model saw; beyond its edges where it was padded."""
        resize, crop = self.transform.get("resize") or {}, self.transform.get("crop")
        if "shortest_edge" in resize:
            zoom = resize["shortest_edge"] / min(width, height)
            wide, high = width * zoom, height * zoom
        else:
            wide, high = resize.get("width", width), resize.get("height", height)
        if crop is None:
            return Box(0, 0, 1, 1)
        x, y = 0.5 * crop[1] / wide, 0.5 * crop[0] / high
        return Box(0.5 - x, 0.5 - y, 0.5 + x, 0.5 + y)


def _grid(acts: ActivationSet, said: Mapping[str, Any]) -> tuple[int, int]:
    size = acts.item_index.item_size or 0
    rows, columns = said.get("grid") or (math.isqrt(size), math.isqrt(size))
    if size == 1:
        return 1, 1
    if not size or rows * columns != size:
        raise InvalidInputError(
            f"The items of {acts.path} have {size or 'different numbers of'} samples each, which make no square grid "
            "of patches to draw."
        )
    return int(rows), int(columns)


def find_image(acts: ActivationSet, key: str, images: str | os.PathLike[str] | None) -> Path:
    """The file of an image: below `images`, else where the build found it.

    Raises
    ------
    NotFoundError
        It is not there; the message names the file and `images`.
    """
    source = acts.attributes.source
    bases = []
    if images is not None:
        bases = [Path(images)]
    elif source.get("kind") == "images":
        bases = [Path(str(source.get("path"))), Path(str(source.get("path"))).parent]
    if images is None and source.get("items"):
        bases.append(Path(str(source["items"])).parent)
    paths = [base / key for base in bases or [Path()]]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise NotFoundError(f"The image {paths[0]} is not there; give the folder that {key!r} starts in as images=.")
    return found
