"""A set as an xarray Dataset: what numpy would give on the dense tensor, and no more read than is asked for."""

import copy
import multiprocessing
import pickle
import subprocess
import sys
import tracemalloc

import brute
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises
from strategies import PATH, cases, make_case, scratch_store, write_case, write_segments
from test_requests import CountingStore
from zarr.storage import MemoryStore

import saestore
from saestore.errors import (
    InvalidInputError,
    MissingDependencyError,
    NotFoundError,
    OutOfRangeError,
    SaestoreError,
    StoreFormatError,
    TooLargeError,
)

ROWS, WIDTH = 60, 15
# Several segments, ragged items, ties and negatives, lists that cross chunks.
CASE = make_case(21, ROWS, WIDTH, density=0.35, palette="signed", segment_rows=17, chunk=7, shard=28)


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    """In a folder, where reading takes a tenth of the time that it takes in memory."""
    return write_segments(saestore.open(tmp_path_factory.mktemp("x") / "segments.zarr", "a"), CASE)


@pytest.fixture(scope="module")
def dataset(acts):
    return acts.to_xarray()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("x") / "a.zarr"
    write_case(saestore.open(folder, "a"), CASE)
    return folder


def counted(case=CASE):
    store = CountingStore()
    write_segments(saestore.open(store, "a"), case)
    acts = saestore.open(store)[PATH]
    store.taken()
    return store, acts


# --- indexing, by numpy's rules


def indexers(size: int) -> st.SearchStrategy:
    ints = st.integers(-size, size - 1)
    bounds = st.none() | st.integers(-size - 2, size + 2)
    steps = st.none() | st.integers(-4, 4).filter(bool)
    return st.one_of(
        ints,
        st.builds(slice, bounds, bounds, steps),
        st.lists(ints, max_size=8).map(lambda ids: np.array(ids, np.int64)),
        st.lists(st.booleans(), min_size=size, max_size=size).map(np.array),
    )


def orthogonal(dense, rows, columns):
    return dense[rows][..., columns]


@given(indexers(ROWS), indexers(WIDTH))
def test_orthogonal_indexing_is_numpys(dataset, rows, columns):
    found = dataset["activation"].isel(sample=rows, feature=columns)
    expected = orthogonal(CASE.dense, rows, columns)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert np.array_equal(found.values, expected)


@given(st.data())
def test_a_selection_of_a_selection_is_numpys(dataset, data):
    """Of both axes, three times over; an int only at the end, when no axis may follow."""
    found, expected = dataset["activation"], CASE.dense
    for turn in range(3):
        rows, columns = (data.draw(indexers(n) if n else st.just(slice(None))) for n in expected.shape)
        if turn < 2 and (np.ndim(expected[rows]) < 2 or np.ndim(expected[:, columns]) < 2):
            continue
        found, expected = found.isel(sample=rows, feature=columns), orthogonal(expected, rows, columns)
        if expected.ndim < 2:
            break
    assert np.array_equal(found.values, expected)


@given(
    st.lists(st.tuples(st.integers(-ROWS, ROWS - 1), st.integers(-WIDTH, WIDTH - 1)), max_size=30),
    st.booleans(),
)
def test_pointwise_indexing_is_numpys(dataset, pairs, two_dimensional):
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    dims = ("point",)
    if two_dimensional and len(pairs) % 2 == 0:
        dims, rows, columns = ("a", "b"), rows.reshape(2, -1), columns.reshape(2, -1)
    found = dataset["activation"].isel(sample=xr.DataArray(rows, dims=dims), feature=xr.DataArray(columns, dims=dims))
    assert found.dims == dims
    assert np.array_equal(found.values, CASE.dense[rows, columns])


@given(st.lists(st.integers(-ROWS, ROWS - 1), min_size=1, max_size=6), indexers(WIDTH))
def test_an_array_of_two_dimensions_beside_any_other_index(dataset, rows, columns):
    grid = np.array([rows, rows[::-1]])
    found = dataset["activation"].isel(sample=xr.DataArray(grid, dims=("a", "b")), feature=columns)
    assert np.array_equal(found.values, CASE.dense[grid][..., columns])


@given(indexers(ROWS), indexers(WIDTH), st.booleans())
def test_a_transposed_array_is_numpys(dataset, rows, columns, first):
    """xarray asks for it point by point; it must not be read so."""
    if first and not isinstance(rows, int) | isinstance(columns, int):  # one point of it is beyond xarray
        found = dataset["activation"].T.isel(sample=rows, feature=columns)
    else:
        found = dataset["activation"].isel(sample=rows, feature=columns).T
    assert np.array_equal(found.values, orthogonal(CASE.dense, rows, columns).T)


