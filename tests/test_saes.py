"""Loading SAEs: every way to name one, and every way in which its files can be wrong."""

import json
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from raising import raises

import saestore
from saestore.cli import main
from saestore.errors import InvalidInputError, NotFoundError

torch = pytest.importorskip("torch")
sae_lens = pytest.importorskip("sae_lens")

import huggingface_hub.constants  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from saestore.sae import REGISTERED, load_sae  # noqa: E402
from saestore.sae.encode import Encoder  # noqa: E402
from saestore.sae.loaded import name_from_path, slug  # noqa: E402
from saestore.sae.releases import find_releases  # noqa: E402

D_IN, D_SAE, K = 8, 32, 4
CLIP = REGISTERED["clip-scope-22"]


def topk(k=K, d_sae=D_SAE, seed=0, **config):
    torch.manual_seed(seed)
    return sae_lens.TopKSAE(sae_lens.TopKSAEConfig(d_in=D_IN, d_sae=d_sae, k=k, **config))


@pytest.fixture
def folder(tmp_path):
    topk().save_model(tmp_path / "mine")
    return tmp_path / "mine"


VERSION = {"sae_lens_version": "6.0.0"}


def edit_config(folder, **changes):
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | changes))


def checkpoint(**changes):
    torch.manual_seed(0)
    state = {"pre_b": torch.randn(D_IN), "enc": torch.randn(D_IN, D_SAE), "dec": torch.randn(D_SAE, D_IN)}
    whole = {"k": K, "n_features": D_SAE, "d_in": D_IN, "model_state_dict": state} | changes
    return {key: value for key, value in whole.items() if value is not None}


def save_checkpoint(path, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint(**changes), path)
    return path


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


# From a folder.


@pytest.mark.once
def test_a_folder_is_read_without_sae_lens(folder):
    code = "import sys; from saestore.sae import load_sae; load_sae(sys.argv[1]); print('sae_lens' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("architecture", ["standard", "abstopk", "jumprelu", "jumprelu_skip_transcoder"])
@pytest.mark.parametrize("norm", ["none", "layer_norm", "constant_norm_rescale"])
def test_a_folder_is_what_sae_lens_loads_of_it(architecture, norm, tmp_path):
    """Activations to the last bit, and the fingerprint of the object that sae_lens makes of the folder."""
    torch.manual_seed(0)
    kind, config = sae_lens.registry.get_sae_class(architecture)
    more = {"k": K} if "topk" in architecture else {}
    more |= {"d_out": D_IN, "apply_b_dec_to_input": False} if "transcoder" in architecture else {}
    sae = kind(config(d_in=D_IN, d_sae=D_SAE, normalize_activations=norm, **more))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn_like(parameter))
    sae.save_model(tmp_path / "x")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "x")
    loaded, x = load_sae(tmp_path / "x"), torch.randn(20, D_IN)
    assert not isinstance(loaded.module, sae_lens.SAE)
    assert loaded.fingerprint() == load_sae(theirs).fingerprint()
    encoder = Encoder(loaded)
    rows, dense = encoder.encode(x), theirs.encode(x).detach().numpy()
    np.testing.assert_array_equal(rows.rows(), np.nonzero(dense)[0])
    np.testing.assert_array_equal(rows.data, dense[np.nonzero(dense)])
    if "transcoder" not in architecture:
        residual = (x - theirs(x)).detach().double().square().sum() / (x - x.mean(0)).double().square().sum()
        assert encoder.explained_variance(x, rows) == pytest.approx(1 - float(residual), rel=1e-4)


def test_settings_that_are_not_known_are_left_to_sae_lens(folder):
    edit_config(folder, a_setting_of_the_future=1)
    with pytest.warns(UserWarning, match="a_setting_of_the_future"):
        assert isinstance(load_sae(folder).module, sae_lens.SAE)


def test_folder(folder):
    sae = load_sae(folder)
    assert sae.name == "mine"
    assert (sae.d_in, sae.d_sae) == (D_IN, D_SAE)
    assert sae.info == {
        "architecture": "topk",
        "d_in": D_IN,
        "d_sae": D_SAE,
        "k": K,
        "dtype": "float32",
        "normalize_activations": "none",
        "apply_b_dec_to_input": True,
        "hook_name": None,
        "model_name": None,
        "release": None,
        "sae_id": None,
        "source": str(folder),
    }
    json.dumps(dict(sae.info))
    assert load_sae(str(folder)).fingerprint() == sae.fingerprint()
    assert load_sae(sae) is sae


