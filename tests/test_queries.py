"""Every question, equal to brute force on the dense tensor: in segments, compacted, in memory and in a folder."""

from collections.abc import Sequence
from dataclasses import replace

import brute
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from raising import raises
from strategies import (
    PATH,
    SPLITS,
    Case,
    cases,
    layout,
    make_case,
    memory_store,
    scratch_store,
    write_case,
    write_segments,
)

import saestore
from saestore.errors import InvalidInputError, NotFoundError, OutOfRangeError, TooLargeError

# Writing a store takes half a second: few examples, each asked everything.
FEW = settings(
    max_examples=14,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking would take minutes
)


def check_everything(acts, case: Case, rng: np.random.Generator) -> None:
    """Ask one set every question and compare with the dense tensor."""
    assert acts.shape == case.dense.shape
    assert acts.nnz == np.count_nonzero(case.dense)
    assert acts.dtype == case.dense.dtype
    assert acts.n_items == case.n_items
    features = interesting_features(case, rng)
    check_top_samples(acts, case, features, rng)
    check_top_features(acts, case, rng)
    check_slices(acts, case, features, rng)
    check_statistics(acts, case, features, rng)
    check_distributions(acts, case, features)


def interesting_features(case: Case, rng) -> list[int]:
    """The first, the last, those that fire most and some others, dead ones among them; not in order."""
    counts = np.count_nonzero(case.dense, axis=0)
    chosen = [0, case.n_features - 1, *np.argsort(counts)[-3:], *rng.integers(0, case.n_features, 4)]
    return [int(f) for f in rng.permutation(np.unique(chosen))]


def masks_of(case: Case, rng):
    """Conditions as a caller writes them, and the samples that each keeps."""
    items = rng.random(case.n_items) < 0.5
    samples = rng.random(len(case.dense)) < 0.5
    per_item = {
        "split": ({"split": "test"}, SPLITS[case.split] == "test"),
        "concept": ({"color::red": True, "split": ["train", "cal"]}, case.red & (SPLITS[case.split] != "test")),
    }
    if case.n_items != len(case.dense):
        per_item["items"] = items, items
    yield None, np.ones(len(case.dense), bool)
    yield samples, samples
    yield np.zeros(len(case.dense), bool), np.zeros(len(case.dense), bool)
    for where, keep in per_item.values():
        yield where, keep[case.item_of_sample]


def assert_top_samples(found, case: Case, features: Sequence[int], *, n: int, level: str, keep) -> None:
    wanted, samples = brute.top_samples(
        case.dense, list(features), n, case.item_of_sample, per_item=level == "item", keep=keep
    )
    assert found.feature.tolist() == wanted.tolist()
    assert found.sample.tolist() == samples.tolist()
    assert found.item.tolist() == case.item_of_sample[samples].tolist()
    assert found.position.tolist() == (samples - case.item_ptr[case.item_of_sample[samples]]).tolist()
    assert found.activation.dtype == case.dense.dtype
    assert found.activation.tolist() == case.dense[samples, wanted].tolist()


def check_top_samples(acts, case: Case, features: list[int], rng) -> None:
    for where, keep in masks_of(case, rng):
        for level in ("sample", "item"):
            for n in (0, 1, 3, 10**6):
                found = acts.top_samples(features, n, level=level, where=where)
                assert_top_samples(found, case, features, n=n, level=level, keep=keep)
    every = {"level": "sample", "keep": np.ones(len(case.dense), bool)}
    for feature in features:
        assert_top_samples(acts.top_samples(feature), case, [feature], n=20, **every)
        assert_top_samples(acts.feature(feature), case, [feature], n=10**6, **every)
    repeated = np.array([features[0], features[0] - case.n_features, *features])
    assert_top_samples(acts.top_samples(repeated, 2), case, (repeated % case.n_features).tolist(), n=2, **every)
    assert len(acts.top_samples([])) == 0


def check_top_features(acts, case: Case, rng) -> None:
    n_rows = len(case.dense)
    samples = rng.integers(-n_rows, n_rows, 6)
    for n in (0, 1, 4, 10**6):
        found = acts.top_features(samples, n)
        rows, features = brute.top_features(case.dense, [int(s) % n_rows for s in samples], n)
        assert found.sample.tolist() == rows.tolist()
        assert found.feature.tolist() == features.tolist()
        assert found.activation.tolist() == case.dense[rows, features].tolist()
    assert len(acts.top_features([])) == 0


