"""What the pages and the pictures share: the results, their sizes and states, and how a figure is printed."""

import json
from pathlib import Path
from typing import Any

from benchmarks.recorder import RESULTS
from benchmarks.tasks import SCALE_TASKS

ROOT = Path(__file__).parent.parent
STATES = {"segments": "as written", "compacted": "merged"}
QUESTIONS = {"open": "open", **{key: task.label for key, task in SCALE_TASKS.items()}}
Results = dict[str, Any]


def load() -> Results:
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def by_samples(results: Results) -> dict[int, Results]:
    return {int(key): value for key, value in results["scale"].items() if key.isdigit()}


def figure(value: float) -> str:
    """Two significant digits: 0.034, 0.34, 3.4, 34, 340."""
    if value >= 10:
        return f"{float(f'{value:.2g}'):,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
