"""Every peer on a matrix that none of them would choose: ties, dead features, empty samples, negative activations.

Every activation is exact in float16, which is all that Delphi keeps: its answers must be equal as well.
"""

from importlib.util import find_spec

import numpy as np
import pytest
import scipy.sparse as sp

from benchmarks.labels import labels
from benchmarks.peers import PEERS, Unsupported
from benchmarks.tasks import TASKS, same

ITEM = 8


@pytest.fixture(scope="module")
def awkward():
    rng = np.random.default_rng(5)
    values = rng.choice(np.float32([-2, -0.5, 0.25, 1, 3, 700]), (6 * ITEM, 70))
    values[rng.random(values.shape) < 0.7] = 0
    values[[0, 17, 47]] = 0
    values[:, [0, 33, 69]] = 0
    return sp.csr_array(values)


@pytest.fixture(scope="module", params=PEERS)
def peer(request, awkward, tmp_path_factory):
    kind, folder = PEERS[request.param], tmp_path_factory.mktemp(request.param)
    missing = [name for name in kind.needs if find_spec(name) is None]
    if missing:
        pytest.skip(f"{kind.label} needs {', '.join(missing)}: benchmarks/requirements says how")
    if kind.folder_of:
        PEERS[kind.folder_of](folder, ITEM, labels(awkward.shape[0] // ITEM)).write(awkward)
    made = kind(folder, ITEM, labels(awkward.shape[0] // ITEM))
    if kind.folder_of is None:
        made.write(awkward)
    made.open()
    return made


def ask(peer, task, query):
    try:
        return TASKS[task].ask(peer, query)
    except Unsupported as reason:
        pytest.skip(f"{peer.label}: {reason}")


@pytest.mark.parametrize("feature", [1, 5, 32, 68])
def test_entries_of_a_feature(awkward, peer, feature):
    column = awkward.toarray()[:, feature]
    samples = np.flatnonzero(column)
    strongest = samples[np.argsort(-column[samples], kind="stable")][:20]
    assert same(TASKS["column"], (samples, column[samples]), ask(peer, "column", feature))
    assert same(TASKS["top20"], (strongest, column[strongest]), ask(peer, "top20", feature))


@pytest.mark.parametrize(("task", "query"), [("top20", 33), ("top20_where", (33, "train"))])
def test_dead_feature(peer, task, query):
    samples, values = ask(peer, task, query)
    assert len(samples) == len(values) == 0


@pytest.mark.parametrize("split", ["train", "test"])
def test_items_of_a_split(awkward, peer, split):
    """Item by item on the dense column: its strongest sample, the first where several tie."""
    column = awkward.toarray()[:, 5]
    wanted = []
    for item in np.flatnonzero(labels(len(column) // ITEM)["split"] == split).tolist():
        active = [s for s in range(item * ITEM, (item + 1) * ITEM) if column[s]]
        wanted += sorted(active, key=lambda s: -column[s])[:1]
    samples = np.array(sorted(wanted, key=lambda s: -column[s]))
    assert len(samples)
    assert same(TASKS["top20_where"], (samples, column[samples]), ask(peer, "top20_where", (5, split)))


def test_blocks_and_rows(awkward, peer):
    assert same(TASKS["dense"], ask(peer, "dense", (10, 41)), awkward.toarray()[10:41])
    wanted = np.array([0, 1, 16, 17, 40, 47])
    assert same(TASKS["rows"], ask(peer, "rows", wanted), awkward[wanted])


def test_statistics(awkward, peer):
    dense = awkward.toarray().astype(np.float64)
    active = np.where(dense == 0, -np.inf, dense).max(0)
    expected = {
        "n_active": (dense != 0).sum(0),
        "mean": dense.mean(0),
        "std": dense.std(0),
        "max": np.where(np.isinf(active), np.nan, active),
    }
    assert same(TASKS["stats"], ask(peer, "stats", None), expected)
