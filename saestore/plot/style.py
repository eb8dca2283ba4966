"""What all pictures share: colours, figures, numbers in words."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.font_manager import FontProperties

from saestore.plot.text_layout import Letters

Array = np.ndarray[Any, Any]

# Orange and blue: of the pairs tried, the furthest from each other and from grey for protan, deutan and tritan vision.
POSITIVE, NEGATIVE = "#ff5a00", "#1f5fff"
_OPACITY = 0.7  # of the strongest activation: what lies below stays visible
_FAINTEST = 0.08  # of the weakest: to be seen at all


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """`ax`, or the only Axes of a new pyplot figure of `size` inches, which a notebook shows by itself."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.figure(figsize=size, layout="constrained").add_subplot()


def tints(activations: Array, strongest: float) -> Array:
    """RGBA of activations, float (..., 4): the sign is the colour, the size the opacity; none for zero."""
    share = np.clip(np.abs(activations.astype(np.float64)) / max(strongest, np.finfo(np.float64).tiny), 0, 1)
    colours = np.where(activations[..., None] < 0, to_rgba(NEGATIVE), to_rgba(POSITIVE))
    colours[..., 3] = np.where(activations == 0, 0, _FAINTEST + (_OPACITY - _FAINTEST) * share)
    return colours


def number(value: float) -> str:
    """A value in few characters: three digits, thousands in full."""
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """A share of one as a percentage with two digits at least."""
    return f"{100 * share:.{3 if share >= 1e-3 else 2}g} %"


def named(acts: Any, feature: int) -> str:
    """First line of a title."""
    return f"Feature {feature} of {acts.path}"


def figure_of(ax: Axes) -> Any:
    """The figure that an Axes belongs to, not the part of it."""
    return getattr(ax.figure, "figure", ax.figure)


def titled(ax: Axes, *lines: str) -> None:
    """Give an Axes a title, each line cut to its width."""
    dpi = figure_of(ax).dpi
    size = FontProperties(size="medium").get_size_in_points()
    letters, room = Letters(lines, dpi), ax.get_window_extent().width / dpi
    text = "\n".join(letters.clip(line, size, room) for line in lines)
    ax.set_title(text, fontsize=size, family=letters.families, parse_math=False)


def nothing_to_show(ax: Axes, title: str, says: str) -> Axes:
    """An Axes that says why it is empty."""
    ax.set_axis_off()
    titled(ax, title)
    ax.text(0.5, 0.5, says, transform=ax.transAxes, ha="center", va="center", wrap=True, alpha=0.7)
    return ax
