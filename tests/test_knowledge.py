"""What is known of features, items and samples: columns of the three tables, in conditions and beside numbers."""

import numpy as np
import pytest
from raising import raises
from strategies import make_case, memory_store, write_case

from saestore.errors import InvalidInputError, NotFoundError, OutOfRangeError
from saestore.stats import STATISTICS

pytestmark = pytest.mark.once

CASE = make_case(5, 60, 12, density=0.5, palette="signed", ragged=False)
DENSE, N = CASE.dense, CASE.n_items
WORDS = [" thank", " you", "Green"]


@pytest.fixture(scope="module")
def acts():
    case = make_case(5, 60, 12, density=0.5, palette="signed", ragged=False)
    acts = write_case(memory_store(), case, token_spans=np.array([(0, 6), (6, 10), (10, 15)] * 20, np.int32))
    acts.items.update({"text": ["".join(WORDS)] * N, "year": {i: 2000 + i for i in range(0, N, 2)}})
    acts.samples.set("covered", np.arange(60) / 60)
    acts.features.update({
        "name": {1: "green object", 4: "Greenland, on maps", 7: "sky"},
        "note": {7: "blue, not green"},
        "cluster": {i: i % 3 for i in range(12)},
    })  # fmt: skip
    return acts


def test_statistics_are_columns_that_cannot_be_set(acts):
    stats = acts.stats()
    assert sorted(acts.features.columns[:3]) == ["cluster", "name", "note"]
    assert acts.features.columns[3:] == [s.name for s in STATISTICS]
    for s in STATISTICS:
        assert np.array_equal(acts.features[s.name], stats[s.name].values, equal_nan=True)
        assert np.array_equal(acts.features.column(s.name, [3, 0]), stats[s.name].values[[3, 0]], equal_nan=True)
    frame = acts.features.to_pandas(["name", "max"], where="n_active > 0 and name is known")
    assert frame.index.tolist() == [f for f in (1, 4, 7) if (DENSE[:, f] != 0).any()]
    assert np.array_equal(frame["max"], stats["max"].values[frame.index])
    before = acts.features.columns
    for change in (lambda: acts.features.set("max", np.ones(12)), lambda: acts.features.remove("frac_nonzero")):
        with raises(InvalidInputError, "reserved-name", "is a statistic"):
            change()
    with raises(InvalidInputError, "wrong-length", "'name'", "12 features"):
        acts.features.update({"score": np.ones(12), "name": ["a"] * 3})
    assert acts.features.columns == before


@pytest.mark.parametrize(("text", "expected"), [
    ("green", [1, 4, 7]), ("GREEN object", [1]), ('"on maps" green', [4]), ("blue", [7]), ("red", []),
])  # fmt: skip
def test_search_looks_for_words(acts, text, expected):
    assert acts.features.search(text).tolist() == expected


def test_a_search_without_a_word_is_an_error(acts):
    with raises(InvalidInputError, "empty-search", "green"):
        acts.features.search("  ")
    with raises(InvalidInputError, "not-text", "half of a character"):
        acts.features.search("green \ud800")


def share():
    return (DENSE != 0).mean(axis=0)


FEATURES = [
    ('name contains "green"', lambda: np.isin(np.arange(12), [1, 4])),
    ('name not contains "green"', lambda: np.arange(12) == 7),
    ('frac_nonzero < 0.5 and not (name contains "sky")', lambda: (share() < 0.5) & np.isin(np.arange(12), [1, 4])),
    ("name is unknown and frac_nonzero > 0", lambda: (share() > 0) & ~np.isin(np.arange(12), [1, 4, 7])),
    ("note is not unknown", lambda: np.arange(12) == 7),
    ("cluster == 2", lambda: np.arange(12) % 3 == 2),
    ("cluster in (0, 1) and feature < 6", lambda: (np.arange(12) % 3 < 2) & (np.arange(12) < 6)),
]


@pytest.mark.parametrize(("condition", "mask"), FEATURES, ids=[text for text, _ in FEATURES])
def test_every_question_takes_a_condition_for_features(acts, condition, mask):
    ids = np.flatnonzero(mask())
    assert acts.features.where(condition).tolist() == ids.tolist()
    assert np.array_equal(acts.dense(None, condition), DENSE[:, ids])
    assert np.array_equal(acts.sparse(None, condition).toarray(), DENSE[:, ids])
    assert acts.stats(condition)["feature"].values.tolist() == ids.tolist()
    assert acts.cooccurrence(condition)["feature"].values.tolist() == ids.tolist()
    assert acts.quantile(0.5, condition).sizes["feature"] == len(ids)
    assert set(acts.top_samples(condition, 1).feature.tolist()) <= set(ids.tolist())
    scores = acts.concepts.scores(features=condition)
    assert scores["feature"].values.tolist() == ids.tolist()


