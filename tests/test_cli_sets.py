"""Naming a store and a set, wrong input, and the commands that look after a store."""

import json

import cli_stores
import pytest
from cli_stores import ask, ask_json, invoke, paths_in, refused
from click.testing import CliRunner

import saestore
from saestore import store
from saestore.cli import keys, main
from saestore.writing import SetWriter

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return cli_stores.image_store(tmp_path_factory.mktemp("cli") / "images.zarr")


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    return cli_stores.several_sets(tmp_path_factory.mktemp("cli") / "several.zarr")


@pytest.fixture(autouse=True)
def no_store_of_ones_own(monkeypatch, tmp_path):
    monkeypatch.delenv("SAESTORE_PATH", raising=False)
    monkeypatch.chdir(tmp_path)


# verify and compact


@pytest.fixture
def segmented(tmp_path):
    """A set in three segments, all its samples there, its build not finished."""
    dense = cli_stores.random_activations(90, 5, seed=5)
    cli_stores.write_segments(tmp_path / "s.zarr", "Toy/cls/x", dense, [30, 30, 30], finish=False)
    return cli_stores.Stored(tmp_path / "s.zarr", "Toy/cls/x", dense)


def test_verify_of_a_sound_store_says_so_in_one_line(several):
    out = ask("verify", store=several)
    assert len(out.splitlines()) == 1
    assert "Nothing is wrong" in out
    assert ask_json("verify", store=several) == {
        "ok": True,
        "checked": ["Other/cls/y", "Toy/cls/x", "Toy/patch/x"],
        "problems": [],
        "mended": [],
    }
    assert ask_json("verify", "Other", store=several)["checked"] == ["Other/cls/y"]


def test_verify_names_what_is_damaged_and_exits_1(segmented):
    name = "Toy/cls/x/segments/30-60/by_feature/data"
    chunk = segmented.path / name / "c" / "0"
    damaged = bytearray(chunk.read_bytes())
    damaged[3] ^= 1
    chunk.write_bytes(damaged)
    result = invoke("verify", store=segmented)
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if name in line]
    assert line.startswith("Toy/cls/x/segments/30-60/")
    assert "segments/0-30" not in result.stdout
    as_json = invoke("verify", "--json", store=segmented)
    found = json.loads(as_json.stdout)
    assert as_json.exit_code == 1
    assert not found["ok"]
    assert [f"{problem['node']}: {problem['what']}" for problem in found["problems"]] == result.stdout.splitlines()
    assert set(paths_in(found)) == set(keys.VERIFY)


def test_compact_leaves_one_segment_and_the_same_answers(segmented):
    before = ask_json("top-samples", "--feature", 1, store=segmented)
    out = ask("compact", "--memory", "64MiB", store=segmented)
    assert out == "Toy/cls/x: 3 segments before, 1 now\n"
    assert saestore.open(segmented.path)["Toy"].info()["segments"] == ["0-90"]
    assert ask_json("top-samples", "--feature", 1, store=segmented) == before
    assert ask("compact", "Toy", store=segmented) == "Toy/cls/x: 1 segment before, 1 now\n"


def test_compact_does_not_create_a_store(tmp_path):
    assert "no saestore store" in refused("compact", "--store", tmp_path / "none.zarr")
    assert not (tmp_path / "none.zarr").exists()


@pytest.mark.parametrize("size", ["much", "-1GiB", "1 XB", "12kB"])
def test_memory_that_is_no_size_is_wrong_usage(several, size):
    assert "--memory" in refused("compact", "--memory", size, store=several, status=2)


# Which store, which set


def test_the_store_is_the_option_else_the_variable_else_the_folder_here(images, several, monkeypatch, tmp_path):
    assert "There is no saestore store at activations.zarr" in refused("info")
    (tmp_path / "activations.zarr").symlink_to(several.path)
    assert "Other/cls/y" in invoke("info").stdout
    monkeypatch.setenv("SAESTORE_PATH", str(images.path))
    assert "Other/cls/y" not in invoke("info").stdout
    assert "Other/cls/y" in ask("info", store=several)


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (["--dataset", "Other"], "Other/cls/y"),
        (["--dataset", "Toy", "--sample-type", "cls"], "Toy/cls/x"),
        (["--sample-type", "patch"], "Toy/patch/x"),
        (["--sae", "y"], "Other/cls/y"),
        (["Toy/cls"], "Toy/cls/x"),
        (["Toy/cls/x"], "Toy/cls/x"),
    ],
)
@pytest.mark.parametrize(
    "command", [["top-samples", "--feature", "1"], ["top-features", "--sample", "1"], ["stats"]], ids=lambda c: c[0]
)
def test_a_set_is_named_by_a_part_of_its_path_or_by_options(several, command, words, path):
    assert ask_json(*command, *words, store=several)["set"] == path