def test_a_grid_of_points_is_read_as_one(dataset, monkeypatch):
    monkeypatch.setattr("saestore.query.slices.points", None)  # which would take ten times the memory
    grid = np.arange(ROWS).reshape(3, 4, 5)
    array = dataset["activation"]
    a_b_c = {"sample": xr.DataArray(grid, dims=("a", "b", "c"))}
    assert np.array_equal(array.isel(a_b_c).values, CASE.dense[grid])
    assert np.array_equal(
        array.isel(a_b_c).transpose("c", "feature", "a", "b").values, CASE.dense[grid].transpose(2, 3, 0, 1)
    )
    empty = xr.DataArray(np.empty((2, 0), int), dims=("a", "b"))
    assert array.isel(sample=empty).shape == array.isel(sample=empty).values.shape == (2, 0, WIDTH)
    both = array.isel(sample=xr.DataArray(grid[0], dims=("a", "b")), feature=xr.DataArray([[1, 2]], dims=("c", "d")))
    assert np.array_equal(both.values, CASE.dense[grid[0]][..., [[1, 2]]])


@given(indexers(ROWS))
def test_what_lies_along_samples_is_numpys(dataset, rows):
    found = dataset.isel(sample=rows)
    item = CASE.item_of_sample[rows]
    assert np.array_equal(found["item"].values, item)
    assert np.array_equal(found["position"].values, (np.arange(ROWS) - CASE.item_ptr[CASE.item_of_sample])[rows])
    assert np.array_equal(found["color::red"].values, CASE.red[item])
    assert np.array_equal(found["split"].values, np.array(CASE.items["split"])[item])
    assert np.array_equal(found["key"].values, np.array(CASE.items["image_path"])[item])
    assert np.array_equal(found["sample"].values, np.arange(ROWS)[rows])


@settings(max_examples=12)
@given(cases())
def test_a_set_of_any_kind_is_its_dense_tensor(case):
    acts = write_segments(scratch_store(), case)
    dataset = acts.to_xarray()
    assert np.array_equal(dataset["activation"].values, case.dense)
    assert dataset["activation"].dtype == case.dense.dtype
    brute.assert_statistics(dataset, case.dense)
    assert {v.dtype for v in dataset.variables.values()} == {v.dtype for v in dataset.load().variables.values()}
    rows, columns = np.nonzero(np.ones_like(case.dense))
    at = dataset["activation"].isel(sample=xr.DataArray(rows, dims="p"), feature=xr.DataArray(columns, dims="p"))
    assert np.array_equal(at.values, case.dense.reshape(-1))


def test_labels_select_as_xarray_does(dataset):
    found = dataset["activation"].sel(sample=[50, 3], feature=slice(4, 6))  # a label slice has both ends
    assert np.array_equal(found.values, CASE.dense[[50, 3], 4:7])
    with pytest.raises(KeyError):
        dataset.sel(sample=[ROWS])


def test_xarrays_own_computations_equal_numpys(dataset):
    activation = dataset["activation"]
    assert activation.max().item() == CASE.dense.max()
    assert np.allclose(activation.mean("sample").values, dataset["mean"].values, atol=1e-6)
    by_split = activation.groupby("split").max("sample")
    names = np.array(CASE.items["split"])[CASE.item_of_sample]
    for name in np.unique(names):
        assert np.array_equal(by_split.sel(split=name).values, CASE.dense[names == name].max(axis=0))


# --- what is in it


def test_coordinates_statistics_and_provenance(dataset):
    assert dataset["activation"].dims == ("sample", "feature")
    assert set(dataset.coords) == {
        "sample", "feature", "activation_set", "item", "position", "key", "split", "color::red",
    }  # fmt: skip
    assert dataset.attrs["path"] == PATH
    assert dataset.attrs["nnz"] == np.count_nonzero(CASE.dense)
    assert dataset["std"].attrs["long_name"] == "population standard deviation over all samples"


def test_patches_of_a_square_grid_have_rows_and_columns():
    case = make_case(4, 90, 6, ragged=False)
    store = scratch_store()
    acts = store.write("Shapes/patch/sae", case.csr, np.arange(0, 91, 9))
    dataset = acts.to_xarray()
    assert dataset["row"].values.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] * 10
    assert dataset["col"].values.tolist() == [0, 1, 2] * 30
    for path, ptr in (("Shapes/patch/ten", np.arange(0, 91, 10)), ("Shapes/cls/one", None)):
        other = store.write(path, case.csr, ptr).to_xarray()
        assert not {"row", "col"} & set(other.coords)  # no square, and no grid