SAMPLES = [
    ('token == " thank"', lambda: np.arange(60) % 3 == 0),
    ('token contains "gre" or token == " you"', lambda: np.arange(60) % 3 > 0),
    ("feature[4] > 0.5", lambda: DENSE[:, 4] > 0.5),
    ("not feature[4] > 0.5", lambda: ~(DENSE[:, 4] > 0.5)),
    ("feature[4] > feature[1] and covered >= 0.25", lambda: (DENSE[:, 4] > DENSE[:, 1]) & (np.arange(60) >= 15)),
    ("year is unknown", lambda: CASE.item_of_sample % 2 == 1),
    ("year >= 2010", lambda: (CASE.item_of_sample % 2 == 0) & (CASE.item_of_sample >= 10)),
    ('text contains "YOU" and year is known', lambda: CASE.item_of_sample % 2 == 0),
]


@pytest.mark.parametrize(("condition", "mask"), SAMPLES, ids=[text for text, _ in SAMPLES])
def test_conditions_on_tokens_activations_and_numbers(acts, condition, mask):
    assert acts.samples.where(condition).tolist() == np.flatnonzero(mask()).tolist()


def test_activation_is_the_one_of_the_feature_that_is_asked_for(acts):
    for feature in (1, 4):
        over = np.flatnonzero(DENSE[:, feature] > 0.5)
        assert sorted(acts.feature(feature, where="activation > 0.5").sample.tolist()) == over.tolist()
        assert acts.histogram(feature, where="activation > 0.5").count.sum() == len(over)
        assert acts.stats(feature, where="activation > 0.5").attrs["n_samples"] == len(over)
    both = acts.top_samples([1, 4], 99, where="activation > 0.5 and sample < 40")
    for feature in (1, 4):
        assert (DENSE[both[both.feature == feature].sample, feature] > 0.5).all()
        assert (both.feature == feature).sum() == (DENSE[:40, feature] > 0.5).sum()
    assert acts.items.where("feature[4] > 0.5").tolist() == np.flatnonzero(DENSE[:, 4] > 0.5).tolist()
    with raises(InvalidInputError, "needs-feature", "feature[1498] > 3"):
        acts.samples.where("activation > 3")
    with raises(OutOfRangeError, "out-of-range", "feature 12", "there are 12"):
        acts.samples.where("feature[12] > 3")


@pytest.mark.parametrize(("where", "code", "words"), [
    ('year contains "20"', "condition-type", ["'year' holds numbers"]),
    ("year contains 20", "condition-type", ["'year' holds numbers"]),
    ("year is blue", "condition-syntax", ["'unknown' or 'known'"]),
    ("text contains split", "condition-syntax", ["a text"]),
])  # fmt: skip
def test_wrong_conditions(acts, where, code, words):
    with raises(InvalidInputError, code, *words):
        acts.samples.where(where)


def test_one_feature_by_its_name_and_none_with_the_nearest(acts):
    assert acts.feature('name == "sky"').feature.tolist() == [7] * len(acts.feature(7))
    with raises(InvalidInputError, "not-one", "2 fulfil"):
        acts.similar('name contains "green"')
    with raises(NotFoundError, "unknown-column", "'nme'", "Did you mean 'name'"):
        acts.dense(features='nme == "sky"')
    with raises(NotFoundError, "unknown-column", "Did you mean 'frac_nonzero'"):
        acts.features["frac_nonzer"]


def test_names_stand_beside_numbers_in_scores_xarray_and_pictures(acts):
    names = [{1: "green object", 4: "Greenland, on maps", 7: "sky"}.get(f) for f in range(12)]
    scores = acts.concepts.scores(features=[7, 0])
    assert [n if isinstance(n, str) else None for n in scores["name"].values] == ["sky", None]
    pairs = acts.concepts.intervals([("color::red", 4)], n_resamples=9)
    assert pairs["name"].values.tolist() == ["Greenland, on maps"]
    dataset = acts.to_xarray()
    assert dataset["name"].dims == ("feature",)
    assert dataset["name"].values.tolist() == names
    assert dataset["cluster"].values.tolist() == [f % 3 for f in range(12)]
    assert dataset.isel(feature=[4, 7])["note"].values.tolist() == [None, "blue, not green"]
    near, pairs = acts.families(1).with_details(), acts.match(acts).with_details()
    effects = acts.attribute(np.ones(2), "color::red", np.ones((12, 2)), level="item").with_details()
    columns = ((near, "child"), (near, "parent"), (pairs, "feature"), (pairs, "other_feature"), (effects, "feature"))
    for found, column in columns:
        shown = "name" if column == "feature" else f"{column.split('_', maxsplit=1)[0]}_name"
        assert found[shown].tolist() == [names[f] for f in found[column].tolist()]
    examples = acts.examples([7, 0], n=1, quantiles=0)
    assert set(zip(examples.feature.tolist(), examples.with_details()["name"], strict=True)) == {(7, "sky"), (0, None)}
    assert acts.card('name == "sky"').html == acts.card(7).html
    assert acts.plot.tokens(7).title == "Feature 7 (sky) of Shapes/patch/sae"
