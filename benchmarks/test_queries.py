"""Every question to every peer, in an order that is drawn anew for each query; all must answer alike."""

import numpy as np
import pytest

from benchmarks.race import Race
from benchmarks.tasks import TASKS

SMALL_COUNT = 5  # queries where only the answers count
SAME_IN_MEMORY = {"scipy-compressed"}  # as the uncompressed file, once it is open


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.key)
def test_query(benchmark, data, task, full, recorder):
    count = task.count if full else SMALL_COUNT
    first, *queries = task.queries(data.matrix, np.random.default_rng(1), count + 1)
    left_out = SAME_IN_MEMORY if full and task.key != "open" else set()
    race = Race(task, [peer for key, peer in data.peers.items() if key not in left_out])
    race.warm_up(first)
    pairs = zip([first, *queries], queries, strict=False)
    benchmark.pedantic(race.run, setup=lambda: (next(pairs), {}), rounds=count)
    results = race.results()
    assert race.seconds["saestore"]
    benchmark.extra_info.update(results)
    about = {"shape": str(data.shape), "label": task.label}
    recorder.add("queries", f"{data.name} {task.key}", {**about, **results})
