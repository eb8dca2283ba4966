"""Importing what one research pipeline wrote: sparse, dense, filtered, and their known faults."""

import json

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises
from strategies import scratch_store

import saestore
from saestore.errors import InvalidInputError, NotFoundError

torch = pytest.importorskip("torch", reason="these files are torch's")

from foreign_files import (  # noqa: E402  (needs torch)
    KEPT,
    as_top_k,
    pipeline,
    save_dense,
    save_filtered,
    save_mapping,
    save_sparse,
    top_rows,
    write_info,
)

WIDTH, K = 40, 6


def imported(path, set_path="Some/cls/sae", **how):
    return saestore.import_activations(set_path, path, store=scratch_store(), **how)


def kinds(acts):
    return {fault["kind"]: (fault["severity"], fault["count"]) for fault in acts.attributes.source["faults"]}


@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 60),
    width=st.integers(1, 30),
    k=st.integers(1, 8),
    parts=st.integers(1, 4),
    half=st.booleans(),
)
def test_rows_of_indices_and_values(seed, n, width, k, parts, half, tmp_path_factory):  # noqa: PLR0917
    folder = tmp_path_factory.mktemp("sparse")
    dense = top_rows(n, width, min(k, width), seed)
    sizes = [len(rows) for rows in np.array_split(np.arange(n), parts) if len(rows)]
    path = save_sparse(folder, dense.astype(np.float16) if half else dense, k, "mine", sizes=sizes)
    acts = imported(path, n_features=width, segment_rows=max(1, n // 3))
    assert np.array_equal(acts.dense(), dense.astype(np.float16) if half else dense)
    assert acts.dtype == (np.float16 if half else np.float32)


def test_what_is_known_and_what_is_not(tmp_path):
    dense = top_rows(512, WIDTH, K)
    path = save_sparse(tmp_path, dense, K)
    acts = saestore.import_activations("CLEVR/patch", path, store=scratch_store())
    assert acts.path == "CLEVR/patch/clip-scope-22"
    assert acts.shape == (512, 1 << 16)
    assert np.array_equal(acts.dense(features=slice(0, WIDTH)), dense)
    assert acts.n_items == 2  # of 256 patches each
    sae = acts.attributes.sae
    assert (sae["architecture"], sae["k"], sae["layer"], sae["d_sae"]) == ("topk", K, 22, 1 << 16)
    assert sae["fingerprint"] is sae["hook_name"] is None
    assert kinds(acts) == {
        "padding": ("info", 512 * K - np.count_nonzero(dense)),
        "negative": ("info", int((dense < 0).sum())),
        "unsorted": kinds(acts)["unsorted"],
    }


def test_padding_may_name_any_feature(tmp_path):
    """Also one that there is not, or one that the row has already."""
    indices = torch.tensor([[3, 3, -1], [1, 70_000, 0]])
    values = torch.tensor([[1.5, 0.0, 0.0], [2.0, 0.0, 0.5]])
    torch.save({"indices": indices, "values": values}, tmp_path / "x.pt")
    acts = imported(tmp_path / "x.pt", n_features=4)
    assert acts.dense().tolist() == [[0, 0, 0, 1.5], [0.5, 2.0, 0, 0]]


@pytest.mark.parametrize(
    ("indices", "values", "named"),
    [
        ([[3, 3]], [[1.5, 2.0]], "row 0 has feature 3 more than once"),
        ([[3, 4]], [[1.5, 2.0]], "1 feature id outside of 0 to 3: row 0 has 4"),
        ([[3, 0]], [[1.5, float("nan")]], "row 0, feature 0 is nan"),
    ],
)
def test_entries_that_would_change_answers(tmp_path, indices, values, named):
    torch.save({"indices": torch.tensor(indices), "values": torch.tensor(values)}, tmp_path / "x.pt")
    with raises(InvalidInputError, "errors-in-file", named):
        imported(tmp_path / "x.pt", n_features=4)


def test_the_end_of_a_chunk_is_not_believed(tmp_path):
    dense = top_rows(90, WIDTH, K)
    info = save_sparse(tmp_path, dense, K, "mine", sizes=[40, 20, 30], n_features=WIDTH)
    for path in (info, tmp_path / "mine", tmp_path / "mine.pt"):
        acts = imported(path)
        assert np.array_equal(acts.dense(), dense)
        assert kinds(acts)["wrong_end_idx"] == ("fixed", 2)
    report = saestore.check_import("Some/cls/sae", info)
    (fault,) = [f for f in report.faults if f.kind == "wrong_end_idx"]
    assert "wrong rows for 2 of 3 chunks: chunk 0 is listed as 0 to 37 and is 0 to 40" in fault.message


def listed(info, change):
    content = json.loads(info.read_text())
    change(content)
    info.write_text(json.dumps(content))


def drop(content):
    del content["chunks"][1]
    content["num_chunks"] = 2


def repeat(content):
    content["chunks"].insert(1, content["chunks"][1])
    content["num_chunks"] = 4


def miscount(content):
    content["chunks"][0]["n_samples"] = 41


def mistotal(content):
    content["total_samples"] = 91


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (drop, "missing-chunk", "0, 2"),
        (repeat, "missing-chunk", "0, 1, 1, 2"),
        (miscount, "wrong-chunk-size", "41"),
        (mistotal, "wrong-chunk-size", "91"),
        (dict.clear, "bad-chunk-list", "chunks"),
        (lambda content: content["chunks"].clear(), "bad-chunk-list", "lists 0 chunks"),
    ],
)
@pytest.mark.parametrize("save", [save_sparse, save_dense])
def test_chunks_that_do_not_fit(tmp_path, change, code, named, save):
    how = {"n_features": WIDTH} if save is save_sparse else {}
    arguments = (K, "mine") if save is save_sparse else ("mine",)
    info = save(tmp_path, top_rows(90, WIDTH, K), *arguments, sizes=[40, 20, 30], **how)
    listed(info, change)
    with raises(InvalidInputError, code, named):
        imported(info)


