"""Merging by parts of the output: the same bytes for any number of workers; and levels while a set is written."""

import pickle
import random
import shutil
from dataclasses import replace
from itertools import pairwise
from math import comb
from unittest import mock

import numpy as np
import pytest
from scipy.sparse import csr_array
from strategies import PATH, append_segments, layout, make_case, write_segments
from zarr.storage import MemoryStore

import saestore
from saestore.format import SegmentInfo, SetAttributes, segment_name
from saestore.progress import Progress
from saestore.segment import merge
from saestore.segment.merge import last_level, level_start
from saestore.segment.read import Segment
from saestore.stats import RunningMoments
from saestore.storage import NewArray, SnapshotStore, group_document
from saestore.storage.arrays import described
from saestore.table_info import TableInfo
from saestore.writing import SetWriter
from saestore.writing.derived import DERIVED, PER_SAMPLE
from saestore.writing.matrix_rows import MatrixRows
from saestore.writing.pipeline import Destination, write_set
from saestore.writing.plan import ItemTable, WritePlan

pytestmark = pytest.mark.once


class Scattered:
    """Workers of other processes: parts travel pickled, in any order, and each runs twice."""

    def __init__(self, n_workers: int) -> None:
        self.n_workers, self.n_parts = n_workers, 0

    def map(self, work, parts):
        sent, order, results = pickle.dumps(work), [*parts, *parts], {}
        random.Random(self.n_workers).shuffle(order)
        for part in order:
            results[part] = pickle.loads(sent)(part)
        self.n_parts += len(parts)
        return [results[part] for part in parts]


