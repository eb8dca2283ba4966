"""Builds and imports as tasks: the store has the bytes of a build in one process, whoever ran what, and how often."""

import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from raising import raises

import saestore
from saestore.errors import InvalidInputError, NotFoundError, OutOfRangeError, StoreConflictError
from saestore.format import SEGMENTS, TASKS
from saestore.writing import SetWriter

torch = pytest.importorskip("torch")

from build_helpers import clip_scope, hashes, near  # noqa: E402 (what follows needs torch)

PATH = "Mine/token/tiny"
N_ROWS, SEGMENT_ROWS = 200, 30  # seven tasks, the last a short one
POINTERS = [0, 50, 50, 120, 200]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    x = near(clip_scope(folder / "tiny.pt"), N_ROWS + 60).numpy()
    np.save(folder / "x.npy", x[:N_ROWS])
    np.save(folder / "more.npy", x)
    np.savez(folder / "tokens.npz", ptr=POINTERS, more=[*POINTERS, 260], spans=np.arange(2 * N_ROWS).reshape(-1, 2))
    rows = "a,train,0\nb,cal,1\nc,test,0\nd,train,1\n"
    (folder / "metadata.csv").write_text("text,split,sarcasm\n" + rows)
    (folder / "more.csv").write_text("text,split,sarcasm\n" + rows + "e,train,0\n")
    return folder


@pytest.fixture(scope="module")
def job(inputs):
    def arguments(store, **how):
        return {
            "dataset": "Mine",
            "sample_type": "token",
            "store": store,
            "embeddings": inputs / "x.npy",
            "sae": inputs / "tiny.pt",
            "items": inputs / "metadata.csv",
            "item_ptr": f"{inputs / 'tokens.npz'}:ptr",
            "token_spans": f"{inputs / 'tokens.npz'}:spans",
            "segment_rows": SEGMENT_ROWS,
            "dtype": "float16",  # so that what is dropped is summed up
            "progress": False,
        } | how

    return arguments


@pytest.fixture(scope="module")
def built(tmp_path_factory, job):
    store = tmp_path_factory.mktemp("built") / "s.zarr"
    saestore.build(**job(store))
    return hashes(store)


def run_all(plan):
    for task in plan.missing():
        plan.run(task)
    plan.commit()


def test_the_tasks_make_the_set_that_a_build_makes(tmp_path, job, built):
    store = tmp_path / "s.zarr"
    plan = saestore.plan_build(**job(store))
    assert len(plan) == 7
    assert plan.missing() == list(range(7))
    assert [plan.range(i) for i in (0, 6)] == [(0, 30), (180, 200)]
    assert saestore.open(store)[PATH].attributes.n_samples == 0
    order = list(range(7)) * 2  # each twice
    random.Random(0).shuffle(order)
    for task in order:
        plan.run(task)
    assert plan.missing() == []
    plan.commit()
    assert hashes(store) == built
    acts = saestore.open(store)[PATH]
    assert acts.attributes.plan is None
    assert acts.attributes.dropped["n_dropped"] >= 0
    assert saestore.open(store).verify().ok


def test_readers_never_see_the_segments_of_the_tasks(tmp_path, job, built, monkeypatch):
    store, seen = tmp_path / "s.zarr", []
    commit = SetWriter.commit

    def spy(writer, attributes):
        seen.append(len(attributes.segments))
        commit(writer, attributes)

    monkeypatch.setattr(SetWriter, "commit", spy)
    run_all(saestore.plan_build(**job(store)))
    assert max(seen) == 1
    assert hashes(store) == built


@pytest.mark.parametrize("killed", [False, True])
def test_of_many_tasks_readers_see_16_segments_at_most(tmp_path, job, monkeypatch, killed):
    """Merges of a few segments at once come before the first commit; of a killed one nothing is seen."""
    store, seen = tmp_path / "s.zarr", []
    merge, commit = SetWriter._merge, SetWriter.commit
    plan = saestore.plan_build(**job(store, segment_rows=3))
    n_features = saestore.open(store)[PATH].shape[1]
    monkeypatch.setattr("saestore.distributed.plan.MERGE_MEMORY", 4 * 8 * (n_features + 1) * 5)  # five at once
    for task in range(len(plan)):
        plan.run(task)

    def spy(writer, attributes):
        seen.append(len(attributes.segments))
        commit(writer, attributes)

    def failing(writer, run, *rest):
        merge(writer, run, *rest)
        if len(writer.attributes.segments) < 40:
            raise KeyboardInterrupt

    monkeypatch.setattr(SetWriter, "commit", spy)
    if killed:
        monkeypatch.setattr(SetWriter, "_merge", failing)
        with pytest.raises(KeyboardInterrupt):
            plan.commit()
        monkeypatch.setattr(SetWriter, "_merge", merge)
        assert not seen
        assert saestore.open(store)[PATH].attributes.n_samples == 0
    plan.commit()
    assert len(plan) == 67
    assert 1 < max(seen) <= 16
    alone = tmp_path / "alone.zarr"
    saestore.build(**job(alone, segment_rows=3))
    assert hashes(store) == hashes(alone)


