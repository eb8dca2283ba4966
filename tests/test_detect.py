"""Detection equals brute force on the dense tensor, and scikit-learn; nothing is chosen on the split it is told of."""

import csv
import io
import itertools
import json
from dataclasses import replace
from fractions import Fraction

import brute_detect
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from raising import raises
from sklearn import metrics as sk
from strategies import PATH, cases, make_case, scratch_store, write_case, write_segments

from saestore.detection import DetectionOptions, evaluation
from saestore.detection.prune import choose, default_max_fraction
from saestore.detection.report import compare
from saestore.errors import InvalidInputError, NotFoundError
from saestore.kernels import to_impact_order
from saestore.scoring.bootstrap import BootstrapSampler
from saestore.scoring.metrics import COUNTS, BootstrapCounts, evaluate
from saestore.scoring.pooling import Pooling
from saestore.scoring.thresholds import (
    TARGET_RECALLS,
    best_between,
    best_quantile,
    check_recalls,
    count_reaching,
    list_quantiles,
)
from saestore.storage import threads
from saestore.vocabulary import METRICS
from saestore.writing import SetWriter

pytestmark = pytest.mark.once

FEW = settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
ALL = {"min_active": 1, "max_fraction": 1.0, "min_p99_percentile": 0}


def detect(acts, level="item", **settings):
    """Detect with these options."""
    return acts.detect(level, **settings)


def ragged(rng, lengths, values):
    """Lists in descending order: pointers and values."""
    indptr = np.append(0, np.cumsum(lengths))
    found = values(rng, indptr[-1])
    for a, b in itertools.pairwise(indptr):
        found[a:b] = -np.sort(-found[a:b])
    return indptr, found


DRAWN = {
    "heavy": lambda rng, n: np.exp(3 * rng.normal(size=n)),
    "ties": lambda rng, n: rng.choice([0.25, 1.0, 1.5], n),
    "neighbours": lambda rng, n: 1 + rng.integers(0, 3, n) * np.finfo(np.float32).eps,
    "tiny": lambda rng, n: rng.integers(1, 5, n) * float(np.finfo(np.float32).smallest_subnormal),
    "huge": lambda _, n: np.full(n, float(np.finfo(np.float32).max)),
}


# Pure functions


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_quantiles_are_those_of_exact_ranks(kind, dtype):
    rng = np.random.default_rng(1)
    indptr, values = ragged(rng, rng.integers(1, 30, 50), lambda r, n: DRAWN[kind](r, n).astype(dtype))
    found = list_quantiles(indptr, values, np.array(TARGET_RECALLS))
    lists = [values[a:b].astype(np.float64) for a, b in itertools.pairwise(indptr)]
    expected = [[brute_detect.threshold_of(each, recall) for recall in TARGET_RECALLS] for each in lists]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, [np.quantile(each, 1 - np.array(TARGET_RECALLS)) for each in lists], rtol=1e-12)


@given(st.integers(1, 200), st.integers(0, 1000), st.integers(1, 1000))
def test_a_threshold_of_whole_rank_is_that_activation(n, share, whole):
    """Shares such as 0.7 are decimals: where (n - 1) * 0.3 is whole, rounding 1 - 0.7 must not move the threshold."""
    share = min(share, whole)
    values = np.sort(np.random.default_rng(n).random(n).astype(np.float32))[::-1]
    found = list_quantiles(np.array([0, n]), values, np.array([share / whole]))[0, 0]
    rank = (n - 1) * (1 - Fraction(share, whole))
    if rank.denominator == 1:
        assert found == float(values[n - 1 - int(rank)])
        assert count_reaching(np.array([0, n]), values, np.array([0]), np.array([[found]]))[0, 0] == n - rank
    else:
        assert values[n - 1 - int(rank)] <= found <= values[n - 2 - int(rank)]


def test_target_recalls_are_shares():
    assert check_recalls([0.5, 0.1, 0.5]).tolist() == [0.1, 0.5]
    for wrong in ([], [1.5], [-0.1], "half", [np.nan]):
        with raises(InvalidInputError, "bad-option", f"target_recalls={wrong!r}"):
            check_recalls(wrong)


