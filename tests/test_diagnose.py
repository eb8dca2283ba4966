"""The diagnosis: its numbers against numpy and sae_lens, each finding on a fault made on purpose, none without one.

The faults are made with the shipped examples: real embeddings of real models, through SAEs trained on such embeddings.
"""

import itertools
import json
import sys
import tracemalloc
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from cli_stores import invoke
from hypothesis import given
from hypothesis import strategies as st
from raising import raises

import saestore
from saestore.cli import keys
from saestore.diagnostics import measure
from saestore.diagnostics.measure import quantile_of_counts
from saestore.errors import InvalidInputError, MissingDependencyError, NotFoundError
from saestore.format import SetAttributes
from saestore.sparse_rows import SparseRows
from saestore.tables.item_index import ItemIndex
from saestore.writing import SetWriter
from saestore.writing.pipeline import start_set

pytestmark = pytest.mark.once

EXAMPLES = Path(__file__).parent.parent / "examples"
CLEVR, ISARCASM = EXAMPLES / "clevr", EXAMPLES / "isarcasm"
PATCHES = 256


def codes(found):
    return [finding.code for finding in found.findings]


def embeddings(example):
    return np.load(example / "embeddings.npy").astype(np.float32)


def few_embeddings(example):
    """Of the first images or texts, some 500."""
    return embeddings(example)[: 2 * PATCHES if example == CLEVR else text_ptr()[50]]


def text_ptr(n_rows=None):
    with np.load(ISARCASM / "tokens.npz", allow_pickle=False) as tokens:
        ptr = tokens["text_ptr"].astype(np.int64)
    return ptr if n_rows is None else ptr[: int(np.searchsorted(ptr, n_rows)) + 1]


@pytest.fixture
def build(tmp_path):
    """Builds one of the examples from other embeddings, which are often warned about."""
    pytest.importorskip("torch", reason="building needs torch")

    def built(example, x, item_ptr=None, sae=None):
        np.save(tmp_path / "x.npy", x)
        if item_ptr is None:
            item_ptr = np.arange(0, len(x) + 1, PATCHES) if example == CLEVR else text_ptr(len(x))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* of the variance of the first")
            return saestore.build(
                "Spoilt",
                store=tmp_path / "s.zarr",
                sample_type="patch" if example == CLEVR else "token",
                embeddings=tmp_path / "x.npy",
                sae=example / "sae" if sae is None else sae,
                item_ptr=item_ptr,
                progress=False,
            )

    return built


# Healthy


@pytest.fixture(scope="module")
def healthy(example_store):
    store = saestore.open(example_store)
    return {path.split("/")[0]: store[path] for path in store}


@pytest.fixture(scope="module")
def diagnoses(healthy):
    return {name: acts.diagnose() for name, acts in healthy.items()}


@pytest.mark.parametrize("name", ["CLEVR", "iSarcasm"])
def test_the_shipped_examples_give_no_finding(diagnoses, name):
    found = diagnoses[name]
    assert found.findings == ()
    assert found.left_out == ()
    assert found.ok
    assert found.reconstruction["agreement"] == 1
    assert found.reconstruction["missing"] == 0
    assert found.reconstruction["scale"] == 1
    assert found.reconstruction["recorded"] == pytest.approx(found.reconstruction["explained_variance"], abs=0.02)


@pytest.mark.parametrize(("name", "example"), [("CLEVR", CLEVR), ("iSarcasm", ISARCASM)])
def test_reconstruction_is_that_of_sae_lens(healthy, diagnoses, name, example):
    torch = pytest.importorskip("torch")
    sae_lens = pytest.importorskip("sae_lens")
    x = torch.from_numpy(embeddings(example))[:2500]
    acts = healthy[name]
    sae = sae_lens.SAE.load_from_disk(example / "sae")
    with torch.no_grad():
        back = sae.decode(sae.encode(x)).double().numpy()
    x = x.double().numpy()
    lost = ((x - back) ** 2).sum()
    found = acts.diagnose(n_rows=acts.shape[0]).reconstruction
    if len(x) == acts.shape[0]:  # all of it
        assert found["explained_variance"] == pytest.approx(1 - lost / ((x - x.mean(0)) ** 2).sum(), abs=1e-6)
        assert found["mse"] == pytest.approx(((x - back) ** 2).mean(), rel=1e-5)
        cosine = (x * back).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(back, axis=1)
        assert found["cosine"] == pytest.approx(cosine.mean(), abs=1e-6)
    part = diagnoses[name].reconstruction
    assert part["n_rows"] == 2048
    assert part["explained_variance"] == pytest.approx(found["explained_variance"], abs=0.01)


