"""`saestore plan`, `run` and `commit`: what they print, killed processes, and the Slurm scripts of docs/cluster.md."""

import json
import os
import random
import re
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from raising import raises

import saestore
from saestore.cli import main
from saestore.errors import LockedError
from saestore.writing import SetLock

torch = pytest.importorskip("torch")

from build_helpers import PROJECT, clip_scope, hashes, near  # noqa: E402 (what follows needs torch)

PATH = "Mine/token/tiny"
KILLS = 5


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    np.save(folder / "x.npy", near(clip_scope(folder / "tiny.pt"), 100).numpy())
    return folder


@pytest.fixture(scope="module")
def options(inputs):
    return ["--sample-type", "token", "--embeddings", str(inputs / "x.npy"), "--sae", str(inputs / "tiny.pt")]


@pytest.fixture(scope="module")
def built(tmp_path_factory, inputs):
    store = tmp_path_factory.mktemp("built") / "s.zarr"
    given = {"sample_type": "token", "embeddings": inputs / "x.npy", "sae": inputs / "tiny.pt", "segment_rows": 20}
    saestore.build("Mine", store=store, **given, progress=False)
    return hashes(store)


@pytest.fixture
def call(tmp_path):
    def run(*words, status=0):
        ended = CliRunner().invoke(main, [*words, "--store", str(tmp_path / "s.zarr")])
        assert ended.exit_code == status, ended.output
        return ended

    return run


def test_a_plan_from_the_shell(tmp_path, call, options, built):
    planned = call("plan", "Mine", *options, "--segment-rows", "20", "--json")
    assert json.loads(planned.stdout) == {"set": PATH, "n_tasks": 5}
    call("run", "Mine", "--task", "3")
    assert "task 0 is done, 1 of 2" in call("run", "Mine", "--task", "0-1").stderr
    assert json.loads(call("plan", "--status", "Mine", "--json").stdout)["missing"] == [2, 4]
    assert "missing  2, 4" in call("plan", "--status", "Mine").stdout
    assert "2 of 5 tasks" in call("commit", "Mine", status=1).stderr
    for k in range(2):
        call("run", "Mine", "--worker", f"{k}/2")
    assert f"{PATH}: 100 samples committed" in call("commit", "Mine").stdout
    assert hashes(tmp_path / "s.zarr") == built
    assert "has no plan" in call("commit", "Mine", status=1).stderr
    assert json.loads(call("plan", "Mine", *options, "--segment-rows", "20", "--json").stdout)["n_tasks"] == 0


def test_each_worker_has_a_device(tmp_path, call, options, built, processes):
    call("plan", "Mine", *options, "--segment-rows", "20")
    assert "'cuda:7' cannot be used" in call("run", "Mine", "--device", "cuda:7", status=1).stderr
    words = ["run", "Mine", "--store", str(tmp_path / "s.zarr")]
    for k, device in enumerate(("cpu", "cpu:0")):
        assert not processes.run(command=[*words, "--worker", f"{k}/2", "--device", device])["exit"]
    plan = saestore.open_plan(tmp_path / "s.zarr", "Mine").on("cpu:0")
    assert (plan.recipe.device, plan.missing()) == ("cpu:0", [])
    plan.commit()
    assert hashes(tmp_path / "s.zarr") == built


def test_a_task_that_does_not_exist_runs_nothing(tmp_path, call, options):
    call("plan", "Mine", *options, "--segment-rows", "20")
    for words, status, message in (
        (["--task", "5"], 1, "tasks 0 to 4"),
        (["--task", "0-5"], 1, "tasks 0 to 4"),
        (["--task", "3-1"], 2, "write 7, or 0-99"),
        (["--worker", "2/2"], 2, "0/8 to 7/8"),
        (["--task", "1", "--worker", "0/2"], 2, "exclude one another"),
    ):
        assert message in call("run", "Mine", *words, status=status).stderr
    assert not list((tmp_path / "s.zarr" / PATH / "tasks").glob("*-*"))


def test_a_plan_is_of_one_set(call, options):
    assert "exactly one" in call("plan", *options, status=2).stderr
    assert "leave DATASET out" in call("plan", "Mine", "--status", "Mine", status=2).stderr


def test_runs_and_commits_killed_anywhere_end_with_the_bytes_of_a_build(tmp_path, call, options, built, processes):
    store = tmp_path / "s.zarr"
    call("plan", "Mine", *options, "--segment-rows", "20")
    rng = random.Random(0)
    for command in ("run", "commit"):
        words, kills = [command, PATH, "--store", str(store)], 0
        ended = {"exit": -9}
        while ended["exit"]:
            when = {"kill_at": rng.randint(1, 80)} if kills < KILLS else {}
            ended = processes.run(command=words, **when)
            assert ended["exit"] in (0, -9), ended
            kills += ended["exit"] == -9
        assert kills
    assert hashes(store) == built


def test_a_commit_waits_for_another_writer(tmp_path, call, options):
    call("plan", "Mine", *options, "--segment-rows", "20")
    call("run", "Mine")
    plan = saestore.open_plan(tmp_path / "s.zarr", "Mine")
    lock = SetLock(plan.root, PATH)
    lock.acquire()
    with raises(LockedError, "locked"):
        plan.commit()
    lock.release()
    plan.commit()


@contextmanager
def program(path, processes):
    """Put a program there that hands its words to the server of processes, and ends as the command does."""
    asked, answer = f"{path}.asked", f"{path}.answer"
    os.mkfifo(asked)
    os.mkfifo(answer)
    path.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "SAESTORE_PATH=$SAESTORE_PATH" "$@" >{asked}\n'
        f"read -r status <{answer}\nexit $status\n"
    )
    path.chmod(0o755)

    def serve():
        while words := Path(asked).read_text().splitlines():
            ended = processes.run(command=words[1:], environment=dict([words[0].split("=", 1)]))
            Path(answer).write_text(f"{ended['exit']}\n")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        Path(asked).write_text("")
        thread.join()


def test_the_slurm_scripts_of_the_page(tmp_path, inputs, built, processes):
    """In a shell: `sbatch` runs the array as a loop of two jobs, and then what depends on it."""
    run, submit = re.findall(
        r"^```bash\n(.*?)^```$", (PROJECT / "docs/cluster.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "run.sbatch").write_text(run)
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(
        "#!/bin/bash\nset -e\n"
        'if [ "$1" = --parsable ]; then for k in 0 1; do\n'
        '  SLURM_ARRAY_TASK_ID=$k SLURM_ARRAY_TASK_COUNT=2 SLURM_CPUS_PER_TASK=1 bash "$3" >&2; done; echo 17\n'
        'else [ "$1" = --dependency=afterok:17 ]; bash -c "$3" >&2; fi\n'
    )
    sbatch.chmod(0o755)
    script = "set -e\n" + submit.replace("--sae ", "--segment-rows 20 --sae ")
    for name, folder in (("x.npy", inputs), ("tiny.pt", inputs), ("activations.zarr", tmp_path)):
        script = script.replace(f"/scratch/me/{name}", str(folder / name))
    variables = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    with program(tmp_path / "saestore", processes):
        ended = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )
    assert ended.returncode == 0, ended.stderr
    assert hashes(tmp_path / "activations.zarr") == built
