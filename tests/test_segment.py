"""A segment as others read it, and what merging makes of several."""

import hashlib
import itertools
import json

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from brute import stored_bytes
from damage import lie_in_segment
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import PATH, Case, cases, csr_rows, layout, make_case
from zarr.storage import LocalStore, MemoryStore

import saestore
from saestore.format import SegmentInfo, SetAttributes
from saestore.segment import merge
from saestore.segment.check import check_segment
from saestore.segment.merge import merge_segments, plan_merges
from saestore.segment.read import Segment
from saestore.segment.write import write_segment
from saestore.storage import SnapshotStore

pytestmark = pytest.mark.once

FEW = settings(max_examples=8, deadline=None)


def write(parent, case: Case, start=0, stop=None) -> SegmentInfo:
    stop = len(case.dense) if stop is None else stop
    with layout(case):
        return write_segment(
            parent.store, parent.path, start, csr_rows(case, start, stop), n_features=case.n_features, codec=case.codec
        )


def opened(parent, info) -> Segment:
    return Segment(SnapshotStore(parent.store), parent.path, info, attributes_of(parent, info))


def attributes_of(parent, info) -> SetAttributes:
    """Those of a set with this segment, as far as a segment needs them."""
    group = parent[f"segments/{info.name}"]
    data = group["by_sample/data"]
    codec = "blosc" if "blosc" in json.dumps(data.metadata.to_dict()) else "pcodec"
    return SetAttributes(group.attrs["n_features"], data.dtype.name, codec)


def segments_group(store=None):
    """The group of a set, in which there will be segments."""
    return zarr.create_group(MemoryStore() if store is None else store, path="set")


def whole(n_rows):
    return np.array([0]), np.array([n_rows])


def contents(store: MemoryStore, prefix: str) -> dict[str, bytes]:
    return {key: value.to_bytes() for key, value in store._store_dict.items() if key.startswith(prefix)}


@FEW
@given(cases())
def test_anndata_and_scipy_read_both_orders_as_they_are(case):
    parent = segments_group()
    group = parent[f"segments/{write(parent, case).name}"]
    wide = case.dense.astype(np.result_type(case.dense.dtype, np.float32))
    for name, kind in (("by_sample", sp.csr_array), ("by_feature", sp.csc_array)):
        matrix = group[name]
        parts = (matrix["data"][:].astype(wide.dtype), matrix["indices"][:], matrix["indptr"][:])
        plain = kind(parts, shape=matrix.attrs["shape"])
        assert np.array_equal(plain.toarray(), wide)
        if case.dense.dtype == np.float16:
            continue  # scipy has no float16
        lazy = anndata.io.sparse_dataset(matrix)
        assert lazy.format == name.replace("by_sample", "csr").replace("by_feature", "csc")
        assert lazy.shape == case.dense.shape
        assert np.array_equal(lazy.to_memory().toarray(), wide)
        assert np.array_equal(anndata.io.read_elem(matrix).toarray(), wide)
    assert (group["by_sample/data"][:] != 0).all()


def test_anndata_reads_rows_and_columns_lazily():
    case = make_case(1, 50, 20, density=0.3)
    parent = segments_group()
    group = parent[f"segments/{write(parent, case).name}"]
    assert np.array_equal(anndata.io.sparse_dataset(group["by_sample"])[3:9].toarray(), case.dense[3:9])
    assert np.array_equal(anndata.io.sparse_dataset(group["by_feature"])[:, 4:7].toarray(), case.dense[:, 4:7])


@FEW
@given(cases())
def test_lists_are_in_impact_order_and_rows_in_feature_order(case):
    parent = segments_group()
    info = write(parent, case)
    segment = opened(parent, info)
    pointers, (samples, data) = segment.feature_ptr, segment.read_entries([(0, info.nnz)])[0]
    for feature in range(case.n_features):
        run = slice(pointers[feature], pointers[feature + 1])
        keys = list(zip((-data[run].astype(np.float64)).tolist(), samples[run].tolist(), strict=True))
        assert keys == sorted(keys)
    rows = segment.read_rows(*whole(len(case.dense)))
    for start, stop in itertools.pairwise(rows.indptr):
        assert (np.diff(rows.indices[start:stop].astype(int)) > 0).all()
    assert list(check_segment(segment, case.n_features, case.dense.dtype)) == []


