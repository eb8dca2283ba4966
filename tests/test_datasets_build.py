"""The seven known data sets, each from a folder as the research pipeline leaves it."""

import json

import numpy as np
import pytest
from cli_stores import invoke, refused

import saestore

torch = pytest.importorskip("torch", reason="building needs torch")
pytest.importorskip("safetensors.torch")

import dataset_folders  # noqa: E402 (which needs torch)
from build_helpers import assert_holds, clip_scope, clip_scope_dense, in_batches  # noqa: E402
from dataset_folders import LAYOUTS, N_ITEMS, TEXT, lay_out  # noqa: E402

pytestmark = pytest.mark.once

SEVEN = list(LAYOUTS)


def answer(*command):
    result = invoke(*command)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    return clip_scope(tmp_path_factory.mktemp("sae") / "tiny.pt")


@pytest.fixture(scope="module")
def everything(tmp_path_factory, sae):
    """All seven in one folder of data and one scratch folder, built with one command."""
    root = tmp_path_factory.mktemp("all")
    laid = {name: lay_out(root / "data", root / "scratch", name, sae) for name in SEVEN}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAESTORE_SCRATCH", str(root / "scratch"))
        patch.chdir(root)
        result = invoke("build", "--data", root / "data", "--sae", sae, "--store", root / "s.zarr", "--json")
        assert result.exit_code == 0, result.stderr
        assert "skipping" not in result.stderr
        listed = json.loads(answer("datasets", "--data", root / "data", "--store", root / "s.zarr", "--json"))
    return root, laid, json.loads(result.stdout), listed


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAESTORE_PATH", raising=False)
    monkeypatch.delenv("SAESTORE_SCRATCH", raising=False)


@pytest.fixture
def one(tmp_path, sae):
    """Lays out one data set, all of it in one folder; returns a function that builds it there."""

    def prepare(name):
        return lay_out(tmp_path / "d", tmp_path / "d", name, sae), tmp_path / "d" / "GT_Samples" / name

    return prepare


def words(name, sae, *more):
    return ["build", name, "--data", "d", "--sae", sae, *more]


@pytest.mark.parametrize("name", SEVEN)
def test_each_of_the_seven_is_built_from_its_folder(everything, sae, name):
    root, laid, _, _ = everything
    laid, store = laid[name], saestore.open(root / "s.zarr")
    for sample_type, rows in laid.rows.items():
        acts = store[f"{name}/{sample_type}/tiny"]
        expected = in_batches(lambda part: clip_scope_dense(sae, part), rows, acts.attributes.segment_rows)
        assert_holds(acts, expected)
        assert list(acts.items.column("split")) == list(laid.layout.splits)
        assert acts.concepts.names("item") == list(laid.concepts)
        for concept, mask in laid.concepts.items():
            np.testing.assert_array_equal(acts.concepts.mask(concept, "item"), mask)
        if sample_type == "cls":
            assert (len(acts), acts.n_items, acts.concepts.names("sample")) == (N_ITEMS, N_ITEMS, [])
            continue
        np.testing.assert_array_equal(acts.item_index.pointers(), laid.ptr)
        assert acts.concepts.names("sample") == list(laid.samples)
        for concept, mask in laid.samples.items():
            np.testing.assert_array_equal(acts.concepts.mask(concept, "sample"), mask)


def test_all_that_is_found_is_built_by_one_command(everything):
    root, _, built, _ = everything
    expected = {
        f"{name}/{sample_type}/tiny"
        for name, layout in LAYOUTS.items()
        for sample_type in (("token", "cls") if layout.modality == "text" else ("patch", "cls"))
    }
    assert {found["path"] for found in built["sets"]} == expected
    assert set(saestore.open(root / "s.zarr")) == expected


def test_datasets_lists_what_was_found_and_what_is_stored(everything):
    root, _, _, listed = everything
    assert listed["searched"] == [str(root / "data"), str(root / "scratch")]
    assert [each["name"] for each in listed["datasets"]] == SEVEN
    for each in listed["datasets"]:
        layout = LAYOUTS[each["name"]]
        text = layout.modality == "text"
        assert each["modality"] == layout.modality
        assert each["sae"] == ("gemma-scope-9b-34-16k" if text else "clip-scope-22")
        assert each["items"] == str(root / "data" / "Data" / f"{layout.folder}{each['name']}" / "metadata.csv")
        assert each["ground_truth"] == str(root / "data" / "GT_Samples" / each["name"])
        assert (each["token_counts"] is not None) == text
        assert (each["patches"], each["own"]) == (None if text else 256, False)
        for found in each["samples"]:
            assert found["embeddings"].startswith(str(root / "scratch" / "Embeddings" / each["name"]))
            assert found["sets"] == [f"{each['name']}/{found['sample_type']}/tiny"]


