"""Names, notes and explanations: given one by one, taken from other programs' files, and written back."""

import gzip
import json

import cli_stores
import numpy as np
import pandas as pd
import pytest
from cli_stores import ask, ask_json, paths_in, refused
from raising import raises
from sklearn.metrics import balanced_accuracy_score

import saestore
from saestore.cli import keys
from saestore.errors import InvalidInputError, NotFoundError, StoreConflictError, StoreWriteError

pytestmark = pytest.mark.once

N = cli_stores.N_FEATURES


@pytest.fixture
def images(tmp_path):
    return cli_stores.image_store(tmp_path / "a.zarr")


@pytest.fixture
def acts(images):
    return saestore.open(images.path, "a")["Toy"]


def delphi_folder(folder, explanations, hookpoint="layers.5"):
    """What Delphi leaves; returns the detection score of feature 3 as scikit-learn has it."""
    for name in ("explanations", "scores/detection", "scores/fuzz"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for feature, text in explanations.items():
        (folder / "explanations" / f"{hookpoint}_latent{feature}.txt").write_text(json.dumps(text), "utf-8")
    rng = np.random.default_rng(0)
    truth, said = rng.random(30) < 0.3, rng.random(30) < 0.5
    examples = [
        {"str_tokens": ["a"], "activating": bool(t), "prediction": bool(p), "correct": bool(t == p)}
        for t, p in zip(truth, said, strict=True)
    ]
    examples.append({"str_tokens": ["b"], "activating": True, "prediction": None, "correct": None})  # not judged
    (folder / "scores/detection" / f"{hookpoint}_latent3.txt").write_text(json.dumps(examples))
    return balanced_accuracy_score(truth, said)


def neuronpedia(path, rows):
    text = json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows))
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, "utf-8")
    return path


def row_of(index, text, layer="5-res", by="gpt-4o"):
    return {"modelId": "m", "layer": layer, "index": str(index), "description": text, "explanationModelName": by}


def known(acts, name):
    """The values of a column of features that are known."""
    return {i: value for i, value in enumerate(acts.features[name].tolist()) if value is not None}


def test_annotating_on_the_command_line(images):
    words = ["annotate", "--feature", 3, "--name", "green", "--note", "not on grey", "--set", "score=0.5"]
    found = ask_json(*words, store=images)
    assert found == {"set": "Toy/patch/x", "columns": ["name", "note", "score"]}
    assert set(paths_in(found)) == set(keys.ANNOTATE)
    ask("annotate", "--feature", 4, "--explanation", "red things", store=images)
    ask("annotate", "--item", cli_stores.IMAGES[2], "--set", "year=1999", store=images)
    ask("annotate", "--item", 1, "--set", "year=2001", "--set", "place=at sea", store=images)
    acts = saestore.open(images.path)["Toy"]
    assert (acts.features["name"][3], acts.features["note"][3], acts.features["score"][3]) == (
        "green", "not on grey", 0.5,
    )  # fmt: skip
    assert known(acts, "explanation") == {4: "red things"}
    assert known(acts, "explanation_source") == {4: "annotate"}
    assert acts.items["year"].tolist() == [None, 2001, 1999, None, None, None]
    assert acts.items["place"][1] == "at sea"
    assert "feature 3" in refused("annotate", "--feature", 3, "--name", "red", store=images)
    ask("annotate", "--feature", 3, "--name", "red", "--overwrite", store=images)
    assert saestore.open(images.path)["Toy"].features["name"][3] == "red"


@pytest.mark.parametrize("words", [
    ["--name", "x"], ["--feature", 3], ["--feature", 3, "--item", 1, "--name", "x"], ["--feature", 3, "--set", "x"],
    ["--feature", 3, "--name", "x", "--from", "a.csv"], ["--feature", 3, "--name", "x", "--source", "y"],
])  # fmt: skip
def test_a_command_that_is_not_clear_changes_nothing(images, words):
    refused("annotate", *words, store=images, status=2)
    assert saestore.open(images.path)["Toy"].features.names() == []


