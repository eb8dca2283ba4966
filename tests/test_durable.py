"""A crash of the machine after any step of a command leaves a committed state, the last one after its end.

`pytest --thorough tests/test_durable.py` tries every state that may be on the disk; by default some of each command.
"""

import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crashes import Files, Recorder, crashes, torn_where_whole, undisturbed
from effort import some_of
from faults import as_a_process_that_ends
from strategies import PATH, append_segments, layout, make_case, write_case, write_segments
from test_requests import CountingStore
from zarr.core.buffer import default_buffer_prototype

import saestore
from saestore.errors import NotFoundError
from saestore.storage import durable
from saestore.writing import SetWriter

pytestmark = pytest.mark.once

CASE = make_case(3, 12, 5, density=0.5, segment_rows=4, ragged=False)
OTHER = make_case(4, 9, 5, density=0.5, segment_rows=9, ragged=False)
ODD = np.arange(12) % 2 == 1
STEPS = 7  # of each command, each with five states of the disk
Work = Callable[[saestore.Store, Path], object]


@dataclass(frozen=True)
class Job:
    """What a command begins with, and what it does."""

    prepare: Work
    run: Work


def nothing(store: saestore.Store, folder: Path) -> None:
    pass


def write(store: saestore.Store, folder: Path) -> None:
    write_case(store, CASE)


def begin(store: saestore.Store, folder: Path) -> None:
    write_segments(store, CASE, upto=8)


def grow(store: saestore.Store, folder: Path) -> None:
    with layout(CASE), SetWriter(store.root, PATH) as writer:
        append_segments(writer, CASE)
        writer.finish()


def merge(store: saestore.Store, folder: Path) -> None:
    store.compact(PATH)


def tables(store: saestore.Store, folder: Path) -> None:
    write(store, folder)
    acts = store[PATH]
    acts.concepts.add({"odd": ODD, "some": np.arange(12) < 5}, level="sample")
    acts.items.set("x", np.arange(12))
    acts.samples.set("x", np.arange(12), unknown=ODD)
    acts.features.set("name", {1: "green"})


def set_column(table: str, store: saestore.Store, folder: Path) -> None:
    of = getattr(store[PATH], table)
    of.set("x", np.arange(len(of))[::-1])
    of.set("y", [f"{i}" for i in range(len(of))])


def remove_column(table: str, name: str, store: saestore.Store, folder: Path) -> None:
    of = getattr(store[PATH], table)
    if name in of.columns:
        of.remove(name)


def label(store: saestore.Store, folder: Path) -> None:
    store[PATH].concepts.add({"odd": ~ODD, "new": ODD}, level="sample", overwrite=True)


def unlabel(store: saestore.Store, folder: Path) -> None:
    if "odd" in store[PATH].concepts.names("sample"):
        store[PATH].concepts.remove("odd")


def delete(store: saestore.Store, folder: Path) -> None:
    store.delete(PATH)


def overwrite(store: saestore.Store, folder: Path) -> None:
    write_case(store, OTHER, overwrite=True)


def export(name: str, store: saestore.Store, folder: Path) -> None:
    how = {} if name.endswith(".npz") else {"format": "delphi"}
    saestore.export(store[PATH], folder / "new" / name, overwrite=True, **how)


def card(store: saestore.Store, folder: Path) -> None:
    store[PATH].card(1).save(folder / "new" / "cards" / "a.html")


def saved_before(save: Work, store: saestore.Store, folder: Path) -> None:
    tables(store, folder)
    save(store, folder)
    store[PATH].features.set("name", {1: "blue"})


def exported_before(name: str, store: saestore.Store, folder: Path) -> None:
    pytest.importorskip("safetensors")
    tables(store, folder)
    export(name, store, folder)
    store[PATH].items.set("x", np.arange(12) * 2)


