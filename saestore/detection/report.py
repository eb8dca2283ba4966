"""Detection results side by side: a table for people, and files that a paper can quote."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from saestore.plot.style import axes_or_new, nothing_to_show
from saestore.query import html

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

Row = dict[str, Any]

_SHOWN = ("concept", "method", "feature", "p", "threshold", "cal_f1", "f1", "precision", "recall", "roc_auc")
NAMES = ("detection.md", "detection.csv", "localisation.csv", "detection.json", "detection.png")


def compare(rows: Sequence[Row]) -> tuple[list[Row], Row]:
    """F1 of every concept and method, and of every method over the concepts.

    Returns
    -------
    table
        For each concept ``concept``, ``f1`` (of each method, NaN where it has none), ``best`` (the methods with the
        highest F1; several where they are equal, none where that is 0).
    summary
        ``n``, how many concepts every method has an F1 of; ``mean``, the mean of each method over these; ``wins``, of
        how many of all concepts it is the best, a shared place counting for each.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    table: list[Row] = []
    for concept in dict.fromkeys(row["concept"] for row in rows):
        f1 = dict.fromkeys(methods, math.nan) | {r["method"]: r["f1"] for r in rows if r["concept"] == concept}
        top = max((v for v in f1.values() if not math.isnan(v)), default=0.0)
        table.append({"concept": concept, "f1": f1, "best": [m for m, v in f1.items() if v == top and v > 0]})
    full = [row["f1"] for row in table if not any(math.isnan(v) for v in row["f1"].values())]
    summary = {
        "n": len(full),
        "mean": {m: float(np.mean([f1[m] for f1 in full])) if full else math.nan for m in methods},
        "wins": {m: sum(m in row["best"] for row in table) for m in methods},
    }
    return table, summary


def to_markdown(found: Detection) -> str:
    """The whole report, in Markdown."""
    settings, cuts = found.settings, found.pruning
    lines = [
        f"# Concept detection in {found.provenance['set']}",
        f"Features, thresholds and methods were chosen on {settings['n_cal']:,} {settings['level']}s of the split "
        f"`cal`; the numbers are those of {settings['n_test']:,} of `test`, with "
        f"{100 * settings['confidence_level']:g} % "
        f"intervals by the bootstrap over items ({settings['n_resamples']:,} draws, seed {settings['seed']}).",
        _comparison(found),
        _by_method(found),
    ]
    if found.localisation:
        lines += ["## Which samples of detected items are the concept's", _places(found.localisation)]
    if found.skipped:
        lines += ["## Without a full result", "\n".join(f"- {_cell(n)}: {why}" for n, why in found.skipped.items())]
    lines += [
        "## Features that were looked at",
        f"{cuts['kept']:,} of {cuts['n_features']:,}. On the {cuts['n_rows']:,} calibration samples {cuts['dead']:,} "
        f"are above 0 on fewer than {cuts['min_active']:,} ({cuts['never_active']:,} on none), {cuts['ubiquitous']:,} "
        f"on a share of more than {cuts['max_fraction']:.4g}, and {cuts['weak']:,} have a 99th percentile of "
        f"activations below {cuts['min_p99']:.6g}, which is percentile {cuts['min_p99_percentile']:g} of all.",
        "## Settings and provenance",
        "```json\n" + json.dumps(plain({"settings": settings, "provenance": found.provenance}), indent=2) + "\n```",
    ]
    return "\n\n".join(lines) + "\n"


def _comparison(found: Detection) -> str:
    """Concept x method: F1 with its interval, the best in bold, mean and wins."""
    table, summary = compare(found.rows)
    rows = {(row["concept"], row["method"]): row for row in found.rows}
    body = [
        [line["concept"], *(_f1(rows.get((line["concept"], m)), m in line["best"]) for m in found.methods)]
        for line in table
    ]
    means = [f"mean of {summary['n']}", *(_number(summary["mean"][m]) for m in found.methods)]
    wins = ["best of", *(str(summary["wins"][m]) for m in found.methods)]
    return "F1 on test:\n\n" + _table(["concept", *found.methods], [*body, means, wins])


def _by_method(found: Detection) -> str:
    shown = ("threshold", "cal_f1", "precision", "recall", "accuracy", "fpr", "roc_auc", "average_precision")
    body = []
    for row in found.rows:
        what = str(row["feature"]) if row["feature"] is not None else row["setting"] or _listed(row["features"])
        p = "-" if row["p"] is None else f"{row['p']:g}"
        counts = "/".join(str(row[n]) for n in ("tp", "fp", "fn", "tn"))
        body.append([row["concept"], row["method"], what, p, *(_number(row[name]) for name in shown), counts])
    return _table(["concept", "method", "chosen", "p", *shown, "tp/fp/fn/tn"], body)


def _places(rows: Sequence[Row]) -> str:
    shown = ("p2", "threshold2", "precision", "recall", "iou", "top_1", "top_5", "top_10")
    body = [[r["concept"], str(r["feature"]), _f1(r, False), *(_number(r[name]) for name in shown)] for r in rows]
    return _table(["concept", "feature", "f1", *shown], body)


