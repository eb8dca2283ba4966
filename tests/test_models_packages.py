"""Models of timm and open_clip: stored is what the package itself gives for each image."""

import json
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")

from build_helpers import assert_holds, clip_scope, clip_scope_dense, unexplained  # noqa: E402
from PIL import Image  # noqa: E402
from raising import raises  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tiny_models import WIDTH, pictures  # noqa: E402

import saestore  # noqa: E402
from saestore.errors import InvalidInputError, MissingDependencyError  # noqa: E402

SIZES = [(40, 30), (32, 32), (33, 70)]
VISION = {"image_size": 32, "layers": 3, "width": WIDTH, "patch_size": 8, "head_width": WIDTH // 2}
TEXT = {"context_length": 8, "vocab_size": 50, "width": 8, "heads": 1, "layers": 1}


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    pictures(tmp_path / "images", SIZES)
    return tmp_path / "images"


@pytest.fixture
def sae(tmp_path):
    return clip_scope(tmp_path / "tiny.pt", d_in=WIDTH)


def build(tmp_path, **how):
    with unexplained():
        return saestore.build("Mine", store=tmp_path / "s.zarr", progress=False, **how)


def of_timm(folder):
    timm = pytest.importorskip("timm", exc_type=ImportError)
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": 3, "num_heads": 2, "reg_tokens": 2}
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **arguments)
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": arguments}
    config["pretrained_cfg"] = {"input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.9}
    (folder / "config.json").write_text(json.dumps(config))
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return model, model.blocks, timm.data.create_transform(**timm.data.resolve_model_data_config(model))


def of_open_clip(folder):
    open_clip = pytest.importorskip("open_clip", exc_type=ImportError)
    torch.manual_seed(0)
    model = open_clip.CLIP(embed_dim=8, vision_cfg=VISION, text_cfg=TEXT)
    folder.mkdir()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": TEXT}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval().visual, model.visual.transformer.resblocks, preprocess


@pytest.mark.parametrize(("package", "before"), [("timm", 3), ("open_clip", 1)])
def test_a_block_of_a_package(package, before, tmp_path, images, sae):
    model, blocks, preprocess = (of_timm if package == "timm" else of_open_clip)(tmp_path / "model")
    states = []
    blocks[1].register_forward_hook(lambda _module, _given, out: states.append(out[0].numpy()))
    with torch.no_grad():
        for path in sorted(images.iterdir()):
            model(preprocess(Image.open(path).convert("RGB"))[None])
    name = f"{package}:{tmp_path / 'model'}"
    acts = build(tmp_path, images=images, model=name, layer=1, sae=sae)
    patches = np.concatenate([rows[before:] for rows in states])
    assert len(patches) == 16 * len(SIZES)
    assert_holds(acts, clip_scope_dense(sae, torch.from_numpy(patches)))
    transform = acts.attributes.source["transform"]
    assert (transform["size"], transform["grid"], transform["resample"]) == ([32, 32], [4, 4], 3)
    assert acts.attributes.source["model"] == name
    cls = build(tmp_path / "cls", images=images, model=name, layer=1, sae=sae, sample_type="cls")
    assert_holds(cls, clip_scope_dense(sae, torch.from_numpy(np.stack([rows[0] for rows in states]))))
    with raises(InvalidInputError, "unknown-layer", "3"):
        build(tmp_path, images=images, model=name, layer=3, sae=sae)
    for file in (tmp_path / "model").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:900])
    with raises(InvalidInputError, "unreadable-model", package):
        build(tmp_path, images=images, model=name, layer=1, sae=sae)


@pytest.mark.parametrize("package", ["timm", "open_clip"])
def test_a_package_that_is_not_installed_is_named(package, tmp_path, images, sae, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with raises(MissingDependencyError, "missing-dependency", package, "saestore[vision]"):
        build(tmp_path, images=images, model=f"{package}:x", layer=1, sae=sae)
