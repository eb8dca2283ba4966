"""From a path to opened activations: which format it is, and who reads it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from saestore.importing.rows import Opened
from saestore.importing.scipy_npz import open_scipy

if TYPE_CHECKING:
    from saestore.importing.plan import Progress, Request

FORMATS = ("scipy",)


def open_input(request: Request, resources: ExitStack, progress: Progress | None) -> Opened:
    """Open what a request names, in the format that it names or that the file shows."""
    del progress
    return open_scipy(Path(request.path).expanduser(), resources)
