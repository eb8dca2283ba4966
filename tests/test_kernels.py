"""Orders, merges and sums of plain arrays, against numpy's sorts and scipy's sums."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, from_dtype

from saestore.kernels import (
    descending_bits,
    entry_hash,
    expand_pointers,
    from_descending_bits,
    impact_sort,
    runs_of,
    segment_sums,
    to_impact_order,
)
from saestore.sparse_rows import keep_entries
from saestore.stats import Moments

pytestmark = pytest.mark.once

FLOATS = [np.dtype(name) for name in ("float16", "float32", "float64")]


def floats_of(dtype):
    return from_dtype(dtype, allow_nan=False).filter(lambda value: value != 0)


@given(st.sampled_from(FLOATS).flatmap(lambda dtype: arrays(dtype, st.integers(0, 30), elements=floats_of(dtype))))
def test_descending_bits_sort_as_the_floats_do_and_turn_back(values):
    bits = descending_bits(values)
    assert bits.dtype == f"uint{8 * values.itemsize}"
    assert np.array_equal(values[np.argsort(bits, kind="stable")], np.sort(values)[::-1])
    assert np.array_equal(from_descending_bits(bits, values.dtype), values)


@given(arrays(bool, st.integers(0, 40)), st.data())
def test_entries_are_kept_as_by_a_mask(mask, data):
    cuts = np.sort(data.draw(st.lists(st.integers(0, len(mask)), max_size=6)))
    indptr, values = np.array([0, *cuts, len(mask)], np.int64), np.arange(len(mask)) * 7
    kept_ptr, kept = keep_entries(mask, indptr, values)
    assert np.array_equal(kept, values[mask])
    assert [kept[a:b].tolist() for a, b in itertools.pairwise(kept_ptr)] == [
        values[a:b][mask[a:b]].tolist() for a, b in itertools.pairwise(indptr)
    ]
    assert (kept is values) == mask.all()  # all are not copied


def random_rows(seed, n_rows, n_features, nnz, dtype):
    """CSR arrays with sorted ids and many ties."""
    rng = np.random.default_rng(seed)
    flat = np.sort(rng.choice(n_rows * n_features, min(nnz, n_rows * n_features), replace=False))
    matrix = sp.coo_array(
        (rng.choice([0.5, 1.0, 2.0, -1.0], len(flat)), np.divmod(flat, n_features)), shape=(n_rows, n_features)
    )
    csr = sp.csr_array(matrix)
    ids = csr.indices.astype(np.uint16 if n_features <= 1 << 16 else np.uint32)
    return csr.indptr.astype(np.int64), ids, csr.data.astype(dtype)


def impact_order_by_lexsort(indptr, indices, data, n_features):
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    order = np.lexsort((rows, -data.astype(np.float64), indices))
    counts = np.bincount(indices, minlength=n_features)
    return np.concatenate([[0], np.cumsum(counts)]), rows[order], data[order]


# The rows are many or few, and the features more or less than 65,536, because the sort packs what it can into 64 bits.
SHAPES = [(1, 1), (1, 70_000), (40, 20), (300, 65_535), (300, 65_536), (300, 65_537), (300, 200_000), (70_000, 8)]


@pytest.mark.once
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_impact_order_is_that_of_a_lexsort(shape, dtype):
    n_rows, n_features = shape
    indptr, indices, data = random_rows(1, n_rows, n_features, 2_000, dtype)
    found = to_impact_order(indptr, indices, data, n_features)
    expected = impact_order_by_lexsort(indptr, indices, data, n_features)
    assert [a.dtype.name for a in found] == ["int64", "uint32", dtype.name]
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a, b)


def test_impact_order_of_no_entry():
    indptr, rows, data = to_impact_order(np.zeros(4, np.int64), np.empty(0, np.uint16), np.empty(0, np.float32), 5)
    assert indptr.tolist() == [0] * 6
    assert len(rows) == len(data) == 0


@pytest.mark.once
@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 50), max_size=6),
    dtype=st.sampled_from(FLOATS),
    n_features=st.sampled_from([1, 7, 70_000]),
)
@example(seed=0, cuts=[25] * 3, dtype=FLOATS[1], n_features=7)
def test_merging_pieces_of_rows_gives_the_order_of_all_rows(seed, cuts, dtype, n_features):
    indptr, indices, data = random_rows(seed, 50, n_features, 200, dtype)
    bounds = [0, *sorted(cuts), 50]
    parts = []
    for start, stop in itertools.pairwise(bounds):
        if start == stop:
            continue
        lo, hi = indptr[start], indptr[stop]
        pointers, rows, values = to_impact_order(indptr[start : stop + 1] - lo, indices[lo:hi], data[lo:hi], n_features)
        features = np.repeat(np.arange(n_features), np.diff(pointers))
        parts.append((features, values, rows.astype(np.int64) + start))
    merged = impact_sort(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    expected = impact_order_by_lexsort(indptr, indices, data, n_features)
    assert np.array_equal(merged[0], expected[1])
    assert np.array_equal(merged[1], expected[2])


@pytest.mark.parametrize("last", [1, 65_535, 65_536, 1 << 31, 1 << 32, 1 << 40])
@pytest.mark.parametrize("n_features", [1, 2])
def test_merging_takes_any_number_of_rows(last, n_features):
    """Also more than fit a key beside the features."""
    features = np.zeros(6, np.int64)
    features[0] = n_features - 1
    data = np.array([3, 1, 1, 3, 2, 1], np.float32)
    rows = np.array([10, 11, 12, 13, 14, 15 + last])
    found_rows, found_data = impact_sort(features, data, rows)
    assert (found_rows.tolist() == [10, 13, 14, 11, 12, 15 + last]) == (n_features == 1)
    order = np.lexsort((rows, -data, features))
    assert found_rows.tolist() == rows[order].tolist()
    assert found_data.tolist() == data[order].tolist()


def test_merging_nothing_gives_nothing():
    nothing = np.empty(0, np.int64)
    rows, data = impact_sort(nothing, np.empty(0, np.float32), nothing)
    assert len(rows) == len(data) == 0


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.integers(0, 100))
def test_segment_sums_are_scipys_column_sums(counts, seed):
    indptr = np.concatenate([[0], np.cumsum(counts)])
    values = np.random.default_rng(seed).integers(-5, 5, indptr[-1]).astype(np.float32)
    matrix = sp.csc_array((values, np.arange(len(values)), indptr), shape=(len(values) + 1, len(counts)))
    assert segment_sums(values, indptr).tolist() == matrix.sum(axis=0).tolist()


@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=20),
    dtype=st.sampled_from(FLOATS),
    seed=st.integers(0, 100),
)
def test_sums_of_entries_in_any_order_are_those_of_lists(counts, dtype, seed):
    rng = np.random.default_rng(seed)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    features = np.repeat(np.arange(len(counts)), counts).astype(np.uint16)
    data = rng.normal(3, 100, len(features)).astype(dtype)
    order = rng.permutation(len(features))
    found = Moments.of_entries(features[order], data[order], len(counts), 7)
    for name, values in Moments.of_lists(indptr, data, 7).arrays().items():
        assert found.arrays()[name].dtype == values.dtype
        np.testing.assert_allclose(found.arrays()[name], values, rtol=1e-12, atol=1e-12 * 100)


@given(st.sets(st.integers(0, 60)))
def test_runs_of_numbers_are_where_they_were(ids):
    ascending = np.array(sorted(ids), np.int64)
    starts, stops = runs_of(ascending)
    assert [i for a, b in zip(starts, stops, strict=True) for i in range(a, b)] == ascending.tolist()
    assert (starts[1:] > stops[:-1]).all()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.data())
def test_expand_pointers_is_a_slice_of_all_runs(counts, data):
    indptr = np.concatenate([[0], np.cumsum(counts)])
    start = data.draw(st.integers(0, int(indptr[-1])))
    stop = data.draw(st.integers(start, int(indptr[-1])))
    assert (
        expand_pointers(indptr, start, stop).tolist() == np.repeat(np.arange(len(counts)), counts)[start:stop].tolist()
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_fingerprint_knows_entries_but_not_their_order(dtype):
    rng = np.random.default_rng(0)
    rows, features = np.arange(100) // 5, np.arange(100) % 5
    data = rng.normal(size=100).astype(dtype)
    whole = entry_hash(rows, features, data)
    order = rng.permutation(100)
    assert entry_hash(rows[order], features[order], data[order]) == whole
    swapped = data.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert entry_hash(rows, features, swapped) != whole
    moved = rows.copy()
    moved[7] += 1
    assert entry_hash(moved, features, data) != whole
    parts = [entry_hash(rows[s], features[s], data[s]) for s in (slice(0, 40), slice(40, None))]
    assert tuple(sum(p[i] for p in parts) % 2**64 for i in (0, 1)) == whole
