"""What is wrong, or good to know, in files of other programs: counted while they are read, reported once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from saestore.sparse_rows import Array

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


_REPEATS = "{n} a feature of the same row: row {0:,} has feature {1} more than once; "
# Kind -> severity, what is counted (one, and several), and the message of it and of the values of the first one.
_KINDS: dict[str, tuple[Severity, str, str, str]] = {
    "not_finite": ("error", "activation", "activations", "{n} not finite: row {0:,}, feature {1} is {2}{3}"),
    "id_out_of_range": (
        "error", "feature id", "feature ids", "{n} outside of 0 to {2}: row {0:,} has {1}; check --n-features"
    ),
    "duplicates": ("error", "entry repeats", "entries repeat", _REPEATS + "the file does not show which one is right"),
    "summed_duplicates": ("fixed", "entry repeats", "entries repeat", _REPEATS + "added up, as scipy does"),
    "padding": ("info", "place", "places", "{n} with the value 0 (row {0:,} first): padding, its feature ids ignored"),
    "explicit_zeros": ("info", "zero", "zeros", "{n} stored (row {0:,} first); left out"),
    "negative": ("info", "negative activation", "negative activations", "{n}; row {0:,}, feature {1} first; kept"),
    "unsorted": ("fixed", "row", "rows", "feature ids do not ascend in {n}; sorted"),
}  # fmt: skip


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
            Issue(kind, level, text.format(*self._first[kind], n=f"{count:,} {one if count == 1 else several}"), count)
            for kind, (level, one, several, text) in _KINDS.items()
            if (count := self._counts[kind])
        ]


def refusal(issues: Sequence[Issue]) -> str | None:
    """One sentence about the errors, for which nothing may be written; None where there are none."""
    errors = [issue for issue in issues if issue.severity == "error"]
    if not errors:
        return None
    more = f" (and {len(errors) - 1} more: `saestore import --check` lists all)" if len(errors) > 1 else ""
    return errors[0].message + more
