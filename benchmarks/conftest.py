"""What the benchmarks share: the sizes, the data, every peer's files, and where the results go.

By default the benchmarks are small tests: every peer must give the same answer to every query. `--full` is for
`make bench`: the sizes of docs/performance.md, and written results.
"""

import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import scipy.sparse as sp

from benchmarks.detect import COCO
from benchmarks.peers import PEERS, Peer, Unsupported
from benchmarks.process import save_items
from benchmarks.recorder import Recorder
from benchmarks.synthetic import CLEVR, Items, Shape, Stream, labels

TINY = Shape(n_items=12, item_size=24, n_features=512, l0=8)
TINY_COCO = Stream(n_items=12, item_size=24, n_features=512, l0=8, pool_items=4)


@dataclass(frozen=True)
class Kind:
    """A kind of data at the size of the documentation, and at the size of a test; the peers that take part."""

    shape: Shape | Stream
    tiny: Shape | Stream
    peers: Collection[str] = tuple(PEERS)


KINDS = {
    "clustered": Kind(CLEVR, TINY),
    "jumprelu": Kind(replace(CLEVR, kind="jumprelu", n_items=250), replace(TINY, kind="jumprelu")),
    "uniform": Kind(replace(CLEVR, kind="uniform", n_items=250), replace(TINY, kind="uniform")),
    # The other peers take minutes to write this, or to answer.
    "coco": Kind(COCO, TINY_COCO, ("saestore", "limit", "anndata", "pt", "hdf5", "duckdb")),
}


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
    shape: Shape | Stream | str
    matrix: sp.csr_array
    item_size: int = 1
    items: Items | None = None
    peers: dict[str, Peer] = field(default_factory=dict)
    write_seconds: dict[str, float] = field(default_factory=dict)

    def write(self, folder: Path, keys: Collection[str] = tuple(PEERS)) -> None:
        """Let every installed peer write the data, and measure the time."""
        for key in (key for key in keys if PEERS[key].available()):
            own = folder / (PEERS[key].folder_of or key)
            own.mkdir(exist_ok=True)
            peer = self.peers[key] = PEERS[key](own, self.item_size, self.items)
            started = time.perf_counter()
            try:
                peer.write(self.matrix)
            except Unsupported:
                continue
            self.write_seconds[key] = time.perf_counter() - started


@pytest.fixture(scope="session", params=list(KINDS))
def data(request: pytest.FixtureRequest, full: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    """Each kind of data, written by every peer that takes part and is installed."""
    kind, folder = KINDS[request.param], tmp_path_factory.mktemp(request.param)
    shape = kind.shape if full else kind.tiny
    made = Dataset(request.param, shape, shape.matrix(), shape.item_size, labels(shape.n_items))
    save_items(folder, made.item_size, made.items)
    made.write(folder, kind.peers)
    for peer in made.peers.values():
        peer.open()
    yield made
    made.peers.clear()  # their memory would disturb the next ones
    shutil.rmtree(folder)
