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
from raising import raises
from safetensors.torch import load_file, save_file
from tiny_models import N_BLOCKS, TEXTS, WIDTH, pictures, text_model, vision_model

import saestore
from saestore.errors import InvalidInputError, MissingDependencyError, NotFoundError
from saestore.models.hooks import Hook


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


def refuses(tmp_path, code, *named, kind=InvalidInputError, **how):
    """A build raises this, in one line, before it makes a store."""
    store = tmp_path / "store"
    with raises(kind, code, *named) as caught, unexplained():
        saestore.build("Mine", store=store, progress=False, **how)
    assert not store.exists()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def of_images(files, **how):
    return {"images": files / "images", "model": files / "clip", "layer": 1, "sae": files / "tiny.pt", **how}


def of_texts(files, **how):
    return {"texts": TEXTS, "model": files / "gpt2", "layer": 1, "sae": files / "tiny.pt", **how}


def test_combinations(files, tmp_path):
    for how, named in [
        (of_images(files, texts=TEXTS), "texts"),
        (of_images(files, item_ptr=1), "item_ptr"),
        ({"embeddings": files / "x.npy", "layer": 1, "sae": files / "tiny.pt"}, "layer"),
        (of_images(files, sae=None), "sae="),
    ]:  # these are refused by the build itself
        with pytest.raises(InvalidInputError) as caught:
            saestore.build("Mine", store=tmp_path / "store", progress=False, **how)
        assert named in str(caught.value)
        assert not (tmp_path / "store").exists()
    refuses(tmp_path, "unknown-choice", "'token'", "'patch' or 'cls'", **of_images(files, sample_type="token"))
    refuses(tmp_path, "unknown-choice", "'patch'", "'token' or 'cls'", **of_texts(files, sample_type="patch"))
    refuses(tmp_path, "unknown-choice", "model_dtype='int8'", **of_images(files, model_dtype="int8"))
    refuses(tmp_path, "invalid-count", "batch_size=0", **of_images(files, batch_size=0))


def test_layers_and_widths(files, tmp_path):
    refuses(tmp_path, "unknown-layer", f"block {N_BLOCKS}", f"0 to {N_BLOCKS - 1}", **of_images(files, layer=N_BLOCKS))
    refuses(tmp_path, "unknown-layer", "--layer", **of_images(files, layer=None))
    refuses(tmp_path, "width-mismatch", WIDTH, WIDTH + 1, "wide", **of_images(files, sae=files / "wide.pt"))
    refuses(tmp_path, "unknown-model", "--model", **of_images(files, model=None))


def noted(files, tmp_path, **notes):
    folder = shutil.copytree(files / "sae", tmp_path / "noted-sae")
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"] |= notes
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def test_a_layer_that_the_sae_does_not_want(files, tmp_path):
    sae = noted(files, tmp_path, hook_name="blocks.2.hook_resid_post")
    refuses(tmp_path, "layer-mismatch", "blocks.1.hook_resid_post", "--layer 2", **of_images(files, sae=sae, layer=1))


@pytest.mark.parametrize(
    ("name", "layer", "place"),
    [
        ("blocks.14.hook_resid_post", 14, "resid_post"),
        ("blocks.14.hook_resid_pre", 13, "resid_post"),
        ("blocks.0.hook_resid_pre", 0, "resid_pre"),
        ("blocks.3.hook_resid_mid", 3, "resid_mid"),
        ("blocks.3.attn.hook_z", 3, "z"),
        ("blocks.3.hook_attn_out", 3, "attn_out"),
        ("blocks.3.hook_mlp_out", 3, "mlp_out"),
        ("model.layers.7", 7, "resid_post"),
        ("transformer.h.0", 0, "resid_post"),
        ("vision_model.encoder.layers.22", 22, "resid_post"),
        ("visual.transformer.resblocks.3", 3, "resid_post"),
        ("layers.10", 10, "resid_post"),
    ],
)
def test_hook_names(name, layer, place):
    hook = Hook.of(name)
    assert (hook.layer, hook.place) == (layer, place)
    assert Hook.of(hook.name) == hook


