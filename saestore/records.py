"""Rows of an answer, each a dict, as other programs take them: CSV, and values that JSON has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def plain(value: Any) -> Any:
    """The same value as JSON has it: None for each number that is not finite, lists for numpy's arrays."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else plain(value.tolist())


def to_csv(rows: Sequence[Mapping[str, Any]], head: Sequence[str] = ()) -> str:
    """Rows as CSV: numbers as short as they are exact, an empty cell without a value, lists separated by blanks.

    Without a row it is `head` alone.
    """
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if rows or head:
        writer.writerow(rows[0] if rows else head)
    for row in rows:
        values = (" ".join(map(str, v)) if isinstance(v, list) else plain(v) for v in row.values())
        writer.writerow(["" if value is None else value for value in values])
    return out.getvalue()
