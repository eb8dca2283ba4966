"""What is wrong, or good to know, in files of other programs: counted while they are read, reported once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Severity = Literal["error", "fixed", "info"]  # described in `saestore.vocabulary.SEVERITIES`


@dataclass(frozen=True)
class Issue:
    """One kind of issue in an input."""

    kind: str  # a stable name, such as ``not_finite``
    severity: Severity  # ``error``, ``fixed`` or ``info``
    message: str  # the issue, how often and where it first occurs, and what to do
    count: int = 1  # number of rows, entries or columns with it
    details: Mapping[str, Any] = field(default_factory=dict)  # more for programs, such as each wrong column

    def to_json(self, *, details: bool = True) -> dict[str, Any]:
        """JSON-able values."""
        values = {"kind": self.kind, "severity": self.severity, "count": self.count, "message": self.message}
        return {**values, "details": dict(self.details)} if details and self.details else values


def _n(count: int, one: str, several: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _duplicates(n: int, first: tuple[Any, ...]) -> str:
    return (
        f"{_n(n, 'entry repeats', 'entries repeat')} a feature of the same row: row {first[0]:,} has feature "
        f"{first[1]} more than once"
    )


# Kind -> severity, and the message from the number of entries and the place of the first.
_KINDS: dict[str, tuple[Severity, Callable[[int, tuple[Any, ...]], str]]] = {
    "not_finite": (
        "error",
        lambda n, first: (
            f"{_n(n, 'activation')} not finite: row {first[0]:,}, feature {first[1]} is {first[2]}"
            + ("; float16 holds nothing above 65,504, so it may be an overflow" if first[3] else "")
        ),
    ),
    "id_out_of_range": (
        "error",
        lambda n, first: (
            f"{_n(n, 'feature id')} outside of 0 to {first[2]}: row {first[0]:,} has {first[1]}; check --n-features"
        ),
    ),
    "duplicates": ("error", lambda n, first: f"{_duplicates(n, first)}; the file does not show which one is right"),
    "summed_duplicates": ("fixed", lambda n, first: f"{_duplicates(n, first)}; added up, as scipy does"),
    "padding": (
        "info",
        lambda n, first: (
            f"{_n(n, 'place')} with the value 0 (row {first[0]:,} first): padding, its feature ids ignored"
        ),
    ),
    "explicit_zeros": ("info", lambda n, first: f"{_n(n, 'zero')} stored (row {first[0]:,} first); left out"),
    "negative": (
        "info",
        lambda n, first: f"{_n(n, 'negative activation')}; row {first[0]:,}, feature {first[1]} first; kept",
    ),
    "unsorted": ("fixed", lambda n, _: f"feature ids do not ascend in {_n(n, 'row')}; sorted"),
}


class IssueCollector:
    """Counts issues, cleaned rows, their entries and the rows that are full, while rows are read; see `Opened`."""

    def __init__(self, n_features: int, row_capacity: int | None = None, *, sum_duplicates: bool = False) -> None:
        self.n_features, self.row_capacity, self.sum_duplicates = n_features, row_capacity, sum_duplicates
        self.n_rows = self.nnz = self.n_full = 0
        self._counts = dict.fromkeys(_KINDS, 0)
        self._first: dict[str, tuple[Any, ...]] = {}

    def add(self, kind: str, entries: Array, describe: Callable[[int], tuple[Any, ...]]) -> None:
        """Count these entries, (n,) indices; `describe` gives the values of the first one for the message."""
        if len(entries):
            self._counts[kind] += len(entries)
            if kind not in self._first:
                self._first[kind] = describe(int(entries[0]))

    def count_rows(self, lengths: Array) -> None:
        """Count cleaned rows of these lengths."""
        self.n_rows += len(lengths)
        self.nnz += int(lengths.sum())
        if self.row_capacity is not None:
            self.n_full += int((lengths == self.row_capacity).sum())

    def issues(self) -> list[Issue]:
        """All issues that occurred."""
        return [
            Issue(kind, severity, message(count, self._first[kind]), count)
            for kind, (severity, message) in _KINDS.items()
            if (count := self._counts[kind])
        ]


def refusal(issues: Sequence[Issue]) -> str | None:
    """One sentence about the errors, for which nothing may be written; None where there are none."""
    errors = [issue for issue in issues if issue.severity == "error"]
    if not errors:
        return None
    more = f" (and {len(errors) - 1} more: `saestore import --check` lists all)" if len(errors) > 1 else ""
    return f"{errors[0].message}{more}"
