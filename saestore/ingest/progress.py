"""What a person sees while a build runs: bars and short messages on stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

_LOG_SECONDS = 30  # between two states of a bar where nobody watches: a file, a cluster's log


class Bars:
    """Progress bars of a build, or silence.

    Parameters
    ----------
    label
        Path of the set.
    shown
        False for silence.
    """

    def __init__(self, label: str, *, shown: bool) -> None:
        self._label = label
        self._shown = shown
        self._open: list[Bar] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for bar in self._open:
            bar.close()

    def bar(self, what: str, total: int | None, done: int = 0, unit: str = " rows") -> Bar:
        """Open a bar over `total` rows, if known, of which `done` are behind us."""
        bar = Bar(f"{self._label}: {what}", total, done, unit, shown=self._shown)
        self._open.append(bar)
        return bar

    def say(self, message: str) -> None:
        """Say something on a line of its own."""
        if self._shown:
            from tqdm import tqdm

            tqdm.write(message, file=sys.stderr)


class Bar:
    """One bar: rows, rows a second, time left and, while encoding, active features a row."""

    def __init__(self, label: str, total: int | None, done: int, unit: str, *, shown: bool) -> None:
        from tqdm.auto import tqdm

        self._bar: Any = tqdm(
            total=total,
            initial=done,
            desc=label,
            unit=unit,
            unit_scale=True,
            disable=not shown,
            file=sys.stderr,
            mininterval=0.1 if sys.stderr.isatty() else _LOG_SECONDS,
        )
        self._rows = self._nnz = 0

    def advance(self, rows: int) -> None:
        """So many rows are done."""
        self._bar.update(rows)

    def encoded(self, rows: int, nnz: int) -> None:
        """So many rows were encoded, with so many non-zeros."""
        self._rows, self._nnz = self._rows + rows, self._nnz + nnz
        self._bar.set_postfix_str(f"{self._nnz / max(1, self._rows):.1f} active/row", refresh=False)
        self._bar.update(rows)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()
