"""What the benchmarks share: the sizes, the data, every peer's files, and where the results go.

By default the benchmarks are small tests: every peer must give the same answer to every query. `--full` is for
`make bench`: the sizes of docs/performance.md, and written results.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import scipy.sparse as sp

from benchmarks.peers import PEERS, Peer, Unsupported
from benchmarks.process import save_items
from benchmarks.recorder import Recorder
from benchmarks.synthetic import CLEVR, Items, Shape, labels

NAME = "clustered"  # in the results
TINY = Shape(n_items=12, item_size=24, n_features=512, l0=8)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="benchmarks at the size of the documentation; writes results")


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    return pytestconfig.getoption("--full")


@pytest.fixture(scope="session")
def recorder(full: bool) -> Iterator[Recorder]:
    """Keeps the results of all tests but those that fail, and writes them at the end."""
    recorder = Recorder()
    yield recorder
    if full:
        print("", *recorder.write(), sep="\nwrote ")


@dataclass(frozen=True)
class Dataset:
    """One data set and every peer's files of it, open."""

    name: str
    shape: Shape | str
    matrix: sp.csr_array
    item_size: int = 1
    items: Items | None = None
    peers: dict[str, Peer] = field(default_factory=dict)
    write_seconds: dict[str, float] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Let every installed peer write the data, and measure the time."""
        for key in (key for key, peer in PEERS.items() if peer.available()):
            own = folder / (PEERS[key].folder_of or key)
            own.mkdir(exist_ok=True)
            peer = self.peers[key] = PEERS[key](own, self.item_size, self.items)
            started = time.perf_counter()
            try:
                peer.write(self.matrix)
            except Unsupported:
                continue
            self.write_seconds[key] = time.perf_counter() - started


@pytest.fixture(scope="session")
def data(full: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    """A set of CLEVR's shape, written by every peer that is installed."""
    folder, shape = tmp_path_factory.mktemp(NAME), CLEVR if full else TINY
    made = Dataset(NAME, shape, shape.matrix(), shape.item_size, labels(shape.n_items))
    save_items(folder, made.item_size, made.items)
    made.write(folder)
    for peer in made.peers.values():
        peer.open()
    yield made
    made.peers.clear()  # their memory would disturb the next ones
    shutil.rmtree(folder)
