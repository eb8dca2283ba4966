"""Errors of the file system at any call of a job: an error of saestore, what is committed stays, the next run ends it.

`pytest --thorough tests/test_faults.py` fails every call; by default a few of them.
"""

import errno
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from effort import some_of
from faults import Faults, Killed, as_a_process_that_ends
from strategies import PATH, append_segments, layout, make_case, write_case, write_segments

import saestore
from saestore.errors import CorruptStoreError, NotFoundError, SaestoreError
from saestore.writing import SetWriter

pytestmark = pytest.mark.once

CASE = make_case(3, 12, 5, density=0.5, segment_rows=4, ragged=False)
OTHER = replace(make_case(4, 9, 5, density=0.5, segment_rows=9, ragged=False))
ODD = np.arange(12) % 2 == 1
POINTS = 2  # calls that fail, of each job and error


def grow(store: saestore.Store) -> None:
    with layout(CASE), SetWriter(store.root, PATH) as writer:
        append_segments(writer, CASE)
        writer.finish()


def delete(store: saestore.Store) -> None:
    with suppress(NotFoundError):
        store.delete(PATH)


@dataclass(frozen=True)
class Job:
    """What a job begins with, and what it does."""

    prepare: Callable[[saestore.Store], object]
    run: Callable[[saestore.Store], object]


def whole(store: saestore.Store) -> None:
    write_case(store, CASE)


def labelled(store: saestore.Store) -> None:
    whole(store)
    store[PATH].concepts.add({"odd": ~ODD}, level="sample")
    store[PATH].samples.set("x", np.zeros(12, int))


JOBS = {
    "write": Job(lambda _: None, whole),
    "grow": Job(lambda store: write_segments(store, CASE, upto=8), grow),
    "overwrite": Job(lambda store: write_case(store, OTHER), lambda store: write_case(store, CASE, overwrite=True)),
    "compact": Job(lambda store: write_segments(store, CASE), lambda store: store.compact(PATH)),
    "label": Job(labelled, lambda store: store[PATH].concepts.add({"odd": ODD}, level="sample", overwrite=True)),
    "column": Job(labelled, lambda store: store[PATH].samples.set("x", np.arange(12))),
    "remove": Job(labelled, lambda store: "x" in store[PATH].samples.columns and store[PATH].samples.remove("x")),
    "delete": Job(labelled, delete),
}
ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EMFILE": errno.EMFILE, "kill": None}


def contents(folder: Path) -> dict[str, object] | None:
    """What readers see."""
    store = saestore.open(folder)
    if PATH not in store:
        return None
    acts = store[PATH]
    return {
        "dense": acts.dense().tolist(),
        "lists": [acts.feature(f).sample.tolist() for f in range(5)],
        "columns": {name: acts.samples[name].tolist() for name in acts.samples.columns if name in ("x", "odd")},
    }


def is_committed(found: dict[str, object] | None, before: object, after: object) -> bool:
    """The state before or after, or the first segments of what is written."""
    if found in (before, after):
        return True
    return found is not None and found["dense"] == CASE.dense[: len(found["dense"])].tolist()


def assert_sound(folder: Path) -> None:
    """Nothing is wrong; what a commit left to be removed goes with the next writer."""
    problems = saestore.open(folder).verify().problems
    assert all("next build" in problem.what for problem in problems), problems
    if problems:
        saestore.open(folder, "a").compact(PATH)
        assert saestore.open(folder).verify().problems == ()


def error_of(work: Callable[[], object]) -> BaseException | None:
    """The error that saestore raises, or a kill; any other goes on."""
    try:
        work()
    except (SaestoreError, Killed) as failure:
        return failure
    return None


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """A store as it is before each job, and what is in it before and after."""
    made = {}
    for name, job in JOBS.items():
        folder = tmp_path_factory.mktemp(name)
        job.prepare(saestore.open(folder / "before", "a"))
        shutil.copytree(folder / "before", folder / "after")
        with Faults(folder / "after", errno.EIO, 10**9).active():
            job.run(saestore.open(folder / "after", "a"))
        made[name] = folder / "before", contents(folder / "before"), contents(folder / "after")
    return made


def calls(job: Job, template: Path, folder: Path, error: int | None) -> int:
    """How many calls of a job can fail with an error."""
    shutil.copytree(template, folder)
    counting = Faults(folder, error, 10**9)
    with counting.active():
        job.run(saestore.open(folder, "a"))
    return counting.count


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_fails_anywhere_loses_nothing_and_is_run_again(tmp_path, templates, name, error):
    job, (template, before, after) = JOBS[name], templates[name]
    total = calls(job, template, tmp_path / "counted", ERRORS[error])
    for at in some_of(total, POINTS, seed=list(ERRORS).index(error)):
        folder = tmp_path / f"{at}"
        shutil.copytree(template, folder)
        faults = Faults(folder, ERRORS[error], at)
        with as_a_process_that_ends(), faults.active():
            failure = error_of(lambda folder=folder: job.run(saestore.open(folder, "a")))
        assert not isinstance(failure, CorruptStoreError), f"{error} at call {at} of {total} is called damage"
        assert faults.happened, f"call {at} of {total} was not reached"
        assert is_committed(contents(folder), before, after), f"{error} at call {at} of {total}"
        job.run(saestore.open(folder, "a"))
        assert contents(folder) == after, f"{error} at call {at} of {total}"
        assert_sound(folder)
        shutil.rmtree(folder)


QUESTIONS = {
    "open": lambda store: store[PATH].shape,
    "list": list,
    "dense": lambda store: store[PATH].dense().tolist(),
    "top": lambda store: store[PATH].top_samples([1, 2], 3, where="x > 0").to_dict(),
    "stats": lambda store: store[PATH].stats()["mean"].values.tolist(),
    "labels": lambda store: store[PATH].concepts.scores(level="sample")["roc_auc"].values.tolist(),
    "verify": lambda store: store.verify().problems,
}


@pytest.mark.parametrize("error", ["EIO", "EMFILE"])
@pytest.mark.parametrize("ask", QUESTIONS)
def test_a_question_that_fails_anywhere_is_answered_right_or_refused(tmp_path, templates, ask, error):
    template, _, _ = templates["column"]
    shutil.copytree(template, tmp_path / "s")
    question = QUESTIONS[ask]
    counting = Faults(tmp_path / "s", ERRORS[error], 10**9)
    with counting.active():
        expected = repr(question(saestore.open(tmp_path / "s")))
    for at in some_of(counting.count, 2 * POINTS):
        answers = []
        with Faults(tmp_path / "s", ERRORS[error], at).active():
            failure = error_of(lambda: answers.append(repr(question(saestore.open(tmp_path / "s")))))  # noqa: B023
        assert answers in ([], [expected]), f"{error} at call {at} of {counting.count}"
        wrong = isinstance(failure, CorruptStoreError | NotFoundError)
        assert not wrong, f"{error} at call {at} of {counting.count}: {failure!r}"
