"""Exact search: the order of dense products, and as few entries read as the threshold algorithm needs."""

import numpy as np
import pytest
import scipy.sparse as sp
from raising import raises
from strategies import make_case, memory_store, write_case, write_segments

from saestore.errors import InvalidInputError, NotFoundError, OutOfRangeError
from saestore.segment.read import read_entries

pytestmark = pytest.mark.once

CASES = [make_case(s, 150, 10, density=0.4, palette=p, segment_rows=40) for s, p in ((1, "heavy"), (2, "signed"))]
QUERIES = [{0: 1.0, 3: 0.5, 7: 2.0}, {1: 1.0, 2: -1.5, 4: 0.2}, {5: -1.0}]


@pytest.fixture(scope="module", params=CASES, ids=["positive", "signed"])
def stored(request):
    return write_segments(memory_store(), request.param), request.param


def pooled(case, keep, pooling):
    ptr, out = case.item_ptr, np.zeros((case.n_items, case.n_features))
    for i in range(case.n_items):
        rows = case.dense[ptr[i] : ptr[i + 1]][keep[ptr[i] : ptr[i + 1]]].astype(float)
        if len(rows):
            out[i] = rows.max(axis=0) if pooling == "max" else rows.mean(axis=0)
    return out


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("where", [None, 'split == "test"', "position > 0"])
@pytest.mark.parametrize("pooling", [None, "max", "mean"])
def test_hits_are_the_largest_products(stored, query, where, pooling):
    acts, case = stored
    weights = np.zeros(case.n_features)
    weights[list(query)] = list(query.values())
    keep = np.zeros(150, bool)
    keep[acts.samples.where(where)] = True
    if pooling is None:
        found, scores = acts.search(query, 12, where=where), np.where(keep, case.dense @ weights, -np.inf)
        ids = found.sample
    else:
        found = acts.search(query, 12, "item", pooling=pooling, where=where)
        scores, ids = pooled(case, keep, pooling) @ weights, found.item
        own = case.dense @ weights
        for hit in found:  # the best sample of the item
            rows = np.flatnonzero((case.item_of_sample == hit["item"]) & keep)
            assert own[hit["sample"]] == pytest.approx(own[rows].max())
    order = np.lexsort((np.arange(len(scores)), -scores.round(9)))[:12]
    order = order[scores[order] > 1e-12]
    np.testing.assert_allclose(found.score, scores[order], rtol=1e-6)
    np.testing.assert_allclose(scores[ids], found.score, rtol=1e-6)


def test_more_like_a_sample_or_an_item_or_words(stored):
    acts, case = stored
    sample = int(np.flatnonzero(case.dense.any(axis=1))[3])
    weights = case.dense[sample].astype(float)
    np.testing.assert_allclose(acts.search(sample=sample, n=5).score, acts.search(weights, 5).score)
    best = np.sort(case.dense.astype(float) @ weights)[::-1][:5]
    np.testing.assert_allclose(acts.search(sample=sample, n=5).score, best, rtol=1e-6)
    item = int(case.item_of_sample[sample])
    weights = pooled(case, np.ones(150, bool), "max")[item]
    np.testing.assert_allclose(acts.search(item=item, n=5, level="item").score, acts.search(weights, 5, "item").score)


def test_words_are_searched_in_what_is_known_of_features():
    acts = write_case(memory_store(), CASES[0])
    acts.features.set("name", {3: "Green leaf", 5: "red"})
    acts.features.set("explanation", {7: "anything green"})
    np.testing.assert_array_equal(acts.search("green", 6).sample, acts.search({3: 1, 7: 1}, 6).sample)
    with raises(NotFoundError, "nothing-found", "purple"):
        acts.search("purple")


def test_bad_queries_are_refused(stored):
    acts, _ = stored
    with raises(InvalidInputError, "missing-argument"):
        acts.search()
    with raises(InvalidInputError, "missing-argument"):
        acts.search({1: 1.0}, sample=3)
    with raises(InvalidInputError, "empty-query"):
        acts.search({1: 0.0})
    with raises(InvalidInputError, "not-finite"):
        acts.search({1: np.nan})
    with raises(InvalidInputError, "not-numbers"):
        acts.search({1: "much"})
    with raises(InvalidInputError, "wrong-length", 10):
        acts.search([1.0, 2.0])
    with raises(OutOfRangeError, "out-of-range", 99):
        acts.search({99: 1.0})
    with raises(InvalidInputError, "unknown-choice", "median"):
        acts.search({1: 1.0}, level="item", pooling="median")


def test_few_entries_of_long_lists_are_read(monkeypatch):
    rng = np.random.default_rng(0)
    dense = np.exp(2 * rng.normal(size=(20_000, 4))).astype(np.float32)
    acts = memory_store().write("T/token/x", sp.csr_array(dense), 10)
    read = []

    def counted(slices):
        read.append(sum(stop - start for _, start, stop in slices))
        return read_entries(slices)

    monkeypatch.setattr("saestore.analysis.search.read_entries", counted)
    found = acts.search({0: 1.0, 1: 0.5, 2: 0.25}, 10)
    scores = dense.astype(float) @ [1.0, 0.5, 0.25, 0]
    np.testing.assert_array_equal(found.sample, np.argsort(-scores, kind="stable")[:10])
    assert sum(read) <= 3 * 512  # of 60,000 entries
