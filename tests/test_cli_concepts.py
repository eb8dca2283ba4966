"""`saestore concepts` and `saestore similar`: what they print is what the query API answers."""

import csv
import io

import cli_stores
import numpy as np
import pytest
from cli_stores import ask, ask_json, invoke, paths_in, refused

import saestore
from saestore.cli import keys
from saestore.vocabulary import SCORES

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return cli_stores.image_store(tmp_path_factory.mktemp("cli") / "images.zarr")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """The same images with concepts of their patches, and one that no item has."""
    stored = cli_stores.image_store(tmp_path_factory.mktemp("cli") / "labelled.zarr")
    acts = saestore.open(stored.path, mode="a")["Toy"]
    rng = np.random.default_rng(1)
    acts.concepts.add({f"part {i}": rng.random(acts.shape[0]) < 0.3 for i in range(3)}, "sample")
    acts.concepts.add({"none": np.zeros(acts.n_items, bool)})
    return stored


@pytest.fixture(autouse=True)
def no_store_of_ones_own(monkeypatch, tmp_path):
    monkeypatch.delenv("SAESTORE_PATH", raising=False)
    monkeypatch.chdir(tmp_path)


def best(scores, by, n):
    """Concept and feature of the best scores, ties by ascending feature."""
    found = []
    for name in scores["concept"].values:
        values = scores[by].sel(concept=name).values
        order = sorted(np.flatnonzero(~np.isnan(values)), key=lambda f: (-values[f], f))
        found += [(name, int(f)) for f in order[:n]]
    return found


def unnamed(table):
    return [row | {"name": None} for row in table]


@pytest.mark.parametrize("by", ["roc_auc", "average_precision", "f1"])
@pytest.mark.parametrize("level", ["item", "sample"])
def test_rows_are_the_best_features_of_each_concept(labelled, by, level):
    found = ask_json("concepts", "Toy", "--level", level, "--by", by, "-n", 3, store=labelled)
    scores = saestore.open(labelled.path)["Toy"].concepts.scores(level)
    assert [(row["concept"], row["feature"]) for row in found["rows"]] == best(scores, by, 3)
    for row in found["rows"]:
        pair = scores.sel(concept=row["concept"], feature=row["feature"])
        assert {name: row[name] for name in SCORES} == {
            name: None if np.isnan(pair[name]) else pair[name].item() for name in SCORES
        }
        assert (row["n_positive"], row["n_negative"]) == (pair["n_positive"].item(), pair["n_negative"].item())
    assert found["n_scored"] == scores.attrs["n"]
    assert found["intervals"] is None
    assert {key for key in keys.CONCEPTS if not key.endswith(("_low", "_high")) and ".chosen_" not in key} == {
        *paths_in(found), "intervals.confidence_level", "intervals.n_resamples", "intervals.seed"
    }  # fmt: skip


def test_intervals_are_those_of_score_intervals(labelled):
    words = ["concepts", "Toy", "--concept", "color::red", "-n", 2, "--intervals", "--n-resamples", 50, "--seed", 3]
    found = ask_json(*words, "--confidence-level", 0.5, store=labelled)
    acts = saestore.open(labelled.path)["Toy"]
    pairs = [(row["concept"], row["feature"]) for row in found["rows"]]
    expected = acts.concepts.intervals(pairs, n_resamples=50, seed=3, confidence_level=0.5)
    for i, row in enumerate(found["rows"]):
        for name in row.keys() - {"concept", "feature", "name"}:
            assert row[name] == expected[name].values[i]
    assert found["intervals"] == {"confidence_level": 0.5, "n_resamples": 50, "seed": 3}
    assert set(paths_in(found)) == {key for key in keys.CONCEPTS if ".chosen_" not in key}
    table = ask(*words, store=labelled)
    assert "95% interval" in table
    assert all(len(line) <= 100 for line in table.splitlines())


@pytest.mark.parametrize("where", ["split=test", 'split == "test"'])
def test_a_condition_narrows_what_is_scored(images, where):
    found = ask_json("concepts", "Toy", "--where", where, "-n", 8, store=images)
    scores = saestore.open(images.path)["Toy"].concepts.scores(where={"split": "test"})
    assert found["n_scored"] == scores.attrs["n"] < cli_stores.N_ITEMS
    assert [(row["concept"], row["feature"]) for row in found["rows"]] == best(scores, "roc_auc", 8)


def test_the_table_names_a_concept_once(labelled):
    title, head, *lines = ask("concepts", "Toy", "--level", "sample", "-n", 2, store=labelled).splitlines()
    assert title == f"Toy/patch/x: best features by roc_auc over {len(labelled.dense)} samples"
    assert head.split()[:3] == ["concept", "feature", "roc_auc"]
    assert [line[:6].strip() for line in lines] == ["part 0", "", "part 1", "", "part 2", ""]


def test_csv_has_every_figure(labelled):
    text = ask("concepts", "Toy", "-n", 3, "--csv", store=labelled)
    rows = ask_json("concepts", "Toy", "-n", 3, store=labelled)["rows"]
    read = list(csv.DictReader(io.StringIO(text)))
    assert [list(row) for row in read] == [list(row) for row in rows]
    for given, row in zip(read, rows, strict=True):
        assert given.pop("concept") == row.pop("concept")
        assert {name: float(value) if value else None for name, value in given.items()} == row


def test_a_concept_without_a_score_is_named_on_stderr(labelled):
    result = invoke("concepts", "Toy", store=labelled)
    assert result.exit_code == 0
    assert "concept 'none' has no score: 0 items have it, of 6" in result.stderr
    assert "none" not in result.stdout
    only = invoke("concepts", "Toy", "--concept", "none", "--csv", "--intervals", store=labelled)
    assert only.stdout == "concept,feature\n"


def test_what_cannot_be_is_told_in_one_line(images, tmp_path):
    assert "no concepts on samples" in refused("concepts", "Toy", "--level", "sample", store=images)
    assert "'blue'" in refused("concepts", "Toy", "--concept", "blue", store=images)
    assert "not in the range" in invoke("concepts", "--intervals", "--confidence-level", 2, store=images).stderr
    assert "--by" in refused("concepts", "--by", "luck", store=images, status=2)
    refused("concepts", "--csv", "--json", store=images, status=2)
    bare = cli_stores.several_sets(tmp_path / "several.zarr")
    assert "no concepts on items" in refused("concepts", "Other", store=bare)


@pytest.mark.parametrize("metric", ["jaccard", "cosine", "correlation"])
def test_similar_prints_what_the_query_answers(images, metric):
    found = ask_json("similar", "--feature", 3, "--metric", metric, "-n", 4, store=images)
    assert found["rows"] == unnamed(saestore.open(images.path)["Toy"].similar(3, 4, metric))
    assert len(found["rows"]) == 4
    assert set(paths_in(found)) == set(keys.SIMILAR)
    title, head, *lines = ask("similar", "--feature", 3, "--metric", metric, store=images).splitlines()
    assert title == "Toy/patch/x: features most similar to feature 3"
    assert head.split()[:2] == ["feature", metric]
    assert [int(line.split()[0]) for line in lines[:4]] == [row["feature"] for row in found["rows"]]


def test_a_dead_feature_has_no_neighbour_and_says_so(images):
    result = invoke("similar", "--feature", cli_stores.N_FEATURES - 1, store=images)
    assert result.exit_code == 0
    assert "no other feature is active on a sample with feature" in result.stderr
    assert "out of range" in refused("similar", "--feature", cli_stores.N_FEATURES, store=images)


def test_compare_prints_the_matches_of_two_sets(tmp_path):
    stored = cli_stores.several_sets(tmp_path / "several.zarr")
    store = saestore.open(stored.path)
    mine, other = store["Toy/patch"], store["Other"]
    found = ask_json("compare", "Toy/patch", "Other", "-n", 3, store=stored)
    assert set(paths_in(found)) == set(keys.COMPARE)
    assert [row["feature"] for row in found["rows"]] == [row["other_feature"] for row in found["rows"]]
    assert all(abs(row["score"] - 1) < 1e-9 for row in found["rows"])  # the same matrix
    one = ask_json("compare", "Toy/patch", "Other", "--feature", 2, "--metric", "jaccard", "-n", 4, store=stored)
    expected = [row for row in unnamed(mine.compare(other, "jaccard", 4)) if row["feature"] == 2]
    assert one["rows"] == [row | {"other_name": None} for row in expected]
    assert len(one["rows"]) == 4
    title, head, *lines = ask("compare", "Toy/patch", "Other", "--feature", 2, store=stored).splitlines()
    assert "Other/cls/y" in title
    assert head.split()[:3] == ["feature", "other", "feature"]
    assert lines[0].split()[:2] == ["2", "2"]
    assert "feature 99 is out of range" in refused("compare", "Toy/patch", "Other", "--feature", 99, store=stored)


def test_names_levels_and_conditions_reach_every_query(tmp_path):
    """Each command takes a feature by its name, and shows the name beside the number."""
    stored = cli_stores.image_store(tmp_path / "named.zarr")
    acts = saestore.open(stored.path, mode="a")["Toy"]
    acts.features.set("name", {1: "green object", 3: "sky"})
    acts.concepts.add({"big": np.arange(54) % 3 == 0}, level="sample")
    name = acts.features["name"].tolist()
    for words in (
        ["top-samples", "--feature", "sky", "--level", "item", "--where", "activation > 0.3"],
        ["top-features", "--item", 2],
        ["top-features", "--sample", 17],
        ["stats", "--feature", 'name contains "green"', "--level", "item", "--where", "feature[3] > 0"],
        ["concepts", "--feature", "green object", "--where", "feature[1] > 0.1 or big"],
        ["concepts", "--choose-on", "train", "--report-on", "test"],
        ["similar", "--feature", "sky", "--level", "item", "--where", "activation > 0.1"],
        ["examples", "--feature", "sky", "--where", "activation >= 0.25"],
        ["diff", "--group-a", "feature[1] > 0.5", "--level", "sample", "--where", "split != 'cal'"],
        ["detect", "--feature", "sky", "--feature", "green object", "--n-resamples", 5],
    ):
        rows = ask_json(words[0], "Toy", *words[1:], store=stored)["rows"]
        assert rows, words
        assert [row["name"] for row in rows] == [name[row["feature"]] or None for row in rows], words
    shown = ask("stats", "Toy", "--feature", "sky", "--feature", 2, store=stored).splitlines()
    assert [line.split()[:2] for line in shown[1:3]] == [["feature", "name"], ["3", "sky"]]
    for command in ("top-samples", "examples", "similar"):
        assert "feature 3 (sky)" in ask(command, "Toy", "--feature", "sky", store=stored).splitlines()[0]
    ask("card", "Toy", "--feature", "sky", "--output", tmp_path / "x.html", store=stored)
    assert "sky" in (tmp_path / "x.html").read_text()
    assert "a feature's name" in invoke("stats", "Toy", "--feature", "green objekt", store=stored).stderr
    assert "takes one" in invoke("card", "Toy", "--feature", "n_active > 0", store=stored).stderr
    grid = ask("detect", "Toy", "--grid", "--feature", "sky", "--report-on", "cal", store=stored).splitlines()
    assert grid[0].startswith("concept,feature,name,target_recall,threshold,tp,fp,tn,fn,precision,recall")
    assert len(grid) == 13


@pytest.mark.once
def test_pictures_are_files(images, tmp_path):
    pytest.importorskip("matplotlib")
    for kind in ("histogram", "density"):
        feature = ["--feature", 3] if kind == "histogram" else []
        ask("plot", "Toy", "--kind", kind, *feature, "--output", tmp_path / kind / "a.svg", store=images)
        assert ("activation, where active" in (tmp_path / kind / "a.svg").read_text()) == (kind == "histogram")
    texts = cli_stores.text_store(tmp_path / "texts.zarr")
    words = ["--kind", "tokens", "--feature", 1, "-n", 1, "--where", "activation > 1", "--output", tmp_path / "a.html"]
    ask("plot", *words, store=texts)
    assert "<html" in (tmp_path / "a.html").read_text()
    assert "--feature" in invoke("plot", "--kind", "top", "--output", "x.png", store=images).stderr
    for kind, name, allowed in (("tokens", "x.png", ".html"), ("top", "x.html", ".png"), ("histogram", "x", ".svg")):
        result = invoke("plot", "--kind", kind, "--feature", 2, "--output", tmp_path / name, store=images)
        assert result.exit_code == 2
        assert allowed in result.stderr
        assert not (tmp_path / name).exists()