def test_folder_tells_model_and_hook(tmp_path):
    metadata = sae_lens.saes.sae.SAEMetadata(
        model_name="gpt2", hook_name="blocks.3.hook_z", model_from_pretrained_kwargs={"center_unembed": True}
    )
    with pytest.warns(UserWarning, match="model_from_pretrained_kwargs"):
        topk(metadata=metadata).save_model(tmp_path / "x")
    with pytest.warns(UserWarning, match=r"the SAE x was trained .*center_unembed"):
        info = load_sae(tmp_path / "x").info
    assert info["model_from_pretrained_kwargs"] == {"center_unembed": True}
    assert (info["model_name"], info["hook_name"]) == ("gpt2", "blocks.3.hook_z")


def test_folder_of_sae_lens_before_6(tmp_path):
    torch.manual_seed(0)
    sae = sae_lens.StandardSAE(sae_lens.StandardSAEConfig(d_in=D_IN, d_sae=D_SAE))
    sae.save_model(tmp_path / "old")
    old = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "device": "cuda", "hook_point": "h.1", "model_name": "m"}
    (tmp_path / "old" / "cfg.json").write_text(json.dumps(old))
    loaded = load_sae(tmp_path / "old")
    assert (loaded.info["architecture"], loaded.info["hook_name"]) == ("standard", "h.1")
    assert loaded.fingerprint() == load_sae(sae).fingerprint()


def test_old_config_with_an_activation_that_sae_lens_would_drop(tmp_path):
    sae_lens.StandardSAE(sae_lens.StandardSAEConfig(d_in=D_IN, d_sae=D_SAE)).save_model(tmp_path / "old")
    old = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "device": "cpu", "hook_name": "h.1"}
    for config, named in [
        ({"activation_fn_str": "tanh-relu"}, "'tanh-relu'"),
        ({"activation_fn_str": "topk"}, "topk"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {}}, "topk"),
    ]:
        (tmp_path / "old" / "cfg.json").write_text(json.dumps(old | config))
        with raises(InvalidInputError, "unsupported-sae", named, "old"):
            load_sae(tmp_path / "old")
    good = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}
    (tmp_path / "old" / "cfg.json").write_text(json.dumps(old | good))
    assert load_sae(tmp_path / "old").info["k"] == 4


def test_a_key_that_sae_lens_leaves_out_is_warned_of(folder):
    edit_config(folder, top_k=4, decoder_init_norm=0.1)
    with pytest.warns(UserWarning, match=r"cfg.json has top_k, which") as caught:
        load_sae(folder)
    assert len(caught) == 1


def test_a_scale_that_is_not_folded_is_folded_or_warned_of(folder):
    plain = Encoder(load_sae(folder))
    edit_config(folder, normalize_activations="expected_average_only_in")
    with pytest.warns(UserWarning, match="expected_average_only_in"):
        load_sae(folder)
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 2.0}))
    loaded = load_sae(folder)  # without a warning: the checkpoint has the factor
    assert loaded.info["normalize_activations"] == "none"
    x = torch.randn(20, D_IN)
    scaled, expected = Encoder(loaded).encode(x), plain.encode(2 * x)
    np.testing.assert_array_equal(scaled.indices, expected.indices)
    np.testing.assert_allclose(scaled.data, expected.data, rtol=1e-5)
    assert loaded.fingerprint() != load_sae(topk()).fingerprint()


def test_positions_and_tokens_of_the_training_are_recorded(tmp_path):
    metadata = sae_lens.saes.sae.SAEMetadata(
        seqpos_slice=[5, -5], exclude_special_tokens=True, model_from_pretrained_kwargs={"fold_ln": False}
    )
    with pytest.warns(UserWarning, match="model_from_pretrained_kwargs"):
        topk(metadata=metadata).save_model(tmp_path / "x")
    with pytest.warns(UserWarning, match=r"seqpos_slice=\[5, -5\]") as caught:
        info = load_sae(tmp_path / "x").info
    assert len(caught) == 1  # the raw model is the one that it was trained on
    assert (info["seqpos_slice"], info["exclude_special_tokens"]) == ([5, -5], True)
    assert "model_from_pretrained_kwargs" not in info


