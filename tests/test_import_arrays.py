"""Imports of arrays under the usual names, in a ``.npz`` or in memory, and of objects of other libraries."""

import sys
from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse as sp
from raising import raises
from strategies import memory_store

import saestore
from saestore.detection.options import DetectionOptions
from saestore.errors import InvalidInputError, StoreConflictError

N, CTX, D, K = 6, 4, 9, 5
DENSE = np.random.default_rng(0).gamma(2, size=(N * CTX, D)).astype(np.float32)
DENSE[np.random.default_rng(1).random(DENSE.shape) < 0.6] = 0
CSR, CSC, COO = sp.csr_array(DENSE), sp.csc_array(DENSE), sp.coo_array(DENSE)
TOP = np.argsort(-DENSE, axis=1, kind="stable")
TOP = {"indices": TOP, "values": np.take_along_axis(DENSE, TOP, 1)}

NAMED = {
    "rows of indices and values": TOP,
    "sequences of them": {name: array.reshape(N, CTX, D) for name, array in TOP.items()},
    "pointers": {"indptr": CSR.indptr, "indices": CSR.indices, "values": CSR.data},
    "pointers, as scipy names them": {"indptr": CSR.indptr, "indices": CSR.indices, "data": CSR.data},
    "pointers of columns": {"indptr": CSC.indptr, "indices": CSC.indices, "data": CSC.data, "shape": CSC.shape},
    "coordinates": {"rows": COO.row, "cols": COO.col, "vals": COO.data, "shape": COO.shape},
    "coordinates, as torch has them": {"indices": np.stack(COO.coords), "values": COO.data, "shape": COO.shape},
    "places in sequences": {"locations": np.stack([COO.row // CTX, COO.row % CTX, COO.col], 1),
                            "activations": COO.data, "tokens": np.zeros((N, CTX), int), "d_sae": D},
    "places in rows": {"locations": np.stack(COO.coords, 1), "acts": COO.data, "shape": COO.shape},
    "pointers, as torch names them": {"crow_indices": CSR.indptr, "col_indices": CSR.indices, "values": CSR.data},
    "columns in the order of Fortran": {name: np.asfortranarray(array) for name, array in TOP.items()},
}  # fmt: skip
PAIRS = [
    ("feature_ids", "activations"), ("top_indices", "top_values"), ("topk_indices", "topk_acts"), ("indices", "acts"),
    ("feature_indices", "feature_acts"), ("latent_ids", "latent_acts"), ("idx", "vals"),
]  # fmt: skip


def imported(given, path="A/token/s", store=None, **how):
    return saestore.import_activations(
        path, given, store=memory_store() if store is None else store, progress=False, **how
    )


def in_files(arrays, folder):
    """The arrays in memory and in each kind of file."""
    torch, save = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch").save_file
    tensors = {name: torch.as_tensor(np.ascontiguousarray(array)) for name, array in arrays.items()}
    np.savez(folder / "x.npz", **arrays)
    torch.save(tensors, folder / "x.pt")
    save(tensors, folder / "x.safetensors")
    return [arrays, *(folder / f"x.{suffix}" for suffix in ("npz", "pt", "safetensors"))]


@pytest.mark.parametrize("name", NAMED)
def test_named_arrays_of_a_file_and_in_memory(name, tmp_path):
    arrays = NAMED[name]
    how = {} if {"shape", "d_sae"} & set(arrays) else {"n_features": D}
    for given in in_files(arrays, tmp_path):
        acts = imported(given, **how)
        assert np.array_equal(acts.dense(), DENSE)
        assert acts.n_items == (N if "sequences" in name else len(DENSE))


def test_rows_of_ids_and_values_under_any_of_the_usual_names(tmp_path):
    for ids, values in PAIRS:
        arrays = {ids: TOP["indices"].reshape(N, CTX, D), values: TOP["values"].reshape(N, CTX, D)}
        for given in in_files(arrays, tmp_path)[: 4 if ids == "feature_ids" else 1]:
            acts = imported(given, n_features=D)
            assert (np.array_equal(acts.dense(), DENSE), acts.n_items) == (True, N), ids


def test_places_that_hold_nothing_may_have_any_id():
    for nothing in (-1, D, 0):
        ids = np.where(TOP["values"] == 0, nothing, TOP["indices"])
        assert np.array_equal(imported({**TOP, "indices": ids}, n_features=D).dense(), DENSE)


def test_a_mask_beside_them_is_not_passed_over(tmp_path):
    keep = np.arange(CTX) < np.arange(1, N + 1)[:, None].clip(max=CTX)
    arrays = {name: array.reshape(N, CTX, D) for name, array in TOP.items()} | {"attention_mask": keep}
    for given in in_files(arrays, tmp_path):
        with raises(InvalidInputError, "unused-tensor", "attention_mask", "--mask"):
            imported(given, n_features=D)
        assert np.array_equal(imported(given, n_features=D, mask="attention_mask").dense(), DENSE[keep.reshape(-1)])


def test_the_shape_of_a_mask_gives_the_items(tmp_path):
    keep = np.arange(CTX) < np.arange(1, N + 1)[:, None].clip(max=CTX)
    for given in in_files({**TOP, "attention_mask": keep}, tmp_path):
        acts = imported(given, n_features=D, mask="attention_mask")
        assert np.array_equal(acts.dense(), DENSE[keep.reshape(-1)])
        assert np.array_equal(np.diff(acts.item_index.pointers()), keep.sum(1))
    assert imported(CSR, mask=keep, item_ptr=2).n_items == len(DENSE) // 2
    assert imported(CSR, "A/cls/s", mask=keep).n_items == len(DENSE)
    assert imported(CSR, mask=keep.reshape(-1, 1)).n_items == len(DENSE)


def test_the_width_may_be_in_the_file(tmp_path):
    for given in in_files({**TOP, "d_sae": np.array(D + 3)}, tmp_path):
        assert imported(given).shape == (len(DENSE), D + 3)
    np.savez(tmp_path / "x.npz", **TOP)
    with raises(InvalidInputError, "missing-n-features", "--n-features"):
        imported(tmp_path / "x.npz")


def test_coordinates_without_a_shape_say_what_is_not_known():
    known = {name: array for name, array in NAMED["coordinates"].items() if name != "shape"}
    last = np.flatnonzero(DENSE.any(1))[-1]
    acts = imported(known, n_features=D)
    assert len(acts) == last + 1
    assert acts.attributes.source["faults"][0]["kind"] == "no_shape"


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"values": None}, "not-a-matrix", "indices"),
        ({"values": np.ones((24, 3))}, "bad-shape", "(24, 3)"),
        ({"values": np.full((24, 9), "a")}, "unsupported-dtype", "<U1"),
        ({"values": np.ones(216), "indices": np.zeros(216, int)}, "bad-shape", "(216,)"),
        ({"indices": np.full((24, 9), D)}, "errors-in-file", "9"),
        ({"indices": TOP["indices"].astype(float)}, "unsupported-dtype", "indices"),
        ({"activations": TOP["values"]}, "ambiguous-arrays", "activations"),
        ({"locations": np.zeros((3, 3), int), "values": np.ones(3), "indices": None}, "bad-shape", "tokens"),
    ],
)
def test_named_arrays_that_cannot_be(change, code, named, tmp_path):
    arrays = {name: array for name, array in {**TOP, **change}.items() if array is not None}
    np.savez(tmp_path / "x.npz", **arrays, other=np.ones(1))
    for given in (tmp_path / "x.npz", {**arrays, "other": np.ones(1)}):
        with raises(InvalidInputError, code, named):
            imported(given, store=tmp_path / "s.zarr", n_features=D)
    assert not (tmp_path / "s.zarr").exists()


