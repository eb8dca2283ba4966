"""Images through a model into an SAE: stored is what transformers and sae_lens give for each image by itself."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

import torch
import transformers
from build_helpers import assert_holds, clip_scope, clip_scope_dense, hashes, run_apart, sae_lens_folder, unexplained
from click.testing import CliRunner
from PIL import Image
from raising import raises
from tiny_models import WIDTH, image_states, livelier, pictures, quietly, vision_model

import saestore
from saestore.cli import main
from saestore.errors import InvalidInputError
from saestore.labels.patch_grid import GRID_COLUMNS
from saestore.plot.images import ImageView, read_image

SIZES = [(40, 32), (32, 50), (33, 33), (64, 48), (90, 31), (32, 32), (50, 40)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = {}

    def model(kind):
        if kind not in made:
            made[kind] = vision_model(kind, tmp_path_factory.mktemp("models") / kind)
        return made[kind]

    return model


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of pictures."""
    folder = tmp_path_factory.mktemp("images")
    pictures(folder, SIZES)
    return folder


@pytest.fixture
def sae(tmp_path):
    return clip_scope(tmp_path / "tiny.pt", d_in=WIDTH)


def build(tmp_path, **how):
    with unexplained():
        return saestore.build("Mine", store=tmp_path / "s.zarr", progress=False, **how)


def opened(folder):
    return [Image.open(path).convert("RGB") for path in sorted(folder.iterdir())]


def test_a_clip_model_and_an_sae_of_sae_lens(tmp_path, models, images):
    loaded = sae_lens_folder("topk", tmp_path / "own-sae", d_in=WIDTH)
    acts = build(tmp_path, images=images, model=models("clip"), layer=1, sae=tmp_path / "own-sae", batch_size=3)
    states = image_states(models("clip"), opened(images))[1]
    assert states.shape == (len(SIZES), 17, WIDTH)
    with torch.no_grad():
        expected = loaded.encode(torch.from_numpy(states[:, 1:].reshape(-1, WIDTH)))
    assert acts.path == "Mine/patch/own-sae"
    assert_holds(acts, expected.numpy())
    assert acts.items.column("key").tolist() == [f"{i:02}.png" for i in range(len(SIZES))]
    np.testing.assert_array_equal(acts.items.column("width"), [w for w, _ in SIZES])
    np.testing.assert_array_equal(acts.items.column("height"), [h for _, h in SIZES])


@pytest.mark.parametrize("at", [("siglip", 0), ("dinov2-registers", 2), ("dinov3", 1), ("vit", 0)], ids=str)
def test_a_family_and_a_block(tmp_path, models, images, sae, at):
    kind, layer = at
    acts = build(tmp_path, images=images, model=models(kind), layer=layer, sae=sae)
    patches = image_states(models(kind), opened(images))[layer][:, -16:]
    assert_holds(acts, clip_scope_dense(sae, torch.from_numpy(patches.reshape(-1, WIDTH))))


@pytest.mark.parametrize("kind", ["clip", "dinov2-registers"])
def test_cls(tmp_path, models, images, sae, kind):
    acts = build(tmp_path, images=images, model=models(kind), layer=1, sae=sae, sample_type="cls")
    cls = image_states(models(kind), opened(images))[1][:, 0]
    assert acts.path == "Mine/cls/tiny"
    assert_holds(acts, clip_scope_dense(sae, torch.from_numpy(cls)))


