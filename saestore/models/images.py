"""Images on disk: found, checked before anything is encoded, read as RGB, and turned into the model's input."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from saestore.errors import InvalidInputError, NotFoundError, UnreachableError, raise_unreachable
from saestore.files import below, existing_folder, image_errors, nearby
from saestore.models.request import select_items
from saestore.sae.hub import one_line
from saestore.sparse_rows import Array
from saestore.tables.items import Items, as_items
from saestore.tables.label_matrix import listed

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_ENDS = 1 << 14
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap width and height
_WHITE_16 = 65535
_NAFLEX_INPUTS = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class ImageFiles:
    """The images of a dataset, in their order; each was decoded once."""

    paths: list[Path]  # path of every image
    # Key (path below the folder, or as in the table), columns ``width`` and ``height`` in pixels after the EXIF
    # orientation, and the table's columns
    items: Items
    digests: np.ndarray  # uint8 (n, 16): digest of each file's name, size, and first and last 16 KiB
    skipped: dict[str, str]  # names of the images that cannot be read, with the reason


def find_images(
    folder: str | os.PathLike[str], table: Any, *,
    skip_bad: bool, advance: Callable[[int], None], exif: bool = True, known: Sequence[str] = (),
) -> ImageFiles:  # fmt: skip
    """Find the images of a folder (its hidden files apart) and decode each once.

    `table` is a ``metadata.csv`` or the like with the images in its column ``image_path``; without one all images
    count, by name, those with `known` keys first: new ones may sort between images that a store has. `skip_bad` leaves
    out images that cannot be read instead of refusing them, `advance` receives the number of images that were decoded,
    and `exif` is whether images are turned by their EXIF orientation.
    """
    root = existing_folder(folder, "of images ", "folder-missing")
    if table is None:
        by_key = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if _is_image(p.relative_to(root))}
        first = [key for key in known if key in by_key]
        keys = [*first, *sorted(by_key.keys() - set(first))]
        paths = [by_key[key] for key in keys]
        items = Items(np.array(keys, np.dtypes.StringDType()), {}, {})
    else:
        items = as_items(table)
        paths = _named(items.key.tolist(), root, Path(table) if isinstance(table, str | os.PathLike) else None)
    if not paths:
        raise NotFoundError(
            f"{root} contains no images ({', '.join(_SUFFIXES)}); {nearby(root / 'image.jpg')}", code="no-images"
        )
    return _decoded(paths, items, exif=exif, skip_bad=skip_bad, advance=advance)


def _is_image(relative: Path) -> bool:
    # A folder may have such a name, too; Pillow then reports that it is one.
    return relative.suffix.lower() in _SUFFIXES and not any(part.startswith(".") for part in relative.parts)


def _named(keys: list[str], root: Path, table: Path | None) -> list[Path]:
    """Where the images of a table are: below the folder, or beside the table, which may itself name the folder."""
    bases = [root, *([table.parent] if table is not None else []), root.parent]
    paths = [next((path for path in below(key, *bases) if path.is_file()), None) for key in keys]
    missing = [key for key, path in zip(keys, paths, strict=True) if path is None]
    if missing:
        raise NotFoundError(
            f"{len(missing):,} of the {len(keys):,} images of the items are not in {root}: {listed(missing, 5)}. "
            f"Looked below {', '.join(dict.fromkeys(str(base) for base in bases))}",
            code="image-missing",
        )
    return [path for path in paths if path is not None]


def _decoded(
    paths: list[Path], items: Items, *, exif: bool, skip_bad: bool, advance: Callable[[int], None]
) -> ImageFiles:
    keys, looks = items.key.tolist(), []
    with ThreadPoolExecutor(THREADS) as pool:
        for look in pool.map(partial(_look, exif=exif), paths, keys):
            looks.append(look)
            advance(1)
    reasons = {key: why for key, (*_, why) in zip(keys, looks, strict=True) if why is not None}
    if reasons and (not skip_bad or len(reasons) == len(paths)):
        raise InvalidInputError(
            f"{len(reasons):,} of {len(paths):,} images cannot be read: "
            f"{listed([f'{name} ({reason})' for name, reason in reasons.items()], 5)}. Nothing was written. Repair or "
            "remove them, or leave them out with --skip-bad (skip_bad=True)",
            code="unreadable-image",
        )
    good = np.array([why is None for *_, why in looks])
    widths, heights = np.array([size for size, *_ in looks], np.int64).T
    digests = np.frombuffer(b"".join(digest for _, digest, _ in looks), np.uint8).reshape(-1, 16)
    kept = select_items(items, good, width=widths, height=heights)
    return ImageFiles([path for path, ok in zip(paths, good, strict=True) if ok], kept, digests[good], reasons)


def _look(path: Path, key: str, *, exif: bool) -> tuple[tuple[int, int], bytes, str | None]:
    """Width and height, digest of name and bytes, and the reason why the image cannot be read, or None."""
    try:
        with path.open("rb") as file:
            n_bytes = file.seek(0, os.SEEK_END)
            file.seek(0)
            sha = hashlib.sha256(f"{key}\n{n_bytes}\n".encode() + file.read(_ENDS))
            file.seek(max(0, n_bytes - _ENDS))
            sha.update(file.read(_ENDS))
        size = check_image(path, exif=exif)
    except InvalidInputError as error:
        return (0, 0), bytes(16), str(error).removeprefix(f"{path}: ")
    except UnreachableError:
        raise
    except OSError as error:
        raise_unreachable(str(path), error)
        return (0, 0), bytes(16), str(error.strerror)
    return size, sha.digest()[:16], None


def read_image(path: Path, *, exif: bool = True, transparency: str = "white") -> Any:
    """Read an image as RGB of 8 bits, turned by its EXIF orientation if `exif`.

    Grey, palette and CMYK images are converted, 16 bits scaled to 8; only the first of several frames is read.
    Transparent pixels are put on ``white`` or ``black``, or show the colours that are ``stored`` there.
    """
    from PIL import ImageOps

    with _opened(path) as image:
        return _rgb(ImageOps.exif_transpose(image) if exif else image, transparency)


def check_image(path: Path, *, exif: bool = True) -> tuple[int, int]:
    """Decode an image (a JPEG at an eighth of its size); returns width and height, with `exif` as it is turned."""
    with _opened(path) as image:
        width, height = image.size
        turned = exif and image.getexif().get(_ORIENTATION, 1) in _TURNED
        if image.mode == "RGB":
            image.draft("RGB", (width // 8, height // 8))
            image.load()
        else:
            _rgb(image, "stored")
    return (height, width) if turned else (width, height)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except image_errors() as error:
        raise_unreachable(str(path), error)
        raise InvalidInputError(f"{path}: {_reason(error)}", code="unreadable-image") from error


def _rgb(image: Any, transparency: str) -> Any:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey, in any byte order; Pillow itself would clip them to 8
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > _WHITE_16:
            raise ValueError(f"its values go from {grey.min()} to {grey.max()}, and only 8 and 16 bits have a white")
        return Image.fromarray(np.round(grey / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its values are floating-point numbers, which have no white")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        if transparency == "stored":
            return clear.convert("RGB")
        return Image.alpha_composite(Image.new("RGBA", clear.size, transparency), clear).convert("RGB")
    return image.convert("RGB")


def _reason(error: BaseException) -> str:
    reason = one_line(error) or type(error).__name__
    return "Pillow knows no such image format" if reason.startswith("cannot identify") else reason


@dataclass(frozen=True)
class ImageTransform:
    """An image processor of transformers, and the grid of patches of its images."""

    processor: Any  # of transformers, on Pillow
    # The set's attribute ``source.transform``: ``resize`` ({"shortest_edge": n}, {"height": h, "width": w} or None),
    # ``crop`` ([height, width] from the middle, or None), ``size`` ([height, width] that the model sees), ``grid``
    # ([rows, columns] of patches), ``resample``, ``rescale``, ``mean``, ``std``, ``exif``, ``transparency``
    record: dict[str, Any]

    @classmethod
    def of(cls, processor: Any, patch_size: int, where: str, *, exif: bool = True, transparency: str = "white") -> Self:
        """Read the settings of a processor, which has to make all images one size of whole patches."""
        resize = _sizes(processor.size) if getattr(processor, "do_resize", False) else None
        crop = _sizes(processor.crop_size) if getattr(processor, "do_center_crop", False) else None
        final = crop or resize or {}
        if set(final) != {"height", "width"} or getattr(processor, "do_pad", False):
            raise InvalidInputError(
                f"the image processor of {where} ({type(processor).__name__}: resize {resize}, crop {crop}) does not "
                "make all images one size; its preprocessor_config.json needs a size with height and width, or a crop",
                code="image-size",
            )
        size = [final["height"], final["width"]]
        if any(n % patch_size for n in size):
            raise InvalidInputError(
                f"the image processor of {where} makes images of {size[0]} x {size[1]}, which are not whole patches of "
                f"{patch_size} x {patch_size}",
                code="image-size",
            )
        record = {
            "resize": resize,
            "crop": None if crop is None else [crop["height"], crop["width"]],
            "size": size,
            "grid": [n // patch_size for n in size],
            **_colours_of(processor),
            "exif": exif,
            "transparency": transparency,
        }
        return cls(processor, record)

    def grids(self, widths: Sequence[int], heights: Sequence[int]) -> Array:  # noqa: ARG002
        """Rows and columns of patches of images, int64 (n, 2)."""
        return np.tile(np.array(self.record["grid"], np.int64), (len(widths), 1))

    def __call__(self, image: Any) -> torch.Tensor:
        """The model's input, float32 (3, height, width), for an RGB image of Pillow."""
        pixels = self.processor(images=image, return_tensors="np")["pixel_values"][0]
        return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))

    def inputs(self, image: Any) -> dict[str, torch.Tensor]:
        """The model's inputs by name, for an RGB image of Pillow."""
        return {"pixel_values": self(image)}

    def probe(self) -> dict[str, torch.Tensor]:
        """Inputs of a run that shows whether the model has a hook."""
        height, width = self.record["size"]
        return {"pixel_values": torch.linspace(-1, 1, 3 * height * width).reshape(1, 3, height, width)}


