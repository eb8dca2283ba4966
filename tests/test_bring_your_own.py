"""The table of docs/bring-your-own.md names commands and tests that exist; bad input of every kind writes nothing."""

import json
import pickle
import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
import scipy.sparse as sp
from strategies import memory_store

import saestore
from saestore.cli import main
from saestore.errors import SaestoreError

PROJECT = Path(__file__).parent.parent
LINES = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (PROJECT / "docs" / "bring-your-own.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and "::" in line
]


@pytest.mark.once
@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
def test_a_line_names_a_command_and_a_test_that_exist(line):
    _, _, command, _, test = line
    file, name = test.strip("`").split("::")
    assert re.search(rf"^def {name}\(", (PROJECT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE)
    program, *words = shlex.split(command.strip("`"))
    if program == "saestore":
        found = main.get_command(click.Context(main), words[0])
        found.make_context(words[0], words[1:], resilient_parsing=False)
        return
    called = re.match(r"`(?:saestore|acts)\.(\w+)\(", command)
    assert hasattr(saestore, called[1]) or hasattr(saestore.ActivationSet, called[1])


DENSE = np.maximum(np.random.default_rng(0).normal(size=(12, 5)), 0).astype(np.float32)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def files(folder):
    """Kinds of input, each as its program writes it."""
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    values, ids = torch.from_numpy(DENSE).topk(3)
    sp.save_npz(folder / "scipy.npz", sp.csr_array(DENSE))
    np.savez(folder / "named.npz", indices=ids, values=values)
    np.save(folder / "dense.npy", DENSE)
    torch.save({"top_indices": ids, "top_acts": values}, folder / "encoded.pt")
    save({"top_indices": ids, "top_acts": values}, folder / "encoded.safetensors")
    return sorted(folder.iterdir())


def damages(path):
    """Ways to spoil a file, and the codes that say so."""
    suffix = path.suffix
    yield "truncated", lambda: half(path), {"damaged-file"}
    yield "empty", lambda: path.write_bytes(b""), {"damaged-file"}
    yield "another kind", lambda: path.write_text("hello"), {"damaged-file"}
    if suffix in (".pt", ".npy"):
        yield "pickle", lambda: path.write_bytes(pickle.dumps({"a": Path})), {"pickled", "damaged-file"}
    if suffix == ".npz":
        objects = np.array([{}, {}], object)
        yield "objects", lambda: np.savez(path, indices=objects, values=objects), {"pickled"}


@pytest.mark.parametrize("number", range(5))
def test_what_is_spoiled_is_one_error_and_writes_nothing(number, tmp_path):
    (tmp_path / "in").mkdir()
    path = files(tmp_path / "in")[number]
    whole = path.read_bytes()
    for kind, spoil, codes in damages(path):
        path.write_bytes(whole)
        spoil()
        with pytest.raises(SaestoreError) as caught:
            saestore.import_activations("A/token/s", path, store=tmp_path / "s.zarr", n_features=5, progress=False)
        assert caught.value.code in codes, (kind, caught.value)
        assert path.name in str(caught.value)
        assert not (tmp_path / "s.zarr").exists()


def test_a_width_that_lies_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    for path in files(tmp_path / "in"):
        with pytest.raises(SaestoreError) as caught:
            saestore.import_activations("A/token/s", path, store=tmp_path / "s.zarr", n_features=2, progress=False)
        assert caught.value.code in ("wrong-width", "errors-in-file"), path
    with pytest.raises(SaestoreError, match="5"):
        saestore.import_activations("A/token", DENSE, store=memory_store(), sae=other_sae(tmp_path), progress=False)
    assert not (tmp_path / "s.zarr").exists()


def other_sae(folder):
    """An SAE of 7 features, in CLIP-Scope's layout."""
    torch = pytest.importorskip("torch")
    weights = {"pre_b": torch.zeros(3), "enc": torch.ones(3, 7), "dec": torch.ones(7, 3)}
    torch.save({"k": 2, "n_features": 7, "d_in": 3, "model_state_dict": weights}, folder / "7.pt")
    return folder / "7.pt"


@pytest.mark.parametrize(
    ("change", "code"),
    [({"n_imgs": 9}, "damaged-file"), ({"layers": [1]}, "damaged-file"), ({"cls_token": None}, "damaged-file"),
     ({"d_vit": "x"}, "bad-metadata")],
    ids=["more images", "fewer layers", "no CLS token", "no width"],
)  # fmt: skip
def test_a_config_that_lies(change, code, tmp_path):
    """Shards of saev whose metadata says something else."""
    pytest.importorskip("torch")
    np.ones((4, 2, 3, 5), np.float32).tofile(tmp_path / "acts000000.bin")
    facts = {"layers": [1, 2], "n_patches_per_img": 2, "cls_token": True, "d_vit": 5, "n_imgs": 4} | change
    (tmp_path / "metadata.json").write_text(json.dumps(facts))
    with pytest.raises(SaestoreError) as caught:
        saestore.build("A", embeddings=f"{tmp_path}:1", sae=Same(), store=tmp_path / "s.zarr", progress=False)
    assert caught.value.code == code
    assert not (tmp_path / "s.zarr").exists()


class Same:
    """An SAE whose activations are its embeddings."""

    name, d_in, d_sae = "same", 5, 5
    w = np.eye(5, dtype=np.float32)

    def encode(self, x):
        return x.relu()