def test_chunks_are_in_the_order_of_their_numbers(tmp_path):
    dense = top_rows(90, WIDTH, K)
    info = save_sparse(tmp_path, dense, K, "mine", sizes=[40, 20, 30], n_features=WIDTH)
    listed(info, lambda content: content["chunks"].reverse())
    assert np.array_equal(imported(info).dense(), dense)


def test_a_missing_chunk_and_one_alone(tmp_path):
    info = save_sparse(tmp_path, top_rows(90, WIDTH, K), K, "mine", sizes=[40, 50], n_features=WIDTH)
    with raises(InvalidInputError, "one-chunk", "mine_chunk_0.pt", "chunks_info.json"):
        imported(tmp_path / "mine_chunk_0.pt")
    (tmp_path / "mine_chunk_1.pt").unlink()
    with raises(NotFoundError, "missing-chunk", "mine_chunk_1.pt"):
        imported(info)
    with raises(NotFoundError, "no-such-file"):
        imported(tmp_path / "yours.pt")


def test_rows_that_were_cut(tmp_path):
    """Gemma Scope is no TopK SAE: rows that fill all places lost something."""
    dense = top_rows(90, WIDTH, K, negative=False)
    full = int((np.count_nonzero(dense, axis=1) == K).sum())
    assert full
    path = save_sparse(tmp_path, dense, K, "gemmascope_patch_sparse_layer34")
    acts = saestore.import_activations("Sarcasm/token", path, store=scratch_store(), item_ptr=1)
    assert acts.path == "Sarcasm/token/gemma-scope-9b-34-16k"
    assert kinds(acts)["cut_to_k"] == ("info", full)
    message = next(f["message"] for f in acts.attributes.source["faults"] if f["kind"] == "cut_to_k")
    assert f"{full} of 90 rows fill all 6 places" in message
    assert "%" not in message  # only what the file shows
    named = imported(save_sparse(tmp_path, dense, K, "mine"), "Sarcasm/cls/gemma-scope-x", n_features=WIDTH)
    assert "saestore build" in next(f["message"] for f in named.attributes.source["faults"] if f["kind"] == "cut_to_k")
    unknown = imported(save_sparse(tmp_path, dense, K, "mine"), n_features=WIDTH)
    assert "unless it is a TopK SAE" in next(
        f["message"] for f in unknown.attributes.source["faults"] if f["kind"] == "cut_to_k"
    )
    whole = imported(save_sparse(tmp_path, top_rows(90, WIDTH, K, short=False), K, "mine"), n_features=WIDTH)
    assert "cut_to_k" not in kinds(whole)
    assert "cut_to_k" not in kinds(imported(save_sparse(tmp_path, dense, K, "clipscope_cls_sparse_layer22")))


