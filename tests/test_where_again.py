"""A condition in words is resolved once: what is asked under it again reads nothing of the items."""

import numpy as np
import pytest
import scipy.sparse as sp
from raising import raises
from zarr.storage import MemoryStore

import saestore
from benchmarks.counting import CountingStore
from saestore.errors import InvalidInputError
from saestore.query import where as conditions

pytestmark = pytest.mark.once

PATH = "Toy/patch/sae"
SPLIT = np.array(["train", "test"] * 5)
ITEM = np.arange(40) // 4


@pytest.fixture
def counted():
    store = CountingStore(MemoryStore())
    matrix = sp.random_array((40, 12), density=0.4, rng=np.random.default_rng(0), dtype=np.float32, format="csr")
    items = {"image_path": [f"{i}.png" for i in range(10)], "split": SPLIT, "red": (np.arange(10) % 3 == 0).astype(int)}
    return saestore.open(store, mode="a").write(PATH, matrix, item_ptr=4, items=items), store, matrix.toarray()


def samples(acts, where):
    return acts.samples.where(where).tolist()


@pytest.mark.parametrize("where", [{"split": "test"}, {"split": ["test"], "red": True}, "split == 'test' and red"])
def test_asked_again_it_reads_nothing(counted, where):
    acts, store, _ = counted
    first = samples(acts, where)
    store.taken()
    assert samples(acts, where) == first
    assert store.taken().requests == 0


@pytest.mark.parametrize(("where", "n"), [("split == 'test'", 1), ("split == 'test' and activation > 0", 3)])
def test_another_feature_resolves_a_condition_on_activation_anew(counted, monkeypatch, where, n):
    acts, _, dense = counted
    resolved = []
    bind = conditions.bind
    monkeypatch.setattr(conditions, "bind", lambda *args: resolved.append(0) or bind(*args))
    for feature in (2, 5, 7):
        found = acts.top_samples(feature, where=where).sample
        assert set(found.tolist()) == set(np.flatnonzero((dense[:, feature] > 0) & (SPLIT[ITEM] == "test")).tolist())
    assert len(resolved) == n


def test_activation_is_that_of_each_feature(counted):
    acts, _, dense = counted
    for feature in (2, 5):
        found = acts.top_samples(feature, where="activation > 0.5").sample
        assert set(found.tolist()) == set(np.flatnonzero(dense[:, feature] > 0.5).tolist())


def test_other_words_and_masks_are_resolved_anew(counted):
    acts, _, _ = counted
    test = np.flatnonzero(SPLIT[ITEM] == "test").tolist()
    assert samples(acts, {"split": "test"}) == test
    assert samples(acts, {"split": "train"}) == sorted({*range(40)} - {*test})
    mask = SPLIT == "test"
    assert samples(acts, mask) == test
    mask[:] = False
    assert samples(acts, mask) == []
    wanted = np.array(["test"])
    assert samples(acts, {"split": wanted}) == test
    wanted[0] = "cal"
    assert samples(acts, {"split": wanted}) == []


def test_one_and_true_are_different_conditions(counted):
    acts, _, _ = counted
    assert samples(acts, "item == 1") == [4, 5, 6, 7]
    with raises(InvalidInputError, "condition-type", "true"):
        samples(acts, "item == true")


def test_labels_that_were_replaced_answer(counted):
    acts, _, _ = counted
    assert samples(acts, "red") == np.flatnonzero(ITEM % 3 == 0).tolist()
    acts.concepts.add({"red": np.arange(10) == 1}, level="item", overwrite=True)
    assert samples(acts, "red") == [4, 5, 6, 7]
