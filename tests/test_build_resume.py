"""Builds that are killed, interrupted or run out of space, anywhere: what stays is right, and the next one finishes it.

The builds run in processes of their own, which die at the n-th change of the file system (see `build_helpers`).
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import saestore
from saestore.errors import StoreWriteError

torch = pytest.importorskip("torch")

from build_helpers import (  # noqa: E402 (what follows needs torch)
    assert_holds,
    clip_scope,
    clip_scope_dense,
    hashes,
    in_batches,
    near,
)
from effort import choose  # noqa: E402
from raising import raises  # noqa: E402

PATH = "Mine/token/tiny"
N_ROWS, SEGMENT_ROWS = 200, 80  # three segments
POINTERS = [0, 50, 50, 120, 200]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with everything that a build can be given."""
    folder = tmp_path_factory.mktemp("inputs")
    np.save(folder / "x.npy", near(clip_scope(folder / "tiny.pt"), N_ROWS).numpy())
    np.savez(folder / "tokens.npz", ptr=POINTERS, spans=np.arange(2 * N_ROWS).reshape(-1, 2))
    (folder / "metadata.csv").write_text("text,split,sarcasm\n" + "a,train,0\nb,cal,1\nc,test,0\nd,train,1\n")
    return folder


@pytest.fixture(scope="module")
def job(inputs):
    """Builds the same set in a store of that name: arguments for `saestore.build`, as JSON has them."""

    def arguments(store, **how):
        return {
            "dataset": "Mine",
            "sample_type": "token",
            "store": str(store),
            "embeddings": str(inputs / "x.npy"),
            "sae": str(inputs / "tiny.pt"),
            "items": str(inputs / "metadata.csv"),
            "item_ptr": f"{inputs / 'tokens.npz'}:ptr",
            "token_spans": f"{inputs / 'tokens.npz'}:spans",
            "segment_rows": SEGMENT_ROWS,
        } | how

    return arguments


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, processes, job):
    """How a build goes that nothing befalls: the hashes of its files, and how often it changes the file system."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    ended = processes.run(job(store))
    assert ended["exit"] == 0, ended
    assert saestore.open(store).verify().ok
    return hashes(store), ended["changes"]


@pytest.fixture(scope="module")
def dense(inputs):
    x = torch.from_numpy(np.load(inputs / "x.npy"))
    return in_batches(lambda part: clip_scope_dense(inputs / "tiny.pt", part), x, SEGMENT_ROWS)


def phase(store, dense):
    """How far a build came, once what readers see of it is found to be right."""
    try:
        acts = saestore.open(store)[PATH]
    except saestore.errors.NotFoundError:
        return "nothing"
    if len(acts):
        assert_holds(acts, dense[: len(acts)])
    if acts.attributes.complete:
        return "complete"
    if len(acts) < N_ROWS:
        return f"{len(acts)} samples"
    return "compacting" if len(acts.attributes.segments) > 1 else "deriving"


ALL_PHASES = {"nothing", "0 samples", "80 samples", "160 samples", "compacting", "deriving"}


def assert_finishes(processes, job, store, undisturbed):
    ended = processes.run(job(store))
    assert ended["exit"] == 0, ended
    assert hashes(store) == undisturbed[0]


def points(n_changes, n_early, n_late):
    """Spread over a build, and closer in its beginning, where the store, the lock and the groups come to be."""
    early, late = np.linspace(2, 40, n_early, dtype=int), np.linspace(45, n_changes, n_late, dtype=int)
    return [*early.tolist(), *late.tolist()]


def test_killed_at_any_change_and_started_again(tmp_path, processes, job, undisturbed, dense):
    seen, ends = set(), []
    for n in points(undisturbed[1] - 12, choose(3, 4), choose(6, 30)):
        store = tmp_path / f"killed-{n}"
        # Merges run beside the encoding, so that the number of changes differs by a few: a last point may be no kill.
        ends.append(processes.run(job(store), kill_at=n)["exit"])
        seen.add(phase(store, dense))
        assert ends[-1] == -9 or hashes(store) == undisturbed[0]
        assert_finishes(processes, job, store, undisturbed)
        shutil.rmtree(store)
    assert ends.count(-9) >= len(ends) - 2
    assert "nothing" in seen
    assert len(seen & ALL_PHASES) >= 4


def test_killed_again_and_again(tmp_path, processes, job, undisturbed, dense):
    """Also while it removes what the killed one before it left."""
    store, random = tmp_path / "store", np.random.default_rng(0)
    before, killed = 0, 0
    places = [5, 15, 40, undisturbed[1] // 3, undisturbed[1] // 2]
    while processes.run(job(store), kill_at=int(random.choice(places)))["exit"] == -9:
        held = len(saestore.open(store)[PATH]) if phase(store, dense) != "nothing" else 0
        assert held >= before
        before, killed = held, killed + 1
    assert killed > 4
    assert hashes(store) == undisturbed[0]


def test_killed_at_random_times(tmp_path, processes, job, undisturbed, dense):
    store, random = tmp_path / "store", np.random.default_rng(1)
    for _ in range(4):
        processes.run(job(store), kill_after=float(random.uniform(0.02, 0.5)))
        phase(store, dense)
    assert_finishes(processes, job, store, undisturbed)


def test_killed_while_it_replaces_another_build(tmp_path, processes, job, undisturbed, dense):
    other, store = tmp_path / "other", tmp_path / "store"
    assert processes.run(job(other, top_k=2))["exit"] == 0
    replaced = tmp_path / "replaced"
    shutil.copytree(other, replaced)
    assert processes.run(job(replaced, overwrite=True))["exit"] == 0
    for n in (8, 40, 200):
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(other, store)
        assert processes.run(job(store, overwrite=True), kill_at=n)["exit"] == -9
        try:  # the other build is still there, whole, or the new one already
            assert hashes(other).items() <= hashes(store).items()
        except AssertionError:
            assert np.array_equal(saestore.open(store)[PATH].dense(), saestore.open(replaced)[PATH].dense())
        assert processes.run(job(store, overwrite=True))["exit"] == 0
        assert hashes(store) == hashes(replaced)


def test_interrupted(tmp_path, processes, job, undisturbed, dense):
    """Ctrl-C: at most the segment that is being written is still finished; the lock is given back."""
    for n in np.linspace(60, undisturbed[1] - 60, choose(3, 20), dtype=int).tolist():
        killed, store = tmp_path / f"killed-{n}", tmp_path / f"interrupted-{n}"
        assert processes.run(job(killed), kill_at=n)["exit"] == -9
        ended = processes.run(job(store), interrupt_at=n)
        assert (ended["exit"], ended["error"]) == (1, "KeyboardInterrupt")
        assert not (store / PATH / "lock").exists()
        order = ["nothing", "0 samples", "80 samples", "160 samples", "compacting", "deriving", "complete"]
        further = order.index(phase(store, dense)) - order.index(phase(killed, dense))
        assert 0 <= further <= 1
        assert_finishes(processes, job, store, undisturbed)


def test_full_in_the_middle(tmp_path, processes, job, undisturbed, dense):
    for n in points(int(undisturbed[1] * 0.9), 2, choose(3, 20)):  # the number of changes differs by a few
        store = tmp_path / f"full-{n}"
        ended = processes.run(job(store), full_at=n)
        assert (ended["exit"], ended["error"]) == (1, "StoreWriteError"), (n, ended)
        assert "no space is left on the device" in ended["message"]
        assert "run the same command again, it resumes" in ended["message"]
        assert "\n" not in ended["message"]
        phase(store, dense)
        assert not (store / PATH / "lock" / "zarr.json").exists()
        assert_finishes(processes, job, store, undisturbed)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root and mount(8)")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "none", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_file_system_that_is_really_full(small_disk, processes, job, undisturbed, dense):
    ballast, store = small_disk / "ballast", small_disk / "store"
    for free in (8 << 10, 80 << 10, 80 << 10):
        ballast.write_bytes(b"")
        ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - free))
        with raises(StoreWriteError, "disk-full"):
            saestore.build(**job(store), progress=False)
        phase(store, dense)
    ballast.unlink()
    assert_finishes(processes, job, store, undisturbed)


def test_the_record_of_what_is_dropped_adds_up(tmp_path, processes, job, undisturbed):
    """It is written with every segment; sums of floats come out the same only if taken in the same steps."""
    whole, store = tmp_path / "whole", tmp_path / "store"
    how = {"top_k": 2, "dtype": "float16"}
    changes = processes.run(job(whole, **how))["changes"]
    for n in (changes // 3, changes // 6):
        ended = processes.run(job(store, **how), kill_at=n)
        assert ended["exit"] == -9, ended
    assert 0 < len(saestore.open(store)[PATH]) < N_ROWS
    assert processes.run(job(store, **how))["exit"] == 0
    assert saestore.open(store)[PATH].attributes.dropped["n_dropped"] > 0
    assert hashes(store) == hashes(whole)


def test_from_bfloat16_candidates(tmp_path, processes, inputs, job):
    """Which rows have too many candidates, and fall back, depends on those before them: the bytes must not."""
    x = near(inputs / "tiny.pt", 9000)
    np.save(tmp_path / "x.npy", x.numpy())
    how = {
        "embeddings": str(tmp_path / "x.npy"),
        "segment_rows": 4500,
        "items": None,
        "item_ptr": 1,
        "token_spans": None,
    }
    for encode in ("float32", "bfloat16"):
        ended = processes.run(job(tmp_path / encode, matmul_precision=encode, **how))
        if ended["exit"] and "cannot be encoded from bfloat16" in ended["message"]:
            pytest.skip(ended["message"])
        assert ended["exit"] == 0, ended
    half = ended["changes"] // 2
    assert processes.run(job(tmp_path / "killed", matmul_precision="bfloat16", **how), kill_at=half)["exit"] == -9
    assert len(saestore.open(tmp_path / "killed")[PATH]) in (4500, 9000)
    assert processes.run(job(tmp_path / "killed", matmul_precision="bfloat16", **how))["exit"] == 0
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "bfloat16")
    sets = [saestore.open(tmp_path / name)[PATH] for name in ("float32", "bfloat16")]
    assert [acts.attributes.summary["encoding"] for acts in sets] == ["float32", "bfloat16-candidates"]
    assert (sets[0].sparse() != sets[1].sparse()).nnz == 0


def test_the_store_may_move_between_two_runs(tmp_path, processes, job, undisturbed):
    here, there = tmp_path / "here", tmp_path / "there"
    assert processes.run(job(here), kill_at=undisturbed[1] // 2)["exit"] == -9
    Path(here).rename(there)
    assert_finishes(processes, job, there, undisturbed)


def test_what_is_resumed_is_said(tmp_path, processes, job, undisturbed, capsys):
    store = tmp_path / "store"
    assert processes.run(job(store), kill_at=undisturbed[1] // 2)["exit"] == -9
    done = len(saestore.open(store)[PATH])
    assert 0 < done < N_ROWS
    acts = saestore.build(**job(store), progress=True)
    told = capsys.readouterr().err
    assert f"{PATH}: going on after {done} of {N_ROWS} samples." in told
    assert "merging 3 segments (0-80 … 160-200)" in told
    assert "active/row" in told
    assert acts.attributes.complete


def test_another_build_is_not_resumed(tmp_path, processes, job, undisturbed):
    store = tmp_path / "store"
    assert processes.run(job(store), kill_at=undisturbed[1] // 2)["exit"] == -9
    ended = processes.run(job(store, top_k=2))
    assert ended["error"] == "StoreConflictError"
    assert "top_k (None there, 2 now)" in ended["message"]
    ended = processes.run(job(store, segment_rows=SEGMENT_ROWS + 1))
    assert ended["error"] == "StoreConflictError"
    assert_finishes(processes, job, store, undisturbed)