def planned(folder: Path) -> saestore.Plan:
    pytest.importorskip("torch")
    from build_helpers import clip_scope, near

    source = folder.parent / "inputs"
    if not source.exists():
        source.mkdir()
        np.save(source / "x.npy", near(clip_scope(source / "tiny.pt"), 9).numpy())
    return saestore.plan_build("Mine", store=folder / "s.zarr", embeddings=source / "x.npy", sae=source / "tiny.pt",
                               segment_rows=3, progress=False)  # fmt: skip


def run_plan(store: saestore.Store, folder: Path) -> None:
    plan = planned(folder)
    for task in plan.missing():
        plan.run(task)
    plan.commit()


JOBS = {
    "write": Job(nothing, write),
    "build": Job(begin, grow),
    "merge": Job(begin, merge),
    "columns of samples": Job(tables, partial(set_column, "samples")),
    "columns of items": Job(tables, partial(set_column, "items")),
    "columns of features": Job(tables, partial(set_column, "features")),
    "no column of samples": Job(tables, partial(remove_column, "samples", "x")),
    "no column of items": Job(tables, partial(remove_column, "items", "x")),
    "no column of features": Job(tables, partial(remove_column, "features", "name")),
    "concepts": Job(tables, label),
    "no concept": Job(tables, unlabel),
    "delete": Job(tables, delete),
    "overwrite": Job(tables, overwrite),
    "plan": Job(nothing, run_plan),
    "export of a file": Job(partial(exported_before, "a.npz"), partial(export, "a.npz")),
    "export of a folder": Job(partial(exported_before, "a"), partial(export, "a")),
    "card": Job(partial(saved_before, card), card),
    "first export": Job(tables, partial(export, "a.npz")),
}


def in_memory(files: Files) -> CountingStore:
    """What is in some files, and which of them are read."""
    make = default_buffer_prototype().buffer.from_bytes
    keys = {path.removeprefix("s.zarr/"): make(data) for path, data in files.items() if path.startswith("s.zarr/")}
    return CountingStore(keys)