def test_a_shape_that_lies_is_refused():
    with raises(InvalidInputError, "not-a-matrix", "25 values", "9 x 9"):
        imported({**NAMED["pointers"], "shape": (9, 9)})
    with raises(InvalidInputError, "damaged-file", "names sample 5"):
        imported({**NAMED["coordinates"], "shape": (5, D)})


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "lil", "dok"])
def test_scipy_in_memory(kind):
    acts = imported(CSR.asformat(kind))
    assert np.array_equal(acts.dense(), DENSE)
    assert acts.attributes.source["format"] == "scipy"


def test_the_same_object_again_is_taken_up_and_another_is_not():
    store = memory_store()
    imported(CSR, store=store)
    assert np.array_equal(imported(sp.csr_array(DENSE), store=store).dense(), DENSE)
    with raises(StoreConflictError, "different-content", "files"):
        imported(CSR * 2, store=store)


@pytest.mark.filterwarnings("ignore:Sparse")  # torch says that its own sparse tensors are new
def test_objects_of_torch():
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(DENSE)
    compressed = [tensor.to_sparse_csr(), tensor.to_sparse_csc()]
    for given in (tensor, tensor.to_sparse(), *compressed, tensor.numpy()):
        assert np.array_equal(imported(given).dense(), DENSE)
    half = imported(tensor.half().to_sparse())
    assert np.array_equal(half.dense(), DENSE.astype(np.float16))
    several = tensor.view(N, CTX, D)
    full = torch.sparse_csr_tensor(  # a batch of CSR matrices, which have as many entries each
        torch.arange(0, CTX * D + 1, D).expand(N, -1), torch.arange(D).expand(N, CTX, D).reshape(N, -1),
        several.reshape(N, -1), several.shape,
    )  # fmt: skip
    for sequences in (several.to_sparse(), several.to_sparse(1), full):
        acts = imported(sequences)
        assert (np.array_equal(acts.dense(), DENSE), acts.attributes.item_size) == (True, CTX)
    twice = torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (2, 3))
    assert imported(twice).dense()[0].tolist() == [0, 3, 0]


