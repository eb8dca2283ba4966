"""The questions that every peer is asked, and when two answers are the same."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.peers import Peer

TOP = 20
DENSE_ROWS = 256
RANDOM_ROWS = 100


@dataclass(frozen=True)
class Task:
    """One kind of question.

    Attributes
    ----------
    key, label
        Name in the results, and in tables.
    ask
        Asks a peer one query.
    queries
        Makes that many queries of a matrix, from a random generator.
    canonical
        Brings an answer into a form that can be compared; not timed.
    count
        Queries at full size.
    """

    key: str
    label: str
    ask: Callable[[Peer, Any], Any]
    queries: Callable[[sp.csr_array, np.random.Generator, int], list[Any]]
    canonical: Callable[[Any], list[np.ndarray]]
    count: int


def _popular(matrix: sp.csr_array, rng: np.random.Generator, count: int) -> list[int]:
    """Features as often as they fire: those of random non-zeros."""
    return matrix.indices[rng.integers(0, matrix.nnz, count)].tolist()


def _alive(matrix: sp.csr_array, rng: np.random.Generator, count: int) -> list[int]:
    return rng.choice(np.unique(matrix.indices), count).tolist()


def _of_split(matrix: sp.csr_array, rng: np.random.Generator, count: int) -> list[tuple[int, str]]:
    return [(feature, "test") for feature in _popular(matrix, rng, count)]


def _row_blocks(matrix: sp.csr_array, rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    rows = min(DENSE_ROWS, matrix.shape[0])
    return [(s, s + rows) for s in rng.integers(0, matrix.shape[0] - rows + 1, count).tolist()]


def _random_rows(matrix: sp.csr_array, rng: np.random.Generator, count: int) -> list[np.ndarray]:
    rows = min(RANDOM_ROWS, matrix.shape[0])
    return [np.sort(rng.choice(matrix.shape[0], rows, replace=False)) for _ in range(count)]


def _once(matrix: sp.csr_array, rng: np.random.Generator, count: int) -> list[None]:
    return [None] * count


def _entries(answer: Any) -> list[np.ndarray]:
    return [np.asarray(column) for column in answer]


def _unordered(answer: Any) -> list[np.ndarray]:
    samples, values = _entries(answer)
    order = np.argsort(samples)
    return [samples[order], values[order]]


def _csr(answer: Any) -> list[np.ndarray]:
    rows = sp.csr_array(answer)
    rows.sort_indices()
    return [rows.indptr, rows.indices, rows.data]


def _statistics(answer: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [answer["n_active"], answer["max"], *(np.float64(answer[name]) for name in ("mean", "std"))]


TASKS = {
    task.key: task
    for task in (
        Task("top20", f"top {TOP} of a feature", lambda p, f: p.top_samples(f, TOP), _popular, _entries, 100),
        Task("top20_rare", f"top {TOP}, rare features too", lambda p, f: p.top_samples(f, TOP), _alive, _entries, 100),
        Task("top20_where", f"top {TOP} test items", lambda p, q: p.top_items(*q, TOP), _of_split, _entries, 60),
        Task("column", "a whole feature", lambda p, f: p.column(f), _popular, _unordered, 60),
        Task("dense", f"{DENSE_ROWS} samples, dense", lambda p, q: p.dense(*q), _row_blocks, lambda a: [a], 20),
        Task("rows", f"{RANDOM_ROWS} random samples, sparse", lambda p, q: p.rows(q), _random_rows, _csr, 20),
        Task("stats", "statistics of all features", lambda p, _: p.stats(), _once, _statistics, 3),
        Task("open", "open", lambda p, _: p.open(), _once, lambda _: [], 5),
    )
}

# Of saestore alone; `benchmarks/test_scores.py` says what others do instead.
SCORES = Task("scores", "AUROC of all features, 80 concepts", lambda p, _: p.scores(), _once, lambda _: [], 2)


def same(task: Task, one: Any, other: Any) -> bool:
    """Whether the answer of a peer is the first's; sums, to nine digits; float16, where that is all that it keeps."""
    pairs = list(zip(task.canonical(one), task.canonical(other), strict=True))
    if task.key == "stats":  # sums in another order differ in their last bits
        return all(a.shape == b.shape and np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True) for a, b in pairs)
    if any(b.dtype == np.float16 for _, b in pairs):
        # Rounded activations may tie where those before rounding do not: then the samples may be others.
        pairs = [(a.astype(b.dtype), b) for a, b in pairs if b.dtype == np.float16 or task.key == "column"]
    return all(np.array_equal(a, b) for a, b in pairs)
