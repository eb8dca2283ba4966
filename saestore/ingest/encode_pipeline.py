"""Reading, encoding and writing at the same time, from the first row that is not committed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from saestore.errors import InvalidInputError
from saestore.ingest.build_plan import Plan
from saestore.sae.encode import TruncationStats, reduce_batch
from saestore.sparse_rows import SparseRows
from saestore.writing import SetWriter

OnBatch = Callable[[int, int], None]
_CHECK_BYTES = 64 << 20


def check_finite(plan: Plan, first: int, advance: Callable[[int], None]) -> None:
    """Read the embeddings from row `first` on and refuse NaN and infinity, before anything is written.

    Reading costs a hundredth of encoding. Memory: 64 MiB of embeddings.

    Raises
    ------
    InvalidInputError
        Names the first such row.
    """
    source = plan.source
    step = max(1, _CHECK_BYTES // (4 * source.d_in))
    for start in range(first, source.n_rows, step):
        block = source.read(start, min(start + step, source.n_rows))
        # One sum shows most blocks to be finite; only where it is not (it may also have overflowed) is each value seen.
        if not torch.isfinite(block.sum(dtype=torch.promote_types(block.dtype, torch.float32))):
            finite = torch.isfinite(block).all(dim=1)
            if not finite.all():
                row = start + int(torch.argmin(finite.to(torch.uint8)))
                bad = block[row - start][~torch.isfinite(block[row - start])][0].item()
                raise InvalidInputError(
                    f"row {row:,} of {source.path} holds {bad}; embeddings must be finite. Nothing was written."
                )
        advance(len(block))


def encode_and_write(plan: Plan, writer: SetWriter, on_batch: OnBatch) -> None:
    """Encode the rows that are not committed yet and commit them segment by segment.

    Parameters
    ----------
    on_batch
        Called with the rows and non-zeros of every encoded batch.

    Notes
    -----
    One thread reads ahead, this one encodes, a third sorts, compresses and writes. Memory: one dense batch of
    pre-activations (128 MiB), two batches of embeddings, and two segments of some 2 million non-zeros (100 MiB each).
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as sink:
        pending: Future[Any] | None = None
        for parts, dropped in _segments(plan, writer, reader, on_batch):
            if pending is not None:
                pending.result()
            pending = sink.submit(_write, writer, parts, dropped)
            del parts
        if pending is not None:
            pending.result()


def _segments(
    plan: Plan, writer: SetWriter, reader: ThreadPoolExecutor, on_batch: OnBatch
) -> Iterator[tuple[list[SparseRows], TruncationStats]]:
    """The encoded batches of one segment after the other.

    Batches begin anew with each segment, so that a resumed build encodes the same batches as an undisturbed one.
    """
    attributes = writer.attributes
    if attributes is None:
        raise RuntimeError("the set was not started")
    n, rows = plan.source.n_rows, attributes.segment_rows
    parts: list[SparseRows] = []
    dropped = TruncationStats()
    spans = _spans(attributes.n_samples, n, rows, plan.encoder.batch_rows)
    for (start, stop), block in _read_ahead(plan.source.read, spans, reader):
        batch, lost = encode_batch(plan, block, start)
        parts.append(batch)
        dropped += lost
        on_batch(stop - start, batch.nnz)
        if stop == n or (stop - attributes.n_samples) % rows == 0:
            yield parts, dropped
            parts, dropped = [], TruncationStats()


def _spans(first: int, n: int, segment_rows: int, batch_rows: int) -> Iterator[tuple[int, int]]:
    """Start and stop of every batch, from row `first` on."""
    for segment in range(first, n, segment_rows):
        end = min(segment + segment_rows, n)
        yield from ((start, min(start + batch_rows, end)) for start in range(segment, end, batch_rows))


def _read_ahead(
    read: Callable[[int, int], Any], spans: Iterator[tuple[int, int]], reader: ThreadPoolExecutor
) -> Iterator[tuple[tuple[int, int], Any]]:
    """Every span with what `read` gives for it, the next one read while the caller works on this one."""
    ahead: tuple[tuple[int, int], Future[Any]] | None = None
    for span in spans:
        following = span, reader.submit(read, *span)
        if ahead is not None:
            yield ahead[0], ahead[1].result()
        ahead = following
    if ahead is not None:
        yield ahead[0], ahead[1].result()


def encode_batch(plan: Plan, block: Any, first_row: int) -> tuple[SparseRows, TruncationStats]:
    """Encode embeddings and apply ``top_k`` and ``dtype``, as the request asks."""
    batch = plan.encoder.encode(block, first_row)
    r = plan.request
    if r.top_k is None and batch.data.dtype == np.dtype(plan.dtype):
        return batch, TruncationStats()
    return reduce_batch(batch, r.top_k, plan.dtype, first_row)


def _write(writer: SetWriter, parts: list[SparseRows], dropped: TruncationStats) -> None:
    offsets = np.cumsum([0, *(p.nnz for p in parts)])
    indptr = np.concatenate([[0], *(p.indptr[1:] + o for p, o in zip(parts, offsets[:-1], strict=True))])
    indices = np.concatenate([p.indices for p in parts])
    data = np.concatenate([p.data for p in parts])
    parts.clear()
    attributes = writer.attributes
    changes: dict[str, Any] = {}
    if attributes is not None and attributes.dropped is not None:
        changes["dropped"] = add_dropped(dict(attributes.dropped), dropped)
    writer.append(indptr.astype(np.int64), indices, data, **changes)


def add_dropped(record: dict[str, Any], dropped: TruncationStats) -> dict[str, Any]:
    """The record of what was dropped so far, with that of one more segment."""
    before = TruncationStats(
        record.get("n_dropped", 0),
        record.get("sum_dropped", 0.0),
        record.get("sum_total", 0.0),
        record.get("max_relative_error", 0.0),
    )
    both = before + dropped
    return {
        **record,
        "n_dropped": both.n_dropped,
        "sum_dropped": both.sum_dropped,
        "sum_total": both.sum_total,
        "share_of_sum": both.sum_dropped / both.sum_total if both.sum_total else 0.0,
        "max_relative_error": both.max_rel_error,
    }