@pytest.mark.parametrize(
    ("words", "named", "unnamed"),
    [
        ([], ["Toy/patch/x", "Toy/cls/x", "Other/cls/y", "--dataset", "--sample-type", "--sae"], []),
        (["--dataset", "Toy"], ["--dataset Toy", "Toy/patch/x", "Toy/cls/x", "--sample-type"], ["Other"]),
        (["--sample-type", "cls", "--sae", "z"], ["--sae z", "Toy/patch/x"], []),
        (["--dataset", "Tpy"], ["Did you mean 'Toy'?", "Other/cls/y"], []),
        (["Toy"], ["Toy/patch/x", "Toy/cls/x"], ["Other"]),
        (["Nope"], ["Nope", "Toy/patch/x"], []),
    ],
)
def test_what_fits_no_set_or_several_is_refused_naming_them(several, words, named, unnamed):
    said = refused("top-samples", "--feature", 1, *words, store=several)
    assert all(text in said for text in named), said
    assert not any(text in said for text in unnamed), said


def test_a_set_is_not_named_twice(several):
    assert "--dataset" in refused("stats", "Toy/cls", "--dataset", "Toy", store=several, status=2)


def test_an_empty_store_says_what_to_do(tmp_path):
    saestore.open(tmp_path / "empty.zarr", mode="a")
    assert "saestore build" in refused("stats", "--store", tmp_path / "empty.zarr")


# Wrong input


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["top-samples", "--feature", "99"], ["feature 99", "12"]),
        (["top-features", "--sample", "540"], ["sample 540", "54"]),
        (["stats", "--feature", "-13"], ["feature -13"]),
        (["stats", "--sort", "mode"], ["--sort mode", "n_active", "std"]),
    ],
)
def test_wrong_values_are_told_in_one_line(images, words, said):
    line = refused(*words, store=images)
    assert all(text in line for text in said), line


@pytest.mark.parametrize(
    "words",
    [
        ["top-samples"],
        ["top-samples", "--feature", "one"],
        ["top-samples", "--feature", "1", "-n", "0"],
        ["top-samples", "--feature", "1", "--level", "image"],
        ["top-samples", "--feature", "1", "--where", "split"],
        ["top-samples", "--feature", "1", "--where", "=test"],
        ["top-features"],
        ["stats", "--csv", "--json"],
        ["statistics"],
        ["info", "--nope"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(images, words):
    store = images if words[0] != "statistics" else None
    assert "Usage:" in refused(*words, store=store, status=2)


def test_a_place_that_is_no_store_is_told(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert "is a file" in refused("info", "--store", tmp_path / "notes.txt")
    assert "no saestore store" in refused("info", "--store", tmp_path)


# delete


def test_delete_removes_one_set_and_asks_on_a_terminal_only(tmp_path, monkeypatch):
    stored = cli_stores.several_sets(tmp_path / "several.zarr")
    assert "--yes" in refused("delete", "Other", store=stored, status=2)
    monkeypatch.setattr("saestore.cli.upkeep._asks", lambda: True)
    for answer, status in (("n\n", 1), ("y\n", 0)):
        assert list(saestore.open(stored.path)) == ["Other/cls/y", "Toy/cls/x", "Toy/patch/x"]
        result = CliRunner().invoke(main, ["delete", "Other", "--store", str(stored.path)], input=answer)
        assert result.exit_code == status, result.output
    assert list(saestore.open(stored.path)) == ["Toy/cls/x", "Toy/patch/x"]
    found = ask_json("delete", "Toy/cls", "--yes", store=stored)
    assert found == {"set": "Toy/cls/x"}
    assert set(paths_in(found)) == set(keys.DELETE)
    assert "Nowhere" in refused("delete", "Nowhere", "--yes", store=stored)
    assert not (tmp_path / "no.zarr").exists()
    refused("delete", "Toy", "--yes", "--store", tmp_path / "no.zarr")
    assert not (tmp_path / "no.zarr").exists()


def test_what_is_left_of_a_set_is_deleted_as_verify_advises(tmp_path):
    stored = cli_stores.several_sets(tmp_path / "several.zarr")
    (stored.path / "Other/cls/y/zarr.json").unlink()
    assert "`saestore delete`" in invoke("verify", store=stored).output
    ask("delete", "Other/cls/y", "--yes", store=stored)
    assert saestore.open(stored.path).verify().ok


def test_a_set_that_is_being_written_is_not_deleted(tmp_path):
    stored = cli_stores.several_sets(tmp_path / "several.zarr")
    with SetWriter(saestore.open(stored.path, "a").root, "Other/cls/y"):
        assert "Other/cls/y" in refused("delete", "Other", "--yes", store=stored)
    assert len(saestore.open(stored.path)) == 3


def test_a_command_that_names_no_set_looks_through_the_store_once(images, monkeypatch):
    calls = []
    find = store.find_sets
    monkeypatch.setattr(store, "find_sets", lambda root: calls.append(root) or find(root))
    ask("top-samples", "--feature", 1, store=images)
    assert len(calls) == 1
