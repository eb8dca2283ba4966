"""Pictures of an activation set: matplotlib draws images and distributions, HTML shows tokens."""

from saestore.plot.plots import Plots

__all__ = ["Plots"]
