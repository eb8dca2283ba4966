"""`saestore.export`: scipy's `.npz`, and what every export has in common."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from crashes import Recorder, crashes
from hypothesis import given, settings
from raising import raises
from strategies import PATH, cases, make_case, scratch_store, write_case, write_segments

import saestore
from saestore.errors import InvalidInputError, NotFoundError, StoreConflictError, StoreWriteError
from saestore.formats.atomic_output import write_atomically
from saestore.formats.base import Written


def stored(case):
    return write_case(scratch_store(), case)


@settings(max_examples=8)
@given(case=cases())
def test_scipy_loads_what_is_stored(case, tmp_path_factory):
    acts = stored(case)
    path = tmp_path_factory.mktemp("npz") / "x.npz"
    done = saestore.export(acts, path)
    matrix = sp.load_npz(path)
    assert isinstance(matrix, sp.csr_array)
    assert matrix.has_sorted_indices
    assert matrix.dtype == np.result_type(case.dense.dtype, np.float32)
    assert np.array_equal(matrix.toarray(), case.dense)
    assert (done.format, done.n_samples, done.n_features, done.nnz) == ("scipy", *acts.shape, acts.nnz)
    assert done.files == (path,)


def test_out_and_in_again_is_the_same(tmp_path):
    case = make_case(7, 40, 12, palette="signed")
    acts = stored(case)
    saestore.export(acts, tmp_path / "x.npz")
    again = saestore.import_activations("Again/patch/sae", tmp_path / "x.npz", items=case.items, store=scratch_store())
    assert np.array_equal(again.dense(), case.dense)
    assert np.array_equal(again.item_index.pointers(), acts.item_index.pointers())
    assert again.attributes.source["faults"] == [] or (case.dense < 0).any()


def test_blocks_and_selections(tmp_path, monkeypatch):
    monkeypatch.setattr("saestore.formats.selection.BLOCK", 23)
    case = make_case(8, 60, 15, density=0.4)
    acts = stored(case)
    where, features = {"split": "train"}, [11, 3, 3, 4]
    train = np.flatnonzero((case.split == 0)[case.item_of_sample])
    assert 0 < len(train) < 60
    done = saestore.export(acts, tmp_path / "x.npz", where=where, features=features)
    saestore.export(acts, tmp_path / "same.npz", where='split == "train" and sample >= 0', features=features)
    assert (tmp_path / "same.npz").read_bytes() == (tmp_path / "x.npz").read_bytes()
    assert np.array_equal(sp.load_npz(tmp_path / "x.npz").toarray(), case.dense[train][:, [3, 4, 11]])
    with np.load(tmp_path / "x.npz") as archive:
        assert archive["sample"].tolist() == train.tolist()
        assert archive["feature"].tolist() == [3, 4, 11]
        assert np.repeat(archive["item"], np.diff(archive["item_ptr"])).tolist() == case.item_of_sample[train].tolist()
    assert done.nnz == np.count_nonzero(case.dense[train][:, [3, 4, 11]])
    assert (done.n_samples, done.n_features) == (len(train), 3)


def test_equal_sets_give_equal_bytes(tmp_path):
    case = make_case(9, 30, 8)
    for name in "ab":
        saestore.export(stored(case), tmp_path / f"{name}.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_nothing_is_overwritten_unless_told(tmp_path):
    acts, path = stored(make_case(1, 10, 5)), tmp_path / "x.npz"
    path.write_text("mine")
    with raises(StoreConflictError, "file-exists", "x.npz", "--overwrite"):
        saestore.export(acts, path)
    assert path.read_text() == "mine"
    saestore.export(acts, path, overwrite=True)
    assert sp.load_npz(path).nnz == acts.nnz
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npz"]


KILLED = """
import os, sys
import saestore, saestore.formats.selection as selection
selection.BLOCK = 23
blocks = []
def progress(message):
    blocks.append(message)
    if len(blocks) == 3:
        os._exit(9)
