"""The shipped examples are what their READMEs say, and the demo finds in them what scikit-learn finds."""

import importlib
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import saestore

pytestmark = pytest.mark.once

EXAMPLES = Path(__file__).parent.parent / "examples"
CLEVR, ISARCASM = EXAMPLES / "clevr", EXAMPLES / "isarcasm"


@pytest.fixture(scope="module")
def example_module():
    """Import a module of `examples`, which holds scripts and is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield importlib.import_module


@pytest.fixture(scope="module")
def choosing(example_module):
    return example_module("choosing")


# --- the files


def test_examples_stay_small():
    assert sum(file.stat().st_size for file in EXAMPLES.rglob("*") if file.is_file()) < 18e6


@pytest.mark.parametrize("readme", sorted(EXAMPLES.rglob("README.md")), ids=lambda readme: readme.parent.name)
def test_files_that_a_readme_names_exist(readme):
    text = readme.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    files = re.findall(r"^(?:\| |- )`([^`]+)`", text, flags=re.MULTILINE)
    assert len(links) + len(files) > 2
    for name in links + [file for file in files if not file.startswith("W_")]:
        assert list(readme.parent.glob(name)), name


def test_clevr_rows_fit_its_images():
    items = pd.read_csv(CLEVR / "metadata.csv")
    embeddings = np.load(CLEVR / "embeddings.npy")
    assert len(items) == len(set(items["image_path"])) == 36
    assert (items["class"].value_counts() == 4).all()
    assert items["split"].value_counts().to_dict() == {"train": 18, "cal": 9, "test": 9}
    assert (embeddings.shape, embeddings.dtype) == ((36 * 256, 384), np.float16)
    assert np.isfinite(embeddings).all()
    for folder, ending in (("images", "jpg"), ("masks", "png")):
        assert {file.stem for file in (CLEVR / folder).glob(f"*.{ending}")} == {
            Path(p).stem for p in items["image_path"]
        }


def test_clevr_labels_and_patches_are_those_of_its_pixels():
    """The object has the colour that the labels say, and a patch a sixteenth of the width and height of the image."""
    image_of = pytest.importorskip("PIL.Image").open
    items = pd.read_csv(CLEVR / "metadata.csv")
    fraction = np.load(CLEVR / "patch_object_fraction.npy").astype(float)
    assert fraction.shape == (36, 256)
    for i, path in enumerate(items["image_path"]):
        with image_of(CLEVR / path) as image, image_of(CLEVR / "masks" / f"{Path(path).stem}.png") as mask:
            pixels, inside = np.asarray(image.convert("RGB")), np.asarray(mask.convert("1"))
        assert pixels.shape == (320, 480, 3)
        colour = ("red", "green", "blue")[pixels[inside].mean(axis=0).argmax()]
        assert items[f"color::{colour}"][i] == 1
        covered = inside.reshape(16, 20, 16, 30).mean(axis=(1, 3)).ravel()
        np.testing.assert_allclose(fraction[i], covered, atol=0.06)  # that was measured after squashing to 224 x 224


def test_isarcasm_rows_fit_its_texts():
    texts = pd.read_csv(ISARCASM / "texts.csv", keep_default_na=False)
    tokens = np.load(ISARCASM / "tokens.npz", allow_pickle=False)
    embeddings = np.load(ISARCASM / "embeddings.npy")
    starts, offsets = tokens["text_ptr"], tokens["offsets"]
    assert len(texts) == len(starts) - 1 == 174
    assert texts["sarcastic"].tolist() == [1, 0] * 87
    assert texts["split"].value_counts().to_dict() == {"train": 105, "cal": 39, "test": 30}
    assert (embeddings.shape, embeddings.dtype) == ((2450, 640), np.float16)
    assert np.isfinite(embeddings).all()
    assert starts[0] == 0
    assert starts[-1] == len(offsets) == len(tokens["token_ids"]) == 2450
    lengths = np.diff(starts)
    assert lengths.max() <= 26
    assert np.abs(lengths[0::2] - lengths[1::2]).max() <= 1


def test_isarcasm_tokens_cover_their_texts():
    """Tokens follow one another, and what none of them covers is white space."""
    texts = pd.read_csv(ISARCASM / "texts.csv", keep_default_na=False)["text"]
    tokens = np.load(ISARCASM / "tokens.npz", allow_pickle=False)
    for text, start, stop in zip(texts, tokens["text_ptr"], tokens["text_ptr"][1:], strict=False):
        spans = tokens["offsets"][start:stop]
        assert (spans[:, 0] <= spans[:, 1]).all()
        assert (np.diff(spans[:, 0]) >= 0).all()
        assert spans[:, 1].max() <= len(text)
        left = [char for i, char in enumerate(text) if not ((spans[:, 0] <= i) & (i < spans[:, 1])).any()]
        assert not "".join(left).strip()


# --- the SAEs


@dataclass(frozen=True)
class Promised:
    """What a README says of an SAE and its activations."""

    architecture: str
    shape: tuple[int, int]
    dead: int
    active: float
    explained: float


@pytest.mark.parametrize(
    ("folder", "promised"),
    [
        (CLEVR / "sae", Promised("topk", (9216, 1984), dead=4, active=32.0, explained=0.945)),
        (CLEVR / "sae-512", Promised("topk", (9216, 512), dead=11, active=16.0, explained=0.938)),
        (ISARCASM / "sae", Promised("jumprelu", (2450, 1024), dead=0, active=24.3, explained=0.756)),
    ],
    ids=["clevr", "clevr-512", "isarcasm"],
)
def test_saes_do_what_the_readmes_say(folder, promised):
    """By sae_lens itself: it loads them, in float32, and they explain what they are said to."""
    torch = pytest.importorskip("torch")
    lens = pytest.importorskip("sae_lens")
    sae = lens.SAE.load_from_disk(folder)
    assert sae.cfg.architecture() == promised.architecture
    assert all(weight.dtype == torch.float32 for weight in sae.state_dict().values())
    x = torch.from_numpy(np.load(folder.parent / "embeddings.npy")).float()
    with torch.inference_mode():
        activations = sae.encode(x)
        lost = (x - sae.decode(activations)).double().square().sum()
    assert tuple(activations.shape) == promised.shape
    assert int((activations == 0).all(0).sum()) == promised.dead
    assert float((activations != 0).sum(1).double().mean()) == pytest.approx(promised.active, abs=0.05)
    explained = 1 - float(lost / (x - x.mean(0)).double().square().sum())
    assert explained == pytest.approx(promised.explained, abs=0.001)


# --- choosing a feature

labelled = st.integers(2, 30).flatmap(
    lambda n: st.tuples(
        # Few different values, so that there are ties, and negative ones, which a top-k SAE without ReLU has.
        hnp.arrays(np.float32, (n, 4), elements=st.sampled_from([-1.0, 0.0, 0.0, 0.5, 1.0, 2.0, 3.0])),
        hnp.arrays(np.bool_, n).filter(np.any),
    )
)


def best_f1(column, positive):
    """The best F1 of a feature over thresholds above zero, and the threshold, by scikit-learn."""
    curve = pytest.importorskip("sklearn.metrics").precision_recall_curve
    precision, recall, thresholds = curve(positive, column)
    use = thresholds > 0
    if not use.any():
        return 0.0, np.inf
    precision, recall = precision[:-1][use], recall[:-1][use]
    scores = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return scores.max(), thresholds[use][scores.argmax()]


@given(labelled)
def test_f1_is_scikit_learns(choosing, drawn):
    metrics = pytest.importorskip("sklearn.metrics")
    dense, positive = drawn
    for column in dense.T:
        expected = metrics.f1_score(positive, column > 0, zero_division=0)
        assert choosing.f1(column > 0, positive) == pytest.approx(expected)


@given(labelled)
def test_best_detector_has_scikit_learns_best_f1(choosing, drawn):
    dense, positive = drawn
    best = max(best_f1(column, positive)[0] for column in dense.T)
    detector = choosing.best_detector(sp.csr_array(dense), positive)
    if best == 0:
        assert detector.feature == -1
    else:
        assert detector.threshold > 0
        predicted = dense[:, detector.feature] >= detector.threshold
        assert choosing.f1(predicted, positive) == pytest.approx(best)


@given(labelled)
def test_average_precision_is_scikit_learns(choosing, drawn):
    score = pytest.importorskip("sklearn.metrics").average_precision_score
    dense, positive = drawn
    expected = [score(positive, column) for column in dense.T]
    np.testing.assert_allclose(choosing.average_precision(dense, positive), expected)


# --- the demo


def test_demo_finds_and_shows_what_scikit_learn_finds(checkout_after_demo):
    image_of = pytest.importorskip("PIL.Image").open
    folder, out = checkout_after_demo
    store = saestore.open(folder / "demo/activations.zarr")
    green, threshold, f1 = expected_green(store["CLEVR/patch"])
    sarcastic = expected_sarcastic(store["iSarcasm/token"])
    assert f1 > 0.8
    assert f"feature {green}, where it is at least {threshold:.3f}" in " ".join(out.split())
    assert f"{f1:.2f} on the 2,304 held out" in " ".join(out.split())
    assert f"$ saestore top-samples --dataset CLEVR --feature {green} " in out
    assert f"$ saestore top-samples --dataset iSarcasm --feature {sarcastic} " in out
    assert out.splitlines()[-1].endswith("saestore serve demo/activations.zarr --open")
    assert "demo/green.png" in out[-400:]
    with image_of(folder / "demo/green.png") as picture:
        assert picture.width > picture.height > 800


def expected_green(acts):
    items = pd.read_csv(CLEVR / "metadata.csv")
    covered = np.load(CLEVR / "patch_object_fraction.npy") > 0.25
    positive = (covered & (items["color::green"].to_numpy() == 1)[:, None]).ravel()
    test = np.repeat(items["split"].to_numpy() == "test", 256)
    dense = acts.dense()
    able = np.flatnonzero((dense[positive & ~test] > 0).any(axis=0))  # the F1 of all others is 0
    found = [best_f1(dense[~test, feature], positive[~test]) for feature in able]
    place = int(np.argmax([f1 for f1, _ in found]))
    feature, threshold = able[place], found[place][1]
    score = pytest.importorskip("sklearn.metrics").f1_score
    return feature, threshold, score(positive[test], dense[test, feature] >= threshold)


def expected_sarcastic(acts):
    score = pytest.importorskip("sklearn.metrics").average_precision_score
    texts = pd.read_csv(ISARCASM / "texts.csv", keep_default_na=False)
    starts = np.load(ISARCASM / "tokens.npz", allow_pickle=False)["text_ptr"]
    dense = acts.dense()
    strongest = np.stack([dense[a:b].max(axis=0) for a, b in itertools.pairwise(starts)])
    use = texts["split"].to_numpy() != "test"
    positive = texts["sarcastic"].to_numpy()[use]
    return int(np.argmax([score(positive, column) for column in strongest[use].T]))
