"""Scores of features with concepts: equal to scikit-learn's and scipy's functions on the dense column."""

import itertools
from dataclasses import replace
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
import xarray
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from raising import raises
from sklearn import metrics
from strategies import PATH, cases, make_case, scratch_store, write_case, write_segments

from saestore.errors import InvalidInputError, NotFoundError, TooLargeError
from saestore.kernels import to_impact_order
from saestore.query.view import item_maxima
from saestore.scoring.concept_scores import WITH_INTERVAL
from saestore.scoring.observations import ScoredObservations
from saestore.scoring.ranks import find_hits, rank
from saestore.scoring.scores import score_all
from saestore.sparse_rows import NonEmptyRows
from saestore.vocabulary import SCORES
from saestore.writing import SetWriter

pytestmark = pytest.mark.once

# Writing a store takes half a second: few examples, each compared in full.
FEW = settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)


# Oracles


def best_threshold(column, truth):
    """F1, threshold, precision and recall where F1 is best, in whole numbers; the highest such threshold above 0."""
    best = Fraction(0), np.nan, 0, 0
    for threshold in np.unique(column[column > 0])[::-1]:
        predicted = column >= threshold
        tp, k, p = int((predicted & truth).sum()), int(predicted.sum()), int(truth.sum())
        f1 = Fraction(2 * tp, k + p)
        if f1 > best[0]:
            best = f1, float(threshold), tp / k, tp / p
    return dict(zip(("f1", "threshold", "precision", "recall"), map(float, best), strict=True))


def expected_scores(column, truth):
    """Every score of one dense column with one concept."""
    wide = column.astype(np.float64)
    if not wide.any() or truth.all() or not truth.any():
        return dict.fromkeys(SCORES, np.nan)
    found = {
        "roc_auc": metrics.roc_auc_score(truth, wide),
        "average_precision": metrics.average_precision_score(truth, wide),
        "mean_difference": wide[truth].mean() - wide[~truth].mean(),
        "point_biserial": np.nan,
        **best_threshold(wide, truth),
    }
    if len(np.unique(wide)) > 1:
        found["point_biserial"] = scipy.stats.pointbiserialr(truth, wide / np.abs(wide).max())[0]
    precision, recall, thresholds = metrics.precision_recall_curve(truth, wide)
    with np.errstate(invalid="ignore"):
        curve = (2 * precision * recall / (precision + recall))[:-1][thresholds > 0]
    assert found["f1"] == pytest.approx(np.nan_to_num(curve).max(initial=0), abs=1e-12)
    return found


def assert_scores(found, dense, truth):
    """All scores, {name: (n_features, n_concepts)}, are those of the dense columns."""
    assert set(found) == set(SCORES)
    for feature in range(dense.shape[1]):
        scale = float(np.abs(dense[:, feature].astype(np.float64)).max(initial=0.0))
        for concept in range(truth.shape[1]):
            for name, value in expected_scores(dense[:, feature], truth[:, concept]).items():
                slack = 1e-12 * (scale if name == "mean_difference" else 1)
                got = float(found[name][feature, concept])
                if name in ("f1", "threshold", "precision", "recall"):
                    slack = 0.0
                assert got == pytest.approx(value, rel=1e-12, abs=slack, nan_ok=True), (name, feature, concept)


def random_truth(rng, n_rows, n_concepts):
    """Concepts that are rare, frequent, or true of all or none, so that each occurs."""
    share = rng.choice([0.0, 0.1, 0.3, 0.5, 0.9, 1.0], n_concepts)
    return rng.random((n_rows, n_concepts)) < share


# Pure functions


def ranks_of(dense):
    m = sp.csr_array(dense.astype(np.result_type(dense.dtype, np.float32)))
    m.sort_indices()
    indptr, rows, values = to_impact_order(m.indptr, m.indices, m.data.astype(dense.dtype), dense.shape[1])
    return indptr, rows.astype(np.int64), values


