"""The pictures of the pages, drawn from `benchmarks/results/*.json`."""

from pathlib import Path

import numpy as np

from benchmarks.figures import QUESTIONS, ROOT, STATES, Results, by_samples, figure
from benchmarks.peers import PEERS
from benchmarks.tasks import TASKS

IMAGES = ROOT / "docs" / "images"
SHOWN = ("top20", "top20_where", "column", "dense", "rows", "stats")
BARS = ("anndata", "delphi", "pt", "hdf5", "duckdb")
STYLES = {"top20_item": "o--", "column": "o:"}  # these lines often cover another one


def draw(results: Results, folder: Path = IMAGES) -> list[Path]:
    import matplotlib as mpl

    mpl.use("agg")
    folder.mkdir(exist_ok=True)
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110}):
        return [_draw_peers(results, folder / "performance.png"), _draw_times(results, folder / "scale-times.png")]


def _draw_peers(results: Results, path: Path) -> Path:
    """A panel for each question: a bar for each peer that reads from disk, on a logarithmic axis from 1."""
    import matplotlib.pyplot as plt

    asked = {task: results["queries"][f"clustered {task}"]["peers"] for task in SHOWN}
    ratios = {task: [answers.get(key, {}).get("times") for key in BARS] for task, answers in asked.items()}
    known = [ratio for task in SHOWN for ratio in ratios[task] if ratio]
    canvas, axes = plt.subplots(2, 3, figsize=(10, 4.2), sharex=True, sharey=True, layout="constrained")
    for axis, task in zip(axes.flat, SHOWN, strict=True):
        axis.set(xscale="log", xlim=(min(0.4, 0.4 * min(known)), 6 * max(known)))  # room for the figures
        axis.axvline(1, color="0.25", lw=1)
        for i, ratio in enumerate(ratios[task]):
            if ratio is None:
                axis.text(1.15, i, "cannot", va="center", color="0.5", style="italic")
                continue
            axis.barh(i, ratio - 1, left=1, height=0.7, color="#4878a8" if ratio >= 1 else "#d98c5f")
            axis.text(1.12 * max(ratio, 1), i, figure(ratio), va="center")
        ours = figure(asked[task]["saestore"]["median_ms"])
        axis.set_title(f"{TASKS[task].label.split(',')[0]}: {ours} ms", fontsize=9.5, loc="left")
        axis.set_yticks(range(len(BARS)), [PEERS[key].label.replace("`", "").split(",")[0] for key in BARS])
    axes[0, 0].invert_yaxis()
    shape = results["queries"]["clustered top20"]["shape"]
    canvas.suptitle(f"Each peer's time divided by saestore's, which is in the titles. {shape}", fontsize=10)
    canvas.savefig(path)
    plt.close(canvas)
    return path


def _draw_times(results: Results, path: Path) -> Path:
    """A panel for each state; a line for each question over the number of samples."""
    import matplotlib.pyplot as plt

    by_n = by_samples(results)
    canvas, axes = plt.subplots(1, 2, figsize=(9, 4.2), sharex=True, sharey=True, layout="constrained")
    for axis, (state, label) in zip(axes, STATES.items(), strict=True):
        for name, question in QUESTIONS.items():
            medians = [float(np.median(f[state][f"{name}_ms"])) for f in by_n.values()]
            axis.plot(list(by_n), medians, STYLES.get(name, "o-"), ms=4, label=question)
        axis.set(xscale="log", yscale="log", xlabel="samples", title=label)
        axis.grid(color="0.9")
    axes[0].set_ylabel("milliseconds, warm, median")
    canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    canvas.savefig(path)
    plt.close(canvas)
    return path