def test_what_comes_late_or_again_changes_nothing(tmp_path, job, built):
    store = tmp_path / "s.zarr"
    plan = saestore.plan_build(**job(store))
    late = pickle.loads(pickle.dumps(plan))
    run_all(plan)
    late.commit()
    for task in range(7):
        late.run(task)
    assert late.missing() == []
    again = saestore.plan_build(**job(store))
    assert len(again) == 0
    assert again.missing() == []
    again.commit()
    assert hashes(store) == built


def test_a_late_attempt_that_encoded_before_the_commit_leaves_nothing(tmp_path, job, built):
    store = tmp_path / "s.zarr"
    plan = saestore.plan_build(**job(store))
    attributes = saestore.open(store)[PATH].attributes
    rows = saestore.sparse_rows.SparseRows(np.arange(31), np.zeros(30, np.uint16), np.ones(30, np.float16))
    run_all(plan)
    plan._write(0, attributes, rows, None)
    assert hashes(store) == built


def test_two_attempts_at_once_give_one_segment(tmp_path, job, built):
    """Two processes encode the same task, one unit in the last place apart; the first receipt counts."""
    store = tmp_path / "s.zarr"
    plan = saestore.plan_build(**job(store))
    attributes = saestore.open(store)[PATH].attributes
    opened = plan.recipe.open(plan.root)
    rows, dropped = opened.rows.read(0, SEGMENT_ROWS), opened.count_dropped(opened.dropped)
    other = saestore.sparse_rows.SparseRows(rows.indptr, rows.indices, np.nextafter(rows.data, np.float16(9)))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda r: plan._write(0, attributes, r, dropped), [rows, other]))
    assert len(list((store / PATH / SEGMENTS).glob("0-30+*"))) == 1
    assert len(list((store / PATH / TASKS).glob("*-*"))) == 1
    run_all(plan)
    stored = saestore.open(store)[PATH].sparse(slice(0, SEGMENT_ROWS)).data.astype(np.float16)
    assert stored.tobytes() in (rows.data.tobytes(), other.data.tobytes())
    assert saestore.open(store).verify().ok


def test_a_commit_waits_for_all_tasks(tmp_path, job, built):
    store = tmp_path / "s.zarr"
    plan = saestore.plan_build(**job(store))
    for task in (0, 1, 3):
        plan.run(task)
    with raises(InvalidInputError, "missing-tasks", "4 of 7 tasks", "2, 4, 5, 6"):
        plan.commit()
    assert plan.missing() == [2, 4, 5, 6]
    with raises(OutOfRangeError, "no-such-task", "7", "0 to 6"):
        plan.run(7)
    same = saestore.plan_build(**job(store))
    assert same.token == plan.token
    assert same.missing() == [2, 4, 5, 6]
    run_all(same)
    assert hashes(store) == built


def test_another_process_knows_only_the_store(tmp_path, job, built, monkeypatch, inputs):
    store = tmp_path / "s.zarr"
    monkeypatch.chdir(inputs)
    saestore.plan_build(**job(store, embeddings="x.npy", items="metadata.csv", item_ptr="tokens.npz:ptr"))
    monkeypatch.chdir(tmp_path)
    plan = saestore.open_plan(store, "Mine")
    saestore.distributed.plan._OPEN.clear()
    run_all(plan)
    assert saestore.open(store)[PATH].sparse().nnz
    assert {k: v for k, v in hashes(store).items() if "by_" in k} == {k: v for k, v in built.items() if "by_" in k}
    with raises(NotFoundError, "no-plan", PATH):
        saestore.open_plan(store, "Mine")


def test_changed_embeddings_are_refused(tmp_path, job, inputs):
    store, x = tmp_path / "s.zarr", np.load(inputs / "x.npy")
    np.save(tmp_path / "x.npy", x)
    plan = saestore.plan_build(**job(store, embeddings=tmp_path / "x.npy"))
    np.save(tmp_path / "x.npy", x[::-1])
    saestore.distributed.plan._OPEN.clear()
    with raises(StoreConflictError, "different-content", "embeddings"):
        plan.run(0)
    assert len(plan.missing()) == 7