@settings(max_examples=30)
@given(cases(max_rows=30, max_features=6), st.integers(1, 4))
def test_scores_of_columns(case, n_concepts):
    rng = np.random.default_rng(len(case.dense))
    truth = random_truth(rng, len(case.dense), n_concepts)
    ranked = rank(*ranks_of(case.dense), len(case.dense))
    labels = sp.csr_array(truth)
    assert_scores(score_all(ranked, find_hits(ranked, labels), truth.sum(axis=0)), case.dense, truth)
    last = ranked.part(case.dense.shape[1] // 2, case.dense.shape[1])
    half = case.dense[:, case.dense.shape[1] // 2 :]
    assert_scores(score_all(last, find_hits(last, labels), truth.sum(axis=0)), half, truth)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, -1.0]), min_size=2, max_size=12), st.data())
def test_scores_of_any_small_column(column, data):
    truth = np.array(data.draw(st.lists(st.booleans(), min_size=len(column), max_size=len(column))))[:, None]
    dense = np.array(column, np.float32)[:, None]
    ranked = rank(*ranks_of(dense), len(dense))
    assert_scores(score_all(ranked, find_hits(ranked, sp.csr_array(truth)), truth.sum(axis=0)), dense, truth)


@given(cases(max_rows=40, max_features=8))
def test_item_maxima_are_those_of_the_dense_columns(case):
    sizes = np.diff(case.item_ptr)
    indptr, rows, values = ranks_of(case.dense)
    found_ptr, items, found = item_maxima(indptr, case.item_of_sample[rows], values, sizes)
    grid = np.zeros((case.n_items, case.n_features), case.dense.dtype)
    grid[items, np.repeat(np.arange(case.n_features), np.diff(found_ptr))] = found
    np.testing.assert_array_equal(grid, dense_items(case.dense, case.item_ptr, np.ones(len(case.dense), bool))[0])
    for a, b in itertools.pairwise(found_ptr):
        assert (np.diff(found[a:b].astype(np.float64)) <= 0).all()


def dense_items(dense, item_ptr, kept):
    """Maximum over the samples of every item that count, and which items have some."""
    grid = np.zeros((len(item_ptr) - 1, dense.shape[1]), dense.dtype)
    has = np.zeros(len(grid), bool)
    for i, (a, b) in enumerate(itertools.pairwise(item_ptr)):
        rows = dense[a:b][kept[a:b]]
        has[i] = len(rows) > 0
        if has[i]:
            grid[i] = rows.max(axis=0)
    return grid, has


def test_the_mean_difference_of_large_close_values_is_not_lost():
    rng = np.random.default_rng(3)
    column = 1e8 + rng.normal(size=500)
    truth = column + rng.normal(size=500) > 1e8
    ranked = rank(*ranks_of(column[:, None]), 500)
    found = score_all(ranked, find_hits(ranked, sp.csr_array(truth[:, None])), np.array([truth.sum()]))
    exact = column.astype(np.longdouble)
    difference = exact[truth].mean() - exact[~truth].mean()
    assert found["mean_difference"].item() == pytest.approx(float(difference), rel=1e-7)
    assert found["point_biserial"].item() == pytest.approx(scipy.stats.pointbiserialr(truth, column - 1e8)[0], rel=1e-7)


# On a store


def write_labelled(case, seed, level="item", n_concepts=3):
    """A set in segments whose items or samples have some concepts, and which."""
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, case.n_items if level == "item" else len(case.dense), n_concepts)
    names = [f"concept {i}" for i in range(n_concepts)]
    acts = write_complete(scratch_store(), case)
    acts.concepts.remove("color::red")
    acts.concepts.add(truth, level, names=names)
    return acts, truth, names


def write_complete(store, case, upto=None):
    """A set that is done but has its segments still, or its first rows."""
    write_segments(store, case, upto=upto)
    with SetWriter(store.root, PATH) as writer:
        assert writer.attributes is not None
        writer.commit(replace(writer.attributes, planned_samples=None))
    return store[PATH]


