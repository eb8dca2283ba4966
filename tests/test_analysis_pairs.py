"""Families, matches, probes, effects, clouds and monosemanticity: equal to brute force and scikit-learn."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from strategies import make_case, memory_store, write_case

from saestore.analysis.pairs import _assign
from saestore.errors import InvalidInputError, NotFoundError

pytestmark = pytest.mark.once

CASE = make_case(21, 160, 12, density=0.35, palette="heavy", segment_rows=60)
X = CASE.dense.astype(float)
ALIVE = np.flatnonzero(X.any(axis=0))
DECODER = np.random.default_rng(5).normal(size=(12, 6))


@pytest.fixture(scope="module")
def store():
    return memory_store()


@pytest.fixture(scope="module")
def acts(store):
    return write_case(store, CASE)


# Monosemanticity, by the definition over pairs.


def monosemanticity_of_pairs(a, embeddings):
    e = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-300)
    top = bottom = 0.0
    for i, j in itertools.combinations(np.flatnonzero(a), 2):
        top += a[i] * a[j] * (e[i] @ e[j])
        bottom += a[i] * a[j]
    return top / bottom if bottom else np.nan


@pytest.mark.parametrize("level", ["sample", "item"])
def test_monosemanticity_is_the_mean_over_pairs(acts, level):
    x = X if level == "sample" else np.array(
        [X[a:b].max(axis=0, initial=0) for a, b in itertools.pairwise(CASE.item_ptr)]
    )  # fmt: skip
    embeddings = np.random.default_rng(1).normal(size=(len(x), 5))
    embeddings[np.flatnonzero(x[:, ALIVE[1]])[:2]] = 0  # whose cosines count as 0
    found = acts.monosemanticity(embeddings)
    for f in range(12):
        a = x[:, f] / max(X[:, f].max(), 1e-9)
        np.testing.assert_allclose(found.values[f], monosemanticity_of_pairs(a, embeddings), rtol=1e-9)
    keep = CASE.dense[:, ALIVE[0]] == 0
    part = acts.monosemanticity(embeddings, where=f"feature[{ALIVE[0]}] == 0")
    kept = X * keep[:, None]
    if level == "item":
        kept = np.array([kept[a:b][keep[a:b]].max(axis=0, initial=0) for a, b in itertools.pairwise(CASE.item_ptr)])
    expected = [monosemanticity_of_pairs(kept[:, f], embeddings) for f in range(12)]
    np.testing.assert_allclose(part, expected, rtol=1e-9)
    with raises(InvalidInputError, "wrong-row-count", 7):
        acts.monosemanticity(embeddings[:7])
    with raises(InvalidInputError, "not-finite"):
        acts.monosemanticity(np.where(np.arange(5) == 2, np.nan, embeddings))
    with raises(InvalidInputError, "bad-shape"):
        acts.monosemanticity(np.array(["a"]))


# Families.


@pytest.mark.parametrize("by", ["conditional", "jaccard", "npmi"])
def test_families_are_those_of_counts(acts, by):
    found = acts.families(3, by=by, decoder=DECODER)
    on, n = X != 0, len(X)
    for child in range(12):
        scores = np.full(12, -np.inf)
        for parent in ALIVE:
            both = (on[:, child] & on[:, parent]).sum()
            if parent == child or not both:
                continue
            n_child, n_parent = on[:, child].sum(), on[:, parent].sum()
            npmi = np.log(both * n / n_child / n_parent) / -np.log(both / n)
            scores[parent] = {
                "conditional": both / n_child, "jaccard": both / (n_child + n_parent - both), "npmi": npmi
            }[by]  # fmt: skip
        rows = found[found.child == child]
        best = np.lexsort((np.arange(12), -scores))[:3]
        np.testing.assert_array_equal(rows.parent, best[scores[best] > -np.inf])
        for row in rows:
            parent = row["parent"]
            both = (on[:, child] & on[:, parent]).sum()
            assert row["p_parent"] == pytest.approx(both / on[:, child].sum())
            assert row["p_child"] == pytest.approx(both / on[:, parent].sum())
            assert row["n_child_alone"] == (on[:, child] & ~on[:, parent]).sum()
            cosine = DECODER[child] @ DECODER[parent] / np.linalg.norm(DECODER[child]) / np.linalg.norm(DECODER[parent])
            assert row["cosine"] == pytest.approx(cosine)
    kept = found.absorbed(0.1, 0.5)
    assert len(kept) == np.count_nonzero((found.cosine >= 0.1) & (found.p_parent <= 0.5))
    with raises(InvalidInputError, "missing-argument", "decoder"):
        acts.families().absorbed()
    with raises(InvalidInputError, "missing-argument", "decoder"):
        acts.families(by="cosine")
    with raises(InvalidInputError, "unknown-metric", "lift"):
        acts.families(by="lift")


def test_absorption_is_sought_where_directions_agree(acts):
    found = acts.families(4, by="cosine", decoder=DECODER)
    unit, on = DECODER / np.linalg.norm(DECODER, axis=1, keepdims=True), X != 0
    for child in ALIVE:
        others = ALIVE[child != ALIVE]
        best = others[np.argsort(-(unit[others] @ unit[child]))][:4]
        rows = found[found.child == child]
        np.testing.assert_array_equal(rows.parent, best)
        np.testing.assert_array_equal(rows.n_both, [(on[:, child] & on[:, p]).sum() for p in best])
        assert (rows.npmi[rows.n_both == 0] == -1).all()
        np.testing.assert_array_equal(rows.n_child_alone, [(on[:, child] & ~on[:, p]).sum() for p in best])
    silent = found.absorbed(0.2, 0.3)
    assert len(silent)
    assert (silent.cosine >= 0.2).all()
    assert (silent.p_parent <= 0.3).all()


# Matches.


def test_matches_have_the_largest_sum_of_correlations(store, acts):
    rng = np.random.default_rng(2)
    other = X[:, rng.permutation(12)] * (rng.random(X.shape) < 0.8)
    another = store.write("Shapes/patch/other", sp.csr_array(other.astype(np.float32)), CASE.item_ptr)
    found = acts.match(another)
    with np.errstate(invalid="ignore"):
        correlation = np.nan_to_num(np.corrcoef(X.T, other.T)[:12, 12:])
    rows, columns = scipy.optimize.linear_sum_assignment(np.maximum(correlation, 0), maximize=True)
    assert found.score.sum() == pytest.approx(np.maximum(correlation, 0)[rows, columns].sum())
    np.testing.assert_allclose(found.score, correlation[found.feature, found.other_feature])
    assert len(set(found.feature)) == len(set(found.other_feature)) == len(found)
    alive = min(len(ALIVE), np.count_nonzero(other.any(axis=0)))
    assert found.share(0.5) == np.count_nonzero(found.score >= 0.5) / alive
    assert found.mean_score == pytest.approx(found.score.sum() / alive)
    same = acts.match(acts)
    assert (same.feature == same.other_feature).all()
    assert same.share(0.999) == 1
    nothing = acts.match(acts, where=X.any(axis=1) & (np.arange(len(X)) == 0))  # every column is constant
    assert (len(nothing), nothing.share(), nothing.mean_score) == (0, 0, 0)


@given(st.integers(0, 10**6), st.sampled_from(["few", "ties", "planted"]))
@settings(max_examples=60, deadline=None)
def test_assignments_are_those_of_the_hungarian_method(seed, kind):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 9, 2)
    dense = rng.integers(0, 5, shape) / 4 if kind == "ties" else rng.random(shape) * (rng.random(shape) < 0.5)
    if kind == "planted":
        dense = dense / 4 + np.eye(*shape)
    rows, columns = np.nonzero(dense)
    r, c, score = _assign(rows, columns, dense[rows, columns], tuple(shape))
    assert len(set(r)) == len(r) == len(set(c))
    np.testing.assert_array_equal(score, dense[r, c])
    assert score.sum() == pytest.approx(dense[scipy.optimize.linear_sum_assignment(dense, maximize=True)].sum())


def test_families_and_matches_of_some_samples_are_those_of_the_part(store, acts):
    where, part = 'split != "cal"', CASE.dense[(np.array(CASE.items["split"]) != "cal")[CASE.item_of_sample]]
    alone = store.write("Shapes/patch/part", sp.csr_array(part), 1)
    for by in ("jaccard", "npmi", "cosine"):
        given = {} if by != "cosine" else {"decoder": DECODER}
        np.testing.assert_equal(
            acts.families(3, by=by, where=where, **given).to_dict(), alone.families(3, by=by, **given).to_dict()
        )
    found = acts.match(acts, where=where)
    assert sorted(found.feature) == sorted(alone.match(alone).feature)
    np.testing.assert_allclose(found.score, 1)


def test_matches_of_decoders_are_hungarian_on_cosines(store, acts):
    other = np.random.default_rng(3).normal(size=(12, 6))
    found = acts.match(acts, "decoder", decoder=DECODER, other_decoder=other)
    unit = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in (DECODER, other)]
    cosine = np.maximum((unit[0] @ unit[1].T)[np.ix_(ALIVE, ALIVE)], 0)
    rows, columns = scipy.optimize.linear_sum_assignment(cosine, maximize=True)
    assert found.score.sum() == pytest.approx(cosine[rows, columns].sum())
    with raises(InvalidInputError, "missing-argument", "other_decoder"):
        acts.match(acts, "decoder", decoder=DECODER)
    with raises(InvalidInputError, "wrong-decoder", 6, 4):
        acts.match(acts, "decoder", decoder=DECODER, other_decoder=other[:, :4])
    with raises(InvalidInputError, "not-a-set", "str"):
        acts.match("other")
    with raises(InvalidInputError, "unknown-metric", "npmi"):
        acts.match(acts, "npmi")


# Probes.


@pytest.fixture(scope="module")
def labelled():
    """120 items of three samples; two features go with the concept, and some labels are unknown."""
    rng = np.random.default_rng(0)
    truth = rng.random(120) < 0.4
    dense = (rng.random((360, 9)) < 0.3) * rng.random((360, 9))
    of_sample = np.repeat(truth, 3)
    dense[of_sample & (rng.random(360) < 0.5), 4] += 1
    dense[~of_sample & (rng.random(360) < 0.3), 6] += 1
    split = np.array(["train", "test", "cal"])[np.arange(120) % 3]
    items = {"key": [str(i) for i in range(120)], "split": split.tolist()}
    acts = memory_store().write("T/token/x", sp.csr_array(dense.astype(np.float32)), 3, items)
    mask = np.ma.MaskedArray(truth, np.arange(120) % 11 == 0)
    acts.concepts.add({"c": mask})
    acts.concepts.add({"s": of_sample}, level="sample")
    return acts, dense.astype(np.float32).astype(float), mask, split


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_probes_are_saebenchs_with_scikit_learn(labelled, pooling):
    acts, dense, mask, split = labelled
    found = acts.probe("c", k=[1, 2, 5], pooling=pooling, n_resamples=50)
    x = getattr(dense.reshape(120, 3, 9), pooling)(axis=1)
    train, test = ((split == name) & ~mask.mask for name in ("train", "test"))
    y = mask.data
    difference = x[train & y].mean(axis=0) - x[train & ~y].mean(axis=0)
    order = np.argsort(-np.abs(difference), kind="stable")
    for row in found:
        k = row["k"]
        assert row["features"] == order[:k].tolist()
        model = LogisticRegression(max_iter=1000).fit(x[train][:, order[:k]], y[train])
        predicted, scores = (model.predict(x[test][:, order[:k]]), model.decision_function(x[test][:, order[:k]]))
        np.testing.assert_allclose(row["coefficients"], model.coef_[0], rtol=1e-4)
        assert row["accuracy"] == pytest.approx(accuracy_score(y[test], predicted))
        assert row["f1"] == pytest.approx(f1_score(y[test], predicted))
        assert row["roc_auc"] == pytest.approx(roc_auc_score(y[test], scores))
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert (row["n_train"], row["n_test"]) == (train.sum(), test.sum())
    assert acts.probe("s", k=2, level="sample", n_resamples=20).n_test[0] == 120
    # Items consist of the samples that fulfil `where`; labels may be given; there are no more than all features.
    first = getattr(dense.reshape(120, 3, 9)[:, :2], pooling)(axis=1)
    part = acts.probe(mask.astype(int), k=np.int64(99), pooling=pooling, where="position < 2", n_resamples=9)
    model = LogisticRegression(max_iter=1000).fit(first[train], y[train])
    assert part.k.tolist() == [9]
    assert part.roc_auc[0] == pytest.approx(roc_auc_score(y[test], model.decision_function(first[test])))


def test_probes_without_what_they_need_are_refused(labelled, acts):
    with raises(NotFoundError, "unknown-split", "dev"):
        labelled[0].probe("c", choose_on="dev")
    with raises(NotFoundError, "unknown-concept", "d"):
        labelled[0].probe("d")
    with raises(InvalidInputError, "too-small", "k", 0):
        labelled[0].probe("c", k=[0, 1])
    with raises(InvalidInputError, "missing-argument", "k is empty"):
        labelled[0].probe("c", k=[])
    with raises(InvalidInputError, "target-type", "0 and 1"):
        labelled[0].probe(np.arange(120))
    with raises(InvalidInputError, "groups-overlap", "item 0"):
        labelled[0].probe("c", choose_on="position == 0", report_on="position == 1")
    labelled[0].concepts.add({"never": np.zeros(120, bool)})
    with raises(InvalidInputError, "one-class", "never"):
        labelled[0].probe("never")


@pytest.mark.parametrize("variant", ["signed", "tpp", "scr"])
@pytest.mark.parametrize("level", ["sample", "item"])
def test_effects_are_saebenchs(labelled, variant, level):
    acts, dense, mask, _ = labelled
    rng = np.random.default_rng(4)
    decoder, weights = rng.normal(size=(9, 5)), rng.normal(size=5)
    x = dense if level == "sample" else dense.reshape(120, 3, 9)[:, 1:].mean(axis=1)
    y = np.repeat(mask.data, 3) if level == "sample" else mask.data
    known = np.ones(360, bool) if level == "sample" else ~mask.mask
    difference = x[y & known].mean(axis=0) - x[~y & known].mean(axis=0)
    product = decoder @ weights
    expected = {
        "signed": difference * product, "tpp": np.maximum(difference, 0) * product, "scr": abs(difference * product)
    }[variant]  # fmt: skip
    where = None if level == "sample" else "position > 0"
    concept = "s" if level == "sample" else "c"
    found = acts.attribute(weights, concept, decoder, variant=variant, level=level, where=where)
    np.testing.assert_allclose(found.effect, np.sort(expected)[::-1], atol=1e-12)
    np.testing.assert_allclose(found.effect, expected[found.feature], atol=1e-12)
    with raises(InvalidInputError, "wrong-probe", 2, 5):
        acts.attribute(weights[:2], "c", decoder)
    with raises(InvalidInputError, "not-finite", "probe"):
        acts.attribute(weights * np.nan, "c", decoder, level="item")
    with raises(InvalidInputError, "not-finite", "decoder"):
        acts.attribute(weights, "c", decoder * np.inf, level="item")
    with raises(InvalidInputError, "unknown-choice", "ravel"):
        acts.attribute(weights, "c", decoder, variant="ravel")


# Clouds.


def test_clouds_are_scikit_learns_components(acts):
    features = ALIVE[[0, 2, 5]]
    found = acts.cloud(features, DECODER, n_components=2, where="color::red")
    keep = X[:, features].any(axis=1) & CASE.red[CASE.item_of_sample]
    np.testing.assert_array_equal(found["sample"], np.flatnonzero(keep))
    sums = X[keep][:, features] @ DECODER[features]
    pca = PCA(2, svd_solver="full").fit(sums)
    np.testing.assert_allclose(found["explained"], pca.explained_variance_ratio_)
    np.testing.assert_allclose(np.abs(found["position"]), np.abs(pca.transform(sums)), atol=1e-9)
    whole = acts.cloud(features, DECODER, n_components=3, where="color::red")
    np.testing.assert_allclose(whole["mean"].values + whole["position"].values @ whole["direction"].values, sums)
    np.testing.assert_array_equal(found["strongest"], features[X[keep][:, features].argmax(axis=1)])
    ax = acts.plot.cloud(whole)
    drawn = np.concatenate([points.get_offsets() for points in ax.collections])
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(whole["position"].values[:, :2], axis=0))
    assert {text.get_text() for text in ax.get_legend().get_texts()} == set(map(str, np.unique(whole["strongest"])))
    with raises(InvalidInputError, "not-a-cloud"):
        acts.plot.cloud(acts.stats())
    with raises(InvalidInputError, "never-active"):
        acts.cloud(features, DECODER, where='split == "nowhere"')
    with raises(InvalidInputError, "wrong-decoder", 12):
        acts.cloud(features, DECODER[:4])


# Purity and positions, as columns of `stats`.


@pytest.mark.parametrize("level", ["sample", "item"])
def test_purity_is_the_share_of_the_dominant_class(acts, level):
    x, split = X, np.array(CASE.items["split"])[CASE.item_of_sample]
    if level == "item":
        x = np.array([X[a:b].max(axis=0, initial=0) for a, b in itertools.pairwise(CASE.item_ptr)])
        split = np.array(CASE.items["split"])
    keep = np.isin(split, ("train", "test"))
    found = acts.stats(level=level, where='split != "cal"', classes="split")
    for f in range(12):
        names, counts = np.unique(split[(x[:, f] != 0) & keep], return_counts=True)
        if not len(names):
            assert np.isnan(found["purity"][f])
            assert found["top_class"][f].item() is None
            continue
        assert found["purity"][f] == pytest.approx(counts.max() / counts.sum())
        assert counts[names == found["top_class"][f].item()] == counts.max()
    acts.items.set(
        "year", np.where(np.array(CASE.items["split"]) == "test", np.nan, 0.5)
    )  # an unknown number is not a class
    assert set(acts.stats(level=level, classes="year")["top_class"].values) <= {0.5, None}
    by_concept = acts.stats(ALIVE[0], level=level, classes=["color::red"])
    assert by_concept["purity"].item() in (1.0, pytest.approx(np.nan, nan_ok=True))


def test_positions_are_counted(acts):
    found = acts.stats([ALIVE[1], ALIVE[0]], positions=True, where="color::red")
    position = np.arange(len(X)) - CASE.item_ptr[CASE.item_of_sample]
    for row, f in enumerate(ALIVE[[1, 0]]):
        on = (X[:, f] != 0) & CASE.red[CASE.item_of_sample]
        np.testing.assert_array_equal(
            found["n_active_at"][row], np.bincount(position[on], minlength=position.max() + 1)
        )
    with raises(InvalidInputError, "positions-level"):
        acts.stats(level="item", positions=True)
    with raises(InvalidInputError, "bad-classes"):
        acts.stats(classes=[])
    with raises(NotFoundError, "unknown-column", "splt"):
        acts.stats(classes="splt")
