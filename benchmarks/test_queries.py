"""Every question to every peer, in turns; all must answer alike."""

import numpy as np
import pytest

from benchmarks.race import Race
from benchmarks.tasks import TASKS

# Queries of a round, and how many are asked where only the answers count.
ROUND = 5


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.key)
def test_query(benchmark, data, task, full, recorder):
    count = task.count if full else ROUND
    queries = task.queries(data.matrix, np.random.default_rng(1), count)
    # In memory the compressed file is the uncompressed one, and both codecs of saestore are read by the same code.
    left_out = {"scipy-compressed", "saestore-blosc"} if full and task.key != "open" else set()
    race = Race(task, [peer for key, peer in data.peers.items() if key not in left_out])
    race.warm_up(queries[0])
    rounds = [queries[i : i + ROUND] for i in range(0, count, ROUND)]
    pending = iter(rounds)
    benchmark.pedantic(race.run, setup=lambda: ((next(pending),), {}), rounds=len(rounds))
    results = race.results()
    assert len(race.seconds["saestore"]) >= ROUND
    benchmark.extra_info.update(results)
    about = {"shape": str(data.shape), "label": task.label}
    recorder.add("queries", f"{data.kind} {task.key}", {**about, **results})
