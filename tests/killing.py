"""Kill a writer at its writes and start it again: run as a program, by the tests of writing and of compaction.

    python killing.py FOLDER

A process of its own without threads, so that it can fork: a child has everything imported already and starts at
once. It exits 0 when every store that was killed and taken up again ended with the bytes of one that never was.
"""

import hashlib
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from effort import choose
from strategies import PATH, append_segments, layout, make_case, write_case, write_segments
from zarr.storage import LocalStore

import saestore
from saestore.storage import durable
from saestore.writing import SetWriter, leftovers

CASE = make_case(3, 48, 9, density=0.4, segment_rows=16, chunk=40, shard=80)
KILLED = 9
POINTS = choose(4, 50)
RANDOM_KILLS = choose(2, 20)


def build(folder: Path) -> None:
    """What a build does: go on where the set ends, then finish it."""
    store = saestore.open(folder, "a")
    with layout(CASE), SetWriter(store.root, PATH) as set_writer:
        append_segments(set_writer, CASE)
        set_writer.finish()


def write(folder: Path) -> None:
    """What a user does with a ready matrix."""
    write_case(saestore.open(folder, "a"), CASE)


def compact(folder: Path) -> None:
    """Merge three segments two at a time, so that there are passes to be killed between."""
    with layout(CASE):
        saestore.open(folder, "a").compact(PATH, memory=1)


def uncompacted(folder: Path) -> None:
    write_segments(saestore.open(folder, "a"), CASE)


@dataclass(frozen=True)
class Job:
    """What to kill, what it begins with, how many single kills spread over its writes, and whether it goes on."""

    run: Callable[[Path], None]
    points: int
    prepare: Callable[[Path], None] | None = None
    goes_on: bool = True


JOBS = {
    "build": Job(build, POINTS),
    "write": Job(write, POINTS),
    "compact": Job(compact, POINTS, prepare=uncompacted),
}