@pytest.mark.parametrize("file", ["cfg.json", "sae_weights.safetensors"])
def test_folder_without_a_file(folder, file):
    (folder / file).unlink()
    with raises(NotFoundError, "file-missing", f"Missing, of sae_lens: {file}", "mine"):
        load_sae(folder)


@pytest.mark.parametrize("text", ["{", "", "\x00"])
def test_config_that_is_not_json(folder, text):
    (folder / "cfg.json").write_text(text)
    with raises(InvalidInputError, "damaged-file", "cfg.json", "JSON", "sae_lens"):
        load_sae(folder)


def test_config_that_is_no_object(folder):
    (folder / "cfg.json").write_text("[]")
    with raises(InvalidInputError, "invalid-sae", "JSON list"):
        load_sae(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_weights(folder, keep):
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with raises(InvalidInputError, "damaged-file", "mine"):
        load_sae(folder)


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"d_sae": 64}, "invalid-sae", "d_sae is 64"),
        ({"d_in": 9}, "invalid-sae", "d_in is 9"),
        ({"d_in": "8"}, "invalid-sae", "d_in='8'"),
        ({"dtype": "int3"}, "invalid-sae", "int3"),
        ({"apply_b_dec_to_input": 0.5}, "invalid-sae", "apply_b_dec_to_input=0.5"),
        ({"architecture": "jumprelu"}, "invalid-sae", "threshold"),
        ({"architecture": "gated"}, "invalid-sae", "b_gate"),
        ({"metadata": {"seqpos_slice": 5, **VERSION}}, "invalid-sae", "seqpos_slice=5"),
        ({"metadata": {"model_from_pretrained_kwargs": ["fold_ln"], **VERSION}}, "invalid-sae", "fold_ln"),
        ({"metadata": {"context_size": "long", **VERSION}}, "invalid-sae", "'long'"),
        ({"architecture": "novel"}, "unsupported-sae", "'novel'"),
        ({"architecture": ["topk"]}, "unsupported-sae", "['topk']"),
        ({"k": 33}, "invalid-sae", "k=33"),
        ({"k": 0}, "invalid-sae", "k=0"),
        ({"k": None}, "unsupported-sae", "k to cfg.json"),
        ({"normalize_activations": "loudly"}, "invalid-sae", "loudly"),
    ],
)
def test_config_that_the_weights_contradict(folder, changes, code, named):
    edit_config(folder, **changes)
    with raises(InvalidInputError, code, named) as error:
        load_sae(folder)
    assert str(folder) in one_line(error)


def test_weights_that_lack_a_tensor(folder):
    weights = load_file(folder / "sae_weights.safetensors")
    del weights["b_enc"]
    save_file(weights, folder / "sae_weights.safetensors")
    with raises(InvalidInputError, "invalid-sae", "b_enc"):
        load_sae(folder)


@pytest.mark.parametrize(
    "name", ["TranscoderConfig", "SkipTranscoderConfig", "JumpReLUTranscoderConfig", "JumpReLUSkipTranscoderConfig"]
)
def test_transcoders_encode_and_do_not_decode(name, tmp_path):
    torch.manual_seed(0)
    cfg = getattr(sae_lens, name)(d_in=D_IN, d_sae=D_SAE, d_out=D_IN, apply_b_dec_to_input=False)
    sae = sae_lens.SAE.get_sae_class_for_architecture(cfg.architecture())(cfg)
    sae.save_model(tmp_path / "t")
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn_like(parameter))
    sae.save_model(tmp_path / "t")
    x = torch.randn(20, D_IN)
    for spec in (tmp_path / "t", sae):
        loaded = load_sae(spec)
        assert loaded.info["transcodes"] is True
        encoder = Encoder(loaded)
        rows = encoder.encode(x)
        dense = np.zeros((20, D_SAE), np.float32)
        dense[np.repeat(np.arange(20), np.diff(rows.indptr)), rows.indices] = rows.data
        np.testing.assert_array_equal(dense, sae.encode(x).detach().numpy())
        assert np.isnan(encoder.explained_variance(x, rows))