@pytest.mark.parametrize("name", ["CLEVR", "iSarcasm"])
def test_counts_are_those_of_the_matrix(healthy, diagnoses, name):
    acts, found = healthy[name], diagnoses[name]
    matrix = acts.sparse()
    counts, often = np.diff(matrix.indptr), np.bincount(matrix.indices, minlength=acts.shape[1])
    low = found.l0
    assert [low["min"], low["p25"], low["median"], low["p75"], low["max"]] == np.quantile(
        counts, [0, 0.25, 0.5, 0.75, 1]
    ).tolist()
    assert low["mean"] == pytest.approx(counts.mean())
    assert found.features["n_dead"] == (often == 0).sum()
    assert sorted(found.features["always_on"]) == np.flatnonzero(often > len(counts) / 2).tolist()
    values = found.activations
    assert (values["min"], values["max"]) == (matrix.data.min(), matrix.data.max())
    assert found.samples["n"] == len(counts)
    assert found.samples["n_empty"] == (counts == 0).sum()
    rows = [matrix[[i]].toarray().tobytes() for i in range(len(counts))]
    pointers = acts.item_index.pointers()
    same = sum(n for a, b in itertools.pairwise(pointers) for n in Counter(rows[a:b]).values() if n > 1)
    assert found.samples["n_identical"] == same
    for position, which in enumerate(("first", "second")):
        at = [rows[a + position] for a, b in itertools.pairwise(pointers) if b - a > 1]
        exact = max(Counter(at).values()) / len(at)
        assert exact <= found.samples[f"{which}_identical"] <= exact + 0.1  # to within 0.1 % of the activations


def test_expectations_come_from_the_sae(diagnoses):
    assert diagnoses["CLEVR"].expected == {
        "architecture": "topk", "d_in": 384, "k": 32, "l0": None, "negative": False,
    }  # fmt: skip
    assert diagnoses["iSarcasm"].expected["l0"] == pytest.approx(32, abs=1e-3)


# A wrong layer


@pytest.mark.parametrize("example", [CLEVR, ISARCASM], ids=["clevr", "isarcasm"])
def test_columns_in_another_order_explain_nothing(build, example):
    x = few_embeddings(example)
    found = build(example, x[:, np.random.default_rng(0).permutation(x.shape[1])]).diagnose()
    assert "explains-nothing" in codes(found)
    assert not {"identical-first-rows", "not-reproduced"} & set(codes(found))
    (finding,) = (f for f in found.findings if f.code == "explains-nothing")
    assert finding.evidence["explained_variance"] < 0
    assert "layer" in finding.advice


def test_a_low_share_that_only_the_build_measured_is_found_without_the_embeddings(build, tmp_path):
    acts = build(CLEVR, embeddings(CLEVR)[:PATCHES, ::-1])
    (tmp_path / "x.npy").unlink()
    found = acts.diagnose()
    assert set(found.reconstruction) == {"recorded"}
    assert codes(found) == ["explains-nothing"]
    assert "x.npy" in found.left_out[0]


# A missing normalisation


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


