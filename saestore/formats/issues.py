"""What is wrong, or worth knowing, in files that others wrote: counted while they are read, told once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]

# refused: it would change answers and nothing here can put it right. corrected: it would have, and was put right.
# recorded: the values are as they are in the file, and it is good to know.
Severity = Literal["refused", "corrected", "recorded"]


@dataclass(frozen=True)
class Issue:
    """One kind of fault in an input.

    Attributes
    ----------
    kind
        A stable name, such as ``not_finite``.
    severity
        ``refused``, ``corrected`` or ``recorded``.
    message
        What it is, how often, where first, and what to do.
    count
        How many rows, entries or columns it touches.
    details
        What a program may want to know of it and a person would not read, such as each wrong column.
    """

    kind: str
    severity: Severity
    message: str
    count: int = 1
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self, *, details: bool = True) -> dict[str, Any]:
        """JSON-able values."""
        found = {"kind": self.kind, "severity": self.severity, "count": self.count, "message": self.message}
        return {**found, "details": dict(self.details)} if details and self.details else found


@dataclass
class Tally:
    """How often one kind of fault was met, and where first."""

    count: int = 0
    first: tuple[Any, ...] = ()

    def add(self, count: int, first: Callable[[], tuple[Any, ...]]) -> None:
        """Met `count` times more; `first` says where, and is only asked the first time."""
        if count and not self.count:
            self.first = first()
        self.count += count


class IssueCollector:
    """What was met while rows were read.

    Parameters
    ----------
    n_features
        Width of the SAE.
    row_capacity
        Entries of a row that has no place left, of files that have so many places in each row; else None.
    """

    def __init__(self, n_features: int, row_capacity: int | None) -> None:
        self.n_features = n_features
        self.row_capacity = row_capacity
        self.not_finite, self.out_of_range, self.twice = Tally(), Tally(), Tally()
        self.zeros, self.unsorted, self.negative = Tally(), Tally(), Tally()
        self.rows = self.nnz = self.full = 0

    def count_rows(self, lengths: Array) -> None:
        """Count cleaned rows of these lengths."""
        self.rows += len(lengths)
        self.nnz += int(lengths.sum())
        if self.row_capacity is not None:
            self.full += int((lengths == self.row_capacity).sum())

    def faults(self, *, padded: bool, summed: bool) -> list[Issue]:
        """What was met, told; zeros are padding where `padded`, and duplicates were added up where `summed`."""
        told = [*self._refusals(summed), *self._remarks(padded)]
        return [fault for fault in told if fault.count]

    def _refusals(self, summed: bool) -> list[Issue]:
        bad, out, twice = self.not_finite, self.out_of_range, self.twice
        rest = "" if not bad.count else (
            f"row {bad.first[0]:,}, feature {bad.first[1]} is {bad.first[2]}"
            + ("; float16 holds nothing above 65,504, so it may be an overflow" if bad.first[3] else "")
        )  # fmt: skip
        faults = [
            Issue("not_finite", "refused", f"{_times(bad.count, 'activation')} not finite: {rest}", bad.count),
            Issue(
                "id_out_of_range",
                "refused",
                f"{_times(out.count, 'feature id')} outside of 0 to {self.n_features - 1}: "
                + ("" if not out.count else f"row {out.first[0]:,} has {out.first[1]}")
                + "; check --n-features",
                out.count,
            ),
        ]
        where = "" if not twice.count else f": row {twice.first[0]:,} has feature {twice.first[1]} more than once"
        if summed:
            said = f"{_times(twice.count, 'entry', 'entries')} of a feature that its row has already{where}; added up"
            faults.append(Issue("duplicates", "corrected", f"{said}, as scipy does", twice.count))
        else:
            said = f"{_times(twice.count, 'entry', 'entries')} of a feature that its row has already{where}"
            faults.append(Issue("duplicates", "refused", f"{said}; which of them is right cannot be told", twice.count))
        return faults

    def _remarks(self, padded: bool) -> list[Issue]:
        zeros, negative, order = self.zeros, self.negative, self.unsorted
        first = "" if not zeros.count else f" (row {zeros.first[0]:,} first)"
        if padded:
            what = Issue(
                "padding",
                "recorded",
                f"{_times(zeros.count, 'place')} with the value 0{first}: padding, whose feature ids mean nothing",
                zeros.count,
            )
        else:
            what = Issue(
                "explicit_zeros", "recorded", f"{_times(zeros.count, 'zero')} stored{first}; left out", zeros.count
            )
        signs = "" if not negative.count else f"; row {negative.first[0]:,}, feature {negative.first[1]} first"
        return [
            what,
            Issue(
                "negative",
                "recorded",
                f"{_times(negative.count, 'negative activation')}{signs}; kept",
                negative.count,
            ),
            Issue(
                "unsorted",
                "corrected",
                f"feature ids do not ascend in {_times(order.count, 'row')}; sorted",
                order.count,
            ),
        ]  # fmt: skip


def _times(count: int, one: str, several: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def refusal(faults: Sequence[Issue]) -> str | None:
    """One sentence of the faults for which nothing may be written, None where there are none."""
    bad = [fault for fault in faults if fault.severity == "refused"]
    if not bad:
        return None
    more = f" (and {len(bad) - 1} more: `saestore import --check` tells all)" if len(bad) > 1 else ""
    return f"{bad[0].message}{more}"
