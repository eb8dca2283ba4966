"""What is done to an image before a model sees it, and the record of it that leads from a patch back to its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from saestore.errors import InvalidInputError

__all__ = ["ImageTransform"]


@dataclass(frozen=True)
class ImageTransform:
    """An image processor of transformers, and the grid of patches that its images are cut into.

    Attributes
    ----------
    processor
        Of transformers, on Pillow.
    record
        As the set's attribute ``source.transform`` has it: ``resize`` ({"shortest_edge": n}, {"height": h, "width": w}
        or None), ``crop`` ([height, width] from the middle, or None), ``size`` ([height, width] that the model sees),
        ``grid`` ([rows, columns] of patches), ``resample``, ``rescale``, ``mean``, ``std``.
    """

    processor: Any
    record: dict[str, Any]

    @classmethod
    def of(cls, processor: Any, patch_size: int, where: str) -> ImageTransform:
        """Read what a processor will do.

        Raises
        ------
        InvalidInputError
            If images of different shapes would not all come out in one size, cut into whole patches.
        """
        resize = _sizes(processor.size) if getattr(processor, "do_resize", False) else None
        crop = _sizes(processor.crop_size) if getattr(processor, "do_center_crop", False) else None
        final = crop or resize or {}
        if set(final) != {"height", "width"} or getattr(processor, "do_pad", False):
            raise InvalidInputError(
                f"the image processor of {where} ({type(processor).__name__}: resize {resize}, crop {crop}) does not "
                "make all images one size; its preprocessor_config.json needs a size with height and width, or a crop"
            )
        size = [final["height"], final["width"]]
        if any(n % patch_size for n in size):
            raise InvalidInputError(
                f"the image processor of {where} makes images of {size[0]} x {size[1]}, which are no whole patches of "
                f"{patch_size} x {patch_size}"
            )
        normalised = getattr(processor, "do_normalize", False)
        record = {
            "resize": resize,
            "crop": None if crop is None else [crop["height"], crop["width"]],
            "size": size,
            "grid": [n // patch_size for n in size],
            "resample": int(processor.resample) if resize else None,
            "rescale": float(processor.rescale_factor) if getattr(processor, "do_rescale", False) else None,
            "mean": [float(x) for x in processor.image_mean] if normalised else None,
            "std": [float(x) for x in processor.image_std] if normalised else None,
        }
        return cls(processor, record)

    @property
    def n_patches(self) -> int:
        """Patches of an image."""
        rows, columns = self.record["grid"]
        return int(rows * columns)

    def __call__(self, image: Any) -> torch.Tensor:
        """The model's input, float32 (3, height, width), of an RGB image of Pillow."""
        pixels = self.processor(images=image, return_tensors="np")["pixel_values"][0]
        return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))


def _sizes(size: Any) -> dict[str, int]:
    """Of transformers' size, what is said: ``shortest_edge``, or ``height`` and ``width``."""
    said = dict(size.items()) if hasattr(size, "items") else dict(size)
    return {key: int(value) for key, value in said.items() if value is not None}
