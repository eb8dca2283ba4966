"""Reading ground truth: what belongs together, and what is missing."""

import numpy as np
import pytest
import scipy.sparse as sp
from raising import raises

torch = pytest.importorskip("torch", reason="ground truth is in .pt files")
pytest.importorskip("safetensors.torch")

from cli_stores import invoke, refused  # noqa: E402 (what follows needs torch)
from dataset_folders import IMAGE, TEXT  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import saestore  # noqa: E402
from saestore.errors import InvalidInputError, NotFoundError  # noqa: E402
from saestore.superactivators.ground_truth import Expected, read_ground_truth  # noqa: E402
from saestore.tables.item_index import ItemIndex  # noqa: E402

pytestmark = pytest.mark.once

SPLIT = np.array(["train", "cal", "test", "train"])
GRID = ItemIndex(4, 4)  # four images of four patches


def save(folder, name, content, suffix=IMAGE):
    torch.save(content, folder / f"gt_{name}{suffix}")


def splits(folder, what, **of_split):
    for split in ("train", "cal", "test"):
        save(folder, f"{what}_per_concept_{split}", {"dog": of_split.get(split, [])})


def test_files_of_all_splits_and_of_each_must_agree(tmp_path):
    splits(tmp_path, "patch", train=[0, 13], test=[9])
    save(tmp_path, "patches_per_concept", {"dog": [0, 9, 13]})
    truth = read_ground_truth(tmp_path, Expected("patch", GRID, split=SPLIT))
    assert truth.disagreements == []
    np.testing.assert_array_equal(truth.labels["sample"]["dog"], [0, 9, 13])
    save(tmp_path, "patches_per_concept", {"dog": [0, 9, 14]})
    truth = read_ground_truth(tmp_path, Expected("patch", GRID, split=SPLIT))
    (said,) = truth.disagreements
    assert "have other samples for 'dog': 2, first 13" in said
    with raises(InvalidInputError, "ground-truth-disagrees", "first 13", "Do this"):
        truth.check("Do this")


def test_cls_takes_the_labels_of_items_only(tmp_path):
    splits(tmp_path, "patch", train=[0, 13])
    splits(tmp_path, "samples", train=[0, 3])
    truth = read_ground_truth(tmp_path, Expected("cls", ItemIndex(4, 1), split=SPLIT))
    assert list(truth.labels) == ["item"]
    np.testing.assert_array_equal(truth.labels["item"]["dog"], [0, 3])
    save(tmp_path, "samples_per_concept", {"dog": [0]}, TEXT)
    with raises(InvalidInputError, "ambiguous-ground-truth", tmp_path):
        read_ground_truth(tmp_path, Expected("cls", ItemIndex(4, 1)))


def test_what_is_not_there_is_named(tmp_path):
    with raises(NotFoundError, "no-such-folder", tmp_path / "none"):
        read_ground_truth(tmp_path / "none", Expected("patch", GRID))
    splits(tmp_path, "patch")
    with raises(NotFoundError, "no-ground-truth", "'text', 'text2'"):
        read_ground_truth(tmp_path, Expected("token", GRID))
    save(tmp_path, "patch_per_concept_cal", [1])
    with raises(InvalidInputError, "bad-ground-truth", "cal_inputsize_(224, 224).pt", "list"):
        read_ground_truth(tmp_path, Expected("patch", GRID))


def test_a_pickle_is_not_unpickled(tmp_path):
    class Bad:
        def __reduce__(self):
            return print, ("run",)

    save(tmp_path, "samples_per_concept", {"dog": Bad()})
    with raises(InvalidInputError, "pickled"):
        read_ground_truth(tmp_path, Expected("patch", GRID))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mask=st.lists(st.booleans(), min_size=16, max_size=16), order=st.randoms(use_true_random=False))
def test_what_was_laid_out_comes_back_in_whatever_order(tmp_path, mask, order):
    rows = np.flatnonzero(mask).tolist()
    order.shuffle(rows)
    save(tmp_path, "patches_per_concept", {"dog": rows})
    with_dog = np.array(mask).reshape(4, 4).any(axis=1)
    truth = read_ground_truth(tmp_path, Expected("patch", GRID, {"dog": with_dog}, SPLIT))
    np.testing.assert_array_equal(truth.labels["sample"]["dog"], np.flatnonzero(mask))
    assert truth.disagreements == []
    # Shifted by one item, every item that lost its label is told.
    shifted = read_ground_truth(tmp_path, Expected("patch", GRID, {"dog": np.roll(with_dog, 1)}, SPLIT)).disagreements
    assert len(shifted) == int((with_dog & ~np.roll(with_dog, 1)).any())


def test_label_takes_it_and_gives_nothing_twice(tmp_path):
    store = tmp_path / "s.zarr"
    rng = np.random.default_rng(0)
    matrix = sp.random_array((16, 5), density=0.5, rng=rng, dtype=np.float32, format="csr")
    saestore.open(store, mode="a").write("Mine/patch/x", matrix, item_ptr=np.arange(0, 17, 4))
    save(tmp_path, "patches_per_concept", {"dog": [9, 0], "cat": []})
    save(tmp_path, "samples_per_concept", {"dog": [0, 2]})
    command = ["label", "--store", store, "--ground-truth", tmp_path]
    assert "no folder" in refused("label", "--store", store, "--ground-truth", tmp_path / "none")
    result = invoke(*command)
    assert result.exit_code == 0, result.stderr
    assert "2 given" in result.stdout
    assert "squashed" in result.stderr
    acts = saestore.open(store)["Mine"]
    assert (acts.concepts.names("item"), acts.concepts.names("sample")) == (["dog"], ["dog", "cat"])
    np.testing.assert_array_equal(np.flatnonzero(acts.concepts.mask("dog", "sample")), [0, 9])
    assert "given" not in invoke(*command).stdout
    save(tmp_path, "patches_per_concept", {"dog": [1], "cat": []})
    assert "dog" in refused(*command)
    assert invoke(*command, "--overwrite").exit_code == 0
    np.testing.assert_array_equal(np.flatnonzero(saestore.open(store)["Mine"].concepts.mask("dog", "sample")), [1])