def test_a_transcoder_whose_config_lies(tmp_path):
    cfg = sae_lens.TranscoderConfig(d_in=D_IN, d_sae=D_SAE, d_out=5, apply_b_dec_to_input=False)
    sae_lens.Transcoder(cfg).save_model(tmp_path / "t")
    assert load_sae(tmp_path / "t").info["transcodes"]
    edit_config(tmp_path / "t", d_out=6)
    with raises(InvalidInputError, "invalid-sae", "d_out is 6", "sae_lens"):
        load_sae(tmp_path / "t")


def test_temporal_saes_are_refused(tmp_path):
    if not hasattr(sae_lens, "TemporalSAE"):
        pytest.skip("this sae_lens has no temporal SAEs")
    sae = sae_lens.TemporalSAE(sae_lens.TemporalSAEConfig(d_in=D_IN, d_sae=64, n_heads=1))
    sae.save_model(tmp_path / "t")
    for spec in (tmp_path / "t", sae):
        with raises(InvalidInputError, "unsupported-sae", "temporal"):
            load_sae(spec)


# From memory.


def test_object_is_named_after_what_it_knows():
    assert load_sae(topk()).name == f"topk-32-{load_sae(topk()).fingerprint()[:8]}"
    metadata = sae_lens.saes.sae.SAEMetadata(model_name="gpt2", hook_name="blocks.3.hook_z")
    names = [load_sae(topk(metadata=metadata, seed=seed)).name for seed in (0, 0, 1)]
    assert all(name.startswith("gpt2-blocks.3.hook_z-") for name in names)
    assert names[0] == names[1] != names[2]  # two SAEs of one hook are two sets
    metadata.neuronpedia_id = "gpt2-small/3-att-kk"
    assert load_sae(topk(metadata=metadata)).name == "gpt2-small-3-att-kk"


@pytest.mark.parametrize("spec", [None, 7, torch.nn.Linear(2, 2)])
def test_objects_that_are_no_sae_are_refused(spec):
    with raises(InvalidInputError, "not-an-sae", type(spec).__name__):
        load_sae(spec)


# Fingerprints.


def test_fingerprint_is_of_what_decides_the_activations(folder, tmp_path):
    same = load_sae(folder).fingerprint()
    shutil.copytree(folder, tmp_path / "copy")
    edit_config(tmp_path / "copy", metadata={"model_name": "another"}, device="meta")
    assert load_sae(tmp_path / "copy").fingerprint() == same
    assert load_sae(topk()).fingerprint() == same
    different = [topk(k=5), topk(apply_b_dec_to_input=False), topk(rescale_acts_by_decoder_norm=True), topk(seed=1)]
    different += [topk(normalize_activations="layer_norm"), topk(dtype="bfloat16")]
    nudged = topk()
    nudged.b_dec.data[0] = 1e-30
    prints = [load_sae(sae).fingerprint() for sae in [*different, nudged]]
    assert len({same, *prints}) == len(prints) + 1


def test_fingerprint_of_a_checkpoint_depends_on_weights_and_k(tmp_path):
    paths = [
        save_checkpoint(tmp_path / "a.pt"),
        save_checkpoint(tmp_path / "22_resid" / "b.pt"),
        save_checkpoint(tmp_path / "c.pt", k=3),
    ]
    a, b, c = (load_sae(path).fingerprint() for path in paths)
    assert a == b
    assert a != c


# Names.


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("examples/clevr/sae", "clevr-sae"),
        ("runs/dinov2-l8-k32", "dinov2-l8-k32"),
        ("runs/my run (2)/final", "my-run-2-final"),
        ("runs/1200013184", "runs-1200013184"),
        ("Ärger/saes", "rger-saes"),
        ("runs/.hidden", "hidden"),
        ("checkpoints/o3k9wq1b/final_122880", "o3k9wq1b-final_122880"),
        ("checkpoints/o3k9wq1b/checkpoint-500", "o3k9wq1b-checkpoint-500"),
        ("o3k9wq1b/checkpoints/step_100k", "o3k9wq1b-checkpoints-step_100k"),
        ("o3k9wq1b/layer_12", "layer_12"),
        ("o3k9wq1b/best_model", "o3k9wq1b-best_model"),
        ("o3k9wq1b/epoch=3-step=10", "o3k9wq1b-epoch-3-step-10"),
        ("o3k9wq1b/final_500_tokens", "o3k9wq1b-final_500_tokens"),
    ],
)
def test_name_from_path(path, name, tmp_path):
    (tmp_path / path).mkdir(parents=True)
    assert name_from_path(tmp_path / path) == name


def test_name_does_not_follow_links(folder, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    assert load_sae("link").name == "link"


def test_slug_is_never_empty():
    assert slug("///") == "sae"


# CLIP-Scope checkpoints.


def test_checkpoint_in_the_hubs_folder_knows_its_layer(tmp_path):
    path = save_checkpoint(tmp_path / CLIP.file)
    sae = load_sae(path)
    assert sae.name == "clip-scope-22"
    assert sae.info == {
        "architecture": "clip_scope",
        "d_in": D_IN,
        "d_sae": D_SAE,
        "k": K,
        "dtype": "float32",
        "normalize_activations": "none",
        "apply_b_dec_to_input": True,
        "hook_name": "blocks.22.hook_resid_post",
        "model_name": "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
        "release": None,
        "sae_id": None,
        "source": str(path),
        "family": "CLIP-Scope",
    }


def test_checkpoint_elsewhere_is_named_after_its_file(tmp_path):
    assert load_sae(save_checkpoint(tmp_path / "mine.pt")).name == "mine"
    assert load_sae(save_checkpoint(tmp_path / "clip" / "900.pt")).name == "clip-900"
    assert load_sae(tmp_path / "mine.pt").info["hook_name"] is None


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"k": None}, "not-an-sae", "lacks k;"),
        ({"n_features": None, "d_in": None}, "not-an-sae", "lacks n_features, d_in;"),
        ({"model_state_dict": None}, "not-an-sae", "lacks model_state_dict, model_state_dict['pre_b']"),
        ({"model_state_dict": [1]}, "not-an-sae", "lacks model_state_dict['pre_b']"),
        ({"model_state_dict": {"pre_b": torch.zeros(D_IN)}}, "not-an-sae", "lacks model_state_dict['enc']"),
        ({"k": 0}, "invalid-sae", "k=0"),
        ({"k": D_SAE + 1}, "invalid-sae", "k=33"),
        ({"k": 2.5}, "invalid-sae", "k=2.5"),
        ({"d_in": 9}, "invalid-sae", "'pre_b'] is torch.float32 (8,)"),
        ({"model_state_dict": {"pre_b": [1], "enc": 2, "dec": 3}}, "invalid-sae", "'pre_b'] is list"),
    ],
)
def test_checkpoint_laid_out_otherwise(tmp_path, changes, code, named):
    path = save_checkpoint(tmp_path / "x.pt", **changes)
    with raises(InvalidInputError, code, named) as error:
        load_sae(path)
    assert str(path) in one_line(error)


@pytest.mark.parametrize(
    ("key", "tensor", "named"),
    [
        ("enc", torch.zeros(D_SAE, D_IN), "(32, 8)"),
        ("dec", torch.zeros(D_SAE, D_IN, dtype=torch.int32), "torch.int32"),
        ("dec", torch.zeros(D_SAE, D_IN, dtype=torch.float64), "one dtype"),
    ],
)
def test_checkpoint_with_a_wrong_tensor(tmp_path, key, tensor, named):
    state = checkpoint()["model_state_dict"] | {key: tensor}
    with raises(InvalidInputError, "invalid-sae", named):
        load_sae(save_checkpoint(tmp_path / "x.pt", model_state_dict=state))


def test_checkpoint_that_is_no_dict(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "x.pt")
    with raises(InvalidInputError, "not-an-sae", "Tensor"):
        load_sae(tmp_path / "x.pt")


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("sprung"),))


