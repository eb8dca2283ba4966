"""Examples of features: equal to sorting, cutting and counting dense columns; the sets are Delphi's."""

import json

import cli_stores
import numpy as np
import pytest
import scipy.sparse as sp
from brute import ranked
from raising import raises
from sklearn.metrics import balanced_accuracy_score, f1_score
from strategies import make_case, memory_store, write_case, write_segments

import saestore
from benchmarks.counting import CountingStore
from saestore.errors import InvalidInputError, NotFoundError, OutOfRangeError

pytestmark = pytest.mark.once

CASE = make_case(3, 240, 16, density=0.3, palette="heavy", segment_rows=100)
FEATURES = [int(f) for f in np.flatnonzero((CASE.dense != 0).any(axis=0))[[0, 3, 5]]]


@pytest.fixture(scope="module", params=["segments", "merged"])
def acts(request):
    write = write_segments if request.param == "segments" else write_case
    return write(memory_store(), CASE)


def of_kind(table, feature, kind):
    return table[(table.feature == feature) & (table.kind == kind)]


def one_per_item(samples, level):
    if level == "sample":
        return samples
    return samples[np.sort(np.unique(CASE.item_of_sample[samples], return_index=True)[1])]


def is_silent(feature, level, keep):
    active = (CASE.dense[:, feature] != 0) & keep
    if level == "sample":
        return ~active & keep
    return ~np.isin(CASE.item_of_sample, CASE.item_of_sample[active]) & keep


def nearest_misses(feature, level, keep):
    """Silent samples by the sum of P(active | feature) - P(active) over the eight best companions, nearest first."""
    on = (CASE.dense != 0)[keep]
    gain = on[on[:, feature]].mean(axis=0) - on.mean(axis=0)
    gain[feature] = 0
    best = np.argsort(-gain, kind="stable")[:8]
    best = best[gain[best] > 0]
    shared = (CASE.dense != 0)[:, best] @ gain[best]
    samples = np.flatnonzero(is_silent(feature, level, keep) & (shared > 0))
    return one_per_item(samples[np.argsort(-shared[samples].round(12), kind="stable")], level), shared


@pytest.mark.parametrize("level", ["sample", "item"])
@pytest.mark.parametrize("where", [None, 'split == "test" or split == "cal"'])
def test_examples_are_those_of_sorted_columns(acts, level, where):
    keep = np.ones(240, bool) if where is None else np.isin(CASE.split[CASE.item_of_sample], (1, 2))
    table = acts.examples(FEATURES, quantiles=3, n=4, random=6, near_misses=5, context=2, level=level, where=where)
    for feature in FEATURES:
        active = one_per_item(ranked(CASE.dense[:, feature], keep), level)
        np.testing.assert_array_equal(of_kind(table, feature, "top").sample, active[:4])
        parts = of_kind(table, feature, "quantile")
        ends = np.arange(4) * len(active) // 3
        for q in range(3):
            drawn, part = parts.sample[parts.quantile == q], active[ends[q] : ends[q + 1]]
            assert len(drawn) == min(4, len(part)) == len(set(drawn)) == len(set(drawn) & set(part))
        drawn = of_kind(table, feature, "random").sample
        assert len(set(drawn)) == min(6, len(active))
        assert set(drawn) <= set(active)
        silent = is_silent(feature, level, keep)
        drawn = of_kind(table, feature, "silent").sample
        assert silent[drawn].all()
        assert len(set(drawn)) == min(6, len(one_per_item(np.flatnonzero(silent), level)))
        expected, shared = nearest_misses(feature, level, keep)
        near = of_kind(table, feature, "near-miss").sample
        assert silent[near].all()
        np.testing.assert_allclose(shared[near], shared[expected[:5]])


def test_windows_are_slices_of_the_column_within_the_item(acts):
    table = acts.examples(FEATURES[1], context=3, where="color::red")
    assert len(table) > 20
    for row in table:
        start, stop = CASE.item_ptr[row["item"]], CASE.item_ptr[row["item"] + 1]
        first, last = max(start, row["sample"] - 3), min(stop, row["sample"] + 4)
        assert row["start"] == first
        np.testing.assert_array_equal(row["activations"], CASE.dense[first:last, FEATURES[1]])
        assert row["activation"] == CASE.dense[row["sample"], FEATURES[1]]
        assert row["key"] == CASE.items["image_path"][row["item"]]
        assert row["tokens"] is None


def test_a_seed_gives_the_same_examples_beside_any_other_features(acts):
    many = acts.examples(range(16), seed=7)
    alone = acts.examples(FEATURES[1], seed=7)
    again = acts.examples([FEATURES[1], FEATURES[0], FEATURES[1]], seed=7)
    np.testing.assert_array_equal(many.sample[many.feature == FEATURES[1]], alone.sample)
    np.testing.assert_array_equal(again.feature[: len(alone)], alone.feature)
    np.testing.assert_array_equal(again.sample[-len(alone) :], alone.sample)
    assert (acts.examples(FEATURES[1], seed=8).sample != alone.sample).any()