def test_images_are_read_as_the_encoder_was_trained(tmp_path, models, sae):
    """Without EXIF orientation, transparent pixels on black: what Pillow makes of the same pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8)
    turned, exif = tmp_path / "turned", Image.Exif()
    turned.mkdir()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(turned / "a.png", exif=exif)
    how = {"images": turned, "model": models("clip"), "layer": 1, "sae": sae}
    acts = build(tmp_path, **how, exif=False, transparency="black")
    image = Image.fromarray(pixels)
    black = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
    expected = clip_scope_dense(sae, torch.from_numpy(image_states(models("clip"), [black])[1][0, 1:]))
    assert_holds(acts, expected)
    transform = acts.attributes.source["transform"]
    assert (transform["exif"], transform["transparency"]) == (False, "black")
    assert [acts.items.column(name).tolist() for name in ("width", "height")] == [[60], [40]]
    assert read_image(acts, "a.png", None).shape == (40, 60, 3)
    usual = build(tmp_path / "usual", **how)
    assert read_image(usual, "a.png", None).shape == (60, 40, 3)
    with raises(InvalidInputError, "unknown-choice", "pink"):
        build(tmp_path / "wrong", **how, transparency="pink")
    with raises(InvalidInputError, "unused-option", "exif", "images"):
        build(tmp_path / "wrong", texts=["a"], model=models("clip"), layer=1, sae=sae, exif=False)


def test_a_plan_of_images_makes_the_set_that_a_build_makes(tmp_path, models, images, sae):
    """Tasks cut through images and batches of images; another process opens the model anew."""
    how = {"images": images, "model": models("clip"), "layer": 1, "sae": sae, "batch_size": 2, "segment_rows": 7}
    with unexplained():
        saestore.build("Mine", store=tmp_path / "a.zarr", progress=False, **how)
        plan = saestore.plan_build("Mine", store=tmp_path / "b.zarr", progress=False, **how)
    assert len(plan) > 2
    run_apart(plan, tmp_path / "b.zarr", "Mine")
    assert hashes(tmp_path / "a.zarr") == hashes(tmp_path / "b.zarr")


def test_the_command(tmp_path, models, images, sae):
    """With a table that says which images, and labels of them."""
    table = tmp_path / "metadata.csv"
    table.write_text("image_path,split,color::red\n05.png,test,1\n02.png,train,0\n")
    words = ["build", "Mine", "--images", images, "--items", table, "--model", models("clip"), "--layer", "1"]
    words += ["--sae", sae, "--store", tmp_path / "s.zarr", "--json"]
    with unexplained():
        result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)["sets"]
    assert (found["n_items"], found["n_samples"], found["source"]["kind"]) == (2, 32, "images")
    assert found["source"]["transform"]["grid"] == [4, 4]
    acts = saestore.open(tmp_path / "s.zarr")["Mine"]
    chosen = [Image.open(images / name).convert("RGB") for name in ("05.png", "02.png")]
    patches = image_states(models("clip"), chosen)[1][:, 1:]
    assert_holds(acts, clip_scope_dense(sae, torch.from_numpy(patches.reshape(-1, WIDTH))))
    assert acts.items.column("color::red").tolist() == [True, False]


def test_images_that_keep_their_proportions(tmp_path, sae):
    """SigLIP 2 NaFlex: each image has a grid of its own, in the rows of the set, in its masks and in its pictures."""
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    torch.manual_seed(0)
    blocks = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    whole = livelier(transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**blocks, num_patches=16)))
    quietly(whole.save_pretrained, tmp_path / "model")
    processor = Siglip2ImageProcessorPil(patch_size=16, max_num_patches=20)
    processor.save_pretrained(tmp_path / "model")
    made = pictures(tmp_path / "images", [(64, 24), (24, 64), (40, 40), (200, 8), (33, 61)])
    how = {"images": tmp_path / "images", "model": tmp_path / "model", "layer": 1, "sae": sae, "batch_size": 2}
    acts = build(tmp_path, **how)
    rows, grids, taken = [], [], []
    whole.encoder.layers[1].register_forward_hook(lambda _m, _x, out: taken.append(out))
    for image in made:
        inputs = processor(images=image, return_tensors="pt")
        with torch.no_grad():
            whole(**inputs)
        rows.append(taken.pop()[0][inputs["pixel_attention_mask"][0] == 1])
        grids.append(inputs["spatial_shapes"][0].tolist())
    assert_holds(acts, clip_scope_dense(sae, torch.cat(rows)))
    assert [acts.items.column(name).tolist() for name in GRID_COLUMNS] == [
        list(each) for each in zip(*grids, strict=True)
    ]
    assert len(set(map(tuple, grids))) > 2
    masks = tmp_path / "masks" / "left"
    masks.mkdir(parents=True)
    for item, (image, (_, n_columns)) in enumerate(zip(made, grids, strict=True)):
        left = np.zeros((image.height, image.width), np.uint8)
        left[:, : round(image.width / n_columns)] = 255  # the first column of patches
        Image.fromarray(left).save(masks / f"{item:02}.png")
    acts.concepts.add_masks(tmp_path / "masks", threshold=0.6)
    assert np.array_equal(acts.samples["left"], np.concatenate([np.arange(r * c) % c == 0 for r, c in grids]))
    assert [ImageView.of(acts, None).patches.at(item).grid for item in range(len(made))] == list(map(tuple, grids))
    with raises(InvalidInputError, "no-cls-token", "siglip2"):
        build(tmp_path / "cls", **how, sample_type="cls")
    Siglip2ImageProcessorPil(patch_size=8).save_pretrained(tmp_path / "model")
    with raises(InvalidInputError, "image-size", "patches of 16 x 16", "8 x 8"):
        build(tmp_path / "wrong", **how)


def test_a_grid_that_is_no_square_gives_rows_and_columns(tmp_path, images, sae):
    """2 x 8 patches are as many as 4 x 4."""
    model = vision_model("dinov2", tmp_path / "model", size={"height": 16, "width": 64}, do_center_crop=False)
    acts = build(tmp_path, images=images, model=model, layer=0, sae=sae)
    assert acts.attributes.source["transform"]["grid"] == [2, 8]
    coords, position = acts.to_xarray().coords, np.arange(len(acts)) % 16
    assert np.array_equal(coords["row"], position // 8)
    assert np.array_equal(coords["col"], position % 8)
    words = ["top-features", "--store", tmp_path / "s.zarr", "--dataset", "Mine", "--sample", "13", "--json"]
    found = json.loads(CliRunner().invoke(main, [str(word) for word in words]).stdout)["rows"][0]
    assert (found["row"], found["column"]) == (1, 5), found