def test_datasets_as_a_table_without_anything_there():
    said = answer("datasets", "--store", "none.zarr")
    assert "give --data, or set SAESTORE_SCRATCH" in said
    assert len(said.splitlines()) == 2 + len(SEVEN)
    assert "patch" not in said


def test_data_that_is_not_there_is_refused(sae):
    assert "no folder d;" in refused("build", "--data", "d", "--sae", sae)
    assert "no folder d;" in refused("datasets", "--data", "d")


# Token counts


def test_counts_of_a_text_that_was_cut_are_refused_by_name(one, sae):
    _, truth = one("Sarcasm")
    torch.save(dataset_folders.counts(cut=None)[0], truth / f"token_counts{TEXT}")
    line = refused_last(words("Sarcasm", sae, "--sample-type", "token"))
    for part in ("text 4", "600 tokens", "512", "exactly the rows", "--item-ptr"):
        assert part in line, line
    assert "Sarcasm" not in stored()


def test_what_is_wrong_with_one_does_not_stop_the_others(one, sae):
    _, truth = one("Sarcasm")
    one("CLEVR")
    torch.save(dataset_folders.counts(cut=None)[0], truth / f"token_counts{TEXT}")
    result = invoke("build", "Sarcasm", "CLEVR", "--data", "d", "--sae", sae)
    assert result.exit_code == 1
    *_, last = result.stderr.splitlines()
    assert last == "saestore: error: 1 of 4 were not built: Sarcasm (token); see above."
    assert any("error: Sarcasm (token): " in line and "text 4" in line for line in result.stderr.splitlines())
    assert stored() == "CLEVR/cls/tiny CLEVR/patch/tiny Sarcasm/cls/tiny"


def test_pointers_and_counts_that_part_are_told_with_the_text(one, sae, tmp_path):
    laid, truth = one("iSarcasm")
    twice, _ = dataset_folders.counts()
    twice[1] = [3, 1]  # a token that touches two words
    torch.save(twice, truth / f"token_counts{TEXT}")
    np.save(tmp_path / "ptr.npy", laid.ptr)
    line = refused_last(words("iSarcasm", sae, "--sample-type", "token"))
    assert "counts 529 tokens" in line
    line = refused_last(words("iSarcasm", sae, "--sample-type", "token", "--item-ptr", "ptr.npy"))
    assert "part at text 1, which counts 4 tokens and has 3 rows; 1 of 6 texts differ" in line
    assert "iSarcasm" not in stored()
    given = ["--sample-type", "token", "--item-ptr", "ptr.npy", "--no-ground-truth"]
    assert invoke(*words("iSarcasm", sae, *given)).exit_code == 0
    assert saestore.open("activations.zarr")["iSarcasm"].concepts.names("sample") == []


def refused_last(command):
    result = invoke(*command)
    assert result.exit_code == 1, result.output
    return result.stderr.splitlines()[-1]


def stored():
    try:
        return " ".join(saestore.open("activations.zarr"))
    except saestore.errors.NotFoundError:
        return ""


# Ground truth


def change(path, alter):
    loaded = torch.load(path, weights_only=True)
    alter(loaded)
    torch.save(loaded, path)


