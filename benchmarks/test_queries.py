"""Every question to every peer: all peers must answer alike, on synthetic data and on an awkward matrix."""

import numpy as np
import pytest
import scipy.sparse as sp

from benchmarks.peers import PEERS, Peer, Unsupported
from benchmarks.peers.base import csc_stats
from benchmarks.race import MIN_QUERIES, Race
from benchmarks.synthetic import labels
from benchmarks.tasks import TASKS, same

SMALL_COUNT = 5  # queries where only the answers matter
ITEM, ITEMS = 8, labels(6)
AWKWARD_QUERIES = [
    *(("column", feature) for feature in (1, 5, 32, 33)),  # 33 is dead
    *(("top20", feature) for feature in (1, 5, 32, 33)),
    *(("top20_where", query) for query in ((5, "train"), (5, "test"), (33, "train"))),
    ("dense", (10, 41)),
    ("rows", np.array([0, 1, 16, 17, 40, 47])),
    ("stats", None),
]


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.key)
def test_query(benchmark, data, task, full, recorder):
    count = task.count if full else SMALL_COUNT
    first, *queries = task.queries(data.matrix, np.random.default_rng(1), count + 1)
    race = Race(task, list(data.peers.values()))
    race.warm_up(first)
    pairs = zip([first, *queries], queries, strict=False)
    benchmark.pedantic(race.run, setup=lambda: (next(pairs), {}), rounds=count)
    results = race.results()
    benchmark.extra_info.update(results)
    recorder.add("queries", f"{data.name} {task.key}", {"shape": str(data.shape), "label": task.label, **results})


class Reference(Peer):
    """The answers by definition, from a dense array."""

    key = "reference"

    def write(self, matrix):
        self.array = matrix.toarray()

    def column(self, feature):
        samples = np.flatnonzero(self.array[:, feature])
        return samples, self.array[samples, feature]

    def dense(self, start, stop):
        return self.array[start:stop]

    def rows(self, samples):
        return sp.csr_array(self.array[samples])

    def stats(self):
        csc = sp.csc_array(self.array)
        return csc_stats(csc.indptr, csc.data, csc.shape[0])


class Wrong(Reference):
    key = "wrong"

    def column(self, feature):
        samples, values = super().column(feature)
        return samples, np.nextafter(values, np.float32(np.inf))


@pytest.fixture(scope="module")
def reference():
    """Ties, dead features, empty samples, negative activations; all exact in float16, as Delphi stores only that."""
    rng = np.random.default_rng(5)
    values = rng.choice(np.float32([-2, -0.5, 0.25, 1, 3, 700]), (6 * ITEM, 70))
    values[rng.random(values.shape) < 0.7] = 0
    values[[0, 17, 47]] = 0
    values[:, [0, 33, 69]] = 0
    peer = Reference(None, ITEM, ITEMS)
    peer.write(sp.csr_array(values))
    return peer


@pytest.fixture(scope="module", params=PEERS)
def peer(request, reference, tmp_path_factory):
    kind, folder = PEERS[request.param], tmp_path_factory.mktemp(request.param)
    if not kind.available():
        pytest.skip(f"{kind.label} needs {', '.join(kind.needs)}: see benchmarks/requirements")
    PEERS[kind.folder_of or kind.key](folder, ITEM, ITEMS).write(sp.csr_array(reference.array))
    peer = kind(folder, ITEM, ITEMS)
    peer.open()
    return peer


@pytest.mark.parametrize(("task", "query"), AWKWARD_QUERIES)
def test_awkward_matrix(reference, peer, task, query):
    try:
        answer = TASKS[task].ask(peer, query)
    except Unsupported as reason:
        pytest.skip(f"{peer.label}: {reason}")
    assert same(TASKS[task], TASKS[task].ask(reference, query), answer)


def test_race_finds_a_wrong_last_bit_and_asks_a_slow_peer_few_queries(reference):
    wrong = Wrong(None, ITEM, ITEMS)
    wrong.array = reference.array
    with pytest.raises(AssertionError, match="wrong answers top20"):
        Race(TASKS["top20"], [reference, wrong]).run(1, 5)
    wrong.column = reference.column
    race = Race(TASKS["top20"], [reference, wrong], budget=0)
    for feature in range(1, 20):
        race.run(feature, feature + 1)
    asked = {key: peer["asked"] for key, peer in race.results()["peers"].items()}
    assert asked == {"reference": 19, "wrong": MIN_QUERIES}
