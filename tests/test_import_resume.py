"""Imports that are killed anywhere, and go on."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from raising import raises
from strategies import make_case

import saestore
from saestore.errors import InvalidInputError, StoreConflictError

pytestmark = pytest.mark.once

PATH = "Shapes/patch/sae"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the program forks, so that its children need not import again")
def test_killed_anywhere_it_goes_on(tmp_path):
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here.parent), "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, here / "killing_imports.py", tmp_path], env=environment, check=True, timeout=600)


class Stopped(Exception):
    pass


def stop_after(n):
    """A progress that ends an import when it has read its n-th segment; the one before it is still written."""

    def progress(message):
        nonlocal n
        n -= "samples read" in message
        if not n:
            raise Stopped

    return progress


@pytest.fixture
def half(tmp_path):
    """A store with the first of three segments of an import, and the file it is of."""
    case = make_case(3, 48, 9, density=0.4)
    sp.save_npz(tmp_path / "x.npz", case.csr)
    store = tmp_path / "s.zarr"
    with pytest.raises(Stopped):
        saestore.import_activations(PATH, tmp_path / "x.npz", store=store, segment_rows=16, progress=stop_after(2))
    return case, tmp_path / "x.npz", store


def test_what_is_committed_is_there_and_stays(half):
    case, path, store = half
    acts = saestore.open(store)[PATH]
    assert not acts.attributes.complete
    assert np.array_equal(acts.dense(), case.dense[:16])
    assert not (store / PATH / "lock").exists()
    said = []
    acts = saestore.import_activations(PATH, path, store=store, progress=said.append)
    assert np.array_equal(acts.dense(), case.dense)
    # Neither checked nor written again.
    assert said[:2] == [
        f"{PATH}: 48 of 48 samples checked, {case.csr[16:].nnz / 32:.1f} active/row",
        f"{PATH}: going on after 16 of 48 samples.",
    ]
    assert said[2].startswith(f"{PATH}: 32 of 48 samples read")
    assert acts.attributes.source["faults"] == saestore.check_import(PATH, path).to_json()["faults"]


def test_another_file_does_not_go_on_with_it(half, tmp_path):
    case, path, store = half
    sp.save_npz(tmp_path / "other.npz", 2 * case.csr)
    before = saestore.open(store)[PATH].attributes
    for how in ({"path": tmp_path / "other.npz"}, {"path": path, "segment_rows": 17}, {"path": path, "codec": "blosc"}):
        with raises(StoreConflictError, "different-content", PATH):
            saestore.import_activations(PATH, store=store, **how)
    assert saestore.open(store)[PATH].attributes == before
    acts = saestore.import_activations(PATH, tmp_path / "other.npz", store=store, overwrite=True)
    assert np.array_equal(acts.dense(), 2 * case.dense)


def test_a_file_that_was_damaged_since(half):
    """The rest is checked again before anything is added."""
    case, path, store = half
    csr = case.csr
    csr.data[-1] = np.nan
    sp.save_npz(path, csr)
    with raises(StoreConflictError, "different-content", "files ("):
        saestore.import_activations(PATH, path, store=store)
    with raises(InvalidInputError, "errors-in-file", "nan"):
        saestore.import_activations(PATH, path, store=store, overwrite=True)
    assert np.array_equal(saestore.open(store)[PATH].dense(), case.dense[:16])
