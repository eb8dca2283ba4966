"""What a detection found: a row for each concept and method, how it was found, and what it was found in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saestore.activations import html
from saestore.detection import report

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Row = dict[str, Any]

_SHOWN = ("concept", "method", "feature", "p", "threshold", "cal_f1", "f1", "precision", "recall", "roc_auc")


@dataclass(frozen=True, repr=False)
class Detection:
    """Results of detection on the test split, chosen on the calibration split.

    Attributes
    ----------
    rows
        One for each concept and method, by concept: ``concept``, ``method``, what was chosen (``feature``, ``p``,
        ``threshold``, ``chosen``), ``cal_f1``, and `saestore.detection.metrics.METRICS` on test with ``f1_low``,
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
        return report.to_markdown(self)

    def to_csv(self) -> str:
        """The rows as CSV."""
        return report.to_csv(self.rows)

    def to_json(self) -> str:
        """Everything as one JSON document; NaN is null."""
        return report.to_json(self)

    def save(self, folder: str | os.PathLike[str]) -> list[str]:
        """Write the report into a folder as Markdown, CSV, JSON and, with matplotlib, a picture; returns the paths."""
        return report.save(self, folder)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw F1 of every method on every concept, with its interval.

        Raises
        ------
        MissingDependencyError
            matplotlib is not installed.
        """
        from saestore.detection.picture import draw

        return draw(self, ax)

    def __repr__(self) -> str:
        head = f"Detection in {self.provenance['set']}: {len(self.concepts)} concepts, {', '.join(self.methods)}"
        lines = ["  ".join(f"{_text(row[name]):>14}" for name in _SHOWN) for row in self.rows]
        return "\n".join([head, "  ".join(f"{name:>14}" for name in _SHOWN), *lines])

    def _repr_html_(self) -> str:
        return html.table(list(_SHOWN), [[_text(row[name]) for name in _SHOWN] for row in self.rows])


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