def assert_dataset(ds, dense, truth, names, level):
    assert ds.attrs == {"level": level, "n": len(dense)}
    assert ds["concept"].values.tolist() == names
    assert ds["n_positive"].values.tolist() == truth.sum(axis=0).tolist()
    assert ds["n_negative"].values.tolist() == (~truth).sum(axis=0).tolist()
    assert ds["n_active"].values.tolist() == np.count_nonzero(dense, axis=0).tolist()
    assert all(ds[name].dtype == np.float64 and ds[name].dims == ("concept", "feature") for name in SCORES)
    assert_scores({name: ds[name].values.T for name in SCORES}, dense, truth)


@FEW
@given(
    cases(max_rows=40, max_features=8),
    st.integers(0, 1000),
    st.sampled_from(["none", "mapping", "mask"]),
    st.sampled_from(["item", "sample"]),
)
def test_scores_of_a_set_in_segments(case, seed, kind, level):
    acts, truth, names = write_labelled(case, seed, level)
    rng = np.random.default_rng(seed)
    kept, where = np.ones(len(case.dense), bool), None
    if kind == "mapping":
        where = {"split": ["train", "test"]}
        kept = np.isin(case.items["split"], ["train", "test"])[case.item_of_sample]
    elif kind == "mask":
        where = kept = rng.random(len(case.dense)) < 0.7
    if level == "item":
        dense, kept = dense_items(case.dense, case.item_ptr, kept)
    else:
        dense = case.dense
    assert_dataset(acts.concepts.scores(level, where=where), dense[kept], truth[kept], names, level)


def test_samples_that_came_after_their_labels_are_left_out():
    case = make_case(7, 40, 6, density=0.4, segment_rows=10)
    store = scratch_store()
    acts = write_complete(store, case, upto=20)
    truth = np.arange(20) % 3 == 0
    acts.concepts.add({"third": truth}, "sample")
    write_segments(store, case)
    acts = store[PATH]
    assert acts.shape[0] == 40
    found = acts.concepts.scores("sample")  # of those that came later nothing is known
    first = acts.concepts.scores("sample", where=np.arange(40) < 20)
    assert_dataset(first, case.dense[:20], truth[:, None], ["third"], "sample")
    assert all(found[name].equals(first[name]) for name in (*SCORES, "n_positive", "n_negative"))
    ends = [acts.concepts.intervals([("third", 0)], "sample", where=where, n_resamples=9) for where in
            (None, np.arange(40) < 20)]  # fmt: skip
    assert ends[0]["f1_low"].equals(ends[1]["f1_low"])
    assert ends[0].attrs["n_items"] == ends[1].attrs["n_items"]


def test_items_whose_samples_are_not_there_yet_are_left_out():
    case = make_case(7, 40, 6, density=0.4, segment_rows=10, ragged=False)
    acts = write_segments(scratch_store(), case, upto=20)
    truth = np.arange(40) % 3 == 0
    acts.concepts.add({"third": truth})
    found = acts.concepts.scores(concepts="third")
    assert_dataset(found, case.dense[:20], truth[:20, None], ["third"], "item")


def test_pieces_of_bounded_memory_give_the_same_bits():
    case = make_case(4, 60, 12, density=0.5, palette="signed", segment_rows=25)
    acts, _, names = write_labelled(case, 4)
    pairs = [(names[0], 11), (names[1], 0), (names[0], 5)]
    whole, intervals = acts.concepts.scores(), acts.concepts.intervals(pairs, n_resamples=9)
    with (
        mock.patch("saestore.scoring.concept_scores._PIECE", 7),
        mock.patch("saestore.scoring.concept_scores.BLOCK", 20),
        mock.patch.object(ScoredObservations.lists, "__defaults__", (20,)),
    ):
        pieces = acts.concepts.scores()
        assert intervals.identical(acts.concepts.intervals(pairs, n_resamples=9))
    assert whole.identical(pieces)


