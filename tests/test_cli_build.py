"""`saestore build`: what it makes of its options, and how it is stopped and goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_stores import invoke, refused

import saestore
from saestore.cli import keys, main

torch = pytest.importorskip("torch", reason="building needs torch")

D_IN, D_SAE, K = 8, 40, 5


@pytest.fixture(autouse=True)
def scratch(monkeypatch, tmp_path):
    """A scratch folder, still empty, and nothing in the folder where the command runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAESTORE_PATH", "activations.zarr")
    monkeypatch.setenv("SAESTORE_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


@pytest.fixture
def weights():
    """Bias and encoder of a TopK SAE that explains most of the variance: both signs of every axis, and some noise."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((D_IN, D_SAE - 2 * D_IN)) / 1000
    encoder = np.concatenate([np.eye(D_IN), -np.eye(D_IN), noise], axis=1)
    return (rng.standard_normal(D_IN) / 10).astype(np.float32), encoder.astype(np.float32)


@pytest.fixture
def sae(tmp_path, weights):
    """A checkpoint in CLIP-Scope's format."""
    bias, encoder = map(torch.from_numpy, weights)
    path = tmp_path / "my-sae.pt"
    state = {"pre_b": bias, "enc": encoder, "dec": encoder.T.contiguous()}
    torch.save({"k": K, "n_features": D_SAE, "d_in": D_IN, "model_state_dict": state}, path)
    return path


def embeddings(n_rows, seed=1):
    return np.random.default_rng(seed).standard_normal((n_rows, D_IN)).astype(np.float32)


def npy(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)
    return path


def found_by_name(scratch, dataset, base, n_rows):
    """Embeddings where the research pipeline puts those of a known dataset."""
    folder = scratch / "Embeddings" / dataset
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(embeddings(n_rows)), folder / f"{base}.pt")


PATCHES, CLS = "CLIP_SAE_patch_embeddings_percentthrumodel_92", "CLIP_SAE_cls_embeddings_percentthrumodel_92"


def expected(rows, weights, k=K):
    """The top k of the product, by numpy."""
    bias, encoder = weights
    values = (rows - bias) @ encoder
    kept = np.argsort(-values, axis=1)[:, :k]
    dense = np.zeros_like(values)
    np.put_along_axis(dense, kept, np.take_along_axis(values, kept, axis=1), axis=1)
    return dense


def test_a_dataset_of_ones_own(tmp_path, sae, weights):
    rows = embeddings(36)
    source = npy(tmp_path / "e.npy", rows)
    items = tmp_path / "metadata.csv"
    items.write_text("image_path,split,color::red\n" + "".join(f"i/{i}.jpg,train,1\n" for i in range(4)))
    result = invoke("build", "Mine", "--embeddings", source, "--sae", sae, "--items", items, "--store", "new.zarr")
    assert result.exit_code == 0, result.stderr
    acts = saestore.open("new.zarr")["Mine/patch"]
    assert acts.path == "Mine/patch/my-sae"
    np.testing.assert_allclose(acts.dense(), expected(rows, weights), rtol=1e-5, atol=1e-6)
    for text in (
        "36 of 4 items",
        "180",
        "5.00 active features per sample",
        "never active",
        "x the size",
        "first batch",
    ):
        assert text in result.stdout, text


def test_json_is_that_of_info(tmp_path, sae):
    words = ["build", "Mine", "--embeddings", npy(tmp_path / "e.npy", embeddings(20)), "--sae", sae, "--json"]
    result = invoke(*words)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == json.loads(invoke("info", "--json").stdout)
    found = json.loads(result.stdout)
    assert set(found["sets"][0]) == set(keys.SET_INFO)
    assert main.commands["build"].keys == keys.SETS


