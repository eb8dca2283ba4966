"""Pictures of an activation set, by matplotlib."""

from saestore.errors import MissingDependencyError

try:
    from saestore.plot.plots import Plots
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "matplotlib":
        raise
    raise MissingDependencyError("plots need matplotlib: `pip install 'saestore[plot]'`.") from error

__all__ = ["Plots"]
