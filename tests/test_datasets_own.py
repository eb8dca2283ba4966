"""``saestore.toml``: data sets of one's own, and known ones whose files lie elsewhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from cli_stores import invoke
from raising import raises

import saestore

torch = pytest.importorskip("torch", reason="building needs torch")
pytest.importorskip("safetensors.torch")

from build_helpers import assert_holds, clip_scope, clip_scope_dense, near  # noqa: E402
from dataset_folders import N_ITEMS, lay_out  # noqa: E402

from saestore.errors import InvalidInputError, NotFoundError  # noqa: E402
from saestore.superactivators.datasets import find_dataset, known_datasets  # noqa: E402
from saestore.superactivators.file_names import find_embeddings  # noqa: E402

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAESTORE_PATH", raising=False)
    monkeypatch.delenv("SAESTORE_SCRATCH", raising=False)
    return tmp_path


def config(text):
    Path("saestore.toml").write_text(text, encoding="utf-8")


@pytest.fixture
def own(here):
    """Texts with all their files named, images whose files lie as those of the known data sets."""
    sae = clip_scope(here / "my-sae.pt")
    x = near(sae, 12)
    np.save(here / "tokens.npy", x.numpy())
    np.save(here / "ptr.npy", np.array([0, 5, 5, 12]))
    (here / "texts.csv").write_text("text,split,funny\na,train,1\nb,cal,0\nc,test,1\n")
    (here / "truth").mkdir()
    for split, rows in (("train", [1, 4]), ("cal", []), ("test", [6])):
        torch.save({"funny": rows}, here / "truth" / f"gt_patch_per_concept_{split}_inputsize_('text', 'text2').pt")
    config("""
        [datasets.Jokes]
        modality = "text"
        sae = "my-sae.pt"
        embeddings = { token = "tokens.npy" }
        items = "texts.csv"
        item_ptr = "ptr.npy"
        ground_truth = "truth"

        [datasets.Photos]
        modality = "image"
        sae = "my-sae.pt"
        patches = 9
    """)
    folder = here / "scratch" / "Embeddings" / "Photos"
    folder.mkdir(parents=True)
    torch.save(near(sae, 18), folder / "CLIP_SAE_patch_embeddings_percentthrumodel_92.pt")
    return sae, x


def test_data_sets_of_ones_own_are_built_by_name(own, here):
    sae, x = own
    result = invoke("build", "--data", "scratch", "--json")
    assert result.exit_code == 0, result.stderr
    built = [found["path"] for found in json.loads(result.stdout)["sets"]]
    assert built == ["Jokes/token/my-sae", "Photos/patch/my-sae"]
    jokes = saestore.open("activations.zarr")["Jokes"]
    assert_holds(jokes, clip_scope_dense(sae, x))
    np.testing.assert_array_equal(jokes.item_index.pointers(), [0, 5, 5, 12])
    np.testing.assert_array_equal(np.flatnonzero(jokes.concepts.mask("funny", "sample")), [1, 4, 6])
    assert saestore.open("activations.zarr")["Photos"].attributes.item_size == 9


def test_they_are_listed_after_the_known_ones(own, here):
    listed = json.loads(invoke("datasets", "--json").stdout)["datasets"]
    assert [each["name"] for each in listed[-2:]] == ["Jokes", "Photos"]
    jokes, photos = listed[-2:]
    assert (jokes["own"], jokes["items"], jokes["ground_truth"]) == (True, "texts.csv", "truth")
    assert (jokes["sae"], jokes["token_counts"], jokes["patches"]) == ("my-sae.pt", "ptr.npy", None)
    assert (photos["sae"], photos["patches"], photos["items"]) == ("my-sae.pt", 9, None)
    assert [found["embeddings"] for found in jokes["samples"]] == ["tokens.npy", None]
    assert "--data" in jokes["samples"][1]["missing"]


def test_paths_are_relative_to_the_file_and_others_stay(here):
    config("""
        [datasets.A]
        modality = "image"
        sae = "release:id"
        embeddings = { patch = "/e/p.npy", cls = "s3://bucket/x.zarr" }
        items = "m.csv"
    """)
    found = find_dataset("a")
    assert (found.sae, found.items) == ("release:id", "m.csv")
    assert dict(found.embeddings) == {"patch": "/e/p.npy", "cls": "s3://bucket/x.zarr"}
    assert find_embeddings(found, "cls") == "s3://bucket/x.zarr"
    with raises(NotFoundError, "no-such-file", "/e/p.npy"):
        find_embeddings(found, "patch")


def test_the_file_may_say_where_a_known_one_lies(here):
    sae = clip_scope(here / "tiny.pt")
    lay_out(here / "d", here / "d", "Coco", sae)
    config('[datasets.coco]\nsae = "tiny.pt"\nitems = "d/Data/Coco/metadata.csv"\nground_truth = "d/GT_Samples/Coco"\n')
    assert [each.name for each in known_datasets()].count("Coco") == 1
    (here / "e").mkdir()
    (here / "d" / "Embeddings").rename(here / "e" / "Embeddings")
    result = invoke("build", "Coco", "--data", "e")
    assert result.exit_code == 0, result.stderr
    acts = saestore.open("activations.zarr")["Coco/patch"]
    assert acts.n_items == N_ITEMS
    assert acts.concepts.names("sample") == ["traffic light", "dog"]


WRONG = {
    "[datasets.A]\nmodality = 'sound'": ("[datasets.A]", "'sound'", "image", "text"),
    "[datasets.A]\nsae = 'x'": ("[datasets.A]", "modality"),
    "[datasets.A]\nmodality = 'text'\nembedding = 'x'": ("'embedding'", "'embeddings'", "modality"),
    "[dataset.A]\nmodality = 'text'": ("'dataset'", "'datasets'"),
    "datasets = 3": ("datasets", "[datasets.NAME]"),
    "[datasets]\nA = 3": ("datasets.A", "[datasets.A]"),
    "[datasets.A]\nmodality = 'image'\npatches = 0": ("patches = 0",),
    "[datasets.A]\nmodality = 'image'\npatches = true": ("patches = True",),
    "[datasets.A]\nmodality = 'image'\nembeddings = 'x.npy'": ("embeddings = 'x.npy'",),
    "[datasets.A]\nmodality = 'image'\nembeddings = { token = 'x' }": ("'token'", "patch, cls"),
    "[datasets.A]\nmodality = 'image'\nitems = 3": ("items = 3",),
    "[datasets.CLEVR]\nmodality = 'text'": ("CLEVR", "images"),
    "[datasets.'a/b']\nmodality = 'text'": ("'a/b'",),
    "[datasets.A": ("TOML",),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_the_file_may_not_say_is_refused_by_name(text):
    config(text)
    with raises(InvalidInputError, "bad-config", "saestore.toml", *WRONG[text]):
        known_datasets()


def test_without_a_file_there_are_seven():
    assert len(known_datasets()) == 7
