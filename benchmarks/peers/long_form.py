"""What peers share that keep activations as a table with one row a non-zero: sample, feature, activation."""

import json
from pathlib import Path

import numpy as np
import scipy.sparse as sp

Columns = tuple[np.ndarray, np.ndarray, np.ndarray]


def columns(matrix: sp.csr_array) -> dict[str, np.ndarray]:
    """The table of a matrix, by sample."""
    samples = np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))
    return {"sample": samples, "feature": matrix.indices.astype(np.int32), "activation": matrix.data}


def save_shape(folder: Path, matrix: sp.csr_array) -> None:
    """Keep what the table does not say: samples without activations, and features, may come last."""
    (folder / "shape.json").write_text(json.dumps(matrix.shape))


def load_shape(folder: Path) -> tuple[int, int]:
    n_samples, n_features = json.loads((folder / "shape.json").read_text())
    return n_samples, n_features


def as_dense(found: Columns, start: int, stop: int, n_features: int) -> np.ndarray:
    samples, features, values = found
    out = np.zeros((stop - start, n_features), np.float32)
    out[samples - start, features] = values
    return out


def as_rows(found: Columns, samples: np.ndarray, n_features: int) -> sp.csr_array:
    """CSR of these samples, ascending, from their rows of the table in any order."""
    row = np.searchsorted(samples, found[0])
    return sp.coo_array((found[2], (row, found[1])), shape=(len(samples), n_features)).tocsr()


def as_stats(groups: dict[str, np.ndarray], shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Statistics of all features from the count, sums and maximum of those that have any rows."""
    n_samples, n_features = shape
    counts = np.zeros(n_features, np.int64)
    total, squares = np.zeros((2, n_features))
    largest = np.full(n_features, np.nan)
    for out, name in ((counts, "n"), (total, "total"), (squares, "squares"), (largest, "largest")):
        out[groups["feature"]] = groups[name]
    mean = total / n_samples
    std = np.sqrt(np.maximum(squares / n_samples - mean**2, 0))
    return {"n_active": counts, "mean": mean, "std": std, "max": largest}
