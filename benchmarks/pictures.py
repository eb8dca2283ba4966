"""The plot of how many times saestore's time each peer takes, for the README and docs/performance.md."""

from pathlib import Path
from typing import Any

from benchmarks.recorder import RESULTS
from benchmarks.report import figure as two_digits
from benchmarks.tasks import TASKS

PATH = RESULTS.parent.parent / "docs" / "images" / "performance.png"
SHOWN = ("top20", "top20_where", "column", "dense", "rows", "stats")
SHORT = {
    "anndata": "anndata, zarr",
    "delphi": "Delphi",
    "pt": "torch .pt, mapped",
    "hdf5": "HDF5, by hand",
    "tiledb": "TileDB",
    "duckdb": "DuckDB, Parquet",
    "polars": "Polars, Parquet",
}
SLOWER, FASTER, LINE = "#4878a8", "#d98c5f", "0.25"
Results = dict[str, Any]


def draw(results: Results, path: Path = PATH) -> Path:
    """A panel for each question: a bar for each peer that reads from disk, on a logarithmic axis that starts at 1."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    path.parent.mkdir(exist_ok=True)
    found = {task: results["queries"][f"clustered {task}"]["peers"] for task in SHOWN}
    peers = [key for key in SHORT if any(key in answers for answers in found.values())]
    ratios = {task: [answers.get(key, {}).get("times") for key in peers] for task, answers in found.items()}
    known = [ratio for task in SHOWN for ratio in ratios[task] if ratio]
    limits = min(0.4, 0.4 * min(known)), 6 * max(known)  # room for the figures beside the bars
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(2, 3, figsize=(10, 4.8), sharex=True, sharey=True, layout="constrained")
        for axis, task in zip(axes.flat, SHOWN, strict=True):
            _panel(axis, ratios[task], limits)
            ours = found[task]["saestore"]["median_ms"]
            axis.set_title(f"{TASKS[task].label.split(',')[0]}: {two_digits(ours)} ms", fontsize=9.5, loc="left")
            axis.set_yticks(range(len(peers)), [SHORT[key] for key in peers])
        axes[0, 0].invert_yaxis()
        shape = results["queries"]["clustered top20"]["shape"].split(", clustered")[0]
        figure.suptitle(f"How many times as long as saestore, whose time is in the titles. {shape}", fontsize=10)
        figure.savefig(path, dpi=110)
        plt.close(figure)
    return path


def _panel(axis: Any, ratios: list[float | None], limits: tuple[float, float]) -> None:
    axis.set(xscale="log", xlim=limits)
    axis.axvline(1, color=LINE, lw=1)
    axis.tick_params(axis="y", length=0)
    for place, ratio in enumerate(ratios):
        if ratio is None:
            axis.text(1.15, place, "cannot", va="center", color="0.5", style="italic")
            continue
        axis.barh(place, ratio - 1, left=1, height=0.7, color=SLOWER if ratio >= 1 else FASTER)
        axis.text(1.12 * max(ratio, 1), place, two_digits(ratio), va="center")
