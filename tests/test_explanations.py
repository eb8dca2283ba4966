"""Explanations from and for other programs: Delphi, Neuronpedia, tables; explanations that do not fit are refused."""

import json

import numpy as np
import pandas as pd
import pytest
from raising import raises
from sklearn.metrics import balanced_accuracy_score
from strategies import make_case, written

from saestore.errors import InvalidInputError, NotFoundError, OutOfRangeError, StoreConflictError

pytestmark = pytest.mark.once

CASE = make_case(5, 40, 12, density=0.5, ragged=False)


@pytest.fixture
def acts():
    return written(CASE)


def delphi(folder, texts, hookpoint="layers.3"):
    (folder / "explanations").mkdir(parents=True, exist_ok=True)
    for feature, text in texts.items():
        (folder / "explanations" / f"{hookpoint}_latent{feature}.txt").write_text(json.dumps(text))
    return folder


def test_delphis_folder_comes_in_with_its_scores_and_goes_back(acts, tmp_path):
    folder = delphi(tmp_path / "run", {2: "green things", 7: 'a "sky"'})
    truth, prediction = [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 1, 0]
    examples = [{"activating": bool(t), "prediction": p} for t, p in zip(truth, prediction, strict=True)]
    (folder / "scores" / "fuzz").mkdir(parents=True)
    (folder / "scores" / "fuzz" / "layers.3_latent7.txt").write_text(
        json.dumps([*examples, {"activating": True, "prediction": None}])
    )
    acts.features.set("name", {2: "green"})
    columns = acts.import_explanations(folder)
    assert sorted(columns) == ["explanation", "explanation_date", "explanation_source", "fuzz_score"]
    frame = acts.features.to_pandas(["name", *columns]).loc[[2, 7]]
    assert frame["explanation"].tolist() == ["green things", 'a "sky"']
    assert frame["name"][2] == "green"
    assert frame["name"].isna()[7]
    assert set(frame["explanation_source"]) == {"delphi: layers.3"}
    assert frame["fuzz_score"][7] == pytest.approx(balanced_accuracy_score(truth, prediction))
    assert acts.features.search("sky").tolist() == [7]
    assert acts.export_explanations(tmp_path / "back") == 2
    other = written(CASE)
    other.import_explanations(tmp_path / "back")
    assert np.array_equal(other.features["explanation"], acts.features["explanation"])
    delphi(folder, {1: "x"}, "layers.4")
    with raises(InvalidInputError, "several-sources", "layers.3", "layers.4"):
        acts.import_explanations(folder)
    with raises(NotFoundError, "unknown-source", "'layers.5'"):
        acts.import_explanations(folder, source="layers.5")


def test_neuronpedias_export_comes_in_and_goes_back(acts, tmp_path):
    row = {"modelId": "m", "layer": "3-res", "index": "4", "description": " sky ", "explanationModelName": "gpt"}
    (tmp_path / "np.json").write_text(json.dumps([row, {**row, "index": 5, "description": "sea"}]))
    acts.import_explanations(tmp_path / "np.json")
    assert acts.features.column("explanation", [4, 5]).tolist() == ["sky", "sea"]
    assert acts.features.column("explanation_source", [4]).tolist() == ["neuronpedia: gpt"]
    assert acts.export_explanations(tmp_path / "out.json", "neuronpedia") == 2
    back = json.loads((tmp_path / "out.json").read_text())
    assert [(r["index"], r["description"], r["explanationModelName"]) for r in back] == [
        ("4", "sky", "gpt"), ("5", "sea", "gpt"),
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", ["json", "csv", "parquet"])
def test_tables_come_in_and_go_out(acts, tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    acts.features.annotate({"name": {2: "NA", 7: "sky"}, "quality": {7: 0.5}})
    assert acts.export_explanations(tmp_path / f"t.{suffix}", features="feature > 1") == 2
    other = written(CASE)
    other.import_explanations(tmp_path / f"t.{suffix}")
    pd.testing.assert_frame_equal(
        other.features.to_pandas(["name", "quality"]), acts.features.to_pandas(["name", "quality"])
    )
    with raises(StoreConflictError, "file-exists", f"t.{suffix}"):
        acts.export_explanations(tmp_path / f"t.{suffix}")


def test_columns_of_items_by_key(acts, tmp_path):
    keys = acts.items["key"].tolist()
    pd.DataFrame({"key": keys[3:5], "year": [1999, 2001]}).to_csv(tmp_path / "items.csv", index=False)
    acts.import_explanations(tmp_path / "items.csv")
    assert acts.items.where("year > 2000").tolist() == [4]


def other_sae(**sae):
    return {"sae": sae, "features": [{"feature": 1, "name": "x"}]}


BAD = {
    "another width": (other_sae(d_sae=99), InvalidInputError, "other-sae", "99"),
    "a feature beyond the last": ([{"feature": 12, "name": "x"}], InvalidInputError, "other-sae", "feature 12"),
    "a feature twice": ([{"feature": 1, "name": "x"}] * 2, InvalidInputError, "duplicate-name", "1 twice"),
    "no rows named": ([{"nme": "x"}], InvalidInputError, "unknown-column", "nme"),
    "an unknown key": ([{"key": "imag", "name": "x"}], NotFoundError, "unknown-key", "'imag'"),
    "half a feature": ([{"feature": 1.5, "name": "x"}], InvalidInputError, "not-an-index", "1.5"),
    "a statistic": ([{"feature": 1, "max": 3}], InvalidInputError, "reserved-name", "'max'"),
    "another value": ([{"feature": 2, "name": "red"}], StoreConflictError, "value-exists", "'green'"),
}


@pytest.mark.parametrize("which", BAD)
def test_what_does_not_fit_is_refused_and_nothing_is_written(acts, tmp_path, which):
    content, kind, code, word = BAD[which]
    acts.features.set("name", {2: "green"})
    (tmp_path / "in.json").write_text(json.dumps(content))
    before = acts.attributes
    with raises(kind, code, word):
        acts.import_explanations(tmp_path / "in.json")
    acts.reopen()
    assert acts.attributes == before


def test_annotations_keep_other_values_and_name_conflicts(acts):
    acts.features.annotate({"name": {1: "green"}, "note": {2: "dull"}})
    acts.features.annotate({"name": {1: "green", 3: "sky"}}, overwrite=False)
    with raises(StoreConflictError, "value-exists", "feature 1", "'green'", "'red'"):
        acts.features.annotate({"name": {1: "red", 4: "sea"}}, overwrite=False)
    with raises(OutOfRangeError, "out-of-range", "feature 12"):
        acts.features.annotate({"name": {12: "x"}})
    acts.features.annotate({"name": {1: None}})
    assert acts.features.where("name is known").tolist() == [3]
    assert acts.features.where("note is known").tolist() == [2]


@pytest.mark.parametrize("text", ["", "a\0b"])
def test_texts_that_a_csv_file_would_lose_are_refused(text, acts, tmp_path):
    acts.features.set("name", {1: "green", 2: text})
    with raises(InvalidInputError, "not-in-format", "'name'", ".parquet"):
        acts.export_explanations(tmp_path / "x.csv")
    assert not list(tmp_path.iterdir())
    acts.export_explanations(tmp_path / "x.parquet")
    assert pd.read_parquet(tmp_path / "x.parquet")["name"].tolist() == ["green", text]
