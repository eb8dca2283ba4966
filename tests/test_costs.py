"""What questions, writing and merging cost, counted and pinned: a change that makes one worse fails.

Where a change makes one better, pin the better number: `pytest tests/test_costs.py -rP` prints what was found.
"""

import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import scipy.sparse as sp
from brute import stored_bytes
from strategies import PATH
from zarr.storage import MemoryStore

import saestore
from benchmarks.counting import CountingStore, decoded
from saestore.format import SegmentInfo, SetAttributes, feature_dtype
from saestore.segment import merge
from saestore.segment.merge import limit_fan_in
from saestore.segment.read import Segment
from saestore.sparse_rows import SparseRows
from saestore.storage import SnapshotStore
from saestore.tables.item_index import ItemIndex
from saestore.writing import SetWriter
from saestore.writing.pipeline import start_set

N, FEATURES, L0, ITEM, SEGMENT_ROWS = 6_000, 1_000, 16, 20, 2_000
CHUNK, SHARD = 1 << 10, 1 << 16
POPULAR, RARE = 3, 900


def activations() -> sp.csr_array:
    """A skewed set: one feature is on every third sample, most of the others on a few."""
    rng = np.random.default_rng(0)
    weights = 1 / (np.arange(FEATURES) + 3)
    keys = np.log(weights) + rng.gumbel(size=(N, FEATURES)).astype(np.float32)
    ids = np.sort(np.argpartition(-keys, L0, axis=1)[:, :L0], axis=1)
    values = np.exp(rng.normal(0, 0.7, ids.shape)).astype(np.float32)
    return sp.csr_array((values.ravel(), ids.ravel(), np.arange(0, ids.size + 1, L0)), shape=(N, FEATURES))


@pytest.fixture(autouse=True)
def blocks_as_they_are(request):
    if request.config.getoption("--tiny-blocks"):
        pytest.skip("costs are pinned for the blocks that users have")


@pytest.fixture(scope="module", params=[0, 1], ids=["segments", "merged"])
def counted(request) -> tuple[int, CountingStore]:
    """The set in three segments, or merged, in a store that counts."""
    store = CountingStore(MemoryStore())
    root = saestore.open(store, "a").root
    layout = mock.patch.multiple("saestore.storage.arrays", CHUNK=CHUNK, SHARD=SHARD)
    with layout, SetWriter(root, PATH) as writer:
        write_segments(writer, activations(), SEGMENT_ROWS)
        if request.param:
            writer.finish()
    return request.param, store


