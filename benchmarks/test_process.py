"""Whole processes: how long until the first answer, and how much memory each task takes."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from benchmarks.one import WRITE, save_items
from benchmarks.peers import Unsupported
from benchmarks.peers.saestore_set import SET
from benchmarks.tasks import TASKS, TOP

ROOT = Path(__file__).parent.parent
ROUNDS = 3
CLI = "saestore-cli"
# Of these the memory is measured; opening alone shows what the others add.
TASKS_IN_PROCESS = [
    "top20",
    *(pytest.param(task, marks=pytest.mark.full) for task in TASKS if task not in ("top20", "top20_rare")),
]


def run(command: list[str]) -> tuple[float, dict[str, Any]]:
    """Seconds that a process takes, and the JSON that it prints."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    return seconds, json.loads(done.stdout)


def command_of(peer: str, folder: Path, task: str, query: Any) -> list[str]:
    if peer == CLI:
        store = ["--store", str(folder / "store.zarr"), "--dataset", SET.split("/")[0]]
        return ["-m", "saestore.cli", "top-samples", *store, "--feature", str(query), "-n", str(TOP), "--json"]
    plain = query.tolist() if isinstance(query, np.ndarray) else query
    return ["-m", "benchmarks.one", peer, str(folder), task, json.dumps(plain)]


# Processes cost the same whatever the values are.
clustered = pytest.mark.parametrize("data", ["clustered"], indirect=True)


@clustered
def test_first_answer_of_a_process(data, full, recorder):
    """From nothing to the top samples on stdout, imports included; files are in the page cache."""
    feature = int(data.matrix.indices[0])
    peers = [CLI, *(data.peers if full else ["saestore"])]
    seconds: dict[str, list[float]] = {key: [] for key in peers}
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS if full else 1):
        for key in rng.permutation(peers).tolist():
            folder = data.peers["saestore" if key == CLI else key].folder
            took, answer = run(command_of(key, folder, "top20", feature))
            seconds[key].append(took)
            if key == CLI:
                wanted = data.peers["saestore"].top_samples(feature, TOP)[0].tolist()
                assert [row["sample"] for row in answer["rows"]] == wanted
    medians = {key: 1e3 * float(np.median(took)) for key, took in seconds.items()}
    recorder.add("process", "first answer", {"shape": str(data.shape), "median_ms": medians})


@clustered
@pytest.mark.parametrize("task", TASKS_IN_PROCESS)
def test_peak_memory(data, full, task, recorder):
    """Each task in a process of its own. Memory does not mind company: two processes at once."""
    (query,) = TASKS[task].queries(data.matrix, np.random.default_rng(2), 1)
    peers, cannot = able(data.peers if full else {"saestore": data.peers["saestore"]}, task, query)
    with ThreadPoolExecutor(2) as pool:
        ran = pool.map(lambda key: run(command_of(key, peers[key].folder, task, query)), peers)
    peak = {key: found["peak_bytes"] for key, (_, found) in zip(peers, ran, strict=True)}
    assert all(10e6 < bytes_ < 8e9 for bytes_ in peak.values())
    recorder.add("process", f"peak {task}", {"label": TASKS[task].label, "peak_bytes": peak, "unsupported": cannot})


@pytest.mark.parametrize("data", ["uniform"], indirect=True)
def test_peak_memory_of_writing(data, full, tmp_path, recorder):
    """The matrix to write is in memory, and so counted, for everyone."""
    sp.save_npz(tmp_path / "matrix.npz", data.matrix, compressed=False)
    save_items(tmp_path, data.item_size, data.items)

    def peak_of(key):
        folder = tmp_path / key
        folder.mkdir()
        return run(command_of(key, folder, WRITE, str(tmp_path / "matrix.npz")))[1]["peak_bytes"]

    with ThreadPoolExecutor(2) as pool:
        keys = list(data.write_seconds) if full else ["saestore"]
        peak = dict(zip(keys, pool.map(peak_of, keys), strict=True))
    written = data.peers["saestore"].stored_bytes()
    assert sum(f.stat().st_size for f in (tmp_path / "saestore").rglob("*") if f.is_file()) == pytest.approx(
        written, 0.01
    )
    label = f"writing {data.matrix.nnz / 1e6:.1f} million non-zeros"
    cannot = {key: "only reads" for key in data.peers if key not in data.write_seconds}
    recorder.add("process", f"peak {WRITE}", {"label": label, "peak_bytes": peak, "unsupported": cannot})


def able(peers: dict[str, Any], task: str, query: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Who can do a task, and why the others cannot."""
    able, cannot = {}, {}
    for key, peer in peers.items():
        try:
            TASKS[task].ask(peer, query)
            able[key] = peer
        except Unsupported as reason:
            cannot[key] = str(reason)
    return able, cannot
