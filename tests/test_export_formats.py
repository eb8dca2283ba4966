"""Exports that other programs' own readers open: AnnData, Parquet, `.pt`; and back again."""

import errno
import json
import resource
import warnings
from pathlib import Path

import numpy as np
import pytest
from faults import Faults
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises
from strategies import cases, make_case, scratch_store, write_case

import saestore
from saestore.errors import InvalidInputError, StoreConflictError, StoreWriteError, UnreachableError
from saestore.storage import durable
from saestore.web.folder import write_folder

BACK = "Back/patch/sae"


def stored(case):
    return write_case(scratch_store(), case)


def back(path, store=None, set_path=BACK, **how):
    return saestore.import_activations(set_path, path, store=store or scratch_store(), **how)


def dense_of(case):
    """As the blocks of an export have it: float16 as float32."""
    return case.dense.astype(np.result_type(case.dense.dtype, np.float32))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("saestore.formats.selection.BLOCK", 23)
    monkeypatch.setattr("saestore.formats.anndata_output._CHUNK", 10)


# AnnData


@pytest.fixture(params=["h5ad", "zarr"])
def suffix(request):
    pytest.importorskip("anndata")
    return request.param


def read_anndata(path):
    import anndata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what anndata and its pandas warn of each other is not ours
        return anndata.read_h5ad(path) if path.suffix == ".h5ad" else anndata.read_zarr(path)


@settings(max_examples=5)
@given(case=cases(), suffix=st.sampled_from(["h5ad", "zarr"]))
def test_anndata_reads_what_is_stored(case, suffix, tmp_path_factory):
    pytest.importorskip("anndata")
    path = tmp_path_factory.mktemp("anndata") / f"x.{suffix}"
    acts = stored(case)
    saestore.export(acts, path)
    adata = read_anndata(path)
    assert np.array_equal(adata.X.toarray(), dense_of(case))
    assert adata.obs["item"].to_numpy().tolist() == case.item_of_sample.tolist()
    assert adata.obs["split"].tolist() == np.array(case.items["split"])[case.item_of_sample].tolist()
    assert (adata.obs["color::red"] == "true").tolist() == case.red[case.item_of_sample].tolist()
    assert adata.obs_names.tolist() == [str(i) for i in range(len(case.dense))]
    assert adata.var["n_active"].tolist() == np.count_nonzero(case.dense, axis=0).tolist()
    assert adata.uns["saestore"]["path"] == acts.path


def test_anndata_out_and_in(suffix, tmp_path, small_blocks):
    case = make_case(4, 50, 11, density=0.3, palette="signed")
    path = tmp_path / f"x.{suffix}"
    acts = stored(case)
    acts.samples.update(
        {
            "score": np.arange(50),
            "word": list("ab" * 25),
            "a/b": np.arange(50),
            "a|b": np.arange(50),
            "..": np.arange(50),
        }
    )
    saestore.export(acts, path)
    assert {"a|b", "a|b_", ".._"} <= set(read_anndata(path).obs)
    again = back(path, segment_rows=17)
    assert np.array_equal(again.dense(), case.dense)
    assert np.array_equal(again.item_index.pointers(), case.item_ptr)
    assert again.items.column("key").tolist() == case.items["image_path"]
    assert again.items.column("weight").tolist() == case.items["weight"]
    assert again.items.column("color::red").tolist() == case.red.tolist()
    assert again.samples["score"].tolist() == list(range(50))
    assert again.samples["word"].tolist() == list("ab" * 25)


def test_a_part_as_anndata(suffix, tmp_path, small_blocks):
    case = make_case(8, 60, 15, density=0.4)
    path = tmp_path / f"x.{suffix}"
    saestore.export(stored(case), path, where={"split": "train"}, features=[3, 4, 11])
    train = np.flatnonzero((case.split == 0)[case.item_of_sample])
    adata = read_anndata(path)
    assert np.array_equal(adata.X.toarray(), case.dense[train][:, [3, 4, 11]])
    assert adata.var_names.tolist() == ["3", "4", "11"]
    assert adata.obs_names.tolist() == train.astype(str).tolist()
    assert not len(adata.var.columns)
    again = back(path)
    assert np.array_equal(again.dense(), case.dense[train][:, [3, 4, 11]])
    assert again.attributes.source["faults"][0]["kind"] == "renumbered_features"


# Parquet


def read_parquet(path, shape, dtype):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path)
    dense = np.zeros(shape, dtype)
    dense[table["sample"].to_numpy(), table["feature"].to_numpy()] = table["activation"].to_numpy()
    return table, dense


@settings(max_examples=6)
@given(case=cases())
def test_parquet_has_a_row_for_every_activation(case, tmp_path_factory):
    pytest.importorskip("pyarrow")
    path = tmp_path_factory.mktemp("parquet") / "x.parquet"
    acts = stored(case)
    done = saestore.export(acts, path)
    table, dense = read_parquet(path, case.dense.shape, dense_of(case).dtype)
    assert table.num_rows == np.count_nonzero(case.dense) == done.nnz
    assert np.array_equal(dense, dense_of(case))
    samples = table["sample"].to_numpy()
    assert table["item"].to_pylist() == case.item_of_sample[samples].tolist()
    assert table["position"].to_pylist() == (samples - case.item_ptr[case.item_of_sample[samples]]).tolist()
    order = np.lexsort((table["feature"].to_numpy(), samples))
    assert np.array_equal(order, np.arange(len(order)))
    assert json.loads(table.schema.metadata[b"saestore"])["n_samples"] == len(case.dense)


