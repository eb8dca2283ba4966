"""Merging segments: the same answers before, during and after, in bounded memory, wherever it is cut."""

import tracemalloc
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import scipy.sparse as sp
from raising import raises
from strategies import PATH, Case, make_case, write_case, write_segments
from zarr.storage import MemoryStore

import saestore
from saestore.errors import CorruptStoreError, NotFoundError
from saestore.format import SegmentInfo, SetAttributes, segment_name
from saestore.sparse_rows import SparseRows
from saestore.tables.item_index import ItemIndex
from saestore.writing import SetWriter
from saestore.writing.pipeline import start_set

pytestmark = pytest.mark.once

MIB = 1 << 20


def ask(acts, case: Case) -> None:
    """A question of every kind, each answered from the dense tensor."""
    n = acts.shape[0]
    dense = case.dense[:n]
    feature = int(np.argmax(np.count_nonzero(case.dense, axis=0)))
    column = dense[:, feature]
    samples = np.flatnonzero(column)
    samples = samples[np.lexsort((samples, -column[samples]))]
    assert acts.feature(feature).sample.tolist() == samples.tolist()
    assert acts.top_samples(feature, 5).sample.tolist() == samples[:5].tolist()
    assert np.array_equal(acts.dense(), dense)
    assert np.array_equal(acts.sparse(slice(2, -1)).toarray(), dense[2:-1])
    assert acts.stats()["n_active"].values.tolist() == np.count_nonzero(dense, axis=0).tolist()
    assert np.array_equal(acts.quantile(0.5), [np.quantile(dense.astype(np.float64), 0.5, axis=0)])
    assert acts.top_features(3, 4).activation.tolist() == sorted(dense[3][dense[3] != 0].tolist(), reverse=True)[:4]


@pytest.fixture(params=["memory", "folder"])
def store(request, tmp_path):
    return saestore.open(MemoryStore() if request.param == "memory" else tmp_path / "a.zarr", "a")


def test_a_reader_opened_before_answers_after_its_segments_are_gone(store):
    case = make_case(1, 40, 10, segment_rows=8, density=0.4)
    write_segments(store, case)
    warm, cold = store[PATH], store[PATH]
    ask(warm, case)
    store.compact(PATH)
    assert [s.name for s in cold.attributes.segments] == ["0-8", "8-16", "16-24", "24-32", "32-40"]
    assert list(store.root[f"{PATH}/segments"].group_keys()) == ["0-40"]
    ask(cold, case)
    ask(warm, case)
    assert [s.name for s in cold.attributes.segments] == ["0-40"]


def test_readers_answer_at_every_step_of_a_compaction(store):
    case = make_case(2, 40, 10, segment_rows=8, density=0.4)
    write_segments(store, case)
    before = store[PATH]
    steps = []

    def asking(message):
        steps.append(message)
        ask(store[PATH], case)
        ask(before, case)

    store.compact(PATH, memory=1, progress=asking)
    assert len(steps) == 4
    assert all(step.startswith("merging 2 segments (") for step in steps)
    assert store.verify().ok


def test_opening_while_the_segments_go_opens_those_that_came(store, monkeypatch):
    """A compaction ends between reading the attributes and reading the segments that they name."""
    case = make_case(3, 20, 10, segment_rows=5, density=0.4)
    write_segments(store, case)
    from saestore.query import open_set as opened

    read = opened.read_attributes

    def slow(root, path):
        attributes = read(root, path)
        monkeypatch.setattr(opened, "read_attributes", read)
        store.compact(PATH)
        return attributes

    monkeypatch.setattr(opened, "read_attributes", slow)
    ask(store[PATH], case)


def test_a_reader_of_a_set_that_is_gone_says_so(store):
    case = make_case(4, 20, 10, density=0.4)
    acts = write_case(store, case)
    store.delete(PATH)
    with raises(NotFoundError, "unknown-set"):
        acts.dense()


def test_a_reader_of_segments_that_are_damaged_and_not_merged_says_so(tmp_path):
    case = make_case(4, 20, 10, density=0.4)
    acts = write_case(saestore.open(tmp_path / "a.zarr", "a"), case)
    (tmp_path / "a.zarr" / PATH / "segments/0-20/by_sample/data/c/0").unlink()
    with raises(CorruptStoreError, "corrupt-store", "by_sample/data"):
        acts.dense()


def test_compaction_leaves_one_segment_whatever_the_order_of_merging(store):
    case = make_case(5, 60, 12, segment_rows=5, density=0.4, palette="heavy")
    write_segments(store, case)
    write_segments(store, case, "Shapes/patch/other")
    sets = [store.compact(PATH, memory=1), store.compact("Shapes/patch/other")]
    assert [s.n_rows for s in sets[0].attributes.segments] == [60]
    # Two at a time in four passes, or all at once: the same segment, to the last bit of its statistics.
    assert sets[0].attributes.segments == sets[1].attributes.segments
    first, second = (acts.stats() for acts in sets)
    assert first.equals(second)
    assert store.verify().ok