def test_tokens_have_their_text(example_store, project_dir):
    dataset = saestore.open(example_store)["iSarcasm"].to_xarray()
    tokens = np.load(project_dir / "examples" / "isarcasm" / "tokens.npz", allow_pickle=False)
    texts = saestore.open(example_store)["iSarcasm"].items.column("text")
    rows = np.array([0, 5, 700, 701, 1300, 5])
    item = np.searchsorted(tokens["text_ptr"], rows, "right") - 1
    expected = [texts[i][a:b] for i, (a, b) in zip(item, tokens["offsets"][rows], strict=True)]
    assert dataset["token"].isel(sample=rows).values.tolist() == expected
    assert "".join(dataset["token"].isel(sample=dataset["item"] == 3).values).strip() in texts[3]


def test_concepts_of_samples_are_coordinates_too():
    store = scratch_store()
    acts = write_case(store, CASE)
    acts.concepts.add({"bright": np.arange(ROWS) % 3 == 0, "color::red": np.arange(ROWS) % 2 == 0}, level="sample")
    dataset = acts.to_xarray()
    assert np.array_equal(dataset["bright"].values, np.arange(ROWS) % 3 == 0)
    assert np.array_equal(dataset["color::red"].values, CASE.red[CASE.item_of_sample])
    assert np.array_equal(dataset["sample.color::red"].values, np.arange(ROWS) % 2 == 0)


def test_a_concept_with_the_name_of_a_variable_has_another_one():
    case = make_case(4, 8, 3, ragged=False)
    store = scratch_store()
    items = {"image_path": [f"{i}" for i in range(8)], "mean": [0, 1] * 4}
    dataset = store.write(PATH, case.csr, None, items).to_xarray()
    assert dataset["mean"].dims == ("feature",)
    assert dataset["concept::mean"].values.tolist() == [False, True] * 4
    assert dataset["key"].values.tolist() == items["image_path"]


# --- what is read


def test_opening_reads_nothing_per_sample_and_no_activation():
    store, acts = counted()
    dataset = acts.to_xarray()
    repr(dataset)
    dataset._repr_html_()
    chunks = [key for key, _ in store.taken() if "/c/" in key]
    # The names of the concepts, and nothing else.
    assert {key.rsplit("/c/", 1)[0].split("/")[-1] for key in chunks} <= {"concept"}


