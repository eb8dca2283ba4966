"""The data sets that are known by name."""

import pytest
from raising import raises

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors.torch")

from embedding_files import rows, write_chunks  # noqa: E402 (what follows needs torch)

from saestore.embeddings.opening import open_embeddings  # noqa: E402
from saestore.errors import InvalidInputError, NotFoundError  # noqa: E402
from saestore.superactivators.datasets import DATASETS, find_dataset  # noqa: E402
from saestore.superactivators.file_names import find_embeddings, find_items  # noqa: E402

pytestmark = pytest.mark.once


def test_the_seven():
    assert [dataset.name for dataset in DATASETS] == [
        "CLEVR", "Coco", "Broden-Pascal", "Broden-OpenSurfaces", "Sarcasm", "GoEmotions", "iSarcasm",
    ]  # fmt: skip
    clevr, sarcasm = find_dataset("CLEVR"), find_dataset("Sarcasm")
    assert (clevr.modality, clevr.sample_types, clevr.sae) == ("image", ("patch", "cls"), "clip-scope-22")
    assert (sarcasm.modality, sarcasm.sample_types, sarcasm.sae) == ("text", ("token", "cls"), "gemma-scope-9b-34-16k")


@pytest.mark.parametrize(("name", "found"), [("clevr", "CLEVR"), ("COCO", "Coco"), ("isarcasm", "iSarcasm")])
def test_names_in_any_case(name, found):
    assert find_dataset(name).name == found


def test_unknown_names_give_the_nearest():
    with raises(NotFoundError, "unknown-dataset", "CLEVRR", "CLEVR"):
        find_dataset("CLEVRR")
    with raises(NotFoundError, "unknown-dataset", "broden"):
        find_dataset("broden")
    with raises(NotFoundError, "unknown-dataset", "xyz", "CLEVR"):
        find_dataset("xyz")


BASES = {
    ("CLEVR", "patch"): "CLIP_SAE_patch_embeddings_percentthrumodel_92",
    ("CLEVR", "cls"): "CLIP_SAE_cls_embeddings_percentthrumodel_92",
    ("iSarcasm", "token"): "Gemma_SAE_patch_embeddings_percentthrumodel_81",
    ("iSarcasm", "cls"): "Gemma_SAE_cls_embeddings_percentthrumodel_81",
}


@pytest.mark.parametrize("key", BASES, ids="/".join)
@pytest.mark.parametrize("chunked", [True, False])
def test_embeddings_are_found_by_name(tmp_path, monkeypatch, key, chunked):
    folder = tmp_path / "Embeddings" / key[0]
    folder.mkdir(parents=True)
    for (dataset, _), base in BASES.items():
        if dataset == key[0]:
            x = rows(seed=len(base))
            write_chunks(folder, x, [5, 6], base=base) if chunked else torch.save(x, folder / f"{base}.pt")
    found = find_embeddings(find_dataset(key[0]), key[1], tmp_path)
    assert found == folder / (BASES[key] + ("_chunks_info.json" if chunked else ".pt"))
    torch.testing.assert_close(open_embeddings(found).read(0, 11), rows(seed=len(BASES[key])), rtol=0, atol=0)
    monkeypatch.setenv("SAESTORE_SCRATCH", str(tmp_path))
    assert find_embeddings(find_dataset(key[0]), key[1]) == found


def test_embeddings_that_are_not_there(tmp_path, monkeypatch):
    clevr = find_dataset("CLEVR")
    with raises(NotFoundError, "no-embeddings", "CLEVR", "CLIP_SAE_patch", "_92", "--embeddings"):
        find_embeddings(clevr, "patch", tmp_path)
    with raises(InvalidInputError, "unknown-sample-type", "CLEVR", "token"):
        find_embeddings(clevr, "token", tmp_path)
    monkeypatch.delenv("SAESTORE_SCRATCH", raising=False)
    with raises(NotFoundError, "no-embeddings", "--embeddings", "SAESTORE_SCRATCH"):
        find_embeddings(clevr, "patch")


def test_metadata_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no Data/ here either
    monkeypatch.delenv("SAESTORE_SCRATCH", raising=False)
    dataset = find_dataset("GoEmotions")
    with raises(NotFoundError, "no-items", "GoEmotions/metadata.csv", "--items"):
        find_items(dataset, tmp_path)
    for folder in ("Augmented_GoEmotions", "GoEmotions"):
        (tmp_path / "Data" / folder).mkdir(parents=True)
        (tmp_path / "Data" / folder / "metadata.csv").write_text("text\nhello\n")
        assert find_items(dataset, tmp_path) == tmp_path / "Data" / folder / "metadata.csv"
