"""SigLIP 2 NaFlex: images keep their proportions, so that each has a grid of patches of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from saestore.errors import InvalidInputError
from saestore.models.images import ImageTransform, colours_of
from saestore.sparse_rows import Array

_INPUTS = ("pixel_values", "pixel_attention_mask", "spatial_shapes")


@dataclass(frozen=True)
class NaflexTransform(ImageTransform):
    """The image processor of SigLIP 2 NaFlex; in its record ``size`` and ``grid`` are None."""

    @classmethod
    def of(cls, processor: Any, patch_size: int, where: str, *, exif: bool = True, transparency: str = "white") -> Self:
        """Read the settings of a processor, which has to be of such a model, with patches of its size."""
        most, own = (getattr(processor, name, None) for name in ("max_num_patches", "patch_size"))
        if most is None or own != patch_size or not processor.do_resize:
            raise InvalidInputError(
                f"{where} takes images in patches of {patch_size} x {patch_size}, and its image processor "
                f"({type(processor).__name__}) makes at most {most} patches of {own} x {own}, with "
                f"do_resize={processor.do_resize}; correct its preprocessor_config.json",
                code="image-size",
            )
        resize = {"max_patches": int(most), "patch": int(own)}
        record = {"resize": resize, "crop": None, "size": None, "grid": None, **colours_of(processor)}
        return cls(processor, {**record, "exif": exif, "transparency": transparency})

    def grids(self, widths: Sequence[int], heights: Sequence[int]) -> Array:
        """Rows and columns of patches of images, int64 (n, 2), by the rule of transformers."""
        patch, most = (self.record["resize"][name] for name in ("patch", "max_patches"))
        size_of = sys.modules[type(self.processor).__module__].get_image_size_for_max_num_patches
        sizes: Array = np.array([size_of(*each, patch, most) for each in zip(heights, widths, strict=True)], np.int64)
        return np.asarray(sizes.reshape(-1, 2) // patch)

    def inputs(self, image: Any) -> dict[str, torch.Tensor]:
        """The model's inputs for an RGB image of Pillow: patches with padding, mask, and grid."""
        made = self.processor(images=image, return_tensors="np")
        return {name: torch.from_numpy(np.ascontiguousarray(made[name][0])) for name in _INPUTS}

    def probe(self) -> dict[str, torch.Tensor]:
        """Inputs of a run that shows whether the model has a hook."""
        values = torch.linspace(-1, 1, 4 * 3 * self.record["resize"]["patch"] ** 2).reshape(1, 4, -1)
        return dict(zip(_INPUTS, (values, torch.ones(1, 4, dtype=torch.int32), torch.tensor([[2, 2]])), strict=True))
