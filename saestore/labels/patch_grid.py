"""The pixels of each patch of an image, as far as a set records how its images were prepared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from saestore.errors import InvalidInputError, check_choice
from saestore.query.set_table import SetTable
from saestore.sparse_rows import Array
from saestore.tables.item_index import ItemIndex

Fit = Literal["squash", "crop"]
GRID_COLUMNS = ("grid_rows", "grid_columns")  # of items, where images have grids of their own

# In the words of the record that a build from images keeps.
_FITS: dict[str, dict[str, Any]] = {
    "squash": {"resize": {"height": 1, "width": 1}, "crop": None},
    "crop": {"resize": {"shortest_edge": 1}, "crop": [1, 1]},
}
# Embeddings under these names were made of images whose middle was cut out.
_CROPPED = ("CLIP_SAE_patch_embeddings_", "CLIP_SAE_cls_embeddings_")


@dataclass(frozen=True)
class Patches:
    """A grid of patches over the part of an image that a model saw."""

    # ``resize``: ``{"shortest_edge": n}``, ``{"height": h, "width": w}`` or None; ``crop``: [height, width] from the
    # middle, or None.
    transform: Mapping[str, Any]
    grid: tuple[int, int]  # rows and columns
    grids: Array | None = None  # (n_items, 2), where each image has its own: `at` gives it

    @classmethod
    def of(cls, index: ItemIndex, source: Mapping[str, Any], fit: Fit | None, items: SetTable | None = None) -> Patches:
        """From `fit`, else the set's attribute ``source``, else as if images had been squashed to squares."""
        if fit is not None:
            check_choice("fit", fit, _FITS)
        said = source.get("transform")
        said = said if isinstance(said, Mapping) else {}
        if fit is None and not said and Path(str(source.get("path", ""))).name.startswith(_CROPPED):
            fit = "crop"
        if said and said.get("grid") is None and items is not None and set(GRID_COLUMNS) <= set(items.names()):
            grids = np.stack([items.column(name) for name in GRID_COLUMNS], axis=1)
            return cls(said if fit is None else _FITS[fit], (1, 1), grids)
        size = index.item_size or 0
        side = math.isqrt(size)
        rows, columns = said.get("grid") or (side, side)
        if rows * columns != size or size < 2:
            raise InvalidInputError(
                f"the items have {size or 'different numbers of'} samples each, which are not a grid of patches; "
                "masks need one.",
                code="no-patch-grid",
            )
        return cls(said if said and fit is None else _FITS[fit or "squash"], (int(rows), int(columns)))

    def at(self, item: int) -> Patches:
        """The patches of one image."""
        return self if self.grids is None else replace(self, grid=tuple(self.grids[item].tolist()), grids=None)

    def edges(self, height: int, width: int) -> tuple[Array, Array]:
        """Where rows and columns of patches begin and end, in pixels; outside of the image where it was padded."""
        resize, crop = self.transform.get("resize") or {}, self.transform.get("crop")
        if "shortest_edge" in resize:
            zoom = resize["shortest_edge"] / min(height, width)
            high, wide = height * zoom, width * zoom
        else:
            high, wide = resize.get("height", height), resize.get("width", width)
        down, across = (1.0, 1.0) if crop is None else (crop[0] / high, crop[1] / wide)
        rows, columns = self.grid
        return (
            height * np.linspace(0.5 - down / 2, 0.5 + down / 2, rows + 1),
            width * np.linspace(0.5 - across / 2, 0.5 + across / 2, columns + 1),
        )

    def covered(self, mask: Array) -> Array:
        """Share of each patch that a mask in the image's proportions covers, float64 (rows, columns)."""
        height, width = mask.shape
        down, across = self.edges(height, width)
        # The sum over all pixels above and left of a place; between pixels it is bilinear: interpolation is exact.
        sums = np.zeros((height + 1, width + 1))
        np.cumsum(np.cumsum(mask, axis=0), axis=1, out=sums[1:, 1:])
        corners = _between(_between(sums, np.clip(down, 0, height)).T, np.clip(across, 0, width)).T
        inside = np.diff(np.diff(corners, axis=0), axis=1)
        shares: Array = inside / (np.diff(down)[:, None] * np.diff(across))
        return np.round(shares, 9)  # a quarter is a quarter, whatever the sums rounded


def _between(values: Array, places: Array) -> Array:
    """Rows at fractional places, by linear interpolation."""
    low = np.minimum(places.astype(np.int64), len(values) - 2)
    share = (places - low)[:, None]
    found: Array = values[low] * (1 - share) + values[low + 1] * share
    return found
