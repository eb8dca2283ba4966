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
    count, turn
        Queries at full size, and how many a peer is asked before the next one is.
    """

    key: str
    label: str
    ask: Callable[[Peer, Any], Any]
    queries: Callable[[sp.csr_array, np.random.Generator, int], list[Any]]
    canonical: Callable[[Any], list[np.ndarray]]
    count: int
    turn: int = 10


def _popular(matrix: sp.csr_array, rng: np.random.Generator, count: int) -> list[int]:
    """Features as often as they fire: those of random non-zeros."""
    return matrix.indices[rng.integers(0, matrix.nnz, count)].tolist()


def _alive(matrix: sp.csr_array, rng: np.random.Generator, count: int) -> list[int]:
    return rng.choice(np.unique(matrix.indices), count).tolist()


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
        Task("top20", f"top {TOP} of a feature", lambda p, f: p.top_samples(f, TOP), _popular, _entries, 150),
        Task("top20_rare", f"top {TOP}, rare features too", lambda p, f: p.top_samples(f, TOP), _alive, _entries, 150),
        Task("column", "a whole feature", lambda p, f: p.column(f), _popular, _unordered, 100),
        Task("dense", f"{DENSE_ROWS} samples, dense", lambda p, q: p.dense(*q), _row_blocks, lambda a: [a], 20, turn=1),
        Task("rows", f"{RANDOM_ROWS} random samples, sparse", lambda p, q: p.rows(q), _random_rows, _csr, 30),
        Task("stats", "statistics of all features", lambda p, _: p.stats(), _once, _statistics, 5),
        Task("open", "open", lambda p, _: p.open(), _once, lambda _: [], 5),
    )
}


def same(task: Task, one: Any, other: Any) -> bool:
    """Whether two answers to the same query are equal; sums, to nine digits."""
    pairs = zip(task.canonical(one), task.canonical(other), strict=True)
    if task.key == "stats":  # sums in another order differ in their last bits
        return all(a.shape == b.shape and np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True) for a, b in pairs)
    return all(np.array_equal(a, b) for a, b in pairs)