def test_chosen_features_and_concepts_are_rows_and_columns_of_all():
    case = make_case(5, 60, 12, palette="heavy")
    acts, truth, names = write_labelled(case, 1)
    given = acts.concepts.scores(concepts=dict(zip(names, truth.T, strict=True)))
    acts.features.set("name", {7: "seven"})
    whole = acts.concepts.scores()
    assert whole.drop_vars("name").identical(given)
    assert whole["name"].values[7] == "seven"
    some = acts.concepts.scores(concepts=[names[2], names[0]], features=[7, 0, 7, -1])
    assert some.identical(whole.isel(concept=[2, 0], feature=[7, 0, 7, 11]))
    one = acts.concepts.scores(concepts=names[1], features=3)
    assert one.identical(whole.isel(concept=[1], feature=[3]))


def test_what_is_asked_wrongly_is_named():
    case = make_case(5, 30, 4)
    acts, _, _ = write_labelled(case, 1)
    with raises(InvalidInputError, "unknown-level", "'items'", "'item'", "'sample'"):
        acts.concepts.scores("items")
    with raises(NotFoundError, "unknown-concept", "'red'", "concept 0, concept 1"):
        acts.concepts.scores(concepts="red")
    with raises(TooLargeError, "too-large", "8 x 3 x 4"):
        acts.concepts.scores(max_bytes=100)
    with raises(NotFoundError, "no-concepts", "on samples", "level='item'", "acts.concepts.add()"):
        acts.concepts.scores("sample")
    bare = scratch_store().write(PATH, case.csr, case.item_ptr)
    with raises(NotFoundError, "no-concepts", "on items;", "concepts.add()"):
        bare.concepts.scores()
    bare.concepts.add({"red": np.ones(30, bool)}, "sample")
    with raises(NotFoundError, "no-concepts", "on items", "level='sample'"):
        bare.concepts.scores()


@pytest.mark.parametrize("level", ["item", "sample"])
def test_nothing_chosen_is_an_answer_of_that_size(level):
    acts, _, names = write_labelled(make_case(5, 30, 4), 1, level)
    nowhere = acts.concepts.scores(level, where=np.zeros(30, bool))
    assert nowhere.attrs["n"] == 0
    assert all(nowhere[name].shape == (3, 4) and nowhere[name].isnull().all() for name in SCORES)
    assert dict(acts.concepts.scores(level, concepts=[]).sizes) == {"concept": 0, "feature": 4}
    assert dict(acts.concepts.scores(level, features=[]).sizes) == {"concept": 3, "feature": 0}
    none = acts.concepts.intervals([(names[0], 1)], level, where=np.zeros(30, bool), n_resamples=3)
    assert none["roc_auc_low"].isnull().all()


def test_the_page_names_every_score(project_dir):
    page = (project_dir / "docs" / "concepts.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in SCORES)


# Intervals


def score_of_draw(items, acts_dense, truth, ptr, threshold):
    """Scores of the samples of some items, drawn with repetition, as scikit-learn and scipy give them."""
    rows = np.concatenate([np.arange(ptr[i], ptr[i + 1]) for i in items])
    column, true = acts_dense[rows].astype(np.float64), truth[rows]
    predicted = column >= threshold
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        true, predicted, average="binary", zero_division=0
    )
    return [
        metrics.roc_auc_score(true, column),
        metrics.average_precision_score(true, column),
        f1,
        precision,
        recall,
        column[true].mean() - column[~true].mean(),
        scipy.stats.pointbiserialr(true, column)[0],
    ]


