"""What the benchmarks share: their size, the data, the peers' files, and where the results go.

Small by default, where they are tests: every peer must give the same answer to every query. `--full` is what
`make bench` runs: the sizes that docs/performance.md speaks of, and results written.
"""

import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from benchmarks.labels import Items, labels
from benchmarks.one import save_items
from benchmarks.peers import PEERS, Peer, Unsupported
from benchmarks.recorder import Recorder
from benchmarks.scale import Stream
from benchmarks.synthetic import CLEVR, Shape, matrix

RECORDER = pytest.StashKey[Recorder]()
TINY = Shape(n_items=12, item_size=24, n_features=512, l0=8)
COCO = Stream(n_items=5_500, item_size=256)
TINY_COCO = Stream(n_items=12, item_size=24, n_features=512, l0=8, pool_items=4)


@dataclass(frozen=True)
class Kind:
    """A kind of data at the size of the documentation, and as small as a test takes it.

    Attributes
    ----------
    peers
        Keys of those that take part; all where None.
    """

    shape: Shape | Stream
    tiny: Shape | Stream
    peers: tuple[str, ...] | None = None


KINDS = {
    "clustered": Kind(CLEVR, TINY),
    "jumprelu": Kind(replace(CLEVR, kind="jumprelu", n_items=250), replace(TINY, kind="jumprelu")),
    "uniform": Kind(replace(CLEVR, kind="uniform", n_items=250), replace(TINY, kind="uniform")),
    # Of the others, writing this much or asking it takes minutes.
    "coco": Kind(COCO, TINY_COCO, ("saestore", "limit", "anndata", "pt", "scipy", "hdf5", "duckdb", "polars")),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="benchmarks at the size of the documentation; writes results")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: not worth its time as a test; runs with --full only")
    config.stash[RECORDER] = Recorder()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [] if config.getoption("--full") else [item for item in items if item.get_closest_marker("full")]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    # A test that fails records nothing; what the others measured is kept.
    if session.config.getoption("--full") and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        for path in session.config.stash[RECORDER].write():
            print(f"\nwrote {path}")


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    return pytestconfig.getoption("--full")


@pytest.fixture(scope="session")
def recorder(pytestconfig: pytest.Config) -> Recorder:
    return pytestconfig.stash[RECORDER]


@dataclass(frozen=True)
class Field:
    """One data set and every peer's files of it, open."""

    name: str
    shape: Shape | Stream | str
    matrix: sp.csr_array
    item_size: int = 1
    items: Items | None = None
    peers: dict[str, Peer] = field(default_factory=dict)
    write_seconds: dict[str, float] = field(default_factory=dict)


@pytest.fixture(scope="session", params=list(KINDS))
def data(request: pytest.FixtureRequest, full: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """Each kind of data, written by every peer that takes part and is installed."""
    name = request.param
    kind = KINDS[name]
    shape = kind.shape if full else kind.tiny
    made = Field(name, shape, all_of(shape), shape.item_size, labels(shape.n_items))
    folder = tmp_path_factory.mktemp(name)
    save_items(folder, made.item_size, made.items)
    write_all(made, folder, kind.peers)
    for peer in made.peers.values():
        peer.open()
    yield made
    made.peers.clear()  # what they hold in memory would disturb the next ones
    shutil.rmtree(folder)


def all_of(shape: Shape | Stream) -> sp.csr_array:
    """The whole matrix, in memory."""
    if isinstance(shape, Shape):
        return matrix(shape)
    indptr, indices, values = shape.rows(0, shape.n_samples)
    ids = (indices.astype(np.int32), indptr.astype(np.int32))  # as scipy itself would have them
    return sp.csr_array((values, *ids), shape=(shape.n_samples, shape.n_features))


def write_all(made: Field, folder: Path, keys: Collection[str] | None = None) -> None:
    """Let every peer write the data, and time it."""
    for key, kind in PEERS.items():
        if not kind.available() or (keys is not None and key not in keys):
            continue
        own = folder / (kind.folder_of or key)
        own.mkdir(exist_ok=True)
        peer = made.peers[key] = kind(own, made.item_size, made.items)
        started = time.perf_counter()
        try:
            peer.write(made.matrix)
        except Unsupported:
            continue
        made.write_seconds[key] = time.perf_counter() - started
