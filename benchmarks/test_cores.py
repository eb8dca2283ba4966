"""What several processors gain: the same work in threads on one processor, and on all that there are."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import saestore
from benchmarks.peers.ours import SET
from benchmarks.scale import merge, write_stream
from benchmarks.synthetic import Stream, labels

STREAM, TINY = Stream(n_items=512), Stream(n_items=24, item_size=16, n_features=256, l0=8, pool_items=12)
SEGMENTS, ROUNDS = 8, 3
# Of a store whose set is merged, and of a folder with one that is not; each gives an answer that can be compared.
WORK: dict[str, Callable[[saestore.Store, Path], Any]] = {
    "merge": lambda _, copy: [merge(copy)[name] for name in ("nnz", "segments", "stored_bytes")],
    "verify": lambda store, _: store.verify(),
    "scores of 80 concepts": lambda store, _: store[SET].concepts.scores()["roc_auc"].values.tobytes(),
    "scores of one concept": lambda store, _: store[SET].concepts.scores(concepts="concept 40")["f1"].values.tobytes(),
    "detection of 80 concepts": lambda store, _: list(map(repr, store[SET].detect().rows)),
}


@contextlib.contextmanager
def processors(number: int | None) -> Iterator[None]:
    """Threads that begin here run on so many processors; None leaves all."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(usable)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


def times(folder: Path, name: str) -> dict[str, float]:
    """Seconds of one piece of work on one processor and on all, in a random order; both must answer alike."""
    took, answers = {}, []
    for number in np.random.default_rng().permutation([1, 0]).tolist():
        copy = folder / "copy"
        shutil.copytree(folder / "segments", copy)
        with processors(number or None):
            store, started = saestore.open(folder / "merged" / "store.zarr"), time.perf_counter()
            answers.append(WORK[name](store, copy))
            took["one" if number else "all"] = time.perf_counter() - started
        shutil.rmtree(copy)
    assert answers[0] == answers[1], name
    return took


def test_all_processors(full, recorder, tmp_path):
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs Linux and two processors")
    stream = STREAM if full else TINY
    write_stream(tmp_path / "segments", stream, stream.n_samples // SEGMENTS, labels(stream.n_items))
    shutil.copytree(tmp_path / "segments", tmp_path / "merged")
    merge(tmp_path / "merged")
    rounds = [{name: times(tmp_path, name) for name in WORK} for _ in range(ROUNDS if full else 1)]
    least = {name: {key: min(r[name][key] for r in rounds) for key in ("one", "all")} for name in rounds[0]}
    result = {"shape": str(stream), "processors": len(os.sched_getaffinity(0)), "seconds": least}
    recorder.add("cores", "work", result)