saestore.export(saestore.open(sys.argv[1])["Shapes"], sys.argv[2], overwrite=True, progress=progress)
"""


@pytest.mark.parametrize("before", [None, b"older"])
def test_killed_it_leaves_nothing_that_looks_whole(tmp_path, project_dir, before):
    """In a process of its own, which ends without a word after its third block."""
    case, store, path = make_case(2, 60, 9), tmp_path / "s.zarr", tmp_path / "out" / "x.npz"
    acts = write_case(saestore.open(store, "a"), case)
    path.parent.mkdir()
    if before is not None:
        path.write_bytes(before)
    environment = {**os.environ, "PYTHONPATH": str(project_dir)}
    run = subprocess.run([sys.executable, "-c", KILLED, store, path], env=environment, check=False)
    assert run.returncode == 9
    assert (tmp_path / "out" / ".x.npz.partial").exists()
    assert path.exists() == (before is not None)
    assert before is None or path.read_bytes() == before
    saestore.export(acts, path, overwrite=True)
    assert np.array_equal(sp.load_npz(path).toarray(), case.dense)
    assert [p.name for p in path.parent.iterdir()] == ["x.npz"]


def export_two(folder: Path, text: str, names: str, *, overwrite: bool) -> None:
    """Two files of three, each of which is a part of the output."""

    def write(place):
        for name in names:
            place.with_name(name).write_text(text)
        return Written(tuple(names))

    write_atomically(folder / "a", [folder / name for name in "abc"], write, overwrite=overwrite)


def settled(folder: Path) -> dict[str, str]:
    """What an interrupted export leaves once the next one to the same name has begun, and been refused."""
    with raises(StoreConflictError, "file-exists"):
        export_two(folder, "third", "ab", overwrite=False)
    return {path.name: path.read_text() for path in folder.glob("[abc]")}


OLD, NEW = {"a": "old", "b": "old"}, {"a": "new", "c": "new"}


@pytest.mark.parametrize("n_moves", range(6))
def test_of_several_files_an_error_for_good_keeps_the_old_or_the_new(tmp_path, monkeypatch, n_moves):
    """The disk refuses every further name, so that nothing can be put back."""
    export_two(tmp_path, "old", "ab", overwrite=False)
    with monkeypatch.context() as patch:
        left, replace = iter(range(n_moves)), Path.replace

        def failing(path, name):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, "full")
            return replace(path, name)

        patch.setattr(Path, "replace", failing)
        if n_moves < 5:
            with raises(StoreWriteError, "disk-full"):
                export_two(tmp_path, "new", "ac", overwrite=True)
        else:
            export_two(tmp_path, "new", "ac", overwrite=True)
    assert settled(tmp_path) == (OLD if n_moves < 3 else NEW)


@pytest.mark.parametrize("name", ["aside", "replaced", "a[1]"])
def test_what_a_killed_export_leaves_is_not_taken_for_old_files(tmp_path, name):
    half = tmp_path / f".{name}.partial" / name
    half.mkdir(parents=True)
    (half / "x").write_text("half")
    write_atomically(tmp_path / name, [tmp_path / name], lambda place: place.mkdir(), overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert list((tmp_path / name).iterdir()) == []


def test_of_several_files_a_crash_of_the_machine_keeps_the_old_or_the_new(tmp_path):
    recorder = Recorder(tmp_path)
    with recorder.active():
        export_two(tmp_path / "out", "old", "ab", overwrite=False)
        first = len(recorder.log)
        export_two(tmp_path / "out", "new", "ac", overwrite=True)
    steps, seen = range(first, len(recorder.log) + 1), []
    for i, (_, files) in enumerate(crashes(recorder.log, 0, steps)):
        for name, content in files.items():
            path = tmp_path / f"{i}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        seen.append(settled(tmp_path / f"{i}" / "out"))
        export_two(tmp_path / f"{i}" / "out", "last", "ac", overwrite=True)
        assert {path.name for path in (tmp_path / f"{i}" / "out").iterdir()} == {"a", "c"}
    assert all(files in (OLD, NEW) for files in seen)
    assert seen[0] == OLD
    assert seen[-5:] == [NEW] * 5


def test_an_error_leaves_nothing(tmp_path):
    def fail(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        saestore.export(stored(make_case(2, 60, 9)), tmp_path / "x.npz", progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_path_below_a_file_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    acts = stored(make_case(2, 6, 9))
    with raises(StoreWriteError, "path-is-a-file", tmp_path / "file"):
        saestore.export(acts, tmp_path / "file" / "x.npz")


def test_what_cannot_be_exported(tmp_path):
    case = make_case(3, 40, 6, segment_rows=10)
    acts = stored(case)
    with raises(InvalidInputError, "nothing-selected"):
        saestore.export(acts, tmp_path / "x.npz", where=np.zeros(40, bool))
    with raises(NotFoundError, "unknown-column", "'colour'"):
        saestore.export(acts, tmp_path / "x.npz", where={"colour": 1})
    with raises(IndexError, "out-of-range", "feature 6"):
        saestore.export(acts, tmp_path / "x.npz", features=[6])
    with raises(InvalidInputError, "nothing-selected"):
        saestore.export(acts, tmp_path / "x.npz", features=[])
    with raises(InvalidInputError, "unknown-format"):
        saestore.export(acts, tmp_path / "x.bin")
    with raises(InvalidInputError, "unknown-format", "csv"):
        saestore.export(acts, tmp_path / "x.npz", format="csv")
    store = scratch_store()
    write_segments(store, case, upto=20)
    with raises(InvalidInputError, "incomplete-set", "20", "40"):
        saestore.export(store[PATH], tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []
