"""Detection results side by side, and the files that a paper can quote: Markdown, CSV and JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import escape
from saestore.query import html
from saestore.records import plain, to_csv
from saestore.storage import save_file

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]

_CHOSEN = ("concept", "method", "feature", "target_recall", "threshold", "cal_f1")
_SHOWN = (*_CHOSEN, "f1", "precision", "recall", "roc_auc")
_BY_METHOD = (*_CHOSEN, "setting", "precision", "recall", "accuracy", "fpr", "roc_auc", "average_precision",
              "tp", "fp", "fn", "tn")  # fmt: skip
_LOCATED = ("concept", "feature", "sample_target_recall", "sample_threshold", "f1", "f1_low", "f1_high", "precision",
            "recall", "iou", "top_1", "top_5", "top_10")  # fmt: skip


@dataclass(frozen=True, repr=False)
class Detection:
    """Results of detection on the test split, chosen on the calibration split.

    Attributes
    ----------
    rows
        One for each concept and method, by concept: ``concept``, ``method``, what was chosen (``feature``,
        ``features``, ``setting``, ``target_recall``, ``threshold``), ``cal_f1``, and
        `saestore.scoring.metrics.METRICS` on test with ``f1_low``, ``f1_high`` and so on.
    candidates
        The best features of each concept on the calibration split, best first.
    localisation
        Which samples of detected items have the concept; a row for each concept whose samples are labelled.
    skipped
        Concepts without a full result, and why.
    settings, pruning
        All options, and the rules that left features out, with the numbers taken from the data.
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
        """Names of the methods, in their order."""
        return list(dict.fromkeys(row["method"] for row in self.rows))

    @property
    def concepts(self) -> list[str]:
        """Names of the concepts that have a result."""
        return list(dict.fromkeys(row["concept"] for row in self.rows))

    def compare(self) -> tuple[list[Row], Row]:
        """F1 of every concept and method, and of every method over the concepts; see `compare`."""
        return compare(self.rows)

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values; numbers that are not finite are NaN."""
        return asdict(self)

    def to_json(self) -> str:
        """Everything as one JSON document; NaN is null."""
        return json.dumps(plain(self.to_dict()), indent=2, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """The rows as CSV."""
        return to_csv(self.rows)

    def to_markdown(self) -> str:
        """The report: concept x method with the best in bold, how each was chosen, settings and provenance."""
        settings = self.settings
        parts = [
            f"# Concept detection in {self.provenance['set']}",
            f"Features, thresholds and methods are chosen on {settings['n_cal']:,} {settings['level']}s of "
            f"`{settings['choose_on']}`. The results are measured on {settings['n_test']:,} {settings['level']}s of "
            f"`{settings['report_on']}`, with "
            f"{100 * settings['confidence_level']:g} % intervals by the bootstrap over items "
            f"({settings['n_resamples']:,} draws, seed {settings['seed']}).",
            "F1 on test:\n\n" + self._comparison(),
            _markdown(_BY_METHOD, [[_text(row[name]) for name in _BY_METHOD] for row in self.rows]),
        ]
        if self.localisation:
            located = [[_text(row[name]) for name in _LOCATED] for row in self.localisation]
            parts += ["## Which samples of detected items have the concept", _markdown(_LOCATED, located)]
        if self.skipped:
            parts += ["## Without a full result", "\n".join(f"- {_cell(n)}: {why}" for n, why in self.skipped.items())]
        for title, values in (("Features", self.pruning), ("Settings", settings), ("Provenance", self.provenance)):
            parts += [f"## {title}", "```json\n" + json.dumps(plain(values), indent=2) + "\n```"]
        return "\n\n".join(parts) + "\n"

    def _comparison(self) -> str:
        """Concept x method: F1 with its interval, mean and wins."""
        table, summary = self.compare()
        rows = {(row["concept"], row["method"]): row for row in self.rows}
        body = [
            [line["concept"], *(_f1(rows.get((line["concept"], m)), m in line["best"]) for m in self.methods)]
            for line in table
        ]
        means = [f"mean of {summary['n']}", *(_text(summary["mean"][m]) for m in self.methods)]
        wins = ["best of", *(str(summary["wins"][m]) for m in self.methods)]
        return _markdown(["concept", *self.methods], [*body, means, wins])

    def save(self, folder: str | os.PathLike[str]) -> list[str]:
        """Write the report into a folder as Markdown, CSV (one file for localisation) and JSON; returns the paths."""
        into = Path(folder)
        texts = {
            "detection.md": self.to_markdown(),
            "detection.csv": self.to_csv(),
            "localisation.csv": to_csv(self.localisation),
            "detection.json": self.to_json(),
        }
        return [str(save_file(into / name, text.encode())) for name, text in texts.items() if text]

    def __repr__(self) -> str:
        head = f"Detection in {self.provenance['set']}: {len(self.concepts)} concepts, {', '.join(self.methods)}"
        lines = ["  ".join(f"{_text(row[name]):>14}" for name in _SHOWN) for row in self.rows]
        return escape("\n".join([head, "  ".join(f"{name:>14}" for name in _SHOWN), *lines]))

    def _repr_html_(self) -> str:
        return html.table(list(_SHOWN), [[_text(row[name]) for name in _SHOWN] for row in self.rows])


def compare(rows: Sequence[Row]) -> tuple[list[Row], Row]:
    """F1 of every concept and method, and of every method over the concepts.

    Returns
    -------
    table
        For each concept ``concept``, ``f1`` (of each method, NaN without a result), ``best`` (the methods with the
        highest F1; several where they are equal, none where it is 0).
    summary
        ``n``, how many concepts have an F1 for every method; ``mean``, the mean of each method over these; ``wins``,
        for how many of all concepts it is the best, a shared place counting for each.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    table: list[Row] = []
    for concept in dict.fromkeys(row["concept"] for row in rows):
        f1 = dict.fromkeys(methods, math.nan) | {r["method"]: r["f1"] for r in rows if r["concept"] == concept}
        top = max((v for v in f1.values() if not math.isnan(v)), default=0.0)
        table.append({"concept": concept, "f1": f1, "best": [m for m, v in f1.items() if v == top and v > 0]})
    full = [row["f1"] for row in table if not any(math.isnan(v) for v in row["f1"].values())]
    return table, {
        "n": len(full),
        "mean": {m: float(np.mean([f1[m] for f1 in full])) if full else math.nan for m in methods},
        "wins": {m: sum(m in row["best"] for row in table) for m in methods},
    }


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _f1(row: Row | None, best: bool) -> str:
    if row is None or math.isnan(row["f1"]):
        return "-"
    text = f"**{row['f1']:.3f}**" if best else f"{row['f1']:.3f}"
    return text if math.isnan(row["f1_low"]) else f"{text} [{row['f1_low']:.3f}, {row['f1_high']:.3f}]"


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(map(_cell, row)) for row in (head, *body)]
    return "\n".join(f"| {line} |" for line in (lines[0], " | ".join(["---"] * len(head)), *lines[1:]))


def _cell(text: str) -> str:
    """A text that does not break a table or a list."""
    return " ".join(text.replace("|", "\\|").split())
