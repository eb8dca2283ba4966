"""Bytes on disk of every peer, on synthetic data and on the two shipped examples, beside the entropy; time to write."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import gammaln

import saestore
from benchmarks.conftest import Dataset

EXAMPLES = Path(__file__).parent.parent / "examples"
CLEVR, ISARCASM = EXAMPLES / "clevr", EXAMPLES / "isarcasm"
BUILDS = {
    "clevr": {"dataset": "CLEVR", "sample_type": "patch", "items": CLEVR / "metadata.csv"},
    "isarcasm": {
        "dataset": "iSarcasm",
        "sample_type": "token",
        "items": ISARCASM / "texts.csv",
        "item_ptr": f"{ISARCASM / 'tokens.npz'}:text_ptr",
    },
}
MAX_BYTES = 8.2  # per non-zero, both orders, lossless
RAW_BITS = 16  # of a float32's mantissa, taken as random; the entropy of the 16 bits above them is counted


def entropy(matrix):
    """Bits per non-zero of one order, of ids and of activations, if entries were independent of each other.

    Ids: the samples of each feature, when only their number is known. Activations: the empirical entropy of the upper
    half of their bits, and the lower half raw. A codec that uses similar neighbouring samples can be below.
    """
    n = matrix.shape[0]
    active = np.bincount(matrix.indices, minlength=matrix.shape[1])
    ways = gammaln(n + 1) - gammaln(active + 1) - gammaln(n - active + 1)
    upper = np.bincount(matrix.data.astype(np.float32).view(np.uint32) >> RAW_BITS)
    share = upper[upper > 0] / matrix.nnz
    ids = float(ways.sum() / np.log(2) / matrix.nnz)
    values = float(RAW_BITS - (share * np.log2(share)).sum())
    return {"ids_bits": ids, "values_bits": values, "bits": ids + values}


def matrices(store, nnz):
    """Bytes per non-zero of both matrices, without what does not grow with the samples, such as statistics."""
    files = (f for f in store.glob("*/*/*/segments/*/by_*/*/**/*") if f.is_file())
    return sum(f.stat().st_size for f in files) / nnz


def sizes(data):
    nnz = data.matrix.nnz
    return {
        "shape": str(data.shape),
        "nnz": nnz,
        "entropy": entropy(data.matrix),
        "bytes_per_nonzero": {key: data.peers[key].stored_bytes() / nnz for key in data.write_seconds},
        "saestore_matrices": matrices(data.peers["saestore"].folder / "store.zarr", nnz),
    }


def test_synthetic(data, recorder):
    result = sizes(data)
    assert 0 < result["saestore_matrices"] < result["bytes_per_nonzero"]["saestore"]
    write_ms = {key: 1e3 * seconds for key, seconds in data.write_seconds.items()}
    recorder.add("size", data.name, {**result, "write_ms": write_ms})


@pytest.mark.parametrize("name", BUILDS)
def test_example(name, full, tmp_path, recorder):
    """Activations of a real SAE on real input."""
    if not full and name == "clevr":
        pytest.skip("takes long; the other example is enough for a test")
    pytest.importorskip("sae_lens")
    sources = {**BUILDS[name], "sae": EXAMPLES / name / "sae", "embeddings": EXAMPLES / name / "embeddings.npy"}
    acts = saestore.build(store=tmp_path / "built.zarr", progress=False, **sources)
    data = Dataset(name, f"{acts.shape[0]:,} samples x {acts.shape[1]:,} features", sp.csr_array(acts.sparse()))
    data.write(tmp_path)
    result = sizes(data)
    assert result["saestore_matrices"] <= MAX_BYTES
    data.peers["saestore"].open()
    assert (data.peers["saestore"].rows(np.arange(acts.shape[0])) != data.matrix).nnz == 0
    saestore.build(store=tmp_path / "narrow.zarr", progress=False, dtype="float16", **sources)
    result["saestore_float16"] = matrices(tmp_path / "narrow.zarr", acts.nnz)
    recorder.add("size", f"example {name}", result)


def test_entropy_of_independent_entries():
    """Half of the places are active, and values have one exponent and 7 random bits above the lowest 16."""
    rng = np.random.default_rng(0)
    active = rng.random((1000, 50)) < 0.5
    values = np.where(active, 1 + rng.random(active.shape, np.float32), 0)
    result = entropy(sp.csr_array(values))
    assert result["ids_bits"] == pytest.approx(2, abs=0.1)  # a bit for each of two places, one of them active
    assert result["values_bits"] == pytest.approx(16 + 7, abs=0.05)