@pytest.mark.parametrize("level", ["item", "sample"])
@pytest.mark.parametrize("palette", ["ties", "signed"])
def test_intervals_are_scipys_bootstrap_over_items(level, palette):
    case = make_case(11, 150, 5, density=0.5, palette=palette, segment_rows=40)
    rng = np.random.default_rng(2)
    ptr = np.concatenate([[0, 0], np.sort(rng.choice(150, 29)), [150]])  # the first item has no sample
    case = replace(case, item_ptr=ptr, split=rng.integers(0, 3, 31), red=rng.random(31) < 0.5)
    truth = rng.random(31 if level == "item" else 150) < 0.4
    acts = write_complete(scratch_store(), case)
    acts.concepts.add({"blue": truth}, level)
    feature = int(np.flatnonzero(acts.stats()["n_active"].values > 20)[0])
    found = acts.concepts.intervals([("blue", feature)], level, n_resamples=60, confidence_level=0.8, seed=5)
    score = acts.concepts.scores(level, concepts="blue", features=feature)
    assert found["threshold"].item() == score["threshold"].item()
    column = case.dense[:, feature]
    if level == "item":
        grid, has = dense_items(case.dense, ptr, np.ones(150, bool))
        column, truth, ptr = grid[has, feature], truth[has], np.arange(has.sum() + 1)
    ptr = np.unique(ptr)
    expected = scipy.stats.bootstrap(
        (np.arange(len(ptr) - 1),),
        lambda items: score_of_draw(items, column, truth, ptr, found["threshold"].item()),
        n_resamples=60,
        vectorized=False,
        confidence_level=0.8,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert found.attrs["n_items"] == len(ptr) - 1
    for i, name in enumerate(WITH_INTERVAL):
        assert found[name].item() == score[name].item()
        assert found[f"{name}_low"].item() == pytest.approx(expected.low[i], rel=1e-12, abs=1e-12)
        assert found[f"{name}_high"].item() == pytest.approx(expected.high[i], rel=1e-12, abs=1e-12)


def test_intervals_do_not_depend_on_how_many_draws_are_made_at_once():
    case = make_case(4, 60, 12, density=0.5, palette="signed", segment_rows=25)
    acts, _, names = write_labelled(case, 4)
    pairs = [(name, feature) for name in names for feature in range(12)]
    whole = acts.concepts.intervals(pairs, n_resamples=40)
    with mock.patch("saestore.scoring.metrics._CELLS", 100), mock.patch("saestore.scoring.bootstrap._DRAWN", 100):
        xarray.testing.assert_allclose(whole, acts.concepts.intervals(pairs, n_resamples=40), rtol=1e-12, atol=1e-13)
    assert not whole.identical(acts.concepts.intervals(pairs, n_resamples=40, seed=1))


def test_what_has_no_score_has_no_interval():
    dense = np.array([[0, 1], [0, 2], [0, 0], [0, 3]], np.float32)
    acts = scratch_store().write(PATH, sp.csr_array(dense))
    acts.concepts.add({"all": np.ones(4, bool), "some": np.array([True, False, False, True])})
    found = acts.concepts.intervals([("all", 1), ("some", 0), ("some", 1)], n_resamples=20)
    for name in (*SCORES, *(f"{score}_{end}" for score in WITH_INTERVAL for end in ("low", "high"))):
        assert np.isnan(found[name].values).tolist() == [True, True, False], name
    assert found["concept"].values.tolist() == ["all", "some", "some"]
    assert found["feature"].values.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("pairs", "options", "code", "named"),
    [
        ([("some", 1)], {"confidence_level": 95}, "bad-option", "confidence_level=95"),
        ([("some", 1)], {"n_resamples": 0}, "bad-option", "n_resamples=0"),
        ([("some", 1)], {"seed": -1}, "bad-option", "seed=-1"),
        ([("some", 1)], {"seed": "a"}, "bad-option", "seed='a'"),
        ([("some", 1)], {"n_resamples": 2.5}, "bad-option", "n_resamples=2.5"),
        ([], {}, "bad-pairs", "pairs=[]"),
        ([(1, "some")], {}, "bad-pairs", "pairs=[(1, 'some')]"),
        ("some", {}, "bad-pairs", "pairs='some'"),
    ],
)
def test_intervals_of_what_cannot_be_are_refused(pairs, options, code, named):
    acts = scratch_store().write(PATH, sp.csr_array(np.eye(3, dtype=np.float32)))
    with raises(InvalidInputError, code, named):
        acts.concepts.intervals(pairs, **options)


# Thresholds that say yes to everything, and unknown labels