@pytest.mark.parametrize("n_features", [65_535, 65_536, 65_537])
def test_feature_ids_are_as_narrow_as_they_can_be(n_features):
    case = make_case(1, 5, n_features)
    case.dense[2, n_features - 1] = 5
    parent = segments_group()
    segment = opened(parent, write(parent, case))
    assert segment.reader("by_sample/indices").dtype == ("uint16" if n_features <= 65_536 else "uint32")
    assert segment.reader("by_feature/indices").dtype == "uint32"
    assert segment.read_rows(np.array([2]), np.array([3])).indices.max() == n_features - 1


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_activations_keep_their_dtype_and_their_bits(dtype):
    case = make_case(1, 50, 20, palette="extreme", dtype=dtype)
    parent = segments_group()
    segment = opened(parent, write(parent, case))
    data = segment.read_rows(*whole(50)).data
    assert data.dtype == dtype
    assert data.tobytes() == csr_rows(case, 0, 50).data.tobytes()


def test_a_segment_may_begin_beyond_what_32_bits_hold():
    case = make_case(1, 30, 6, density=0.5)
    far = 2**33 + 5
    parent = segments_group()
    infos = []
    for start, stop in ((0, 10), (10, 30)):
        infos.append(
            write_segment(
                parent.store, parent.path, far + start, csr_rows(case, start, stop), n_features=6, codec="pcodec"
            )
        )
    merged = merge_segments(
        parent.store,
        parent.path,
        [opened(parent, i) for i in infos],
        n_features=6,
        dtype="float32",
        codec="pcodec",
        memory=1 << 16,
    )
    assert (merged.start, merged.stop) == (far, far + 30)
    segment = opened(parent, merged)
    samples, data = segment.read_entries([(0, merged.nnz)])[0]
    features = np.repeat(np.arange(6), np.diff(segment.feature_ptr))
    assert np.array_equal(case.dense[samples - far, features], data)
    assert list(check_segment(segment, 6, "float32")) == []


@FEW
@given(case=cases(), cuts=st.lists(st.integers(1, 39), max_size=5), memory=st.sampled_from([1, 1 << 30]))
def test_merged_segments_are_the_bytes_of_one_written_whole(case, cuts, memory):
    n = len(case.dense)
    bounds = sorted({0, n, *(c for c in cuts if c < n)})
    parent = segments_group()
    parts = [write(parent, case, a, b) for a, b in itertools.pairwise(bounds)]
    if len(parts) == 1:
        return
    with layout(case):
        merged = merge_segments(
            parent.store,
            parent.path,
            [opened(parent, info) for info in parts],
            n_features=case.n_features,
            dtype=case.dense.dtype.name,
            codec=case.codec,
            memory=memory,
        )
    whole = segments_group()
    assert merged == write(whole, case)
    prefix = f"set/segments/{merged.name}/"
    assert contents(parent.store, prefix) == contents(whole.store, prefix)
    assert merged.n_bytes == stored_bytes(whole[f"segments/{merged.name}"])


def test_many_segments_full_of_ties_merge_in_memory_for_a_few_entries():
    # Nothing but 1.0: every place in every list is decided by the sample alone, and one feature has half of it all.
    rng = np.random.default_rng(0)
    dense = (rng.random((600, 12)) < 0.3).astype(np.float32)
    dense[:, 5] = 1
    case = Case(dense, np.arange(601), np.zeros(600, int), np.zeros(600, bool), 600)
    parent = segments_group()
    parts = [write(parent, case, a, a + 20) for a in range(0, 600, 20)]
    merged = merge_segments(
        parent.store,
        parent.path,
        [opened(parent, i) for i in parts],
        n_features=12,
        dtype="float32",
        codec="pcodec",
        memory=1,
    )
    samples, data = opened(parent, merged).read_entries([(0, merged.nnz)])[0]
    assert np.array_equal(samples, np.concatenate([np.flatnonzero(dense[:, f]) for f in range(12)]))
    assert (data == 1).all()


def test_runs_of_neighbours_keep_to_the_number_of_rows():
    infos = [SegmentInfo(a, a + 10, 1, "", f"{a}-{a + 10}", 1) for a in range(0, 50, 10)]
    assert [len(run) for run in plan_merges(infos)] == [5]
    assert [len(run) for run in plan_merges(infos, 25)] == [2, 2, 1]
    assert [len(run) for run in plan_merges(infos, 9)] == [1] * 5
    assert plan_merges([]) == []