def test_options_reach_the_build(tmp_path, sae, weights):
    rows = embeddings(24)
    spans = npy(tmp_path / "spans.npy", np.tile([[0, 1]], (24, 1)))
    words = ["--sample-type", "token", "--item-ptr", "4", "--token-spans", spans, "--dtype", "float16", "--top-k", "3"]
    words += ["--segment-rows", "5", "--codec", "blosc", "--device", "cpu"]
    source = npy(tmp_path / "e.npy", rows)
    result = invoke("build", "Mine", "--embeddings", source, "--sae", sae, *words)
    assert result.exit_code == 0, result.stderr
    acts = saestore.open("activations.zarr")["Mine"]
    about = acts.attributes
    assert (acts.path, acts.n_items, about.item_size) == ("Mine/token/my-sae", 6, 4)
    assert (about.dtype, about.codec, about.segment_rows) == ("float16", "blosc", 5)
    assert acts.nnz == 24 * 3
    assert about.dropped["top_k"] == 3
    assert "token_start" in acts.samples
    assert "48 non-zeros" in result.stdout


def test_item_ptr_may_be_a_file(tmp_path, sae):
    source = npy(tmp_path / "e.npy", embeddings(10))
    np.savez(tmp_path / "p.npz", ptr=np.array([0, 3, 10]), other=np.zeros(3))
    given = ["--sample-type", "token", "--item-ptr", f"{tmp_path}/p.npz:ptr"]
    assert invoke("build", "Mine", "--embeddings", source, "--sae", sae, *given).exit_code == 0
    rows = json.loads(invoke("top-samples", "--feature", 1, "--json").stdout)["rows"]
    assert len({row["item"] for row in rows}) == 2
    assert all(row["item"] == (row["sample"] >= 3) for row in rows)


def test_overwrite_replaces_another_build(tmp_path, sae):
    first, second = (npy(tmp_path / f"{n}.npy", embeddings(n)) for n in (10, 12))
    assert invoke("build", "Mine", "--embeddings", first, "--sae", sae).exit_code == 0
    words = ["build", "Mine", "--embeddings", second, "--sae", sae]
    assert "--overwrite" in refused_after_progress(*words)
    assert saestore.open("activations.zarr")["Mine"].shape[0] == 10
    assert invoke(*words, "--overwrite").exit_code == 0
    assert saestore.open("activations.zarr")["Mine"].shape[0] == 12


def refused_after_progress(*words):
    """The last line on stderr of a build that fails once its bar is shown."""
    result = invoke(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("saestore: error: ")
    return last


# Known datasets


def test_all_sample_types_whose_embeddings_are_found(scratch, sae):
    found_by_name(scratch, "CLEVR", PATCHES, 512)
    found_by_name(scratch, "CLEVR", CLS, 2)
    result = invoke("build", "clevr", "--sae", sae)
    assert result.exit_code == 0, result.stderr
    assert list(saestore.open("activations.zarr")) == ["CLEVR/cls/my-sae", "CLEVR/patch/my-sae"]
    assert result.stdout.index("CLEVR/patch/my-sae") < result.stdout.index("CLEVR/cls/my-sae")
    assert "skipping" not in result.stderr


def test_a_sample_type_without_embeddings_is_skipped_with_a_reason(scratch, sae):
    found_by_name(scratch, "CLEVR", CLS, 2)
    result = invoke("build", "CLEVR", "--sae", sae)
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "skipping" in line]
    assert PATCHES in line
    assert list(saestore.open("activations.zarr")) == ["CLEVR/cls/my-sae"]


def test_one_sample_type_of_several_datasets(scratch, sae):
    for dataset in ("CLEVR", "Coco"):
        found_by_name(scratch, dataset, CLS, 2)
        found_by_name(scratch, dataset, PATCHES, 512)
    result = invoke("build", "CLEVR", "Coco", "--sample-type", "cls", "--sae", sae, "--json")
    assert [found["path"] for found in json.loads(result.stdout)["sets"]] == ["CLEVR/cls/my-sae", "Coco/cls/my-sae"]


@pytest.mark.parametrize("names", [("CLEVR", "Coco"), ("Coco", "CLEVR"), ("nosuch", "CLEVR")])
def test_what_is_named_and_missing_does_not_stop_the_others(scratch, sae, names):
    found_by_name(scratch, "CLEVR", CLS, 2)
    missing = next(name for name in names if name != "CLEVR")
    result = invoke("build", *names, "--sample-type", "cls", "--sae", sae)
    assert result.exit_code == 1
    assert list(saestore.open("activations.zarr")) == ["CLEVR/cls/my-sae"]
    assert any(line.startswith(f"saestore: error: {missing} (cls): ") for line in result.stderr.splitlines())
    assert f"1 of 2 were not built: {missing} (cls)" in result.stderr.splitlines()[-1]