def write_segments(writer: SetWriter, matrix: sp.csr_array, rows: int) -> None:
    n, n_features = matrix.shape
    index = ItemIndex(n // ITEM, ITEM)
    attributes = SetAttributes(n_features, "float32", n_items=index.n_items, item_size=ITEM, planned_samples=n)
    start_set(writer, attributes, None, index)
    for start in range(0, n, rows):
        part = matrix[start : start + rows]
        ids = part.indices.astype(feature_dtype(n_features))
        writer.append(SparseRows(part.indptr.astype(np.int64), ids, part.data))


QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "open": lambda acts: acts,
    "top 20": lambda acts: acts.top_samples(POPULAR),
    "top 20 of a rare feature": lambda acts: acts.top_samples(RARE),
    "top 20 items": lambda acts: acts.top_samples(POPULAR, level="item"),
    "top 20 of ten features": lambda acts: acts.top_samples(range(0, 1000, 100)),
    "top 20 of neighbouring features": lambda acts: acts.top_samples(range(100, 200)),
    "top features of a sample": lambda acts: acts.top_features(3_000),
    "256 samples, dense": lambda acts: acts.dense(samples=slice(3_000, 3_256)),
    "100 samples here and there": lambda acts: acts.sparse(samples=np.arange(7, N, N // 100)),
    "a whole feature": lambda acts: acts.feature(POPULAR),
    "a column, dense": lambda acts: acts.dense(features=POPULAR),
    "statistics of all features": lambda acts: acts.stats(),
    "statistics of one feature": lambda acts: acts.stats(POPULAR),
    "median of a feature": lambda acts: acts.quantile(0.5, POPULAR),
    "everything, sparse": lambda acts: acts.sparse(),
    "batches in order": lambda acts: list(acts.torch_dataset(250, buffer_rows=2_000)),
    "batches, shuffled": lambda acts: list(acts.torch_dataset(250, shuffle=True, block_rows=250, buffer_rows=2_000)),
}

# At most this many requests, bytes and decoded chunks, in three segments and merged, as the first question to a set
# that was just opened. Chunks of rows are a quarter of the others. Neighbouring chunks are one request.
PINNED = {
    "open": ((2, 1260, 0), (2, 3350, 0)),
    "top 20": ((18, 22_446, 9), (8, 11_597, 3)),
    "top 20 of a rare feature": ((18, 24_985, 9), (8, 12_377, 3)),
    "top 20 items": ((18, 22_446, 9), (8, 11_597, 3)),
    "top 20 of ten features": ((21, 267_007, 57), (12, 131_971, 21)),
    "top 20 of neighbouring features": ((18, 75_236, 33), (10, 59_083, 25)),
    "top features of a sample": ((6, 8502, 10), (8, 25_298, 26)),
    "256 samples, dense": ((6, 26_442, 42), (8, 43_238, 58)),
    "100 samples here and there": ((18, 433_473, 224), (10, 437_742, 224)),
    "a whole feature": ((18, 22_446, 9), (8, 19_018, 7)),
    "a column, dense": ((18, 22_446, 9), (8, 19_018, 7)),
    "median of a feature": ((18, 22_446, 9), (8, 19_018, 7)),
    "statistics of all features": ((18, 61_066, 15), (6, 20_383, 5)),
    "statistics of one feature": ((18, 61_066, 15), (6, 20_383, 5)),
    "everything, sparse": ((18, 442_422, 774), (10, 444_453, 774)),
    "batches in order": ((18, 442_952, 774), (14, 444_984, 774)),
    "batches, shuffled": ((33, 684_099, 806), (24, 745_462, 806)),
}
BYTES_SLACK = 1.01  # versions of pcodec differ in their last bits


@pytest.mark.parametrize("question", QUESTIONS)
def test_question(counted, question):
    merged, store = counted
    if question.startswith("batches"):
        pytest.importorskip("torch")
    store.taken()
    with decoded() as opening:
        acts = saestore.open(store)[PATH]
    costs = store.taken()
    with decoded() as chunks:
        QUESTIONS[question](acts)
    if question == "open":
        chunks = opening
    else:
        costs = store.taken()
    requests, size, decodes = PINNED[question][merged]
    print(f"{question}: {costs.requests, costs.bytes_read, chunks['chunks']}, pinned {requests, size, decodes}")
    assert costs.requests <= requests
    assert costs.bytes_read <= size * BYTES_SLACK
    assert chunks["chunks"] <= decodes


def test_asked_again_a_question_reads_no_document_and_no_index(counted):
    _, store = counted
    acts = saestore.open(store)[PATH]
    for name in ("top 20", "top features of a sample", "256 samples, dense", "a whole feature"):
        QUESTIONS[name](acts)
        store.taken()
        with decoded() as chunks:
            QUESTIONS[name](acts)
        assert store.taken().requests <= chunks["chunks"] > 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("path", ["CLEVR", "iSarcasm"])
def test_bytes_a_non_zero_of_real_activations(example_store, path, dtype):
    """Both orders, every non-zero; beside them there are tables of features, which weigh less the more samples."""
    matrix = saestore.open(example_store)[path].sparse()
    matrix.data = matrix.data.astype(dtype).astype(np.float32)
    group = saestore.open(MemoryStore(), "a").write(PATH, matrix, dtype=dtype).group
    orders = [group[f"segments/0-{matrix.shape[0]}/{order}"] for order in ("by_sample", "by_feature")]
    found = sum(stored_bytes(order) for order in orders) / matrix.nnz
    print(f"{path}, {dtype}: {found:.3f} bytes a non-zero")
    assert found < {"float32": 8.2, "float16": 5.2}[dtype]


def test_the_bytes_of_a_set_and_what_compaction_reads_and_writes():
    """A merge reads what was written once, and writes as much."""
    store = CountingStore(MemoryStore())
    root, nnz = saestore.open(store, "a").root, N * L0
    with SetWriter(root, PATH) as writer:
        write_segments(writer, activations(), SEGMENT_ROWS)
        written = store.taken()
        with decoded() as chunks:
            writer.compact()
    merged = store.taken()
    found = [size / nnz for size in (written.bytes_written, merged.bytes_read, merged.bytes_written)]
    pinned = [9.02, 9.08, 8.89]  # what a merge reads twice is 65,536 ids, to see how they are best encoded
    print(f"bytes a non-zero, written, read and written again: {found}, pinned {pinned}; {chunks['chunks']} chunks")
    assert all(size <= BYTES_SLACK * limit for size, limit in zip(found, pinned, strict=True))
    assert chunks["chunks"] <= 90


def test_a_merge_takes_no_more_steps_for_more_segments():
    """Every step goes through all segments, so steps must not grow with their number too."""
    entries, matrix = 1 << 13, activations()
    steps = []
    for rows in (600, 100):
        root = saestore.open(MemoryStore(), "a").root
        with SetWriter(root, PATH) as writer:
            write_segments(writer, matrix, rows)
            snapshot = SnapshotStore(root.store)
            segments = [Segment(snapshot, PATH, info, writer.attributes) for info in writer.attributes.segments]
        with decoded() as chunks:
            ends = [0] * len(segments), [segment.info.nnz for segment in segments]
            pieces = [len(samples) for samples, _ in merge._merged(segments, entries, *ends)]
        # Pointers, samples and activations of each, though a block of each is a small part of its one chunk.
        assert chunks["chunks"] == 3 * len(segments)
        assert sum(pieces) == matrix.nnz
        assert max(pieces) <= entries
        steps.append(len(pieces))
    assert max(steps) <= 2.5 * matrix.nnz / entries


@pytest.mark.parametrize(("n", "fan_in", "most"), [(128, 128, 1), (129, 128, 1.02), (153, 128, 1.17), (9, 2, 4.2)])
def test_merging_in_several_passes_rewrites_few_samples(n, fan_in, most):
    infos = [SegmentInfo(a, a + 1, 1, "", str(a), 1) for a in range(n)]
    rewritten = 0
    while len(infos) > 1:
        runs = limit_fan_in(infos, fan_in)
        assert [info for run in runs for info in run] == infos
        assert max(map(len, runs)) in range(2, fan_in + 1)
        rewritten += sum(run[-1].stop - run[0].start for run in runs if len(run) > 1)
        infos = [SegmentInfo(run[0].start, run[-1].stop, 1, "", run[0].name, 1) for run in runs]
    assert rewritten <= most * n


BLOCKS = """
import resource, sys
import numpy as np
from saestore.storage import in_order

def block(size):
    arrays = [np.ones(size, np.uint8) for _ in range(4)]
    del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

sizes = [1 << 20] * 40
faults = list(in_order(block, sizes)) if sys.argv[1] == "kept" else list(map(block, sizes))
print(faults[-1] - faults[9])
"""


@pytest.mark.once
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the malloc of glibc is meant")
def test_blocks_of_long_work_take_the_memory_of_those_before():
    def faults(how: str) -> int:
        ran = subprocess.run([sys.executable, "-c", BLOCKS, how], capture_output=True, text=True, check=True)
        return int(ran.stdout)

    # Otherwise each array of a block costs a fault for each of its 256 pages, or of those that its thread gave back.
    assert faults("kept") < 30 * 256 < faults("given back")
