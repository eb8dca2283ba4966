"""Rows of samples, merged over segments, a bounded block at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from saestore.kernels import runs_of
from saestore.segment.read import Segment, read_rows
from saestore.sparse_rows import Array, SparseRows

_BLOCK = 1 << 22  # non-zeros of a block of rows
ROW = 4  # non-zeros that take as much memory as the place of a row


def iterate_rows(
    segments: Sequence[Segment], rows: Array, block: int = _BLOCK, *, values: bool = True
) -> Iterator[tuple[Array, SparseRows]]:
    """Ascending distinct `rows` in blocks: their numbers and their entries, without `values` each True.

    Memory: about `block` non-zeros.
    """
    for plan in _plan_rows(segments, rows, block):
        parts = [part for _, part in plan]
        blocks = read_rows([(segment, *runs_of(part)) for segment, part in plan], values=values)
        yield parts[0] if len(parts) == 1 else np.concatenate(parts), SparseRows.concat(blocks)


def _plan_rows(segments: Sequence[Segment], rows: Array, block: int) -> Iterator[list[tuple[Segment, Array]]]:
    """Blocks of rows of one or several segments, from the mean number of non-zeros per row."""
    plan: list[tuple[Segment, Array]] = []
    room = float(block)
    for segment in segments:
        info = segment.info
        inside = rows[np.searchsorted(rows, info.start) : np.searchsorted(rows, info.stop)]
        per_row = max(ROW, info.nnz / max(1, info.n_rows))
        while len(inside):
            n = max(1, int(room / per_row))
            plan.append((segment, inside[:n]))
            room -= per_row * len(plan[-1][1])
            inside = inside[n:]
            if room < per_row:
                yield plan
                plan, room = [], float(block)
    if plan:
        yield plan