def test_compacting_what_is_compact_changes_nothing(tmp_path):
    store = saestore.open(tmp_path / "a.zarr", "a")
    write_case(store, make_case(6, 20, 5))
    before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*") if f.is_file()}
    store.compact(PATH)
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*") if f.is_file()} == before


def test_rows_that_come_after_a_compaction_are_compacted_again(store):
    case = make_case(7, 40, 10, segment_rows=8, density=0.4)
    write_segments(store, case, upto=24)
    ask(store.compact(PATH), case)
    acts = write_segments(store, case)
    assert [s.name for s in acts.attributes.segments] == ["0-24", "24-32", "32-40"]
    assert acts.attributes.derived == ("0-24",)  # stale, and said to be
    ask(acts, case)
    assert store.verify().ok
    acts = store.compact(PATH)
    assert acts.attributes.derived == ("0-40",)
    ask(acts, case)
    assert store.verify().ok


def test_arrays_at_the_root_cover_what_the_attributes_say(store):
    case = make_case(8, 40, 10, segment_rows=8, density=0.4)
    acts = write_segments(store, case)
    assert acts.attributes.derived == ()
    assert "l0" not in acts.group
    acts = store.compact(PATH)
    assert np.array_equal(acts.group["l0"][:], np.count_nonzero(case.dense, axis=1))
    assert np.array_equal(acts.group["item"][:], case.item_of_sample)


def test_a_limit_on_rows_is_kept(store, monkeypatch):
    case = make_case(9, 40, 10, segment_rows=8, density=0.4)
    write_segments(store, case)
    from saestore.segment.merge import plan_merges
    from saestore.writing import writer

    monkeypatch.setattr(writer, "plan_merges", lambda infos: plan_merges(infos, 20))
    acts = store.compact(PATH)
    assert [s.name for s in acts.attributes.segments] == ["0-16", "16-32", "32-40"]
    ask(acts, case)
    assert store.verify().ok


def heavy_tailed(n_rows: int, n_features: int, k: int) -> sp.csr_array:
    """Some features fire almost always, most hardly ever; one, in every row, always with the same value."""
    rng = np.random.default_rng(0)
    ids = 1 + np.minimum((rng.pareto(0.5, (n_rows, k - 1)) * 5).astype(np.int64), n_features - 2)
    ids = np.concatenate([np.zeros((n_rows, 1), np.int64), ids], axis=1).astype(np.int32)
    values = np.where(ids == 0, 1, rng.integers(1, 50, ids.shape)).astype(np.float32)
    return sp.csr_array((values.ravel(), ids.ravel(), np.arange(0, n_rows * k + 1, k)), shape=(n_rows, n_features))


def peak_of_compaction(folder: Path, n_rows: int, n_segments: int) -> int:
    """Bytes allocated at most while a set of 16 non-zeros a row is merged in 1 MiB and shards of half a MiB."""
    matrix = heavy_tailed(n_rows, 4096, 16)
    matrix.sum_duplicates()
    store = saestore.open(folder, "a")
    with mock.patch("saestore.storage.arrays.SHARD", 1 << 16), SetWriter(store.root, PATH) as writer:
        start_set(writer, SetAttributes(4096, "float32", n_items=n_rows), None, ItemIndex(n_rows, 1))
        for start in range(0, n_rows, n_rows // n_segments):
            rows = matrix[start : start + n_rows // n_segments]
            writer.append(SparseRows(rows.indptr.astype(np.int64), rows.indices.astype(np.uint16), rows.data))
        tracemalloc.start()
        try:
            writer.compact(memory=MIB)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    acts = store[PATH]
    assert [s.n_rows for s in acts.attributes.segments] == [n_rows]
    assert np.array_equal(acts.feature(0).sample, np.arange(n_rows))
    assert np.array_equal(acts.stats()["n_active"], np.bincount(matrix.indices, minlength=4096))
    return peak


def test_memory_is_bounded_and_does_not_grow_with_the_data(tmp_path):
    small = peak_of_compaction(tmp_path / "small.zarr", 10_000, 5)
    large = peak_of_compaction(tmp_path / "large.zarr", 40_000, 10)
    # The bound, the shards that wait to be written, and the running sums. Which of its threads is ahead moves the peak:
    # 3.0 to 3.2 MiB, and 3.8 to 4.03 MiB.
    assert small < 3.5 * MIB
    assert large < 4.25 * MIB


def test_segments_are_named_by_their_rows():
    assert segment_name(5, 12) == "5-12"
    assert SegmentInfo(5, 12, 3, "", "5-12.second", 9).n_rows == 7
