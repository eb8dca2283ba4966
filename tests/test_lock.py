"""One builder at a time: who holds a set, and when what he left may be taken over."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from unittest import mock

import pytest
from raising import raises
from strategies import PATH, append_segments, make_case, memory_store, write_case, write_segments

import saestore
from saestore.errors import CorruptStoreError, LockedError, StoreConflictError
from saestore.writing import SetLock, SetWriter
from saestore.writing import lock as lock_module

pytestmark = pytest.mark.once

CASE = make_case(1, 12, 5, segment_rows=4)


@pytest.fixture
def store(tmp_path):
    return saestore.open(tmp_path / "a.zarr", "a")


@pytest.fixture(params=["memory", "folder"])
def any_store(request, tmp_path):
    return memory_store() if request.param == "memory" else saestore.open(tmp_path / "a.zarr", "a")


def lock_file(tmp_path):
    return tmp_path / "a.zarr" / PATH / "lock" / "zarr.json"


def put_lock(tmp_path, **owner):
    """A lock that somebody left."""
    file = lock_file(tmp_path)
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "host": socket.gethostname(),
        **lock_module._machine(),
        "pid": 1,
        "started": None,
        "time": "2026-01-02T03:04:05+00:00",
        "token": "x",
    }
    file.write_text(json.dumps({"attributes": {**whole, **owner}, "zarr_format": 3, "node_type": "group"}))


def a_dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_writer_is_told_who_writes_where_and_since_when(any_store):
    with SetWriter(any_store.root, PATH):
        for attempt in (
            lambda: SetWriter(any_store.root, PATH).__enter__(),
            lambda: write_case(any_store, CASE),
        ):
            with pytest.raises(LockedError) as caught:
                attempt()
            said = re.escape(f"{PATH} is being written by process {os.getpid()} on {socket.gethostname()} since 20")
            assert re.match(said, str(caught.value))
            assert "\n" not in str(caught.value)
    write_case(any_store, CASE)


def test_the_lock_is_of_one_set_and_not_of_the_store(any_store):
    with SetWriter(any_store.root, PATH):
        write_case(any_store, CASE, "Shapes/patch/other")
    assert list(any_store) == ["Shapes/patch/other"]


def test_readers_need_no_lock_and_a_report_leaves_a_living_writers_work_alone(any_store):
    write_segments(any_store, CASE, upto=8)
    with SetWriter(any_store.root, PATH):
        assert any_store[PATH].shape == (8, 5)
        assert any_store.verify().ok


def test_a_lock_is_given_back_also_after_an_error(any_store):
    with pytest.raises(ZeroDivisionError), SetWriter(any_store.root, PATH):
        _ = 1 / 0
    with SetWriter(any_store.root, PATH):
        pass


def test_a_lock_that_could_not_be_given_back_does_not_hold_up_its_process(tmp_path, store):
    lock = SetLock(store.root, PATH)
    lock.acquire()
    with (
        mock.patch.object(lock_module, "remove", side_effect=OSError(5, "Input/output error")),
        pytest.raises(OSError, match="output"),
    ):
        lock.release()
    write_case(store, CASE)
    assert not lock_file(tmp_path).exists()


def test_who_may_have_a_rival_says_so_until_he_is_fenced_off(store):
    """A writer that is alive lost its lock; the next one loses his before his first commit."""
    first, second, third = (SetLock(store.root, PATH) for _ in range(3))
    first.acquire()
    store.unlock(PATH, force=True)
    second.acquire()
    store.unlock(PATH, force=True)
    second.release()
    third.acquire()
    assert (first.may_have_rival, second.may_have_rival, third.may_have_rival) == (False, True, True)
    third.may_have_rival = False  # as his first commit has it
    third.release()
    first.release()
    first.acquire()
    assert not first.may_have_rival


def test_nothing_of_the_lock_is_left(tmp_path, store):
    write_case(store, CASE)
    assert not lock_file(tmp_path).parent.exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, store):
    put_lock(tmp_path, pid=a_dead_pid())
    write_case(store, CASE)
    assert store.verify().ok


def test_the_lock_of_a_killed_writer_is_reported_and_taken_over(tmp_path, store):
    write_case(store, CASE)
    put_lock(tmp_path, pid=a_dead_pid())
    (problem,) = store.verify().problems
    assert (problem.node, "process that is gone" in problem.what) == (f"{PATH}/lock", True)
    store.compact(PATH)
    assert store.verify().ok


def test_a_process_number_that_was_given_to_another_does_not_hold_a_lock(tmp_path, store):
    started = lock_module._process_start(os.getpid())
    if started is None:
        pytest.skip("this system does not say when a process started")
    put_lock(tmp_path, pid=os.getpid(), started=started - 1)
    write_case(store, CASE)


@pytest.mark.parametrize(
    "owner",
    [
        {"host": "another-host"},
        {"boot": "another", "machine": None},
        {"boot": "another", "machine": "another"},
        {"boot": "another", "pid_namespace": "pid:[1]"},
        {"boot": None},
        {"pid_namespace": "pid:[1]"},
        {"pid": os.getppid()},
        {"pid": "x"},
        {"pid": -1},
        {"pid": None},
        {"pid": 2**70},
    ],
    ids=str,
)
def test_who_may_be_alive_keeps_the_lock(tmp_path, store, owner):
    put_lock(tmp_path, **{"pid": a_dead_pid(), **owner})
    with raises(LockedError, "locked", "since 2026-01-02T03:04:05", f"saestore unlock {PATH}"):
        write_case(store, CASE)
    assert lock_file(tmp_path).exists()


def test_a_lock_that_cannot_be_read_is_an_error_of_ours(tmp_path, store):
    put_lock(tmp_path)
    lock_file(tmp_path).write_text("{")
    with raises(CorruptStoreError, "corrupt-store", f"{PATH}/lock"):
        write_case(store, CASE)


def test_a_writer_whose_lock_was_taken_commits_nothing(tmp_path, any_store):
    with SetWriter(any_store.root, PATH) as writer:
        append_segments(writer, CASE, 4)
        del any_store.root[f"{PATH}/lock"]
        with raises(LockedError, "lock-lost", PATH):
            append_segments(writer, CASE, 8)
    assert any_store[PATH].shape == (4, 5)


def test_of_many_that_start_at_once_one_writes(tmp_path):
    saestore.open(tmp_path / "a.zarr", "a")
    barrier = threading.Barrier(6)
    at_once, most, outcomes = [0], [0], []

    def contend():
        root = saestore.open(tmp_path / "a.zarr", "a").root
        barrier.wait()
        for _ in range(15):
            lock = SetLock(root, PATH)
            try:
                lock.acquire()
            except LockedError:
                outcomes.append("refused")
                continue
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
            time.sleep(0.002)
            at_once[0] -= 1
            lock.release()
            outcomes.append("held")

    threads = [threading.Thread(target=contend) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 6 * 15, "nobody may end with another error"
    assert set(outcomes) == {"held", "refused"}
    assert most == [1]
    assert not lock_file(tmp_path).exists()


def test_the_lock_of_a_former_boot_is_taken_over(tmp_path, store, monkeypatch):
    here = {**lock_module._machine(), "machine": "5ae5"}  # a container may have no machine-id
    monkeypatch.setattr(lock_module, "_machine", lambda: here)
    put_lock(tmp_path, boot="another", pid=os.getpid())
    write_case(store, CASE)
    assert store.verify().ok


def test_of_two_that_find_a_dead_owner_one_gets_the_lock(tmp_path, store):
    put_lock(tmp_path, pid=a_dead_pid(), token="dead")
    quick, slow = SetLock(store.root, PATH), SetLock(store.root, PATH)
    found = slow._found()
    quick.acquire()
    assert not slow._put(found), "as if it had been asleep since it read the lock"
    quick.confirm()
    with pytest.raises(LockedError):
        slow.acquire()
    quick.release()
    slow.acquire()
    slow.release()


def test_a_person_removes_the_lock_of_another_host_and_learns_whose_it_was(tmp_path, store):
    put_lock(tmp_path, host="another-host", pid=77)
    owner = store.unlock(PATH)
    assert (owner["host"], owner["pid"], owner["time"]) == ("another-host", 77, "2026-01-02T03:04:05+00:00")
    assert store.unlock(PATH) is None
    write_case(store, CASE)


def test_the_lock_of_a_living_writer_is_removed_by_force_only_and_it_commits_nothing_more(any_store):
    with SetWriter(any_store.root, PATH) as writer:
        append_segments(writer, CASE, 4)
        with raises(LockedError, "owner-alive", os.getpid(), "--force"):
            any_store.unlock(PATH)
        append_segments(writer, CASE, 8)
        assert any_store.unlock(PATH, force=True)["pid"] == os.getpid()
        with raises(LockedError, "lock-lost", PATH):
            append_segments(writer, CASE, 12)
    assert any_store[PATH].shape == (8, 5)


def test_a_commit_over_what_another_committed_meanwhile_is_refused(any_store):
    with SetWriter(any_store.root, PATH) as first:
        append_segments(first, CASE, 4)
        stored = any_store.unlock(PATH, force=True)
        with SetWriter(any_store.root, PATH) as second:
            append_segments(second, CASE, 8)
        assert stored["token"]
        first._lock = second._lock = mock.Mock()  # which says that the lock is still there
        with raises(StoreConflictError, "changed-meanwhile", PATH):
            first.commit(replace(first.require(), summary={"explained": 0.5}))
    assert any_store[PATH].shape == (8, 5)


def test_unlocking_on_the_command_line(tmp_path, store):
    from click.testing import CliRunner

    from saestore.cli import main

    def run(*arguments):
        return CliRunner().invoke(main, ["unlock", PATH, "--store", str(tmp_path / "a.zarr"), *arguments])

    put_lock(tmp_path, host="another-host", pid=77)
    done = run()
    assert done.exit_code == 0, done.output
    assert "removed the lock of process 77 on another-host since 2026-01-02" in done.stdout
    assert run().stdout == f"{PATH} is not locked.\n"
    put_lock(tmp_path, pid=os.getpid(), started=lock_module._process_start(os.getpid()))
    done = run()
    assert (done.exit_code, "--force" in done.stderr) == (1, True)
    assert json.loads(run("--force", "--json").stdout)["owner"]["pid"] == os.getpid()