@pytest.mark.parametrize("write", [torch.save, lambda obj, path: path.write_bytes(pickle.dumps(obj))])
def test_checkpoint_that_would_run_code(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write(checkpoint(extra=Trap()), tmp_path / "x.pt")
    with raises(InvalidInputError, "pickled", "x.pt"):
        load_sae(tmp_path / "x.pt")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_checkpoint(tmp_path, share):
    path = save_checkpoint(tmp_path / "x.pt")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with raises(InvalidInputError, "damaged-file", "x.pt"):
        load_sae(path)


# Nothing there.


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("clip-scope-2", "'clip-scope-22'"),
        ("no/such/folder", "clip-scope-22, gemma-scope-9b-34-16k"),
        ("", "no SAE ''"),
        (":x", "no SAE ':x'"),
        ("gpt2-small-res-j:blocks.8.hook_resid_pre", "'gpt2-small-res-jb'"),
        ("gpt2-small-res-jb:blocks.88.hook_resid_pre", "'blocks.8.hook_resid_pre'"),
    ],
)
def test_names_of_nothing(spec, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with raises(NotFoundError, "unknown-sae", named) as error:
        load_sae(spec)
    one_line(error)
    with pytest.raises(NotFoundError) as error:
        load_sae("no/such/file.pt")
    assert "no/such/file.pt" in one_line(error)


def test_a_file_that_is_no_sae(folder):
    with raises(InvalidInputError, "not-an-sae", folder):
        load_sae(folder / "cfg.json")
    (folder / "x.npy").touch()
    with raises(InvalidInputError, "not-an-sae", "x.npy"):
        load_sae(folder / "x.npy")


# The hub: its real client on a cache in the real layout, and without a network.


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def snapshot(cache, repo):
    """Make a cached repository, and return the folder where its files lie."""
    root, commit = cache / f"models--{repo.replace('/', '--')}", "0" * 40
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    (root / "snapshots" / commit).mkdir(parents=True)
    return root / "snapshots" / commit


def test_registered_checkpoint_comes_from_the_cache(cache):
    path = save_checkpoint(snapshot(cache, CLIP.repo) / CLIP.file)
    sae = load_sae("clip-scope-22")
    assert sae.name == "clip-scope-22"
    assert (sae.info["release"], sae.info["sae_id"], sae.info["source"]) == (CLIP.repo, CLIP.file, str(path))
    assert sae.fingerprint() == load_sae(path).fingerprint()


def test_release_comes_from_the_cache(cache):
    topk().save_model(snapshot(cache, "someone/saes") / "layer_3")
    sae = load_sae("someone/saes:layer_3")
    assert sae.name == "someone-saes-layer_3"
    assert (sae.info["release"], sae.info["sae_id"]) == ("someone/saes", "layer_3")
    assert sae.fingerprint() == load_sae(topk()).fingerprint()
    with raises(NotFoundError, "hub-unreachable", "layer_4", "save_model"):
        load_sae("someone/saes:layer_4")


OFFLINE = {
    "clip-scope-22": (CLIP.file, CLIP.repo, "hf download", f"--sae {CLIP.file}"),
    "gemma-scope-9b-34-16k": ("params.npz of google/gemma-scope-9b-pt-res", "--sae ./gemma-scope-9b-34-16k"),
    "gpt2-small-res-jb:blocks.8.hook_resid_pre": ("SAE gpt2-small-res-jb:", "--sae ./gpt2-small-res-jb-blocks.8"),
    "someone/saes:layer_3": ("SAE someone/saes:layer_3", "--sae ./someone-saes-layer_3"),
}


@pytest.mark.parametrize("spec", OFFLINE)
def test_hub_names_without_a_hub_say_what_to_do(spec, cache, monkeypatch):
    with raises(NotFoundError, "hub-offline", "HF_HUB_OFFLINE", *OFFLINE[spec]) as error:
        load_sae(spec)
    one_line(error)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    # Port 9 discards what it gets where it exists, which it does not.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with raises(NotFoundError, "hub-unreachable", "http://127.0.0.1:9", *OFFLINE[spec]) as error:
        load_sae(spec)
    one_line(error)


def test_an_sae_of_an_unknown_library_is_told_what_is_read(tmp_path):
    weights = {"encoder.weight": torch.randn(8, D_IN), "decoder.weight": torch.randn(D_IN, 8), "k": torch.tensor(2)}
    for name, content, code in (
        ("ae.pt", weights, "no-such-file"), ("sae.pt", weights, "not-an-sae"), ("x.pt", [1], "not-an-sae"),
        ("whole.pth", torch.nn.Linear(2, 2), "pickled"),
    ):  # fmt: skip
        torch.save(content, tmp_path / name)
        with raises(InvalidInputError if code != "no-such-file" else NotFoundError, code, "of sae_lens"):
            load_sae(tmp_path / name)


def listed(*words, limit):
    result = CliRunner().invoke(main, ["saes", *words, "-n", str(limit), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.once
def test_the_list_of_registered_saes():
    """Of every word all and only the SAEs of sae_lens; layer and width as Neuronpedia's ids have them."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    everything = {each.name: each.to_dict() for each in find_releases()}
    assert set(everything) == {f"{name}:{sae_id}" for name, about in directory.items() for sae_id in about.saes_map}
    few = listed("gemma-scope", "WIDTH_16K", "layer_20/", limit=3)
    fit = [name for name in everything if all(word in name for word in ("gemma-scope", "width_16k", "layer_20/"))]
    assert [each["name"] for each in few["saes"]] == fit[:3]
    assert few["left_out"] == len(fit) - 3 > 0
    compared = 0
    for release, about in directory.items():
        for sae_id, page in about.neuronpedia_id.items():
            known = re.fullmatch(r"[^/]+/(\d+)-gemmascope-\w+-(\d+)k", page or "")
            if known is None:
                continue
            each = everything[f"{release}:{sae_id}"]
            assert (each["model"], each["layer"]) == (about.model, int(known[1]))
            assert each["width"] // 1000 == int(known[2])
            compared += 1
    assert compared > 300
    assert everything["gemma-scope-9b-pt-res:layer_34/width_16k/average_l0_114"]["l0"] == 114
    assert everything["gpt2-small-resid-mid-v5-32k:blocks.8.hook_resid_mid"]["width"] == 1 << 15
    widths = {"gpt2-small-hook-z-kk:blocks.0.hook_z": 24576, "gemma-2b-res-jb:blocks.0.hook_resid_post": 16384,
              "goodfire-llama-3.1-8b-instruct:layer_19": 65536, "gpt2-small-res-jb:blocks.0.hook_resid_pre": None,
              "gemma-3-1b-res-matryoshka-dc:blocks.0.hook_resid_post": 1 << 15}  # fmt: skip
    assert {name: everything[name]["width"] for name in widths} == widths


def test_a_width_that_no_name_has_is_in_the_configuration_in_the_cache(tmp_path, monkeypatch):
    """As huggingface_hub lays out its cache; nothing is downloaded."""
    repo = tmp_path / "models--jbloom--GPT2-Small-SAEs-Reformatted"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    folder = repo / "snapshots" / ("0" * 40) / "blocks.3.hook_resid_pre"
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(json.dumps({"d_in": 768, "d_sae": 24576, "hook_point": "blocks.3.hook_resid_pre"}))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    widths = {each.name.partition(":")[2]: each.width for each in find_releases(["gpt2-small-res-jb:"])}
    assert {block for block, width in widths.items() if width} == {"blocks.3.hook_resid_pre"}
    assert widths["blocks.3.hook_resid_pre"] == 24576


@pytest.mark.once
def test_the_table_of_registered_saes():
    result = CliRunner().invoke(main, ["saes", "gemma-scope-9b-pt-res", "layer_34", "width_16k"])
    assert result.exit_code == 0
    head, *rows = result.stdout.splitlines()
    assert head.split() == ["SAE", "model", "layer", "width", "L0"]
    assert all(row.split()[-3:-1] == ["34", "16,384"] for row in rows)
    assert CliRunner().invoke(main, ["saes", "no-such-model"]).exit_code != 0


def test_embeddings_that_state_another_model_or_hook_are_refused(tmp_path):
    """Where both sides state one; where one is silent, or other_model=True, they are encoded."""
    from build_helpers import sae_lens_folder

    from saestore.models.training_spec import SAETrainingSpec

    folder = tmp_path / "sae"
    sae_lens_folder("standard", folder, d_in=16)
    cfg = json.loads((folder / "cfg.json").read_text())
    cfg["metadata"] = {**cfg.get("metadata", {}), "model_name": "gpt2-small", "hook_name": "blocks.3.hook_resid_post"}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    rows, store = torch.randn(8, 16), tmp_path / "store"

    def built(other_model=False, **stated):
        save_file({"embeddings": rows}, tmp_path / "x.safetensors", metadata=stated or None)
        how = {"sample_type": "cls", "sae": folder, "store": store, "progress": False, "other_model": other_model}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return saestore.build("Mine", embeddings=tmp_path / "x.safetensors", **how)

    with raises(InvalidInputError, "other-model", "gpt2-small", "pythia-70m", "--other-model"):
        built(model_name="EleutherAI/pythia-70m")
    with raises(InvalidInputError, "layer-mismatch", "blocks.3", "blocks.5", "--other-model"):
        built(model_name="gpt2-small", hook_name="blocks.5.hook_resid_post")
    assert not store.exists()
    assert built(other_model=True, model_name="EleutherAI/pythia-70m").shape[0] == 8
    assert built(hook_name="blocks.4.hook_resid_pre").shape[0] == 8  # the same place
    assert built(model_name="openai-community/gpt2").shape[0] == 8  # the same model by another name
    assert built().shape[0] == 8
    spec = SAETrainingSpec("mine", 16, model="google/gemma-2-2b")
    with raises(InvalidInputError, "other-model", "gemma-2-2b-it"):
        spec.check_model("google/gemma-2-2b-it", 16)
    spec.check_model("google/gemma-2-2b-it", 16, other=True)
    spec.check_model("unsloth/gemma-2-2b", 16)
    for name, refused in {"google/gemma-2-9b": True, "/data/run-7/last": False, "../runs/last": False}.items():
        (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": name}))
        warned = pytest.warns(UserWarning, match="gemma-2-2b")
        with raises(InvalidInputError, "other-model", "gemma-2-9b") if refused else warned:
            spec.check_model(str(tmp_path), 16)


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ("gpt2-small", "openai-community/gpt2", True),
        ("gpt2-small", "gpt2-medium", False),
        ("Llama-2-7b", "meta-llama/Llama-2-7b-hf", True),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B", True),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct", False),
        ("mistral-7b", "mistralai/Mistral-7B-v0.1", True),
        ("qwen-1.8b", "Qwen/Qwen-1_8B", True),
        ("gelu-1l", "NeelNanda/GELU_1L512W_C4_Code", True),
        ("gelu-1l", "NeelNanda/GELU_2L512W_C4_Code", False),
        ("pythia-70m", "EleutherAI/pythia-70m-deduped", False),
    ],
)
def test_one_model_by_several_names(ours, theirs, same):
    from saestore.models.training_spec import SAETrainingSpec

    spec = SAETrainingSpec("mine", 16, model=ours)
    with nullcontext() if same else raises(InvalidInputError, "other-model", ours, theirs):
        spec.check_stated("x", {"model": theirs})
    assert "transformer_lens.loading_from_pretrained" not in sys.modules or "sae_lens" in sys.modules


def test_an_import_that_states_another_model_or_hook_than_its_sae(tmp_path):
    """A Delphi cache has the model in its configuration, and the hook in the name of its folder."""
    from build_helpers import sae_lens_folder
    from foreign_files import save_delphi, top_rows

    folder, store = tmp_path / "sae", tmp_path / "store"
    d_sae = sae_lens_folder("standard", folder, d_in=16).cfg.d_sae

    def trained(model, hook):
        edit_config(folder, metadata={**VERSION, "model_name": model, "hook_name": hook})

    def imported(hookpoint, **how):
        dense = top_rows(20, d_sae, 6).astype(np.float16)
        cache = tmp_path / "caches" / hookpoint
        if not cache.exists():
            save_delphi(cache, dense, 10)
        how = {"store": store, "sae": folder, "overwrite": True, "progress": False, **how}
        return saestore.import_activations(f"Mine/token/{hookpoint}", cache, **how)

    trained("gpt2-small", "blocks.3.hook_resid_post")
    for act in (imported, lambda hook: saestore.check_import("Mine/token", tmp_path / "caches" / hook, sae=folder)):
        with raises(InvalidInputError, "other-model", "gpt2-small", "some/model", "--other-model"):
            act("layers.3")
    trained("model", "blocks.5.hook_resid_post")
    for hookpoint in ("layers.3", "layers.5.mlp"):
        with raises(InvalidInputError, "layer-mismatch", "blocks.5", hookpoint):
            imported(hookpoint)
    assert not store.exists()
    assert imported("layers.3", other_model=True).shape == (20, d_sae)
    assert imported("layers.5").shape == (20, d_sae)  # the output of that block
    assert imported("mine").shape == (20, d_sae)  # not the name of a place
    trained("some/model", "blocks.5.hook_mlp_out")
    assert imported("layers.5.mlp").shape == (20, d_sae)
