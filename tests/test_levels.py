"""Questions about items: equal to numpy's, scipy's and scikit-learn's answers on the pooled dense matrix."""

import importlib.util
from unittest import mock

import numpy as np
import pytest
from raising import raises
from sklearn.metrics import jaccard_score
from strategies import make_case, memory_store, write_case, write_segments

from saestore.errors import InvalidInputError, NotFoundError
from saestore.query.similarity import METRICS

pytestmark = pytest.mark.once

CASE = make_case(11, 60, 9, density=0.4, palette="signed", segment_rows=13)
EVEN = "position < 2"  # a condition that cuts through items


@pytest.fixture(scope="module")
def acts():
    return write_segments(memory_store(), CASE)


def pooled(pooling, keep=None):
    """Items x features, and which items have a sample: every item's samples reduced by numpy, zeros included."""
    rows = np.arange(len(CASE.dense)) if keep is None else np.flatnonzero(keep)
    table = np.zeros((CASE.n_items, CASE.n_features))
    some = np.zeros(CASE.n_items, bool)
    for item in range(CASE.n_items):
        samples = rows[CASE.item_of_sample[rows] == item]
        if len(samples):
            table[item] = getattr(np, pooling)(CASE.dense[samples].astype(np.float64), axis=0)
            some[item] = True
    return table, some


def kept():
    return np.arange(len(CASE.dense)) - CASE.item_ptr[CASE.item_of_sample] < 2


def test_there_are_items_of_many_sizes_and_some_without_samples():
    sizes = np.diff(CASE.item_ptr)
    assert 0 in sizes
    assert sizes.max() > 3
    assert ((CASE.dense < 0).any(axis=0)).sum() > 5


@pytest.mark.parametrize("pooling", ["max", "mean", "sum"])
@pytest.mark.parametrize("block", [3, 1 << 22])
def test_matrices_of_items(acts, pooling, block):
    expected, _ = pooled(pooling)
    with mock.patch("saestore.query.view._ROWS_BLOCK", block):
        sparse = acts.sparse(level="item", pooling=pooling)
        assert sparse.shape == (CASE.n_items, CASE.n_features)
        assert sparse.dtype == (np.float32 if pooling == "max" else np.float64)
        assert sparse.has_sorted_indices
        assert (sparse.data != 0).all()
        np.testing.assert_allclose(sparse.toarray(), expected, rtol=1e-12, atol=1e-15)
        items, features = [5, 0, 5, -1], [3, 1]
        np.testing.assert_allclose(
            acts.sparse(items, features, level="item", pooling=pooling).toarray(), expected[items][:, features]
        )
        for columns in (features, None, 2):
            found = acts.dense(items, columns, level="item", pooling=pooling)
            np.testing.assert_allclose(found, expected[items][:, slice(None) if columns is None else columns])
        assert acts.dense(4, 3, level="item", pooling=pooling) == pytest.approx(expected[4, 3])


@pytest.mark.parametrize("pooling", ["max", "mean", "sum"])
def test_items_are_pooled_from_the_samples_of_a_condition(acts, pooling):
    expected, some = pooled(pooling, kept())
    found = acts.sparse(level="item", pooling=pooling, where=EVEN)
    np.testing.assert_allclose(found.toarray(), expected[some])
    np.testing.assert_allclose(acts.dense(None, [2], level="item", pooling=pooling, where=EVEN), expected[some][:, [2]])
    assert acts.view("item", EVEN).n == some.sum()


def test_top_features_of_items(acts):
    expected, some = pooled("max")
    asked = [*np.flatnonzero(some)[:12], 0, np.flatnonzero(some)[3]]
    top = acts.top_features(item=asked, n=4)
    answers = []
    for item in [i for i in asked if some[i]]:
        active = np.flatnonzero(expected[item])
        answers += [(item, f) for f in active[np.lexsort((active, -expected[item, active]))][:4]]
    assert list(zip(top.item.tolist(), top.feature.tolist(), strict=True)) == answers
    assert np.array_equal(top.activation, expected[top.item, top.feature].astype(np.float32))
    assert np.array_equal(CASE.dense[top.sample, top.feature], top.activation)
    assert np.array_equal(CASE.item_of_sample[top.sample], top.item)
    under = acts.top_features(item=np.flatnonzero(some), n=99, where=EVEN)
    assert len(under) == np.count_nonzero(pooled("max", kept())[0])
    assert kept()[under.sample].all()
    assert len(acts.top_features(item=[])) == 0
    with raises(InvalidInputError, "two-levels", "not both"):
        acts.top_features(sample=1, item=1)
    with raises(InvalidInputError, "unknown-pooling", "'median'"):
        acts.sparse(level="item", pooling="median")


