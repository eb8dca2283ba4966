"""Embeddings through an SAE, as a row source: read ahead, checked, encoded batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from saestore.embeddings.base import EmbeddingSource
from saestore.errors import InvalidInputError
from saestore.sae.encode import Encoder, TruncationStats, reduce_batch
from saestore.sparse_rows import Advance, SparseRows

_CHECK_BYTES = 64 << 20
_COMPARED = 1 << 24  # rows among which identical ones are looked for


class EncodedRows:
    """A `RowSource`: the activations that an SAE gives to embeddings, in `dtype`, at most `top_k` per row.

    `record` is where the embeddings come from, besides what every source of embeddings records.
    """

    def __init__(
        self, source: EmbeddingSource, encoder: Encoder, dtype: str, top_k: int | None, record: Mapping[str, Any]
    ) -> None:
        self.source, self.encoder = source, encoder
        self._dtype, self._top_k, self._record = np.dtype(dtype), top_k, record
        self.dropped = TruncationStats()
        self.n_identical = self.n_compared = 0
        self._measured: tuple[int, SparseRows] | None = None  # a batch that `read` need not encode again

    @property
    def n_rows(self) -> int:
        """Number of embeddings."""
        return self.source.n_rows

    @property
    def n_features(self) -> int:
        """Width of the SAE."""
        return self.encoder.d_sae

    def fingerprint(self, n_rows: int | None = None) -> str:
        """Digest of the first `n_rows` embeddings, by default of all."""
        return self.source.fingerprint(n_rows)

    def provenance(self) -> dict[str, Any]:
        """Where the embeddings come from."""
        source = self.source
        shape = {"n_rows": source.n_rows, "d_in": source.d_in, "dtype": source.dtype}
        return {**self._record, "path": source.path, "layout": source.layout, **shape}

    def check(self, first: int, advance: Advance) -> None:
        """Read the embeddings from row `first` on, refuse NaN and infinity, and count identical ones.

        Of more than 16 million rows, those among the first 16 million. Reading costs a hundredth of encoding. Memory:
        64 MiB of embeddings, and 10 bytes per row that is compared.
        """
        source = self.source
        hashes = np.empty(min(source.n_rows - first, _COMPARED), np.uint64)
        step = max(1, _CHECK_BYTES // (4 * source.d_in))
        for start in range(first, source.n_rows, step):
            block = source.read(start, min(start + step, source.n_rows))
            # One finite sum shows a block to be finite. Another sum may have overflowed: then each value is looked at.
            if not torch.isfinite(block.sum(dtype=torch.promote_types(block.dtype, torch.float32))):
                finite = torch.isfinite(block).all(dim=1)
                if not finite.all():
                    row = int(torch.argmin(finite.to(torch.uint8)))
                    bad = block[row][~torch.isfinite(block[row])][0].item()
                    raise InvalidInputError(
                        f"row {start + row:,} of {source.path} holds {bad}; embeddings must be finite. Nothing was "
                        "written.",
                        code="not-finite",
                    )
            _hash(block, hashes[start - first : start - first + len(block)])
            advance(len(block), 0)
        hashes.sort()
        like_next = hashes[1:] == hashes[:-1]
        # Each that is like the next one, and the last of each run of them.
        self.n_compared = len(hashes)
        self.n_identical = int(
            np.count_nonzero(like_next) + np.count_nonzero(np.diff(like_next, prepend=False)[like_next])
        )

    def read(self, start: int, stop: int, advance: Advance | None = None) -> SparseRows:
        """Encode rows `start` to `stop`; batches begin at `start`, so that a segment has the same ones in every build.

        Memory: one dense batch of pre-activations (128 MiB), two batches of embeddings, and the rows.
        """
        step = self.encoder.batch_rows
        spans = [(first, min(first + step, stop)) for first in range(start, stop, step)]
        parts: list[SparseRows] = []
        self.dropped = TruncationStats()
        for (first, _), block in _read_ahead(self.source.read, spans):
            batch = self._encode(block, first)
            parts.append(batch)
            if advance is not None:
                advance(len(block), batch.nnz)
        return SparseRows.concat(parts)

    def measure(self, first: int) -> tuple[int, float, float]:
        """Rows, mean number of active features and explained variance of the batch from row `first` on."""
        count = min(self.encoder.batch_rows, self.n_rows - first)
        block = self.source.read(first, first + count)
        batch = self.encoder.encode(block, first)
        self._measured = first, batch
        return count, batch.nnz / count, self.encoder.explained_variance(block, batch)

    def _encode(self, block: Any, first: int) -> SparseRows:
        held, self._measured = self._measured, None
        same = held is not None and (held[0], len(held[1])) == (first, len(block))
        batch = held[1] if held is not None and same else self.encoder.encode(block, first)
        if self._top_k is None and batch.data.dtype == self._dtype:
            return batch
        batch, dropped = reduce_batch(batch, self._top_k, self._dtype.name, first)
        self.dropped += dropped
        return batch


def _read_ahead(
    read: Callable[[int, int], Any], spans: Sequence[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], Any]]:
    """Every span with the result of `read`; the next span is read while the caller works on this one."""
    with ThreadPoolExecutor(1) as reader:
        ahead: Future[Any] = reader.submit(read, *spans[0])
        for index, span in enumerate(spans):
            block = ahead.result()
            if index + 1 < len(spans):
                ahead = reader.submit(read, *spans[index + 1])
            yield span, block


def _hash(rows: torch.Tensor, out: np.ndarray[Any, Any]) -> None:
    """Fill `out`, uint64 (n,), with a number for each of the first n rows: equal for equal bytes, else nearly never."""
    data = rows[: len(out)].contiguous().view(torch.uint8).numpy()
    words = data.view(np.uint64 if data.shape[1] % 8 == 0 else np.uint16)
    random: Any = np.random.default_rng(0).integers(1 << 63, size=words.shape[1] + 1, dtype=np.uint64) * 2 + 1
    step = max(1, (1 << 18) // len(random))  # a block of products stays in the processor's cache
    for i in range(0, len(out), step):
        products = words[i : i + step] * random[0]
        # Floats of whole numbers have zeros in all but their highest bits, which the next product alone would push out.
        products ^= products >> np.uint64(32)
        products *= random[1:]
        products.sum(1, out=out[i : i + step])