SPOILT = {
    "twice": lambda x: 2 * x,
    "a tenth": lambda x: x / 10,
    "ten times": lambda x: 10 * x,
    "0.65": lambda x: 0.65 * x,
    "1.5": lambda x: 1.5 * x,
    "centred, length 1": lambda x: unit(x - x.mean(0)),
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("example", [CLEVR, ISARCASM], ids=["clevr", "isarcasm"])
def test_another_scale_is_found_with_the_factor_that_mends_it(build, example, how):
    found = build(example, SPOILT[how](few_embeddings(example))).diagnose()
    (finding,) = (f for f in found.findings if f.code == "scale")
    assert finding.evidence["rescaled"] > found.reconstruction["explained_variance"]
    wanted = {"twice": 1 / 2, "a tenth": 10, "ten times": 1 / 10, "0.65": 1 / 0.65, "1.5": 1 / 1.5}.get(how)
    assert finding.evidence["shift"] == (wanted is None)
    if wanted:
        assert wanted / 1.5 < finding.evidence["factor"] < wanted * 1.5


def test_a_half_precision_sae_that_some_scales_overflow_is_diagnosed_too(build, tmp_path):
    torch = pytest.importorskip("torch")
    sae_lens = pytest.importorskip("sae_lens")
    sae = sae_lens.SAE.load_from_disk(CLEVR / "sae")
    sae.cfg.dtype = "float16"
    sae = sae.to(torch.float16)
    x = 4 * embeddings(CLEVR)[: 2 * PATCHES]
    found = build(CLEVR, x, sae=sae).diagnose(tmp_path / "x.npy", sae)
    assert "scale" in codes(found)


def test_embeddings_that_are_all_alike_are_found(build):
    x = np.repeat(embeddings(CLEVR)[:1], PATCHES, axis=0)
    with pytest.warns(UserWarning, match="256 of 256"):
        found = build(CLEVR, x).diagnose()
    assert codes(found) == ["identical-embeddings", "identical-rows"]


# BOS rows and padding


def with_first(x, ptr, row):
    """The embeddings with one more row at the start of every item, and the pointers of that."""
    return np.insert(x, ptr[:-1], row, axis=0), ptr + np.arange(len(ptr))


@pytest.mark.parametrize("size", ["massive", "ordinary"])
def test_one_and_the_same_first_row_is_found(build, size):
    x, ptr = embeddings(ISARCASM), text_ptr()
    bos = 1.02 * x[100]  # not the very row that an item has anyway
    if size == "massive":  # as models have them: a few dimensions, far beyond all others
        bos[:] = 0
        bos[[17, 203]] = 60_000, -60_000
    found = build(ISARCASM, *with_first(x, ptr, bos)).diagnose()
    assert codes(found) == ["identical-first-rows"]
    evidence = found.findings[0].evidence
    assert evidence["first"] == 1
    assert evidence["second"] < 0.5
    assert found.reconstruction["without_first"] > 0.7


def test_texts_that_begin_alike_are_no_bos_rows(healthy, tmp_path):
    """Of a template all first samples are alike, and so are the second ones."""
    acts = healthy["iSarcasm"]
    rows = np.concatenate([np.r_[3, 7, a:b] for a, b in itertools.pairwise(text_ptr())])
    ptr = text_ptr() + 2 * np.arange(len(text_ptr()))
    store = saestore.open(tmp_path / "s.zarr", mode="a")
    found = store.write("Template/token/x", acts.sparse(rows), item_ptr=ptr).diagnose()
    assert found.samples["first_identical"] == found.samples["second_identical"] == 1
    assert "identical-first-rows" not in codes(found)


def test_padding_is_found_as_identical_or_empty_rows(tmp_path):
    rng = np.random.default_rng(0)
    dense = (rng.random((100, 30)) < 0.3) * rng.random((100, 30)).astype(np.float32)
    dense[:, 0] = 1 + rng.random(100)
    dense[8::10] = dense[9::10] = [1] * 5 + [0] * 25
    dense[7::10] = 0
    store = saestore.open(tmp_path / "s.zarr", mode="a")
    found = store.write("Padded/token/x", sp.csr_array(dense), item_ptr=10).diagnose()
    assert [(f.code, f.severity, f.evidence["n_samples"]) for f in found.findings] == [
        ("identical-rows", "warning", 20),
        ("empty-rows", "note", 10),
    ]
    assert not found.ok
    # The same rows in different items are not padding.
    apart = store.write("Apart/token/x", sp.csr_array(np.tile(dense[:7], (5, 1))), item_ptr=7).diagnose()
    assert codes(apart) == []
    assert apart.ok


# Activations that the SAE cannot have given


@pytest.fixture
def ready(healthy, tmp_path):
    """Stores ready activations, made of CLEVR's, and looks at them beside its embeddings and SAE."""
    pytest.importorskip("torch")

    def looked_at(matrix, sae="sae", **options):
        store = saestore.open(tmp_path / "s.zarr", mode="a")
        acts = store.write("Ready/patch/x", sp.csr_array(matrix), **options)
        return acts.diagnose(CLEVR / "embeddings.npy", CLEVR / sae)

    return looked_at, healthy["CLEVR"].sparse()


def test_ready_activations_of_the_sae_are_as_good_as_built_ones(ready):
    look, matrix = ready
    assert codes(look(matrix, item_ptr=PATCHES * np.arange(37), segment_rows=1000)) == []


def test_rows_in_another_order_are_told(ready):
    look, matrix = ready
    found = look(matrix[::-1])
    assert found.findings[0].code == "not-reproduced"
    assert found.findings[0].severity == "error"


def test_filtered_activations_are_missing(ready):
    look, matrix = ready
    strongest = matrix.max(axis=1).toarray()
    matrix.data[matrix.data < np.repeat(strongest, np.diff(matrix.indptr)) * 0.7] = 0
    matrix.eliminate_zeros()
    found = look(matrix)
    assert "missing-activations" in codes(found)
    assert found.reconstruction["missing"] == pytest.approx(1 - matrix.nnz / (32 * matrix.shape[0]), abs=0.01)
    assert "not-reproduced" not in codes(found)


def test_more_than_k_and_negative_ones_are_told(ready):
    look, matrix = ready
    more = matrix.tolil()
    more[5, :40] = 1
    more[6, 3] = -1
    found = look(more.tocsr())
    assert codes(found) == ["above-k", "negative"]
    assert found.findings[0].evidence["max"] >= 40
    assert found.findings[1].evidence["min"] == -1
    assert not found.ok


def test_what_the_threshold_would_have_cut_off_is_told(healthy, tmp_path):
    pytest.importorskip("torch")
    acts = healthy["iSarcasm"]
    matrix = acts.sparse()
    matrix.data[matrix.indices == 7] = 1e-3
    store = saestore.open(tmp_path / "s.zarr", mode="a")
    found = store.write("Ready/token/x", matrix, item_ptr=text_ptr()).diagnose(None, ISARCASM / "sae")
    assert codes(found) == ["below-threshold"]
    assert found.findings[0].evidence["features"] == [7]
    assert "--embeddings" in found.left_out[0]


def test_features_that_are_always_on_are_counted(tmp_path):
    rng = np.random.default_rng(0)
    dense = (rng.random((500, 100)) < 0.02) * rng.random((500, 100))
    dense[:, [3, 50, 77]] = 1 + rng.random((500, 3))
    dense[:, 5] = 0
    found = saestore.open(tmp_path / "s.zarr", mode="a").write("On/cls/x", sp.csr_array(dense)).diagnose()
    assert found.ok
    assert found.features == {"n": 100, "n_dead": 1, "n_always_on": 3, "always_on": [3, 50, 77]}
    assert found.samples["first_identical"] is None


# What is not there, and what does not fit


def test_without_torch_the_report_says_what_it_left_out(healthy, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = healthy["CLEVR"].diagnose()
    assert found.findings == ()
    assert set(found.reconstruction) == {"recorded"}
    assert "saestore[sae]" in found.left_out[0]
    with raises(MissingDependencyError, "missing-dependency", "saestore[sae]"):
        healthy["CLEVR"].diagnose(CLEVR / "embeddings.npy")


def test_embeddings_that_are_not_those_of_the_set_are_refused(healthy, tmp_path):
    acts = healthy["CLEVR"]
    with raises(InvalidInputError, "wrong-row-count", "2,450 rows", "9,216"):
        acts.diagnose(ISARCASM / "embeddings.npy")
    np.save(tmp_path / "other.npy", embeddings(CLEVR)[::-1])
    with raises(InvalidInputError, "other-embeddings", "other.npy", "CLEVR/patch/clevr-sae"):
        acts.diagnose(tmp_path / "other.npy")
    with raises(NotFoundError, "no-such-file", "nothing.npy"):
        acts.diagnose(tmp_path / "nothing.npy")
    with raises(InvalidInputError, "wrong-sae", "1,984"):
        acts.diagnose(sae=CLEVR / "sae-512")
    with raises(InvalidInputError, "bad-option", "n_rows=1"):
        acts.diagnose(n_rows=1)
    narrow = saestore.open(tmp_path / "s.zarr", mode="a").write("Narrow/patch/x", acts.sparse())
    with raises(InvalidInputError, "wrong-width", "100", "384"):
        narrow.diagnose(np.zeros((9216, 100), np.float32), CLEVR / "sae")


def test_a_set_without_activations_is_refused(tmp_path):
    acts = saestore.open(tmp_path / "s.zarr", mode="a").write("None/cls/x", sp.csr_array((4, 5)))
    with raises(InvalidInputError, "empty-set", "None/cls/x"):
        acts.diagnose()


# The command line and the notebook


def test_the_command_prints_the_report(example_store, diagnoses):
    out = invoke("diagnose", "CLEVR", "--store", example_store).stdout
    assert out.startswith("CLEVR/patch/clevr-sae: diagnosis\n  explained variance")
    assert out.splitlines()[-1].split() == ["findings", "none"]
    document = json.loads(invoke("diagnose", "CLEVR", "--json", "--store", example_store).stdout)
    assert document == json.loads(json.dumps(diagnoses["CLEVR"].to_dict()))
    assert set(document) == {key for key in keys.DIAGNOSE if not key.startswith("findings[")}


def test_the_command_prints_findings_and_what_to_do(build, tmp_path):
    build(CLEVR, 2 * embeddings(CLEVR)[:PATCHES])
    words = (
        "diagnose",
        "--embeddings",
        tmp_path / "x.npy",
        "--sae-from",
        CLEVR / "sae",
        "--store",
        tmp_path / "s.zarr",
    )
    out = " ".join(invoke(*words).stdout.split())
    assert "warning With the embeddings multiplied by 0.5" in out
    assert "Encode the hidden states as the model gives them" in out
    (finding,) = json.loads(invoke(*words, "--json").stdout)["findings"]
    assert {f"findings[].{key}" for key in finding} == {key for key in keys.DIAGNOSE if key.startswith("findings[")}


def test_a_small_set_without_an_sae_is_diagnosed(tmp_path):
    saestore.open(tmp_path / "s.zarr", mode="a").write("Toy/token/x", sp.csr_array(np.eye(3, 4)))
    result = invoke("diagnose", "Toy/token", "--store", tmp_path / "s.zarr")
    assert result.exit_code == 0
    assert "left out" in result.stdout


def test_a_notebook_shows_numbers_and_findings(tmp_path):
    acts = saestore.open(tmp_path / "s.zarr", mode="a").write(
        "Same/token/x", sp.csr_array(np.ones((20, 3))), item_ptr=5
    )
    found = acts.diagnose()
    shown = found._repr_html_()
    assert "<table>" in shown
    assert "identical to another sample" in shown
    assert "warning identical-rows" in repr(found)


# What the SAE is called, and sets that are not one segment


def with_attributes(path, dense, sae, sizes, finish):
    """A set that names its SAE, as an import leaves it."""
    attributes = SetAttributes(
        n_features=dense.shape[1], dtype="float32", n_items=len(dense) // 5, item_size=5, sae=sae,
        planned_samples=len(dense),
    )  # fmt: skip
    store = saestore.open(path, mode="a")
    with SetWriter(store.root, "Named/token/x") as writer:
        start_set(writer, attributes, None, ItemIndex(len(dense) // 5, 5), None)
        for part in map(sp.csr_array, np.split(dense, np.cumsum(sizes)[:-1])):
            writer.append(SparseRows(part.indptr.astype(np.int64), part.indices.astype(np.uint16), part.data))
        if finish:
            writer.finish()
    return saestore.open(path)["Named"]


def test_blocks_and_segments_count_as_the_whole(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    dense = np.where(rng.random((90, 40)) < 0.2, rng.normal(size=(90, 40)), 0).astype(np.float32)
    dense[20:30] = 0
    whole = with_attributes(tmp_path / "one.zarr", dense, {}, [90], finish=True).diagnose()
    monkeypatch.setattr(measure, "_ENTRIES", 5)
    monkeypatch.setattr(measure, "_ROWS", 7)
    parts = with_attributes(tmp_path / "parts.zarr", dense, {}, [31, 9, 50], finish=False).diagnose()
    assert parts == whole
    assert whole.l0["min"] == 0
    assert whole.activations["n_negative"] == (dense.min(0) < 0).sum()


def test_memory_does_not_grow_with_the_samples(tmp_path):
    peaks = []
    for n in (2_000, 300_000):
        ids = np.tile(np.arange(8, dtype=np.int32), n) + np.repeat(np.arange(n, dtype=np.int32) % 500 * 8, 8)
        values = np.random.default_rng(0).random(8 * n, np.float32)
        matrix = sp.csr_array((values, ids, np.arange(0, 8 * n + 1, 8)), shape=(n, 4000))
        acts = saestore.open(tmp_path / f"{n}.zarr", mode="a").write("Much/token/x", matrix, item_ptr=20)
        acts.diagnose()  # imports what it needs
        tracemalloc.start()
        acts.diagnose()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 40e6 + 60 * 4000 + 60 * 300_000
    assert peaks[1] - peaks[0] < 25e6 + 32 * 300_000  # a block; reading all at once takes 60 MB more


# Counting


@given(st.lists(st.integers(0, 50), min_size=1), st.floats(0, 1))
def test_quantiles_of_counts_are_those_of_numpy(values, q):
    assert quantile_of_counts(np.bincount(values), q) == pytest.approx(np.quantile(values, q))