def test_without_a_name_what_the_sae_does_not_fit_is_skipped(scratch, sae):
    found_by_name(scratch, "Coco", CLS, 3)
    folder = scratch / "Embeddings" / "CLEVR"
    folder.mkdir(parents=True)
    torch.save(torch.zeros(2, D_IN + 1), folder / f"{CLS}.pt")
    result = invoke("build", "--sae", sae)
    assert result.exit_code == 0, result.stderr
    assert list(saestore.open("activations.zarr")) == ["Coco/cls/my-sae"]
    assert any("skipping CLEVR (cls): " in line and f"width {D_IN + 1}" in line for line in result.stderr.splitlines())


def test_without_a_name_all_known_datasets_that_are_found(scratch, sae):
    found_by_name(scratch, "Coco", CLS, 3)
    result = invoke("build", "--sae", sae)
    assert result.exit_code == 0, result.stderr
    assert list(saestore.open("activations.zarr")) == ["Coco/cls/my-sae"]
    skipped = [line for line in result.stderr.splitlines() if "skipping" in line]
    # One line for each of the six others, and one for its patches.
    assert [line.split()[2] for line in skipped].count("Coco:") == 1
    assert len(skipped) == 7


def test_without_a_name_and_any_embeddings(monkeypatch):
    said = invoke("build")
    assert said.exit_code == 1
    assert "SAESTORE_SCRATCH" in said.stderr.splitlines()[-1]
    assert not Path("activations.zarr").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["CLEVER"], ["'CLEVER'", "CLEVR"]),
        (["CLEVR"], [PATCHES]),
        (["CLEVR", "--sample-type", "token"], ["token", "patch and cls"]),
        (["Mine", "--embeddings", "none.npy", "--sae", "s"], ["none.npy"]),
    ],
    ids=" ".join,
)
def test_what_cannot_be_built_is_refused_in_one_line(words, said):
    line = refused("build", *words)
    assert all(text in line for text in said), line
    assert not Path("activations.zarr").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--embeddings", "e.npy"],
        ["CLEVR", "Coco", "--embeddings", "e.npy"],
        ["CLEVR", "Coco", "--items", "metadata.csv"],
        ["--item-ptr", "256"],
        ["CLEVR", "--dtype", "float8"],
        ["CLEVR", "--top-k", "0"],
        ["CLEVR", "--codec", "zip"],
        ["CLEVR", "--sample-type", "pixel"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(words):
    assert "Usage:" in refused("build", *words, status=2)


# Stopping


def test_ctrl_c_keeps_what_is_committed_and_the_same_command_goes_on(tmp_path, sae, weights):
    rows = embeddings(1_000)
    source = npy(tmp_path / "e.npy", rows)
    command = ["build", "Mine", "--embeddings", str(source), "--sae", str(sae), "--segment-rows", "128"]
    # Sent by the process to itself when it makes its first file below this folder: long before its last commit.
    first = str(tmp_path / "activations.zarr" / "Mine" / "patch" / "my-sae" / "segments" / "1")
    program = f"""
import os, signal, sys
from saestore.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
def interrupt(event, arguments, sent=[]):
    if event in ("open", "os.mkdir") and str(arguments[0]).startswith({first!r}) and not sent:
        sent.append(True)
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(interrupt)
main({command!r})
"""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, env=env)
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        "saestore: interrupted. What is committed is kept; give the same command again to go on from there."
    )
    before = saestore.open("activations.zarr")["Mine"]
    assert 0 < before.shape[0] < len(rows)
    assert not before.attributes.complete

    result = invoke(*command)
    assert result.exit_code == 0, result.stderr
    assert f"{before.shape[0]:,} of 1,000" in result.stderr
    acts = saestore.open("activations.zarr")["Mine"]
    np.testing.assert_allclose(acts.dense(), expected(rows, weights), rtol=1e-4, atol=1e-5)
    assert invoke("verify").exit_code == 0
