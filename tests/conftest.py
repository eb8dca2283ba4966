"""What every test shares."""

import gc
import multiprocessing.forkserver
import multiprocessing.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import effort
import pytest
import tiny_blocks
from hypothesis import settings

from saestore.storage.threads import keep_freed_memory

if TYPE_CHECKING:
    from build_helpers import Server

# Hypothesis' own profile for shared machines: the same examples in every run, and no deadline, because a test that
# fails when the machine is busy says nothing of the code. `pytest --hypothesis-profile=default` looks for new ones.
settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tiny-blocks", action="store_true", help="shrink every block constant to 3; see tiny_blocks.py")
    parser.addoption("--thorough", action="store_true", help="inject every fault and draw many more examples: an hour")


# Where files are in memory: on a disk the tests wait for flushes most of the time, 2 s for each set that they write.
IN_MEMORY = Path("/dev/shm")
ENOUGH = 4 << 30


# Importing makes millions of objects that stay. The collector is off until all are there, and then leaves them alone.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    keep_freed_memory()  # once a process: tracemalloc would count what it takes only in name
    if IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > ENOUGH:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))
    if config.getoption("--thorough", default=False):
        os.environ[effort.VARIABLE] = "1"
    if config.getoption("--tiny-blocks", default=False):
        assert len(tiny_blocks.shrink()) > 10, "where have the block constants gone?"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import a module none of whose tests is asked for."""
    if config.option.markexpr != "not once" or not collection_path.name.startswith("test_"):
        return None
    return "\npytestmark = pytest.mark.once\n" in collection_path.read_text("utf-8") or None


@pytest.fixture(scope="session", autouse=True)
def scratch_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have `tempfile` create its folders below pytest's, so that they go when the run ends."""
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("scratch"))
    yield
    tempfile.tempdir = before


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The files that the tests read, committed beside them."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def project_dir() -> Path:
    """The root of the checkout: examples, documentation, the top-level cli.py."""
    return Path(__file__).parent.parent


@pytest.fixture(scope="session")
def checkout_after_demo(tmp_path_factory: pytest.TempPathFactory, project_dir: Path) -> tuple[Path, str]:
    """A folder where what `make demo` runs has run, and what it printed. Not to be written to."""
    for package in ("torch", "sae_lens", "matplotlib"):
        pytest.importorskip(package, reason="the demo needs it")
    folder = _shared(tmp_path_factory, "demo")
    _once(folder, lambda: _run_demo(folder / "checkout", project_dir, folder / "printed"))
    return folder / "checkout", (folder / "printed").read_text()


@pytest.fixture(scope="session")
def example_store(checkout_after_demo: tuple[Path, str]) -> Path:
    """A store of both shipped examples, built from their embeddings through their SAEs. Not to be written to."""
    return checkout_after_demo[0] / "demo" / "activations.zarr"


@pytest.fixture(scope="session")
def forkserver() -> str:
    """How to start a process that gets all by pickles, as a spawned one, but has imported what such processes need."""
    with mock.patch("tempfile.tempdir", None):
        multiprocessing.util.get_temp_dir()  # of the whole process: it outlives the tests' folder
    modules = [
        "distributed",
        "pandas",
        "torch",
        "xarray",
        "zarr",
        "saestore.ingest.build_plan",
        "saestore.xarray_engine",
    ]
    multiprocessing.forkserver.set_forkserver_preload([name for name in modules if find_spec(name.partition(".")[0])])
    multiprocessing.forkserver.ensure_running()
    return "forkserver"


@pytest.fixture(scope="session")
def processes() -> Iterator["Server"]:
    """Builds in processes of their own, which die where a test says; see `build_helpers`."""
    pytest.importorskip("torch", reason="building needs torch")
    from build_helpers import Server

    running = Server()
    yield running
    running.close()


def _shared(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder of this run, the same for all workers."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name


def _once(folder: Path, work: Callable[[], None]) -> None:
    """Do a piece of work in the first of the processes that test side by side; the others wait for it."""
    done, failed = folder / "done", folder / "failed"
    try:
        folder.mkdir()
    except FileExistsError:
        while not done.exists():
            assert not failed.exists(), "another worker failed to build the examples"
            time.sleep(0.1)
        return
    try:
        work()
    except BaseException:
        failed.touch()
        raise
    done.touch()


def _run_demo(checkout: Path, project: Path, printed: Path) -> None:
    checkout.mkdir()
    shutil.copytree(project / "examples", checkout / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    env = os.environ | {"PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("SAESTORE_PATH", None)
    run = subprocess.run(
        [sys.executable, "examples/demo.py"], cwd=checkout, env=env, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    printed.write_text(run.stdout)
