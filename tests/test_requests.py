"""What a question costs: requests to the store and bytes, which are exact where seconds are noise."""

import asyncio
import time
from collections import Counter

import numpy as np
import pytest
import scipy.sparse as sp
from strategies import PATH, layout, make_case, write_segments
from zarr.storage import MemoryStore

import saestore
from saestore.query.rows import iterate_rows

pytestmark = pytest.mark.once


class CountingStore(MemoryStore):
    """A store in memory that notes every read: its key and how many bytes it gave."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.reads: list[tuple[str, int]] = []

    async def get(self, key, prototype=None, byte_range=None):
        value = await super().get(key, prototype, byte_range)
        self.reads.append((key, 0 if value is None else len(value)))
        return value

    def get_sync(self, key, **kwargs):  # newer zarr versions read without an event loop
        value = super().get_sync(key, **kwargs)
        self.reads.append((key, 0 if value is None else len(value)))
        return value

    def taken(self) -> list[tuple[str, int]]:
        """The reads since the last call."""
        reads = self.reads.copy()
        self.reads.clear()
        return reads

    def with_read_only(self, read_only=False):
        other = super().with_read_only(read_only)
        other.reads = self.reads  # zarr opens such a copy
        return other


def per_segment(reads) -> Counter:
    return Counter(key.split("/segments/")[1].split("/")[0] for key, _ in reads)


def counting(case):
    store = CountingStore()
    write_segments(saestore.open(store, "a"), case)
    return store, warmed(store)


def warmed(store):
    """The set, opened anew, with what a first question about features reads."""
    acts = saestore.open(store)[PATH]
    acts._open_lists()
    store.taken()
    return acts


# Lists of thousands in chunks of 64: a prefix lies in one chunk or across the border of two.
CASES = {
    "one segment": make_case(1, 500, 40, density=0.9, segment_rows=500, chunk=64, shard=1 << 22),
    "ten segments": make_case(2, 500, 40, density=0.9, segment_rows=50, chunk=64, shard=1 << 22),
    "many shards": make_case(3, 500, 40, density=0.9, segment_rows=250, chunk=64, shard=512, palette="heavy"),
    "blosc": make_case(4, 500, 40, density=0.9, segment_rows=250, chunk=64, shard=512, codec="blosc"),
    "one chunk": make_case(5, 500, 40, density=0.1, segment_rows=250),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_first_top_20_takes_at_most_four_requests_a_segment(case):
    store, _ = counting(case)
    crossed = 0
    for feature in range(0, case.n_features, 3):
        acts = warmed(store)  # opened anew: nothing is known of any other list
        found = acts.top_samples(feature, 20)
        reads = store.taken()
        assert len(found) == min(20, np.count_nonzero(case.dense[:, feature]))
        requests = per_segment(reads)
        assert max(requests.values(), default=0) <= 4
        assert all("/by_feature/" in key for key, _ in reads)
        starts = [int(segment.feature_ptr[feature]) for segment in acts.segments]
        crossed += sum(start // case.chunk != (start + 19) // case.chunk for start in starts)
    assert crossed or case.chunk != 64, "some prefix must lie across a border, or this tests nothing"


def test_the_same_question_costs_the_same_in_a_store_ten_times_as_large():
    costs = []
    for rows in (20_000, 200_000):
        store = CountingStore()
        rng = np.random.default_rng(0)
        matrix = sp.csr_array(
            (rng.random(rows * 4, np.float32) + 1, rng.integers(0, 50, rows * 4), np.arange(0, rows * 4 + 1, 4)),
            shape=(rows, 50),
        )
        saestore.open(store, "a").write(PATH, matrix, segment_rows=rows)
        acts = warmed(store)
        assert len(acts.top_samples(7)) == 20
        reads = store.taken()
        costs.append((len(reads), sum(n for _, n in reads)))
    # A chunk of ids and one of activations; in the larger store ids of samples are wider.
    assert costs[0][0] <= 4 >= costs[1][0]
    assert costs[1][1] < 2 * costs[0][1]


def test_opening_reads_one_document_of_a_set_and_no_query_reads_that_of_an_array():
    case = CASES["ten segments"]
    store, _ = counting(case)
    acts = saestore.open(store)[PATH]
    assert {key for key, _ in store.taken()} == {"zarr.json", f"{PATH}/zarr.json"}
    acts.top_samples([1, 2, 3], level="item", where='split == "test" and color::red')
    acts.dense([3, 77])
    acts.stats()
    documents = {key for key, _ in store.taken() if key.endswith("zarr.json")}
    assert documents == {f"{PATH}/segments/{s.info.name}/zarr.json" for s in acts.segments}


def test_many_features_are_read_together_and_neighbours_once():
    case = make_case(6, 400, 60, density=0.2, segment_rows=400, chunk=64, shard=1 << 22)
    store, acts = counting(case)
    acts.top_samples(range(10, 20), 10**6)
    reads = store.taken()
    lists = acts.segments[0].feature_ptr
    chunks = -(-int(lists[20] - lists[10]) // 64) + 1
    assert len(reads) <= 2 * chunks


def test_a_dense_slice_of_rows_reads_the_chunks_of_those_rows():
    case = make_case(7, 4000, 30, density=0.3, segment_rows=4000, chunk=256, shard=1 << 22)
    store, acts = counting(case)
    assert np.array_equal(acts.dense(slice(1000, 1256)), case.dense[1000:1256])
    reads = store.taken()
    chunks = [(key, n) for key, n in reads if "/c/" in key]
    assert all("/by_sample/" in key for key, _ in chunks)
    # Indexes of shards, and what is asked for of each array in one request.
    assert len(chunks) <= 6
    # Again, when the shard indexes are known.
    acts.dense(slice(1000, 1256))
    again = store.taken()
    assert len(again) <= 3
    stored = sum(len(v) for k, v in store._store_dict.items() if "/by_sample/" in k and "/c/" in k)
    assert sum(n for _, n in again) < stored / 8


class SlowStore(MemoryStore):
    """A store in memory whose answers take a while, and that knows how many requests wait at the same time."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.waiting = {"now": 0, "most": 0}

    def _starts(self):
        self.waiting["now"] += 1
        self.waiting["most"] = max(self.waiting.values())

    async def get(self, key, prototype=None, byte_range=None):
        self._starts()
        await asyncio.sleep(0.02)
        self.waiting["now"] -= 1
        return await super().get(key, prototype, byte_range)

    def get_sync(self, key, **kwargs):  # newer zarr versions read without an event loop
        self._starts()
        time.sleep(0.02)
        self.waiting["now"] -= 1
        return super().get_sync(key, **kwargs)

    def with_read_only(self, read_only=False):
        other = super().with_read_only(read_only)
        other.waiting = self.waiting
        return other