def files_of(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


CASES = [
    make_case(1, 90, 12, density=0.5, segment_rows=13, chunk=8, shard=16),
    make_case(2, 80, 3, density=0.9, palette="ties", segment_rows=20, chunk=4, shard=8, dtype="float16"),
    make_case(3, 60, 40, density=0.2, segment_rows=9, chunk=16, shard=16, dtype="float64"),
]


@pytest.mark.parametrize("case", CASES, ids=["ties", "huge features", "float64"])
def test_any_number_of_workers_merges_to_the_same_bytes(tmp_path, case):
    write_segments(saestore.open(tmp_path / "written", "a"), case)
    folders = {n: shutil.copytree(tmp_path / "written", tmp_path / str(n)) for n in (0, 1, 2, 7)}
    stores = {n: saestore.open(folder, "a") for n, folder in folders.items()}
    with mock.patch.object(RunningMoments, "BLOCK", 8), mock.patch("saestore.segment.merge._BLOCK_SPLIT", 4):
        for n, store in stores.items():
            engine = Scattered(n) if n else None
            with layout(case), SetWriter(store.root, PATH) as writer:
                writer.compact(memory=1 << 20, engine=engine)
            assert n < 2 or engine.n_parts > 2 * n
        files = {n: files_of(tmp_path / str(n)) for n in stores}
        assert files[0] == files[1] == files[2] == files[7]
        assert stores[7].verify().ok
    acts = stores[7][PATH]
    np.testing.assert_array_equal(acts.dense(), case.dense)


def test_the_end_of_a_part_in_a_feature_is_found_exactly(tmp_path):
    """Against sorting all entries of the feature by (activation, segment, place)."""
    case = make_case(4, 300, 2, density=0.9, segment_rows=70, chunk=8, shard=16)
    store = saestore.open(tmp_path / "a", "a")
    acts = write_segments(store, case)
    segments = [
        Segment(SnapshotStore(store.root.store), PATH, info, acts.attributes) for info in acts.attributes.segments
    ]
    pointers = np.sum([s.feature_ptr for s in segments], axis=0)
    lists = [s.read_entries([(0, s.info.nnz)])[0][1] for s in segments]
    entries = [
        (feature, -float(values[place]), owner)
        for owner, (s, values) in enumerate(zip(segments, lists, strict=True))
        for feature in range(2)
        for place in range(s.feature_ptr[feature], s.feature_ptr[feature + 1])
    ]
    owners = np.array([owner for *_, owner in sorted(entries)])
    with mock.patch("saestore.segment.merge._BLOCK_SPLIT", 4):
        for position in range(len(owners) + 1):
            expected = np.bincount(owners[:position], minlength=len(segments))
            assert merge._cut(segments, pointers, position) == expected.tolist(), position


def test_levels_hold_few_segments_and_rewrite_rarely():
    """At most 15 segments; each sample is rewritten at most d times below ``comb(16 + d, 15)`` segments."""
    sizes: list[int] = []
    rewritten = np.zeros(3000, int)
    for n in range(1, len(rewritten) + 1):
        sizes.append(1)
        last = last_level(n)
        while sizes[-1] < last:
            sizes[-2:] = [sum(sizes[-2:])]
        assert sizes[-1] == last
        if last > 1:
            rewritten[n - last : n] += 1
        assert len(sizes) <= 15
        assert n >= comb(15 + rewritten.max(), 15)
    assert rewritten.max() == 3


@pytest.mark.parametrize("most", [15, 8])
def test_appends_of_any_size_leave_few_segments_and_rewrite_rarely(most):
    """Each sample is rewritten once, and once more for each time that its segment doubles."""
    segments, rng = [], random.Random(most)  # of each the appends in it: (size, how often rewritten)
    for n in range(400):
        segments.append([(rng.choice([1, 1, 1, 3, 40, 2000]) if n % 100 else 5000, 0)])
        start = level_start([sum(size for size, _ in each) for each in segments], most)
        merged = [(size, rewritten + 1) for each in segments[start:] for size, rewritten in each]
        segments[start:] = [merged] if merged else []
        assert len(segments) <= most
    assert sum(map(len, segments)) == 400
    for each in segments:
        total = sum(size for size, _ in each)
        assert all(rewritten <= 1 + np.log2(total / size) for size, rewritten in each)


def test_appends_keep_a_set_at_16_segments():
    """One by one, and then as many segments as make levels of their own; counted at every commit."""
    case = make_case(5, 8 * 38, 20, density=0.3, segment_rows=8)
    store, counts, commit = MemoryStore(), [], SetWriter._commit

    def counting(writer, batch, attributes):
        counts.append(len(attributes.segments))
        commit(writer, batch, attributes)

    with mock.patch.object(SetWriter, "_commit", counting):
        for n in (*range(1, 19), 38):
            rows = MatrixRows.of(csr_array(case.dense[: 8 * n]), None, {})
            table = ItemTable.of(rows.n_rows, {"key": [f"{i}" for i in range(8 * n)]}, None, None)
            plan = WritePlan(path=PATH, rows=rows, table=table, dtype=rows.dtype, segment_rows=8, sae={})
            write_set(plan, Destination(saestore.open(store, "a").root), Progress(False), append=True)
    acts = saestore.open(store)[PATH]
    assert 14 < max(counts) <= 16
    np.testing.assert_array_equal(acts.sparse().toarray(), case.dense)
    assert saestore.open(store).verify().ok


def test_the_attributes_of_a_billion_samples_are_small_and_ten_billion_need_no_more():
    """Counted on a list of segments that nobody wrote: token spans and pointers of ten million items beside it."""
    n, rows, per_sample = 10**9, 1 << 16, 283  # bytes of a stored sample of 32 non-zeros; see docs/scale.md

    def array(length, dtype):
        new = NewArray(length, np.dtype(dtype), "sample", "pcodec")
        return described(new, (("0123456789abcdef",) * new.layout.n_shards, 10**9))[0]

    spans = {name: array(10 * n, "int32") for name in ("token_start", "token_stop")}
    samples = TableInfo(1, {name: (name,) for name in spans}, arrays=spans)
    items = TableInfo(1, pointers="ptr", arrays={"ptr": array(10**7 + 1, "int64")})
    tables = {"samples": samples, "items": items}
    attributes = SetAttributes(65536, "float32", n_items=10**7, item_size=None, planned_samples=n, tables=tables)

    def document(sizes, **changes):
        stops = np.minimum(n, rows * np.cumsum(sizes)).tolist()
        infos = [
            SegmentInfo(a, b, 32 * (b - a), "0" * 64, segment_name(a, b), per_sample * (b - a))
            for a, b in pairwise([0, *stops])
        ]
        return len(group_document(replace(attributes.with_segments(infos), **changes).to_json()))

    sizes, n_commits, largest, n_segments = [], 0, 0, -(-n // rows)
    for i in range(1, n_segments + 1):
        sizes.append(1)
        last = last_level(i)
        n_commits += 1 + (last > 1)
        if i % 500 == 0 or i == n_segments:
            largest = max(largest, document(sizes))
        while sizes[-1] < last:
            sizes[-2:] = [sum(sizes[-2:])]
        assert len(sizes) <= 16
    assert 4_000 < largest < 10_000
    derived = {name: array(10 * n if name in PER_SAMPLE else 65536, "int64") for name in DERIVED}
    assert document([n_segments], arrays=derived) < 10_000
    assert n_commits * largest < 0.01 * per_sample * n


def test_a_set_that_is_written_has_few_segments_and_small_attributes(tmp_path):
    case = make_case(5, 160, 20, density=0.3, segment_rows=4)
    one, levels = (saestore.open(tmp_path / name, "a") for name in ("one", "levels"))
    counts, sizes = [], []
    append, document = SetWriter.append, tmp_path / "levels" / PATH / "zarr.json"

    def appending(writer, rows, **changes):
        info = append(writer, rows, **changes)
        writer.merge_level(0, 1 << 20)
        counts.append(len(writer.require().segments))
        sizes.append(document.stat().st_size)
        return info

    for store, method in ((one, append), (levels, appending)):
        with mock.patch.object(SetWriter, "append", method), SetWriter(store.root, PATH) as writer:
            append_segments(writer, case)
            writer.finish()
    assert len(counts) == 40
    assert max(counts) == 15
    assert max(sizes) < 20_000
    assert files_of(tmp_path / "one") == files_of(tmp_path / "levels")
