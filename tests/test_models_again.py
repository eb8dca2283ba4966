"""Images and texts through a model: killed and taken up again, added to, and led back from a patch to its pixels."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

import torch
from build_helpers import clip_scope, hashes, unexplained
from PIL import Image
from raising import raises
from tiny_models import TEXTS, WIDTH, image_states, pictures, text_model, vision_model

import saestore
from saestore.errors import StoreConflictError
from saestore.labels.patch_grid import Patches
from saestore.models import ModelRequest, SAETrainingSpec, open_model_source
from saestore.models.images import ImageTransform
from saestore.models.pretrained import Pretrained
from saestore.tables.item_index import ItemIndex

PATH = "Mine/patch/tiny"
PART = 0.37  # of all changes of the file system: some segments are there, and none is merged


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    vision_model("clip", folder / "clip")
    text_model("bert", folder / "bert")
    clip_scope(folder / "tiny.pt", d_in=WIDTH)
    pictures(folder / "images", [(32 + 3 * i, 40) for i in range(10)])
    return folder


def job(files, store, **how):
    """Three images of 16 patches run together, segments of 40 samples: neither divides the other."""
    given = {"images": files / "images", "model": files / "clip", "layer": 1, "sae": files / "tiny.pt", "batch_size": 3}
    return {"dataset": "Mine", "store": store, "segment_rows": 40, **given, **how}


def build(**how):
    with unexplained():
        return saestore.build(**how, progress=False)


def test_rows_do_not_depend_on_how_they_are_asked_for(files):
    request = ModelRequest(images=files / "images", model=files / "clip", layer=1, batch_size=3)
    ready = open_model_source(request, SAETrainingSpec("an SAE", WIDTH), lambda _: None)
    whole = ready.source.read(0, 160)
    for start, stop in [(159, 160), (0, 1), (40, 80), (95, 97), (47, 49), (10, 150), (7, 7)]:
        assert torch.equal(ready.source.read(start, stop), whole[start:stop])


def test_killed_and_started_again(files, tmp_path, processes):
    processes.have("transformers.models.clip.modeling_clip", "transformers.models.clip.image_processing_clip")
    done = processes.run(job(files, str(tmp_path / "whole")))
    assert done["exit"] == 0, done
    store = tmp_path / "killed"
    assert processes.run(job(files, str(store)), kill_at=int(done["changes"] * PART))["exit"] == -9
    assert 0 < len(saestore.open(store)[PATH]) < 160
    assert processes.run(job(files, str(store)))["exit"] == 0
    assert hashes(store) == hashes(tmp_path / "whole")


def test_nothing_dense_is_left_anywhere(files, tmp_path, monkeypatch):
    """All that a build writes is in the store, and less than the hidden states would be."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "work"))
    build(**job(files, tmp_path / "store"))
    assert not list((tmp_path / "work").iterdir())
    shapes = [array.shape for _, array in saestore.open(tmp_path / "store").root[PATH].arrays()]
    assert all(len(shape) == 1 for shape in shapes)


def test_images_that_come_to_the_folder_are_appended(files, tmp_path):
    """Also where their names stand between those that are there."""
    images = tmp_path / "images"
    pictures(images, [(32 + 3 * i, 40) for i in range(4)])
    store = tmp_path / "store"
    build(**job(files, store, images=images))
    Image.open(files / "images" / "09.png").save(images / "01a.png")
    Image.open(files / "images" / "08.png").save(images / "zz.png")
    with raises(StoreConflictError, "different-content", "--append"):
        build(**job(files, store, images=images))
    acts = build(**job(files, store, images=images, append=True))
    keys = [*(f"{i:02}.png" for i in range(4)), "01a.png", "zz.png"]
    assert acts.items.column("key").tolist() == keys
    before = hashes(store)
    build(**job(files, store, images=images))
    build(**job(files, store, images=images, append=True))
    assert hashes(store) == before
    states = image_states(files / "clip", [Image.open(images / key).convert("RGB") for key in keys])[1][:, 1:]
    whole = build(**job(files, tmp_path / "whole", images=None, embeddings=states.reshape(-1, WIDTH), model=None,
                        layer=None, batch_size=None))  # fmt: skip
    np.testing.assert_array_equal(acts.sparse().indices, whole.sparse().indices)
    np.testing.assert_allclose(acts.sparse().data, whole.sparse().data, rtol=1e-4, atol=1e-6)
    (images / "02.png").rename(images / "02-renamed.png")
    with raises(StoreConflictError, "changed-items", "'02.png' is missing"):
        build(**job(files, store, images=images, append=True, skip_bad=True) | {"images": add(images, "zzz.png")})