def check_slices(acts, case: Case, features: list[int], rng) -> None:
    n_rows, n_features = case.dense.shape
    rows = rng.integers(-n_rows, n_rows, 5)
    mask = rng.random(n_rows) < 0.3
    for samples, columns in (
        (None, features),
        (slice(None), slice(n_features - 1, None, -7)),
        (slice(1, -1), features),
        (rows, None if n_features < 100 else slice(-9, None)),
        (rows.tolist(), [features[0]] * 3),
        (mask, features[::-1]),
        (slice(None, None, -3), np.array(features) - n_features),
        ([], features),
        (mask, []),
        (np.zeros(n_rows, bool), slice(0, 0)),
    ):
        expected = case.dense[slice(None) if samples is None else samples][
            :, slice(None) if columns is None else columns
        ]
        found = acts.dense(samples, columns)
        assert found.dtype == case.dense.dtype
        assert np.array_equal(found, expected)
        sparse = acts.sparse(samples, columns)
        assert sparse.format == "csr"
        assert sparse.has_canonical_format
        assert np.array_equal(sparse.toarray(), expected.astype(sparse.dtype))
    row, column = int(rows[0]), features[0]
    assert np.array_equal(acts.dense(row, features), case.dense[row, features])
    assert np.array_equal(acts.dense(slice(None), column), case.dense[:, column])
    assert acts.dense(row, column) == case.dense[row, column]
    assert np.array_equal(acts.sparse(row, features).toarray(), case.dense[[row]][:, features])
    assert acts.sparse(row, column).shape == (1, 1)


def check_statistics(acts, case: Case, features: list[int], rng) -> None:
    for where, keep in masks_of(case, rng):
        for ids in (features, [features[0]] * 2, []):
            found = acts.stats(ids, where=where)
            assert found["feature"].values.tolist() == ids
            assert found.attrs["n_samples"] == keep.sum()
            brute.assert_statistics(found, case.dense[keep][:, ids])
    brute.assert_statistics(acts.stats(), case.dense)


def check_distributions(acts, case: Case, features: list[int]) -> None:
    q = np.array([0, 0.01, 0.5, 0.99, 1])
    # numpy interpolates in the dtype of the values; the answer is in float64.
    wide = case.dense.astype(np.float64)
    found = acts.quantile(q, features)
    assert found.dims == ("quantile", "feature")
    assert found["feature"].values.tolist() == features
    assert np.array_equal(found, np.quantile(wide[:, features], q, axis=0))
    active = acts.quantile(q, features, active_only=True)
    for feature in features:
        values = wide[:, feature]
        values = values[values != 0]
        expected = np.quantile(values, q) if len(values) else np.full(len(q), np.nan)
        assert np.array_equal(active.sel(feature=feature), expected, equal_nan=True)
    for feature in features[:3]:
        for active_only, of in ((True, wide[wide[:, feature] != 0, feature]), (False, wide[:, feature])):
            for bins in (7, [-1.0, 0.0, 0.5, 2.0]):
                counts, edges = np.histogram(of, bins)
                histogram = acts.histogram(feature, bins, active_only=active_only)
                assert histogram.count.tolist() == counts.tolist()
                assert histogram.edges.tolist() == edges.tolist()
            counts, _ = np.histogram(of, 4, (-1, 1))
            assert acts.histogram(feature, 4, range=(-1, 1), active_only=active_only).count.tolist() == counts.tolist()