@dataclass(frozen=True)
class NaflexTransform(ImageTransform):
    """The image processor of SigLIP 2 NaFlex: images keep their proportions, each with a grid of patches of its own.

    In its record ``size`` and ``grid`` are None.
    """

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
        record = {"resize": resize, "crop": None, "size": None, "grid": None, **_colours_of(processor)}
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
        return {name: torch.from_numpy(np.ascontiguousarray(made[name][0])) for name in _NAFLEX_INPUTS}

    def probe(self) -> dict[str, torch.Tensor]:
        """Inputs of a run that shows whether the model has a hook."""
        values = torch.linspace(-1, 1, 4 * 3 * self.record["resize"]["patch"] ** 2).reshape(1, 4, -1)
        return dict(
            zip(_NAFLEX_INPUTS, (values, torch.ones(1, 4, dtype=torch.int32), torch.tensor([[2, 2]])), strict=True)
        )


def _colours_of(processor: Any) -> dict[str, Any]:
    """How a processor makes numbers of pixels: ``resample``, ``rescale``, ``mean`` and ``std``."""
    normalised = getattr(processor, "do_normalize", False)
    return {
        "resample": int(processor.resample) if getattr(processor, "do_resize", False) else None,
        "rescale": float(processor.rescale_factor) if getattr(processor, "do_rescale", False) else None,
        "mean": [float(x) for x in processor.image_mean] if normalised else None,
        "std": [float(x) for x in processor.image_std] if normalised else None,
    }


def _sizes(size: Any) -> dict[str, int]:
    """The values that a size of transformers sets: ``shortest_edge``, or ``height`` and ``width``."""
    values = dict(size.items()) if hasattr(size, "items") else dict(size)
    return {key: int(value) for key, value in values.items() if value is not None}
