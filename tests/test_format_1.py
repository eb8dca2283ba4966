"""A store that saestore 0.1.0 wrote is read as it was meant, by every later version."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import zarr

import saestore

HERE = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def store() -> saestore.Store:
    """The store, as it lies in the repository."""
    return saestore.open(HERE / "format-1.zarr")


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """The tensors that it holds."""
    with np.load(HERE / "format-1.npz") as arrays:
        return dict(arrays)


def test_nothing_is_wrong_with_it(store):
    assert list(store) == ["Toy/patch/compacted", "Toy/token/growing"]
    assert not store.verify().problems


def test_the_compacted_set(store, expected):
    acts, dense = store["Toy/patch"], expected["dense"]
    assert np.array_equal(acts.dense(), dense)
    for feature in range(dense.shape[1]):
        column = dense[:, feature]
        order = np.lexsort((np.arange(len(column)), -column))
        top = acts.top_samples(feature, n=100)
        assert top.sample.tolist() == [s for s in order if column[s] != 0]
        assert np.array_equal(top.item, top.sample // 4)
    stats = acts.stats()
    assert np.allclose(stats["std"], dense.std(axis=0, dtype=np.float64))
    assert np.array_equal(stats["n_active"], (dense != 0).sum(axis=0))
    red = acts.top_samples(0, n=100, where={"color::red": True, "split": "train"})
    assert set(red.item.tolist()) <= {0, 3}
    assert list(acts.items.column("key"))[:2] == ["img/0.png", "img/1.png"]


def test_the_growing_set_of_three_segments_with_wide_ids(store, expected):
    acts = store["Toy/token"]
    assert acts.shape == (8, 65_537)
    assert not acts.attributes.complete
    wide = sp.csr_array((expected["values"], (expected["rows"], expected["columns"])), acts.shape)
    assert (acts.sparse() != wide).nnz == 0
    top = acts.top_samples(65_536, n=5)
    assert (top.sample.tolist(), top.item.tolist(), top.position.tolist()) == ([6, 1], [2, 0], [3, 1])
    text = acts.items.column("text")[2]
    start, stop = acts.spans([5])[0]
    assert text[start:stop] == "🙂"


def test_anndata_reads_its_segments(store, expected):
    anndata = pytest.importorskip("anndata")
    segment = store.root["Toy/patch/compacted/segments/0-24"]
    assert isinstance(segment, zarr.Group)
    for name in ("by_sample", "by_feature"):
        assert np.array_equal(anndata.io.read_elem(segment[name]).toarray(), expected["dense"])
