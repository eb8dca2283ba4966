"""What cannot be run through a model is refused before anything is written, in one line that says what to do."""

import json
import re
import shutil
import subprocess
import sys
import warnings

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

import torch
from build_helpers import clip_scope, sae_lens_folder, unexplained
from safetensors.torch import load_file, save_file
from tiny_models import N_BLOCKS, TEXTS, WIDTH, pictures, text_model, vision_model

import saestore
from saestore.errors import InvalidInputError, MissingDependencyError, NotFoundError, SaestoreError
from saestore.models.training_spec import hook_layer


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    vision_model("clip", folder / "clip")
    vision_model("siglip", folder / "siglip")
    text_model("gpt2", folder / "gpt2")
    clip_scope(folder / "tiny.pt", d_in=WIDTH)
    clip_scope(folder / "wide.pt", d_in=WIDTH + 1)
    sae_lens_folder("topk", folder / "sae", d_in=WIDTH)
    pictures(folder / "images", [(32, 32), (40, 33)])
    return folder


@pytest.fixture
def own(files, tmp_path):
    """A model of the test's own, to damage."""

    def copy(name):
        return shutil.copytree(files / name, tmp_path / name)

    return copy


def refused(tmp_path, kind=InvalidInputError, **how):
    store = tmp_path / "store"
    with pytest.raises(kind) as caught, unexplained():
        saestore.build("Mine", store=store, progress=False, **how)
    assert isinstance(caught.value, SaestoreError)
    assert not store.exists()
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 700
    return told


def of_images(files, **how):
    return {"images": files / "images", "model": files / "clip", "layer": 1, "sae": files / "tiny.pt", **how}


def of_texts(files, **how):
    return {"texts": TEXTS, "model": files / "gpt2", "layer": 1, "sae": files / "tiny.pt", **how}


def test_combinations(files, tmp_path):
    assert "give one of the three" in refused(tmp_path, **of_images(files, texts=TEXTS))
    assert "item_ptr goes with embeddings" in refused(tmp_path, **of_images(files, item_ptr=1))
    told = refused(tmp_path, embeddings=files / "x.npy", layer=1, sae=files / "tiny.pt")
    assert "layer goes with images or texts" in told
    assert "of images use patch or cls" in refused(tmp_path, **of_images(files, sample_type="token"))
    assert "of texts use token or cls" in refused(tmp_path, **of_texts(files, sample_type="patch"))
    assert "model_dtype 'int8'" in refused(tmp_path, **of_images(files, model_dtype="int8"))
    assert "batch_size 0" in refused(tmp_path, **of_images(files, batch_size=0))
    assert "no SAE given" in refused(tmp_path, **of_images(files, sae=None))


def test_layers_and_widths(files, tmp_path):
    told = refused(tmp_path, **of_images(files, layer=N_BLOCKS))
    assert f"has no block {N_BLOCKS}: it has {N_BLOCKS}, counted from 0 to {N_BLOCKS - 1}" in told
    assert "does not say at which layer" in refused(tmp_path, **of_images(files, layer=None))
    told = refused(tmp_path, **of_images(files, sae=files / "wide.pt"))
    assert f"has width {WIDTH}, the SAE wide takes {WIDTH + 1}" in told
    assert "pass --model" in refused(tmp_path, **of_images(files, model=None))


def noted(files, tmp_path, **notes):
    folder = shutil.copytree(files / "sae", tmp_path / "noted-sae")
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"] |= notes
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def test_a_layer_that_the_sae_does_not_want(files, tmp_path):
    sae = noted(files, tmp_path, hook_name="blocks.2.hook_resid_post")
    told = refused(tmp_path, **of_images(files, sae=sae, layer=1))
    assert "layer 1 was asked for" in told
    assert "pass --layer 2" in told


def test_hooks_inside_a_block(files, tmp_path):
    sae = noted(files, tmp_path, hook_name="blocks.2.hook_mlp_out")
    told = refused(tmp_path, **of_images(files, sae=sae, layer=None))
    assert "'blocks.2.hook_mlp_out', which is not the output of a block" in told


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.14.hook_resid_post", 14),
        ("blocks.14.hook_resid_pre", 13),
        ("model.layers.7", 7),
        ("transformer.h.0", 0),
        ("vision_model.encoder.layers.22", 22),
        ("visual.transformer.resblocks.3", 3),
        ("layers.10", 10),
    ],
)
def test_hook_names(hook, layer):
    assert hook_layer(hook) == layer