@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.booleans()), min_size=1, max_size=12))
def test_a_chosen_threshold_never_says_yes_to_all(pairs):
    scores, truth = (np.array(x) for x in zip(*pairs, strict=True))
    cuts = [cut for cut in np.unique(scores) if (scores < cut).any()]
    best = max((brute_detect.f1_of(scores >= cut, truth) for cut in cuts), default=0)
    found = best_between(scores, truth)
    assert found.f1 == (best if truth.any() else 0)
    if found.f1:
        assert brute_detect.f1_of(scores >= found.threshold, truth) == found.f1
    else:
        assert np.isnan(found.threshold)
    assert not best_between(scores, truth, above=0).threshold <= 0
    by_quantile = best_quantile(scores, truth, np.array(TARGET_RECALLS), scores[truth])
    assert np.isnan(by_quantile.threshold) or (scores < by_quantile.threshold).any()


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_reaches_a_threshold_is_counted_exactly(kind, dtype):
    rng = np.random.default_rng(2)
    with np.errstate(over="ignore"):
        indptr, values = ragged(rng, rng.integers(0, 20, 40), lambda r, n: DRAWN[kind](r, n).astype(dtype))
    if dtype == "float16":
        values = np.clip(values, np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max)
    lists = rng.integers(0, 40, 200)
    # At values, between neighbours, and a rounding of float64 away from both.
    at = rng.choice(values, (200, 3)).astype(np.float64)
    thresholds = np.concatenate([at, np.nextafter(at, np.inf), np.nextafter(at, 0), at * 0.75], axis=1)
    thresholds = np.maximum(thresholds, np.finfo(np.float64).smallest_subnormal)
    found = count_reaching(indptr, values, lists, thresholds)
    for i, which in enumerate(lists):
        own = values[indptr[which] : indptr[which + 1]].astype(np.float64)
        np.testing.assert_array_equal(found[i], [(own >= t).sum() for t in thresholds[i]])


@settings(max_examples=40)
@given(cases(max_rows=30, max_features=6), st.sampled_from(["max", "mean", "top-1", "top-2", "top-7"]))
def test_items_score_the_same_from_lists_and_from_columns(case, score):
    matrix = case.csr
    matrix.sort_indices()
    data = matrix.data.astype(case.dense.dtype)
    indptr, rows, values = to_impact_order(matrix.indptr, matrix.indices, data, case.n_features)
    sizes = np.diff(case.item_ptr)
    pooling = Pooling.of(score)
    out_ptr, items, scores = pooling.of_lists(indptr, case.item_of_sample[rows.astype(np.int64)], values, sizes)
    filled = np.flatnonzero(sizes)
    for feature in range(case.n_features):
        column = case.dense[:, feature]
        expected = [brute_detect.score_of(column[case.item_of_sample == item], score) for item in filled]
        np.testing.assert_array_equal(pooling.of_column(column.astype(float), case.item_ptr[filled]), expected)
        part = slice(out_ptr[feature], out_ptr[feature + 1])
        dense = np.zeros(len(sizes))
        dense[items[part]] = scores[part]
        np.testing.assert_array_equal(dense[filled], np.maximum(expected, 0))
        assert (np.diff(scores[part].astype(np.float64)) <= 0).all()


@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.booleans()), min_size=1, max_size=12))
@settings(max_examples=30)
def test_metrics_are_those_of_scikit_learn(pairs):
    scores, truth = (np.array(x) for x in zip(*pairs, strict=True))
    predicted = scores >= 0.5
    found = evaluate(scores, truth, 0.5)
    assert list(found) == list(METRICS)
    tn, fp, fn, tp = sk.confusion_matrix(truth, predicted, labels=[False, True]).ravel()
    assert (found["tn"], found["fp"], found["fn"], found["tp"]) == (tn, fp, fn, tp)
    assert found["accuracy"] == sk.accuracy_score(truth, predicted)
    expected = dict.fromkeys(
        ("precision", "recall", "f1", "tpr", "fnr", "fpr", "tnr", "roc_auc", "average_precision"), np.nan
    )
    if truth.any():
        expected["precision"] = sk.precision_score(truth, predicted, zero_division=0)
        expected["recall"] = expected["tpr"] = sk.recall_score(truth, predicted)
        expected["fnr"] = 1 - expected["tpr"]
        expected["f1"] = sk.f1_score(truth, predicted)
        expected["average_precision"] = sk.average_precision_score(truth, scores)
    if not truth.all():
        expected["tnr"] = sk.recall_score(~truth, ~predicted)
        expected["fpr"] = 1 - expected["tnr"]
    if truth.any() and not truth.all():
        expected["roc_auc"] = sk.roc_auc_score(truth, scores)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_intervals_are_those_of_the_drawn_items():
    """Each draw, item by item, with the metrics of scikit-learn's definition from the test above."""
    rng = np.random.default_rng(3)
    items = np.sort(rng.integers(0, 9, 40))
    items = np.unique(items, return_inverse=True)[1]
    n_items = items.max() + 1
    scores, truth = rng.choice([0.0, 0.5, 1.0, 2.0], 40), rng.random(40) < 0.4
    counts = BootstrapCounts.of_column(scores, truth, items, n_items, 1.0)
    (found,) = BootstrapSampler(n_items, 50, 0.9, 7).intervals([counts.metrics])
    drawn = {name: [] for name in METRICS if name not in COUNTS}
    rng = np.random.default_rng(7)
    for picked in rng.integers(0, n_items, (50, n_items)):
        rows = np.concatenate([np.flatnonzero(items == item) for item in picked])
        values = evaluate(scores[rows], truth[rows], 1.0)
        for name, each in drawn.items():
            each.append(values[name])
    for name, values in drawn.items():
        low, high = np.nanquantile(values, [0.05, 0.95])
        assert found[f"{name}_low"] == pytest.approx(low, abs=1e-12), name
        assert found[f"{name}_high"] == pytest.approx(high, abs=1e-12), name
    again = BootstrapSampler(n_items, 50, 0.9, 7)
    again._cached = None  # as where the draws are too many to be kept
    assert again.intervals([counts.metrics]) == [found]