def add(images, name):
    Image.new("RGB", (40, 40)).save(images / name)
    return images


def test_an_image_that_changed_is_told_from_one_that_came(files, tmp_path):
    images = tmp_path / "images"
    pictures(images, [(40, 40)] * 3)
    build(**job(files, tmp_path / "store", images=images))
    Image.new("RGB", (40, 40), "red").save(images / "01.png")
    add(images, "zz.png")
    with raises(StoreConflictError, "changed-rows", images):
        build(**job(files, tmp_path / "store", images=images, append=True))
    with raises(StoreConflictError, "different-content", "layer (1 there, 0 now)"):
        build(**job(files, tmp_path / "store", images=images, append=True, layer=0))


def test_texts_are_appended(files, tmp_path):
    path = tmp_path / "texts.txt"
    how = {"dataset": "Mine", "model": files / "bert", "layer": 0, "sae": files / "tiny.pt", "segment_rows": 16}
    path.write_text("\n".join(TEXTS[:3]) + "\n")
    build(**how, texts=path, store=tmp_path / "store")
    with path.open("a") as file:
        file.write("\n".join(TEXTS[3:]) + "\n")
    acts = build(**how, texts=path, store=tmp_path / "store", append=True)
    whole = build(**how, texts=path, store=tmp_path / "whole")
    assert acts.items.column("text").tolist() == TEXTS
    np.testing.assert_array_equal(acts.spans(), whole.spans())
    np.testing.assert_array_equal(acts.sparse().indices, whole.sparse().indices)
    np.testing.assert_allclose(acts.sparse().data, whole.sparse().data, rtol=1e-4, atol=1e-6)
    assert acts.attributes.source["fingerprint"] == whole.attributes.source["fingerprint"]
    assert saestore.open(tmp_path / "store").verify().ok


def test_bad_images_are_left_out_and_recorded(files, tmp_path, capsys):
    images = tmp_path / "images"
    pictures(images, [(40, 40)] * 3)
    (images / "01.png").write_bytes(b"no image")
    with unexplained():
        acts = saestore.build(**job(files, tmp_path / "store", images=images, skip_bad=True), progress=True)
    assert acts.items.column("key").tolist() == ["00.png", "02.png"]
    assert list(acts.attributes.source["skipped"]) == ["01.png"]
    assert "1 images were left out: 01.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    "processor",
    [
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
        {"size": {"height": 32, "width": 32}, "do_center_crop": False},
    ],
    ids=["crop", "resize then crop", "squash"],
)
@pytest.mark.parametrize("size", [(64, 48), (33, 90), (32, 32)])
def test_the_record_leads_from_a_patch_to_its_pixels(tmp_path, processor, size):
    """An image whose red is its column and whose green is its row: each patch says by its colour where it is from."""
    folder = vision_model("clip-vision", tmp_path / "model", do_normalize=False, **processor)
    transform = ImageTransform.of(Pretrained(str(folder)).image_processor(), 8, "here")
    width, height = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = (np.arange(width) + 0.5) / width * 255
    ramp[..., 1] = ((np.arange(height) + 0.5) / height * 255)[:, None]
    seen = transform(Image.fromarray(ramp)).numpy()
    rows, columns = transform.record["grid"]
    down, across = Patches.of(ItemIndex(1, rows * columns), {"transform": transform.record}, None).edges(height, width)
    middles_down, middles_across = (down[1:] + down[:-1]) / 2, (across[1:] + across[:-1]) / 2
    for position in range(rows * columns):
        row, column = divmod(position, columns)
        mean = seen[:2, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].mean(axis=(1, 2))
        np.testing.assert_allclose(mean, [middles_across[column] / width, middles_down[row] / height], atol=0.035)