def on_disk(files: Files, folder: Path) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def of_folder(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def answers(files: Files) -> dict[str, Any]:
    """What readers see of all sets."""
    return answers_from(in_memory(files))


def answers_from(place: CountingStore) -> dict[str, Any]:
    try:
        store = saestore.open(place, "r+")
    except NotFoundError:
        return {}
    found = {}
    for path, acts in store.items():
        tables = [acts.samples, acts.items, acts.features]
        found[path] = {
            "dense": acts.dense().tolist(),
            "lists": [acts.feature(f).sample.tolist() for f in range(acts.shape[1])],
            "columns": [
                {name: table[name].tolist() for name in (*table.names(), *table.concept_names)} for table in tables
            ],
        }
    return found


class Readers:
    """Answers from files in many states: asked again only where a file differs that was read, or a folder of a set."""

    def __init__(self) -> None:
        self._seen: list[tuple[Files, set[str], dict[str, Any]]] = []

    def answers(self, files: Files) -> dict[str, Any]:
        for known, read, found in self._seen:
            same = all(known.get(path) == files.get(path) for path in read)
            if same and sets_in(known) == sets_in(files):
                return found
        place = in_memory(files)
        found = answers_from(place)
        self._seen.append((files, {f"s.zarr/{key}" for key, _ in place.taken()}, found))
        return found


def sets_in(files: Files) -> set[str]:
    """The folders of sets, and those above them."""
    return {"/".join(path.split("/")[:depth]) for path in files for depth in range(1, 5)}


def documents(files: Files) -> str:
    """The commit that files are of: what the documents of sets say."""
    sets = [path for path in sorted(files) if path.startswith("s.zarr/") and path.count("/") == 4]
    return json.dumps({path: files[path].decode("latin") for path in sets if path.endswith("/zarr.json")})


def exports(files: Files) -> Files:
    """What stands under the names of exports."""
    return {path: data for path, data in files.items() if path.startswith("new/") and ".partial" not in path}


def record(job: Job, folder: Path) -> tuple[list[tuple[Any, ...]], int]:
    """The log of a command, and where it begins in it."""
    folder.mkdir()
    recorder = Recorder(folder)
    with recorder.active():
        store = saestore.open(folder / "s.zarr", "a")
        job.prepare(store, folder)
        first = len(recorder.log)
        with as_a_process_that_ends():
            job.run(store, folder)
    return recorder.log, first


@pytest.mark.filterwarnings("ignore:Object at")  # a folder of which the document is lost, as zarr says
@pytest.mark.parametrize("name", JOBS)
def test_a_crash_of_the_machine_leaves_a_committed_state(tmp_path, name):
    job = JOBS[name]
    log, first = record(job, tmp_path / "w")
    if name != "overwrite":  # whose derived arrays are named only once they are whole
        assert torn_where_whole(log, first) == set()
    readers = Readers()
    committed: dict[str, dict[str, Any]] = {}
    written: list[Files] = []
    for files in undisturbed(log, first):
        commit = documents(files)
        if commit not in committed:
            committed[commit] = readers.answers(files)
        if exports(files) not in written:
            written.append(exports(files))
    end = len(log)
    steps = {first + i - 1 for i in some_of(end - first, STEPS, seed=len(name))} | {end}
    for step, files in crashes(log, len(name), steps):
        assert documents(files) in committed, f"{step} of {end}: a state that was not committed"
        found = readers.answers(files)
        assert found == committed[documents(files)], f"{step} of {end}"
        out = exports(files)
        assert out in (written[0], written[-1]), f"{step} of {end}"
        if step == end:
            assert found == committed[commit], "a commit that was acknowledged is lost"
            assert exports(files) == written[-1], "an export that was acknowledged is lost"
    _, torn = list(crashes(log, 0, {sorted(steps)[len(steps) // 2]}))[-2]
    with suppress(NotFoundError):  # it was deleted already
        job.run(saestore.open(on_disk(torn, tmp_path / "again") / "s.zarr", "a"), tmp_path / "again")
    assert answers(of_folder(tmp_path / "again")) == committed[commit]
    assert exports(of_folder(tmp_path / "again")).keys() == written[-1].keys()
    problems = saestore.open(tmp_path / "again" / "s.zarr").verify().problems
    assert all("next build" in problem.what for problem in problems if written[-1]), problems  # exports write no set
    assert written[-1] or problems == ()


def test_a_crash_of_the_machine_keeps_the_tasks_that_are_done(tmp_path):
    log, _ = record(Job(lambda _, folder: planned(folder), lambda _, folder: planned(folder).run(1)), tmp_path / "w")
    lost = next(files for step, files in crashes(log, 0, {len(log)}))
    plan = saestore.open_plan(on_disk(lost, tmp_path / "again") / "s.zarr", "Mine")
    assert plan.missing() == [0, 2]


def test_folders_that_a_system_cannot_exchange_are_replaced_too(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "exchange", lambda *_: False)
    store = saestore.open(tmp_path / "s.zarr", "a")
    exported_before("a", store, tmp_path)
    before = exports(of_folder(tmp_path))
    store[PATH].concepts.remove("odd")
    export("a", store, tmp_path)
    assert exports(of_folder(tmp_path)).keys() == before.keys()
    assert not list((tmp_path / "new").glob(".*"))


def test_a_folder_that_was_there_and_is_gone_again_is_made(tmp_path, monkeypatch):
    """As that of a lock, which another process gives back at this moment."""
    make, calls = os.mkdir, []

    def gone_again(path, *how):
        calls.append(path)
        if len(calls) < 4:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        make(path, *how)

    monkeypatch.setattr(os, "mkdir", gone_again)
    durable.make_folder(tmp_path / "lock")
    assert (tmp_path / "lock").is_dir()
    assert len(calls) == 4
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        durable.make_folder(tmp_path / "file")