def test_a_part_as_parquet(tmp_path, small_blocks):
    pytest.importorskip("pyarrow")
    case = make_case(8, 60, 15, density=0.4)
    saestore.export(stored(case), tmp_path / "x.parquet", where={"split": "train"}, features=[3, 4, 11])
    _, dense = read_parquet(tmp_path / "x.parquet", case.dense.shape, np.float32)
    expected = np.zeros_like(case.dense)
    train = (case.split == 0)[case.item_of_sample]
    expected[np.ix_(train, [3, 4, 11])] = case.dense[np.ix_(train, [3, 4, 11])]
    assert np.array_equal(dense, expected)


# SuperActivators' .pt


def load_pt(path):
    torch = pytest.importorskip("torch")
    return torch.load(path, weights_only=True)


def scattered(content, width):
    """What that pipeline's own code makes of indices and values."""
    torch = pytest.importorskip("torch")
    rows = torch.zeros(len(content["indices"]), width)
    return rows.scatter_add_(1, content["indices"], content["values"]).numpy()


@settings(max_examples=6)
@given(case=cases())
def test_sparse_pt(case, tmp_path_factory):
    pytest.importorskip("torch")
    folder, acts = tmp_path_factory.mktemp("sparse"), stored(case)
    how = {"format": "superactivators-sparse"}
    if not np.array_equal(case.dense.astype(np.float32), case.dense):
        with raises(InvalidInputError, "inexact-value", "float32"):
            saestore.export(acts, folder / "x.pt", **how)
        assert list(folder.iterdir()) == []
        return
    saestore.export(acts, folder / "x.pt", **how)
    content = load_pt(folder / "x.pt")
    assert np.array_equal(scattered(content, case.n_features), case.dense.astype(np.float32))
    assert content["topk"] == content["indices"].shape[1] == max(1, np.count_nonzero(case.dense, axis=1).max())
    again = back(folder / "x.pt", n_features=case.n_features)
    assert np.array_equal(again.dense(), case.dense)


def test_sparse_pt_in_chunks(tmp_path, small_blocks, monkeypatch):
    pytest.importorskip("torch")
    case = make_case(5, 100, 300, density=0.05, palette="signed", dtype="float32")
    k = np.count_nonzero(case.dense, axis=1).max()
    monkeypatch.setattr("saestore.superactivators.chunk_lists.CHUNK_BYTES", 12 * int(k) * 30)
    done = saestore.export(stored(case), tmp_path / "x.pt", format="superactivators-sparse")
    assert [p.name for p in done.files] == [*(f"x_chunk_{i}.pt" for i in range(4)), "x_chunks_info.json"]
    info = json.loads((tmp_path / "x_chunks_info.json").read_text())
    assert [(c["start_idx"], c["end_idx"]) for c in info["chunks"]] == [(0, 30), (30, 60), (60, 90), (90, 100)]
    again = back(tmp_path / "x.pt")
    assert np.array_equal(again.dense(), case.dense)
    assert [f["kind"] for f in again.attributes.source["faults"] if f["severity"] != "info"] == ["unsorted"]
    with raises(StoreConflictError, "file-exists", "x_chunks_info.json"):
        saestore.export(stored(case), tmp_path / "x.pt", format="superactivators-sparse")
    monkeypatch.undo()
    saestore.export(stored(case), tmp_path / "x.pt", format="superactivators-sparse", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]  # no chunk of the older one is left


def test_dense_pt_with_a_unit_mapping_that_is_right(tmp_path, small_blocks, monkeypatch):
    pytest.importorskip("torch")
    case = make_case(6, 100, 30, density=0.02, palette="heavy")
    acts = stored(case)
    active = np.flatnonzero(case.dense.any(axis=0))
    assert len(active) < 30
    monkeypatch.setattr("saestore.superactivators.chunk_lists.CHUNK_BYTES", 4 * len(active) * 30)
    saestore.export(acts, tmp_path / "d.pt", format="superactivators-dense")
    parts = [load_pt(tmp_path / f"d_chunk_{i}.pt").numpy() for i in range(4)]
    assert np.array_equal(np.concatenate(parts), case.dense[:, active])
    mapping = json.loads((tmp_path / "d_unit_mapping.json").read_text())
    assert mapping["kept_units"] == active.tolist()
    assert mapping["unit_id_to_new_idx"] == {str(unit): place for place, unit in enumerate(active.tolist())}
    assert (mapping["n_original"], mapping["n_filtered"]) == (30, len(active))
    saestore.export(acts, tmp_path / "s.pt", format="superactivators-sparse")
    again = back(tmp_path / "d.pt", format="superactivators-dense-filtered", sparse=tmp_path / "s.pt", n_features=30)
    assert np.array_equal(again.dense(), case.dense)
    assert "wrong_unit_mapping" not in [f["kind"] for f in again.attributes.source["faults"]]