def test_pruning_follows_its_rules_and_counts_what_each_left_out():
    n_active = np.array([0, 1, 2, 50, 100, 60])
    p99 = np.array([np.nan, 9.0, 5.0, 1.0, 8.0, 3.0])
    features, report = choose(
        n_active, p99, 100, DetectionOptions(min_active=2, max_fraction=0.9, min_p99_percentile=50)
    )
    # 0 and 1 are dead, 4 is everywhere, 3 is below the median of 5, 1 and 3.
    assert features.tolist() == [2, 5]
    counts = [report[name] for name in ("never_active", "dead", "ubiquitous", "weak", "kept")]
    assert counts == [1, 2, 1, 1, 2]
    assert report["min_p99"] == 3.0
    assert choose(n_active, p99, 100, DetectionOptions(**ALL))[0].tolist() == [1, 2, 3, 4, 5]
    assert choose(n_active, p99, 100, DetectionOptions())[1]["min_active"] == 2
    assert choose(n_active, p99, 30_001, DetectionOptions())[1]["min_active"] == 4
    fractions = np.exp([-5.0, -4.0, -3.0])  # quartiles -4.5 and -3.5
    assert default_max_fraction(fractions) == pytest.approx(np.exp(-0.5))
    assert choose(np.zeros(3, int), np.full(3, np.nan), 10, DetectionOptions())[0].tolist() == []


def test_no_rounding_leaves_a_feature_out_that_is_at_a_limit():
    for n in range(2, 60):  # features that are equally often active are all within the fence
        for k in range(1, n):
            assert len(choose(np.full(6, k), np.arange(6.0), n, DetectionOptions(min_active=1))[0]) == 5
    for n, percentile in ((101, 7), (101, 14), (501, 7), (1001, 2.3)):
        options = DetectionOptions(min_active=1, max_fraction=1, min_p99_percentile=percentile)
        kept, _ = choose(np.full(n, 5), np.arange(n, dtype=float), 100, options)
        assert kept.tolist() == list(range(round((n - 1) * percentile / 100), n))
    for level, n in ((0.9, 21), (0.7, 21), (0.95, 41), (0.6, 11)):
        ends = BootstrapSampler(2, n, level, 0)._ends({"x": [np.arange(n) / 3]})
        tail = round((n - 1) * (1 - level) / 2)
        assert ends == {"x_low": tail / 3, "x_high": (n - 1 - tail) / 3}


# Whole detections


def planted(seed, *, n_items=24, palette="ties", dtype="float32", segment_rows=None, sample_labels=True):
    """A store of a random case with concepts of items, some of samples too, and their truth."""
    rng = np.random.default_rng(seed)
    case = make_case(
        seed, 90, 9, density=0.3, palette=palette, dtype=dtype, segment_rows=segment_rows, chunk=7, shard=28
    )
    store = scratch_store()
    write_segments(store, case)
    with SetWriter(store.root, PATH) as writer:  # complete, in segments
        writer.commit(replace(writer.attributes, planned_samples=None))
    acts = store[PATH]
    item_of, n_items = case.item_of_sample, case.n_items
    items = {
        "common": rng.random(n_items) < 0.5,
        "rare": np.arange(n_items) == rng.integers(n_items),
        "never": np.zeros(n_items, bool),
        "always": np.ones(n_items, bool),
    }
    parts = {}
    if sample_labels:
        parts = {"common": items["common"][item_of] & (rng.random(90) < 0.6), "part": rng.random(90) < 0.2}
    acts.concepts.add(items)
    if parts:
        acts.concepts.add(parts, "sample")
    return case, acts, {"color::red": case.red, **items}, parts


def check(case, acts, truth, rows_true, found, **how):
    """FeatureThresholds are those of brute force, and so are the results of the first on test."""
    split = np.array(["train", "cal", "test"])[case.split]
    level, score = how.get("level", "item"), how.get("score", "max")
    by_concept = {}
    for c in found.candidates:
        by_concept.setdefault(c["concept"], []).append(
            (c["feature"], c["target_recall"], c["threshold"], c["cal_f1"], c["cal_n_rows"])
        )
    rows = {row["concept"]: row for row in found.rows}
    for name, positive in truth.items():
        expected = brute_detect.candidates(case.dense, case.item_of_sample, split, positive, rows_true[name], **how)
        assert by_concept.get(name, []) == expected[:9], name
        assert (name in rows) == bool(expected)
        if not expected:
            assert name in found.skipped
            continue
        feature, recall, threshold, f1, _ = expected[0]
        scores, units = brute_detect.units_of(
            case.dense[:, [feature]], case.item_of_sample, split, "test", level=level, score=score
        )
        values = evaluate(scores[:, 0], positive[units], threshold)
        row = rows[name]
        assert (row["feature"], row["target_recall"], row["threshold"], row["cal_f1"]) == (
            feature,
            recall,
            threshold,
            f1,
        )
        assert {k: row[k] for k in METRICS} == pytest.approx(values, nan_ok=True, abs=0), name
        if not positive[units].any():
            assert "'test'" in found.skipped[name]


