"""Rare branches where a small mistake changes an answer that no other test reads; `mutants.py` makes such mistakes."""

import json
from unittest import mock

import numpy as np
import pytest
import scipy.sparse as sp
from raising import raises
from strategies import PATH, layout, make_case, scratch_store, write_segments
from test_kernels import impact_order_by_lexsort

import saestore
from saestore.errors import LockedError
from saestore.kernels import to_impact_order
from saestore.writing import SetLock, SetWriter, writer

pytestmark = pytest.mark.once


@pytest.mark.parametrize("n_rows", [65_536, 65_537])
@pytest.mark.parametrize("n_features", [65_535, 65_536, 65_537])
def test_keys_that_need_64_bits_are_packed_and_longer_ones_are_not(n_rows, n_features):
    """16 bits of rows, 32 of activation and 16 of feature: with one row more the last features would lose a bit."""
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(n_rows, 300, replace=False))
    indices = rng.choice([0, 1, n_features // 2, n_features - 1], 300).astype(np.uint32)
    data = rng.choice([0.5, 1.0, -1.0], 300).astype(np.float32)
    indptr = np.searchsorted(rows, np.arange(n_rows + 1))
    for found, expected in zip(
        to_impact_order(indptr, indices, data, n_features),
        impact_order_by_lexsort(indptr, indices, data, n_features),
        strict=True,
    ):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_of_equal_activations_the_earlier_samples_are_first_beyond_the_first_prefix(n):
    """The condition drops the whole first prefix of the first segment; its samples come before the second's."""
    store, rows = scratch_store(), 4 * 3 + 8
    ones = sp.csr_array(np.ones((2 * rows, 2), np.float32))
    case = make_case(0, 2 * rows, 2, density=1.0, palette="one", segment_rows=rows, ragged=False)
    case.dense[:] = ones.toarray()
    acts = write_segments(store, case)
    where = np.arange(2 * rows) >= rows - 2
    for feature in (0, 1):
        assert acts.top_samples(feature, n, where=where).sample.tolist() == list(range(rows - 2, rows - 2 + n))


@pytest.mark.parametrize("value", [0.1, 3.3, -7.7])
def test_a_constant_column_correlates_with_nothing(value):
    dense = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)
    dense[:, 1] = value
    acts = scratch_store().write(PATH, sp.csr_array(dense))
    expected = np.corrcoef(dense[:, [0, 2, 3]].T.astype(np.float64))[0, 1:]
    similar = acts.similar(0, 10, metric="correlation")
    assert sorted(similar.feature.tolist()) == [2, 3]
    np.testing.assert_allclose(np.sort(similar.score), np.sort(expected), rtol=1e-6)
    assert len(acts.similar(1, 10, metric="correlation")) == 0
    acts.concepts.add({"odd": np.arange(7) % 2 == 1}, level="sample")
    scores = acts.concepts.scores(level="sample")["point_biserial"].values.ravel()
    assert np.isnan(scores).tolist() == [False, True, False, False]


def test_a_lock_is_released_by_its_owner_only(tmp_path):
    store = saestore.open(tmp_path / "a.zarr", "a")
    lost, owner = SetLock(store.root, PATH), SetLock(store.root, PATH)
    lost.acquire()
    file = tmp_path / "a.zarr" / PATH / "lock" / "zarr.json"
    file.unlink()  # somebody broke it
    owner.acquire()
    lost.release()
    assert json.loads(file.read_text())["attributes"]["token"] == owner._token
    with raises(LockedError, "lock-lost"):
        lost.confirm()
    owner.confirm()
    owner.release()
    assert not file.exists()


def check_in_blocks(monkeypatch, block):
    """Lists are checked in whole blocks of the sums, so these have to be as small."""
    monkeypatch.setattr("saestore.segment.check._BLOCK", block)
    monkeypatch.setattr("saestore.stats.RunningMoments.BLOCK", min(block, 1 << 16))


@pytest.mark.parametrize("block", [1, 2, 3, 5, 1 << 22])
@pytest.mark.parametrize("place", range(5))
def test_verify_finds_two_entries_in_the_wrong_order_at_every_border_of_blocks(monkeypatch, block, place):
    case = make_case(0, 6, 1, density=1.0, palette="heavy")
    case.dense[:, 0] = [6, 5, 4, 4, 2, 1]

    def swapped(*args):
        indptr, rows, data = to_impact_order(*args)
        for array in (rows, data):
            array[[place, place + 1]] = array[[place + 1, place]]
        return indptr, rows, data

    store = scratch_store()
    with monkeypatch.context() as patch:
        patch.setattr("saestore.segment.write.to_impact_order", swapped)
        write_segments(store, case)
    check_in_blocks(monkeypatch, block)
    problems = store.verify().problems
    assert any("by_feature" in problem.node and "order" in problem.what for problem in problems)


@pytest.mark.parametrize("block", [1, 3, 1 << 22])
def test_verify_finds_nothing_in_a_sound_set_at_any_border(monkeypatch, block):
    store = scratch_store()
    write_segments(store, make_case(4, 9, 3, density=0.9, palette="ties", segment_rows=4))
    check_in_blocks(monkeypatch, block)
    assert store.verify().problems == ()


def test_a_merge_commits_before_it_deletes():
    """Where the commit fails, the segments that were merged are still there."""
    case = make_case(2, 12, 4, density=0.6, segment_rows=4)
    store = scratch_store()
    expected = write_segments(store, case).dense()
    with (
        layout(case),
        pytest.raises(OSError, match="no commit"),
        SetWriter(store.root, PATH) as set_writer,
        mock.patch.object(writer.SetWriter, "_commit", side_effect=OSError("no commit")),
    ):
        set_writer.compact()
    acts = store[PATH]
    assert len(acts.attributes.segments) == 3
    assert np.array_equal(acts.dense(), expected)
    with layout(case):
        store.compact(PATH)
    assert np.array_equal(store[PATH].dense(), expected)
    assert store.verify().ok