def test_a_dead_feature_has_silent_examples_only():
    dense = np.zeros((12, 2), np.float32)
    dense[::2, 0] = 1
    acts = memory_store().write("T/token/x", sp.csr_array(dense), 3)
    assert set(acts.examples(1).kind) == {"silent"}
    always = memory_store().write("T/token/x", sp.csr_array(np.ones((12, 2), np.float32)), 3).examples(0)
    assert set(always.kind) == {"top", "quantile", "random"}
    assert not len(acts.examples([]))


def test_silent_examples_of_a_feature_that_is_active_almost_everywhere():
    """Draws find none of the few silent samples, which are listed then; an item with an active sample is not silent."""
    dense = np.ones((6000, 1), np.float32)
    dense[[7, 3999, 4000, 4001]] = 0
    acts = memory_store().write("T/token/x", sp.csr_array(dense), 3)
    where = "item >= 1000"
    for level, condition, expected in (
        ("sample", None, [7, 3999, 4000, 4001]), ("item", None, [3999]), ("sample", where, [3999, 4000, 4001]),
    ):  # fmt: skip
        silent = of_kind(acts.examples(0, level=level, where=condition), 0, "silent")
        if level == "sample":
            assert sorted(silent.sample) == expected
        else:
            assert len(silent) == 1
            assert silent.item.tolist() == [acts.item_index.locate(np.array(expected))[0][0]]


@pytest.mark.parametrize("level", ["sample", "item"])
def test_bad_input_is_one_error(acts, level):
    with raises(OutOfRangeError, "out-of-range", 99):
        acts.examples(99, level=level)
    with raises(InvalidInputError, "too-small", "near_misses", -1):
        acts.examples(1, near_misses=-1)
    with raises(InvalidInputError, "unknown-level", "patch"):
        acts.examples(1, level="patch")
    with raises(NotFoundError, "unknown-column", "colour"):
        acts.examples(1, where="colour")
    with raises(NotFoundError, "no-tokens"):
        acts.explanation_sets(1)


def test_a_thousand_features_are_one_pass():
    store = CountingStore(memory_store().root.store)
    matrix = sp.random(3000, 1000, 0.02, "csr", np.float32, random_state=0)
    saestore.open(store, "a").write("T/token/x", matrix, 10)
    acts = saestore.open(store)["T/token/x"]
    store.log.clear()
    table = acts.examples(range(1000), near_misses=0)
    assert len(np.unique(table.feature)) == 1000
    assert len(store.log) < 12


# Sets for explanations.

WORDS = ["green", " leaf", " on", " the", " red", " house"]


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    dense = (rng.random((6 * 200, 5)) < 0.2) * rng.random((6 * 200, 5))
    dense[:60] = 0
    spans = np.cumsum([0, *map(len, WORDS)])
    spans = np.tile(np.stack([spans[:-1], spans[1:]], axis=1), (200, 1)).astype(np.int32)
    items = {"text": ["".join(WORDS)] * 200}
    acts = memory_store().write("T/token/x", sp.csr_array(dense.astype(np.float32)), 6, items)
    for name, values in zip(("token_start", "token_stop"), spans.T, strict=True):
        acts.samples.set(name, values)
    return acts, dense


def test_sets_are_delphis(texts, tmp_path):
    acts, dense = texts
    sets = acts.explanation_sets([1, 3], context=2)
    for feature in (1, 3):
        train, trials = sets.train[sets.train.feature == feature], sets.trials[sets.trials.feature == feature]
        assert len(train) == 40
        assert np.bincount(train.quantile).tolist() == [4] * 10
        for task in ("detection", "fuzzing"):
            asked = trials[trials.task == task]
            assert np.count_nonzero(asked.expected) == 50
            assert np.count_nonzero(asked.expected == 0) == 50
            assert not set(asked.sample) & set(train.sample)
            true = asked.expected.astype(bool)
            assert (dense[asked.sample[true], feature] > 0).all()
            for sample in asked.sample[~true]:
                item = sample // 6 * 6
                first, last = max(item, sample - 2), min(item + 6, sample + 3)
                assert not dense[first:last, feature].any()
    for row in sets.trials:
        position, start = row["sample"] % 6, row["sample"] // 6 * 6
        first, last = max(0, position - 2), min(6, position + 3)
        window = WORDS[first:last]
        if row["task"] == "detection":
            assert row["text"] == "".join(window)
        elif row["expected"]:
            on = dense[start + first : start + last, row["feature"]] > 0
            marked = "".join(f"<<{w}>>" if a else w for w, a in zip(window, on, strict=True)).replace(">><<", "")
            assert row["text"] == marked
        else:
            assert row["text"].replace("<<", "").replace(">>", "") == "".join(window)
    lines = [json.loads(line) for line in sets.save(tmp_path / "sets.jsonl").read_text().splitlines()]
    assert [line["feature"] for line in lines] == [1, 3]
    assert [len(line["train"]) for line in lines] == [40, 40]
    assert "<<" in lines[0]["train"][0]["marked"]
    assert sum(len(line["trials"]) for line in lines) == len(sets.trials)


