"""The notebook of discoveries runs as it is, shows what is stored, and its figures are those of the dense arrays."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

import saestore

EXAMPLES = Path(__file__).parent.parent / "examples"

nbformat = pytest.importorskip("nbformat")

pytestmark = pytest.mark.once  # the other notebook runs with every version


@pytest.fixture(scope="module")
def pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield importlib.import_module("pictures")


@pytest.fixture(scope="module")
def stored(pictures):
    return nbformat.read(pictures.DISCOVERY, as_version=4)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("discovery")
    (folder / "examples").symlink_to(EXAMPLES)
    return folder


@pytest.fixture(scope="module")
def run(pictures, checkout):
    for package in ("torch", "sae_lens", "matplotlib", "sklearn", "nbclient", "ipykernel"):
        pytest.importorskip(package)
    return pictures.executed(checkout, pictures.DISCOVERY)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell):
    return "\n".join(output["data"]["text/plain"] for output in cell.outputs if "text/plain" in output.get("data", {}))


def test_it_is_stored_as_it_was_run(stored):
    cells = code_cells(stored)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    text = json.dumps(stored)
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
    assert len(text) < 500_000


def test_a_run_shows_what_is_stored(run, stored):
    for now, then in zip(code_cells(run), code_cells(stored), strict=True):
        assert now.source == then.source
        assert [o.output_type for o in now.outputs] == [o.output_type for o in then.outputs]
        assert not [o for o in now.outputs if o.output_type == "error" or o.get("name") == "stderr"]
        if "key" in now.metadata.get("tags", []):
            assert text_of(now) == text_of(then)


def test_the_contrast_is_scipys_and_what_was_learnt_is_in_the_store(run, checkout):
    store = saestore.open(checkout / "demo/discovery.zarr")
    acts = store["CLEVR/patch/clevr-sae"]
    items = pd.read_csv(EXAMPLES / "clevr" / "metadata.csv")
    on = acts.dense().reshape(36, 256, -1).max(axis=1) > 0
    green = (items["color::green"] == 1).to_numpy()
    text = next(text_of(cell) for cell in code_cells(run) if cell.source.startswith("contrast ="))
    for line in text.splitlines()[1:]:
        feature, rate_a, rate_b, _, p, _ = map(float, line.split()[1:])
        k = [int(on[group, int(feature)].sum()) for group in (green, ~green)]
        assert (rate_a, rate_b) == (pytest.approx(k[0] / 12, abs=0.005), pytest.approx(k[1] / 24, abs=0.005))
        table = [k, [12 - k[0], 24 - k[1]]]
        assert p == pytest.approx(scipy.stats.fisher_exact(table)[1], rel=0.01)
    assert acts.features.column("name", [1884])[0] == "green object"
    tweets = store["iSarcasm/token/isarcasm-sae"]
    assert "degree" in tweets.features.column("explanation", [500])[0]
    assert float(tweets.features.column("detection", [500])[0]) > 0.7
    lines = (checkout / "demo/explanation-sets.jsonl").read_text().splitlines()
    (written,) = map(json.loads, lines)
    assert len(written["train"]) == 10
    column = tweets.dense(features=500)
    for row in written["train"]:
        np.testing.assert_allclose(row["activation"], column[row["sample"]], rtol=1e-6)