@pytest.mark.parametrize("name", ["blocks.3.attn.hook_q", "blocks.x.hook_mlp_out", "hook_embed", "layers.x", ""])
def test_hook_names_of_something_else(name):
    with raises(InvalidInputError, "unsupported-hook", name):
        Hook.of(name)


def test_a_hook_that_the_sae_does_not_want(files, tmp_path):
    sae = noted(files, tmp_path, hook_name="blocks.2.hook_mlp_out")
    how = of_images(files, sae=sae, layer=None)
    refuses(tmp_path, "layer-mismatch", "blocks.2.hook_mlp_out", **how, hook="blocks.2.hook_attn_out")
    refuses(tmp_path, "layer-mismatch", "blocks.2.hook_mlp_out", **(how | {"layer": 1}))


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
    how = of_images(files, model=files / "siglip", sample_type="cls")
    refuses(tmp_path, "no-cls-token", "siglip", "'patch'", **how)


def test_models_of_the_wrong_kind(files, tmp_path):
    refuses(tmp_path, "unsupported-model", "gpt2", "DINOv2", **of_images(files, model=files / "gpt2"))
    refuses(tmp_path, "unsupported-model", "clip", "--images", **of_texts(files, model=files / "clip"))


@pytest.mark.parametrize("kind", ["xlnet"])
def test_models_that_cannot_run_up_to_a_block(files, tmp_path, kind):
    model = text_model(kind, tmp_path / kind)
    refuses(tmp_path, "unsupported-model", kind, "--embeddings", **of_texts(files, model=model, layer=0))


def test_models_that_are_not_there(files, tmp_path, monkeypatch):
    how = of_images(files, model=tmp_path / "nothing")
    refuses(tmp_path, "unknown-model", tmp_path / "nothing", "config.json", kind=NotFoundError, **how)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repo = "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"
    command = f"hf download {repo} --local-dir model"
    refuses(tmp_path, "hub-offline", "HF_HUB_OFFLINE", command, kind=NotFoundError, **of_images(files, model=repo))


