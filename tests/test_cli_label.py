"""`saestore label`, and `--where` with expressions."""

import csv
import json
from types import SimpleNamespace

import cli_stores
import numpy as np
import pytest
import scipy.sparse as sp
from cli_stores import ask, ask_json, invoke, paths_in, refused

import saestore
from saestore.cli import main

pytestmark = pytest.mark.once

N = cli_stores.N_ITEMS * cli_stores.PATCHES
BIG = [0, 1, 1, 0, 1, 0]


@pytest.fixture
def images(tmp_path):
    return cli_stores.image_store(tmp_path / "a.zarr")


@pytest.fixture
def table(tmp_path):
    """A metadata.csv with the items in another order."""
    with (tmp_path / "m.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["image_path", "big"], *zip(cli_stores.IMAGES[::-1], BIG[::-1], strict=True)])
    return tmp_path / "m.csv"


@pytest.fixture
def patches(images, tmp_path):
    """The set with a concept of patches, and which have it."""
    mask = np.random.default_rng(0).random(N) < 0.4
    np.save(tmp_path / "object.npy", mask)
    ask("label", "--array", tmp_path / "object.npy", "--concept", "object", "--level", "sample", store=images)
    return mask


def test_concepts_are_listed(images):
    for words in (["label"], ["label", "--list"], ["label", "Toy/patch"]):
        assert ask_json(*words, store=images) == {
            "set": "Toy/patch/x",
            "added": [],
            "removed": [],
            "concepts": [{"name": "color::red", "level": "item", "n_positive": 3, "n": 6}],
        }
    lines = ask("label", store=images).splitlines()
    assert lines[0] == "Toy/patch/x: 1 concept"
    assert lines[-1].split() == ["color::red", "item", "3", "6", "50.0%"]


def test_the_keys_of_json_are_the_documented_ones(images):
    assert set(paths_in(ask_json("label", store=images))) == set(main.commands["label"].keys)


def test_info_names_the_concepts_of_both_levels(images, patches):
    lines = [line.split() for line in ask("info", "Toy", store=images).splitlines()]
    assert ["concepts", "color::red"] in lines
    assert ["concepts", "of", "samples", "object"] in lines


def test_items_are_labelled_from_a_table_in_any_order(images, table):
    found = ask_json("label", "--items", table, store=images)
    assert (found["added"], [row["name"] for row in found["concepts"]]) == (["big"], ["color::red", "big"])
    assert saestore.open(images.path)["Toy"].concepts.mask("big").tolist() == [bool(b) for b in BIG]
    assert "has big already" in refused("label", "--items", table, store=images)
    assert ask_json("label", "--items", table, "--overwrite", store=images)["added"] == ["big"]


def test_patches_are_labelled_from_masks(images, tmp_path):
    image = pytest.importorskip("PIL.Image")
    covered = np.random.default_rng(0).random((cli_stores.N_ITEMS, 3, 3)) < 0.5
    for key, grid in zip(cli_stores.IMAGES, covered, strict=True):
        name = key.split("/")[-1].replace(".jpg", ".png")
        image.fromarray(grid.repeat(4, 0).repeat(6, 1).astype(np.uint8) * 255).save(tmp_path / name)
    (tmp_path / "masks").mkdir()
    for path in tmp_path.glob("*.png"):
        path.rename(tmp_path / "masks" / path.name)
    words = ["label", "--masks", tmp_path / "masks"]
    assert "name what they show with --concept" in refused(*words, store=images)
    found = ask_json(*words, "--concept", "object", "--within-concepts", "--threshold", 0.5, store=images)
    assert found["added"] == ["object", "color::red"]
    acts = saestore.open(images.path)["Toy"]
    assert np.array_equal(acts.concepts.mask("object"), covered.ravel())
    assert np.array_equal(
        acts.concepts.mask("color::red", "sample"),
        (covered.reshape(6, 9).T & (np.array(cli_stores.RED) == 1)).T.ravel(),
    )
    assert found["concepts"][-1] == {
        "name": "color::red",
        "level": "sample",
        "n_positive": int(acts.concepts.mask("color::red", "sample").sum()),
        "n": N,
    }  # fmt: skip
    removed = ask_json("label", "--remove", "color::red", "--level", "sample", store=images)
    assert removed["removed"] == ["color::red"]
    assert [(row["name"], row["level"]) for row in removed["concepts"]] == [
        ("color::red", "item"),
        ("object", "sample"),
    ]
    (tmp_path / "masks" / "scene_000000.png").unlink()
    line = refused(*words, "--concept", "new", store=images)
    assert f"has no mask of 1 of 6 items: '{cli_stores.IMAGES[0]}'" in line
    assert ask_json(*words, "--concept", "new", "--missing", "negative", store=images)["added"] == ["new"]


def test_tokens_are_labelled_from_spans(tmp_path):
    texts = cli_stores.text_store(tmp_path / "t.zarr")
    spans = tmp_path / "spans.jsonl"
    spans.write_text(json.dumps({"key": "0", "start": 3, "stop": 8, "concept": "irony"}), encoding="utf-8")
    assert ask_json("label", "--spans", spans, store=texts)["concepts"] == [
        {"name": "irony", "level": "sample", "n_positive": 1, "n": len(texts.dense)}
    ]
    assert saestore.open(texts.path)["Talk"].samples.where("irony").tolist() == [1]
    spans.write_text(json.dumps({"key": "77", "start": 3, "stop": 8, "concept": "irony"}), encoding="utf-8")
    assert "'77'" in refused("label", "--spans", spans, store=texts)


def test_arrays_label_items_or_samples(images, tmp_path):
    grid = np.random.default_rng(0).random((N, 2)) < 0.5
    sp.save_npz(tmp_path / "m.npz", sp.csc_array(grid))
    words = ["label", "--array", tmp_path / "m.npz", "--concept", "a", "--concept", "b"]
    assert "pass --level sample" in refused(*words, store=images)
    assert ask_json(*words, "--level", "sample", store=images)["added"] == ["a", "b"]
    acts = saestore.open(images.path)["Toy"]
    assert np.array_equal(acts.concept_matrix("sample").toarray(), grid)
    np.savez(tmp_path / "n.npz", big=np.array(BIG))
    assert ask_json("label", "--array", tmp_path / "n.npz", store=images)["added"] == ["big"]


@pytest.mark.parametrize(
    "words",
    [
        ["--items", "m.csv", "--masks", "masks"],
        ["--items", "m.csv", "--concept", "x"],
        ["--list", "--overwrite"],
        ["--masks", "m", "--level", "item"],
        ["--masks", "m", "--concept", "x", "--concept", "y"],
        ["--array", "m.npy", "--threshold", "0.5"],
        ["--fit", "stretch"],
        ["--level", "feature"],
    ],
    ids=" ".join,
)
def test_options_that_do_not_go_together_are_wrong_usage(images, words):
    assert "Usage:" in refused("label", *words, store=images, status=2)


def test_what_does_not_exist_is_told(images, tmp_path):
    assert "no concept 'blue'; there are color::red" in refused("label", "--remove", "blue", store=images)
    assert "no file" in refused("label", "--items", tmp_path / "no.csv", store=images)
    refused("label", "--remove", "x", "--store", tmp_path / "new.zarr")
    assert not (tmp_path / "new.zarr").exists()


# --where with expressions


@pytest.mark.parametrize(
    ("given", "python"),
    [
        (['split == "test" and color::red'], lambda v: (v.split == "test") & v.red),
        (["not object"], lambda v: ~v.object),
        (["object=true"], lambda v: v.object),
        (["sample.object=no"], lambda v: ~v.object),
        (["object or color::red", "split=test", "split=cal"], lambda v: (v.object | v.red) & (v.split != "train")),
        (["split != 'train'", "object"], lambda v: (v.split != "train") & v.object),
        (["position=0"], lambda v: np.arange(len(v.red)) % 9 == 0),
        (["split = test"], lambda v: v.split == "test"),
    ],
)
def test_conditions_are_what_numpy_makes_of_them(images, patches, given, python):
    values = [np.array(v).repeat(cli_stores.PATCHES) for v in (cli_stores.SPLITS, np.array(cli_stores.RED, bool))]
    kept = python(SimpleNamespace(split=values[0], red=values[1], object=patches))
    words = [word for condition in given for word in ("--where", condition)]
    found = ask_json("stats", "--feature", 3, *words, store=images)
    assert found["n_samples"] == kept.sum()
    assert found["rows"][0]["n_active"] == np.count_nonzero(images.dense[kept, 3])
    assert found["where"] == given
    top = ask_json("top-samples", "--feature", 3, "-n", 100, *words, store=images)["rows"]
    assert sorted(row["sample"] for row in top) == np.flatnonzero(kept & (images.dense[:, 3] != 0)).tolist()


@pytest.mark.parametrize(
    ("condition", "said", "marked"),
    [
        ("split == test", '"test"', "^^^^"),
        ("split == 'test' and", "ends", "^"),
        ("colour::red and split", "Did you mean 'color::red'", "^^^^^^^^^^^"),
        ("(split = test)", "write == to compare", "^"),
        ("colour=red", "'colour'", "^^^^^^"),
        ("color::red=maybe", "true or false", "^^^^^"),
        ("width=wide", "an integer", "^^^^"),
        ("split=test and color::red", "==", "^^^^^^^^^^^^^^^^^^^"),
    ],
)
def test_a_wrong_expression_is_marked(images, condition, said, marked):
    error = refused("stats", "--where", condition, store=images, status=2)
    assert said in error
    assert error.splitlines()[-2].strip() == condition
    assert error.splitlines()[-1].strip() == marked


def test_a_silent_feature_is_told_with_its_condition(images):
    result = invoke("top-samples", "--feature", 3, "--where", "item == -1", store=images)
    assert result.exit_code == 0
    assert "no sample that fulfils --where 'item == -1' has feature 3 active" in result.stderr
    result = invoke("top-features", "--item", 1, "--where", "item == -1", store=images)
    assert "no feature is active on a sample that fulfils --where 'item == -1'" in result.stderr
    assert "activation" not in result.stdout
