"""How a set shows itself: in a notebook, and in pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saestore.activations import html
from saestore.activations.opened import OpenSet

if TYPE_CHECKING:
    from saestore.plot.plots import Plots


class Showing(OpenSet):
    """`plot`, and what a notebook shows of a set."""

    @property
    def plot(self) -> Plots:
        """Pictures: ``plot.histogram(feature)``, ``plot.density()``, ``plot.top(feature)``; each returns its Axes.

        Raises
        ------
        MissingDependencyError
            matplotlib is not installed.
        """
        from saestore.plot.plots import Plots

        return Plots(self)  # type: ignore[arg-type]

    def _repr_html_(self) -> str:
        return html.of_set(self.path, self.attributes)