def test_the_name_of_a_file_says_its_samples(tmp_path):
    path = save_sparse(tmp_path, top_rows(), K, "clipscope_cls_sparse_layer22")
    with raises(InvalidInputError, "wrong-sample-type"):
        imported(path, "Some/patch/sae")
    with raises(InvalidInputError, "missing-n-features", "--n-features"):
        imported(save_sparse(tmp_path, top_rows(), K, "mine"))


@settings(max_examples=6)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), width=st.integers(1, 30), parts=st.integers(1, 3))
def test_dense_tensors(seed, n, width, parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    dense = top_rows(n, width, min(5, width), seed)
    sizes = None if parts == 1 else [len(rows) for rows in np.array_split(np.arange(n), parts) if len(rows)]
    acts = imported(save_dense(folder, dense, "mine", sizes=sizes), segment_rows=max(1, n // 2))
    assert np.array_equal(acts.dense(), dense)
    # A list of chunks is the pipeline's; a tensor alone is anybody's.
    assert acts.attributes.source["format"] == ("dense" if sizes is None else "superactivators-dense")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dense_dtypes(tmp_path, dtype):
    tensor = torch.from_numpy(top_rows(20, 9, 4)).to(dtype)
    torch.save(tensor, tmp_path / "x.pt")
    acts = imported(tmp_path / "x.pt")
    assert np.array_equal(acts.dense().astype(np.float64), tensor.double().numpy())
    np.save(tmp_path / "x.npy", tensor.float().numpy())
    assert np.array_equal(imported(tmp_path / "x.npy").dense(), tensor.float().numpy())
    zarr.save_array(tmp_path / "x.zarr", tensor.float().numpy())
    assert np.array_equal(imported(tmp_path / "x.zarr").dense(), tensor.float().numpy())


def test_dense_reads_stay_within_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr("saestore.formats.dense_tensors._BYTES", 4 * WIDTH * 7)
    dense = top_rows(90, WIDTH, K)
    assert np.array_equal(imported(save_dense(tmp_path, dense, sizes=[31, 59]), segment_rows=25).dense(), dense)


def test_the_unit_mapping_is_checked_against_the_sparse_file(tmp_path):
    dense = top_rows(256, WIDTH, K)
    sparse, filtered, made_dense = pipeline(tmp_path, dense, K)
    kept = np.zeros_like(dense)
    kept[:, KEPT] = dense[:, KEPT]
    for path, expected, positive in ((filtered, kept, False), (made_dense, np.maximum(kept, 0), True)):
        for how in ({}, {"sparse": sparse}):  # found where the pipeline has it, or given
            acts = saestore.import_activations("CLEVR/patch", path, store=scratch_store(), **how)
            assert np.array_equal(acts.dense(features=slice(0, WIDTH)), expected)
            assert acts.path == "CLEVR/patch/clip-scope-22"
            assert acts.shape[1] == 1 << 16
            found = kinds(acts)
            assert found["wrong_unit_mapping"] == ("fixed", 4)
            assert found["filtered"] == ("info", (1 << 16) - 4)
            assert ("negatives_dropped" in found) == positive
        assert found.get("negatives_dropped", (0, 0))[1] == (int((kept < 0).sum()) if positive else 0)
    report = saestore.check_import("CLEVR/patch", made_dense)
    (fault,) = [f for f in report.faults if f.kind == "wrong_unit_mapping"]
    assert fault.details["columns"] == [[i, claimed, true] for i, (claimed, true) in
                                        enumerate(zip(sorted(KEPT), KEPT, strict=True))]  # fmt: skip
    assert "column 0 is feature 7, not 2" in fault.message


def test_a_right_mapping_is_not_called_wrong(tmp_path):
    """Nor where columns are dead, or two features fire alike: then what is claimed is as good as any."""
    dense = top_rows(120, 12, 4)
    dense[:, 3] = 0
    dense[:, 5] = dense[:, 8]
    kept = [1, 3, 5, 8, 10]
    sparse = save_sparse(tmp_path, dense, 8, "whole", n_features=12)
    for order, wrong in (([1, 3, 5, 8, 10], 0), ([1, 3, 8, 5, 10], 0), ([3, 1, 5, 8, 10], 1)):
        path = save_filtered(tmp_path, dense, 8, order, "mine_filtered")
        acts = imported(path, sparse=sparse, n_features=12)
        expected = np.zeros_like(dense)
        expected[:, kept] = dense[:, kept]
        assert np.array_equal(acts.dense(), expected)
        assert kinds(acts).get("wrong_unit_mapping", ("", 0))[1] == wrong


def test_a_mapping_that_is_missing_or_another(tmp_path):
    dense = top_rows(256, WIDTH, K)
    _, filtered, made_dense = pipeline(tmp_path, dense, K)
    mapping = filtered.with_name("clipscope_patch_filtered_unit_mapping.json")
    save_mapping(filtered.parent, "clipscope_patch_filtered", [1, 2, 3], WIDTH)
    assert kinds(imported(made_dense, "A/patch/b"))["wrong_unit_mapping"] == ("fixed", 4)
    mapping.unlink()
    acts = imported(made_dense, "A/patch/b")
    assert kinds(acts)["no_unit_mapping"] == ("fixed", 1)
    assert np.array_equal(acts.dense(features=KEPT), np.maximum(dense[:, KEPT], 0))
    mapping.write_text("{}")
    with raises(InvalidInputError, "bad-unit-mapping"):
        imported(made_dense, "A/patch/b")
    mapping.write_text(json.dumps({"unit_id_to_new_idx": {"3": 0, "4": 0}, "n_original": 5}))
    with raises(InvalidInputError, "bad-unit-mapping", "5"):
        imported(made_dense, "A/patch/b")


def test_a_sparse_file_that_is_another(tmp_path):
    dense = top_rows(256, WIDTH, K)
    _, filtered, made_dense = pipeline(tmp_path, dense, K)
    other = save_sparse(tmp_path / "other", top_rows(256, WIDTH, K, seed=5), K)
    for path in (filtered, made_dense):
        with raises(InvalidInputError, "wrong-sparse-file", "4"):
            imported(path, "A/patch/b", sparse=other)
    short = save_sparse(tmp_path / "short", dense[:128], K)
    with raises(InvalidInputError, "wrong-sparse-file", "256", "128"):
        imported(filtered, "A/patch/b", sparse=short)
    lonely = save_filtered(tmp_path / "lonely", dense, K)
    with raises(InvalidInputError, "needs-sparse-file", "--sparse"):
        imported(lonely, "A/patch/b")
    with raises(InvalidInputError, "option-of-another-format"):
        imported(other, "A/patch/b", sparse=short)


def test_calibration_rows_that_are_not_only_calibration(tmp_path):
    dense = top_rows(6, WIDTH, K)
    path = save_sparse(tmp_path, dense, K, "clipscope_cls_sparse_layer22")
    items = {"image_path": list("abcdef"), "split": ["train", "cal", "test", "train", "cal", "test"]}
    assert kinds(imported(path, items=items))["calibration_range"] == ("info", 2)
    message = next(f["message"] for f in imported(path, items=items).attributes.source["faults"])
    assert "rows of train or test items too" in message  # the pipeline counts 256 rows per item: no figure for others
    items["split"] = ["train", "train", "cal", "cal", "test", "test"]
    assert "calibration_range" not in kinds(imported(path, items=items))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_encoder_output(tmp_path, suffix):
    """sparsify's: (rows, k), or (sequences, positions, k), as a dict of its fields."""
    safetensors = pytest.importorskip("safetensors.torch")
    dense = top_rows(24, WIDTH, K, negative=False)
    indices, values = as_top_k(dense, K)
    whole = {"top_acts": values, "top_indices": indices}
    sequences = {name: tensor.reshape(4, 6, K).clone() for name, tensor in whole.items()}
    save = torch.save if suffix == "pt" else safetensors.save_file
    for name, content in (("flat", whole), ("sequences", sequences)):
        save(content, tmp_path / f"{name}.{suffix}")
        acts = imported(tmp_path / f"{name}.{suffix}", "A/token/b", n_features=WIDTH)
        assert np.array_equal(acts.dense(), dense)
        assert acts.attributes.source["format"] == "encoder-output"
        assert acts.n_items == (24 if name == "flat" else 4)
    save({**whole, "pre_acts": torch.zeros(24, WIDTH)}, tmp_path / f"wide.{suffix}")
    assert imported(tmp_path / f"wide.{suffix}", "A/token/b").shape == (24, WIDTH)


def test_an_encoder_output_that_was_pickled_is_not_unpickled(tmp_path):
    from collections import namedtuple

    class Output(namedtuple("Output", "top_acts top_indices pre_acts")):
        pass

    globals()["Output"] = Output
    Output.__qualname__ = "Output"
    torch.save(Output(torch.zeros(2, 2), torch.zeros(2, 2).long(), torch.zeros(2, 4)), tmp_path / "x.pt")
    with raises(InvalidInputError, "pickled"):
        imported(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ({"indices": torch.zeros(2, 3).long(), "values": torch.zeros(2, 4)}, "bad-shape", "(2, 4)"),
        ({"indices": torch.zeros(2, 3), "values": torch.zeros(2, 3)}, "unsupported-dtype", "torch.float32"),
        ({"values": torch.zeros(2)}, "no-activations", "values"),
        ({"indices": torch.zeros(0, 3).long(), "values": torch.zeros(0, 3)}, "bad-shape", "(0, 3)"),
    ],
)
def test_tensors_that_are_no_activations(tmp_path, content, code, named):
    torch.save(content, tmp_path / "x.pt")
    with raises(InvalidInputError, code, named):
        imported(tmp_path / "x.pt", n_features=4)


def test_formats_that_are_not_the_files(tmp_path):
    path = save_sparse(tmp_path, top_rows(), K, "mine")
    torch.save({"top_acts": torch.ones(2, 2)}, tmp_path / "half.pt")
    with raises(InvalidInputError, "not-a-matrix", "top_acts"):
        imported(tmp_path / "half.pt", format="encoder-output")
    with raises(InvalidInputError, "unknown-format", "csv"):
        imported(path, format="csv")
    (tmp_path / "x.bin").write_text("")
    with raises(InvalidInputError, "unknown-format"):
        imported(tmp_path / "x.bin")
    write_info(tmp_path, "empty", [])
    with raises(InvalidInputError, "bad-chunk-list"):
        imported(tmp_path / "empty")


def test_a_mask_beside_activations_is_not_ignored(tmp_path):
    indices, values = as_top_k(top_rows(24, WIDTH, K), K)
    torch.save({"top_acts": values, "top_indices": indices, "attention_mask": torch.ones(4, 6)}, tmp_path / "x.pt")
    with raises(InvalidInputError, "unused-tensor", "attention_mask"):
        imported(tmp_path / "x.pt", n_features=WIDTH)