@pytest.mark.parametrize("column", [[1.0, 0, 0, 0], [0, 0, -1.0, -2.0], [0, 2.0, 0, 1.0]])
def test_always_yes_is_not_a_detector(column):
    """A threshold of 0 would have F1 2/3 for any feature; only stored activations above 0 count."""
    dense, truth = np.array(column, np.float32)[:, None], np.array([False, True, False, True])
    acts = scratch_store().write(PATH, sp.csr_array(dense))
    acts.concepts.add({"half": truth})
    found = acts.concepts.scores()
    assert_dataset(found, dense, truth[:, None], ["half"], "item")
    helps = column == [0, 2.0, 0, 1.0]
    assert found["f1"].item() == (1.0 if helps else 0.0)
    assert (found["precision"].item(), found["recall"].item()) == ((1.0, 1.0) if helps else (0.0, 0.0))
    assert np.isnan(found["threshold"].item()) != helps
    assert acts.concepts.intervals([("half", 0)], n_resamples=20)["f1_high"].item() == found["f1"].item()


@settings(max_examples=20)
@given(cases(max_rows=30, max_features=5), st.integers(0, 1000), st.sampled_from(["item", "sample"]))
def test_observations_of_unknown_label_count_for_no_score(case, seed, level):
    """The scores of a concept are those of the observations whose label is known, whatever is known of others."""
    rng = np.random.default_rng(seed)
    acts = write_case(scratch_store(), case)
    n = case.n_items if level == "item" else len(case.dense)
    truth, unknown = random_truth(rng, n, 4), rng.random((n, 4)) < [0, 0.3, 0.3, 0.8]
    unknown[:, 2] = unknown[:, 1]  # the same are known of two concepts
    index = acts.item_index if level == "item" else None
    observations = ScoredObservations.of(
        sp.csc_array(truth & ~unknown), len(case.dense), None, index=index, unknown=sp.csc_array(unknown)
    )
    assert len(observations.groups) <= 3
    counted, dense = np.ones(n, bool), case.dense
    if level == "item":
        dense, counted = dense_items(case.dense, case.item_ptr, np.ones(len(case.dense), bool))
    for lists in observations.lists(acts.segments, np.arange(case.n_features), acts.dtype):
        for group in observations.groups:
            ranked = group.rank(lists)
            labels = observations.columns.tocsr()[:, group.concepts]
            scores = score_all(ranked, find_hits(ranked, labels), observations.n_positive[group.concepts])
            for i, concept in enumerate(group.concepts.tolist()):
                known = counted & ~unknown[:, concept]
                one = {name: grid[:, [i]] for name, grid in scores.items()}
                assert_scores(one, dense[known][:, lists.features], truth[known][:, [concept]])
                assert observations.n_positive[concept] == truth[known, concept].sum()
                assert observations.n_negative[concept] == (~truth[known, concept]).sum()


@pytest.mark.parametrize("level", ["item", "sample"])
def test_unknown_labels_of_a_set_count_for_no_score_or_interval(level):
    """Scores and intervals with unknown labels are those of `where` the label is known."""
    case = make_case(4, 60, 6, density=0.5, palette="heavy")
    acts, truth, names = write_labelled(case, 4, level)
    unknown = np.random.default_rng(0).random(truth.shape) < 0.4
    unknown[truth.argmax(axis=0), np.arange(3)] = False
    plain = acts.concepts.scores(level)
    masked = {name: np.ma.masked_array(truth[:, i], mask=unknown[:, i]) for i, name in enumerate(names)}
    acts.concepts.add(masked, level, overwrite=True)
    found = acts.concepts.scores(level)
    assert not found.equals(plain)
    for i, name in enumerate(names):
        known = ~unknown[:, i]
        where = known if level == "sample" else known[case.item_of_sample]
        one = acts.concepts.scores(level, concepts=name, where=where)
        differ = ["n_active", "n_unknown"]
        xarray.testing.assert_equal(found.isel(concept=[i]).drop_vars(differ), one.drop_vars(differ))
        n_all = 60 if level == "sample" else np.count_nonzero(np.diff(case.item_ptr))
        assert found["n_unknown"][i] == n_all - one.attrs["n"] > 0
        assert acts.concepts.scores(level, concepts=name)["n_unknown"].item() == found["n_unknown"][i]
    pairs = [(name, feature) for name in names for feature in range(6)]
    ends = acts.concepts.intervals(pairs, level, n_resamples=200)
    for name in ("roc_auc", "f1", "point_biserial"):
        defined = ~np.isnan(ends[name].values)
        assert (ends[f"{name}_low"].values[defined] <= ends[name].values[defined]).all()
        assert (ends[name].values[defined] <= ends[f"{name}_high"].values[defined]).all()


