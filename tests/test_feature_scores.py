"""Scores of single features, and their intervals without a draw, beside the definition and beside the bootstrap."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.metrics import roc_auc_score

import saestore
from saestore.scoring.concept_scores import concept_scores
from saestore.scoring.feature_scores import FeatureScorer, auc_interval, roc_auc_of_all
from saestore.vocabulary import SCORES

pytestmark = pytest.mark.once


def defined_interval(scores, truth, items):
    """Obuchowski's variance from all pairs of a positive and a negative observation."""
    wins = (scores[truth][:, None] > scores[~truth]) + 0.5 * (scores[truth][:, None] == scores[~truth])
    auc, (m, n) = wins.mean(), wins.shape
    ids = np.unique(items)
    sides = (wins.mean(1), items[truth]), (wins.mean(0), items[~truth])
    of = np.array([[share[mine == i].sum() - auc * (mine == i).sum() for share, mine in sides] for i in ids])
    used = len(set(items[truth])), len(set(items[~truth])), len(ids)
    factors = [k / (k - 1) for k in used]
    variance = (of[:, 0] ** 2).sum() * factors[0] / m**2 + (of[:, 1] ** 2).sum() * factors[1] / n**2
    variance += 2 * (of[:, 0] * of[:, 1]).sum() * factors[2] / (m * n)
    logit, reach = np.log(auc / (1 - auc)), 1.959963984540054 * np.sqrt(variance) / (auc * (1 - auc))
    return tuple(1 / (1 + np.exp(-(logit + sign * reach))) for sign in (-1, 1))


@pytest.mark.parametrize("per_item", [1, 4])
def test_an_interval_is_that_of_all_pairs(per_item):
    rng = np.random.default_rng(per_item)
    items = np.repeat(np.arange(30), per_item)
    scores = rng.integers(-1, 4, len(items)) * (rng.random(len(items)) < 0.6).astype(float)
    truth = rng.random(len(items)) < 0.3 + 0.2 * (scores > 1)
    order, active = np.argsort(-scores, kind="stable"), np.flatnonzero(scores)
    active = order[np.isin(order, active)]
    counts = np.bincount(items[truth], minlength=30), np.bincount(items[~truth], minlength=30)
    found = auc_interval(scores[active], items[active], truth[active], *counts)
    np.testing.assert_allclose(found, defined_interval(scores, truth, items), rtol=1e-9)
    assert found[0] < roc_auc_score(truth, scores) < found[1]


def test_what_has_no_interval():
    one, none = np.array([1, 0, 0]), np.array([0, 1, 1])
    assert np.isnan(auc_interval(np.array([1.0]), np.array([0]), np.array([True]), one, none)).all()
    two = np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1])
    assert auc_interval(np.array([2.0, 1.0]), np.array([0, 1]), np.array([True] * 2), *two) == (1, 1)


def test_a_feature_is_scored_as_all_are_and_its_intervals_are_near_the_bootstrap(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.random((240, 5)).astype(np.float32) * (rng.random((240, 5)) < 0.5)
    split = np.where(np.arange(60) % 2, "test", "train")
    acts = saestore.open(tmp_path / "s.zarr", mode="a").write(
        "A/t/b", sp.csr_array(values), items={"key": [f"{i}" for i in range(60)], "split": split}
    )
    strong = values.max(axis=1) > 0.7
    unknown = np.ma.masked_array(rng.random(60) < 0.5, rng.random(60) < 0.2)
    acts.concepts.add({"some": unknown, "strong": values[::4, 1] > 0.4}, level="item")
    acts.concepts.add({"often": strong, "never": np.zeros(240, bool)}, level="sample")
    for level, where in (("item", None), ("sample", None), ("sample", "split == 'test'")):
        scorer = FeatureScorer(acts, level, where)
        expected = concept_scores(acts, level, where=where)
        if where is None:
            ids, of_all = (np.concatenate(parts) for parts in zip(*roc_auc_of_all(acts, level), strict=True))
            np.testing.assert_array_equal(ids, np.arange(5))
            np.testing.assert_array_equal(of_all.T, expected["roc_auc"].values)
        pairs = [(name, feature) for feature in range(5) for name in scorer.names if name != "never"]
        ends = acts.concepts.intervals(pairs, level, where=where, n_resamples=400)
        for feature in range(5):
            lists = scorer.lists(feature)
            scores = scorer.scores(lists)
            for name in SCORES:
                np.testing.assert_array_equal(scores[name], expected[name].values[:, feature])
            for i, name in enumerate(scorer.names):
                if name != "never":
                    at = pairs.index((name, feature))
                    bootstrap = [ends[f"roc_auc_{end}"].values[at] for end in ("low", "high")]
                    np.testing.assert_allclose(scorer.interval(lists, i), bootstrap, atol=0.06)