def test_chosen_features_dense(tmp_path):
    pytest.importorskip("torch")
    case = make_case(8, 60, 15, density=0.4)
    saestore.export(
        stored(case), tmp_path / "d.pt", format="superactivators-dense", where={"split": "train"}, features=[11, 3]
    )
    train = (case.split == 0)[case.item_of_sample]
    assert np.array_equal(load_pt(tmp_path / "d.pt").numpy(), case.dense[train][:, [3, 11]])


def test_dense_that_does_not_fit_the_disk(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr("saestore.superactivators.activations.shutil.disk_usage", lambda _: type("", (), {"free": 10}))
    with raises(StoreWriteError, "too-little-space"):
        saestore.export(stored(make_case(8, 60, 15)), tmp_path / "d.pt", format="superactivators-dense")
    assert list(tmp_path.iterdir()) == []


def test_options_of_another_format(tmp_path):
    with raises(InvalidInputError, "option-of-another-format"):
        saestore.export(stored(make_case(8, 6, 5)), tmp_path / "x.npz", clip=True)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_anndata_has_what_is_unknown_of_items(suffix, tmp_path):
    acts = write_case(scratch_store(), make_case(3, 6, 4, density=0.5, ragged=False))
    unknown, columns = np.arange(6) == 3, {"word": list("abcdef"), "number": np.arange(6), "a/b": np.arange(6) % 2 == 1}
    acts.items.update(columns, unknown=unknown)
    saestore.export(acts, tmp_path / f"x.{suffix}", progress=False)
    table = read_anndata(tmp_path / f"x.{suffix}").uns["items"]
    for name, values in columns.items():
        found = table[name.replace("/", "|")]
        assert found.isna().tolist() == unknown.tolist(), name
        assert found[~unknown].tolist() == np.asarray(values)[~unknown].tolist(), name
    acts.items.set("word", ["a\0b"] * 6)
    if suffix == "h5ad":
        with raises(InvalidInputError, "not-in-format", "items"):
            saestore.export(acts, tmp_path / "y.h5ad", progress=False)


@pytest.mark.once
def test_a_file_of_hdf5_that_cannot_be_written_to_its_end_is_no_file(tmp_path):
    """HDF5 writes much when an object goes, where Python drops errors."""
    acts = write_case(scratch_store(), make_case(3, 6, 4, density=0.5, ragged=False))
    saestore.export(acts, tmp_path / "whole.h5ad", progress=False)
    size, before = (tmp_path / "whole.h5ad").stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (size // 2, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with raises(UnreachableError, "unreachable", "x.h5ad"):
                saestore.export(acts, tmp_path / "x.h5ad", progress=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [file.name for file in tmp_path.iterdir()] == ["whole.h5ad"]


@pytest.mark.once
def test_what_is_saved_is_whole_or_not_there_and_the_disk_is_named(tmp_path):
    acts = write_case(scratch_store(), make_case(3, 6, 4, density=0.5, ragged=False))
    jobs = {
        "card.html": acts.card(1).save,
        "examples.jsonl": acts.examples(1).save,
        "site": lambda path: write_folder(acts, [1], path),
    }
    for name, save in jobs.items():
        counted = Faults(tmp_path / "counted", errno.ENOSPC, 10**9)
        with counted.active():
            save(tmp_path / "counted" / name)
        for at in (1, counted.count):
            with Faults(tmp_path / f"{at}", errno.ENOSPC, at).active(), raises(StoreWriteError, "disk-full"):
                save(tmp_path / f"{at}" / name)
            for file in filter(Path.is_file, (tmp_path / f"{at}").rglob("*")):
                whole = tmp_path / "counted" / file.relative_to(tmp_path / f"{at}")
                assert file.read_bytes() == whole.read_bytes(), (name, at)


@pytest.mark.once
@pytest.mark.parametrize("name", ["a.npz", "a.zarr"])
def test_an_export_whose_name_is_not_on_the_disk_leaves_nothing(name, tmp_path, monkeypatch):
    acts = write_case(scratch_store(), make_case(3, 6, 4, density=0.5, ragged=False))
    flush = durable.flush_folder

    def fail_at_the_end(folder):
        if folder == tmp_path:
            raise OSError(errno.EIO, "Input/output error")
        flush(folder)

    monkeypatch.setattr(durable, "flush_folder", fail_at_the_end)
    with raises(StoreWriteError, "device-error"):
        saestore.export(acts, tmp_path / name, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("x.h5ad", "anndata", "anndata"), ("x.parquet", "pyarrow", "arrow"), ("x.pt", "torch", "sae")],
)
def test_what_is_missing_is_named(tmp_path, monkeypatch, name, package, extra):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    how = {"format": "superactivators-sparse"} if name == "x.pt" else {}
    acts = stored(make_case(8, 6, 5))
    with raises(saestore.errors.MissingDependencyError, "missing-dependency", package, f"saestore[{extra}]"):
        saestore.export(acts, tmp_path / name, **how)
    assert list(tmp_path.iterdir()) == []