def test_a_judge_scores_stored_explanations_and_delphi_reads_them(texts, tmp_path):
    acts, _ = texts
    acts.features.set("explanation", {1: "one", 3: "three"})
    asked = []

    def judge(explanation, shown, task):
        asked.append((explanation, task, shown))
        return [(len(text) + len(explanation)) % 3 > 0 for text in shown]

    options = {"context": 2, "test": 20, "non_activating": 20}
    found = acts.features.score_explanations(judge, save_to=tmp_path / "run", **options)
    trials = acts.explanation_sets([1, 3], **options).trials
    assert [(e, t) for e, t, _ in asked] == [(e, t) for e in ("one", "three") for t in ("detection", "fuzzing")]
    for row, (explanation, task, shown) in zip(found, asked, strict=True):
        own = trials[(trials.feature == row["feature"]) & (trials.task == task)]
        assert shown == own.text.tolist()
        said = [(len(text) + len(explanation)) % 3 > 0 for text in shown]
        assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(own.expected.astype(bool), said))
    columns = found.to_columns()
    assert {name: acts.features.column(name, [1, 3]).tolist() for name in columns} == {
        name: list(values.values()) for name, values in columns.items()
    }
    (example, *_) = json.loads((tmp_path / "run/scores/fuzz/x_latent3.txt").read_text())
    assert {"str_tokens", "activating", "prediction", "correct", "distance"} <= example.keys()
    other = memory_store().write("T/token/x", sp.csr_array(np.eye(6, 5, dtype=np.float32)), 6)
    other.import_explanations(tmp_path / "run")
    assert other.features.column("fuzz_score", [3]) == pytest.approx(columns["fuzz_score"][3])
    assert other.features.column("explanation", [1]).tolist() == ["one"]
    with raises(NotFoundError, "no-explanations", 2):
        acts.features.score_explanations(judge, [1, 2], **options)
    with raises(InvalidInputError, "wrong-length", 1):
        acts.features.score_explanations(lambda *_: [True], 1, **options)


def test_answers_are_scored_as_by_scikit_learn(texts):
    acts, _ = texts
    sets = acts.explanation_sets(2)
    answers = np.random.default_rng(1).random(len(sets.trials)) < 0.6
    scores = sets.score({i: bool(answers[i]) for i in range(0, len(answers), 2)})
    for row in scores:
        mask = (sets.trials.task == row["task"]) & (sets.trials.trial % 2 == 0)
        truth = sets.trials.expected[mask].astype(bool)
        assert row["n"] == mask.sum()
        assert row["accuracy"] == pytest.approx((truth == answers[mask]).mean())
        assert row["f1"] == pytest.approx(f1_score(truth, answers[mask]))
        assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, answers[mask]))
    right = sets.score(sets.trials.expected.astype(bool).tolist())
    assert (right.accuracy == 1).all()
    with raises(InvalidInputError, "wrong-length", 3):
        sets.score([True, False, True])
    with raises(InvalidInputError, "bad-answer", "maybe"):
        sets.score({0: "maybe"})


def test_examples_are_written_as_json_lines(texts, tmp_path):
    acts, dense = texts
    table = acts.examples(4, context=1)
    lines = [json.loads(line) for line in table.save(tmp_path / "x.jsonl").read_text().splitlines()]
    assert len(lines) == len(table)
    assert lines[0]["sample"] == ranked(dense[:, 4])[0]
    position = lines[0]["position"]
    assert lines[0]["tokens"] == WORDS[max(0, position - 1) : position + 2]
    assert f"<<{WORDS[position]}" in table.marked(0).replace(">><<", "") or "<<" in table.marked(0)
    assert "example" in table._repr_html_()


# The command.


def test_the_command_shows_and_writes_what_python_gives(tmp_path):
    text = cli_stores.text_store(tmp_path / "a.zarr")
    acts = saestore.open(text.path)[text.name]
    options = ["--quantiles", 2, "-n", 2, "--near-misses", 1, "--context", 1]
    rows = cli_stores.ask_json("examples", "--feature", 1, *options, store=text)["rows"]
    expected = list(acts.examples(1, quantiles=2, n=2, near_misses=1, context=1))
    assert rows == [row | {"name": None} for row in json.loads(json.dumps(expected))]
    strong = cli_stores.ask_json("examples", "--feature", 1, "--feature", 2, "--where", "activation > 1", store=text)
    assert {row["feature"] for row in strong["rows"]} == {1, 2}
    assert all(row["activation"] > 1 for row in strong["rows"])
    shown = cli_stores.ask("examples", "--feature", 1, *options, store=text)
    assert "near-miss" in shown
    assert "quantile 1" in shown
    done = cli_stores.invoke(
        "examples", "--feature", 0, "--jsonl", tmp_path / "x.jsonl", "--sets", tmp_path / "s.jsonl", store=text
    )
    assert (done.exit_code, done.stdout) == (0, "")
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == len(acts.examples(0))
    assert json.loads((tmp_path / "s.jsonl").read_text())["feature"] == 0
    assert cli_stores.invoke("examples", "--feature", 99, store=text).exit_code == 1
