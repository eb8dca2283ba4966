"""Labels: what is given is what is read, the old ones or the new ones at every moment, and bad ones are told."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import PATH, cases, layout, make_case, memory_store, write_case, write_segments

import saestore
from saestore.errors import CorruptStoreError, InvalidInputError, NotFoundError, StoreConflictError, StoreWriteError
from saestore.sparse_rows import SparseRows
from saestore.writing import SetWriter


def random_masks(n, seed=0, names=("object", "traffic light", "über::all", "nothing")):
    rng = np.random.default_rng(seed)
    return {name: rng.random(n) < share for name, share in zip(names, (0.5, 0.1, 0.9, 0.0), strict=True)}


@pytest.fixture
def case():
    return make_case(3, 40, 6, segment_rows=11, chunk=16, shard=32)


@pytest.fixture
def acts(case):
    """40 samples of 32 items, with a concept from the start."""
    return write_case(memory_store(), case)


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
    acts = write_case(memory_store(), case)
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
    with pytest.raises(
        NotFoundError, match=r"has no concept 'object'; there are traffic light, über::all. Nothing was"
    ):
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
    acts = memory_store().write(PATH, sp.csr_array(np.eye(3)))
    assert acts.concepts.names() == acts.concepts.names("sample") == []
    assert acts.concept_matrix("item").shape == acts.concept_matrix("sample").shape == (3, 0)
    with pytest.raises(NotFoundError, match=r"no concept 'x'.*There are none"):
        acts.concepts.mask("x")
    with pytest.raises(NotFoundError, match="no concept 'x'; they have none"):
        acts.concepts.mask("x", "sample")
    acts.concepts.add({"x": [0, 1, 1]})
    assert acts.concepts.mask("x").tolist() == [False, True, True]


def test_a_misspelt_concept_is_told_with_what_it_is_like(acts):
    with pytest.raises(NotFoundError, match=r"no concept 'colour::red'. Did you mean 'color::red'"):
        acts.concepts.mask("colour::red")


M = np.zeros(40, bool)
BAD = {
    "short": ({"x": M[:7]}, "'x' has 7 values, but level='item' needs 32: the set has 32 items and 40 samples"),
    "the other level": ({"x": M}, "has 40 values.*how many samples there are: pass level='sample'"),
    "other values": ({"x": np.full(32, 2)}, "'x' holds 2; labels are true or false"),
    "negative": ({"x": np.arange(32) - 1}, "holds -1"),
    "nan": ({"x": np.full(32, np.nan)}, "holds nan"),
    "a share": ({"x": np.full(32, 0.5)}, "holds 0.5"),
    "text": ({"x": ["yes"] * 32}, "holds <U3"),
    "nothing": ({"x": [None] * 32}, "holds object"),
    "two dimensions": ({"x": np.zeros((32, 1))}, "2 dimensions"),
    "ragged": ({"x": [[1], [1, 2]]}, "is no mask"),
    "one value": ({"x": True}, "0 dimensions"),
    "empty": ({}, "no concept in what was given"),
    "name": ({3: M[:32]}, "3 is no name"),
    "empty name": ({" ": M[:32]}, "' ' is no name"),
    "reserved": ({"item": M[:32]}, "cannot be called 'item'"),
    "a column": ({"split": M[:32]}, "the items have a column 'split'"),
    "a good one and a bad one": ({"x": M[:32], "y": np.full(32, 3)}, "'y' holds 3"),
    "numbers": ([1, 2, 3], "cannot be a list"),
}


@pytest.mark.parametrize("which", BAD)
def test_bad_labels_are_told_and_nothing_is_written(acts, which):
    labels, said = BAD[which]
    before = acts.attributes
    with pytest.raises(InvalidInputError, match=said):
        acts.concepts.add(labels)
    again = type(acts)(acts.root, acts.path)
    assert again.attributes == before
    assert "concepts" not in again.group


def test_a_bad_matrix_is_told(acts):
    matrix = sp.csr_array(np.eye(32, 2))
    for bad, names, said in (
        (matrix, None, r"shape \(32, 2\) needs names=, one a column; it came with no names"),
        (matrix, ["a"], "1 names"),
        (matrix, ["a", "a"], "'a' is given twice"),
        (matrix, ["a", ""], "'' is no name"),
        (matrix[:5], ["a", "b"], "the matrix has 5 values"),
        (2 * matrix, ["a", "b"], "holds 2.0"),
        (sp.csr_array(np.eye(32, 2) * np.nan), ["a", "b"], "holds nan"),
        (np.full((32, 2), "x"), ["a", "b"], "holds <U1"),
        (np.zeros((32, 0)), [], "no concept in what was given"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            acts.concepts.add(bad, names=names)
    with pytest.raises(InvalidInputError, match="level='items'"):
        acts.concepts.add({"x": M}, "items")
    with pytest.raises(InvalidInputError, match="level='both'"):
        acts.concepts.names("both")


def test_a_concept_is_not_replaced_unless_told_to(acts, case):
    with pytest.raises(StoreConflictError, match=re.escape("has color::red already (level 'item')")):
        acts.concepts.add({"new": ~case.red, "color::red": ~case.red})
    assert acts.concepts.names() == ["color::red"]
    acts.concepts.add({"new": ~case.red, "color::red": ~case.red}, overwrite=True)
    assert_labels(acts, "item", {"color::red": ~case.red, "new": ~case.red})


def test_a_store_that_is_read_only_is_left_alone(tmp_path, case):
    write_case(saestore.open(tmp_path / "a.zarr", "a"), case)
    with pytest.raises(StoreWriteError, match=r"read-only. Open it with mode='a'"):
        saestore.open(tmp_path / "a.zarr")[PATH].concepts.add({"x": case.red})


def test_a_set_that_is_being_built_takes_labels_of_items_only(case):
    store = memory_store()
    acts = write_segments(store, case, upto=22)
    acts.concepts.add({"x": case.red})
    with pytest.raises(InvalidInputError, match=r"still being built \(22 of 40 samples\)"):
        acts.concepts.add({"x": np.zeros(22, bool)}, level="sample")
    acts = write_segments(store, case)
    assert np.array_equal(acts.concepts.mask("x"), case.red)


def test_labels_of_samples_that_came_later_are_not_made_up():
    acts = memory_store().write(PATH, sp.csr_array(np.eye(40, 4)))
    acts.concepts.add({"x": M}, level="sample")
    with SetWriter(acts.root, acts.path) as writer:
        info = writer.append(SparseRows(np.zeros(3, np.int64), np.empty(0, np.uint16), np.empty(0)))
        assert info.stop == 42
        writer.commit(replace(writer.attributes, n_items=42))
    grown = type(acts)(acts.root, acts.path)
    with pytest.raises(InvalidInputError, match=r"labels of samples are of 40 samples, but the set has 42 now"):
        grown.concepts.mask("x", "sample")
    with pytest.raises(InvalidInputError, match=r"labels of samples are of 40 samples, but the set has 42 now"):
        grown.samples.where("position == 0 and x")
    assert grown.samples.where("position == 0 and sample >= 40").tolist() == [40, 41]
    assert saestore.Store(acts.root).verify().ok
    assert grown.concepts.names("sample") == ["x"]
    grown.concepts.add({"x": np.ones(42, bool)}, level="sample")
    assert grown.concepts.mask("x", "sample").all()


def test_compaction_and_deletion_know_labels(case):
    store = memory_store()
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
    store = memory_store()
    write_case(store, case).concepts.add({"x": ~case.red})
    old = store[PATH]
    acts = write_case(store, case, overwrite=True)
    assert acts.concepts.names() == ["color::red"]
    acts.concepts.add({"y": case.red})
    assert old.concepts.names() == ["color::red", "y"]


def test_anndata_and_xarray_read_labels(tmp_path, case):
    anndata = pytest.importorskip("anndata")
    acts = write_case(saestore.open(tmp_path / "a.zarr", "a"), case)
    masks = random_masks(40)
    acts.concepts.add(masks, level="sample")
    group = zarr.open_group(tmp_path / "a.zarr", mode="r", path=f"{PATH}/concepts/sample-1")
    for read in (anndata.io.read_elem(group), anndata.io.sparse_dataset(group).to_memory()):
        assert np.array_equal(read.toarray(), np.stack(list(masks.values()), axis=1))
    table = xr.open_zarr(tmp_path / "a.zarr", group=PATH, consolidated=False, chunks=None)
    assert dict(table.sizes) == {"sample": 40, "feature": 6}
    labels = xr.open_zarr(tmp_path / "a.zarr", group=group.path, consolidated=False, chunks=None)
    assert labels["concept"].values.tolist() == list(masks)
    xr.open_datatree(tmp_path / "a.zarr", engine="zarr", group="Shapes", consolidated=False)


def test_a_damaged_label_is_found_and_named(tmp_path, case):
    store = saestore.open(tmp_path / "a.zarr", "a")
    acts = write_case(store, case)
    with layout(case):
        acts.concepts.add(random_masks(40), level="sample")
    folder = tmp_path / "a.zarr" / PATH / "concepts"
    files = [f for f in folder.rglob("*") if f.is_file()]
    assert len(files) > 2 + 4 + 4  # several shards
    for file in files:
        good = file.read_bytes()
        place = len(good) // 2
        file.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        node = file.parent.relative_to(tmp_path / "a.zarr").as_posix().removesuffix("/c")
        problems = store.verify(PATH).problems
        assert any(p.node.startswith(node) for p in problems), (file, problems)
        file.unlink()
        assert not store.verify(PATH).ok
        if file.parent != folder:  # that document says nothing that is needed
            with pytest.raises(CorruptStoreError):
                _ = [f(saestore.open(tmp_path / "a.zarr")[PATH]) for f in (lambda a: a.concept_matrix("sample"), whole)]
        file.write_bytes(good)
    (folder / "sample-9").mkdir()
    (folder / "sample-9" / "zarr.json").write_bytes((folder / "sample-1" / "zarr.json").read_bytes())
    (problem,) = store.verify().problems
    assert str(problem) == f"{PATH}/concepts/sample-9/zarr.json: is named by no attributes; the next build removes it"
    acts.concepts.add({"x": case.red})
    assert store.verify().ok


def whole(acts):
    labels = acts.stored_labels("sample")
    return [labels.values(i).sum() for i, _ in enumerate(labels.names)]


def test_whoever_adds_labels_may_be_killed_at_any_write(tmp_path):
    """After each kill a reader sees all old labels or all new ones, and the next writer goes on."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])}
    subprocess.run([sys.executable, here / "killing_labels.py", tmp_path], env=environment, check=True, timeout=600)
