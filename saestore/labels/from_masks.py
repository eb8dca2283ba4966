"""Labels of patches from image masks: the share of each patch that a mask covers."""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from saestore.errors import InvalidInputError, check_choice, check_path, require, shown
from saestore.files import damage, existing_folder, image_errors
from saestore.format import KEY
from saestore.labels.as_labels import check_names
from saestore.labels.item_keys import OnUnmatched, check_on_unmatched, first_of, match_keys, unmatched
from saestore.labels.patch_grid import Fit, Patches
from saestore.query.set_table import SetTable
from saestore.sparse_rows import Array
from saestore.tables.item_index import ItemIndex
from saestore.tables.label_matrix import LabelMatrix, position_of

THRESHOLD = 0.25
_SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
# Of these the values around an edge are not those that were drawn: "not 0" would be far more than the mask.
_LOSSY = (".jpg", ".jpeg")


@dataclass(frozen=True)
class MaskOptions:
    """How masks become labels; see `from_masks`."""

    concept: str | None = None
    threshold: float = THRESHOLD
    fit: Fit | None = None
    within: bool | Sequence[str] = False
    missing: Literal["error", "negative"] = "error"
    on_unmatched: OnUnmatched = "error"


def from_masks(
    folder: str | os.PathLike[str],
    options: MaskOptions,
    *,
    items: SetTable,
    index: ItemIndex,
    source: Mapping[str, Any],
    progress: Callable[[str], None] | None = None,
) -> LabelMatrix:
    """Labels of patches from a folder of masks, see `Concepts.add_masks`. Memory: 8 bytes for each such patch."""
    _check_options(options)
    grid = Patches.of(index, source, options.fit, items)
    folders, starts = _folders(check_path("folder", folder), options), index.pointers()
    within = _within(items, options)
    rows: dict[str, list[Array]] = {name: [] for name in [*(n for n in folders if n), *within]}
    check_names(list(rows))
    for concept, place in folders.items():
        for item, path in _files(place, items, index.n_items, options):
            if progress is not None:
                progress(str(path))
            patches = np.flatnonzero(grid.at(item).covered(read_mask(path)) > options.threshold) + starts[item]
            shown = [name for name, has_concept in within.items() if has_concept[item]]
            for name in [*shown, *([concept] if concept else [])]:
                rows[name].append(patches)
    joined = {name: np.concatenate([np.empty(0, np.int64), *parts]) for name, parts in rows.items()}
    return LabelMatrix.of_rows(joined, int(starts[-1]), "sample")


def read_mask(path: Path) -> Array:
    """Where an image is neither black, nor index 0, nor transparent: bool (height, width)."""
    Image = require("PIL.Image", "plot", "reading masks")
    with damage(path, "is not a readable image", *image_errors(), code="unreadable-image"), Image.open(path) as image:
        if image.mode in ("RGBA", "LA", "PA"):
            alpha = np.asarray(image.getchannel("A")) > 0
            return _any_channel(np.asarray(image.convert("RGB"))) & alpha
        return _any_channel(np.asarray(image))


def _any_channel(pixels: Array) -> Array:
    return np.asarray(pixels > 0 if pixels.ndim == 2 else (pixels > 0).any(axis=2))


def _check_options(options: MaskOptions) -> None:
    threshold: Any = options.threshold
    if not isinstance(threshold, numbers.Real) or not 0 <= float(threshold) < 1:
        message = f"threshold={shown(threshold)}: use a share of the patch, 0 <= threshold < 1."
        raise InvalidInputError(message, code="invalid-threshold")
    check_choice("missing", options.missing, ("error", "negative"))
    check_on_unmatched(options.on_unmatched)


def _within(items: SetTable, options: MaskOptions) -> dict[str, Array]:
    """Concepts of items that masks locate."""
    if isinstance(options.within, str):
        message = f"within={options.within!r}: give True, or a list of concepts of items."
        raise InvalidInputError(message, code="invalid-names")
    if not options.within:
        return {}
    names = items.concept_names if options.within is True else list(options.within)
    if not names:
        raise InvalidInputError("the items have no concepts that masks could locate.", code="no-concept")
    for name in names:
        position_of(name, items.concept_names, "concept of items")
    return {name: np.ma.filled(items.column(name), False) for name in names}


def _folders(folder: Path, options: MaskOptions) -> dict[str, Path]:
    """Folders of masks by concept; one of no concept has the key ""."""
    existing_folder(folder, "of masks ", "no-folder")
    if options.concept is not None or options.within:
        return {options.concept or "": folder}
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    if any(path.suffix.lower() in (*_SUFFIXES, *_LOSSY) for path in folder.iterdir() if path.is_file()):
        raise InvalidInputError(
            f"{folder} holds masks themselves: name what they show with --concept NAME (concept=), or use them for the "
            "labels of items with --within-concepts (within=True).",
            code="unnamed-masks",
        )
    if not inside:
        message = f"{folder} has no folder of masks: one for each concept, {folder}/<concept>/<item>.png."
        raise InvalidInputError(message, code="no-mask")
    return {path.name: path for path in inside}


def _files(folder: Path, items: SetTable, n_items: int, options: MaskOptions) -> Iterator[tuple[int, Path]]:
    """The mask of every item, in the order of the items."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    paths = [path for path in found if path.suffix.lower() in _SUFFIXES]
    lossy = [path for path in found if path.suffix.lower() in _LOSSY]
    if lossy:
        message = f"{lossy[0]} is a JPEG, in which edges are blurred; give masks as PNG."
        raise InvalidInputError(message, code="lossy-mask")
    if not paths:
        raise InvalidInputError(f"{folder} holds no mask ({', '.join(_SUFFIXES)}).", code="no-mask")
    if KEY not in items.names():
        message = "the items of the set have no keys to match masks to; build it with --items metadata.csv."
        raise InvalidInputError(message, code="no-keys")
    stored = [_without_suffix(key) for key in items.column(KEY).tolist()]
    given = [_without_suffix(path.relative_to(folder).as_posix()) for path in paths]
    item_of = match_keys(given, stored, str(folder))
    if options.on_unmatched == "error":
        strangers = [path.name for path, item in zip(paths, item_of, strict=True) if item is None]
        unmatched(strangers, "mask", str(items.column(KEY)[0]), str(folder))
    chosen = {item: path for path, item in zip(paths, item_of, strict=True) if item is not None}
    without = [items.column(KEY)[item] for item in range(n_items) if item not in chosen]
    if without and options.missing == "error":
        raise InvalidInputError(
            f"{folder} has no mask of {len(without):,} of {n_items:,} items: {first_of(without)}. Add them, or "
            "give such items negative labels with --missing negative (missing='negative').",
            code="missing-masks",
        )
    return iter(sorted(chosen.items()))


def _without_suffix(key: str) -> str:
    path = PurePosixPath(key.replace("\\", "/"))
    return path.with_suffix("").as_posix() if path.name else key