def test_a_plan_of_arrays_is_not_in_the_store(tmp_path, job, inputs):
    store = tmp_path / "s.zarr"
    plan = saestore.plan_build(**job(store, embeddings=np.load(inputs / "x.npy")))
    with raises(InvalidInputError, "plan-in-memory", "pickles"):
        saestore.open_plan(store, PATH)
    saestore.distributed.plan._OPEN.clear()
    run_all(pickle.loads(pickle.dumps(plan)))
    assert len(saestore.open(store)[PATH]) == N_ROWS


def test_a_plan_in_memory_stays_in_its_process(job):
    import zarr

    plan = saestore.plan_build(**job(zarr.storage.MemoryStore()))
    with raises(InvalidInputError, "store-in-memory"):
        pickle.dumps(plan)
    run_all(plan)
    assert len(saestore.open(plan.root.store)[PATH]) == N_ROWS


def test_a_planned_set_is_not_built_beside_its_tasks(tmp_path, job, built):
    store = tmp_path / "s.zarr"
    plan = saestore.plan_build(**job(store))
    plan.run(2)
    with raises(StoreConflictError, "planned-set", "7 tasks", "saestore commit"):
        saestore.build(**job(store))
    assert saestore.open(store).verify().ok  # what the tasks write is no leftover
    saestore.open(store, "a")[PATH].items.set("n", [1, 2, 3, 4])  # nor does another writer remove it
    assert len(plan.missing()) == 6
    saestore.build(**job(store), overwrite=True)
    with raises(StoreConflictError, "plan-gone"):
        plan.run(0)
    with raises(StoreConflictError, "plan-gone"):
        plan.commit()
    assert saestore.open(store).verify().ok


def test_a_plan_replaces_a_set_in_one_commit(tmp_path, job, inputs):
    expected, store = tmp_path / "a.zarr", tmp_path / "b.zarr"
    other = {"segment_rows": 100, "top_k": 1}
    for each in (expected, store):
        saestore.build(**job(each))
    saestore.build(**job(expected, **other, overwrite=True))
    plan = saestore.plan_build(**job(store, **other, overwrite=True))
    plan.run(0)
    acts = saestore.open(store, "a")[PATH]
    assert acts.attributes.dropped.get("top_k") is None
    assert len(acts) == N_ROWS
    with raises(saestore.errors.LockedError, "planned-set", "commit"):
        acts.items.set("n", [1, 2, 3, 4])
    run_all(saestore.open_plan(store, PATH))
    assert hashes(store) == hashes(expected)


def test_a_plan_replaces_another_plan(tmp_path, job):
    store = tmp_path / "s.zarr"
    old = saestore.plan_build(**job(store))
    old.run(0)
    new = saestore.plan_build(**job(store, top_k=1), overwrite=True)
    old.run(1)  # nobody told it
    run_all(saestore.open_plan(store, PATH))
    assert new.missing() == []
    assert saestore.open(store)[PATH].attributes.dropped["top_k"] == 1
    assert saestore.open(store).verify().ok
    with raises(StoreConflictError, "plan-gone"):
        old.run(2)


def test_a_plan_appends(tmp_path, job, inputs):
    expected, store = tmp_path / "a.zarr", tmp_path / "b.zarr"
    more = {
        "embeddings": inputs / "more.npy",
        "items": inputs / "more.csv",
        "item_ptr": f"{inputs / 'tokens.npz'}:more",
        "token_spans": None,
    }
    for each in (expected, store):
        saestore.build(**job(each, token_spans=None))
    saestore.build(**job(expected, **more), append=True)
    plan = saestore.plan_build(**job(store, **more), append=True)
    assert len(plan) == 2
    assert plan.range(0) == (200, 230)
    run_all(plan)
    assert hashes(store) == hashes(expected)


def test_one_task_is_a_set_too(tmp_path, job):
    expected, store = tmp_path / "a.zarr", tmp_path / "b.zarr"
    saestore.build(**job(expected, segment_rows=500))
    plan = saestore.plan_build(**job(store, segment_rows=500))
    assert len(plan) == 1
    run_all(plan)
    assert hashes(store) == hashes(expected)


def test_bad_input_plans_nothing(tmp_path, job):
    with raises(InvalidInputError, "bad-top-k"):
        saestore.plan_build(**job(tmp_path / "s.zarr", top_k=0))
    assert not (tmp_path / "s.zarr").exists()
