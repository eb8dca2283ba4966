"""Draw the images on which a feature is strongest, with its activation laid over their patches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import saestore

Array = np.ndarray[Any, Any]

ROWS, COLUMNS = 2, 4
INK, QUIET, HEAT = "#1a1a1a", "#6b6b6b", "#e6007e"
# Inches. Images are three wide to two high; above them a head, below each its caption.
IMAGE, GAP, CAPTION, HEAD, FOOT, MARGIN = (3.6, 2.4), 0.2, 0.5, 1.05, 0.55, 0.35


def draw_top_images(
    acts: saestore.ActivationSet, feature: int, threshold: float, *, folder: Path, title: str, subtitle: str, path: Path
) -> None:
    """Draw the images with the strongest patches of a feature.

    A patch is tinted by its activation, and outlined where that reaches the threshold.

    Parameters
    ----------
    acts
        A set of patches, as many in a row as in a column, whose images were squashed to a square, not cropped: a patch
        covers the same share of the image's width as of its height.
    folder
        Where the keys of the items, paths of images, start.
    path
        Where the picture goes.
    """
    from matplotlib.figure import Figure

    top = acts.top_samples(feature, n=ROWS * COLUMNS, per="item")
    size = (
        2 * MARGIN + COLUMNS * IMAGE[0] + (COLUMNS - 1) * GAP,
        HEAD + ROWS * (IMAGE[1] + CAPTION) + FOOT,
    )
    figure = Figure(figsize=size, dpi=120, facecolor="white")
    _text(figure, MARGIN, size[1] - 0.48, title, size=19, color=INK, weight="bold")
    _text(figure, MARGIN, size[1] - 0.80, subtitle, size=12, color=QUIET)
    strongest = float(top.activation[0])
    keys, splits = acts.items.column("key"), acts.items.column("split")
    per_item = acts.shape[0] // acts.n_items
    for place, (item, position) in enumerate(zip(top.item.tolist(), top.position.tolist(), strict=True)):
        row, column = divmod(place, COLUMNS)
        left = MARGIN + column * (IMAGE[0] + GAP)
        bottom = size[1] - HEAD - row * (IMAGE[1] + CAPTION) - IMAGE[1]
        axes = figure.add_axes(_box(figure, left, bottom, *IMAGE))
        activations = acts.dense(samples=slice(item * per_item, (item + 1) * per_item), features=feature)
        side = math.isqrt(per_item)
        _draw_image(axes, folder / keys[item], activations.reshape(side, side), threshold, strongest)
        _text(figure, left, bottom - 0.19, Path(keys[item]).stem, size=10.5, color=INK)
        strength = f"{top.activation[place]:.2f} in row {position // side}, column {position % side}"
        _text(figure, left + IMAGE[0], bottom - 0.19, strength, size=10.5, color=QUIET, ha="right")
        if splits[item] == "test":
            _badge(axes, "held out")
    _draw_scale(figure, threshold, strongest)
    figure.savefig(path)


def _draw_image(axes: Any, path: Path, activations: Array, threshold: float, strongest: float) -> None:
    """Draw one image, its active patches tinted, and those outlined that reach the threshold."""
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    axes.imshow(pixels, extent=(0, width, height, 0), interpolation="antialiased")
    rows, columns = activations.shape
    high, wide = height / rows, width / columns
    for above, edge in ((False, "none"), (True, HEAT)):
        where = np.argwhere((activations > 0) & ((activations >= threshold) == above))
        squares = [Rectangle((c * wide, r * high), wide, high) for r, c in where.tolist()]
        tints = [to_rgba(HEAT, _tint(activations[r, c] / strongest)) for r, c in where.tolist()]
        axes.add_collection(PatchCollection(squares, facecolors=tints, edgecolors=edge, linewidths=0.9))
    axes.set_axis_off()
    _draw_lens(axes, pixels, activations)


def _draw_lens(axes: Any, pixels: Array, activations: Array) -> None:
    """The place where the feature is active, enlarged and without tint, in the lower corner that is further from it."""
    height, width = pixels.shape[:2]
    place = (np.indices(activations.shape) + 0.5) * activations
    y, x = place.sum(axis=(1, 2)) / activations.sum() * (height, width) / activations.shape
    reach = height / 6
    corner = 0.025 if x > width / 2 else 1 - 0.025 - 0.42 * height / width
    lens = axes.inset_axes((corner, 0.0375, 0.42 * height / width, 0.42))
    lens.imshow(pixels, extent=(0, width, height, 0), interpolation="bicubic")
    lens.set(xlim=(x - reach, x + reach), ylim=(y + reach, y - reach), xticks=[], yticks=[])
    for spine in lens.spines.values():
        spine.set(color="white", linewidth=1.2)


def _tint(share: float) -> float:
    """Opacity of a patch whose activation is this share of the strongest: the image stays visible through all."""
    return 0.6 * share


def _draw_scale(figure: Any, threshold: float, strongest: float) -> None:
    """What a tint and an outline mean, at the foot."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    shares = np.linspace(0, 1, 64)
    colours = [to_rgba(HEAT, _tint(share)) for share in shares]
    left, wide = MARGIN + 1.2, 2.4
    axes = figure.add_axes(_box(figure, left, 0.28, wide, 0.14))
    axes.imshow(
        shares[None], cmap=LinearSegmentedColormap.from_list("heat", colours), aspect="auto", extent=(0, 1, 0, 1)
    )
    axes.set_axis_off()
    _text(figure, MARGIN, 0.3, "Activation", size=10.5, color=QUIET)
    _text(figure, left - 0.08, 0.3, "0", size=10.5, color=QUIET, ha="right")
    _text(figure, left + wide + 0.08, 0.3, f"{strongest:.2f}", size=10.5, color=QUIET)
    meaning = f"Outlined: at least {threshold:.2f}, where the feature says yes.   In the corner: that place, enlarged."
    _text(figure, left + wide + 0.75, 0.3, meaning, size=10.5, color=QUIET)


def _badge(axes: Any, text: str) -> None:
    axes.text(
        0.975, 0.955, text, transform=axes.transAxes, ha="right", va="top", fontsize=9, color="white",
        bbox={"boxstyle": "round,pad=0.3", "facecolor": INK, "edgecolor": "none", "alpha": 0.75},
    )  # fmt: skip


def _text(figure: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Write at a place in inches from the lower left corner."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, **style)


def _box(figure: Any, x: float, y: float, wide: float, high: float) -> tuple[float, float, float, float]:
    width, height = figure.get_size_inches()
    return x / width, y / height, wide / width, high / height