def usable(case):
    """Whether both splits have a sample."""
    filled = np.diff(case.item_ptr) > 0
    return {1, 2} <= set(case.split[filled].tolist())


@FEW
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["ties", "one", "signed", "heavy"]),
    st.sampled_from(["float32", "float64", "float16"]),
    st.sampled_from([None, 31]),
)
@example(3, "ties", "float32", 31)
@example(4, "signed", "float64", None)
def test_detection_equals_brute_force(seed, palette, dtype, segment_rows):
    case, acts, truth, parts = planted(seed, palette=palette, dtype=dtype, segment_rows=segment_rows)
    if not usable(case):
        return
    rows_true = {name: parts.get(name, positive[case.item_of_sample]) for name, positive in truth.items()}
    for score in ("max", "mean", "top-2"):
        found = detect(acts, score=score, n=9, n_resamples=5, **ALL)
        check(case, acts, truth, rows_true, found, score=score)
    found = detect(acts, "sample", n=9, n_resamples=5, **ALL)
    check(case, acts, parts, parts, found, level="sample")


@pytest.mark.once
def test_detection_is_the_same_with_one_thread_and_several(monkeypatch):
    _, acts, _, _ = planted(11, palette="heavy")
    answers = []
    for n, few in ((1, 1 << 20), (4, 1 << 20), (4, 0)):  # of many rows, one column after the other
        monkeypatch.setattr(threads, "n_threads", lambda n=n: n)
        monkeypatch.setattr(evaluation, "_FEW_ROWS", few)
        found = detect(acts, n=3, n_resamples=20, **ALL)
        answers.append(repr((found.rows, found.candidates)))
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("level", ["item", "sample"])
def test_any_values_of_split_and_conditions_are_chosen_on_and_reported_on(level):
    _, acts, _, _ = planted(11, palette="heavy")
    few = {"options": DetectionOptions(n_resamples=50, **ALL), "n_resamples": 5}  # single ones win
    usual = acts.detect(level, **few)
    assert usual.settings["n_resamples"] == 5
    with raises(InvalidInputError, "unknown-option", "Did you mean 'n_resamples'"):
        acts.detect(level, n_resample=5)
    split = np.ma.filled(acts.items["split"], "")
    acts.items.set("split", [{"cal": "fold 0", "test": "2"}.get(name, name) for name in split.tolist()])
    for on in (
        {"choose_on": "fold 0", "report_on": 2},
        {"choose_on": {"split": "fold 0"}, "report_on": 'split == "2"'},
    ):
        found = acts.detect(level, **on, **few)
        np.testing.assert_equal(found.rows, usual.rows)
        assert found.settings["choose_on"] in ("fold 0", "split fold 0")
    on = {"choose_on": 'split == "fold 0" and position > 0', "report_on": 'split == "2" and position > 0'}
    part = acts.detect(level, choose_on="fold 0", report_on="2", where="position > 0", fit_on="train", **few)
    np.testing.assert_equal(part.rows, acts.detect(level, **on, **few).rows)
    assert part.settings["where"] == "position > 0"
    grids = [acts.detection_grid(level, **each).to_dict() for each in
             (on, {"choose_on": "fold 0", "report_on": "2", "where": "position > 0"})]  # fmt: skip
    np.testing.assert_equal(*grids)
    for wrong, code in (({}, "unknown-split"), ({"choose_on": "2", "report_on": "2"}, "groups-overlap")):
        with raises((NotFoundError, InvalidInputError), code):
            acts.detect(level, **wrong)


def test_named_features_are_the_only_ones_and_none_is_left_out():
    _, acts, _, _ = planted(11, palette="heavy")
    acts.features.set("name", {5: "round", 2: "red"})
    strict = DetectionOptions(n_resamples=5, n=9, min_active=60)
    found = acts.detect(features='name == "round" or name == "red"', options=strict)
    assert {c["feature"] for c in found.candidates} == {2, 5}
    assert {(row["feature"], row["name"]) for row in found.rows} <= {(2, "red"), (5, "round")}
    assert found.pruning["kept"] == 2
    free = acts.detect(options=DetectionOptions(n_resamples=5, n=9, **ALL))
    expected = [c for c in free.candidates if c["feature"] in (2, 5)]
    assert found.candidates == expected