ITEMS, ROWS = "gt_samples_per_concept_{}_inputsize_(224, 224).pt", "gt_patch_per_concept_{}_inputsize_(224, 224).pt"
# CLEVR's items 0, 2, 4 are blue, and 3, 4 are cal.
DISAGREE = {
    "an item too many": (
        ITEMS, "train", lambda d: d["color::blue"].append(1),
        "1 items differ in 'color::blue', first item 1, which has it here and not there",
    ),
    "an item missing": (
        ITEMS, "cal", lambda d: d["color::blue"].remove(4),
        "1 items differ in 'color::blue', first item 4, which has it there and not here",
    ),
    "a row in an item without": (
        ROWS, "train", lambda d: d["color::blue"].append(300),
        "1 of 257 patch rows of 'color::blue' are in items without it, first in item 1",
    ),
    "another split": (
        ROWS, "cal", lambda d: d["color::blue"].append(10),
        "samples of 'color::blue' are of another split, first item 0, which is 'train'",
    ),
    "two splits": (
        ROWS, "cal", lambda d: d["color::blue"].append(3), "has sample 3, which is in another split too",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DISAGREE)
def test_disagreement_with_the_metadata_is_named_and_nothing_written(one, sae, case):
    name, split, alter, said = DISAGREE[case]
    _, truth = one("CLEVR")
    change(truth / name.format(split), alter)
    line = refused_last(words("CLEVR", sae, "--sample-type", "patch"))
    assert said in line, line
    assert "--no-ground-truth" in line
    assert stored() == ""


def test_a_set_is_labelled_afterwards_and_on_request_against_its_metadata(one, sae):
    laid, truth = one("CLEVR")
    assert invoke(*words("CLEVR", sae, "--sample-type", "patch", "--no-ground-truth")).exit_code == 0
    change(truth / ITEMS.format("train"), lambda d: d["color::blue"].append(1))
    command = ["label", "CLEVR", "--ground-truth", truth]
    assert "first item 1" in refused(*command)
    assert saestore.open("activations.zarr")["CLEVR"].concepts.names("sample") == []
    assert json.loads(answer(*command, "--overwrite", "--json"))["added"] == ["color::blue", "shape::cube"]
    acts = saestore.open("activations.zarr")["CLEVR"]
    np.testing.assert_array_equal(acts.concepts.mask("color::blue", "item"), [1, 1, 1, 0, 1, 0])
    np.testing.assert_array_equal(acts.concepts.mask("shape::cube", "sample"), laid.samples["shape::cube"])
    # A build of what is complete leaves labels as they are.
    change(truth / ITEMS.format("train"), lambda d: d["color::blue"].remove(1))
    assert invoke(*words("CLEVR", sae, "--sample-type", "patch")).exit_code == 0
    assert saestore.open("activations.zarr")["CLEVR"].concepts.mask("color::blue", "item")[1]


WRONG = {
    "too large": (
        lambda d: d.update({"color::blue": [1536]}),
        "has sample 1536; the set has 1,536, numbered 0 to 1535",
    ),
    "negative": (lambda d: d.update({"color::blue": [4, -1]}), "has sample -1"),
    "twice": (lambda d: d.update({"color::blue": [0, 3, 0]}), "has sample 0 2 times"),
    "no integer": (lambda d: d.update({"color::blue": [0, 3.0]}), "has 3.0; allowed are sample numbers"),
    "a truth value": (lambda d: d.update({"color::blue": [True]}), "has True"),
    "huge": (lambda d: d.update({"color::blue": [1 << 70]}), f"has sample {1 << 70}"),
    "no list": (lambda d: d.update({"color::blue": 7}), "is a int; allowed is a list"),
    "a matrix": (lambda d: d.update({"color::blue": torch.zeros(2, 2)}), "float32 of shape (2, 2)"),
    "no name": (lambda d: d.update({3: [0]}), "3 cannot be the name of a concept"),
}


@pytest.mark.parametrize("case", WRONG)
def test_numbers_that_cannot_be_are_refused_whatever_is_told(one, sae, case):
    alter, said = WRONG[case]
    _, truth = one("CLEVR")
    change(truth / ROWS.format("train"), alter)
    line = refused_last(words("CLEVR", sae, "--sample-type", "patch"))
    assert said in line, line
    assert stored() == ""


def test_tensors_of_numbers_will_do(one, sae):
    laid, truth = one("CLEVR")
    change(truth / ROWS.format("train"), lambda d: d.update({k: torch.tensor(v) for k, v in d.items()}))
    result = invoke(*words("CLEVR", sae, "--sample-type", "patch"))
    assert result.exit_code == 0
    assert "squashed to squares" in result.stderr
    acts = saestore.open("activations.zarr")["CLEVR"]
    np.testing.assert_array_equal(acts.concepts.mask("color::blue", "sample"), laid.samples["color::blue"])


def test_a_split_without_its_file_is_refused(one, sae):
    _, truth = one("CLEVR")
    (truth / ROWS.format("cal")).unlink()
    assert "none for cal: nothing is known" in refused_last(words("CLEVR", sae, "--sample-type", "patch"))


def test_appended_items_get_their_ground_truth(one, sae, monkeypatch):
    one("Coco")
    assert invoke(*words("Coco", sae, "--sample-type", "patch")).exit_code == 0
    grown = dataset_folders.Layout(
        splits=(*LAYOUTS["Coco"].splits, "test"), concepts=LAYOUTS["Coco"].concepts, concepts_first=True
    )
    monkeypatch.setitem(LAYOUTS, "Coco", grown)
    before = torch.load(_patches(), weights_only=True)["embeddings"]
    laid, _ = one("Coco")
    torch.save(torch.cat([before, laid.rows["patch"][len(before) :]]), _patches())
    result = invoke(*words("Coco", sae, "--sample-type", "patch", "--append"))
    assert result.exit_code == 0, result.stderr
    acts = saestore.open("activations.zarr")["Coco"]
    assert acts.n_items == N_ITEMS + 1
    for concept, mask in laid.samples.items():
        np.testing.assert_array_equal(acts.concepts.mask(concept, "sample"), mask)


def _patches():
    return "d/Embeddings/Coco/CLIP_SAE_patch_embeddings_percentthrumodel_92.pt"
