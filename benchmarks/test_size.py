"""Bytes on disk of every peer, on synthetic data and on the two shipped examples, beside the entropy; time to write."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

import saestore
from benchmarks.conftest import Field, write_all
from benchmarks.entropy import bound
from benchmarks.peers.saestore_set import SET
from saestore.storage import stored_bytes

EXAMPLES = Path(__file__).parent.parent / "examples"
BUILDS = {
    "clevr": {
        "dataset": "CLEVR",
        "sample_type": "patch",
        "embeddings": EXAMPLES / "clevr" / "embeddings.npy",
        "items": EXAMPLES / "clevr" / "metadata.csv",
    },
    "isarcasm": {
        "dataset": "iSarcasm",
        "sample_type": "token",
        "embeddings": EXAMPLES / "isarcasm" / "embeddings.npy",
        "items": EXAMPLES / "isarcasm" / "texts.csv",
        "item_ptr": f"{EXAMPLES / 'isarcasm' / 'tokens.npz'}:text_ptr",
    },
}


def sizes(made: Field) -> dict:
    """Bytes a non-zero of every peer, and bits of every array of saestore's."""
    nnz = made.matrix.nnz
    found = {
        "shape": str(made.shape),
        "nnz": nnz,
        "entropy": bound(made.matrix),
        "bytes_per_nonzero": {key: made.peers[key].stored_bytes() / nnz for key in made.write_seconds},
    }
    group = saestore.open(made.peers["saestore"].folder / "store.zarr")[SET].group
    (segment,) = (group["segments"][name] for name in group["segments"])
    found["saestore_bits"] = {
        f"{order}/{array}": 8 * segment[order][array].nbytes_stored() / nnz
        for order in ("by_sample", "by_feature")
        for array in ("indptr", "indices", "data")
    }
    # What grows with the non-zeros; the rest is statistics of features and pointers, the same for a million samples.
    found["saestore_matrices"] = sum(found["saestore_bits"].values()) / 8
    found["saestore_arrays"] = stored_bytes(group) / nnz
    return found


def test_synthetic(data, recorder):
    found = sizes(data)
    write_ms = {key: 1e3 * seconds for key, seconds in data.write_seconds.items()}
    assert found["saestore_matrices"] < found["saestore_arrays"] <= found["bytes_per_nonzero"]["saestore"]
    recorder.add("size", data.name, {**found, "write_ms": write_ms})


@pytest.mark.parametrize("name", [pytest.param("clevr", marks=pytest.mark.full), "isarcasm"])
def test_example(name, tmp_path, recorder):
    """Activations of a real SAE on real input. Both orders, lossless: at most 8.2 bytes a non-zero."""
    pytest.importorskip("sae_lens")
    acts = build_example(name, tmp_path / "built.zarr")
    matrix = acts.sparse()
    shape = f"{acts.shape[0]:,} samples x {acts.shape[1]:,} features"
    made = Field(name, shape, sp.csr_array(matrix))
    write_all(made, tmp_path)
    found = sizes(made)
    assert found["saestore_matrices"] <= 8.2
    again = made.peers["saestore"]
    again.open()
    assert (again.rows(np.arange(matrix.shape[0])) != matrix).nnz == 0
    found["saestore_float16"] = matrices(build_example(name, tmp_path / "narrow.zarr", dtype="float16"))
    recorder.add("size", f"example {name}", found)


def build_example(name, store, **options):
    """A set of activations of a real SAE on real input."""
    return saestore.build(sae=EXAMPLES / name / "sae", store=store, progress=False, **BUILDS[name], **options)


def matrices(acts):
    """Bytes a non-zero of both matrices."""
    (segment,) = (acts.group[f"segments/{name}"] for name in acts.group["segments"].group_keys())
    return sum(stored_bytes(segment[order]) for order in ("by_sample", "by_feature")) / acts.nnz
