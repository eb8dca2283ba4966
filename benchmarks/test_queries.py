"""Every question to every peer, in turns; all must answer alike."""

import numpy as np
import pytest

from benchmarks.race import Race
from benchmarks.tasks import TASKS

SMALL_COUNT = 5  # queries where only the answers count


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.key)
def test_query(benchmark, data, task, full, recorder):
    count = task.count if full else SMALL_COUNT
    queries = task.queries(data.matrix, np.random.default_rng(1), count)
    # In memory the compressed file is the uncompressed one, and both codecs of saestore are read by the same code.
    left_out = {"scipy-compressed", "saestore-blosc"} if full and task.key != "open" else set()
    race = Race(task, [peer for key, peer in data.peers.items() if key not in left_out])
    race.warm_up(queries[0])
    turn = task.turn if full else count
    rounds = [queries[i : i + turn] for i in range(0, count, turn)]
    pending = iter(rounds)
    benchmark.pedantic(race.run, setup=lambda: ((next(pending),), {}), rounds=len(rounds))
    results = race.results()
    assert race.seconds["saestore"]
    benchmark.extra_info.update(results)
    about = {"shape": str(data.shape), "label": task.label}
    recorder.add("queries", f"{data.kind} {task.key}", {**about, **results})