def test_the_digest_of_a_segment_vouches_for_every_document(tmp_path):
    case = make_case(1, 20, 5)
    parent = segments_group(LocalStore(tmp_path))
    info = write(parent, case)
    folder = tmp_path / "set/segments" / info.name

    def sha(path):
        return hashlib.sha256((path / "zarr.json").read_bytes()).hexdigest()

    assert info.digest == sha(folder)
    attributes = parent[f"segments/{info.name}"].attrs
    digests = attributes["groups"] | {name: array["document"] for name, array in attributes["arrays"].items()}
    below = {p.parent.relative_to(folder).as_posix() for p in folder.glob("**/zarr.json")} - {"."}
    assert digests == {name: sha(folder / name) for name in below}


WRONG = {
    "by_sample/indices": ("not ascending in a row", lambda a: a[::-1]),
    "by_feature/data": ("not in impact order", lambda a: a[::-1]),
    "n_active": ("does not agree with the entries", lambda a: a + 1),
    "sum": ("does not agree with the entries", lambda a: a * 1.001 + 1e-3),
    "m2": ("does not agree with the entries", lambda a: a * 1.001 + 1e-3),
    "min": ("does not agree with the entries", lambda a: a - 1),
    "max": ("does not agree with the entries", lambda a: a + 1),
    "by_sample/indptr": ("does not ascend", lambda a: a[::-1]),
    "by_feature/indptr": ("does not ascend", lambda a: a[::-1]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_segment_that_lies_with_good_checksums_is_found_out(name):
    case = make_case(1, 20, 5, density=0.5, palette="signed")
    parent = segments_group()
    info = write(parent, case)
    said, change = WRONG[name]
    info = lie_in_segment(parent.store, parent.path, info, attributes_of(parent, info), {name: change})
    found = dict(check_segment(opened(parent, info), 5, "float32"))
    assert name in found
    assert said in found[name]


def test_two_orders_of_different_entries_are_found_out():
    case = make_case(1, 20, 5, density=0.5)
    parent = segments_group()
    info = write(parent, case)
    lie = {"by_sample/data": lambda a: a * 2}
    info = lie_in_segment(parent.store, parent.path, info, attributes_of(parent, info), lie)
    found = dict(check_segment(opened(parent, info), 5, "float32"))
    assert found == {"by_feature": "does not hold the same entries as by_sample"}


def test_zeros_and_what_is_not_finite_are_found_out():
    case = make_case(1, 20, 5, density=0.5)
    parent = segments_group()
    info = write(parent, case)
    for value in (0, np.nan, np.inf):
        lie = {"by_sample/data": lambda a, value=value: np.r_[a[:3], np.float32(value), a[4:]]}
        info = lie_in_segment(parent.store, parent.path, info, attributes_of(parent, info), lie)
        found = dict(check_segment(opened(parent, info), 5, "float32"))
        assert "zero or a value that is not finite" in found["by_sample/data"]


def test_an_array_of_another_length_or_dtype_is_found_out():
    case = make_case(1, 20, 5, density=0.5)
    parent = segments_group()
    info = write(parent, case)
    for other in (SetAttributes(6, "float32"), SetAttributes(5, "float64"), SetAttributes(5, "float32", "blosc")):
        segment = Segment(SnapshotStore(parent.store), parent.path, info, other)
        found = dict(check_segment(segment, 6, "float64"))
        assert "by_sample/data" in found or "by_feature/indptr" in found


@pytest.mark.once
def test_more_features_than_one_sort_packs_merge_in_steps(monkeypatch):
    """A key has 15 bits for a feature beside 17 for a row and 32 for an activation: 70,000 features take 3 steps."""
    rng = np.random.default_rng(0)
    flat = np.sort(rng.choice(70_000 * 70_000, 3_000, replace=False))
    ids = np.divmod(flat, 70_000)
    matrix = sp.csr_array((rng.choice([0.5, 1.0, -1.0], 3_000).astype(np.float32), ids), shape=(70_000, 70_000))
    sort, spans = merge.impact_sort, []
    monkeypatch.setattr(
        merge, "impact_sort", lambda ids, *rest: spans.append(int(ids.max() - ids.min())) or sort(ids, *rest)
    )
    store = saestore.open(MemoryStore(), "a")
    acts = store.write(PATH, matrix, segment_rows=35_000)
    assert len(spans) == 3
    assert max(spans) < 1 << 15
    assert len(acts.attributes.segments) == 1
    assert (acts.sparse() != matrix).nnz == 0
    assert store.verify().ok
