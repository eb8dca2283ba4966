"""`saestore detect`: what it prints is what the query API answers."""

import csv
import io
import json

import cli_stores
import numpy as np
import pytest
from cli_stores import ask, ask_json, invoke, refused

import saestore
from saestore.cli import keys
from saestore.vocabulary import METRICS

pytestmark = pytest.mark.once

FEW = ["--n-resamples", 20, "--min-active", 1, "--max-fraction", 1]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    stored = cli_stores.image_store(tmp_path_factory.mktemp("cli") / "images.zarr")
    acts = saestore.open(stored.path, mode="a")["Toy"]
    rng = np.random.default_rng(1)
    acts.concepts.add({"big": [0, 1, 1, 1, 0, 0], "never": [0] * 6})
    acts.concepts.add({"big": np.repeat([0, 1, 1, 1, 0, 0], 9).astype(bool) & (rng.random(54) < 0.5)}, "sample")
    return stored


@pytest.fixture(autouse=True)
def no_store_of_ones_own(monkeypatch, tmp_path):
    monkeypatch.delenv("SAESTORE_PATH", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def found(images):
    return saestore.open(images.path)["Toy"].detect(
        options=saestore.DetectionOptions(n_resamples=20, min_active=1, max_fraction=1.0, max_features=2)
    )


def paths_in(document, prefix=""):
    """Keys of a document as `keys` writes them, only those of its own parts."""
    for key, value in document.items():
        yield f"{prefix}{key}"
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield from paths_in(value[0], f"{prefix}{key}[].")


def test_json_is_what_the_api_answers(images, found):
    document = ask_json("detect", "Toy", *FEW, "--max-features", 2, store=images)
    assert document == {"set": "Toy/patch/x", **json.loads(found.to_json())}
    assert set(paths_in(document)) == set(keys.DETECT)


def test_csv_and_markdown(images, found):
    assert ask("detect", "Toy", *FEW, "--max-features", 2, "--markdown", store=images) == found.to_markdown()
    rows = list(csv.DictReader(io.StringIO(ask("detect", "Toy", *FEW, "--max-features", 2, "--csv", store=images))))
    assert [row["set"] for row in rows] == ["Toy/patch/x"] * len(found.rows)
    for text, row in zip(rows, found.rows, strict=True):
        assert {name: text[name] for name in METRICS} == {
            name: "" if np.isnan(row[name]) else str(row[name]) for name in METRICS
        }


def test_table_has_a_line_for_each_result_and_tells_what_is_missing(images, found):
    run = invoke("detect", "Toy", *FEW, "--max-features", 2, store=images)
    assert run.exit_code == 0
    for row in found.rows:
        assert row["method"] in run.stdout
    assert "which samples" in run.stdout.lower()
    assert "concept 'never': no item of 'cal' nor of 'test' has it" in run.stderr
    assert "features are considered" in run.stderr


def test_all_sets_and_their_reports(images, tmp_path):
    store = saestore.open(tmp_path / "two.zarr", mode="a")
    first = saestore.open(images.path)["Toy"]
    items = {"image_path": cli_stores.IMAGES, "split": cli_stores.SPLITS, "a": cli_stores.RED}
    for name in ("A/patch/x", "B/patch/x"):
        store.write(name, first.sparse(), items=items)
    store.write("C/patch/x", first.sparse())
    run = invoke("detect", "--all", *FEW, "--json", "--report", tmp_path / "r", "--store", tmp_path / "two.zarr")
    assert run.exit_code == 0, run.output
    assert [each["set"] for each in json.loads(run.stdout)["sets"]] == ["A/patch/x", "B/patch/x"]
    assert "C/patch/x is skipped: it has no concepts" in run.stderr
    for name in ("A", "B"):
        assert (tmp_path / "r" / name / "patch" / "x" / "detection.md").exists()


def test_wrong_usage(images):
    assert invoke("detect", "Toy", "--csv", "--json", store=images).exit_code == 2
    assert invoke("detect", "Toy", "--all", store=images).exit_code == 2
    assert "top-3" in refused("detect", "Toy", "--score", "median", store=images)
