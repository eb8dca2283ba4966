"""Features that are active together: equal to scikit-learn's and numpy's figures on the dense columns."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from raising import raises
from sklearn.metrics import jaccard_score
from sklearn.metrics.pairwise import cosine_similarity
from strategies import PATH, cases, make_case, scratch_store, write_case, write_segments

from saestore.errors import InvalidInputError, OutOfRangeError, TooLargeError

pytestmark = pytest.mark.once

# Writing a store takes half a second: few examples, each compared in full.
FEW = settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
METRICS = st.sampled_from(["jaccard", "cosine", "correlation"])
OTHER = "Shapes/patch/other"


def both_active(dense, other):
    return (dense != 0).T.astype(int) @ (other != 0).astype(int)


def scores_of(metric, dense, other):
    """The metric of each column of one matrix with each of another; NaN where they share no row, or for a constant."""
    a, b = dense.astype(np.float64), other.astype(np.float64)
    n_both = both_active(a, b)
    scores = np.full(n_both.shape, np.nan)
    for i, j in np.argwhere(n_both > 0):
        x, y = a[:, i], b[:, j]
        # Neither metric depends on the scale, and squares of the largest float64 are infinite.
        x, y = x / np.abs(x).max(), y / np.abs(y).max()
        if metric == "jaccard":
            scores[i, j] = jaccard_score(x != 0, y != 0)
        elif metric == "cosine":
            scores[i, j] = cosine_similarity(x[None], y[None])[0, 0]
        elif np.ptp(x) and np.ptp(y):
            scores[i, j] = np.corrcoef(x, y)[0, 1]
    return scores


def assert_ranked(found, scores, expected, n):
    """The `n` best of a row: the very scores, in their order; each with its feature."""
    best = np.sort(expected[~np.isnan(expected)])[::-1][:n]
    np.testing.assert_allclose(scores, best, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(expected[found], scores, rtol=1e-9, atol=1e-9)
    assert len(set(found.tolist())) == len(found)
    ties = np.diff(scores) == 0
    assert (np.diff(found)[ties] > 0).all()


@FEW
@given(cases(max_rows=40, max_features=6), METRICS)
def test_similar_features_of_a_set_in_segments(case, metric):
    acts = write_segments(scratch_store(), case)
    expected = scores_of(metric, case.dense, case.dense)
    np.fill_diagonal(expected, np.nan)
    n_both = both_active(case.dense, case.dense)
    for feature in range(case.n_features):
        for n in (2, 100):
            found = acts.similar(feature, n, metric)
            assert_ranked(found.feature, found.score, expected[feature], n)
            assert found.n_both.tolist() == n_both[feature, found.feature].tolist()


@FEW
@given(cases(max_rows=40, max_features=6), st.integers(0, 1000), st.sampled_from([1, 3, 1 << 11]))
def test_cooccurrence_counts_samples(case, seed, width):
    acts = write_segments(scratch_store(), case)
    features = np.random.default_rng(seed).integers(0, case.n_features, 10)
    with mock.patch("saestore.query.similarity._WIDTH", width):
        found = acts.cooccurrence(features)
    assert found.dims == ("feature", "other_feature")
    assert found["feature"].values.tolist() == found["other_feature"].values.tolist() == features.tolist()
    np.testing.assert_array_equal(found, both_active(case.dense, case.dense)[np.ix_(features, features)])


@FEW
@given(
    cases(max_rows=40, max_features=6), st.integers(0, 1000), METRICS, st.sampled_from([1, 9, 1 << 22]),
    st.sampled_from([1, 2, 50]),
)  # fmt: skip
def test_matches_in_another_set(case, seed, metric, held, n):
    store = scratch_store()
    acts = write_segments(store, case)
    mixed = make_case(seed, len(case.dense), 11, density=0.3).dense
    other_case = replace(case, dense=mixed, segment_rows=max(1, len(case.dense) // 3))
    other = write_segments(store, other_case, OTHER)
    expected = scores_of(metric, case.dense, mixed)
    with mock.patch.multiple("saestore.query.similarity", _HELD=held, _PAIRS=held):
        found = acts.compare(other, metric, n)
    assert (np.diff(found.feature) >= 0).all()
    for feature in range(case.n_features):
        rows = found.feature == feature
        assert_ranked(found.other_feature[rows], found.score[rows], expected[feature], n)
    assert found.n_both.tolist() == both_active(case.dense, mixed)[found.feature, found.other_feature].tolist()


def test_products_that_cancel_are_pairs_still():
    dense = np.array([[1, 1, 0], [1, -1, 0], [0, 1, 0], [0, 0, 2]], np.float32)
    store = scratch_store()
    acts, other = (store.write(path, sp.csr_array(dense)) for path in (PATH, OTHER))
    found = acts.compare(other, "cosine", 3)
    pairs = list(zip(found.feature.tolist(), found.other_feature.tolist(), found.score.round(9).tolist(), strict=True))
    assert pairs == [(0, 0, 1), (0, 1, 0), (1, 1, 1), (1, 0, 0), (2, 2, 1)]
    assert list(acts.similar(0, metric="cosine")) == [{"feature": 1, "score": 0.0, "n_both": 2}]


def test_a_permuted_set_matches_itself():
    case = make_case(3, 300, 40, palette="heavy", density=0.2)
    store = scratch_store()
    acts = write_case(store, case)
    order = np.random.default_rng(0).permutation(40)
    other = write_case(store, replace(case, dense=case.dense[:, order]), OTHER)
    found = acts.compare(other)
    alive = np.flatnonzero(case.dense.any(axis=0))
    assert found.feature.tolist() == alive.tolist()
    assert order[found.other_feature].tolist() == alive.tolist()
    np.testing.assert_allclose(found.score, 1, rtol=1e-12)


def test_a_dead_feature_is_like_nothing():
    dense = np.array([[1, 0, 2], [0, 0, 1]], np.float32)
    acts = scratch_store().write(PATH, sp.csr_array(dense))
    assert len(acts.similar(1)) == 0
    assert acts.similar(0).feature.tolist() == [2]
    assert acts.cooccurrence([1, 0]).values.tolist() == [[0, 0], [0, 1]]


def test_what_cannot_be_compared_says_why():
    store = scratch_store()
    case = make_case(1, 20, 4, ragged=False)
    acts = write_case(store, case)
    longer = write_case(store, make_case(1, 21, 4, ragged=False), "A/cls/longer")
    fewer = store.write("A/cls/fewer", case.csr, 2)
    ptr = np.array([0, 2, *range(2, 20), 20])
    uneven = store.write("A/cls/uneven", case.csr, ptr)
    renamed = store.write("A/cls/renamed", case.csr, 1, {"image_path": ["x.png", *case.items["image_path"][1:]]})
    unnamed = store.write("A/cls/unnamed", case.csr, 1)
    for other, *named in (
        (longer, "20 samples", "A/cls/longer has 21"),
        (fewer, "20 items", "A/cls/fewer has 10"),
        (uneven, "item 0", "1 samples in Shapes/patch/sae", "2 in A/cls/uneven"),
        (renamed, "item 0", "'images/000.png' in Shapes/patch/sae", "'x.png' in A/cls/renamed"),
    ):
        with raises(InvalidInputError, "samples-differ", *named):
            acts.compare(other)
    with raises(InvalidInputError, "not-a-set", "str"):
        acts.compare("A/cls/renamed")
    assert len(acts.compare(unnamed))


def test_what_is_asked_wrongly_is_named():
    acts = write_case(scratch_store(), make_case(1, 20, 4))
    with raises(InvalidInputError, "unknown-metric", "'euclid'", "'jaccard', 'cosine', 'correlation'"):
        acts.similar(0, metric="euclid")
    with raises(InvalidInputError, "too-small", "n=0"):
        acts.compare(acts, n=0)
    with raises(InvalidInputError, "not-one", [0, 1]):
        acts.similar([0, 1])
    with raises(OutOfRangeError, "out-of-range", "feature 4"):
        acts.similar(4)
    with raises(TooLargeError, "too-large", "4 x 4"):
        acts.cooccurrence(slice(None), max_bytes=100)