@pytest.mark.parametrize("level", ["item", "sample"])
@pytest.mark.parametrize("score", ["max", "mean"])
def test_the_grid_is_every_threshold_by_brute_force(level, score):
    case, acts, truth, parts = planted(11, palette="ties", segment_rows=31)
    options = DetectionOptions(score=score, target_recalls=(0.1, 0.5, 0.9))
    split, truths = np.array(["train", "cal", "test"])[case.split], parts if level == "sample" else truth
    for report_on in ("test", "cal"):
        grid = acts.detection_grid(level, features=[1, 4, 7], report_on=report_on, options=options).to_pandas()
        rows = iter(grid.itertuples())
        for name in acts.concepts.names(level):
            of_rows = parts.get(name, truths[name] if level == "sample" else truths[name][case.item_of_sample])
            for feature in (1, 4, 7):
                how, column = {"level": level, "score": score}, case.dense[:, [feature]]
                scores, units = brute_detect.units_of(column, case.item_of_sample, split, "cal", **how)
                source = case.dense[(split[case.item_of_sample] == "cal") & of_rows, feature]
                if score == "mean" and level == "item":
                    source = scores[truths[name][units], 0]
                source = source[source > 0]
                if not len(source) or not truths[name][units].any():
                    continue
                scores, units = brute_detect.units_of(column, case.item_of_sample, split, report_on, **how)
                for recall in (0.1, 0.5, 0.9):
                    row, cut = next(rows), brute_detect.threshold_of(source, recall)
                    assert (row.concept, row.feature, row.target_recall, row.threshold) == (name, feature, recall, cut)
                    expected = evaluate(scores[:, 0], truths[name][units], cut)
                    for metric in set(METRICS) - {"roc_auc", "average_precision"}:
                        assert getattr(row, metric) == pytest.approx(expected[metric], nan_ok=True), metric
        assert next(rows, None) is None
        assert len(grid) >= 9
    assert len(acts.detection_grid(level, features=[], options=options)) == 0


def stored(dense, item_ptr, split, concepts):
    """A store of a dense array whose items have these splits and concepts."""
    store = scratch_store()
    n_items = len(item_ptr) - 1
    items = {"image_path": [f"{i}.png" for i in range(n_items)], "split": split}
    acts = store.write("Toy/patch/x", sp.csr_array(np.asarray(dense, np.float32)), np.array(item_ptr), items)
    acts.concepts.add({name: np.array(mask, bool) for name, mask in concepts.items()})
    return acts


def one_per_item(columns, split, concepts):
    """One sample an item, so that an item scores what its sample does."""
    dense = np.array(columns, np.float32).T
    return stored(dense, np.arange(len(dense) + 1), split, concepts)


HALVES = ["cal"] * 6 + ["test"] * 6


def test_ties_at_the_threshold_are_predicted():
    """All positives equal: every quantile is that value; what equals it is predicted, what is a hair less is not."""
    hair = np.nextafter(np.float32(0.1), np.float32(0))
    column = [0.1, 0.1, 0.1, hair, 0, 0, 0.1, 0.1, hair, 0.1, 0, 0]
    truth = [1, 1, 1, 0, 0, 0] * 2
    (row,) = detect(one_per_item([column], HALVES, {"a": truth}), n_resamples=5, **ALL).rows
    assert row["threshold"] == float(np.float32(0.1))
    assert (row["cal_f1"], row["tp"], row["fp"], row["fn"], row["tn"]) == (1.0, 2, 1, 1, 2)


def test_a_single_positive_gives_a_threshold():
    column = [0.7, 0.2, 0, 0, 0, 0, 0.8, 0.7, 0.1, 0, 0, 0]
    truth = [1, 0, 0, 0, 0, 0] * 2
    (row,) = detect(one_per_item([column], HALVES, {"a": truth}), n_resamples=5, **ALL).rows
    assert (row["threshold"], row["target_recall"], row["cal_f1"]) == (float(np.float32(0.7)), 0.4, 1.0)
    assert (row["tp"], row["fp"], row["precision"]) == (1, 1, 0.5)


