"""AnnData that others wrote: every kind of X, and what obs says of the samples."""

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises
from strategies import cases, make_case, scratch_store

import saestore
from saestore.errors import InvalidInputError, NotFoundError

anndata = pytest.importorskip("anndata")
import pandas as pd  # noqa: E402

KINDS = {
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
    "dense": lambda matrix: matrix.toarray(),
}


def save(folder, matrix, suffix="h5ad", **obs):
    names = [f"cell-{i}" for i in range(matrix.shape[0])]
    path = folder / f"x.{suffix}"
    with quiet():
        adata = anndata.AnnData(X=matrix, obs=pd.DataFrame(obs, index=names))
        (adata.write_h5ad if suffix == "h5ad" else adata.write_zarr)(path)
    return path


@contextmanager
def quiet():
    """What anndata and its pandas warn of each other is not ours; only while these files are made, not while read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def imported(path, **how):
    return saestore.import_activations("Cells/cls/mine", path, store=scratch_store(), **how)


@settings(max_examples=6)
@given(case=cases(), kind=st.sampled_from(sorted(KINDS)), suffix=st.sampled_from(["h5ad", "zarr"]))
def test_every_kind_of_x(case, kind, suffix, tmp_path_factory):
    path = save(tmp_path_factory.mktemp("anndata"), KINDS[kind](case.csr), suffix)
    acts = imported(path, segment_rows=case.segment_rows)
    assert np.array_equal(acts.dense(), case.csr.toarray())
    assert acts.attributes.source["layout"] == f"anndata {kind}"
    assert acts.n_items == len(case.dense)
    assert acts.items.column("key").tolist() == [f"cell-{i}" for i in range(len(case.dense))]


def test_obs_becomes_the_items(tmp_path):
    case = make_case(3, 12, 7)
    split = ["train", "cal", "test"] * 4
    path = save(tmp_path, sp.csr_matrix(case.csr), split=pd.Categorical(split), red=[True, False] * 6, age=range(12))
    acts = imported(path)
    assert acts.items.column("split").tolist() == split
    assert acts.items.column("age").tolist() == list(range(12))
    assert acts.items.column("red").tolist() == [True, False] * 6
    other = imported(path, items={"image_path": list("abcdefghijkl")})
    assert other.items.column("key").tolist() == list("abcdefghijkl")


def test_samples_of_an_item_follow_each_other(tmp_path):
    case = make_case(3, 6, 7)
    matrix = sp.csr_matrix(case.csr)
    path = save(tmp_path, matrix, item=[4, 4, 4, 9, 9, 2], color=list("aaabbc"), row=[0, 1, 2, 0, 1, 0])
    acts = imported(path, item_ptr=None)
    assert acts.item_index.pointers().tolist() == [0, 3, 5, 6]
    assert acts.items.column("color").tolist() == ["a", "b", "c"]
    assert "row" not in acts.items.names()  # not of the item: it differs between its samples
    path = save(tmp_path, matrix, item=[4, 4, 2, 2, 4, 4])
    with raises(InvalidInputError, "scattered-items", "item 4"):
        imported(path)


@pytest.mark.once
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_items_may_be_named_by_texts(suffix, tmp_path):
    matrix, texts = sp.csr_matrix(make_case(3, 6, 7).csr), ["b", "b", "b", "c", "c", "a"]
    for items in (texts, pd.Categorical(texts)):
        acts = imported(save(tmp_path, matrix, suffix, item=items, color=list("aaabbc")))
        assert acts.item_index.pointers().tolist() == [0, 3, 5, 6]
        assert acts.items.column("key").tolist() == ["b", "c", "a"]
        assert acts.items.column("color").tolist() == ["a", "b", "c"]
    numbers = save(tmp_path, matrix, suffix, item=[2.0, 2.0, 2.0, 1.0, 1.0, 7.0])
    assert imported(numbers).item_index.pointers().tolist() == [0, 3, 5, 6]
    with raises(InvalidInputError, "scattered-items", "item a"):
        imported(save(tmp_path, matrix, suffix, item=list("bbacab")))
    with raises(InvalidInputError, "missing-item", "row 2"):
        imported(save(tmp_path, matrix, suffix, item=[1, 1, np.nan, 2, 2, 2]))


def test_what_to_anndata_gave_comes_back(tmp_path):
    """The file that a user wrote from `acts.to_anndata()`."""
    case = make_case(5, 20, 7, palette="signed")
    acts = scratch_store().write("Toy/patch/sae", case.csr, case.item_ptr, case.items)
    with quiet():
        adata = acts.to_anndata()
        adata.write_h5ad(tmp_path / "x.h5ad")
    again = saestore.import_activations("Toy/patch/again", tmp_path / "x.h5ad", store=scratch_store())
    assert np.array_equal(again.dense(), case.dense)
    assert again.concepts.names("item") == acts.concepts.names("item")
    assert again.items.column("split").tolist() == [
        case.items["split"][i] for i in range(case.n_items) if np.diff(case.item_ptr)[i]
    ]


def test_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("saestore.formats.base.BLOCK", 17)
    monkeypatch.setattr("saestore.formats.anndata._DENSE", 40)
    case = make_case(6, 40, 9, density=0.5)
    for kind, make in KINDS.items():
        acts = imported(save(tmp_path, make(case.csr)), segment_rows=13)
        assert np.array_equal(acts.dense(), case.dense), kind


def test_damage(tmp_path):
    path = save(tmp_path, sp.csr_matrix(make_case(6, 40, 9).csr))
    path.write_bytes(path.read_bytes()[:900])
    with raises(InvalidInputError, "damaged-file"):
        imported(path)
    (tmp_path / "x.h5ad").write_text("hello")
    with raises(InvalidInputError, "damaged-file"):
        imported(tmp_path / "x.h5ad")


@pytest.mark.parametrize("name", ["X/indptr", "X/data", "obs/_index"])
def test_arrays_that_claim_what_is_not_there(tmp_path, name):
    import h5py

    path = save(tmp_path, sp.csr_matrix(make_case(6, 40, 9).csr))
    with h5py.File(path, "a") as file:
        del file[name]
        file.create_dataset(name, (1 << 40,), "i8", chunks=(1 << 16,))
    with raises(InvalidInputError, "too-large" if name == "obs/_index" else "missing-chunk", name.rsplit("/", 1)[-1]):
        imported(path)


def test_features_that_are_a_part(tmp_path):
    with quiet():
        adata = anndata.AnnData(X=sp.csr_matrix(np.eye(3, dtype=np.float32)), var=pd.DataFrame(index=["5", "9", "11"]))
        adata.write_h5ad(tmp_path / "x.h5ad")
    (fault,) = imported(tmp_path / "x.h5ad").attributes.source["faults"]
    assert (fault["kind"], fault["severity"]) == ("renumbered_features", "info")
    assert "called 5 in var is feature 0" in fault["message"]


def test_a_file_of_another_kind_is_not_an_anndata(tmp_path):
    np.savez(tmp_path / "x.npz", a=1)
    with raises(InvalidInputError, "damaged-file", "x.npz", "--format"):
        saestore.check_import("T/patch/x", tmp_path / "x.npz", format="anndata")
    with raises(NotFoundError, "no-such-file", "y.npz"):
        saestore.check_import("T/patch/x", tmp_path / "y.npz", format="anndata")


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [("X", "shape", "ab"), ("X", "shape", 5), ("X", "shape", None), ("X", "shape", [-1, 9]), ("X", "encoding-type", 5),
     ("obs", "encoding-type", "other"), ("obs", "_index", "other"), ("X", None, "data"), ("X", None, "indptr")],
)  # fmt: skip
def test_attributes_that_no_anndata_has(tmp_path, node, name, value):
    h5py = pytest.importorskip("h5py")
    path = save(tmp_path, sp.csr_matrix(make_case(6, 40, 9).csr))
    with h5py.File(path, "r+") as file:
        if name is None:
            del file[node][value]
        elif value is None:
            del file[node].attrs[name]
        else:
            file[node].attrs[name] = value
    with pytest.raises(InvalidInputError):
        imported(path)
