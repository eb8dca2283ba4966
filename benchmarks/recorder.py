"""Writes results: one JSON file per subject, each with the machine and the versions."""

import contextlib
import importlib.metadata
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    *("saestore", "numpy", "scipy", "zarr", "numcodecs", "pcodec", "anndata", "torch", "sae_lens", "scikit-learn"),
    *("eai-delphi", "h5py", "duckdb"),
)


class Recorder:
    """Collects measurements by subject and name."""

    def __init__(self) -> None:
        self.subjects: dict[str, dict[str, Any]] = {}

    def add(self, subject: str, name: str, value: Any) -> None:
        self.subjects.setdefault(subject, {})[name] = value

    def write(self, folder: Path = RESULTS) -> list[Path]:
        """Write one file for each measured subject; the other files stay as they are."""
        folder.mkdir(exist_ok=True)
        written = []
        for subject, values in self.subjects.items():
            path = folder / f"{subject}.json"
            path.write_text(json.dumps({"machine": machine(), "versions": versions(), **values}, indent=1) + "\n")
            written.append(path)
        return written


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": platform.system(),
        "load": [round(x, 1) for x in os.getloadavg()],
        "date": datetime.now(UTC).date().isoformat(),
    }


def versions() -> dict[str, str]:
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