@pytest.mark.parametrize(
    "hook", ["blocks.0.hook_resid_pre", "blocks.3.attn.hook_z", "blocks.3.hook_mlp_out", "hook_embed", "layers.x", ""]
)
def test_hook_names_of_something_else(hook):
    with pytest.raises(InvalidInputError, match="not the output of a block"):
        hook_layer(hook)


def built(tmp_path, **how):
    with unexplained(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        saestore.build("Mine", store=tmp_path / "store", progress=False, **how)
    return [str(each.message) for each in caught if "variance" not in str(each.message)]


def test_another_model_is_warned_of(files, tmp_path):
    sae = noted(files, tmp_path, model_name="google/gemma-2-9b", hook_name="blocks.1.hook_resid_post")
    told = [line for line in built(tmp_path, **of_images(files, sae=sae)) if "was trained on" in line]
    assert len(told) == 1
    assert "google/gemma-2-9b" in told[0]
    shutil.copytree(files / "clip", tmp_path / "Gemma-2-9b")
    again = built(tmp_path, **of_images(files, sae=sae, model=tmp_path / "Gemma-2-9b"))
    assert not [line for line in again if "was trained on" in line]


def test_clip_scope_wants_its_transform(files, tmp_path):
    """Of a CLIP-Scope checkpoint the folder says the layer; model and image transform are those of the project."""
    sae = clip_scope(tmp_path / "1_resid" / "1200.pt", d_in=WIDTH)
    told = built(tmp_path, **of_images(files, sae=sae, layer=None))
    assert [line for line in told if "laion/CLIP-ViT-L-14-laion2B-s32B-b82K" in line]
    assert [line for line in told if 'resize {"shortest_edge": 224}' in line]
    assert [line for line in told if "crop [224, 224]" in line]


def test_siglip_has_no_cls(files, tmp_path):
    told = refused(tmp_path, **of_images(files, model=files / "siglip", sample_type="cls"))
    assert "has no CLS token: use sample_type 'patch'" in told


def test_models_of_the_wrong_kind(files, tmp_path):
    told = refused(tmp_path, **of_images(files, model=files / "gpt2"))
    assert "images can be run through CLIP, SigLIP and DINOv2" in told
    assert "give it --images" in refused(tmp_path, **of_texts(files, model=files / "clip"))


def test_models_that_are_not_there(files, tmp_path, monkeypatch):
    told = refused(tmp_path, NotFoundError, **of_images(files, model=tmp_path / "nothing"))
    assert "give a folder with config.json" in told
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    told = refused(tmp_path, NotFoundError, **of_images(files, model="laion/CLIP-ViT-L-14-laion2B-s32B-b82K"))
    assert "HF_HUB_OFFLINE" in told
    assert "hf download laion/CLIP-ViT-L-14-laion2B-s32B-b82K --local-dir model" in told


def test_folders_that_lack_something(files, tmp_path, own):
    clip, gpt2 = own("clip"), own("gpt2")
    (clip / "preprocessor_config.json").rename(tmp_path / "kept.json")
    assert "the image processor of" in refused(tmp_path, **of_images(files, model=clip))
    (tmp_path / "kept.json").rename(clip / "preprocessor_config.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (gpt2 / name).unlink()
    assert "has no words: tokenizer.json is missing" in refused(tmp_path, **of_texts(files, model=gpt2))
    (clip / "model.safetensors").unlink()
    assert "the model of" in refused(tmp_path, **of_images(files, model=clip))
    (clip / "config.json").unlink()
    assert "the configuration of" in refused(tmp_path, **of_images(files, model=clip))


def test_weights_that_are_missing_are_not_made_up(files, tmp_path, own):
    clip = own("clip")
    weights = load_file(clip / "model.safetensors")
    gone = next(name for name in weights if re.search(r"vision_model.*layers\.1.*weight", name))
    del weights[gone]
    save_file(weights, clip / "model.safetensors", {"format": "pt"})
    assert "lack 1 tensors" in refused(tmp_path, **of_images(files, model=clip))
    (clip / "model.safetensors").write_bytes((files / "clip" / "model.safetensors").read_bytes()[:-100])
    assert "truncated" in refused(tmp_path, **of_images(files, model=clip))


def test_code_of_a_model_is_never_run(files, tmp_path, own):
    gpt2 = own("gpt2")
    config = json.loads((gpt2 / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}, "model_type": "evil"}
    (gpt2 / "config.json").write_text(json.dumps(config))
    (gpt2 / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    refused(tmp_path, **of_texts(files, model=gpt2))
    assert not (tmp_path / "ran").exists()


def test_a_pickle_in_place_of_weights_is_not_unpickled(files, tmp_path, own):
    clip = own("clip")
    (clip / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"weights": Evil()}, clip / "pytorch_model.bin")
    assert "hold Python objects" in refused(tmp_path, **of_images(files, model=clip))
    assert not (tmp_path / "ran").exists()


def test_image_processors_that_make_no_grid(files, tmp_path, own):
    clip = own("clip")
    config = json.loads((clip / "preprocessor_config.json").read_text())
    cases = {
        "does not make all images one size": {"do_center_crop": False},
        "no whole patches of 8 x 8": {"crop_size": {"height": 30, "width": 30}},
        "takes images of 32 x 32": {"crop_size": {"height": 64, "width": 64}},
    }
    for told, change in cases.items():
        (clip / "preprocessor_config.json").write_text(json.dumps({**config, **change}))
        assert told in refused(tmp_path, **of_images(files, model=clip))


def test_the_tokenizer_of_another_model(files, tmp_path, own):
    gpt2 = own("gpt2")
    made = json.loads((gpt2 / "tokenizer.json").read_text())
    made["model"]["vocab"]["zzz"] = 5000
    (gpt2 / "tokenizer.json").write_text(json.dumps(made))
    assert "it is that of another model" in refused(tmp_path, **of_texts(files, model=gpt2))


def test_empty_texts(files, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("one\n\nthree\n\n")
    told = refused(tmp_path, **of_texts(files, texts=texts))
    assert "2 of 4 texts have no tokens" in told
    assert "1, 3" in told
    with unexplained():
        acts = saestore.build(
            "Mine", store=tmp_path / "s", progress=False, **of_texts(files, texts=texts, skip_bad=True)
        )
    assert acts.items.column("key").tolist() == ["0", "2"]
    assert acts.items.column("text").tolist() == ["one", "three"]
    assert acts.attributes.source["skipped"] == {"1": "it has no tokens", "3": "it has no tokens"}
    texts.write_text("\n\n")
    assert "2 of 2 texts" in refused(tmp_path, **of_texts(files, texts=texts, skip_bad=True))


def test_files_of_texts(files, tmp_path):
    path = tmp_path / "texts.xml"
    path.write_text("one")
    assert "texts are .txt, .csv or .jsonl" in refused(tmp_path, **of_texts(files, texts=path))
    path = tmp_path / "latin.txt"
    path.write_bytes("café".encode("latin-1"))
    assert "is not in UTF-8 (byte 3)" in refused(tmp_path, **of_texts(files, texts=path))
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a"}\n{"text": 3}\n')
    assert "line 2 is no object with a text" in refused(tmp_path, **of_texts(files, texts=path))
    path.write_text('{"text": "a"}\n{"text":\n')
    assert "line 2 is not JSON" in refused(tmp_path, **of_texts(files, texts=path))
    refused(tmp_path, NotFoundError, **of_texts(files, texts=tmp_path / "nothing.txt"))
    assert "max_tokens 9999" in refused(tmp_path, **of_texts(files, max_tokens=9999))


def test_nan_names_the_image(files, tmp_path, own):
    """A model that overflows is only seen when it runs; JumpReLU would take NaN for zero without a word."""
    clip = own("clip")
    weights = load_file(clip / "model.safetensors")
    name = next(
        name for name in weights if name.endswith("vision_model.post_layernorm.weight") or "class_embedding" in name
    )
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, clip / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidInputError, match=r"gives NaN or infinity for 00\.png \(row 0\)"):
        saestore.build(
            "Mine", store=tmp_path / "store", progress=False, **of_images(files, model=clip, sample_type="cls")
        )


def test_without_transformers_the_extra_is_named(project_dir):
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from saestore.models.pretrained import import_transformers\n"
        "try: import_transformers()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=project_dir, capture_output=True, text=True, check=True)
    assert run.stdout.startswith(MissingDependencyError.__name__)
    assert "pip install 'saestore[models]'" in run.stdout
