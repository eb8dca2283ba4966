"""Whole processes: the time to the first answer, and the memory of each task."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from benchmarks.peers import Unsupported
from benchmarks.peers.ours import SET
from benchmarks.process import run, run_task
from benchmarks.tasks import TASKS, TOP

ROUNDS, SLOW = 3, 10.0  # seconds of a process that is started only once
CLI = "saestore-cli"
TASKS_IN_PROCESS = ("top20", "dense", "rows", "stats")


def test_first_answer_of_a_process(data, full, recorder):
    """From the start to the top samples on stdout, imports included; files are in the page cache."""
    feature, store = int(data.matrix.indices[0]), data.peers["saestore"].folder / "store.zarr"
    command = ["-m", "saestore.cli", "top-samples", "--store", str(store), "--dataset", SET.split("/")[0]]
    command += ["--feature", str(feature), "-n", str(TOP), "--json"]
    seconds = {key: [] for key in [CLI, *(data.peers if full else ["saestore"])]}
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS if full else 1):
        for key in rng.permutation([key for key, took in seconds.items() if max(took, default=0) < SLOW]).tolist():
            if key == CLI:
                took, answer = run(command)
                samples = [row["sample"] for row in answer["rows"]]
                assert samples == data.peers["saestore"].top_samples(feature, TOP)[0].tolist()
            else:
                took, _ = run_task(key, data.peers[key].folder, "top20", feature)
            seconds[key].append(took)
    medians = {key: 1e3 * float(np.median(times)) for key, times in seconds.items()}
    recorder.add("process", "first answer", {"shape": str(data.shape), "median_ms": medians})


@pytest.mark.parametrize("task", TASKS_IN_PROCESS)
def test_peak_memory(data, full, task, recorder):
    """Each task in a process of its own, two processes at once: memory does not depend on what else runs."""
    if not full and task != "top20":
        pytest.skip("takes long; the answers are tested elsewhere")
    (query,) = TASKS[task].queries(data.matrix, np.random.default_rng(2), 1)
    folders, cannot = {}, {}
    for key, peer in data.peers.items() if full else [("saestore", data.peers["saestore"])]:
        try:
            TASKS[task].ask(peer, query)
            folders[key] = peer.folder
        except Unsupported as reason:
            cannot[key] = str(reason)
    with ThreadPoolExecutor(2) as pool:
        ran = pool.map(lambda key: run_task(key, folders[key], task, query)[1], folders)
    peak = {key: result["peak_bytes"] for key, result in zip(folders, ran, strict=True)}
    assert all(10e6 < size < 8e9 for size in peak.values())
    recorder.add("process", f"peak {task}", {"label": TASKS[task].label, "peak_bytes": peak, "unsupported": cannot})