@pytest.mark.once
@FEW
@given(cases(), st.booleans())
def test_answers_are_brute_forces_before_and_after_compaction(tmp_path_factory, case, in_memory):
    store = memory_store() if in_memory else saestore.open(tmp_path_factory.mktemp("s") / "a.zarr", "a")
    acts = write_segments(store, case)
    assert len(acts.attributes.segments) == -(-len(case.dense) // case.segment_rows)
    check_everything(acts, case, np.random.default_rng(0))
    with layout(case):
        compacted = store.compact(PATH, memory=1 << 16)
    assert len(compacted.attributes.segments) == 1
    check_everything(compacted, case, np.random.default_rng(1))


WIDE = {
    "65,535 features": make_case(1, 12, 65_535, segment_rows=5),
    "65,536 features": make_case(2, 12, 65_536, segment_rows=5, palette="heavy"),
    "65,537 features": make_case(3, 12, 65_537, segment_rows=5, palette="signed"),
    "65,537 features, float16": make_case(4, 12, 65_537, segment_rows=5, dtype="float16"),
    "65,537 features, float64": make_case(5, 12, 65_537, segment_rows=12, dtype="float64"),
    "one sample": make_case(6, 1, 20, density=0.5),
    "one feature": make_case(7, 50, 1, density=0.5, segment_rows=7),
    "one of each": make_case(8, 1, 1, density=1.0),
    "nothing at all": make_case(9, 10, 4, density=0.0, segment_rows=3),
}


@pytest.mark.parametrize("case", WIDE.values(), ids=WIDE)
def test_answers_are_brute_forces_at_the_edges(tmp_path, case):
    acts = write_case(saestore.open(tmp_path / "a.zarr", "a"), case)
    check_everything(acts, case, np.random.default_rng(0))
    ids = acts.group["segments"][f"0-{len(case.dense)}"]["by_sample"]["indices"]
    assert ids.dtype == ("uint16" if case.n_features <= 65_536 else "uint32")


@pytest.fixture(scope="module")
def small():
    case = make_case(11, 30, 9, density=0.6, segment_rows=10)
    return case, write_segments(scratch_store(), case)


def test_negative_activations_come_last_and_zeros_never(small):
    case, acts = small
    found = acts.feature(int(np.argmin(case.dense.min(axis=0))))
    assert (np.diff(found.activation) <= 0).all()
    assert found.activation[-1] < 0
    assert (found.activation != 0).all()


def test_an_item_comes_once_with_its_strongest_sample(small):
    case, acts = small
    feature = int(np.argmax(np.count_nonzero(case.dense, axis=0)))
    found = acts.top_samples(feature, 1000, level="item")
    assert len(set(found.item.tolist())) == len(found)
    for item, activation in zip(found.item, found.activation, strict=True):
        column = case.dense[case.item_of_sample == item, feature]
        assert activation == column[column != 0].max()


def test_too_large_an_answer_is_refused_before_it_is_made(small):
    _, acts = small
    with raises(TooLargeError, "too-large", "30 x 9") as caught:
        acts.dense(max_bytes=100)
    assert "sparse()" in str(caught.value)
    assert acts.dense(max_bytes=30 * 9 * 4).shape == (30, 9)
    with raises(TooLargeError, "too-large", "max_bytes"):
        acts.sparse(max_bytes=100)


def test_dense_of_a_great_set_is_refused_by_its_size_alone():
    # Two million samples would be 488 GiB; only three of them hold anything.
    import scipy.sparse as sp

    matrix = sp.coo_array(([1.0, 2.0, 3.0], ([0, 1_000_000, 1_999_999], [5, 5, 65_535])), shape=(2_000_000, 65_536))
    acts = scratch_store().write(PATH, matrix.astype(np.float32), segment_rows=2_000_000)
    with raises(TooLargeError, "too-large", "2,000,000 x 65,536", "488.28 GiB", "4.00 GiB"):
        acts.dense()
    assert acts.top_samples(5).sample.tolist() == [1_000_000, 0]
    assert acts.sparse().nnz == 3
    assert acts.dense([0, 1_999_999], [5, 65_535]).tolist() == [[1, 0], [0, 3]]


OUTSIDE = (OutOfRangeError, "out-of-range")
WRONG = [
    (lambda a: a.top_samples(9), OUTSIDE, ["feature 9", "0 to 8"]),
    (lambda a: a.top_samples(-10), OUTSIDE, ["feature -10"]),
    (lambda a: a.top_features(30), OUTSIDE, ["sample 30", "0 to 29"]),
    (lambda a: a.dense(30), OUTSIDE, ["sample 30"]),
    (lambda a: a.sparse(features=[1, 99]), OUTSIDE, ["feature 99"]),
    (lambda a: a.feature(9), OUTSIDE, ["feature 9"]),
    (lambda a: a.stats([9]), OUTSIDE, ["feature 9"]),
    (lambda a: a.quantile(0.5, 9), OUTSIDE, ["feature 9"]),
    (lambda a: a.histogram(9), OUTSIDE, ["feature 9"]),
    (lambda a: a.top_samples(1, -1), (InvalidInputError, "too-small"), ["n=-1"]),
    (lambda a: a.top_features(1, -1), (InvalidInputError, "too-small"), ["n=-1"]),
    (lambda a: a.feature([1, 2]), (InvalidInputError, "not-one"), [[1, 2]]),
    (lambda a: a.histogram([1, 2]), (InvalidInputError, "not-one"), [[1, 2]]),
    (lambda a: a.quantile(1.5), (InvalidInputError, "not-a-probability"), ["q=1.5"]),
    (lambda a: a.quantile("half"), (InvalidInputError, "not-a-probability"), ["q='half'"]),
    (lambda a: a.quantile(True), (InvalidInputError, "not-a-probability"), ["q=True"]),
    (lambda a: a.histogram(1, bins=True), (InvalidInputError, "wrong-bins"), ["bins=True"]),
    (lambda a: a.histogram(1, bins=0), (InvalidInputError, "wrong-bins"), ["bins=0"]),
    (lambda a: a.histogram(1, bins=[2, 1]), (InvalidInputError, "wrong-bins"), ["bins=[2, 1]"]),
    (lambda a: a.histogram(1, range=(2, 1)), (InvalidInputError, "wrong-bins"), ["range=(2, 1)"]),
    (lambda a: a.histogram(1, bins="auto", active_only=False), (InvalidInputError, "wrong-bins"), ["bins='auto'"]),
    (lambda a: a.vindex([1, 2], [3, 4, 5]), (InvalidInputError, "not-pairs"), ["2 samples", "3 features"]),
    (lambda a: a.stats(where={"no": 1}), (NotFoundError, "unknown-column"), ["'no'"]),
]


@pytest.mark.parametrize(("ask", "error", "named"), WRONG, ids=[str(named[0]) for _, _, named in WRONG])
def test_a_wrong_question_is_an_error_with_the_value_and_the_limits(small, ask, error, named):
    with raises(*error, *named) as caught:
        ask(small[1])
    assert "\n" not in str(caught.value)


def test_an_unknown_level_is_an_error(small):
    with pytest.raises(InvalidInputError) as caught:
        small[1].top_samples(1, level="image")
    assert "'image'" in str(caught.value)


def test_a_table_is_sliced_iterated_and_turned_into_plain_values(small):
    top = small[1].top_samples([1, 2], 3)
    rows = list(top)
    assert [row["activation"] for row in rows] == top.activation.tolist()
    assert list(top[2:5]) == rows[2:5]
    assert list(top[-1]) == rows[-1:]
    assert list(top[np.array([3, 0])]) == [rows[3], rows[0]]
    assert type(top[1:]) is type(top)
    assert top.to_dict() == {name: [row[name] for row in rows] for name in top.columns}
    assert len(top[:0]) == 0
    assert list(top[:0]) == []


def test_tables_go_to_pandas_records_and_notebooks(small):
    _, acts = small
    top = acts.top_samples([1, 2], 3)
    frame = top.to_pandas()
    assert list(frame.columns) == ["feature", "sample", "item", "position", "activation", "key"]
    assert frame[list(top.columns)].to_dict("records") == list(top)
    assert frame["key"].tolist() == acts.items["key"][top.item].tolist()
    assert len(top) == 6
    assert top._repr_html_().count("<tr>") == 7
    long = replace(top, _details=lambda _: {"key": np.array(["a key of more than ten letters", *"bcdef"])})
    columns, *rows = repr(long).splitlines()[1:]
    assert columns.split() == [*top.columns, "key"]
    assert {len(row) for row in rows} == {len(columns)}
    assert list(acts.top_features(0).to_pandas().columns) == ["item", "sample", "feature", "activation", "key"]
    assert list(acts.histogram(1, 5).to_pandas().columns) == ["left", "right", "count"]


def test_a_set_shows_what_it_is(small):
    case, acts = small
    assert f"{len(case.dense)} samples x 9 features, {acts.nnz} non-zeros" in repr(acts)
    assert len(acts) == len(case.dense)
