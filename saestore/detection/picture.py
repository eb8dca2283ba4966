"""The comparison as a picture: F1 of every method on every concept, with its interval."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from saestore.plot.style import axes_or_new, nothing_to_show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from saestore.detection.results import Detection

# Of Okabe and Ito, told apart by all common kinds of colour vision; a marker each, for print.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000", "#999999")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_ROW = 0.16  # inches of height for each concept and method


def draw(found: Detection, ax: Axes | None = None) -> Axes:
    """F1 of every method on every concept, one row a concept."""
    methods, concepts = found.methods, found.concepts
    height = 1.3 + max(0.25, _ROW * len(methods)) * len(concepts)
    ax = axes_or_new(ax, (7.5, height))
    title = f"Concept detection in {found.provenance['set']}"
    if not found.rows:
        return nothing_to_show(ax, title, "no concept has a result")
    rows = {(row["concept"], row["method"]): row for row in found.rows}
    spread = np.linspace(-0.35, 0.35, len(methods)) if len(methods) > 1 else np.zeros(1)
    for i, method in enumerate(methods):
        there = [(y, rows[c, method]) for y, c in enumerate(concepts) if (c, method) in rows]
        at = np.array([y for y, _ in there]) + spread[i]
        colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
        f1, low, high = (np.array([row[name] for _, row in there]) for name in ("f1", "f1_low", "f1_high"))
        ax.hlines(at, low, high, color=colour, linewidth=1.2, alpha=0.6)
        ax.plot(f1, at, marker, color=colour, markersize=4.5, label=method, clip_on=False)
    for y in range(1, len(concepts)):
        ax.axhline(y - 0.5, color="0.9", linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(concepts)), concepts, parse_math=False)
    ax.set_ylim(len(concepts) - 0.5, -0.5)
    ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel(f"F1 on test, with {100 * found.settings['confidence']:g} % interval")
    ax.set_title(title, fontsize="medium", parse_math=False)
    if len(methods) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize="small")
    return ax


def draw_to_file(found: Detection, path: str | os.PathLike[str]) -> None:
    """The picture in a file, without a pyplot window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = 1.3 + max(0.25, _ROW * len(found.methods)) * len(found.concepts)
    figure = Figure(figsize=(7.5, height), layout="constrained")
    draw(found, figure.add_subplot())
    FigureCanvasAgg(figure).print_figure(os.fspath(path), dpi=150)