def test_rows_of_several_segments_are_waited_for_together():
    case = make_case(8, 400, 30, density=0.3, segment_rows=50, chunk=64, shard=1 << 22)
    store = SlowStore()
    write_segments(saestore.open(store, "a"), case)
    acts, rows = saestore.open(store)[PATH], np.arange(3, 400, 50)  # one row of each of 8 segments
    store.waiting["most"] = 0
    assert np.array_equal(acts.sparse(rows).toarray(), case.dense[rows])
    assert store.waiting["most"] >= 8


@pytest.mark.parametrize("block", [1, 20, 90, 1000, 10**6])
def test_blocks_of_rows_cross_the_borders_of_segments(block):
    case = make_case(9, 60, 20, density=0.4, segment_rows=25)
    acts = write_segments(saestore.open(MemoryStore(), "a"), case)
    rows = np.delete(np.arange(60), [0, 1, 24, 25, 40])
    blocks = list(iterate_rows(acts.segments, rows, block))
    assert np.concatenate([part for part, _ in blocks]).tolist() == rows.tolist()
    dense = np.concatenate([sp.csr_array((b.data, b.indices, b.indptr), (len(b), 20)).toarray() for _, b in blocks])
    assert np.array_equal(dense, case.dense[rows])
    longest = 2 * max(np.count_nonzero(case.dense, axis=1))
    assert max(b.nnz for _, b in blocks) <= max(1.6 * block, longest)


def test_a_dense_column_reads_the_list_of_that_feature():
    case = make_case(8, 4000, 30, density=0.1, segment_rows=2000, chunk=256, shard=1 << 22)
    feature = int(np.argmax(np.count_nonzero(case.dense, axis=0)))
    store, acts = counting(case)
    assert np.array_equal(acts.dense(features=feature), case.dense[:, feature])
    reads = store.taken()
    assert all("/by_feature/" in key for key, _ in reads if "/items/" not in key)
    assert 0 < max(per_segment(reads).values()) <= 2 * (np.count_nonzero(case.dense[:, feature]) // 256 + 2)


def test_statistics_of_all_samples_read_no_entry():
    store, acts = counting(CASES["ten segments"])
    acts.stats([3])
    assert not any("/by_sample/" in key or "/by_feature/" in key for key, _ in store.taken())


def test_statistics_of_one_feature_read_one_chunk_of_each_sum():
    case = make_case(10, 60, 300, density=0.1, segment_rows=30, chunk=64, shard=1 << 22)
    store, acts = counting(case)
    expected = acts.stats()
    store.taken()
    for features in ([130], [130, 131, 5], [299, 0, 130, 130]):
        found = acts.stats(features)
        reads = [size for key, size in store.taken() if "/c/" in key]
        # Of five sums in two segments, each run of neighbouring chunks; the shard indexes are known by the second time.
        assert len(reads) <= 2 * 5 * (len(set(features)) + (features == [130]))
        for name in found:
            assert np.array_equal(found[name], expected[name][features], equal_nan=True)
    acts.stats([130])
    assert len(store.taken()) == 2 * 5


def test_nothing_of_a_dead_feature_is_read():
    case = make_case(9, 100, 10, density=0.5, segment_rows=50)
    case.dense[:, 4] = 0
    store, acts = counting(case)
    assert len(acts.top_samples(4)) == 0
    assert len(acts.feature(4)) == 0
    assert store.taken() == []


def test_an_answer_that_is_refused_reads_nothing():
    store, acts = counting(CASES["one chunk"])
    with pytest.raises(saestore.errors.TooLargeError):
        acts.dense(max_bytes=10)
    assert store.taken() == []


def test_a_local_folder_takes_as_few_reads(tmp_path, monkeypatch):
    case = CASES["many shards"]
    with layout(case):
        write_segments(saestore.open(tmp_path / "a.zarr", "a"), case)
    acts = saestore.open(tmp_path / "a.zarr")[PATH]
    reads = []
    from saestore.storage.snapshot import OneFile

    pread = OneFile.pread
    monkeypatch.setattr(OneFile, "pread", lambda file, path, *where: reads.append(path) or pread(file, path, *where))
    for feature in range(case.n_features):
        acts.top_samples(feature)  # pointers and tails are read with the first question
        reads.clear()
        found = acts.top_samples(feature)
        requests = Counter(str(path).split("/segments/")[1].split("/")[0] for path in reads)
        assert (len(found) > 0) <= max(requests.values(), default=0) <= 4
    acts.sparse([2, len(case.dense) - 1])
    reads.clear()
    acts.sparse([2, len(case.dense) - 1])
    assert reads
    assert not any("by_sample/indptr" in path for path in reads)  # it is known where rows begin
