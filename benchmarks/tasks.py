"""The questions for every peer, and when two answers are equal."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.peers import Peer

TOP, DENSE_ROWS, RANDOM_ROWS = 20, 256, 100


@dataclass(frozen=True)
class Task:
    """One kind of question."""

    key: str  # its name in the results
    label: str  # its name in tables
    ask: Callable[[Peer, Any], Any]  # one query
    queries: Callable[[sp.csr_array, np.random.Generator, int], list[Any]]  # makes this many queries for a matrix
    canonical: Callable[[Any], list[np.ndarray]]  # a form of the answer that can be compared; not timed
    count: int  # of queries at full size


def popular_features(matrix: sp.csr_array, rng: np.random.Generator, count: int) -> list[int]:
    """The features of random non-zeros: each feature as often as it fires."""
    return matrix.indices[rng.integers(0, matrix.nnz, count)].tolist()


def _active_features(matrix: sp.csr_array, rng: np.random.Generator, count: int) -> list[int]:
    return rng.choice(np.unique(matrix.indices), count).tolist()


def _features_of_test(matrix: sp.csr_array, rng: np.random.Generator, count: int) -> list[tuple[int, str]]:
    return [(feature, "test") for feature in popular_features(matrix, rng, count)]


def _row_blocks(matrix: sp.csr_array, rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    rows = min(DENSE_ROWS, matrix.shape[0])
    return [(s, s + rows) for s in rng.integers(0, matrix.shape[0] - rows + 1, count).tolist()]


def _random_rows(matrix: sp.csr_array, rng: np.random.Generator, count: int) -> list[np.ndarray]:
    rows = min(RANDOM_ROWS, matrix.shape[0])
    return [np.sort(rng.choice(matrix.shape[0], rows, replace=False)) for _ in range(count)]


def _no_arguments(matrix: sp.csr_array, rng: np.random.Generator, count: int) -> list[None]:
    return [None] * count


def entries(answer: Any) -> list[np.ndarray]:
    return [np.asarray(column) for column in answer]


def _by_sample(answer: Any) -> list[np.ndarray]:
    samples, values = entries(answer)
    order = np.argsort(samples)
    return [samples[order], values[order]]


def _csr(answer: Any) -> list[np.ndarray]:
    rows = sp.csr_array(answer)
    rows.sort_indices()
    return [rows.indptr, rows.indices, rows.data]


def _statistics(answer: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [answer["n_active"], answer["max"], *(np.float64(answer[name]) for name in ("mean", "std"))]


def _top(peer: Peer, feature: int) -> Any:
    return peer.top_samples(feature, TOP)


TASKS = {
    task.key: task
    for task in (
        Task("top20", f"top {TOP} of a feature", _top, popular_features, entries, 100),
        Task("top20_rare", f"top {TOP}, rare features too", _top, _active_features, entries, 100),
        Task("top20_where", f"top {TOP} test items", lambda p, q: p.top_items(*q, TOP), _features_of_test, entries, 60),
        Task("column", "a whole feature", lambda p, f: p.column(f), popular_features, _by_sample, 60),
        Task("dense", f"{DENSE_ROWS} samples, dense", lambda p, q: p.dense(*q), _row_blocks, lambda a: [a], 20),
        Task("rows", f"{RANDOM_ROWS} random samples, sparse", lambda p, q: p.rows(q), _random_rows, _csr, 20),
        Task("stats", "statistics of all features", lambda p, _: p.stats(), _no_arguments, _statistics, 3),
        Task("open", "open", lambda p, _: p.open(), _no_arguments, lambda _: [], 5),
    )
}

# Of saestore alone. `benchmarks/test_scores.py` shows what a user of scikit-learn does instead.
SCORES = Task("scores", "AUROC of all features, 80 concepts", lambda p, _: p.scores(), _no_arguments, lambda _: [], 2)


# `benchmarks.scale` asks these.
TOP_ITEMS = Task(
    "top20_item", f"top {TOP} items of a feature", lambda p, f: p.top_items(f, None, TOP), popular_features, entries, 60
)
SCALE_TASKS = {
    task.key: task
    for task in (TASKS["top20"], TOP_ITEMS, *(TASKS[key] for key in ("dense", "rows", "column", "stats")))
}


def same(task: Task, one: Any, other: Any) -> bool:
    """Whether a peer's answer equals the first peer's: sums to nine digits, float16 where a peer stores only that."""
    pairs = list(zip(task.canonical(one), task.canonical(other), strict=True))
    if task.key == "stats":  # the last bits of a sum depend on the order of adding
        return all(a.shape == b.shape and np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True) for a, b in pairs)
    if any(b.dtype == np.float16 for _, b in pairs):
        # Rounded activations may tie where exact ones do not: then the samples may differ.
        pairs = [(a.astype(b.dtype), b) for a, b in pairs if b.dtype == np.float16 or task.key == "column"]
    return all(np.array_equal(a, b) for a, b in pairs)
