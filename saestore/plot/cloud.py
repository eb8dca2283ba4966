"""Points of a cloud: the first two components, coloured by the strongest feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from saestore.plot.style import axes_or_new, percent, titled
from saestore.query.details import feature_names

if TYPE_CHECKING:
    import xarray

    from saestore.query.reader import SetReader

_SIZE = (5.6, 4.6)
_COLOURS = 10  # features that have a colour of their own; the rest share grey


def cloud(acts: SetReader, found: xarray.Dataset, ax: Axes | None) -> Axes:
    """Draw what `ActivationSet.cloud` gives."""
    position, strongest = found["position"].to_numpy(), found["strongest"].to_numpy()
    features, counts = np.unique(strongest, return_counts=True)
    shown = features[np.argsort(-counts, kind="stable")][:_COLOURS]
    names = feature_names(acts, shown)
    ax = axes_or_new(ax, _SIZE)
    y = position[:, 1] if position.shape[1] > 1 else np.zeros(len(position))
    for i, feature in enumerate([*shown.tolist(), None]):
        points = ~np.isin(strongest, shown) if feature is None else strongest == feature
        name = None if names is None or feature is None else names[i]
        label = "others" if feature is None else f"{feature}" + (f" {name}" if name else "")
        if points.any():
            colour = "0.6" if feature is None else f"C{i}"
            ax.scatter(position[points, 0], y[points], s=9, alpha=0.6, linewidths=0, color=colour, label=label)
    shares = [percent(float(share)) for share in found["explained"].to_numpy()]
    ax.set_xlabel(f"component 1 ({shares[0]} of the variance)")
    ax.set_ylabel(f"component 2 ({shares[1]})" if len(shares) > 1 else "")
    legend = ax.legend(title="strongest feature", fontsize="small", title_fontsize="small", frameon=False)
    for handle in filter(None, legend.legend_handles):
        handle.set_alpha(1)
    titled(ax, f"{len(found['feature']):,} features of {acts.path}", f"{len(position):,} samples where one is active")
    return ax
