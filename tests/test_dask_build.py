"""Builds, imports and merges on Dask workers, which are processes: the bytes of one process, with a killed one too."""

import os
import re
import signal
import threading
import time

import numpy as np
import pytest
import scipy.sparse as sp
from click.testing import CliRunner
from raising import raises

import saestore
from saestore.cli import main
from saestore.errors import InvalidInputError, StoreConflictError

torch = pytest.importorskip("torch")
distributed = pytest.importorskip("distributed")

import dask  # noqa: E402
from build_helpers import PROJECT, clip_scope, hashes, near  # noqa: E402 (what follows needs torch)

PATH = "Mine/token/tiny"
# Distributed closes its sockets in threads of its own, some after the test that used them.
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.filterwarnings("ignore:.*unclosed")]


@pytest.fixture(scope="module")
def client(forkserver):
    os.environ["PYTHONPATH"] = str(PROJECT)
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": forkserver}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    np.save(folder / "x.npy", near(clip_scope(folder / "tiny.pt"), 360).numpy())

    def arguments(store, **how):
        return {
            "dataset": "Mine",
            "sample_type": "token",
            "store": store,
            "embeddings": folder / "x.npy",
            "sae": folder / "tiny.pt",
            "segment_rows": 30,
            "progress": False,
        } | how

    return arguments


@pytest.fixture(scope="module")
def built(tmp_path_factory, job):
    store = tmp_path_factory.mktemp("built") / "s.zarr"
    saestore.build(**job(store))
    return hashes(store)


def test_a_build_on_workers_one_of_which_is_killed(tmp_path, client, job, built):
    store, lines = tmp_path / "s.zarr", []
    pids = client.run(os.getpid)

    def kill_one():
        tasks = store / PATH / "tasks"
        while not tasks.exists() or not any(tasks.glob("*-*")):
            time.sleep(0.01)
        os.kill(next(iter(pids.values())), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    acts = saestore.build(**job(store, client=client, progress=lines.append))
    killer.join()
    assert hashes(store) == built
    assert len(acts) == 360
    assert any("360 of 360 samples encoded" in line for line in lines)
    assert saestore.build(**job(store, client=client)).attributes == acts.attributes  # nothing to do


def test_every_task_twice_at_once(tmp_path, client, job, built):
    plan = saestore.plan_build(**job(tmp_path / "s.zarr"))
    client.gather(client.map(plan.run, [*range(len(plan))] * 2, pure=False))
    assert plan.missing() == []
    plan.commit(client=client)
    assert hashes(tmp_path / "s.zarr") == built


def test_an_error_of_a_task_is_the_error_of_the_build(tmp_path, client, job):
    plan = saestore.plan_build(**job(tmp_path / "s.zarr"))
    saestore.build(**job(tmp_path / "s.zarr", top_k=2), overwrite=True)
    from saestore.distributed.engines import run_tasks
    from saestore.progress import Progress

    with raises(StoreConflictError, "plan-gone"):
        run_tasks(plan, client, Progress(False))
    with raises(InvalidInputError, "bad-client", "distributed.Client"):
        saestore.open(tmp_path / "s.zarr", "a").compact(PATH, client="tcp://nowhere")


def test_an_import_on_workers(tmp_path, client):
    matrix = sp.random(300, 40, 0.2, "csr", np.float32, random_state=0)
    sp.save_npz(tmp_path / "m.npz", matrix)
    how = {"segment_rows": 50, "progress": False}
    saestore.import_activations("Toy/token/x", tmp_path / "m.npz", store=tmp_path / "a.zarr", **how)
    acts = saestore.import_activations(
        "Toy/token/x", tmp_path / "m.npz", store=tmp_path / "b.zarr", client=client, **how
    )
    assert hashes(tmp_path / "a.zarr") == hashes(tmp_path / "b.zarr")
    assert (acts.sparse() != matrix).nnz == 0


def test_the_command_line_builds_on_a_cluster(tmp_path, client, job, built):
    given = job(tmp_path / "s.zarr")
    options = ["--embeddings", given["embeddings"], "--sae", given["sae"], "--sample-type", "token"]
    options += ["--segment-rows", 30, "--store", given["store"], "--dask", client.scheduler.address]
    ended = CliRunner().invoke(main, ["build", "Mine", *map(str, options)])
    assert ended.exit_code == 0, ended.output
    assert hashes(given["store"]) == built
    ended = CliRunner().invoke(main, ["build", "Mine", *map(str, options), "--dask", "local:x"])
    assert ended.exit_code == 2
    assert "local:4" in ended.output


def test_the_script_of_the_page(tmp_path, client, job, monkeypatch, capsys):
    """Its `Client()` finds the scheduler as on a cluster, by the address in the configuration."""
    page = (PROJECT / "docs/cluster.md").read_text()
    pattern = r"^```python\n(import saestore\nfrom distributed import Client\n.*?)^```$"
    (script,) = re.findall(pattern, page, re.MULTILINE | re.DOTALL)
    given = job(tmp_path / "a.zarr", progress=False)
    saestore.build(**{**given, "sae": given["sae"], "segment_rows": None})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npy").symlink_to(given["embeddings"])
    (tmp_path / "tiny.pt").symlink_to(given["sae"])
    with dask.config.set({"scheduler-address": client.scheduler.address}):
        exec(script, {"__name__": "__main__"})
    assert "Mine/token/tiny" in capsys.readouterr().out
    built, here = hashes(tmp_path / "a.zarr"), hashes(tmp_path / "activations.zarr")
    assert {k: v for k, v in built.items() if "by_" in k} == {k: v for k, v in here.items() if "by_" in k}