def test_delphi_comes_in_with_its_scores(acts, tmp_path):
    score = delphi_folder(tmp_path / "results", {3: "green things", 7: "naïve 日本"})
    columns = acts.import_explanations(tmp_path / "results")
    assert set(columns) == {"explanation", "explanation_source", "explanation_date", "detection_score"}
    assert known(acts, "explanation") == {3: "green things", 7: "naïve 日本"}
    assert set(known(acts, "explanation_source").values()) == {"delphi: layers.5"}
    assert acts.features["detection_score"][3] == pytest.approx(score, abs=1e-15)
    assert np.isnan(acts.features["detection_score"][7])
    assert acts.features.search("green").tolist() == [3]
    delphi_folder(tmp_path / "results", {1: "x"}, "layers.6")
    with raises(InvalidInputError, "several-sources", "layers.5", "layers.6", "source="):
        acts.import_explanations(tmp_path / "results")
    with raises(NotFoundError, "unknown-source", "layers.7", "layers.6"):
        acts.import_explanations(tmp_path / "results", source="layers.7")
    acts.import_explanations(tmp_path / "results", source="layers.6")
    assert acts.features["explanation"][1] == "x"
    (tmp_path / "empty").mkdir()
    with raises(NotFoundError, "no-explanations", "empty"):
        acts.import_explanations(tmp_path / "empty")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "batch-0.jsonl.gz"])
