"""The notebooks run as they are, what is stored is what a run shows, and numpy and scikit-learn say the same."""

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
IMAGES = EXAMPLES.parent / "docs" / "images"
CLEVR = EXAMPLES / "clevr"

NOTEBOOKS = ("concepts", "discovery")

nbformat = pytest.importorskip("nbformat")


@pytest.fixture(scope="module")
def example_module():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield importlib.import_module


@pytest.fixture(scope="module")
def pictures(example_module):
    return example_module("pictures")


@pytest.fixture(scope="module")
def choosing(example_module):
    return example_module("choosing")


@pytest.fixture(scope="module")
def stored(pictures):
    return {path.stem: nbformat.read(path, as_version=4) for path in (pictures.NOTEBOOK, pictures.DISCOVERY)}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder with the project's examples, where the notebook puts its store."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "examples").symlink_to(EXAMPLES)
    return folder


@pytest.fixture(scope="module")
def run(pictures, checkout):
    """The notebooks after a run in the folder."""
    for package in ("torch", "sae_lens", "matplotlib", "sklearn", "nbclient", "ipykernel"):
        pytest.importorskip(package)
    return dict(zip(NOTEBOOKS, pictures.executed(checkout, pictures.NOTEBOOK, pictures.DISCOVERY), strict=True))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell):
    return "\n".join(output["data"]["text/plain"] for output in cell.outputs if "text/plain" in output.get("data", {}))


def shown(notebook, start):
    """What the one cell that has a line with this start shows."""
    (cell,) = [cell for cell in code_cells(notebook) if re.search(rf"^{re.escape(start)}", cell.source, re.MULTILINE)]
    return text_of(cell)


def table(text):
    """The rows of a table as pandas prints it: name, and its numbers."""
    rows = [line.split() for line in text.splitlines() if "::" in line]
    return {row[0]: [float(value) for value in row[1:]] for row in rows}


def complaints(cells, streams):
    """Errors, and what was written to these streams."""
    outputs = [output for cell in cells for output in cell.outputs]
    return [o for o in outputs if o.output_type == "error" or o.get("name") in streams]


@pytest.mark.parametrize(
    ("name", "streams", "size"), [("concepts", ("stdout", "stderr"), 1_500_000), ("discovery", ("stderr",), 500_000)]
)
def test_it_is_stored_as_it_was_run(stored, name, streams, size):
    cells = code_cells(stored[name])
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not complaints(cells, streams)
    text = json.dumps(stored[name])
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
    assert len(text) < size


def test_pictures_of_the_docs_are_its_own(pictures, stored):
    found = pictures.pictures(stored["concepts"])
    assert {"green", "density", "histogram", "compare"} <= set(found)
    for name, png in found.items():
        assert (IMAGES / f"{name}.png").read_bytes() == png


@pytest.mark.parametrize(("name", "streams"), [("concepts", ("stdout", "stderr")), ("discovery", ("stderr",))])
def test_it_runs_without_a_word_of_warning(run, name, streams):
    assert not complaints(code_cells(run[name]), streams)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_run_shows_what_is_stored(run, stored, name):
    """Cell by cell: the numbers in the text of the notebook are about these. Pictures are as many."""
    for now, then in zip(code_cells(run[name]), code_cells(stored[name]), strict=True):
        assert now.source == then.source
        assert now.execution_count == then.execution_count
        if "key" in now.metadata.get("tags", []):
            assert text_of(now) == text_of(then)
        assert [o.output_type for o in now.outputs] == [o.output_type for o in then.outputs]


@pytest.fixture(scope="module")
def images(run, checkout):
    """The items of the example, their dense activations, and which are held out."""
    acts = saestore.open(checkout / "demo/concepts.zarr")["CLEVR/patch/clevr-sae"]
    return pd.read_csv(CLEVR / "metadata.csv"), acts.dense().reshape(36, 256, -1)


def test_image_scores_are_scikit_learns(run, images, choosing):
    score = pytest.importorskip("sklearn.metrics").average_precision_score
    items, dense = images
    held_out = items["split"] == "test"
    strongest = dense.max(axis=1)
    for name, (feature, chosen_on, test) in table(shown(run["concepts"], "held_out = ")).items():
        true = items[name] == 1
        assert chosen_on == round(score(true[~held_out], strongest[~held_out, int(feature)]), 2)
        assert test == round(score(true[held_out], strongest[held_out, int(feature)]), 2)
        best = choosing.average_precision(strongest[~held_out], true[~held_out].to_numpy()).max()
        assert chosen_on == round(best, 2)


def test_patch_scores_are_those_of_the_masks(run, images):
    """With the share of each patch that the object covers as it was measured when the images were made."""
    f1_score = pytest.importorskip("sklearn.metrics").f1_score
    items, dense = images
    covered = np.load(CLEVR / "patch_object_fraction.npy") > 0.25
    held_out = (items["split"] == "test").to_numpy()
    found = table(shown(run["concepts"], "found = "))
    for name, (feature, threshold, chosen_on, test, _) in found.items():
        true = covered & (items[name] == 1).to_numpy()[:, None]
        predicted = dense[:, :, int(feature)] >= threshold - 0.005  # it is shown with two digits
        for part, shown_f1 in ((~held_out, chosen_on), (held_out, test)):
            assert f1_score(true[part].ravel(), predicted[part].ravel()) == pytest.approx(shown_f1, abs=0.08)
    # What the notebook's text says of them.
    assert found["color::green"][3] > 0.95
    assert found["shape::cylinder"][2] > 0.5
    assert found["shape::cylinder"][3] < 0.1


def test_matches_are_correlations_by_numpy(run, checkout, images):
    _, dense = images
    smaller = saestore.open(checkout / "demo/concepts.zarr")["CLEVR/patch/clevr-sae-512"].dense()
    rows = [line.split()[2:] for line in shown(run["concepts"], "matches = ").splitlines() if "::" in line]
    assert len(rows) == 6
    for feature, other, shown_score, n_both in rows:
        column = dense.reshape(9216, -1)[:, int(feature)]
        alive = smaller.any(axis=0)
        with np.errstate(invalid="ignore"):
            correlations = np.corrcoef(column, smaller.T[alive])[0, 1:]
        assert np.flatnonzero(alive)[correlations.argmax()] == int(other)
        assert round(correlations.max(), 2) == float(shown_score)
        assert np.count_nonzero((column != 0) & (smaller[:, int(other)] != 0)) == int(n_both)


def test_the_contrast_is_scipys_and_what_was_learnt_is_in_the_store(run, checkout):
    store = saestore.open(checkout / "demo/discovery.zarr")
    acts = store["CLEVR/patch/clevr-sae"]
    items = pd.read_csv(EXAMPLES / "clevr" / "metadata.csv")
    on = acts.dense().reshape(36, 256, -1).max(axis=1) > 0
    green = (items["color::green"] == 1).to_numpy()
    text = next(text_of(cell) for cell in code_cells(run["discovery"]) if cell.source.startswith("contrast ="))
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
