"""What a caller asks an import for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What the caller asked for; None where nothing was said."""

    set_path: str
    path: Any
    format: str = "auto"
    items: Any = None
    item_ptr: Any = None
    spans: Any = None
    n_features: int | None = None
    sparse: Any = None
    pad_token: int | None = None
    segment_rows: int | None = None
    codec: str = "pcodec"
