"""Where an image lies, and which part of it a model saw: what leads from a patch back to its pixels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saestore.errors import InvalidInputError, NotFoundError
from saestore.labels.patch_grid import Fit, Patches

if TYPE_CHECKING:
    from saestore.query.reader import SetReader

# What is assumed where nothing says how images became squares.
_SQUASHED = {"resize": {"height": 1, "width": 1}, "crop": None}


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
class ImageView:
    """Which part of its images a model saw, in which patches.

    Attributes
    ----------
    patches
        None where an image is a single sample.
    assumed
        True where nothing says what was done to the images.
    """

    patches: Patches | None
    assumed: bool

    @classmethod
    def of(cls, acts: SetReader, fit: Fit | None) -> ImageView:
        """As `fit` says it, else the set, else squashed."""
        source = acts.attributes.source
        if acts.item_index.item_size == 1:
            return cls(None, False)
        try:
            patches = Patches.of(acts.item_index, source, fit)
        except InvalidInputError as error:
            raise InvalidInputError(f"{acts.path} cannot be drawn on its images: {error}") from error
        assumed = fit is None and not source.get("transform") and patches.transform == _SQUASHED
        return cls(patches, assumed)

    def box(self, width: int, height: int) -> Box:
        """Which part of an image of `width` x `height` pixels the model saw; beyond its edges where it was padded."""
        if self.patches is None:
            return Box(0, 0, 1, 1)
        down, across = self.patches.edges(height, width)
        return Box(across[0] / width, down[0] / height, across[-1] / width, down[-1] / height)


def find_image(acts: SetReader, key: str, images: str | os.PathLike[str] | None) -> Path:
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
    elif source.get("images"):
        bases = [Path(str(source["images"]))]
    elif source.get("kind") == "images":
        bases = [Path(str(source.get("path"))), Path(str(source.get("path"))).parent]
    if images is None and source.get("items"):
        bases.append(Path(str(source["items"])).parent)
    paths = [base / key for base in bases or [Path()]]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise NotFoundError(f"The image {paths[0]} is not there; give the folder that {key!r} starts in as images=.")
    return found
