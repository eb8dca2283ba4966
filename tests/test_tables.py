"""Columns of samples, items and features: what is given is what is read, at every moment the old or the new ones."""

import json
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import zarr
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises
from strategies import PATH, layout, make_case, scratch_store, write_case, write_segments, written
from zarr.storage import MemoryStore

import saestore
from saestore import storage
from saestore.errors import CorruptStoreError, InvalidInputError, NotFoundError, OutOfRangeError, StoreWriteError
from saestore.stats import STATISTICS
from saestore.storage import WriteBatch

CASE = make_case(5, 40, 6, density=0.5, segment_rows=11, ragged=True, chunk=4, shard=8)
TABLES = {"samples": 40, "items": len(CASE.item_ptr) - 1, "features": 6}


@pytest.fixture
def acts():
    """A set in memory, with columns in many chunks and shards."""
    with layout(CASE):
        yield written(CASE)


def again(acts):
    return type(acts)(acts.root, acts.path)


VALUES = {
    "bool": (st.booleans(), bool),
    "int": (st.integers(-(2**63), 2**63 - 1), np.int64),
    "float": (st.floats(allow_nan=False), np.float64),
    "text": (st.text(st.characters(exclude_categories=["Cs"]), max_size=5), np.dtypes.StringDType()),
}


