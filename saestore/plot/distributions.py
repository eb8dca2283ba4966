"""How strong one feature is, how often all of them are, and the cloud of what they add."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from saestore.plot.style import NEGATIVE, POSITIVE, axes_or_new, named, nothing_to_show, percent, titled
from saestore.query.details import feature_names
from saestore.sparse_rows import Array

if TYPE_CHECKING:
    import xarray

    from saestore.query.reader import SetReader


_SIZE = (6.4, 3.6)
_UNEVEN = 30  # counts that differ by more than this factor are drawn on a logarithmic axis
_BINS, _BINS_A_DECADE = 50, 5
_COLOURS = 10  # features of a cloud that have a colour of their own; the rest share grey


def histogram(acts: SetReader, feature: int, ax: Axes | None, bins: int | None, where: Any) -> Axes:
    """Draw the histogram of the active values of one feature."""
    values = acts.top_samples(feature, acts.shape[0], where=where).activation.astype(np.float64)
    n_samples = acts.stats(feature, where=where).attrs["n_samples"]
    ax = axes_or_new(ax, _SIZE)
    if not len(values):
        says = f"active on none of {n_samples:,} samples" + ("" if where is None else " selected")
        return nothing_to_show(ax, named(acts, feature), says)
    edges = _edges(values, bins or min(_BINS, max(10, round(2 * np.sqrt(len(values))))))
    counts = np.histogram(values, edges)[0]
    for sign, colour in ((1, POSITIVE), (-1, NEGATIVE)):
        use = np.flatnonzero(sign * (edges[1:] + edges[:-1]) > 0)
        if len(use):
            ax.stairs(counts[use], edges[use[0] : use[-1] + 2], fill=True, color=colour, alpha=0.85)
    _count_axis(ax, counts)
    ax.set(xlabel="activation, where active", ylabel="samples")
    selected = "" if where is None else " selected"
    share = f"active on {len(values):,} of {n_samples:,} samples{selected} ({percent(len(values) / n_samples)})"
    titled(ax, named(acts, feature), share)
    return ax


def _edges(values: Array, bins: int) -> Array:
    """Edges of about `bins` bins of equal width over all values, zero among them where there are both signs."""
    low, high = float(values.min()), float(values.max())
    if low < 0 < high:
        # In shares of the range, which may be wider than what float64 holds.
        width = max(high / bins - low / bins, np.finfo(np.float64).tiny)
        edges: Array = np.arange(-np.ceil(-low / width), np.ceil(high / width) + 1) * width
        edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
        return edges
    edges = np.linspace(low, high, bins + 1)
    if (np.diff(edges) > 0).all():
        return edges
    around = abs(high) * 0.05  # one value, or values too close for float64 to divide
    return np.array([low - around, high + around])


def density(acts: SetReader, ax: Axes | None, bins: int | None, where: Any) -> Axes:
    """Draw how many features fire on which share of the samples."""
    stats = acts.stats(where=where)
    share = stats["frac_nonzero"].to_numpy()
    alive = share[share > 0]
    n_samples, dead = stats.attrs["n_samples"], len(share) - len(alive)
    ax = axes_or_new(ax, _SIZE)
    title = f"Features of {acts.path}"
    if not len(alive):
        return nothing_to_show(ax, title, f"none fires on any of {n_samples:,} samples")
    low, high = np.log10(alive.min()), np.log10(alive.max())
    if bins is None:
        bins = max(1, round(_BINS_A_DECADE * (high - low)))
    margin = 0.02 if high > low else 0.3  # a single share is a bar, not a line
    counts, edges = np.histogram(np.log10(alive), bins, (low - margin, high + margin))
    ax.stairs(counts, 10**edges, fill=True, color="C0", alpha=0.85)
    ax.set_xscale("log")
    ax.set_ylim(0, 1.15 * counts.max())  # room for a word above the bars
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: percent(x)))
    if high - low < 1:
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    median = float(np.median(alive))
    ax.axvline(median, color="0.5", linewidth=1, linestyle="--")
    ax.annotate(
        f"median {percent(median)}", (median, 1), xycoords=("data", "axes fraction"), xytext=(4, -4),
        textcoords="offset points", va="top", fontsize="small",
    )  # fmt: skip
    ax.set(xlabel=f"share of {n_samples:,} samples on which a feature is active", ylabel="features")
    titled(ax, title, f"{dead:,} of {len(share):,} never fire ({percent(dead / len(share))})")
    return ax


def _count_axis(ax: Axes, counts: Array) -> None:
    """A logarithmic axis where counts differ much, on which one sample still has a height."""
    filled = counts[counts > 0]
    if filled.max() > _UNEVEN * filled.min():
        ax.set_yscale("log")
        ax.set_ylim(bottom=0.5)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    else:
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))


def cloud(acts: SetReader, found: xarray.Dataset, ax: Axes | None) -> Axes:
    """Draw what `ActivationSet.cloud` gives."""
    position, strongest = found["position"].to_numpy(), found["strongest"].to_numpy()
    features, counts = np.unique(strongest, return_counts=True)
    shown = features[np.argsort(-counts, kind="stable")][:_COLOURS]
    names = feature_names(acts, shown)
    ax = axes_or_new(ax, (5.6, 4.6))
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
