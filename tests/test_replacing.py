"""Overwriting: readers see the old set or the new one, at every point, and never a mixture."""

import itertools
import os

import numpy as np
import pytest
from raising import raises
from strategies import PATH, append_segments, make_case, memory_store, write_case, write_segments

import saestore
from saestore.errors import LockedError, StoreConflictError, StoreWriteError
from saestore.storage import durable
from saestore.writing import SetWriter

pytestmark = pytest.mark.once

OLD = make_case(1, 24, 6, density=0.5, segment_rows=8, ragged=True)
NEW = make_case(2, 30, 6, density=0.5, segment_rows=8)


def test_at_every_change_of_the_files_the_old_set_or_the_new_one_answers(tmp_path, monkeypatch):
    folder = tmp_path / "a.zarr"
    write_case(saestore.open(folder, "a"), OLD)
    seen, calls, looking = [], itertools.count(), []

    def look():
        dense = saestore.open(folder)[PATH].dense()
        seen.append([name for name, case in (("old", OLD), ("new", NEW)) if np.array_equal(dense, case.dense)])

    def watch(name):
        call = getattr(os, name)

        def watched(*args, **options):
            if not looking and next(calls) % 10 == 0:
                looking.append(True)
                look()
                looking.clear()
            return call(*args, **options)

        monkeypatch.setattr(os, name, watched)

    for name in ("replace", "unlink", "rmdir"):
        watch(name)
    write_case(saestore.open(folder, "a"), NEW, overwrite=True)
    look()
    first = seen.index(["new"])
    assert first > 3
    assert seen == [["old"]] * first + [["new"]] * (len(seen) - first)


def test_a_living_writer_whose_lock_was_broken_writes_over_nothing_that_the_next_one_wrote():
    store, other = memory_store(), make_case(2, 24, 6, density=0.5, segment_rows=24)
    write_segments(store, OLD)
    with SetWriter(store.root, PATH, resumes=lambda _: False) as overwriting:
        append_segments(overwriting, other, 0)
        store.unlock(PATH, force=True)
        store.compact(PATH)
        with raises(LockedError, "lock-lost", PATH):
            append_segments(overwriting, other)  # the rows of a segment are written before the lock is asked for
    assert np.array_equal(store[PATH].dense(), OLD.dense)
    assert all("next build" in problem.what for problem in store.verify().problems)


@pytest.mark.parametrize("at", [2, 4, 6])
def test_an_overwrite_that_fails_leaves_the_old_set_and_goes_on(tmp_path, monkeypatch, at):
    folder = tmp_path / "a.zarr"
    write_case(saestore.open(folder, "a"), OLD)
    commits, replace_file = [], durable.replace_file

    def failing(path, content):
        commits.append(path)
        if len(commits) == at:
            raise OSError(28, "No space left on device")
        replace_file(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "replace_file", failing)
        with pytest.raises(StoreWriteError):
            write_case(saestore.open(folder, "a"), NEW, overwrite=True)
    dense = saestore.open(folder)[PATH].dense()
    assert np.array_equal(dense, OLD.dense) or np.array_equal(dense, NEW.dense)
    commits.clear()
    monkeypatch.setattr(durable, "replace_file", lambda *args: commits.append(args) or replace_file(*args))
    acts = write_case(saestore.open(folder, "a"), NEW, overwrite=True)
    assert np.array_equal(acts.dense(), NEW.dense)
    assert len(commits) < 9 + (at == 2)  # it went on with the segments that were there
    assert not (folder / PATH / "next").exists()
    assert saestore.open(folder).verify().ok


def test_another_writer_discards_a_replacement_that_was_not_finished(tmp_path, monkeypatch):
    folder = tmp_path / "a.zarr"
    acts = write_case(saestore.open(folder, "a"), OLD)
    with monkeypatch.context() as patch:
        patch.setattr("saestore.writing.writer.SetWriter.finish", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_case(saestore.open(folder, "a"), NEW, overwrite=True)
    assert (folder / PATH / "next").exists()
    acts.samples.set("weight", np.arange(24.0))
    assert not (folder / PATH / "next").exists()
    assert saestore.open(folder).verify().ok
    assert np.array_equal(saestore.open(folder)[PATH].dense(), OLD.dense)


@pytest.mark.parametrize("place", ["memory", "folder"])
def test_a_reader_of_a_replaced_set_answers_from_it_or_raises(tmp_path, place):
    store = memory_store() if place == "memory" else saestore.open(tmp_path / "a.zarr", "a")
    acts = write_case(store, OLD)
    for case in (NEW, OLD):
        write_case(store, case, overwrite=True)
        for ask in (acts.dense, lambda: acts.samples.where("position == 0"), acts.reopen):
            with raises(StoreConflictError, "set-replaced", PATH):
                ask()
                acts.reopen()
    assert np.array_equal(store[PATH].dense(), OLD.dense)
    assert store[PATH].attributes.generation == 3
    assert store.verify().ok