def test_a_feature_that_never_fires_on_a_concept_is_not_chosen():
    """With the threshold 0 it would fire everywhere, and win where most items are positive."""
    silent = [0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 5]
    weak = [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    truth = [1, 1, 1, 1, 1, 0] * 2
    acts = one_per_item([silent, weak], HALVES, {"a": truth})
    found = detect(acts, n_resamples=5, **ALL)
    assert [c["feature"] for c in found.candidates] == [1]
    only_silent = detect(one_per_item([silent], HALVES, {"a": truth}), n_resamples=5, **ALL)
    assert only_silent.rows == []
    assert "above 0 where it is true" in only_silent.skipped["a"]


def test_features_that_are_active_everywhere_and_negative_ones():
    everywhere = [3, 3, 3, 1, 1, 1] * 2
    negative = [-1, -1, -1, -5, -5, -5] * 2
    truth = [1, 1, 1, 0, 0, 0] * 2
    acts = one_per_item([negative, everywhere], HALVES, {"a": truth})
    found = detect(acts, n_resamples=5, **ALL)
    assert [(c["feature"], c["cal_f1"]) for c in found.candidates] == [(1, 1.0)]
    cut = detect(acts, n_resamples=5, max_fraction=0.9)
    assert cut.rows == []
    assert (cut.pruning["ubiquitous"], cut.pruning["dead"]) == (1, 1)


def test_concepts_absent_from_a_split_are_named():
    column = [1, 1, 0, 0, 0, 0] * 2
    acts = one_per_item(
        [column], HALVES,
        {"not in cal": [0] * 6 + [1] + [0] * 5, "not in test": [1] + [0] * 11, "nowhere": [0] * 12, "all": [1] * 12},
    )  # fmt: skip
    found = detect(acts, n_resamples=5, **ALL)
    assert {row["concept"] for row in found.rows} == {"not in test", "all"}
    assert set(found.skipped) == {"not in cal", "not in test", "nowhere"}
    assert "'cal' nor of 'test'" in found.skipped["nowhere"]
    rows = {row["concept"]: row for row in found.rows}
    for name in ("precision", "recall", "f1", "roc_auc", "average_precision"):
        assert np.isnan(rows["not in test"][name])
        assert np.isnan(rows["not in test"].get(f"{name}_low", np.nan))
    assert rows["not in test"]["fp"] == 2
    assert np.isnan(rows["all"]["roc_auc"])
    assert np.isnan(rows["all"]["fpr"])
    assert rows["all"]["recall"] == 2 / 6


@pytest.mark.parametrize("level", ["item", "sample"])
@pytest.mark.parametrize("score", ["max", "mean"])
def test_nothing_of_the_test_split_changes_a_choice(level, score):
    """Other activations and other labels on test: the same features, thresholds, cuts and F1 on cal."""
    rng = np.random.default_rng(5)
    case, acts, _, parts = planted(11, palette="heavy")
    test_items = case.split == 2
    test_rows = test_items[case.item_of_sample]
    assert usable(case)
    assert test_items.sum() > 3
    dense = case.dense.copy()
    dense[test_rows] = rng.permutation(dense[test_rows].ravel()).reshape(dense[test_rows].shape)
    red = np.where(test_items, rng.permutation(case.red), case.red)
    other_store = scratch_store()
    other = write_case(other_store, replace(case, dense=dense, red=red))
    matrix = acts.concept_matrix("item").toarray()
    shuffled = matrix.copy()
    shuffled[test_items] = rng.permutation(matrix[test_items])
    names = [name for name in acts.concepts.names("item") if name != "color::red"]
    columns = [acts.concepts.names("item").index(name) for name in names]
    other.concepts.add(dict(zip(names, shuffled[:, columns].T, strict=True)))
    other.concepts.add({n: np.where(test_rows, rng.permutation(m), m) for n, m in parts.items()}, "sample")
    chosen = ("concept", "method", "feature", "target_recall", "threshold", "cal_f1")
    found = [detect(a, level, score=score, n_resamples=5) for a in (acts, other)]
    told = [[{key: row.get(key) for key in chosen} for row in each.rows] for each in found]
    assert told[0] == told[1]
    assert told[0]
    assert found[0].candidates == found[1].candidates
    assert found[0].pruning == found[1].pruning
    assert [row["f1"] for row in found[0].rows] != [row["f1"] for row in found[1].rows]


def test_what_cannot_be_detected_is_one_error():
    column = [1, 1, 0, 0, 0, 0] * 2
    acts = one_per_item([column], HALVES, {"a": [1, 0] * 6})
    for options in [
        {"score": "median"}, {"score": "top-0"}, {"target_recalls": [1.5]}, {"target_recalls": []}, {"min_active": 0},
        {"min_active": "a"}, {"max_fraction": "a"}, {"n": 2.5}, {"max_features": True},
        {"max_fraction": 0}, {"min_p99_percentile": 101}, {"n": 0}, {"n_resamples": 0}, {"max_features": 0},
    ]:  # fmt: skip
        ((name, value),) = options.items()
        with raises(InvalidInputError, "bad-option", f"{name}={value!r}"):
            DetectionOptions(**options)
    with raises(InvalidInputError, "unknown-level", "'patch'", "'item'", "'sample'"):
        acts.detect("patch")
    with raises(NotFoundError, "unknown-concept", "'b'"):
        acts.detect(concepts="b")
    with raises(NotFoundError, "no-concepts", "on samples"):
        acts.detect("sample")
    only_train = one_per_item([column], ["train"] * 6 + ["test"] * 6, {"a": [1, 0] * 6})
    with raises(NotFoundError, "unknown-split", "'cal'", "test, train"):
        only_train.detect()
    bare = scratch_store().write(
        "Toy/patch/x", sp.csr_array(np.ones((3, 2), np.float32)), items={"image_path": list("abc")}
    )
    bare.concepts.add({"a": [1, 0, 1]})
    with raises(NotFoundError, "no-splits", "'split'"):
        bare.detect()


def test_units_of_unknown_label_count_for_nothing():
    """Choice and results of a concept are those of brute force on the items whose label is known."""
    case, acts, truth, parts = planted(11, palette="heavy")
    names, rng = acts.concepts.names("item"), np.random.default_rng(0)
    unknown = (rng.random((case.n_items, len(names))) < 0.3) & ~acts.concepts.matrix("item").toarray()
    masked = {name: np.ma.masked_array(truth[name], mask=unknown[:, i]) for i, name in enumerate(names)}
    acts.concepts.add(masked, "item", overwrite=True)
    found = detect(acts, n=9, n_resamples=5, **ALL)
    split, chosen = np.array(["train", "cal", "test"])[case.split], {row["concept"]: row for row in found.rows}
    assert unknown[case.split == 1].any()
    for name, positive in truth.items():
        known = ~unknown[:, names.index(name)]
        rows_true = parts.get(name, positive[case.item_of_sample])
        expected = brute_detect.candidates(case.dense, case.item_of_sample, split, positive, rows_true, known=known)
        got = [(c["feature"], c["threshold"], c["cal_f1"]) for c in found.candidates if c["concept"] == name]
        assert got == [(feature, threshold, f1) for feature, _, threshold, f1, _ in expected]
        if expected:
            row, how = chosen[name], {"level": "item", "score": "max"}
            scores, units = brute_detect.units_of(case.dense, case.item_of_sample, split, "test", **how)
            scores, units = scores[known[units], row["feature"]], units[known[units]]
            assert row["n_positive"] + row["n_negative"] == len(units)
            values = evaluate(scores, positive[units], row["threshold"])
            assert {k: row[k] for k in METRICS} == pytest.approx(values, nan_ok=True, abs=0)


def test_combinations_equal_brute_force():
    """OR and mean of the best k, k and threshold by F1 on cal, every threshold between two scores tried."""
    rng = np.random.default_rng(8)
    case = make_case(21, 300, 8, density=0.3, palette="heavy")
    case = replace(case, item_ptr=np.arange(0, 301, 5), split=rng.integers(0, 3, 60), red=rng.random(60) < 0.4)
    acts = write_case(scratch_store(), case)
    found = detect(acts, max_features=4, n_resamples=5, **ALL)
    split, truth = np.array(["train", "cal", "test"])[case.split], case.red
    best = brute_detect.candidates(case.dense, case.item_of_sample, split, truth, truth[case.item_of_sample])[:4]
    scores = {}
    for name in ("cal", "test"):
        whole, units = brute_detect.units_of(case.dense, case.item_of_sample, split, name, level="item", score="max")
        scores[name] = np.array([whole[:, f] / t for f, _, t, _, _ in best]), truth[units]
    rows = {row["method"]: row for row in found.rows}
    assert list(rows) == ["feature", "or", "mean"]
    for method, pool in (("or", np.max), ("mean", np.mean)):
        tried = []
        for k in (2, 3, 4):
            cal = pool(scores["cal"][0][:k], axis=0)
            cuts = [1.0] if method == "or" else np.unique(cal[cal > 0])
            f1 = [brute_detect.f1_of(cal >= cut, scores["cal"][1]) for cut in cuts]
            tried.append((max(f1), -k))
        f1, k = max(tried)
        row = rows[method]
        assert (row["cal_f1"], row["features"]) == (f1, [f for f, *_ in best[:-k]])
        test = pool(scores["test"][0][:-k], axis=0)
        values = evaluate(test, scores["test"][1], row["threshold"])
        assert {name: row[name] for name in METRICS} == pytest.approx(values, abs=0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_localisation_equals_brute_force(seed):
    case, acts, _, parts = planted(seed, palette="heavy")
    if not usable(case):
        pytest.fail("choose another seed")
    found = detect(acts, n_resamples=5, **ALL)
    split, item_of = np.array(["train", "cal", "test"])[case.split], case.item_of_sample
    (row,) = found.localisation  # of the one concept that items and samples have
    (detector,) = [r for r in found.rows if r["concept"] == "common"]
    assert (row["concept"], row["feature"]) == ("common", detector["feature"])
    assert row["target_recall"] == detector["target_recall"]
    column, true = case.dense[:, row["feature"]].astype(np.float64), parts["common"]
    source = column[true & (column > 0) & (split[item_of] == "cal")]

    def rows_of(name):
        """Samples of the items that are detected in a split."""
        items = [i for i in np.unique(item_of) if split[i] == name and column[item_of == i].max() >= row["threshold"]]
        return np.isin(item_of, items)

    shares = [p for p in TARGET_RECALLS if p >= row["target_recall"]]
    cuts = [brute_detect.threshold_of(source, p) for p in shares]
    f1 = [sk.f1_score(true[rows_of("cal")], column[rows_of("cal")] >= cut) for cut in cuts]
    best = brute_detect.middle([i for i, value in enumerate(f1) if value == max(f1)])
    assert (row["sample_target_recall"], row["sample_threshold"]) == (shares[best], cuts[best])
    assert row["cal_f1"] == pytest.approx(max(f1))
    inside = rows_of("test")
    assert row["n_samples"] == inside.sum()
    if true[inside].any():
        predicted = column[inside] >= row["sample_threshold"]
        assert row["iou"] == pytest.approx(sk.jaccard_score(true[inside], predicted, zero_division=0))
        assert row["f1"] == pytest.approx(sk.f1_score(true[inside], predicted, zero_division=0))
        assert row["precision"] == pytest.approx(sk.precision_score(true[inside], predicted, zero_division=0))
        assert row["recall"] == pytest.approx(sk.recall_score(true[inside], predicted))
    on_test = split[item_of] == "test"
    active = np.sort(column[on_test & (column > 0)])[::-1]
    if len(active):
        last = active[int(np.ceil(len(active) / 10)) - 1]
        assert row["top_10"] == pytest.approx(true[on_test & (column >= last)].mean())


def test_a_probe_finds_what_two_features_say_together():
    """Items are positive where both fire alike; the probe is fitted on train, and says which features it took."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(4)
    dense = np.abs(rng.normal(size=(300, 6))).astype(np.float32)
    truth = dense[:, 1] + dense[:, 4] > 1.7
    acts = stored(dense, np.arange(301), (["train"] * 4 + ["cal", "test"]) * 50, {"a": truth})
    rows = {row["method"]: row for row in detect(acts, probe=True, n_resamples=5).rows}
    assert {1, 4} <= set(rows["probe"]["features"])
    assert rows["probe"]["roc_auc"] > 0.97 > rows["feature"]["roc_auc"]
    bare = stored(dense, np.arange(301), ["cal", "test"] * 150, {"a": truth})
    with raises(NotFoundError, "unknown-split", "'train'", "cal, test"):
        detect(bare, probe=True, n_resamples=5)


# The report


def result(concept, method, f1):
    return {"concept": concept, "method": method, "f1": f1}


def test_means_are_over_the_concepts_that_all_methods_have():
    nan = float("nan")
    rows = [
        result("a", "x", 0.5), result("a", "y", 0.75), result("b", "x", 1.0), result("c", "x", 0.25),
        result("c", "y", 0.25), result("d", "x", nan), result("d", "y", 0.5), result("e", "x", 0.0),
        result("e", "y", 0.0),
    ]  # fmt: skip
    table, summary = compare(rows)
    assert [row["best"] for row in table] == [["y"], ["x"], ["x", "y"], ["y"], []]
    assert summary == {"n": 3, "mean": {"x": 0.25, "y": pytest.approx(1 / 3)}, "wins": {"x": 2, "y": 3}}


@pytest.fixture(scope="module")
def told():
    """A detection with methods, localisation, a concept that is absent from test, and names that break tables."""
    case, acts, _, _ = planted(1, palette="heavy")
    acts.concepts.add({"a | b,\n": case.red})
    return detect(acts, max_features=3, n_resamples=20)


def test_report_is_what_was_found(told, tmp_path):
    written = told.save(tmp_path / "report")
    by_name = {name.rsplit("/", 1)[1]: name for name in written}
    assert {"detection.md", "detection.csv", "localisation.csv", "detection.json"} <= set(by_name)
    document = json.loads((tmp_path / "report" / "detection.json").read_text())
    assert document["provenance"]["segments"] == told.provenance["segments"]
    assert document["settings"]["target_recalls"] == list(TARGET_RECALLS)
    table = list(csv.DictReader(io.StringIO((tmp_path / "report" / "detection.csv").read_text())))
    assert len(table) == len(document["rows"]) == len(told.rows)
    for text, row, plain in zip(table, told.rows, document["rows"], strict=True):
        assert text["concept"] == row["concept"] == plain["concept"]
        for name in METRICS:
            undefined = np.isnan(row[name])
            assert plain[name] == (None if undefined else row[name])
            assert text[name] == ("" if undefined else str(row[name]))
        assert [int(f) for f in text["features"].split()] == row["features"] == plain["features"]
    assert len(told.to_pandas()) == len(told.rows)


def test_markdown_has_every_concept_and_marks_the_best(told):
    text = told.to_markdown()
    widths = [line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")]
    _, rest = text.split("| concept |", 1)
    head = rest.split("\n\n", 1)[0].splitlines()
    assert len(set(widths[: len(head)])) == 1
    assert len(head) == 2 + len(told.concepts) + 2
    _, summary = compare(told.rows)
    assert head[-1].split("|")[2:-1] == [f" {summary['wins'][m]} " for m in told.methods]
    for line, row in zip(head[2:], compare(told.rows)[0], strict=False):
        assert [("**" in cell) for cell in line.replace("\\|", "").split("|")[2:-1]] == [
            m in row["best"] for m in told.methods
        ]
