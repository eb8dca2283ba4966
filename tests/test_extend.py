"""A complete set takes further items: what a build with --append does to the store, without a model or an SAE."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from zarr.storage import MemoryStore

import saestore
from saestore.format import SetAttributes
from saestore.sparse_rows import SparseRows
from saestore.tables.item_index import ItemIndex
from saestore.tables.items import as_items
from saestore.writing import SetWriter
from saestore.writing.pipeline import start_set

pytestmark = pytest.mark.once

PATH = "Mine/token/some"
RANDOM = np.random.default_rng(0)
DENSE = sp.random_array((40, 9), density=0.3, rng=RANDOM, format="csr", dtype=np.float32)
PTR = np.array([0, 3, 10, 20, 24, 33, 40])
SPANS = np.sort(RANDOM.integers(0, 99, (40, 2)), axis=1).astype(np.int32)
TEXTS = [f"text {i}" for i in range(6)]


def table(n):
    return as_items(
        {"text": TEXTS[:n], "split": ["train", "test", "cal", "test", "test", "train"][:n], "odd": [0, 1] * (n // 2)}
    )


def add(writer, start, stop):
    rows = DENSE[start:stop]
    writer.append(SparseRows(rows.indptr.astype(np.int64), rows.indices.astype(np.uint16), rows.data))


def begin(root, n_items, stops):
    index = ItemIndex.of(PTR[: n_items + 1])
    with SetWriter(root, PATH) as writer:
        planned = int(PTR[n_items])
        attributes = SetAttributes(
            n_features=9, dtype="float32", n_items=n_items, item_size=None, planned_samples=planned
        )
        start_set(writer, attributes, table(n_items), index, SPANS[:planned])
        for start, stop in zip([0, *stops[:-1]], stops, strict=True):
            add(writer, start, stop)
        writer.finish()


def extend(writer, n_items):
    attributes = replace(writer.attributes, n_items=n_items, planned_samples=int(PTR[n_items]))
    start_set(writer, attributes, table(n_items), ItemIndex.of(PTR[: n_items + 1]), SPANS[: PTR[n_items]])


def check(acts, n_items, n_samples):
    assert (acts.n_items, len(acts)) == (n_items, n_samples)
    assert acts.items.column("text").tolist() == TEXTS[:n_items]
    assert acts.items.column("odd").tolist() == [False, True] * (n_items // 2)
    np.testing.assert_array_equal(acts.sparse().toarray(), DENSE[:n_samples].toarray())
    np.testing.assert_array_equal(acts.spans(), SPANS[:n_samples])
    np.testing.assert_array_equal(acts.item_index.pointers(), PTR[: n_items + 1])


@pytest.fixture(params=["folder", "memory"])
def place(request, tmp_path):
    return tmp_path / "store" if request.param == "folder" else MemoryStore()


def test_old_and_new_at_every_step(place):
    store = saestore.open(place, "a")
    begin(store.root, 2, [10])
    old = store[PATH]
    check(old, 2, 10)
    with SetWriter(store.root, PATH) as writer:
        extend(writer, 6)
        check(store[PATH], 6, 10)
        check(old, 2, 10)
        add(writer, 10, 26)
        check(store[PATH], 6, 26)
        check(old, 2, 10)
        add(writer, 26, 40)
        writer.finish(first=10)
    check(store[PATH], 6, 40)
    assert [s.name for s in store[PATH].attributes.segments] == ["0-10", "10-40"]
    assert old.top_samples(3, n=40, where={"split": "test"}).sample.tolist() == (
        store[PATH].top_samples(3, n=40, where={"split": "test"}).sample.tolist()
    )  # the items that it had opened are gone: it asks again
    assert store.verify(PATH).ok, store.verify(PATH).problems
    store.compact(PATH)
    check(store[PATH], 6, 40)
    assert store.verify(PATH).ok


def test_items_of_an_old_handle_are_opened_anew(place):
    store = saestore.open(place, "a")
    begin(store.root, 2, [4, 10])
    handles = [store[PATH] for _ in range(2)]
    with SetWriter(store.root, PATH) as writer:
        extend(writer, 6)
        add(writer, 10, 40)
        writer.finish(first=10)
    assert handles[0].items.column("text").tolist() == TEXTS
    np.testing.assert_array_equal(handles[1].spans(), SPANS[: len(handles[1])])


def test_plain_xarray_opens_it(tmp_path):
    import xarray as xr

    store = saestore.open(tmp_path / "store", "a")
    begin(store.root, 2, [10])
    with SetWriter(store.root, PATH) as writer:
        extend(writer, 6)
        add(writer, 10, 40)
        before = xr.open_zarr(tmp_path / "store", group=PATH, consolidated=False)
        assert before.sizes["sample"] == 10  # the old one, until all arrays at the root are of the new one
        writer.finish(first=10)
    table = xr.open_zarr(tmp_path / "store", group=PATH, consolidated=False)
    samples = xr.open_zarr(tmp_path / "store", group=f"{PATH}/samples", consolidated=False)
    np.testing.assert_array_equal(samples["token_start.2"], SPANS[:, 0])
    np.testing.assert_array_equal(table["item"], np.repeat(np.arange(6), np.diff(PTR)))
    np.testing.assert_array_equal(table["l0"], np.diff(DENSE.indptr))


def test_what_a_killed_append_left_is_removed(tmp_path):
    """Its table was written, its commit was not."""
    store = saestore.open(tmp_path / "store", "a")
    begin(store.root, 2, [10])
    group = zarr.open_group(tmp_path / "store", path=PATH, mode="r+")
    group["items"].create_array("key-2", data=np.arange(6), dimension_names=("item",))
    assert not store.verify(PATH).ok
    with SetWriter(store.root, PATH):
        pass
    assert store.verify(PATH).ok
    check(store[PATH], 2, 10)