@pytest.mark.parametrize("where", [None, EVEN])
def test_statistics_quantiles_and_histograms_of_items(acts, where):
    table, some = pooled("max", None if where is None else kept())
    table = table[some]
    for features in (None, [4, 1, 4]):
        columns = table if features is None else table[:, features]
        stats = acts.stats(features, level="item", where=where)
        assert stats.attrs["n_samples"] == len(table)
        assert stats["n_active"].values.tolist() == (columns != 0).sum(axis=0).tolist()
        np.testing.assert_allclose(stats["mean"], columns.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(stats["std"], columns.std(axis=0), atol=1e-12)
    quantiles = acts.quantile([0.1, 0.5, 0.9], [2, 0], level="item", where=where)
    np.testing.assert_allclose(quantiles, np.quantile(table[:, [2, 0]], [0.1, 0.5, 0.9], axis=0), rtol=1e-6)
    histogram = acts.histogram(2, 5, active_only=False, level="item", where=where)
    assert histogram.count.sum() == len(table)


def metric_of(metric, a, b):
    on, also, n = a != 0, b != 0, len(a)
    both = (on & also).sum()
    return {
        "jaccard": lambda: jaccard_score(on, also),
        "cosine": lambda: a @ b / np.linalg.norm(a) / np.linalg.norm(b),
        "correlation": lambda: np.corrcoef(a, b)[0, 1],
        "conditional": lambda: both / on.sum(),
        "npmi": lambda: np.log(both * n / on.sum() / also.sum()) / -np.log(both / n),
    }[metric]()


@pytest.mark.parametrize("where", [None, EVEN])
@pytest.mark.parametrize("metric", METRICS)
def test_neighbours_over_items(acts, metric, where):
    table, some = pooled("max", None if where is None else kept())
    table = table[some]
    both = (table != 0).T.astype(int) @ (table != 0).astype(int)
    assert np.array_equal(acts.cooccurrence(None, level="item", where=where), both)
    found = acts.similar(3, 99, metric, level="item", where=where)
    assert sorted(found.feature.tolist()) == [f for f in np.flatnonzero(both[3]).tolist() if f != 3]
    for feature, score in zip(found.feature.tolist(), found.score.tolist(), strict=True):
        a, b = table[:, 3], table[:, feature]
        assert score == pytest.approx(metric_of(metric, a, b), rel=1e-6)
    matches = acts.compare(acts, metric, n=2, level="item", where=where)
    best = matches[matches.feature == 3]
    assert best.other_feature[0] == 3
    assert best.score[1] == pytest.approx(found.score[0])


def test_near_duplicate_items_are_shown_once():
    case = make_case(2, 48, 5, density=0.7, palette="heavy", ragged=False)
    texts = [f"text {i % 7}" for i in range(case.n_items)]
    acts = write_case(memory_store(), case)
    acts.items.set("text", texts)
    acts.items.set("group", {i: i % 3 for i in range(0, case.n_items, 2)})
    order = acts.feature(1).item
    for unique, value in ((True, lambda i: texts[i]), ("group", lambda i: i if i % 2 else f"g{i % 3}"), (False, int)):
        expected, seen = [], set()
        for item in order.tolist():
            if value(item) not in seen:
                expected.append(item)
                seen.add(value(item))
        for level in ("item", "sample"):
            for n in (2, 99):
                assert acts.top_samples(1, n, level=level, unique=unique).item.tolist() == expected[:n]
    with raises(NotFoundError, "unknown-column", "'txt'", "Did you mean 'text'"):
        acts.top_samples(1, unique="txt")


def test_answers_have_names_keys_and_texts():
    case = make_case(2, 48, 5, density=0.7, palette="heavy", ragged=False)
    acts = write_case(memory_store(), case)
    a, b, c = np.flatnonzero((case.dense != 0).any(axis=0))[:3].tolist()
    acts.features.set("name", {a: "green object", c: "sky"})
    acts.items.set("text", [f"text {i}" for i in range(case.n_items)])
    frame = acts.top_samples([a, b], 3).to_pandas()
    assert list(frame.columns) == ["feature", "name", "sample", "item", "position", "activation", "key", "text"]
    assert frame["name"].astype(object).where(lambda v: v.notna(), None).tolist() == ["green object"] * 3 + [None] * 3
    assert frame["text"].tolist() == [f"text {i}" for i in frame["item"]]
    features = acts.top_features(item=1)
    assert (features.to_pandas()["name"] == "sky").sum() == 1
    if importlib.util.find_spec("pyarrow"):
        assert features.to_arrow()["name"].to_pylist().count("sky") == 1
    similar = acts.similar(b, 9)
    assert similar.to_pandas().set_index("feature")["name"][a] == "green object"
    assert "green object" in repr(similar)
    assert "green object" in similar[:]._repr_html_()
    assert acts.compare(acts).to_pandas()["other_name"].tolist() == acts.compare(acts).to_pandas()["name"].tolist()
