"""Activations as torch tensors, and as batches for training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch.utils.data import IterableDataset, get_worker_info

from saestore.errors import CorruptStoreError, InvalidInputError, check_at_least
from saestore.query.open_set import retry_on_stale_snapshot
from saestore.query.rows import iterate_rows
from saestore.query.selection import select
from saestore.query.slices import DENSE_LIMIT, check_size
from saestore.sae.encode import usable_device
from saestore.sparse_rows import Array, SparseRows
from saestore.storage import at_once, keep_freed_memory, n_threads

if TYPE_CHECKING:
    from saestore.query.reader import SetReader

_WORTH_THREADS = 1 << 18  # non-zeros that are mixed in threads
_KEPT = 31 << 20  # bytes, the most that glibc keeps: a buffer's activations of 60 a row, for the next buffer


class Batch(NamedTuple):
    """Rows and the samples that they belong to."""

    values: torch.Tensor  # activations, float32 or float64 (n, features): a sparse CSR tensor, or a dense one
    samples: torch.Tensor  # their samples, int64 (n,)

    def __reduce__(self) -> tuple[Any, ...]:
        # torch's own way to send a CSR tensor to another process warns in that one.
        if self.values.layout != torch.sparse_csr:
            return Batch, tuple(self)
        parts = self.values.crow_indices(), self.values.col_indices(), self.values.values()
        return _batch, (*parts, tuple(self.values.shape), self.samples)


def _batch(
    pointers: torch.Tensor, ids: torch.Tensor, data: torch.Tensor, shape: tuple[int, int], samples: torch.Tensor
) -> Batch:
    # Not checked, which takes a third of the time of a scan: ids are held against the width where they are read.
    return Batch(torch.sparse_csr_tensor(pointers, ids, data, size=shape, check_invariants=False), samples)


class Batches(IterableDataset[Batch]):
    """Batches of rows; see `ActivationSet.torch_dataset`."""

    def __init__(
        self,
        acts: SetReader,
        batch_size: int,
        samples: Any,
        features: Any,
        *,
        shuffle: bool,
        seed: int,
        sparse: bool,
        block_rows: int,
        buffer_rows: int,
        device: str | None,
    ) -> None:
        batch_size = check_at_least("batch_size", batch_size, 1)
        block_rows, buffer_rows = (
            check_at_least("block_rows", block_rows, 1),
            check_at_least("buffer_rows", buffer_rows, 1),
        )
        self._acts, self._batch_size, self._sparse = acts, batch_size, sparse
        self._device = None if device is None else usable_device(device)
        self._rows = None if samples is None else select(samples, acts.shape[0], "sample").ids
        self._n_rows = acts.shape[0] if self._rows is None else len(self._rows)
        self._features = acts.select_features(features).ids if features is not None else None
        self._width = acts.shape[1] if self._features is None else len(self._features)
        if not sparse:
            check_size((batch_size, self._width), 4, DENSE_LIMIT, "Use a smaller batch_size, or sparse=True.")
        self._shuffle, self._seed = shuffle, seed
        # In shared memory, so that workers that stay alive see the epoch that the training loop sets.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._block = block_rows
        # Whole batches, so that only the last batch of all can be short, for any number of workers.
        self._buffer = max(1, buffer_rows // batch_size) * batch_size

    def __len__(self) -> int:
        """Batches per epoch."""
        return (self._n_rows + self._batch_size - 1) // self._batch_size

    def __repr__(self) -> str:
        return f"<batches of {self._acts.path}: {self._n_rows:,} rows in {len(self):,} of {self._batch_size:,}>"

    def set_epoch(self, epoch: int) -> None:
        """Give the next iteration another order; the same `seed` and epoch give the same order."""
        self._epoch.fill_(check_at_least("epoch", epoch, 0))

    def __iter__(self) -> Iterator[Batch]:
        return self._host() if self._device is None else self._moved(self._device)

    def _moved(self, device: torch.device) -> Iterator[Batch]:
        """The batches on a device, the next one on its way while one is used."""
        if get_worker_info() is not None:
            message = (
                f"device={str(device)!r} is for batches of this process. Of workers give DataLoader(pin_memory=True)."
            )
            raise InvalidInputError(message, code="device-in-worker")
        before = None
        for batch in self._host():
            parts = [part.pin_memory() for part in batch] if device.type == "cuda" else batch
            moved = Batch(*(part.to(device, non_blocking=True) for part in parts))
            if before is not None:
                yield before
            before = moved
        if before is not None:
            yield before

    def _host(self) -> Iterator[Batch]:
        worker = get_worker_info()
        keep_freed_memory(_KEPT)
        buffers = self._buffers(*((0, 1) if worker is None else (worker.id, worker.num_workers)))
        with ThreadPoolExecutor(1) as reading:  # decoding and mixing let other threads run meanwhile
            ahead: list[Future[list[tuple[SparseRows, Array]]]] = []
            for rows, order in buffers:
                ahead.append(reading.submit(self._mixed, rows, order))
                if len(ahead) > 1:
                    yield from self._batches(ahead.pop(0).result())
            for last in ahead:
                yield from self._batches(last.result())

    def item_entropy(self) -> tuple[float, float]:
        """How well the present epoch is mixed: mean entropy of the items in a batch, in bits.

        Returns
        -------
        tuple of float
            Of these batches, and of batches of the same rows in an entirely random order, which is the most that any
            shuffle reaches. Reads no activation. Memory: 32 bytes per row of a buffer, and 16 per row of all.
        """
        buffers = [rows if order is None else rows[order] for rows, order in self._buffers(0, 1)]
        rows = np.concatenate([np.empty(0, np.int64), *buffers])
        shuffled = np.random.default_rng(self._seed).permutation(rows)
        return self._entropy(rows), self._entropy(shuffled)

    def _entropy(self, rows: Array) -> float:
        items = self._acts.item_index.locate(rows)[0]
        total = 0.0
        for start in range(0, len(items), self._batch_size):
            counts = np.unique(items[start : start + self._batch_size], return_counts=True)[1]
            shares = counts / counts.sum()
            total -= float((shares * np.log2(shares)).sum())
        return total / max(1, len(self))

    def _buffers(self, first: int, step: int) -> Iterator[tuple[Array, Array | None]]:
        """The rows of every `step`-th buffer, as they are read, and the order in which they come; None for the same."""
        epoch = int(self._epoch)
        blocks = np.arange(-(-self._n_rows // self._block))
        if self._shuffle:
            np.random.default_rng([self._seed, epoch]).shuffle(blocks)
        lengths = np.minimum(self._block, self._n_rows - blocks * self._block)
        starts, ends = blocks * self._block, np.cumsum(lengths)
        for buffer in range(first, -(-self._n_rows // self._buffer), step):
            index = self._index_of(starts, ends, buffer)
            if not self._shuffle:
                yield index if self._rows is None else self._rows[index], None
                continue
            order = np.random.default_rng([self._seed, epoch, buffer + 1]).permutation(len(index))
            yield index if self._rows is None else np.sort(self._rows[index]), order

    def _index_of(self, starts: Array, ends: Array, buffer: int) -> Array:
        """Ascending indices of the requested rows that are in one buffer, so that few requests read them."""
        begin, stop = buffer * self._buffer, min((buffer + 1) * self._buffer, self._n_rows)
        inside = range(int(np.searchsorted(ends, begin, "right")), int(np.searchsorted(ends, stop, "left")) + 1)
        pieces = []
        for i in sorted(inside, key=starts.__getitem__):
            first = int(ends[i - 1]) if i else 0
            a, b = max(begin, first) - first, min(stop, int(ends[i])) - first
            pieces.append(np.arange(starts[i] + a, starts[i] + b))
        return np.concatenate(pieces)

    def _mixed(self, rows: Array, order: Array | None) -> list[tuple[SparseRows, Array]]:
        """The rows of a buffer and their numbers, in parts of whole batches."""
        values = self._read(rows)
        if values.nnz and int(values.indices.max()) >= self._width:  # torch would follow it out of its memory
            raise CorruptStoreError(f"{self._acts.path} holds a feature beyond its {self._width:,}. Verify it.")
        if order is None:
            return [(values, rows)]
        lengths, pick = np.diff(values.indptr), values.select
        if (lengths != lengths[:1]).any():
            # scipy's loop takes a quarter of the time of numpy's steps, with ids and pointers of 32 bits.
            narrow = np.int32 if values.nnz < 1 << 31 else np.int64
            parts = values.data, values.indices.astype(narrow), values.indptr.astype(narrow)
            csr = sp.csr_array(parts, shape=(len(rows), self._width))

            def pick(rows: Array) -> SparseRows:
                part = csr[rows]
                return SparseRows(part.indptr, part.indices, part.data)

        n = n_threads() if values.nnz >= _WORTH_THREADS else 1
        step = -(-len(order) // (n * self._batch_size)) * self._batch_size
        shares = [order[start : start + step] for start in range(0, len(order), step)]
        return at_once(lambda share: (pick(share), rows.take(share)), shares)

    def _batches(self, parts: list[tuple[SparseRows, Array]]) -> Iterator[Batch]:
        size = self._batch_size
        for values, rows, start in ((*part, start) for part in parts for start in range(0, len(part[1]), size)):
            part = slice(start, start + size)
            samples = torch.from_numpy(rows[part].copy())  # a view would keep the whole buffer
            batch = values[part]
            if not self._sparse:
                dense = np.zeros((len(batch), self._width), batch.data.dtype)
                dense.reshape(-1)[batch.rows() * self._width + batch.indices] = batch.data
                yield Batch(torch.from_numpy(dense), samples)
                continue
            pointers, ids = (torch.from_numpy(each.astype(np.int64)) for each in (batch.indptr, batch.indices))
            yield _batch(pointers, ids, torch.from_numpy(batch.data.copy()), (len(batch), self._width), samples)

    def _read(self, rows: Array) -> SparseRows:
        """Ascending rows, their activations in a type that torch computes with."""
        if self._features is None and (rows[1:] > rows[:-1]).all():
            return _whole_rows(self._acts, rows)
        csr = self._acts.sparse(rows, self._features)
        return SparseRows(csr.indptr, csr.indices, csr.data)


@retry_on_stale_snapshot
def _whole_rows(acts: SetReader, rows: Array) -> SparseRows:
    parts = [block for _, block in iterate_rows(acts.segments, rows)]
    values = SparseRows.concat(parts)
    return values.astype(np.result_type(values.data.dtype, np.float32))


def csr_tensor(csr: sp.csr_array) -> torch.Tensor:
    """A scipy matrix as a torch sparse CSR tensor, with int64 ids."""
    pointers, ids = (torch.from_numpy(part.astype(np.int64)) for part in (csr.indptr, csr.indices))
    # Checked: with invalid ids of a damaged store torch would read outside of its memory.
    return torch.sparse_csr_tensor(pointers, ids, torch.from_numpy(csr.data), size=csr.shape, check_invariants=True)


with warnings.catch_warnings():
    # torch warns once about CSR tensors that they are new; a caller cannot change that.
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
    torch.sparse_csr_tensor([0], [], [], size=(0, 0), check_invariants=False)
