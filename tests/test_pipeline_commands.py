"""The commands of the research pipeline, word for word, and importing what it stored by the name of a data set."""

import json
import shutil

import numpy as np
import pytest
from cli_stores import invoke, refused
from raising import raises

import saestore
from saestore.errors import InvalidInputError, NotFoundError

torch = pytest.importorskip("torch", reason="building needs torch")
pytest.importorskip("safetensors.torch")

from build_helpers import assert_holds, clip_scope, clip_scope_dense, in_batches  # noqa: E402 (which needs torch)
from dataset_folders import lay_out  # noqa: E402
from foreign_files import save_sparse, top_rows  # noqa: E402

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    return clip_scope(tmp_path_factory.mktemp("sae") / "tiny.pt")


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory, sae):
    root = tmp_path_factory.mktemp("scratch")
    return root, {name: lay_out(root, root, name, sae) for name in ("CLEVR", "Sarcasm")}


@pytest.fixture
def scratch(laid_out, tmp_path, monkeypatch):
    """A scratch folder with CLEVR and Sarcasm, and no Coco; named by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAESTORE_PATH", raising=False)
    shutil.copytree(laid_out[0], tmp_path / "scratch", symlinks=True)
    monkeypatch.setenv("SAESTORE_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch", laid_out[1]


def test_their_build_word_for_word(scratch, sae):
    root, laid = scratch
    words = ("--datasets", "CLEVR", "Coco", "--sample-type", "patch", "--model-type", "CLIP", "--sae", sae)
    result = invoke("build", *words)
    assert result.exit_code == 1  # Coco is not there, and the rest was built
    assert "error: Coco (patch): " in result.stderr
    assert "1 of 2 were not built: Coco (patch)" in result.stderr
    store = saestore.open(root / "SAE_Activations" / "activations.zarr")  # where their script writes
    assert list(store) == ["CLEVR/patch/tiny"]
    acts = store["CLEVR/patch"]
    rows = laid["CLEVR"].rows["patch"]
    assert_holds(acts, in_batches(lambda x: clip_scope_dense(sae, x), rows, acts.attributes.segment_rows))
    listed = invoke("info", "--json")  # every command finds it
    assert json.loads(listed.stdout)["store"] == str(root / "SAE_Activations" / "activations.zarr")


def test_patch_means_tokens_of_texts_and_a_model_chooses_the_modality(scratch, sae):
    built = invoke("build", "--sample-type", "patch", "--model", "gemma", "--sae", sae, "--json")
    assert built.exit_code == 0, built.stderr
    assert [each["path"] for each in json.loads(built.stdout)["sets"]] == ["Sarcasm/token/tiny"]
    both = invoke("build", "CLEVR", "Sarcasm", "--model", "gemma", "--sample-type", "all", "--sae", sae, "--json")
    assert [each["path"] for each in json.loads(both.stdout)["sets"]] == ["Sarcasm/token/tiny", "Sarcasm/cls/tiny"]
    assert "skipping CLEVR: gemma does not take images" in both.stderr
    alone = invoke("build", "CLEVR", "--model", "gemma", "--sae", sae, "--json")
    assert (alone.exit_code, json.loads(alone.stdout)["error"]["code"]) == (1, "other-modality")
    for named in ("CLEVR is a data set of images", "texts: Sarcasm, GoEmotions, iSarcasm", "--model clip"):
        assert named in json.loads(alone.stdout)["error"]["message"]
    acts = saestore.build("Sarcasm", sample_type="patch", sae=sae, store="p.zarr", progress=False)
    assert acts.path == "Sarcasm/token/tiny"


def test_all_is_for_what_is_found_by_name(scratch, sae):
    result = invoke("build", "Mine", "--sample-type", "all", "--embeddings", "x.npy", "--sae", sae)
    assert result.exit_code == 2
    assert "--sample-type all" in result.stderr


@pytest.fixture
def stored(scratch):
    """What the pipeline stored of Sarcasm, tokens and texts, beside its inputs."""
    root, laid = scratch
    laid = laid["Sarcasm"]
    tokens = top_rows(int(laid.ptr[-1]), 40, 6, negative=False)
    folder = root / "SAE_Activations_Sparse" / "Sarcasm"
    save_sparse(folder, tokens, 6, "gemmascope_patch_sparse_layer34", sizes=[300, len(tokens) - 300])
    texts = top_rows(len(laid.ptr) - 1, 40, 6, seed=1, negative=False)
    save_sparse(folder, texts, 6, "gemmascope_cls_sparse_layer34")
    return root, laid, {"token": tokens, "cls": texts}


def test_import_by_name_finds_files_items_counts_and_truth(stored):
    _, laid, dense = stored
    result = invoke("import", "sarcasm", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["imports"]
    paths = ["Sarcasm/token/gemma-scope-9b-34-16k", "Sarcasm/cls/gemma-scope-9b-34-16k"]
    assert [each["set"]["path"] for each in found] == [each["report"]["path"] for each in found] == paths
    store = saestore.open(json.loads(result.stdout)["store"])
    for sample_type, expected in dense.items():
        acts = store[f"Sarcasm/{sample_type}"]
        np.testing.assert_array_equal(acts.dense(features=slice(0, 40)), expected)
        assert list(acts.items["split"]) == list(laid.layout.splits)
        assert acts.concepts.names("item") == list(laid.concepts)
    tokens = store["Sarcasm/token"]
    np.testing.assert_array_equal(tokens.item_index.pointers(), laid.ptr)
    for concept, mask in laid.samples.items():
        np.testing.assert_array_equal(tokens.concepts.mask(concept, "sample"), mask)


def test_import_by_name_in_python_and_a_path_with_data(stored):
    root, laid, dense = stored
    acts = saestore.import_activations("Sarcasm/patch", data=root, store="a.zarr", ground_truth=False, progress=False)
    assert acts.path == "Sarcasm/token/gemma-scope-9b-34-16k"
    assert acts.concepts.names("sample") == []
    path = root / "SAE_Activations_Sparse" / "Sarcasm" / "gemmascope_cls_sparse_layer34.pt"
    acts = saestore.import_activations("Sarcasm/cls/mine", path, data=root, store="a.zarr", progress=False)
    np.testing.assert_array_equal(acts.dense(features=slice(0, 40)), dense["cls"])
    assert acts.concepts.names("item") == list(laid.concepts)
    with raises(NotFoundError, "no-activations", "clipscope_patch_sparse", "CLEVR"):
        saestore.import_activations("CLEVR/patch", data=root, store="a.zarr")
    with raises(NotFoundError, "unknown-dataset", "Mine"):
        saestore.import_activations("Mine/patch", store="a.zarr")


def test_ground_truth_has_a_method(stored):
    root, laid, _ = stored
    acts = saestore.import_activations("Sarcasm/patch", data=root, store="a.zarr", ground_truth=False, progress=False)
    folder = root / "GT_Samples" / "Sarcasm"
    assert acts.concepts.add_ground_truth(folder) == list(laid.samples)
    for concept, mask in laid.samples.items():
        np.testing.assert_array_equal(acts.concepts.mask(concept, "sample"), mask)
    assert acts.concepts.add_ground_truth(folder) == []
    torch.save({"sarcasm": [10**6]}, next(folder.glob("gt_patch_per_concept_train*")))
    with raises(InvalidInputError, "bad-ground-truth", "sarcasm", 10**6):
        acts.concepts.add_ground_truth(folder)


def test_what_an_import_records_of_its_sae_and_source(stored, sae, tmp_path):
    _, laid, _ = stored
    x = laid.rows["cls"]
    np.save("x.npy", x.numpy())
    saestore.build("Built", embeddings=x, sae=sae, sample_type="cls", store="b.zarr", progress=False)
    saestore.export(saestore.open("b.zarr")["Built/cls"], "m.npz")
    (tmp_path / "pictures").mkdir()
    words = ("--sae", sae, "--source", "embeddings=x.npy", "--source", "by=me", "--images", "pictures")
    done = invoke("import", "Mine/cls", "m.npz", *words, "--store", "b.zarr", "--json")
    assert done.exit_code == 0, done.stderr
    acts, built = saestore.open("b.zarr")["Mine/cls/tiny"], saestore.open("b.zarr")["Built/cls"]
    assert acts.attributes.sae["fingerprint"] == built.attributes.sae["fingerprint"]
    assert (acts.attributes.source["by"], acts.attributes.source["images"]) == ("me", "pictures")
    decoded = acts.decode(np.arange(3), sae=sae)
    np.testing.assert_array_equal(decoded, built.decode(np.arange(3), sae=sae))
    report = acts.diagnose(sae=sae)  # with the embeddings that its source names
    assert report.reconstruction["explained_variance"] == pytest.approx(
        built.diagnose(embeddings=x, sae=sae).reconstruction["explained_variance"]
    )
    said = refused("import", "Mine/cls", "m.npz", "--source", "by=you", "--store", "b.zarr")
    assert "names no SAE" in said
    with raises(InvalidInputError, "reserved-name", "kind"):
        saestore.check_import("Mine/cls/x", "m.npz", source={"kind": "mine"})