def _listed(features: Sequence[int]) -> str:
    return ", ".join(map(str, features)) or "-"


def _f1(row: Row | None, best: bool) -> str:
    if row is None or math.isnan(row["f1"]):
        return "-"
    text = f"{row['f1']:.3f}"
    return f"**{text}**{_interval(row)}" if best else text + _interval(row)


def _interval(row: Row) -> str:
    return "" if math.isnan(row["f1_low"]) else f" [{row['f1_low']:.3f}, {row['f1_high']:.3f}]"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(_cell(c) if i != 1 else c for c in row) + " |" for i, row in enumerate(rows))


def _cell(text: str) -> str:
    """A text that no table or list breaks at."""
    return " ".join(text.replace("|", "\\|").split())


def to_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV: numbers as short as they are exact, nothing where there is none, features with blanks between."""
    out = io.StringIO()
    if rows:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([_csv_cell(value) for value in row.values()] for row in rows)
    return out.getvalue()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def to_json(found: Detection) -> str:
    """Everything, as one JSON document; NaN is null."""
    return json.dumps(plain(found.to_dict()), indent=2, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """The same, with None where a number is not finite."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save(found: Detection, folder: str | os.PathLike[str]) -> list[str]:
    """Write `NAMES` into a folder, which is made; without localisation or matplotlib, without their file.

    Returns
    -------
    list of str
        The paths.
    """
    from importlib.util import find_spec

    into = Path(folder)
    into.mkdir(parents=True, exist_ok=True)
    texts = [to_markdown(found), to_csv(found.rows), to_csv(found.localisation), to_json(found)]
    written = []
    for name, text in zip(NAMES, texts, strict=False):
        if text:
            (into / name).write_text(text, encoding="utf-8")
            written.append(str(into / name))
    if found.rows and find_spec("matplotlib") is not None:
        draw_to_file(found, into / NAMES[-1])
        written.append(str(into / NAMES[-1]))
    return written


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
    ax.set_xlabel(f"F1 on test, with {100 * found.settings['confidence_level']:g} % interval")
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


@dataclass(frozen=True, repr=False)
class Detection:
    """Results of detection on the test split, chosen on the calibration split.

    Attributes
    ----------
    rows
        One for each concept and method, by concept: ``concept``, ``method``, what was chosen (``feature``, ``p``,
        ``threshold``, ``chosen``), ``cal_f1``, and `saestore.scoring.metrics.METRICS` on test with ``f1_low``,
        ``f1_high`` and so on.
    candidates
        The best features of each concept on the calibration split, best first.
    localisation
        Where in detected items the concept is; a row for each concept whose samples are labelled.
    skipped
        Concepts without a result, and why.
    settings, pruning
        All that was set and all that was cut, with the numbers that came from the data.
    provenance
        The set, its SAE, its source and its digests.
    """

    rows: list[Row]
    candidates: list[Row]
    localisation: list[Row]
    skipped: dict[str, str]
    settings: dict[str, Any]
    pruning: dict[str, Any]
    provenance: dict[str, Any]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order in which they were asked."""
        return list(dict.fromkeys(row["method"] for row in self.rows))

    @property
    def concepts(self) -> list[str]:
        """Names of the concepts that have a result."""
        return list(dict.fromkeys(row["concept"] for row in self.rows))

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it but for NaN."""
        return {
            "settings": self.settings,
            "provenance": self.provenance,
            "pruning": self.pruning,
            "skipped": self.skipped,
            "rows": self.rows,
            "candidates": self.candidates,
            "localisation": self.localisation,
        }

    def to_markdown(self) -> str:
        """The report: concept x method with the best marked, how each was chosen, settings and provenance."""
        return to_markdown(self)

    def to_csv(self) -> str:
        """The rows as CSV."""
        return to_csv(self.rows)

    def to_json(self) -> str:
        """Everything as one JSON document; NaN is null."""
        return to_json(self)

    def save(self, folder: str | os.PathLike[str]) -> list[str]:
        """Write the report into a folder as Markdown, CSV, JSON and, with matplotlib, a picture; returns the paths."""
        return save(self, folder)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw F1 of every method on every concept, with its interval.

        Raises
        ------
        MissingDependencyError
            matplotlib is not installed.
        """
        return draw(self, ax)

    def __repr__(self) -> str:
        head = f"Detection in {self.provenance['set']}: {len(self.concepts)} concepts, {', '.join(self.methods)}"
        lines = ["  ".join(f"{_shown(row[name]):>14}" for name in _SHOWN) for row in self.rows]
        return "\n".join([head, "  ".join(f"{name:>14}" for name in _SHOWN), *lines])

    def _repr_html_(self) -> str:
        return html.table(list(_SHOWN), [[_shown(row[name]) for name in _SHOWN] for row in self.rows])


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
