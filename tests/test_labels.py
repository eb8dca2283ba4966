"""Labels: what is given is what is read, the old ones or the new ones at every moment, and bad ones are told."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises
from strategies import PATH, cases, layout, make_case, scratch_store, write_case, write_segments, written

import saestore
from saestore.errors import CorruptStoreError, InvalidInputError, NotFoundError, StoreConflictError, StoreWriteError
from saestore.sparse_rows import SparseRows
from saestore.writing import SetWriter

pytestmark = pytest.mark.once


def random_masks(n, seed=0, names=("object", "traffic light", "über::all", "nothing")):
    rng = np.random.default_rng(seed)
    return {name: rng.random(n) < share for name, share in zip(names, (0.5, 0.1, 0.9, 0.0), strict=True)}


@pytest.fixture
def case():
    return make_case(3, 40, 6, segment_rows=11, chunk=16, shard=32)


@pytest.fixture
def acts(case):
    """40 samples of 32 items, with a concept from the start."""
    return written(case)


def assert_labels(acts, level, masks):
    assert acts.concepts.names(level) == list(masks)
    matrix = acts.concept_matrix(level)
    n = acts.n_items if level == "item" else acts.shape[0]
    assert isinstance(matrix, sp.csc_array)
    assert matrix.dtype == bool
    assert matrix.shape == (n, len(masks))
    expected = np.stack(list(masks.values()), axis=1) if masks else np.zeros((n, 0), bool)
    assert np.array_equal(matrix.toarray(), expected)
    for name, mask in masks.items():
        found = acts.concepts.mask(name, level)
        assert found.dtype == bool
        assert np.array_equal(found, mask)


@given(case=cases(), data=st.data())
@settings(max_examples=8)  # an example writes a store and verifies it
def test_labels_are_read_as_they_were_given(case, data):
    acts = write_case(scratch_store(), case)
    stored = {"item": {"color::red": case.red}, "sample": {}}
    for _ in range(data.draw(st.integers(1, 3))):
        level = data.draw(st.sampled_from(["item", "sample"]))
        n = acts.n_items if level == "item" else acts.shape[0]
        names = data.draw(st.lists(st.sampled_from(["a", "b c", "d::e", "color::red"]), min_size=1, unique=True))
        share = data.draw(st.sampled_from([0.0, 0.3, 1.0]))
        masks = {name: np.random.default_rng(n + i).random(n) < share for i, name in enumerate(names)}
        kind = data.draw(st.sampled_from(["masks", "lists", "ints", "sparse", "dense"]))
        with layout(case):
            give(acts, masks, level, kind)
        stored[level] |= masks
    for reader in (acts, type(acts)(acts.root, acts.path)):
        for level, masks in stored.items():
            assert_labels(reader, level, masks)
    assert not saestore.Store(acts.root).verify().problems


def give(acts, masks, level, kind):
    if kind in ("sparse", "dense"):
        matrix = np.stack(list(masks.values()), axis=1)
        matrix = sp.coo_array(matrix) if kind == "sparse" else matrix.astype(float)
        acts.concepts.add(matrix, level, names=list(masks), overwrite=True)
    else:
        how = {"masks": lambda m: m, "lists": lambda m: m.tolist(), "ints": lambda m: m.astype(np.uint8)}[kind]
        acts.concepts.add({name: how(mask) for name, mask in masks.items()}, level, overwrite=True)


def test_both_levels_may_have_a_concept_of_one_name(acts, case):
    mask = random_masks(40)["object"]
    acts.concepts.add({"color::red": mask, "object": mask}, level="sample")
    assert acts.concepts.names() == ["color::red", "object"]
    assert np.array_equal(acts.concepts.mask("color::red"), case.red)
    assert np.array_equal(acts.concepts.mask("color::red", "sample"), mask)
    assert np.array_equal(acts.concepts.mask("object"), mask)


def test_concepts_are_removed_of_one_level_or_of_both(acts):
    masks = random_masks(40)
    acts.concepts.add({**masks, "color::red": masks["object"]}, level="sample")
    acts.concepts.remove("nothing")
    acts.concepts.remove("color::red", level="item")
    assert acts.concepts.names("item") == []
    assert acts.concept_matrix("item").shape == (acts.n_items, 0)
    assert acts.concepts.names() == ["object", "traffic light", "über::all", "color::red"]
    acts.concepts.remove(["color::red", "object"])
    assert acts.concepts.names() == ["traffic light", "über::all"]
    with raises(NotFoundError, "unknown-concept", "'object'", "traffic light, über::all"):
        acts.concepts.remove(["traffic light", "object"])
    assert acts.concepts.names() == ["traffic light", "über::all"]


def test_an_opened_set_goes_on_with_the_labels_that_replaced_its_own(acts):
    masks = random_masks(40)
    acts.concepts.add(masks, level="sample")
    other = type(acts)(acts.root, acts.path)
    fresh = type(acts)(acts.root, acts.path)
    assert np.array_equal(other.concepts.mask("object"), masks["object"])
    for _ in range(2):
        acts.concepts.add({"object": ~masks["object"]}, level="sample", overwrite=True)
        for reader in (other, fresh):
            assert np.array_equal(reader.concepts.mask("object"), ~masks["object"])
        masks["object"] = ~masks["object"]


def test_a_set_without_labels_has_none():
    acts = scratch_store().write(PATH, sp.csr_array(np.eye(3)))
    assert acts.concepts.names() == acts.concepts.names("sample") == []
    assert acts.concept_matrix("item").shape == acts.concept_matrix("sample").shape == (3, 0)
    with raises(NotFoundError, "unknown-concept", "'x'", "none"):
        acts.concepts.mask("x")
    with raises(NotFoundError, "unknown-concept", "'x'", "none"):
        acts.concepts.mask("x", "sample")
    acts.concepts.add({"x": [0, 1, 1]})
    assert acts.concepts.mask("x").tolist() == [False, True, True]


def test_a_misspelt_concept_is_told_with_what_it_is_like(acts):
    with raises(NotFoundError, "unknown-concept", "'colour::red'", "Did you mean 'color::red'"):
        acts.concepts.mask("colour::red")


M = np.zeros(40, bool)
BAD = {
    "short": ({"x": M[:7]}, "wrong-length", ["'x'", 7, 32, 40]),
    "the other level": ({"x": M}, "wrong-length", ["40", "level='sample'"]),
    "other values": ({"x": np.full(32, 2)}, "invalid-label", ["'x'", "2"]),
    "negative": ({"x": np.arange(32) - 1}, "invalid-label", ["-1"]),
    "a share": ({"x": np.full(32, 0.5)}, "invalid-label", ["0.5"]),
    "text": ({"x": ["yes"] * 32}, "invalid-label", ["'x'"]),
    "nothing": ({"x": [None] * 32}, "invalid-label", ["'x'"]),
    "two dimensions": ({"x": np.zeros((32, 1))}, "invalid-shape", ["2 dimensions"]),
    "ragged": ({"x": [[1], [1, 2]]}, "wrong-length", ["'x'"]),
    "one value": ({"x": True}, "invalid-mask", ["'x'"]),
    "empty": ({}, "no-concept", []),
    "name": ({3: M[:32]}, "invalid-name", ["3"]),
    "empty name": ({" ": M[:32]}, "invalid-name", ["' '"]),
    "reserved": ({"item": M[:32]}, "reserved-name", ["'item'"]),
    "a column": ({"split": M[:32]}, "name-taken", ["'split'"]),
    "a good one and a bad one": ({"x": M[:32], "y": np.full(32, 3)}, "invalid-label", ["'y'", "3"]),
    "numbers": ([1, 2, 3], "unsupported-labels", ["list"]),
}


@pytest.mark.parametrize("which", BAD)
def test_bad_labels_are_refused_and_nothing_is_written(acts, which):
    labels, code, named = BAD[which]
    before = acts.attributes
    with raises(InvalidInputError, code, *named):
        acts.concepts.add(labels)
    again = type(acts)(acts.root, acts.path)
    assert again.attributes == before
    assert saestore.Store(acts.root).verify().ok


def test_a_bad_matrix_is_refused(acts):
    matrix = sp.csr_array(np.eye(32, 2))
    for bad, names, code, named in (
        (matrix, None, "wrong-names", ["(32, 2)", "no names"]),
        (matrix, ["a"], "wrong-names", ["1 names"]),
        (matrix, ["a", "a"], "duplicate-name", ["'a'"]),
        (matrix, ["a", ""], "invalid-name", ["''"]),
        (matrix[:5], ["a", "b"], "wrong-length", ["5"]),
        (2 * matrix, ["a", "b"], "invalid-label", ["2.0"]),
        (np.full((32, 2), "x"), ["a", "b"], "invalid-label", []),
        (np.zeros((32, 0)), [], "no-concept", []),
    ):
        with raises(InvalidInputError, code, *named):
            acts.concepts.add(bad, names=names)
    with raises(InvalidInputError, "unknown-level", "'items'"):
        acts.concepts.add({"x": M}, "items")
    with raises(InvalidInputError, "unknown-level", "'both'"):
        acts.concepts.names("both")


UNKNOWN = np.arange(32) % 4 == 1
TRUE = np.arange(32) % 2 == 0
GIVEN_UNKNOWN = {
    "masked": lambda: np.ma.MaskedArray(TRUE, UNKNOWN),
    "floats": lambda: np.where(UNKNOWN, np.nan, TRUE),
    "None": lambda: [None if u else bool(t) for u, t in zip(UNKNOWN, TRUE, strict=True)],
    "pandas": lambda: pd.array([pd.NA if u else bool(t) for u, t in zip(UNKNOWN, TRUE, strict=True)], "boolean"),
    "a series": lambda: pd.Series([None if u else float(t) for u, t in zip(UNKNOWN, TRUE, strict=True)]),
}


@pytest.mark.parametrize("how", GIVEN_UNKNOWN)
def test_unknown_labels_are_kept_and_fulfil_neither_a_condition_nor_its_negation(acts, how):
    acts.concepts.add({"x": GIVEN_UNKNOWN[how](), "y": TRUE})
    acts = type(acts)(acts.root, acts.path)
    assert np.array_equal(acts.items["x"].mask, UNKNOWN)
    assert np.array_equal(acts.concepts.mask("x"), TRUE & ~UNKNOWN)
    assert not isinstance(acts.items["y"], np.ma.MaskedArray)
    position = acts.concepts.names("item").index("x")
    assert np.array_equal(acts.concepts.matrix("item").toarray()[:, position], TRUE & ~UNKNOWN)
    assert np.array_equal(acts.concepts.unknown_matrix("item").toarray()[:, position], UNKNOWN)
    assert acts.concepts.unknown_matrix("item").sum() == UNKNOWN.sum()
    for text, expected in (
        ("x", TRUE & ~UNKNOWN),
        ("not x", ~TRUE & ~UNKNOWN),
        ("x == false", ~TRUE & ~UNKNOWN),
        ("not (x or y)", ~TRUE & ~UNKNOWN),
        ("not (x and y)", ~TRUE),
        ("x or y", TRUE),
        ("not (x == true)", ~TRUE & ~UNKNOWN),
        ("x in (true, false)", ~UNKNOWN),
        ("x != y", np.zeros(32, bool)),
    ):
        assert acts.items.where(text).tolist() == np.flatnonzero(expected).tolist(), text
        assert (
            acts.samples.where(text).tolist()
            == np.flatnonzero(expected[acts.item_index.locate(np.arange(40))[0]]).tolist()
        )
    assert saestore.Store(acts.root).verify().ok
    acts.concepts.remove("x")
    assert acts.concepts.unknown_matrix("item").sum() == 0
    assert saestore.Store(acts.root).verify().ok


def test_unknown_labels_come_as_a_sparse_matrix_too(acts):
    values = np.where(UNKNOWN, np.nan, TRUE)
    acts.concepts.add(sp.csr_array(values[:, None]), names=["s"])
    acts.concepts.add(values[:, None], names=["d"])
    for name in ("s", "d"):
        assert np.array_equal(acts.items[name].mask, UNKNOWN)
        assert np.array_equal(acts.concepts.mask(name), TRUE & ~UNKNOWN)


def test_a_concept_is_not_replaced_unless_told_to(acts, case):
    with raises(StoreConflictError, "concept-exists", "color::red", "'item'"):
        acts.concepts.add({"new": ~case.red, "color::red": ~case.red})
    assert acts.concepts.names() == ["color::red"]
    acts.concepts.add({"new": ~case.red, "color::red": ~case.red}, overwrite=True)
    assert_labels(acts, "item", {"color::red": ~case.red, "new": ~case.red})


def test_a_store_that_is_read_only_is_left_alone(tmp_path, case):
    write_case(saestore.open(tmp_path / "a.zarr", "a"), case)
    with raises(StoreWriteError, "read-only", "mode='a'"):
        saestore.open(tmp_path / "a.zarr")[PATH].concepts.add({"x": case.red})


def test_a_set_that_is_being_built_takes_labels_of_items_only(case):
    store = scratch_store()
    acts = write_segments(store, case, upto=22)
    acts.concepts.add({"x": case.red})
    with raises(InvalidInputError, "incomplete-set", "22 of 40 samples"):
        acts.concepts.add({"x": np.zeros(22, bool)}, level="sample")
    acts = write_segments(store, case)
    assert np.array_equal(acts.concepts.mask("x"), case.red)


def test_labels_of_samples_that_came_later_are_not_made_up():
    acts = scratch_store().write(PATH, sp.csr_array(np.eye(40, 4)))
    acts.concepts.add({"x": M}, level="sample")
    with SetWriter(acts.root, acts.path) as writer:
        info = writer.append(SparseRows(np.zeros(3, np.int64), np.empty(0, np.uint16), np.empty(0)))
        assert info.stop == 42
        writer.commit(replace(writer.attributes, n_items=42))
    grown = type(acts)(acts.root, acts.path)
    assert grown.samples["x"].mask.tolist() == [False] * 40 + [True] * 2  # nothing is known of the new ones
    assert grown.samples.where("position == 0 and not x").tolist() == list(range(40))
    assert grown.samples.where("position == 0 and sample >= 40").tolist() == [40, 41]
    assert saestore.Store(acts.root).verify().ok
    assert grown.concepts.names("sample") == ["x"]
    grown.concepts.add({"y": np.ones(42, bool)}, level="sample")
    assert grown.samples["x"].mask.tolist() == [False] * 40 + [True] * 2
    assert saestore.Store(acts.root).verify().ok
    grown.concepts.add({"x": np.ones(42, bool)}, level="sample", overwrite=True)
    assert not isinstance(grown.samples["x"], np.ma.MaskedArray)
    assert grown.concepts.mask("x", "sample").all()


def test_compaction_and_deletion_know_labels(case):
    store = scratch_store()
    acts = write_segments(store, case)
    acts.concepts.add({"x": ~case.red})
    store.compact(PATH)
    assert_labels(store[PATH], "item", {"color::red": case.red, "x": ~case.red})
    assert store.verify().ok
    store.delete(PATH)
    acts = write_case(store, case)
    assert acts.concepts.names() == ["color::red"]
    assert store.verify().ok


def test_labels_do_not_outlive_a_set_that_is_written_anew(case):
    store = scratch_store()
    write_case(store, case).concepts.add({"x": ~case.red})
    acts = write_case(store, case, overwrite=True)
    assert acts.concepts.names() == ["color::red"]
    acts.concepts.add({"y": case.red})
    assert store[PATH].concepts.names() == ["color::red", "y"]
    assert store.verify().ok


def test_anndata_and_xarray_read_labels(tmp_path, case):
    anndata = pytest.importorskip("anndata")
    acts = write_case(saestore.open(tmp_path / "a.zarr", "a"), case)
    masks = random_masks(40)
    acts.concepts.add(masks, level="sample")
    group = zarr.open_group(tmp_path / "a.zarr", mode="r", path=f"{PATH}/samples/concepts")
    for read in (anndata.io.read_elem(group), anndata.io.sparse_dataset(group).to_memory()):
        assert np.array_equal(read.toarray(), np.stack(list(masks.values()), axis=1))
    table = xr.open_zarr(tmp_path / "a.zarr", group=PATH, consolidated=False, chunks=None)
    assert dict(table.sizes) == {"sample": 40, "feature": 6}
    acts.samples.set("weight", np.arange(40.0))
    columns = xr.open_zarr(tmp_path / "a.zarr", group=f"{PATH}/samples", consolidated=False, chunks=None)
    assert columns["weight.2"].values.tolist() == list(range(40))
    xr.open_datatree(tmp_path / "a.zarr", engine="zarr", group="Shapes", consolidated=False)


def test_a_damaged_label_is_found_and_named(tmp_path, case):
    store = saestore.open(tmp_path / "a.zarr", "a")
    acts = write_case(store, case)
    with layout(case):
        acts.concepts.add(random_masks(40), level="sample")
    folder = tmp_path / "a.zarr" / PATH / "samples"
    files = [f for f in folder.rglob("*") if f.is_file()]
    assert len(files) > 2 + 3 + 3  # several shards
    for file in files:
        good = file.read_bytes()
        place = len(good) // 2
        file.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        node = file.parent.relative_to(tmp_path / "a.zarr").as_posix().removesuffix("/c")
        problems = store.verify(PATH).problems
        assert any(p.node.startswith(node) for p in problems), (file, problems)
        file.unlink()
        assert not store.verify(PATH).ok
        parts = set(file.relative_to(folder).parts)
        if {"indptr", "indices"} & parts and "c" in parts:  # else it holds nothing that is needed
            with pytest.raises(CorruptStoreError):
                saestore.open(tmp_path / "a.zarr")[PATH].concept_matrix("sample")
        file.write_bytes(good)
    shutil.copytree(folder / "concepts", folder / "concepts-9")
    problems = store.verify().problems
    assert {p.node.rpartition("/concepts-9/")[0] for p in problems} == {f"{PATH}/samples"}
    acts.concepts.add({"x": case.red})
    assert store.verify().ok


def test_whoever_adds_labels_may_be_killed_at_any_write(tmp_path):
    """After each kill a reader sees all old labels or all new ones, and the next writer goes on."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])}
    subprocess.run([sys.executable, here / "killing_labels.py", tmp_path], env=environment, check=True, timeout=600)


@pytest.mark.parametrize("row", [-1, 40, 2**32])
def test_rows_outside_of_the_set_are_refused(acts, row):
    labels = sp.csc_array((np.ones(2, bool), np.array([0, 1]), np.array([0, 2])), shape=(40, 1))
    labels.indices = np.array([0, row])
    with raises(InvalidInputError, "id-out-of-range", row):
        acts.concepts.add(labels, "sample", names=["c"])
    assert "c" not in acts.concepts.names("sample")
