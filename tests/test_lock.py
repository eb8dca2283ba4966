"""One builder at a time: who holds a set, and when what he left may be taken over."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest
from raising import raises
from strategies import PATH, append_segments, make_case, memory_store, write_case, write_segments

import saestore
from saestore.errors import LockedError
from saestore.writing import SetLock, SetWriter
from saestore.writing import lock as lock_module

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
        {"boot": "another"},
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
    with pytest.raises(LockedError, match="since 2026-01-02T03:04:05") as caught:
        write_case(store, CASE)
    assert f"delete the group {PATH}/lock" in str(caught.value)
    assert lock_file(tmp_path).exists()


def test_a_lock_that_cannot_be_read_is_an_error_of_ours(tmp_path, store):
    put_lock(tmp_path)
    lock_file(tmp_path).write_text("{")
    with pytest.raises(saestore.errors.SaestoreError, match=f"{PATH}/lock"):
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


def test_of_two_that_find_a_dead_owner_the_slow_one_gives_the_quick_ones_lock_back(tmp_path, store):
    put_lock(tmp_path, pid=a_dead_pid(), token="dead")
    quick, slow = SetLock(store.root, PATH), SetLock(store.root, PATH)
    found = lock_module.read_lock(store.root, f"{PATH}/lock")
    quick.acquire()
    slow._remove_of_dead(found)  # as if it had been asleep since it read the lock
    assert lock_module.read_lock(store.root, f"{PATH}/lock")["token"] == quick._token
    with pytest.raises(LockedError):
        slow.acquire()
    quick.release()
    slow.acquire()
    slow.release()