def test_neuronpedia_comes_in(acts, tmp_path, name):
    rows = [row_of(3, "green"), row_of(7, " blue "), row_of(3, "lime", by="gemini")]
    path = neuronpedia(tmp_path / name, rows)
    with raises(InvalidInputError, "duplicate-name", "'green'", "'lime'", "source="):
        acts.import_explanations(path)
    assert acts.features.names() == []
    acts.import_explanations(path, source="gpt-4o")
    assert known(acts, "explanation") == {3: "green", 7: "blue"}
    assert acts.features["explanation_source"][3] == "neuronpedia: gpt-4o"
    with raises(StoreConflictError, "value-exists", "feature 3", "'green'", "'lime'"):
        acts.import_explanations(path, source="gemini")
    acts.import_explanations(path, source="gemini", overwrite=True)
    assert known(acts, "explanation") == {3: "lime", 7: "blue"}
    for i, rows in enumerate(([row_of(1, None), row_of(2, "sea")], [row_of(4, "sky")])):  # as they are downloaded
        neuronpedia(tmp_path / f"batch-{i}.jsonl.gz", rows)
    acts.import_explanations(tmp_path)
    assert known(acts, "explanation") == {2: "sea", 3: "lime", 4: "sky", 7: "blue"}


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_tables_go_out_and_come_back(images, acts, tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    acts.features.update({"name": {3: 'green, or "lime"', 5: "true"}, "score": {3: 0.1, 9: -2.5}, "rank": {5: 7}})
    path = tmp_path / f"known.{kind}"
    found = ask_json("export-explanations", "Toy", path, store=images)
    assert found == {"set": "Toy/patch/x", "path": str(path), "n_features": 3}
    assert set(paths_in(found)) == set(keys.EXPORT_EXPLANATIONS)
    before = acts.features.to_pandas(acts.features.names())
    for name in acts.features.names():
        acts.features.remove(name)
    ask("import-explanations", "Toy", path, store=images)
    after = saestore.open(images.path)["Toy"].features.to_pandas(list(before))
    pd.testing.assert_frame_equal(after, before)
    ask("annotate", "--from", path, store=images)  # the same again is no conflict
    with raises(StoreConflictError, "file-exists", path.name):
        saestore.open(images.path)["Toy"].export_explanations(path)


@pytest.mark.parametrize("kind", ["delphi", "neuronpedia"])
def test_explanations_go_to_other_programs_and_come_back(acts, tmp_path, kind):
    texts = {3: "green", 5: "naïve\n日本", 7: "7"}
    acts.features.set("explanation", texts)
    path = tmp_path / ("out" if kind == "delphi" else "out.json")
    acts.features.set("explanation_source", {3: "annotate"})
    assert acts.export_explanations(path, kind) == 3
    acts.import_explanations(path)  # the same again is no conflict, and keeps its source
    assert known(acts, "explanation_source") == {3: "annotate"}
    (tmp_path / "new.csv").write_text("feature,explanation\n3,red\n")
    acts.import_explanations(tmp_path / "new.csv", overwrite=True)  # a new one has not the old one's source
    assert known(acts, "explanation_source") == {}
    acts.features.remove("explanation")
    acts.import_explanations(path)
    assert known(acts, "explanation") == texts
    assert acts.export_explanations(path, kind, features="explanation contains 'green'", overwrite=True) == 1
    acts.features.remove("explanation")
    acts.import_explanations(path, overwrite=True)
    assert known(acts, "explanation") == {3: "green"}


def test_columns_of_items_come_from_a_table(acts, tmp_path):
    frame = pd.DataFrame({"key": cli_stores.IMAGES[::-1], "year": range(6), "place": ["a", None, "NA", "d", "", "f"]})
    frame.to_csv(tmp_path / "items.csv", index=False)
    assert acts.import_explanations(tmp_path / "items.csv") == ["year", "place"]
    assert acts.items["year"].tolist() == [5, 4, 3, 2, 1, 0]
    assert acts.items["place"].tolist() == ["f", None, "d", "NA", None, "a"]


def test_a_csv_file_gives_back_what_was_written(images, acts, tmp_path):
    acts.features.update({
        "name": {1: "1884", 2: "true", 3: "a\r\nb, \"c\"", 4: "x\ry", 5: " lead "}, "code": {1: "007", 2: "1"},
        "share": np.linspace(0, 1, 12, dtype=np.float32), "n": {3: 5}, "ok": {1: True, 4: False},
    })  # fmt: skip
    before = acts.features.to_pandas(acts.features.names())
    acts.export_explanations(tmp_path / "a.csv")
    acts.import_explanations(tmp_path / "a.csv")  # the same again is no conflict
    for name in acts.features.names():
        acts.features.remove(name)
    acts.features.set("code", {0: "text"})  # a column of text takes texts
    acts.features.annotate({"code": {0: None}})
    acts.import_explanations(tmp_path / "a.csv")
    after = acts.features.to_pandas(list(before))
    pd.testing.assert_frame_equal(after, before.astype({"share": float}))


@pytest.mark.parametrize(("name", "text", "code"), [
    ("a.txt", "x", "unknown-format"), ("a.json", "{", "unreadable-file"), ("a.json", "[1]", "unreadable-file"),
    ("a.csv", "x,name\n1,a\n", "unknown-column"), ("a.csv", "feature,name\n1,a\n1,b\n", "duplicate-name"),
    ("a.csv", "feature,name\n-1,a\n", "not-an-index"), ("a.csv", "feature,name\nb,a\n", "not-an-index"),
    ("a.csv", "feature,max\n1,2\n", "reserved-name"), ("a.parquet", "x", "damaged-file"),
    ("a.csv", "feature,name,name\n1,a,b\n", "duplicate-name"), ("a.csv", "feature,name\n1,a,b\n", "unreadable-file"),
    ("a.csv", "feature,name\n,a\n", "not-an-index"), ("a.csv", "feature,name\ninf,a\n", "not-an-index"),
    ("a.json", '{"3": "a", "3": "b"}', "duplicate-name"), ("a.json", '{"sae": 5, "features": []}', "unreadable-file"),
    ("a.json", '[{"feature": true, "name": "a"}]', "not-an-index"), ("a.json", '[{"key": null}]', "not-an-index"),
    ("a.json", '{"sae": {"d_sae": "x"}, "features": {"3": "a"}}', "other-sae"),
    ("a.json", "[" * 9**5, "unreadable-file"),
    ("a.json", '[{"index": 3, "description": "a"}, {"description": "b"}]', "not-an-index"),
])  # fmt: skip
def test_a_bad_file_changes_nothing(acts, tmp_path, name, text, code):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_text(text)
    with raises(InvalidInputError, code):
        acts.import_explanations(tmp_path / name)
    assert acts.features.names() == []


def test_what_is_read_only_is_left_alone_and_scored_by_given_masks(images, acts, tmp_path):
    (tmp_path / "a.json").write_text('{"3": "green"}')
    reader = saestore.open(images.path)["Toy"]
    with pytest.raises(StoreWriteError):
        reader.import_explanations(tmp_path / "a.json")
    with pytest.raises(StoreWriteError):
        reader.features.annotate({"name": {3: "x"}})
    mask = np.array([True, False, True, False, False, True])
    given = reader.concepts.scores(concepts={"question": mask})
    assert reader.concepts.names() == ["color::red"]
    with raises(InvalidInputError, "wrong-length", "'question'"):
        reader.concepts.scores("sample", concepts={"question": mask})
    acts.concepts.add({"question": mask})
    stored = acts.concepts.scores(concepts=["question"])
    assert given.identical(stored)
    part = np.ma.MaskedArray(mask, [True, False, False, False, False, False])
    assert reader.concepts.scores(concepts={"q": part})["n_positive"].values.tolist() == [2]


def test_there_is_nothing_to_write(acts, tmp_path):
    with raises(NotFoundError, "no-explanations", acts.path):
        acts.export_explanations(tmp_path / "a.csv")
    with raises(InvalidInputError, "unknown-format", "txt", "delphi"):
        acts.export_explanations(tmp_path / "a.txt")
    assert not list(tmp_path.glob("a.txt*"))
