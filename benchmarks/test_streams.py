"""Epochs of batches for training, in order and shuffled, beside a memory-mapped tensor and bare decoding."""

import inspect
import json
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

import saestore
from benchmarks.conftest import Dataset

BATCH, ROUNDS = 1024, 7
CHUNKS = 64  # that a thread decodes before it takes others
MIXED = [  # rows of a block and of a buffer that `torch_dataset` mixes by default, for annbatch too
    inspect.signature(saestore.ActivationSet.torch_dataset).parameters[name].default
    for name in ("block_rows", "buffer_rows")
]
ANNBATCH = Path(__file__).parents[1] / ".venv-annbatch" / "bin" / "python"
Batches = Iterator[tuple[Any, Any]]  # samples of each batch, and their rows as a sparse CSR tensor


def ours(data: Dataset, epoch: int, *, shuffle: bool) -> Batches:
    """`ActivationSet.torch_dataset` as it is."""
    batches = data.peers["saestore"].acts.torch_dataset(BATCH, shuffle=shuffle)
    batches.set_epoch(epoch)
    return ((batch.samples, batch.values) for batch in batches)


def mapped(data: Dataset, epoch: int, *, shuffle: bool) -> Batches:
    """The same batches of memory-mapped tensors: slices, or rows from anywhere in the file."""
    import torch

    peer, n = data.peers["pt"], data.matrix.shape[0]
    order = torch.from_numpy(np.random.default_rng(epoch).permutation(n)) if shuffle else torch.arange(n)
    for start, samples in zip(range(0, n, BATCH), order.split(BATCH), strict=True):
        rows = samples if shuffle else slice(start, start + BATCH)
        # A slice is a view of the file, of which nothing would be read.
        ids, values = (each[rows].clone().reshape(-1) for each in (peer.indices, peer.values))
        pointers = torch.arange(0, len(ids) + 1, len(ids) // len(samples))
        size = len(samples), data.matrix.shape[1]
        yield samples, torch.sparse_csr_tensor(pointers, ids, values, size=size, check_invariants=False)


def decode(data: Dataset) -> None:
    """Read and decode every chunk of the rows, in a thread for each processor, and make nothing of it."""
    chunks = [(a.decode, *place) for a in data.peers["limit"].rows_of_samples for place in a.offsets]

    def some(start: int) -> None:
        for decoded, file, offset, size in chunks[start : start + CHUNKS]:
            decoded(os.pread(file, size - 4, offset))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(some, range(0, len(chunks), CHUNKS)))


@contextmanager
def annbatch(data: Dataset, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of annbatch's environment that has written the data and waits."""
    sp.save_npz(folder / "matrix.npz", data.matrix, compressed=False)
    block, buffer = MIXED
    script, sizes = Path(__file__).with_name("annbatch_epochs.py"), (BATCH, block, buffer // block)
    command = [str(part) for part in (ANNBATCH, script, folder, *sizes)]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert json.loads(process.stdout.readline()) == {"rows": data.matrix.shape[0], "nnz": data.matrix.nnz}
        yield process
        process.stdin.close()


def seconds_of_annbatch(process: subprocess.Popen[str], data: Dataset, order: str) -> float:
    """An epoch of it, in which every row has to come once."""
    process.stdin.write(order + "\n")
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    assert (answer["rows"], answer["nnz"]) == (data.matrix.shape[0], data.matrix.nnz)
    return answer["seconds"]


EPOCHS = {
    f"{key} {'shuffled' if shuffle else 'in order'}": partial(batches, shuffle=shuffle)
    for key, batches in {"saestore": ours, "pt": mapped}.items()
    for shuffle in (False, True)
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor")
def test_epochs(data, full, recorder, tmp_path):
    pytest.importorskip("torch")
    others = [f"annbatch {order}" for order in ("in order", "shuffled")] if ANNBATCH.exists() else []
    seconds = {key: [] for key in [*EPOCHS, "limit", *others]}
    rng = np.random.default_rng(0)
    with annbatch(data, tmp_path) if others else nullcontext() as process:
        for epoch in range(ROUNDS if full else 1):
            for key in rng.permutation(list(seconds)).tolist():
                if key in others:
                    seconds[key].append(seconds_of_annbatch(process, data, key.removeprefix("annbatch ")))
                    continue
                started = time.perf_counter()
                samples = decode(data) if key == "limit" else [part for part, _ in EPOCHS[key](data, epoch)]
                seconds[key].append(time.perf_counter() - started)
                if samples is not None:
                    assert np.array_equal(np.sort(np.concatenate(samples)), np.arange(data.matrix.shape[0]))
    entropy = data.peers["saestore"].acts.torch_dataset(BATCH, shuffle=True).item_entropy()
    result = {"rows": data.matrix.shape[0], "nnz": data.matrix.nnz, "batch": BATCH, "entropy": entropy}
    recorder.add("streams", data.name, {"shape": str(data.shape), **result, "seconds": seconds})


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor")
@pytest.mark.parametrize("key", EPOCHS)
def test_batches_hold_the_rows(data, full, key):
    pytest.importorskip("torch")
    if full:
        pytest.skip("takes long, and is the same at any size")
    for samples, values in EPOCHS[key](data, 0):
        assert np.array_equal(values.to_dense().numpy(), data.matrix[samples.numpy()].toarray())