@pytest.mark.parametrize("level", ["item", "sample"])
@pytest.mark.parametrize("palette", ["ties", "signed"])
def test_what_is_chosen_on_one_split_is_measured_on_another(level, palette):
    case = make_case(8, 90, 6, density=0.4, palette=palette, segment_rows=40)
    acts, truth, names = write_labelled(case, 5, level)
    kept = [np.array(["train", "cal", "test"])[case.split][case.item_of_sample] == name for name in ("cal", "test")]
    on = {"choose_on": "cal", "report_on": 'split == "test"'}
    found = acts.concepts.scores(level, features=[3, 1, 4], **on)
    chosen, reported = (acts.concepts.scores(level, where=mask, features=[3, 1, 4]) for mask in kept)
    for name in SCORES:
        if name != "threshold":
            np.testing.assert_array_equal(found[f"chosen_{name}"], chosen[name])
        if name not in ("f1", "threshold", "precision", "recall"):
            np.testing.assert_array_equal(found[name], reported[name])
    dense, truth_of = case.dense[kept[1]], truth[kept[1]] if level == "sample" else truth
    if level == "item":
        dense, counted = dense_items(case.dense, case.item_ptr, kept[1])
        dense, truth_of = dense[counted], truth[counted]
    compared = 0
    for i, j in np.argwhere(~np.isnan(found["f1"].values)):
        cut = chosen["threshold"].values[i, j]
        assert found["threshold"].values[i, j] == cut or np.isnan(cut)
        predicted, true = dense[:, [3, 1, 4][j]] >= cut, truth_of[:, i]
        for name in ("f1", "precision", "recall"):
            expected = getattr(metrics, f"{name}_score")(true, predicted, zero_division=0)
            assert found[name].values[i, j] == pytest.approx(expected)
        compared += 1
    assert compared >= 2
    ends = acts.concepts.intervals([(names[0], 3), (names[1], 1)], level, n_resamples=20, **on)
    np.testing.assert_array_equal(ends["threshold"], [found["threshold"].values[0, 0], found["threshold"].values[1, 1]])
    with raises(InvalidInputError, "missing-argument", "report_on"):
        acts.concepts.scores(level, choose_on="cal")
    with raises(InvalidInputError, "groups-overlap", "share"):
        acts.concepts.scores(level, choose_on="cal", report_on='split != "train"')
    with raises(NotFoundError, "unknown-split", "'tests'", "'test'"):
        acts.concepts.scores(level, choose_on="cal", report_on="tests")
    with raises(NotFoundError, "empty-split"):
        acts.concepts.scores(level, choose_on="cal", report_on="item > 999")


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_rows_without_an_entry_are_kept_as_bits_and_answer_as_others(share):
    """Any rows of a matrix that keeps the pointers of its rows with an entry only."""
    rng = np.random.default_rng(1)
    for n in (1, 63, 64, 65, 300):
        dense = (rng.random((n, 3)) < 0.5) & (rng.random(n) < share)[:, None] | (share == 1)
        rows = NonEmptyRows.of_columns(sp.csc_array(dense))
        asked = rng.integers(0, n, 100)
        np.testing.assert_array_equal(rows[asked].toarray(), dense[asked])
        np.testing.assert_array_equal(rows.lengths(asked), dense[asked].sum(axis=1))
        assert rows.matrix.shape[0] == dense.any(axis=1).sum() + 1
