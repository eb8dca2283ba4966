"""What the benchmarks share: their size, the data, the peers' files, and where the results go.

Small by default, where they are tests: every peer must give the same answer to every query. `--full` is what
`make bench` runs: the sizes that docs/performance.md speaks of, and results written.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import scipy.sparse as sp

from benchmarks.peers import PEERS, Peer, Unsupported
from benchmarks.recorder import Recorder
from benchmarks.synthetic import CLEVR, Shape, matrix

RECORDER = pytest.StashKey[Recorder]()
TINY = Shape(n_items=12, item_size=24, n_features=512, l0=8)
FULL = {
    "clustered": CLEVR,
    "jumprelu": replace(CLEVR, kind="jumprelu", n_items=250),
    "uniform": replace(CLEVR, kind="uniform", n_items=250),
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
    if session.config.getoption("--full") and exitstatus == 0:
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

    shape: Shape
    matrix: sp.csr_array
    peers: dict[str, Peer]
    write_seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.shape.kind


@pytest.fixture(scope="session", params=list(FULL))
def data(request: pytest.FixtureRequest, full: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """Each kind of data, written by every peer that is installed."""
    shape = FULL[request.param] if full else replace(TINY, kind=request.param)
    made = Field(shape, matrix(shape), {})
    write_all(made, tmp_path_factory.mktemp(request.param))
    for peer in made.peers.values():
        peer.open()
    yield made
    made.peers.clear()  # what they hold in memory would disturb the next ones


def write_all(made: Field, folder: Path) -> None:
    """Let every peer write the data, and time it."""
    for key, kind in PEERS.items():
        if not kind.available():
            continue
        own = folder / (kind.folder_of or key)
        own.mkdir(exist_ok=True)
        peer = made.peers[key] = kind(own, made.shape.item_size)
        started = time.perf_counter()
        try:
            peer.write(made.matrix)
        except Unsupported:
            continue
        made.write_seconds[key] = [time.perf_counter() - started]
