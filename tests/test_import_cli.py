"""`saestore import` and `saestore export` on the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from cli_stores import ask, ask_json, image_store, invoke, paths_in, refused

import saestore
from saestore.cli import keys
from saestore.formats.base import load_format
from saestore.vocabulary import EXPORT_FORMATS, FORMATS, IMPORT_FORMATS


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return image_store(tmp_path / "s.zarr")


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_declared_by_its_module(name):
    """The vocabulary has names only, so that help need not import numpy."""
    declared = load_format(name)
    assert declared.name == name
    assert (declared.open is not None) == (name in IMPORT_FORMATS)
    assert (declared.write is not None) == (name in EXPORT_FORMATS)


def test_out_and_in(store):
    said = ask("export", "Toy", "x.npz", "--where", "split == 'train'", "--features", "0-3,7", store=store)
    matrix = sp.load_npz("x.npz")
    assert said == f"Toy/patch/x: 27 samples, {matrix.nnz} non-zeros as scipy: x.npz\n"
    assert np.array_equal(matrix.toarray(), store.dense[[*range(18), *range(45, 54)]][:, [0, 1, 2, 3, 7]])
    answer = ask("import", "Mine/patch/copy", "x.npz", store=store)
    assert "Mine/patch/copy" in answer
    assert "info" in answer  # the negative activations
    assert np.array_equal(saestore.open(store.path)["Mine"].dense(), matrix.toarray())


def test_json_has_the_documented_keys(store):
    exported = ask_json("export", "Toy", "x.npz", store=store)
    assert set(paths_in(exported)) == set(keys.EXPORT)
    checked = ask_json("import", "Mine/patch/copy", "x.npz", "--check", store=store)
    assert set(paths_in(checked)) <= set(keys.IMPORT)
    assert checked["imports"][0]["set"] is None
    assert checked["imports"][0]["report"]["ok"]
    assert "Mine/patch/copy" not in saestore.open(store.path)
    done = ask_json("import", "Mine/patch/copy", "x.npz", store=store)
    documented = set(keys.IMPORT) - {"imports[].report.faults[].details"}
    free = ("imports[].set.sae.", "imports[].set.source.", "imports[].set.summary.")
    assert {p for p in paths_in(done) if not p.startswith(free)} == documented
    assert done["imports"][0]["report"]["nnz"] == checked["imports"][0]["report"]["nnz"]


def test_check_exits_with_1_where_an_import_would_be_refused(store):
    matrix = sp.csr_array(np.array([[1, np.nan]], np.float32))
    sp.save_npz("bad.npz", matrix)
    result = invoke("import", "Mine/patch/copy", "bad.npz", "--check", store=store)
    assert result.exit_code == 1
    assert "error 1 activation not finite: row 0, feature 1 is nan" in " ".join(result.stdout.split())
    assert "Mine" not in saestore.open(store.path)
    line = refused("import", "Mine/patch/copy", "bad.npz", store=store)
    assert "bad.npz: 1 activation not finite: row 0, feature 1 is nan. Nothing was written." in line


def test_errors_take_one_line(store):
    assert "no file" in refused("import", "Mine/patch/x", "missing.npz", store=store)
    assert "'copy' is not the path" in refused("import", "copy", "missing.npz", store=store)
    assert "3-x" in refused("export", "Toy", "x.npz", "--features", "3-x", store=store, status=2)
    Path("x.npz").write_text("")
    assert "x.npz exists" in refused("export", "Toy", "x.npz", store=store)


@pytest.mark.once
def test_neither_needs_torch(store):
    """In a process of its own, where torch cannot be imported."""
    code = "import sys; sys.modules['torch'] = None; from saestore.cli import main; main()"
    environment = {
        **os.environ,
        "SAESTORE_PATH": str(store.path),
        "PYTHONPATH": str(Path(saestore.__file__).parents[1]),
    }
    for words in (["export", "Toy", "x.npz"], ["import", "Mine/patch/copy", "x.npz", "--json"]):
        run = subprocess.run(
            [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["imports"][0]["set"]["nnz"] == np.count_nonzero(store.dense)
