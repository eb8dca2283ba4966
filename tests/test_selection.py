"""What may be given as features, samples or a condition: numpy's rules, and one clear error for everything else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices
from raising import raises
from strategies import make_case, scratch_store, write_case

from saestore.errors import InvalidInputError, NotFoundError, OutOfRangeError, check_choice
from saestore.query.selection import select
from saestore.tables.item_index import ItemIndex

pytestmark = pytest.mark.once

INTS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


@given(size=st.integers(1, 300), data=st.data())
def test_a_slice_or_an_int_is_numpys(size, data):
    spec = data.draw(basic_indices((size,), allow_newaxis=False, allow_ellipsis=False))
    spec = spec[0] if isinstance(spec, tuple) and spec else slice(None) if isinstance(spec, tuple) else spec
    chosen = select(spec, size, "feature")
    assert np.array_equal(chosen.ids, np.atleast_1d(np.arange(size)[spec]))
    assert chosen.scalar == (not isinstance(spec, slice))


@given(
    size=st.integers(1, 100),
    values=st.lists(st.integers(-128, 127), max_size=10),
    kind=st.sampled_from(["list", "tuple", "range", *INTS]),
)
def test_ids_are_numpys(size, values, kind):
    if kind == "list":
        spec = values
    elif kind == "tuple":
        spec = tuple(values)
    elif kind == "range":
        spec = range(min(values, default=0), max(values, default=0), 2)
    else:
        spec = np.array(values, np.int64)
        spec = (np.abs(spec) if np.dtype(kind).kind == "u" else spec).astype(kind)
    try:
        expected = np.arange(size)[np.asarray(list(spec), np.int64)]
    except IndexError:
        with raises(OutOfRangeError, "out-of-range", "feature", size):
            select(spec, size, "feature")
    else:
        chosen = select(spec, size, "feature")
        assert chosen.ids.dtype == np.int64
        assert np.array_equal(chosen.ids, expected)
        assert not chosen.scalar


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.booleans())
def test_a_mask_is_numpys(mask, as_list):
    spec = mask if as_list else np.array(mask)
    assert np.array_equal(select(spec, len(mask), "sample").ids, np.flatnonzero(mask))


@pytest.mark.parametrize("spec", [3, np.int64(3), np.uint16(3), np.array(3), -7])
def test_one_int_of_any_kind_drops_the_axis(spec):
    chosen = select(spec, 10, "feature")
    assert chosen.ids.tolist() == [3]
    assert chosen.scalar


def test_none_is_everything_and_an_empty_list_nothing():
    assert select(None, 4, "sample").ids.tolist() == [0, 1, 2, 3]
    for nothing in ([], (), np.empty(0), np.zeros(4, bool), slice(2, 2)):
        assert select(nothing, 4, "sample").ids.tolist() == []


@pytest.mark.parametrize("spec", [10, -11, 10**30, [10**30], [0, 10], np.array([-11]), np.array([255], np.uint8)])
def test_an_id_out_of_range_is_named_with_the_range(spec):
    bad = int(np.asarray(spec).reshape(-1)[-1])
    with raises(OutOfRangeError, "out-of-range", f"feature {bad}", "there are 10"):
        select(spec, 10, "feature")


BAD = [
    (1.5, "not-an-index", "1.5"),
    ([1.0, 2.0], "not-an-index", "float64"),
    ([[1, 2]], "not-an-index", "2 dimensions"),
    ([[1], [2, 3]], "not-an-index", [[1], [2, 3]]),
    ("3", "not-an-index", "'3'"),
    (["a"], "not-an-index", "<U1"),
    (True, "not-an-index", "True"),
    ([True, False], "mask-length", "2 values; there are 10 features"),
    (slice(0.5, 2), "not-an-index", "slice(0.5, 2, None)"),
    (slice(0, 5, 0), "not-an-index", "slice(0, 5, 0)"),
    (slice("a", "b"), "not-an-index", "slice('a', 'b', None)"),
    ({1: 2}, "not-an-index", {1: 2}),
]


@pytest.mark.parametrize(("spec", "code", "named"), BAD, ids=str)
def test_a_wrong_index_is_an_error(spec, code, named):
    with raises(InvalidInputError, code, named, "feature"):
        select(spec, 10, "feature")


@pytest.fixture(scope="module")
def acts():
    """40 samples of 12 items: split, one concept, a number."""
    case = make_case(3, 40, 6, ragged=True)
    return case, write_case(scratch_store(), case)


def kept(acts, where):
    chosen = acts.condition(where)
    samples = np.flatnonzero(chosen.over_samples(acts.shape[0]))
    assert np.array_equal(chosen.keeps(np.arange(acts.shape[0])), np.isin(np.arange(acts.shape[0]), samples))
    return samples


def test_a_mapping_asks_columns_and_concepts(acts):
    case, acts = acts
    item_of = case.item_of_sample
    names = np.array(["train", "cal", "test"])[case.split]
    weight = np.array(case.items["weight"])
    expected = {
        "split": ({"split": "test"}, names == "test"),
        "any of": ({"split": ["test", "cal"]}, names != "train"),
        "concept": ({"color::red": True}, case.red),
        "concept as a number": ({"color::red": 0}, ~case.red),
        "number": ({"weight": 3}, weight == 3),
        "both": ({"split": "train", "color::red": 1}, (names == "train") & case.red),
        "key": ({"key": "images/000.png"}, np.arange(case.n_items) == 0),
        "nothing of the kind": ({"split": "no such"}, np.zeros(case.n_items, bool)),
        "everything": ({}, np.ones(case.n_items, bool)),
    }
    for name, (where, items) in expected.items():
        assert np.array_equal(kept(acts, where), np.flatnonzero(items[item_of])), name


def test_a_mask_is_over_samples_or_over_items(acts):
    case, acts = acts
    rng = np.random.default_rng(0)
    samples, items = rng.random(40) < 0.5, rng.random(case.n_items) < 0.5
    assert np.array_equal(kept(acts, samples), np.flatnonzero(samples))
    assert np.array_equal(kept(acts, items), np.flatnonzero(items[case.item_of_sample]))
    assert np.array_equal(kept(acts, items.tolist()), np.flatnonzero(items[case.item_of_sample]))


def test_a_wrong_condition_is_an_error(acts):
    case, acts = acts
    with raises(NotFoundError, "unknown-column", "'splt'", "'split'", "key, split, weight, color::red"):
        kept(acts, {"splt": "test"})
    with raises(InvalidInputError, "condition-type", "'split'", "text", 1):
        kept(acts, {"split": 1})
    with raises(InvalidInputError, "condition-type", "'color::red'", '"yes"'):
        kept(acts, {"color::red": "yes"})
    with raises(InvalidInputError, "mask-length", 7, 40, case.n_items):
        kept(acts, np.ones(7, bool))
    for other in ([0, 1, 2], [[True], [True, False]], 3):
        with raises(InvalidInputError, "where-type", type(other).__name__):
            kept(acts, other)
    with raises(NotFoundError, "unknown-column", "'test'"):
        kept(acts, "test")


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12).filter(any))
def test_items_and_positions_are_those_of_the_pointers(sizes):
    ptr = np.concatenate([[0], np.cumsum(sizes)])
    index = ItemIndex.of(ptr)
    items, positions = index.locate(np.arange(ptr[-1]))
    assert items.tolist() == [i for i, n in enumerate(sizes) for _ in range(n)]
    assert positions.tolist() == [p for n in sizes for p in range(n)]
    assert np.array_equal(index.pointers(), ptr)


def test_a_choice_that_does_not_exist_is_answered_with_the_one_that_it_is_like():
    with raises(InvalidInputError, "unknown-choice", "level='items'", "Did you mean 'item'?", "'sample'"):
        check_choice("level", "items", ("item", "sample"))
    with raises(InvalidInputError, "unknown-choice", "level=3: use 'item' or 'sample'"):
        check_choice("level", 3, ("item", "sample"))