def test_dense_arrays_of_any_order_and_dtype(monkeypatch):
    """Without torch, which may not be installed."""
    xarray = pytest.importorskip("xarray")
    monkeypatch.setitem(sys.modules, "torch", None)
    whole = np.round(DENSE * 10)
    for given in (np.asfortranarray(DENSE), DENSE.astype(">f8"), DENSE.astype(np.float16), whole.astype(np.int16),
                  DENSE[:, ::-1], DENSE > 0, np.asfortranarray(DENSE.reshape(N, CTX, D)),
                  xarray.DataArray(DENSE)):  # fmt: skip
        acts = imported(given)
        assert np.array_equal(acts.dense(), np.asarray(given).reshape(-1, D)), given.dtype
    with raises(InvalidInputError, "masked-array", "filled"):
        imported(np.ma.masked_greater(DENSE, 1))
    for shape in ((0, 3), (3, 0), (3,)):
        with raises(InvalidInputError, "bad-shape", shape):
            imported(np.ones(shape))


def test_the_shape_of_dense_activations_gives_the_items(tmp_path):
    torch = pytest.importorskip("torch")
    three = torch.from_numpy(DENSE.reshape(N, CTX, D))
    torch.save(three, tmp_path / "x.pt")
    np.savez(tmp_path / "x.npz", acts=three)
    np.save(tmp_path / "x.npy", three)
    np.savez(tmp_path / "two.npz", acts=three, other=np.zeros((3, 3)))
    files = [tmp_path / "x.pt", tmp_path / "x.npz", tmp_path / "x.npy", f"{tmp_path / 'two.npz'}:acts"]
    with pytest.importorskip("h5py").File(tmp_path / "x.h5", "w") as file:
        file["layer/acts"] = three
    files += [tmp_path / "x.h5", f"{tmp_path / 'x.h5'}:layer/acts"]
    four = three.view(N, 2, CTX // 2, D)
    for given in (three, three.numpy(), {"acts": three.to_sparse(), "by": "me"}, four, four.to_sparse(), *files):
        acts = imported(given)
        assert np.array_equal(acts.dense(), DENSE)
        assert acts.attributes.item_size == CTX
    with raises(InvalidInputError, "not-a-matrix", "acts", "other", "FILE:NAME"):
        imported(tmp_path / "two.npz")
    with raises(InvalidInputError, "rows-per-item", 24):
        imported(three, items={"text": ["a"]})


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_tensors_in_files(tmp_path):
    torch = pytest.importorskip("torch")
    tensor, keep = torch.from_numpy(DENSE), np.arange(len(DENSE)) % 3 > 0
    kinds = (tensor.to_sparse(), tensor.to_sparse_csr(), tensor.to_sparse_csc(), tensor.view(N, CTX, D).to_sparse())
    for content in (*kinds, *({"acts": each, "hook": "x"} for each in kinds)):
        torch.save(content, tmp_path / "x.pt")
        assert np.array_equal(imported(tmp_path / "x.pt").dense(), DENSE)
    torch.save({"a": kinds[0], "b": (tensor * 2).to_sparse_csr()}, tmp_path / "x.pt")
    assert np.array_equal(imported(f"{tmp_path / 'x.pt'}:b").dense(), DENSE * 2)
    with raises(InvalidInputError, "no-activations", "a, b"):
        imported(tmp_path / "x.pt")
    torch.save({"a": kinds[0], "mask": torch.from_numpy(keep)}, tmp_path / "x.pt")
    assert np.array_equal(imported(tmp_path / "x.pt", mask="mask").dense(), DENSE[keep])
    with raises(InvalidInputError, "unused-tensor", "mask"):
        imported(tmp_path / "x.pt")


def test_whole_numbers_in_files(tmp_path):
    torch, whole = pytest.importorskip("torch"), np.round(DENSE * 10).astype(np.int16)
    np.save(tmp_path / "x.npy", whole)
    np.savez(tmp_path / "x.npz", acts=np.asfortranarray(whole.astype(">i4")))
    ids, values = TOP["indices"].astype(np.uint8), np.take_along_axis(whole, TOP["indices"], 1)
    torch.save({"top_indices": torch.from_numpy(ids), "top_acts": torch.from_numpy(values)}, tmp_path / "x.pt")
    for name in ("x.npy", "x.npz", "x.pt"):
        assert np.array_equal(imported(tmp_path / name, n_features=D).dense(), whole)
    np.savez(tmp_path / "ids.npz", indices=TOP["indices"])
    torch.save({"indices": torch.from_numpy(TOP["indices"])}, tmp_path / "ids.pt")
    for given, code in ((tmp_path / "ids.npz", "not-a-matrix"), (tmp_path / "ids.pt", "no-activations")):
        with raises(InvalidInputError, code, "indices"):
            imported(given)
    for number in (2**53 + 1, 2**63 + 1):
        with raises(InvalidInputError, "inexact-value", number):
            imported(np.array([[0, 1], [0, number]], np.uint64))


def test_tables_of_a_sparse_matrix(tmp_path):
    parquet, pandas = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pandas")
    arrow = pytest.importorskip("pyarrow")
    long = pandas.DataFrame({"sample": COO.row, "feature": COO.col, "activation": COO.data})
    rows = arrow.table({name: array.tolist() for name, array in TOP.items()})
    parquet.write_table(arrow.Table.from_pandas(long), tmp_path / "long.parquet")
    parquet.write_table(rows, tmp_path / "rows.parquet")
    last = 1 + np.flatnonzero(DENSE.any(1))[-1]  # of a table of entries nothing is known after it
    for given in (long, rows, tmp_path / "long.parquet", tmp_path / "rows.parquet"):
        acts = imported(given, n_features=D)
        assert np.array_equal(acts.dense()[:last], DENSE[:last])
    saestore.export(imported(CSR), tmp_path / "back.parquet", progress=False)
    assert np.array_equal(imported(tmp_path / "back.parquet").dense(), DENSE)
    with raises(InvalidInputError, "bad-shape", "several lengths"):
        imported({"indices": [[1], [2, 3]], "values": [[1.0], [2.0, 3.0]]}, n_features=D)


def test_names_in_other_letters_and_what_else_they_say():
    upper = {name.title(): array for name, array in NAMED["coordinates"].items()}
    assert np.array_equal(imported(upper).dense(), DENSE)
    acts = imported({"Indices": TOP["indices"], "VALUES": TOP["values"], "D_SAE": D, "Item_Ptr": [0, 4, 24]})
    assert (np.array_equal(acts.dense(), DENSE), acts.n_items) == (True, 2)
    none = np.zeros(0, int)
    assert imported({"rows": none, "cols": none, "vals": none * 1.0, "shape": (4, D)}).shape == (4, D)
    for indptr in (none, [0]):
        with raises(InvalidInputError, "damaged-file", "indptr"):
            imported({"indptr": indptr, "indices": none, "data": none * 1.0}, n_features=D)


class EncoderOutput(NamedTuple):
    """As sparsify has it."""

    top_acts: object
    top_indices: object
    pre_acts: object


def test_encoder_output():
    torch = pytest.importorskip("torch")
    pre = torch.from_numpy(DENSE).view(N, CTX, D)
    acts = imported(EncoderOutput(*pre.topk(K), pre))
    expected = np.zeros_like(DENSE)
    np.put_along_axis(expected, TOP["indices"][:, :K], TOP["values"][:, :K], 1)
    assert np.array_equal(acts.dense(), expected)
    assert (acts.attributes.item_size, acts.attributes.sae["k"]) == (CTX, K)


@pytest.mark.filterwarnings("ignore:The 'future.infer_string' option")  # anndata asks for it when it writes
def test_anndata_in_memory(tmp_path):
    anndata = pytest.importorskip("anndata")
    pandas = pytest.importorskip("pandas")
    obs = pandas.DataFrame({"split": ["train", "test"] * 12}, index=[f"i{i}" for i in range(24)])
    for matrix in (DENSE, CSR, CSR.tocsc()):
        adata = anndata.AnnData(matrix, obs=obs)
        acts = imported(adata)
        assert np.array_equal(acts.dense(), DENSE)
        assert acts.items["split"].tolist() == obs["split"].tolist()
        assert acts.items["key"][3] == "i3"
    with raises(InvalidInputError, "not-a-matrix", "no X"):
        imported(anndata.AnnData(obs=obs))
    adata.write_h5ad(tmp_path / "x.h5ad")
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    assert np.array_equal(imported(backed).dense(), DENSE)
    backed.file.close()


def test_what_is_no_activations_is_refused_by_its_type():
    for given in (7, ["a"], object()):
        with raises(InvalidInputError, "unsupported-activations", type(given).__name__, "torch"):
            saestore.check_import("A/token/s", given)
    with raises(InvalidInputError, "option-of-another-format", "pad_token", "csr_array"):
        imported(CSR, pad_token=0)
    with raises(InvalidInputError, "bad-shape", "(0, 3)"):
        imported(sp.csr_array((0, 3)))


@pytest.mark.once
def test_an_import_that_names_its_sae_is_used_like_a_build(tmp_path):
    """Activations that sparsify encoded: decoded, diagnosed, and compared with baselines on their embeddings."""
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("sparsify.sparse_coder", reason="needs eai-sparsify")
    pytest.importorskip("sklearn")
    d_in = 6
    coder = package.SparseCoder(d_in, package.SparseCoderConfig(num_latents=D, k=3))
    coder.save_to_disk(tmp_path / "run")
    x = torch.from_numpy(np.random.default_rng(5).normal(size=(40, CTX, d_in)).astype(np.float32))
    np.save(tmp_path / "x.npy", x)
    label = (x[:, :, 0].amax(1) > 0.8).numpy()
    items = {
        "text": [f"t{i}" for i in range(40)],
        "split": ["train", "cal", "test", "test"] * 10,
        "high": label.astype(int),
    }
    with torch.inference_mode():
        encoded = coder.encode(x.view(-1, d_in))
        back = coder.decode(encoded.top_acts, encoded.top_indices).numpy()
    source = {"embeddings": str(tmp_path / "x.npy"), "by": "sparsify"}
    acts = imported(encoded, "A/token", items=items, sae=tmp_path / "run", source=source, item_ptr=CTX)
    dense = torch.zeros(len(encoded.top_acts), D).scatter_(1, encoded.top_indices, encoded.top_acts)
    assert np.array_equal(acts.dense(), dense.numpy())
    assert (acts.path, acts.attributes.source["by"]) == ("A/token/run", "sparsify")
    np.testing.assert_allclose(acts.decode(slice(None)), back, rtol=1e-5, atol=1e-6)
    report = acts.diagnose()
    variance = 1 - ((x.view(-1, d_in).numpy() - back) ** 2).sum() / ((x - x.mean((0, 1))) ** 2).sum().item()
    assert report.reconstruction["explained_variance"] == pytest.approx(variance, abs=1e-4)
    found = acts.detect(embeddings=tmp_path / "x.npy", options=DetectionOptions(n_resamples=1))
    assert len(found.methods) > 1  # baselines beside the features
    some = imported(
        encoded, "B/token", items=items, sae=tmp_path / "run", source=source, item_ptr=CTX, exclude="position == 0"
    )
    assert some.samples["source_row"].tolist() == np.flatnonzero(np.arange(40 * CTX) % CTX).tolist()
    rest = x[:, 1:].reshape(-1, d_in).numpy()
    variance = 1 - ((rest - back[some.samples["source_row"]]) ** 2).sum() / ((rest - rest.mean(0)) ** 2).sum()
    assert some.diagnose().reconstruction["explained_variance"] == pytest.approx(variance, abs=1e-4)