@pytest.mark.once
@given(
    data=st.data(), kind=st.sampled_from(list(VALUES)), name=st.sampled_from(["a", "A", "über name", "x/y", "ptr", "c"])
)
@settings(max_examples=examples(12))
def test_a_column_comes_back_with_its_unknown_values(data, kind, name):
    with layout(CASE):
        acts = written(CASE)
        table = data.draw(st.sampled_from(list(TABLES)))
        n = TABLES[table]
        element, dtype = VALUES[kind]
        for _ in range(data.draw(st.integers(1, 3))):
            values = np.array(data.draw(st.lists(element, min_size=n, max_size=n)), dtype)
            unknown = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
            getattr(acts, table).set(name, values, unknown=unknown)
            for reader in (acts, again(acts)):
                found = getattr(reader, table)[name]
                if kind == "float":
                    assert np.array_equal(np.isnan(found), unknown)
                    assert found[~unknown].tolist() == values[~unknown].tolist()
                else:
                    assert found.tolist() == [None if u else v for u, v in zip(unknown, values.tolist(), strict=True)]
                    assert isinstance(found, np.ma.MaskedArray) == unknown.any()
                some = np.array([n - 1, 0, 0, n // 2])
                part = getattr(reader, table).column(name, some)
                assert np.array_equal(np.ma.getmaskarray(part), np.ma.getmaskarray(found)[some])
                assert kind == "float" or part.tolist() == [found.tolist()[i] for i in some]
        assert saestore.Store(acts.root).verify().ok
        getattr(acts, table).remove(name)
        assert name not in getattr(again(acts), table).columns


def test_texts_in_the_other_byte_order_are_read(acts):
    acts.features.set("name", np.array(["a", "bc", "", "é", "e", "f"], ">U3"))
    assert acts.features["name"].tolist() == ["a", "bc", "", "é", "e", "f"]


def test_a_mapping_gives_some_rows_a_value(acts):
    acts.features.set("name", {3: "green", 1: "RED"})
    assert acts.features["name"].tolist() == [None, "RED", None, "green", None, None]
    key = acts.items["key"][1]
    acts.items.set("weight", {key: 0.5, 0: 2})
    assert acts.items["weight"][:2].tolist() == [2.0, 0.5]
    assert np.isnan(acts.items["weight"][2:]).all()
    with raises(NotFoundError, "unknown-key", "'nobody'"):
        acts.items.set("weight", {"nobody": 1})
    with raises(OutOfRangeError, "out-of-range", "feature 6"):
        acts.features.set("name", {6: "x"})
    twice = scratch_store().write("Twice/patch/s", acts.sparse([0, 1, 2]), items={"key": ["a", "a", "b"]})
    with raises(InvalidInputError, "ambiguous-key", "'a'"):
        twice.items.annotate({"weight": {"a": 1}})


def test_rows_are_found_by_conditions_and_by_words(acts):
    acts.features.set("name", {3: "green object", 1: "Red", 5: "blue"})
    acts.features.set("rank", [5, 4, 3, 2, 1, 0])
    features = again(acts).features
    assert features.where('name == "Red" or rank < 2').tolist() == [1, 4, 5]
    assert features.where('not (name == "Red")').tolist() == [3, 5]  # of the others nothing is known
    assert features.where("feature >= 4 and feature.rank == 0").tolist() == [5]
    assert features.where({"name": ["Red", "blue"]}).tolist() == [1, 5]
    assert features.where({}).tolist() == features.where(None).tolist() == list(range(6))
    assert features.where(np.arange(6) == 2).tolist() == [2]
    assert features.search("RE").tolist() == [1, 3]
    assert features.search("zebra").tolist() == []
    split = acts.items["split"]
    assert acts.items.where('split == "test"').tolist() == np.flatnonzero(split == "test").tolist()
    assert acts.items.where("item < 2 and color::red").tolist() == np.flatnonzero(CASE.red[:2]).tolist()
    with raises(NotFoundError, "unknown-column", "position"):
        acts.items.where("position == 1")
    with raises(NotFoundError, "unknown-column", "nam", "Did you mean 'name'"):
        features.where('nam == "Red"')
    with raises(InvalidInputError, "invalid-mask", "6"):
        features.where(np.ones(5, bool))


def test_columns_of_samples_take_part_in_every_condition(acts):
    acts.samples.set("loss", np.arange(40.0), unknown=np.arange(40) == 20)
    assert acts.samples.where("loss >= 18 and loss < 23").tolist() == [18, 19, 21, 22]
    assert 20 not in acts.samples.where("not loss < 18")
    items = acts.item_index.locate(np.arange(40))[0]
    chosen = acts.samples.where('split == "test" and loss < 30')
    expected = [i for i in range(30) if i != 20 and acts.items["split"][items[i]] == "test"]
    assert chosen.tolist() == expected
    assert set(acts.top_samples(2, n=40, where="loss < 9").sample) <= set(range(9))


def test_pandas_gets_every_column(acts):
    acts.items.set("n", [1] * acts.n_items, unknown=np.arange(acts.n_items) == 0)
    acts.items.set("note", {1: "é"})
    frame = acts.items.to_pandas()
    assert list(frame.columns) == acts.items.columns
    assert frame.index.name == "item"
    assert frame["n"].isna().tolist() == [True] + [False] * (acts.n_items - 1)
    assert frame["note"][1] == "é"
    assert pd.isna(frame["note"][0])
    assert frame["color::red"].tolist() == CASE.red.tolist()
    part = acts.items.to_pandas(["key", "n"], where="item >= 2")
    assert part.index.tolist() == list(range(2, acts.n_items))
    assert list(part.columns) == ["key", "n"]
    pd.testing.assert_frame_equal(acts.items.to_pandas("key"), frame[["key"]])


def test_a_table_shows_itself(acts):
    assert len(acts.samples) == 40
    assert list(acts.features) == [s.name for s in STATISTICS]
    assert "n_active" in repr(acts.features)
    assert "no columns" in repr(acts.samples)
    assert "split" in repr(acts.items)
    acts.features.set("name", {2: "<b>"})
    assert "name" in acts.features
    assert "&lt;b&gt;" in acts.features._repr_html_()


BAD = {
    "too short": ([1], "wrong-length", "6"),
    "two dimensions": (np.zeros((6, 2)), "invalid-shape", "2 dimensions"),
    "mixed": ([1, "a", None, 1, 1, 1], "mixed-types", "str"),
    "dates": (np.zeros(6, "M8[s]"), "unsupported-dtype", "datetime64"),
    "large": ([2**63] * 6, "out-of-int64", "64 bits"),
    "half a character": (["a", "b", "\udc80", "", "", ""], "invalid-text", "Unicode"),
    "half a character of an array": (np.array(["a", "b", "\udc80", "", "", ""]), "invalid-text", "Unicode"),
    "no values": (None, "not-values", "None"),
    "unsigned": (np.full(6, 2**63, np.uint64), "out-of-int64", "64 bits"),
}


@pytest.mark.parametrize("which", BAD)
def test_a_bad_column_is_refused_and_nothing_is_written(acts, which):
    values, code, named = BAD[which]
    before = acts.attributes
    with raises(InvalidInputError, code, named):
        acts.features.set("x", values)
    assert again(acts).attributes == before
    assert saestore.Store(acts.root).verify().ok


def test_names_that_mean_something_else_are_refused(acts):
    for name, code in (("item", "reserved-name"), ("color::red", "name-taken"), ("", "invalid-name")):
        with raises(InvalidInputError, code, repr(name)):
            acts.items.set(name, np.zeros(acts.n_items))
    with raises(InvalidInputError, "reserved-name", "'key'"):
        acts.items.remove("key")
    with raises(NotFoundError, "unknown-column", "'splitt'", "'split'"):
        acts.items.remove("splitt")
    with raises(NotFoundError, "unknown-column", "'splitt'"):
        _ = acts.items["splitt"]
    acts.items.remove("color::red")
    assert acts.concepts.names("item") == []


def test_a_set_that_is_being_built_takes_columns_of_items_only():
    acts = write_segments(scratch_store(), CASE, upto=22)
    acts.items.set("x", np.arange(acts.n_items))
    acts.features.set("y", np.arange(6))
    with raises(InvalidInputError, "incomplete-set", "22 of 40"):
        acts.samples.set("z", np.arange(22))


def test_a_store_that_is_read_only_is_left_alone(tmp_path):
    write_case(saestore.open(tmp_path / "a.zarr", "a"), CASE)
    with raises(StoreWriteError, "read-only", "mode='a'"):
        saestore.open(tmp_path / "a.zarr")[PATH].features.set("x", np.arange(6))


def test_a_reader_goes_on_with_the_values_that_replaced_its_own(acts):
    acts.samples.set("x", np.arange(40))
    other = again(acts)
    assert other.samples["x"][3] == 3
    acts.samples.set("x", np.arange(40) + 1)
    assert other.samples["x"][3] == 4
    acts.samples.remove("x")
    with raises(NotFoundError, "unknown-column", "'x'"):
        _ = other.samples["x"]


def test_versions_leave_nothing_behind(acts):
    for i in range(3):
        acts.items.set("note", {0: f"{i}"})
        acts.concepts.add({"c": np.arange(acts.n_items) == i}, overwrite=True)
    info = again(acts).attributes.table("items")
    stored = {node.name for node in (Path(acts.root.store.root) / PATH / "items").iterdir()}
    assert stored - {"zarr.json"} == info.nodes
    assert info.version == 7


@pytest.mark.parametrize("codec", ["pcodec", "blosc"])
@pytest.mark.parametrize("dtype", ["int64", "uint16", "float16", "float32", "bool", "text"])
@pytest.mark.parametrize("n", [0, 1, 29, 60])
def test_arrays_are_written_byte_for_byte_as_zarr_writes_them(codec, dtype, n):
    values = np.arange(n) % 5
    values = np.array([f"é{i}" for i in values], np.dtypes.StringDType()) if dtype == "text" else values.astype(dtype)
    ours, theirs = MemoryStore(), MemoryStore()
    with mock.patch.multiple("saestore.storage.arrays", CHUNK=7, SHARD=28):
        batch = WriteBatch(ours)
        storage.write_array(batch, "x", values, "d", codec)
        batch.flush()
    document = json.loads(ours._store_dict["x/zarr.json"].to_bytes())
    copy = WriteBatch(theirs)
    copy.put("x/zarr.json", json.dumps(document).encode())
    copy.flush()
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = zarr.open_array(theirs, path="x", mode="r+")
        if n:
            array[:] = values
    assert json.loads(json.dumps(array.metadata.to_dict())) == document
    per_shard = max(1, min(4, -(-n // 7)))
    assert {k: v.to_bytes() for k, v in theirs._store_dict.items() if "/c/" in k} == {
        k: v.to_bytes()[: -20 * per_shard - 4] + v.to_bytes()[-16 * per_shard - 4 :]  # without the chunks' checksums
        for k, v in ours._store_dict.items()
        if "/c/" in k
    }


@pytest.mark.parametrize("in_memory", [False, True])
def test_the_digests_of_many_shards_are_in_the_documents_of_their_arrays(tmp_path, in_memory):
    """So the attributes do not grow with the samples; what such a document says is held against its own digest."""
    case = make_case(7, 200, 5, density=0.5, segment_rows=200, chunk=4, shard=8)
    place = MemoryStore() if in_memory else tmp_path / "a.zarr"
    store = saestore.open(place, "a")
    acts, numbers = write_case(store, case), np.arange(200) % 7
    with layout(case):
        acts.samples.set("number", numbers)
    acts = saestore.open(place)[PATH]
    described = {**acts.attributes.arrays, **acts.attributes.table("samples").arrays}
    many = {name: info for name, info in described.items() if info.n_shards > 8}
    assert many.keys() == {"item", "position", "l0", "number"}
    assert all(info.shards is None for info in many.values())
    assert np.array_equal(acts.samples.where("number == 3"), np.flatnonzero(numbers == 3))
    assert np.array_equal(acts.samples.column("number", [199, 3]), numbers[[199, 3]])
    assert store.verify().ok
    array = store.root[f"{PATH}/samples/number"]
    array.attrs["shards"] = array.attrs["shards"][::-1]
    problems = store.verify().problems
    assert {problem.node for problem in problems} == {f"{PATH}/samples/number"}
    with raises(CorruptStoreError, "corrupt-store"):
        saestore.open(place)[PATH].samples.where("number == 3")
