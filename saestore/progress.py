"""What a long task reports while it runs, and how long it may run.

``progress=`` means the same everywhere: True, False or a function.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

from saestore.errors import InvalidInputError, TooLargeError

ProgressOption = bool | Callable[[str], object]

_LOG_SECONDS = 30  # between two lines of a bar in a file or a cluster's log
_END: ContextVar[float] = ContextVar("end", default=math.inf)


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Let what this thread does inside raise `TooLargeError` (``too-slow``) at its next read after this time."""
    token = _END.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _END.reset(token)


def time_left() -> float:
    """Seconds until the deadline, infinite without one."""
    return _END.get() - time.monotonic()


def check_deadline() -> None:
    """Raise `TooLargeError` if the time is over."""
    if time_left() < 0:
        raise TooLargeError("the answer takes longer than is allowed here; ask for less.", code="too-slow")


class Progress:
    """Passes messages on, and opens bars.

    True shows bars and lines on stderr, False shows nothing, a function receives every line.
    """

    def __init__(self, option: ProgressOption) -> None:
        if not isinstance(option, bool) and not callable(option):
            raise InvalidInputError(
                f"progress {option!r}: use True, False or a function that takes a line of text.", code="bad-progress"
            )
        self.shown = option is True
        self.receiver = option if callable(option) else None

    def line(self, message: str) -> None:
        """Report one line."""
        if self.receiver is not None:
            self.receiver(message)
        elif self.shown and _draws_bars():
            from tqdm import tqdm

            tqdm.write(message, file=sys.stderr)
        elif self.shown:
            sys.stderr.write(f"{message}\n")
            sys.stderr.flush()

    def bar(self, label: str, verb: str, total: int | None, done: int = 0, unit: str = "samples") -> Bar:
        """Open a bar over `total` units, if that number is known, of which `done` are done; use as a context manager.

        Where no bar can be drawn, it reports lines such as ``label: 64 of 128 samples encoded``.
        """
        return Bar(self, (label, verb, unit), total, done)


class Bar:
    """One bar: units done, speed, time left and, where it is known, active features per row."""

    def __init__(self, progress: Progress, words: tuple[str, str, str], total: int | None, done: int) -> None:
        self._progress, self._words, self._total = progress, words, total
        self._done, self._rows, self._nnz = done, 0, 0
        self._reported, self._when = -1, time.monotonic()
        self._drawn: Any = None
        if progress.shown and _draws_bars():
            from tqdm.auto import tqdm

            label, verb, unit = words
            self._drawn = tqdm(
                total=total, initial=done, desc=f"{label}: {verb}", unit=f" {unit}", unit_scale=True, file=sys.stderr
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._drawn is not None:
            self._drawn.close()
        elif self._progress.shown:
            self._report()

    def advance(self, count: int, nnz: int | None = None) -> None:
        """Count further units as done, and the non-zeros in them."""
        self._done += count
        if nnz is not None:
            self._rows, self._nnz = self._rows + count, self._nnz + nnz
        if self._drawn is not None:
            self._drawn.set_postfix_str(self._density(), refresh=False)
            self._drawn.update(count)
        elif self._progress.receiver is not None or time.monotonic() - self._when > _LOG_SECONDS:
            self._report()

    def _density(self) -> str:
        return f"{self._nnz / self._rows:.1f} active/row" if self._rows else ""

    def _report(self) -> None:
        if self._done != self._reported:
            label, verb, unit = self._words
            of = "" if self._total is None else f" of {self._total:,}"
            parts = [f"{label}: {self._done:,}{of} {unit} {verb}", self._density()]
            self._progress.line(", ".join(filter(None, parts)))
            self._reported, self._when = self._done, time.monotonic()


def _draws_bars() -> bool:
    """Whether stderr is a terminal or a notebook, and tqdm is installed."""
    import importlib.util

    return (sys.stderr.isatty() or "ipykernel" in sys.modules) and importlib.util.find_spec("tqdm") is not None