def test_few_features_are_read_from_lists_and_few_samples_from_rows():
    case = make_case(7, 4000, 30, density=0.3, segment_rows=4000, chunk=256, shard=1 << 22)
    store, acts = counted(case)
    dataset = acts.to_xarray()
    store.taken()
    assert np.array_equal(dataset["activation"][:, 3].values, case.dense[:, 3])
    lists = [(key, n) for key, n in store.taken() if "/c/" in key]
    assert lists
    assert all("/by_feature/" in key for key, _ in lists)
    assert len(lists) <= 2 * (np.count_nonzero(case.dense[:, 3]) // 256 + 2)
    assert np.array_equal(dataset["activation"][1000:1256].values, case.dense[1000:1256])
    rows = [(key, n) for key, n in store.taken() if "/c/" in key]
    assert all("/by_sample/" in key for key, _ in rows)
    assert len(rows) <= 3 + 3 + 2 * (np.count_nonzero(case.dense[1000:1256]) // 256 + 2)


def test_points_read_a_list_or_a_row_and_not_the_product(monkeypatch):
    case = make_case(7, 4000, 30, density=0.3, segment_rows=4000, chunk=64, shard=1 << 22)
    store, acts = counted(case)
    dataset = acts.to_xarray()
    acts.vindex([0], [0])  # how long the lists are is known from here on
    store.taken()
    points = {"sample": xr.DataArray([5, 900, 3999], dims="p"), "feature": xr.DataArray([3, 3, 4], dims="p")}
    assert np.array_equal(dataset["activation"].isel(points).values, case.dense[[5, 900, 3999], [3, 3, 4]])
    assert all("/by_sample/" in key for key, _ in store.taken() if "/c/" in key)
    rows = np.arange(4000)
    diagonal = {"sample": xr.DataArray(rows, dims="p"), "feature": xr.DataArray(rows % 2, dims="p")}
    # Their outer product would be twice the limit.
    limited = acts.to_xarray(max_bytes=4 * 4000)
    assert np.array_equal(limited["activation"].isel(diagonal).values, case.dense[rows, rows % 2])
    assert all("/by_feature/" in key for key, _ in store.taken() if "/c/" in key)


def test_statistics_are_read_once_and_without_an_entry():
    store, acts = counted()
    dataset = acts.to_xarray()
    store.taken()
    dataset["mean"].load()
    keys = [key for key, _ in store.taken()]
    assert keys
    assert not any("/by_sample/" in key or "/by_feature/" in key for key in keys)
    dataset["max"].load()
    assert store.taken() == []


def test_a_slice_of_labels_reads_the_chunks_of_its_items():
    case = make_case(7, 3000, 5, ragged=False, chunk=64, shard=256)
    store, acts = counted(case)
    dataset = acts.to_xarray()
    store.taken()
    dataset.variables["key"][700:720].load()
    chunks = [key for key, _ in store.taken() if "/c/" in key]
    assert 0 < len(chunks) <= 4


def test_what_would_densify_beyond_the_limit_is_refused_before_anything_is_read():
    store, acts = counted()
    dataset = acts.to_xarray(max_bytes=CASE.dense.nbytes - 1)
    store.taken()
    for reduction in (
        lambda d: d["activation"].mean(),
        lambda d: d["activation"].values,
        lambda d: d.load(),
        lambda d: d["activation"] > 0,
        lambda d: d.where(d["color::red"]),
        lambda d: d["activation"].isel(sample=xr.DataArray(np.zeros((200, 9), int), dims=("a", "b"))).load(),
    ):
        with raises(TooLargeError, "too-large", " x 15", "chunks={}", ".sae.stats()", ".sae.top("):
            reduction(dataset)
    assert not any("/by_" in key for key, _ in store.taken())
    assert dataset["activation"][:-1].shape == dataset["activation"][:-1].values.shape
    with pytest.raises(MemoryError):  # what xarray and others may catch
        dataset["activation"].sum()


# --- the engine


def same(found: xr.Dataset) -> None:
    assert np.array_equal(found["activation"].values, CASE.dense)


def test_the_engine_opens_a_path_a_url_a_store_and_what_is_open(folder):
    for location in (str(folder), folder, f"file://{folder}", saestore.open(folder), saestore.open(folder).root.store):
        same(xr.open_dataset(location, engine="saestore", group="Shapes/patch"))
    same(xr.open_dataset(folder, engine="saestore", group=PATH))
    same(xr.open_dataset(folder, engine="saestore"))  # it has one set only
    same(xr.open_dataset(folder, group="sae"))  # a folder that is a store of ours needs no engine to be named


def test_the_engine_takes_what_xarray_takes(folder):
    found = xr.open_dataset(folder, engine="saestore", drop_variables=["mean", "color::red"], max_bytes=100)
    assert not {"mean", "color::red"} & set(found.variables)
    with pytest.raises(TooLargeError):
        found["activation"].load()
    assert "activation" not in xr.open_dataset(folder, engine="saestore", drop_variables="activation")
    assert xr.open_dataset(folder, engine="saestore", cache=False)["item"].sum() >= 0
    assert xr.open_dataset(folder, engine="saestore").encoding["source"].startswith("file://")


def test_the_engine_names_what_is_not_there(folder, tmp_path):
    with raises(NotFoundError, "unknown-set", "Shapes/patch/sae"):
        xr.open_dataset(folder, engine="saestore", group="Shapes/token")
    with raises(NotFoundError, "no-store", "none.zarr"):
        xr.open_dataset(tmp_path / "none.zarr", engine="saestore")
    store = scratch_store()
    write_case(store, CASE, "A/patch/x")
    write_case(store, CASE, "A/patch/y")
    with raises(NotFoundError, "ambiguous-set", "A/patch/x"):
        xr.open_dataset(store.root.store, engine="saestore", group="A")


def test_only_stores_of_ours_are_claimed(folder, tmp_path):
    plain = xr.Dataset({"x": ("t", np.arange(3))})
    plain.to_zarr(tmp_path / "plain.zarr", consolidated=False, zarr_format=3)
    plain.to_zarr(tmp_path / "old.zarr", consolidated=False, zarr_format=2)
    engine = xr.backends.list_engines()["saestore"]
    assert engine.guess_can_open(folder)
    assert engine.guess_can_open(str(folder) + "/")
    (tmp_path / "half.zarr").mkdir()
    (tmp_path / "half.zarr" / "zarr.json").write_text("[1, 2")
    (tmp_path / "list.zarr").mkdir()
    (tmp_path / "list.zarr" / "zarr.json").write_text("[1, 2]")
    others = ["plain.zarr", "old.zarr", "half.zarr", "list.zarr", "none.zarr", "plain.zarr/zarr.json"]
    for other in [
        *(tmp_path / name for name in others),
        folder / "Shapes",
        "https://host/a.zarr",
        MemoryStore(),
        b"",
        3,
    ]:
        assert not engine.guess_can_open(other)
    for name in ("plain.zarr", "old.zarr"):
        assert xr.open_dataset(tmp_path / name, consolidated=False)["x"].values.tolist() == [0, 1, 2]
    with raises(StoreFormatError, "not-a-store", "plain.zarr"):
        xr.open_dataset(tmp_path / "plain.zarr", engine="saestore")


def test_plain_zarr_still_opens_a_set(folder):
    table = xr.open_zarr(folder, group=PATH, consolidated=False, chunks=None)
    assert set(table.dims) == {"sample", "feature"}
    assert xr.open_dataset(folder, engine="zarr", group=PATH, consolidated=False)["l0"].dims == ("sample",)


def test_a_process_that_knows_nothing_of_saestore_has_the_engine_and_the_accessor(folder):
    code = f"""
import sys, xarray as xr
assert not any(name.startswith("saestore") for name in sys.modules)
ds = xr.open_dataset({str(folder)!r}, engine="saestore", group="Shapes/patch")
print(list(ds.sae.top(3, n=2)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(list(saestore.open(folder)[PATH].top_samples(3, 2)))


def test_a_slice_can_be_written_and_read_back(dataset, tmp_path):
    part = dataset.isel(sample=slice(5, 9))
    part.to_zarr(tmp_path / "part.zarr", consolidated=False, zarr_format=3)
    back = xr.open_zarr(tmp_path / "part.zarr", consolidated=False, chunks=None)
    assert np.array_equal(back["activation"].values, CASE.dense[5:9])
    assert back["split"].values.tolist() == part["split"].values.tolist()
    assert back.attrs == dataset.attrs
    with raises(InvalidInputError, "not-a-selection", "activation"):
        back.sae.top(1)


# --- pickles


def in_other_process(dataset):
    return dataset["activation"][3:40:5].values, dataset["split"].values.tolist(), list(dataset.sae.top(3, n=4))


def test_a_dataset_goes_to_another_process_and_is_opened_there(folder, forkserver):
    dataset = xr.open_dataset(folder, engine="saestore")
    part = dataset.isel(sample=slice(2, 50))
    with multiprocessing.get_context(forkserver).Pool(1) as pool:
        values, split, top = pool.apply(in_other_process, (part,))
    assert np.array_equal(values, CASE.dense[2:50][3:40:5])
    assert split == part["split"].values.tolist()
    assert top == list(part.sae.top(3, n=4))


def test_pickles_hold_no_data(folder):
    acts = saestore.open(folder)[PATH]
    acts.top_samples(3)
    dataset = acts.to_xarray()
    dataset["activation"][0:3].load()
    again = pickle.loads(pickle.dumps(acts))
    assert again.attributes == acts.attributes
    assert list(again.top_samples(3)) == list(acts.top_samples(3))
    for original in (
        acts.to_xarray(),
        dataset["activation"],
        dataset.variables["activation"],
        dataset["key"],
        dataset["max"],
    ):
        raw = pickle.dumps(original)
        assert len(raw) < 20_000
        assert pickle.loads(raw).equals(original)
    lazy = acts.to_xarray().variables["activation"]._data
    while not type(lazy).__module__.startswith("saestore"):
        lazy = lazy.array
    assert len(pickle.dumps(lazy)) < 2_000


def test_a_set_in_memory_is_pickled_whole():
    acts = write_segments(scratch_store(), CASE)
    found = pickle.loads(pickle.dumps(acts.to_xarray()))
    same(found)
    assert list(found.sae.top(3)) == list(acts.top_samples(3))


# --- the accessor


def kept(case, mask, feature):
    return brute.ranked(case.dense[:, feature], mask).tolist()


FEATURE = int(np.argmax(np.count_nonzero(CASE.dense, axis=0)))
TEST = (np.array(CASE.items["split"]) == "test")[CASE.item_of_sample]
SUBSETS = {
    "all": (lambda d: d, np.ones(ROWS, bool)),
    "a mask": (lambda d: d.isel(sample=d["split"] == "test"), TEST),
    "numpy's mask": (lambda d: d.isel(sample=TEST), TEST),
    "a concept": (lambda d: d.isel(sample=d["color::red"].values), CASE.red[CASE.item_of_sample]),
    "a slice": (lambda d: d.sel(sample=slice(10, 30)), (np.arange(ROWS) >= 10) & (np.arange(ROWS) <= 30)),
    "backwards": (lambda d: d.isel(sample=slice(None, None, -2)), np.arange(ROWS) % 2 == 1),
    "a list": (lambda d: d.sel(sample=[40, 3, 9]), np.isin(np.arange(ROWS), [3, 9, 40])),
    "one": (lambda d: d.isel(sample=7), np.arange(ROWS) == 7),
    "none": (lambda d: d.isel(sample=[]), np.zeros(ROWS, bool)),
    "twice": (lambda d: d.isel(sample=slice(10, 50)).isel(sample=slice(5, 9)), np.isin(np.arange(ROWS), range(15, 19))),
    "loaded": (lambda d: d.isel(sample=TEST).load(), TEST),
    "computed": (lambda d: d.isel(sample=TEST).compute(), TEST),
    "copied": (lambda d: copy.deepcopy(d.isel(sample=TEST)), TEST),
    "pickled": (lambda d: pickle.loads(pickle.dumps(d.isel(sample=TEST))), TEST),
    "sorted": (lambda d: d.isel(sample=TEST).sortby("split", ascending=False), TEST),
    "transposed": (lambda d: d.isel(sample=TEST).transpose(), TEST),
    "more variables": (lambda d: d.isel(sample=TEST).assign(l0=(d["activation"] != 0).sum("feature")), TEST),
    "more coordinates": (lambda d: d.isel(sample=TEST).assign_coords(a=1, b=("feature", np.arange(WIDTH))), TEST),
    "fewer variables": (lambda d: d.isel(sample=TEST)[["activation"]], TEST),
    "a group": (lambda d: dict(iter(d.groupby("split")))["test"], TEST),
    "put together again": (
        lambda d: xr.concat(
            [d.isel(sample=slice(0, 3)), d.isel(sample=slice(9, 12))],
            "sample",
            data_vars="minimal",
            coords="minimal",
            compat="override",
            join="exact",
        ),
        np.isin(np.arange(ROWS), [0, 1, 2, 9, 10, 11]),
    ),
}


@pytest.mark.parametrize("name", SUBSETS)
def test_the_accessor_answers_of_the_samples_that_are_selected(acts, name):
    select, mask = SUBSETS[name]
    dataset = select(acts.to_xarray())
    found = dataset.sae.top(FEATURE, n=ROWS)
    assert found.sample.tolist() == kept(CASE, mask, FEATURE)
    assert found.activation.tolist() == CASE.dense[found.sample, FEATURE].tolist()
    if mask.any():
        brute.assert_statistics(dataset.sae.stats(), CASE.dense[mask])
        assert dataset.sae.stats().attrs["n_samples"] == mask.sum()
    per_item = dataset.sae.top(FEATURE, n=ROWS, level="item")
    assert len(per_item) == len(np.unique(CASE.item_of_sample[found.sample]))


CHANGED = {
    "masked": lambda d: d.where(d["split"] == "test"),
    "masked and dropped": lambda d: d.where(d["split"] == "test", drop=True),
    "computed with": lambda d: d * 2,
    "without activations": lambda d: d.drop_vars("activation"),
    "numbered anew": lambda d: d.isel(sample=TEST).assign_coords(sample=np.arange(TEST.sum())),
    "numbered by arithmetic": lambda d: d.assign_coords(sample=d["sample"] + 1),
    "without numbers": lambda d: d.drop_vars("sample"),
    "features numbered anew": lambda d: d.isel(feature=[3, 4]).assign_coords(feature=[0, 1]),
    "renamed": lambda d: d.rename(sample="row_of_table"),
    "indexed otherwise": lambda d: d.swap_dims(sample="key"),
    "in windows": lambda d: d[["activation"]].reset_coords(drop=True).coarsen(sample=3).mean(),
    "means": lambda d: d.mean("sample"),
    "points": lambda d: d.isel(sample=xr.DataArray([1, 2], dims="p"), feature=xr.DataArray([1, 2], dims="p")),
    "stacked": lambda d: d.stack(both=("sample", "feature")),
    "repeated": lambda d: d.isel(sample=[1, 2, 1]),
    "of no set": lambda d: d.drop_vars("activation_set"),
    "nothing of ours": lambda _: xr.Dataset({"activation": (("sample", "feature"), np.zeros((2, 2)))}),
    "empty": lambda _: xr.Dataset(),
    "other labels": lambda d: d.reindex(sample=[1, ROWS + 5]),
}


@pytest.mark.parametrize("name", CHANGED)
def test_the_accessor_refuses_what_is_no_selection(acts, name):
    dataset = CHANGED[name](acts.to_xarray())
    for ask in (lambda: dataset.sae.top(1), dataset.sae.stats, lambda: dataset.sae.plot.histogram(1)):
        with pytest.raises((InvalidInputError, OutOfRangeError)) as caught:
            ask()
        assert caught.value.code in ("not-a-selection", "repeated-samples", "out-of-range")


@pytest.mark.parametrize("dim", ["sample", "feature", "sae"])
def test_the_accessor_refuses_what_two_sets_were_put_together_into(acts, dim):
    other = write_case(scratch_store(), make_case(5, ROWS, WIDTH, density=0.5))
    first, second = acts.to_xarray().isel(sample=slice(0, 5)), other.to_xarray().isel(sample=slice(5, 9))
    if dim != "sample":
        second = other.to_xarray().isel(sample=slice(0, 5))
    together = xr.concat([first, second], dim, join="outer", data_vars="all", coords="different", compat="equals")
    with raises(InvalidInputError, "not-a-selection"):
        together.sae.top(FEATURE)
    # Sets may be computed with together, of course.
    assert (first["mean"] - second["mean"]).shape == (WIDTH,)


def test_features_are_those_of_the_dataset(acts):
    dataset = acts.to_xarray().sel(feature=[7, FEATURE])
    assert list(dataset.sae.top(FEATURE)) == list(acts.top_samples(FEATURE))
    stats = dataset.sae.stats()
    assert stats["feature"].values.tolist() == [7, FEATURE]
    assert np.array_equal(stats["n_active"], np.count_nonzero(CASE.dense[:, [7, FEATURE]], axis=0))
    missing = next(f for f in range(WIDTH) if f not in (7, FEATURE))
    with raises(OutOfRangeError, "out-of-range", f"feature {missing}", "2 features"):
        dataset.sae.top([7, missing])
    with raises(OutOfRangeError, "out-of-range", "there are 15"):
        dataset.sae.top(WIDTH)
    assert acts.to_xarray().isel(feature=4).sae.stats()["feature"].values.tolist() == [4]
    assert acts.to_xarray().sae.acts is acts


def test_plots_are_of_the_selected_samples(acts):
    pytest.importorskip("matplotlib").use("Agg")
    dataset = acts.to_xarray()
    part = dataset.isel(sample=dataset["split"] == "test")
    axes = part.sae.plot.histogram(FEATURE, bins=7)
    expected = acts.plot.histogram(FEATURE, bins=7, where={"split": "test"})
    drawn, wanted = ([patch.get_path().vertices.tolist() for patch in ax.patches] for ax in (axes, expected))
    assert drawn == wanted
    assert drawn != [patch.get_path().vertices.tolist() for patch in acts.plot.histogram(FEATURE, bins=7).patches]
    assert dataset.sae.plot.density() is not None
    with raises(InvalidInputError, "unexpected-where", "where="):
        part.sae.plot.histogram(FEATURE, where={"split": "test"})
    with raises(InvalidInputError, "missing-features", "all features"):
        part.isel(feature=[1]).sae.plot.density()
    with pytest.raises(OutOfRangeError):
        part.isel(feature=[1]).sae.plot.top(2)


def test_a_set_that_grows_is_as_it_was_opened():
    store = scratch_store()
    acts = write_segments(store, CASE, upto=34)
    dataset = acts.to_xarray()
    write_segments(store, CASE)
    assert dataset.sizes["sample"] == 34
    assert np.array_equal(dataset["activation"].values, CASE.dense[:34])
    same(store[PATH].to_xarray())


def test_a_set_that_is_compacted_meanwhile_is_read_on():
    store = scratch_store()
    acts = write_segments(store, CASE)
    dataset = acts.to_xarray()
    store.compact(PATH)
    same(dataset)
    assert dataset.sae.top(FEATURE, n=ROWS).sample.tolist() == kept(CASE, None, FEATURE)


def test_an_empty_set_opens():
    acts = write_segments(scratch_store(), CASE, upto=0)
    assert acts.to_xarray()["activation"].values.shape == (0, WIDTH)


def test_chunks_without_dask_name_the_extra(acts, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)  # what `import dask` finds where it is not installed
    with raises(MissingDependencyError, "missing-dependency", "saestore[dask]"):
        acts.to_xarray(chunks={})
    assert issubclass(MissingDependencyError, SaestoreError)


@pytest.mark.once
def test_what_grows_with_the_samples_is_a_byte_for_a_condition_and_eight_for_their_items(tmp_path, monkeypatch):
    n, rare = 300_000, 2
    ids = np.where(np.arange(n) % 1000 == 999, rare, np.arange(n) % 2)
    matrix = sp.csr_array((np.ones(n, np.float32), ids, np.arange(n + 1)), shape=(n, 3))
    store = saestore.open(tmp_path / "a.zarr", "a", durability="fast")
    acts = store.write("Large/token/sae", matrix, np.arange(0, n + 1, 100))
    for module in ("saestore.interop.lazy", "saestore.interop.coded_texts", "saestore.query.where"):
        monkeypatch.setattr(f"{module}._BLOCK", 1 << 12)
    acts.items.set("even", np.arange(n // 100) % 2 == 0)
    acts.items.set("split", np.where(np.arange(n // 100) % 2, "test", "train"))
    dataset, half = acts.to_xarray(), np.arange(n) % 2 == 0
    item, split = dataset["item"], dataset["split"]
    questions = [
        (9, n, lambda: item.values),
        (3, n, lambda: (split == "test").values),
        (16, n // 2, lambda: dataset.isel(sample=half)["sample"]),  # 8 for the index, and 4 for all variables
        (3, n // 50, lambda: acts.samples.where("position >= 50 and position < 52")),
        (2, 9, lambda: acts.stats(rare, where="position >= 50")),
        (2, 9, lambda: acts.stats(rare, where="even")),
    ]
    for most, length, ask in questions:
        tracemalloc.start()
        try:
            answer = ask()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < most * n
        assert len(answer) == length
    assert np.array_equal(item.values, np.arange(n) // 100)
    assert np.array_equal(item[7::4099].values, np.arange(7, n, 4099) // 100)
    assert np.array_equal(item[::-1].values, np.arange(n)[::-1] // 100)


def test_texts_of_many_samples_are_numbers_of_their_kinds(acts, monkeypatch):
    """From a block of samples on: numpy's answers on the objects, which only a comparison with a text does without."""
    plain = {name: acts.to_xarray()[name].values for name in ("split", "key")}
    monkeypatch.setattr("saestore.interop.lazy._BLOCK", 7)
    monkeypatch.setattr("saestore.interop.coded_texts._BLOCK", 5)
    for name, expected in plain.items():
        dataset, text = acts.to_xarray(), expected[11]
        column = dataset[name]
        assert not isinstance(column.data, np.ndarray)
        for found, answer in [
            (column == text, expected == text),
            (text != column, expected != text),
            (column == "no such text", np.zeros(ROWS, bool)),
            (column == column.copy(), np.ones(ROWS, bool)),
            (column.isin([text]), expected == text),
            (column[::-3], expected[::-3]),
            (column[np.array([5, -1, 5])], expected[[5, -1, 5]]),
            (column[expected == text], expected[expected == text]),
            (column.where(expected == text, "?"), np.where(expected == text, expected, "?")),
            (xr.concat([column, column[:9]], "sample"), np.append(expected, expected[:9])),
            (column.astype(str).str.upper(), np.char.upper(expected.astype(str))),
            (column.copy(deep=True).sortby("sample", ascending=False), expected[::-1]),
            (pickle.loads(pickle.dumps(column.load())), expected),
        ]:
            assert found.values.tolist() == answer.tolist()
        chosen = dataset.isel(sample=(column == text).values)
        assert chosen[name].values.tolist() == expected[expected == text].tolist()
        assert np.array_equal(chosen["item"], np.asarray(dataset["item"])[expected == text])
        loaded = dataset[name].load().copy()
        loaded[3] = "other"
        assert loaded.values.tolist() == [*expected[:3], "other", *expected[4:]]
        assert sorted(loaded.groupby(loaded).groups) == sorted({*expected[:3], "other", *expected[4:]})
        assert (repr(column.data), len(column.data), str(column[4].values)) == (repr(expected), ROWS, expected[4])
        assert (str(column.data), text in column.data) == (str(expected), True)
        assert pd.Series(column.data).tolist() == pd.Categorical(column.data).tolist() == expected.tolist()
        with pytest.raises(ValueError, match="truth value"):
            bool(column.data)