def kill_at(n: int) -> Iterator[int]:
    """From here on, end this process at its n-th write, without a word: before it, after it or in its middle.

    Returns the counter, whose next value is one more than the writes so far.
    """
    writes = itertools.count(1)

    def dying(name: str, method: Callable) -> Callable:
        async def asynchronous(self, key, *args):
            if next(writes) != n:
                return await method(self, key, *args)
            if n % 3 == 1:
                await method(self, key, *args)
            elif n % 3 == 2:
                leave_half(self, name, key)
            os._exit(KILLED)

        def synchronous(self, key, *args):
            if next(writes) == n:
                os._exit(KILLED)
            return method(self, key, *args)

        return synchronous if name.endswith("_sync") else asynchronous

    remove = leftovers.remove

    def removing(root, path):
        if next(writes) == n:
            if n % 3 == 2:
                leave_half(root.store, "delete_dir", f"{root.path}/{path}".strip("/"))
            elif n % 3 == 1:
                remove(root, path)
            os._exit(KILLED)
        remove(root, path)

    replace_file = durable.replace_file

    def replacing(path, content):
        if next(writes) == n:
            if n % 3 == 1:
                replace_file(path, content)
            elif n % 3 == 2:
                path.with_name(f"{path.name}.0123.partial").write_bytes(content[: len(content) // 2])
            os._exit(KILLED)
        replace_file(path, content)

    durable.replace_file = replacing
    leftovers.remove = removing
    for name in ("set", "set_if_not_exists", "delete", "delete_dir", "set_sync", "delete_sync"):
        if hasattr(LocalStore, name):
            setattr(LocalStore, name, dying(name, getattr(LocalStore, name)))
    return writes


def leave_half(store: LocalStore, name: str, key: str) -> None:
    """What is there when zarr is killed in the middle: half a file under another name, half a folder removed."""
    path = Path(store.root) / key
    if name == "delete_dir":
        for file in [f for f in sorted(path.rglob("*")) if f.is_file()][::2]:
            file.unlink()
    elif name.startswith("set"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".0123456789abcdef.partial").write_bytes(b"half")


def in_child(work: Callable, *args) -> int:
    """Run something in a child; its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(start(work, *args), 0)[1])


def start(work: Callable, *args) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        work(*args)
    except BaseException:  # noqa: BLE001  (whatever it was, the parent has to see it)
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def succeed(work: Callable, *args) -> None:
    status = in_child(work, *args)
    assert status == 0, f"{work.__name__} ended with status {status}"


def killed(job: Callable, folder: Path, n: int) -> None:
    kill_at(n)
    job(folder)


def files(folder: Path) -> dict[str, str]:
    return {
        f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in folder.rglob("*")
        if f.is_file()
    }


def check_answers(folder: Path) -> None:
    """Whatever is committed answers right, also in a store whose writer was just killed."""
    try:
        store = saestore.open(folder)
        acts = store[PATH]
    except saestore.errors.NotFoundError:
        return
    n = acts.shape[0]
    assert np.array_equal(acts.dense(), CASE.dense[:n])
    column = CASE.dense[:n, 4]
    assert acts.feature(4).activation.tolist() == sorted(column[column != 0].tolist(), reverse=True)


def check_whole(folder: Path) -> None:
    check_answers(folder)
    report = saestore.open(folder).verify()
    assert report.ok, report.problems


def assert_same(folder: Path, undisturbed: dict[str, str], what: str) -> None:
    found = files(folder)
    missing, extra = sorted(undisturbed.keys() - found), sorted(found.keys() - undisturbed)
    other = sorted(k for k in found.keys() & undisturbed if found[k] != undisturbed[k])
    assert found == undisturbed, f"{what}: missing {missing}, extra {extra}, different {other}"


def counted(job: Callable, folder: Path, where: Path) -> None:
    """Run a job and write down how many writes it made, and what it imported."""
    writes = kill_at(-1)
    job(folder)
    where.write_text(json.dumps([next(writes) - 1, sorted(sys.modules)]))


def count(job: Callable, folder: Path, where: Path) -> int:
    """How many writes a job makes; what it imports, its next children need not import again."""
    succeed(counted, job, folder, where)
    n_writes, modules = json.loads(where.read_text())
    for name in modules:
        with suppress(ImportError):
            importlib.import_module(name)
    return n_writes


def fresh(folder: Path, template: Path) -> Path:
    """A new folder, with what the job begins with."""
    shutil.rmtree(folder, ignore_errors=True)
    if template.exists():
        shutil.copytree(template, folder)
    return folder


def main(name: str, base: Path) -> None:
    job = JOBS[name]
    base.mkdir(exist_ok=True)
    template, undisturbed = base / "template", base / "undisturbed"
    if job.prepare is not None:
        succeed(job.prepare, template)
    began = time.perf_counter()
    total = count(job.run, fresh(undisturbed, template), base / "count")
    seconds = time.perf_counter() - began
    succeed(check_whole, undisturbed)
    expected = files(undisturbed)
    for n in sorted({1, total, *np.linspace(2, total - 1, job.points).astype(int).tolist()}):
        kill_once(job.run, fresh(base / "once", template), n)
        assert_same(base / "once", expected, f"killed at write {n} of {total}")
    if job.goes_on:
        kill_again_and_again(job.run, fresh(base / "again", template), max(9, total // 6))
        assert_same(base / "again", expected, "killed again and again")
    kill_at_random(job.run, fresh(base / "random", template), seconds)
    assert_same(base / "random", expected, "killed at random")


def kill_once(job: Callable, folder: Path, n: int) -> None:
    assert in_child(killed, job, folder, n) == KILLED
    succeed(check_answers, folder)
    succeed(job, folder)


def kill_again_and_again(job: Callable, folder: Path, step: int) -> None:
    """A few writes later every time, until it is quicker than that."""
    for n in itertools.count(1, step):
        status = in_child(killed, job, folder, n)
        if status == 0:
            return
        assert status == KILLED


def kill_at_random(job: Callable, folder: Path, seconds: float) -> None:
    rng = random.Random(0)
    for _ in range(RANDOM_KILLS):
        pid = start(job, folder)
        time.sleep(rng.random() * seconds)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    succeed(check_answers, folder)
    succeed(job, folder)
    succeed(check_whole, folder)


if __name__ == "__main__":
    for each in JOBS:
        print(each, file=sys.stderr)
        main(each, Path(sys.argv[1]) / each)
