"""A foreign file as a row source: every row is cleaned on the way, and its faults are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from saestore.errors import InvalidInputError
from saestore.files import LIBRARY_DAMAGE, damage
from saestore.formats.base import Opened, clean, fingerprint
from saestore.formats.issues import Issue, IssueCollector, refusal
from saestore.sparse_rows import Advance, SparseRows


@dataclass
class FileRows:
    """A `RowSource` over a file that another program wrote."""

    opened: Opened
    n_features: int  # width of the SAE
    faults: Sequence[Issue]  # known before a row was read
    record: Mapping[str, Any] = field(default_factory=dict)  # where the activations come from, by the caller's word
    # The faults and the activations per row that the last `check` found.
    reported: Sequence[Issue] = ()
    density: float = 0.0

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.opened.n_rows

    @cached_property
    def _collector(self) -> IssueCollector:
        """Counts the faults of all rows that `read` gave."""
        return self._new_collector()

    def _new_collector(self) -> IssueCollector:
        opened = self.opened
        return IssueCollector(self.n_features, opened.row_capacity, sum_duplicates=opened.sum_duplicates)

    def check(self, first: int, advance: Advance) -> IssueCollector:
        """Read the rows from `first` on and report their faults; none is refused yet."""
        collector = self._new_collector()
        for start in range(first, self.n_rows, self.opened.step):
            rows = self._block(start, min(start + self.opened.step, self.n_rows), collector)
            advance(len(rows), rows.nnz)
        self.reported, self.density = self._faults(collector), collector.nnz / max(1, collector.n_rows)
        return collector

    def read(self, start: int, stop: int, advance: Advance | None = None) -> SparseRows:
        """Rows `start` to `stop`; refuses faults that `check` did not find."""
        parts = []
        for first in range(start, stop, self.opened.step):
            parts.append(self._block(first, min(first + self.opened.step, stop), self._collector))
            if advance is not None:
                advance(len(parts[-1]), parts[-1].nnz)
        if refusal(self._faults(self._collector)) is not None:
            raise InvalidInputError(
                f"{self.opened.path} changed during the import: it has new faults.", code="changed-file"
            )
        return SparseRows.concat(parts)

    def fingerprint(self, n_rows: int | None = None) -> str:
        """Digest of the files; a digest of the first rows alone does not exist."""
        if n_rows not in (None, self.n_rows):
            raise ValueError("a file has a fingerprint of all its rows only")
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return self.opened.digest or fingerprint(self.opened.files)

    def provenance(self) -> dict[str, Any]:
        """Which file it is, and its faults."""
        opened = self.opened
        return {
            "kind": "import",
            "format": opened.format,
            "path": opened.path,
            **opened.source,
            **self.record,
            "n_rows": opened.n_rows,
            "dtype": opened.dtype,
            "faults": [fault.to_json(details=False) for fault in self.reported],
        }

    def _block(self, start: int, stop: int, collector: IssueCollector) -> SparseRows:
        opened = self.opened
        with damage(opened.path, f"cannot be read at rows {start:,} to {stop:,}", *LIBRARY_DAMAGE):
            rows = opened.read(start, stop)
        return clean(rows, start, collector, opened.dtype)

    def _faults(self, collector: IssueCollector) -> list[Issue]:
        return [*self.faults, *collector.issues(), *_cut_off(self.opened, collector)]


def _cut_off(opened: Opened, collector: IssueCollector) -> list[Issue]:
    """Rows that fill all places are cut off, unless the SAE itself gives this many activations to every row."""
    k, full, known = opened.row_capacity, collector.n_full, opened.sae.get("architecture")
    if k is None or not full or known == "topk" or (known is None and full == collector.n_rows):
        return []
    message = f"{full:,} of {collector.n_rows:,} rows fill all {k} places: further activations of the SAE are lost"
    message += ", unless it is a TopK SAE" if known is None else ""
    message += f"; {opened.when_full}" if opened.when_full else ""
    return [Issue("cut_to_k", "info", message, full)]
