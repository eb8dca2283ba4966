"""Images on disk: found, looked at before anything is encoded, and read as RGB."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError
from saestore.files import nearby
from saestore.models.common import chosen, some
from saestore.tables import Items, as_items

__all__ = ["ImageFiles", "find_images", "read_image"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_ENDS = 1 << 14
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap width and height
_WHITE_16 = 65535
THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class ImageFiles:
    """The images of a dataset, in their order, each of them read once to its end.

    Attributes
    ----------
    paths
        Of every image.
    items
        Key (path below the folder, or as the table has it), columns ``width`` and ``height`` in pixels, as the image
        is to be looked at, and the table's own.
    digests
        uint8 (n, 16): of each file's name, size, and first and last 16 KiB.
    skipped
        Names of those that cannot be read, and why.
    """

    paths: list[Path]
    items: Items
    digests: np.ndarray
    skipped: dict[str, str]


def find_images(
    folder: str | os.PathLike[str],
    table: Any,
    *,
    skip_bad: bool,
    advance: Callable[[int], None],
    known: Sequence[str] = (),
) -> ImageFiles:
    """Find the images of a folder and look at each.

    Parameters
    ----------
    folder
        With images, or with folders of them: all of them, by name. Hidden files are not images.
    table
        A ``metadata.csv`` or the like: the images that its column ``image_path`` names, in its order.
    skip_bad
        Leave out what is no image that can be read, rather than refuse it.
    advance
        Called with the number of images that were looked at.
    known
        Keys that come first where no table says the order: images may come to a folder between those that are there.

    Raises
    ------
    NotFoundError
        If there is no such folder, no image in it, or an image of the table is missing.
    InvalidInputError
        If images cannot be read: names them.
    """
    root = Path(folder)
    if not root.is_dir():
        raise NotFoundError(f"no folder of images {root}; {nearby(root) if not root.exists() else 'that is a file'}")
    items = None if table is None else as_items(table)
    if items is None:
        found = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if _is_image(p.relative_to(root))}
        first = [key for key in known if key in found]
        keys = [*first, *sorted(found.keys() - set(first))]
        paths = [found[key] for key in keys]
    else:
        keys = items.key.tolist()
        paths = _named(keys, root, Path(table) if isinstance(table, str | os.PathLike) else None)
    if not paths:
        raise NotFoundError(f"{root} holds no images ({', '.join(_SUFFIXES)}); {nearby(root / 'image.jpg')}")
    return _looked_at(paths, keys, items, skip_bad=skip_bad, advance=advance)


def _is_image(relative: Path) -> bool:
    # A folder may be called so too, but Pillow will say of it what it is.
    return relative.suffix.lower() in _SUFFIXES and not any(part.startswith(".") for part in relative.parts)


def _named(keys: list[str], root: Path, table: Path | None) -> list[Path]:
    """Where the images of a table are: below the folder, or beside the table, which may itself name the folder."""
    bases = [root, *([table.parent] if table is not None else []), root.parent]
    paths: list[Path] = []
    missing: list[str] = []
    for key in keys:
        found = next((base / key for base in bases if (base / key).is_file()), None)
        if found is None:
            missing.append(key)
        else:
            paths.append(found)
    if missing:
        raise NotFoundError(
            f"{len(missing):,} of the {len(keys):,} images that the items name are not in {root}: {some(missing)}. "
            f"Looked below {', '.join(dict.fromkeys(str(base) for base in bases))}"
        )
    return paths


def _looked_at(
    paths: list[Path], keys: list[str], items: Items | None, *, skip_bad: bool, advance: Callable[[int], None]
) -> ImageFiles:
    sizes, digests = np.zeros((len(paths), 2), np.int64), np.zeros((len(paths), 16), np.uint8)
    bad: dict[int, str] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for i, (size, digest, why) in enumerate(pool.map(_look, paths, keys)):
            sizes[i], digests[i] = size, np.frombuffer(digest, np.uint8)
            if why is not None:
                bad[i] = why
            advance(1)
    reasons = {keys[i]: why for i, why in bad.items()}
    if bad and (not skip_bad or len(bad) == len(paths)):
        raise InvalidInputError(
            f"{len(bad):,} of {len(paths):,} images cannot be read: "
            f"{some([f'{name} ({why})' for name, why in reasons.items()])}. Nothing was written. Repair or remove "
            "them, or leave them out with --skip-bad (skip_bad=True)"
        )
    good = np.array([i not in bad for i in range(len(paths))])
    if items is None:
        items = Items(np.array(keys, np.dtypes.StringDType()), {}, {})
    kept = chosen(items, good, width=sizes[:, 0], height=sizes[:, 1])
    return ImageFiles([p for p, ok in zip(paths, good, strict=True) if ok], kept, digests[good], reasons)


def _look(path: Path, key: str) -> tuple[tuple[int, int], bytes, str | None]:
    """Size as looked at, digest of name and bytes, and why the image cannot be read, or None."""
    try:
        with path.open("rb") as file:
            n_bytes = file.seek(0, os.SEEK_END)
            file.seek(0)
            sha = hashlib.sha256(f"{key}\n{n_bytes}\n".encode() + file.read(_ENDS))
            file.seek(max(0, n_bytes - _ENDS))
            sha.update(file.read(_ENDS))
        size = check_image(path)
    except InvalidInputError as error:
        return (0, 0), bytes(16), str(error).partition(": ")[2]
    except OSError as error:
        return (0, 0), bytes(16), str(error.strerror)
    return size, sha.digest()[:16], None


def read_image(path: Path) -> Any:
    """Read an image as RGB of 8 bits, turned as its EXIF orientation says.

    Grey, palette and CMYK images are converted, 16 bits scaled to 8; what is transparent is put on white; of several
    frames the first counts.

    Raises
    ------
    InvalidInputError
        If it cannot be decoded.
    """
    from PIL import ImageOps

    with _opened(path) as image:
        return _rgb(ImageOps.exif_transpose(image))


def check_image(path: Path) -> tuple[int, int]:
    """Decode an image to its end, of a JPEG an eighth of its size; returns width and height as it is to be looked at.

    Raises
    ------
    InvalidInputError
        If it cannot be decoded.
    """
    with _opened(path) as image:
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
        if image.mode == "RGB":
            image.draft("RGB", (width // 8, height // 8))
            image.load()
        else:
            _rgb(image)
    return (height, width) if turned else (width, height)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    # What Pillow's plugins raise on damage; SyntaxError among them.
    except (
        OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, MemoryError,
        Image.DecompressionBombError,
    ) as error:  # fmt: skip
        raise InvalidInputError(f"{path}: {_reason(error)}") from error


def _rgb(image: Any) -> Any:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey, in whatever byte order; Pillow itself would clip them to 8
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > _WHITE_16:
            raise ValueError(f"its values go from {grey.min()} to {grey.max()}, and only 8 and 16 bits have a white")
        return Image.fromarray(np.round(grey / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its values are floating-point numbers, which have no white")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return image.convert("RGB")


def _reason(error: BaseException) -> str:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return "it is no image that Pillow knows" if reason.startswith("cannot identify") else reason