def test_folders_that_lack_something(files, tmp_path, own):
    clip, gpt2 = own("clip"), own("gpt2")
    (clip / "preprocessor_config.json").rename(tmp_path / "kept.json")
    refuses(tmp_path, "unreadable-model", "image processor", **of_images(files, model=clip))
    (tmp_path / "kept.json").rename(clip / "preprocessor_config.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (gpt2 / name).unlink()
    refuses(tmp_path, "unreadable-model", "tokenizer.json", **of_texts(files, model=gpt2))
    (clip / "model.safetensors").unlink()
    refuses(tmp_path, "unreadable-model", "the model of", **of_images(files, model=clip))
    (clip / "config.json").unlink()
    refuses(tmp_path, "unreadable-model", "configuration", **of_images(files, model=clip))


def test_weights_that_are_missing_are_not_made_up(files, tmp_path, own):
    clip = own("clip")
    weights = load_file(clip / "model.safetensors")
    gone = next(name for name in weights if re.search(r"vision_model.*layers\.1.*weight", name))
    del weights[gone]
    save_file(weights, clip / "model.safetensors", {"format": "pt"})
    refuses(tmp_path, "incomplete-weights", "lack 1 tensors", **of_images(files, model=clip))
    (clip / "model.safetensors").write_bytes((files / "clip" / "model.safetensors").read_bytes()[:-100])
    refuses(tmp_path, "unreadable-model", "truncated", **of_images(files, model=clip))


def test_code_of_a_model_is_never_run(files, tmp_path, own):
    gpt2 = own("gpt2")
    config = json.loads((gpt2 / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}, "model_type": "evil"}
    (gpt2 / "config.json").write_text(json.dumps(config))
    (gpt2 / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    refuses(tmp_path, "unreadable-model", "gpt2", **of_texts(files, model=gpt2))
    assert not (tmp_path / "ran").exists()


def test_a_pickle_in_place_of_weights_is_not_unpickled(files, tmp_path, own):
    clip = own("clip")
    (clip / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"weights": Evil()}, clip / "pytorch_model.bin")
    refuses(tmp_path, "unreadable-model", "Python objects", **of_images(files, model=clip))
    assert not (tmp_path / "ran").exists()


def test_image_processors_that_make_no_grid(files, tmp_path, own):
    clip = own("clip")
    config = json.loads((clip / "preprocessor_config.json").read_text())
    cases = {
        "does not make all images one size": {"do_center_crop": False},
        "whole patches of 8 x 8": {"crop_size": {"height": 30, "width": 30}},
        "takes images of 32 x 32": {"crop_size": {"height": 64, "width": 64}},
    }
    for named, change in cases.items():
        (clip / "preprocessor_config.json").write_text(json.dumps({**config, **change}))
        refuses(tmp_path, "image-size", named, **of_images(files, model=clip))


def test_the_tokenizer_of_another_model(files, tmp_path, own):
    gpt2 = own("gpt2")
    made = json.loads((gpt2 / "tokenizer.json").read_text())
    made["model"]["vocab"]["zzz"] = 5000  # no text needs it
    made["model"]["vocab"]["a"] = 4000
    (gpt2 / "tokenizer.json").write_text(json.dumps(made))
    refuses(tmp_path, "other-tokenizer", 4000, "another model", **of_texts(files, model=gpt2))
    built(tmp_path, **of_texts(files, model=gpt2, texts=["one"]))


def test_empty_texts(files, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("one\n\nthree\n\n")
    refuses(tmp_path, "empty-text", "2 of 4", "1, 3", **of_texts(files, texts=texts))
    with unexplained():
        acts = saestore.build(
            "Mine", store=tmp_path / "s", progress=False, **of_texts(files, texts=texts, skip_bad=True)
        )
    assert acts.items.column("key").tolist() == ["0", "2"]
    assert acts.items.column("text").tolist() == ["one", "three"]
    assert acts.attributes.source["skipped"] == {"1": "it has no tokens", "3": "it has no tokens"}
    texts.write_text("\n\n")
    refuses(tmp_path, "empty-text", "2 of 2", **of_texts(files, texts=texts, skip_bad=True))


def test_files_of_texts(files, tmp_path):
    path = tmp_path / "texts.xml"
    path.write_text("one")
    refuses(tmp_path, "unknown-suffix", "'.xml'", ".jsonl", **of_texts(files, texts=path))
    path = tmp_path / "latin.txt"
    path.write_bytes("café".encode("latin-1"))
    refuses(tmp_path, "not-utf-8", "latin.txt", "byte 3", **of_texts(files, texts=path))
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a"}\n{"text": 3}\n')
    refuses(tmp_path, "invalid-json", "line 2", **of_texts(files, texts=path))
    path.write_text('{"text": "a"}\n{"text":\n')
    refuses(tmp_path, "invalid-json", "line 2", **of_texts(files, texts=path))
    with pytest.raises(NotFoundError) as caught:
        saestore.build("Mine", store=tmp_path / "s", progress=False, **of_texts(files, texts=tmp_path / "nothing.txt"))
    assert "nothing.txt" in str(caught.value)
    refuses(tmp_path, "invalid-count", "max_tokens 9999", **of_texts(files, max_tokens=9999))


def test_nan_names_the_image(files, tmp_path, own):
    """A model that overflows is only seen when it runs; JumpReLU would take NaN for zero without a word."""
    clip = own("clip")
    weights = load_file(clip / "model.safetensors")
    name = next(
        name for name in weights if name.endswith("vision_model.post_layernorm.weight") or "class_embedding" in name
    )
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, clip / "model.safetensors", {"format": "pt"})
    with raises(InvalidInputError, "not-finite", "00.png", "row 0"):
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
