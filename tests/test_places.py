"""Stores in every kind of place: what each can do, and what its errors say."""

import os
import pickle
import threading
import time
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from raising import raises
from strategies import PATH, append_segments, make_case, memory_store, write_case
from zarr.storage import MemoryStore

import saestore
from saestore.errors import (
    InvalidInputError,
    LockedError,
    NotAllowedError,
    NotFoundError,
    StoreConflictError,
    StoreWriteError,
    UnreachableError,
)
from saestore.storage import durable
from saestore.writing import SetWriter
from saestore.writing import lock as lock_module

CASE = make_case(1, 24, 6, density=0.5, segment_rows=8, ragged=True)
OTHER = make_case(2, 30, 6, density=0.5, segment_rows=8)


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("aiohttp", reason="the S3 server of the tests needs aiohttp")
    pytest.importorskip("obstore", reason="object stores need obstore")
    from s3_server import serve

    with serve() as running:
        yield running


@pytest.fixture
def s3(server):
    server.objects.clear()
    yield server
    server.status, server.share_of_503, server.share_dropped, server.latency, server.late = None, 0.0, 0.0, 0.0, 0.0


def open_s3(server, mode="r", **options):
    return saestore.open("s3://bucket/some/a.zarr", mode, storage_options={**server.options, **options})


def open_google(server, mode="r"):
    return saestore.open("gs://bucket/some/a.zarr", mode, storage_options=server.google_options)


def same_answers(acts, case):
    assert np.array_equal(acts.dense(), case.dense)
    column, mask = case.dense[:, 3], case.dense[:, 2] == 0
    assert acts.feature(3).activation.tolist() == sorted(column[column != 0].tolist(), reverse=True)
    assert sorted(acts.top_samples(3, n=99, where=mask).sample) == np.flatnonzero(mask & (column != 0)).tolist()


@pytest.mark.parametrize("opened", [open_s3, pytest.param(open_google, marks=pytest.mark.once)])
def test_a_set_on_s3_is_written_labelled_compacted_replaced_read_and_deleted(s3, opened):
    store = opened(s3, "a")
    acts = write_case(store, CASE)
    same_answers(acts, CASE)
    acts.concepts.add({"c": CASE.dense[:, 0] > 0}, level="sample")
    assert np.array_equal(opened(s3)[PATH].samples["c"], CASE.dense[:, 0] > 0)
    with SetWriter(store.root, PATH), raises(LockedError, "locked", os.getpid()):
        SetWriter(opened(s3, "a").root, PATH).__enter__()
    store.compact(PATH)
    assert store.verify().ok
    write_case(store, OTHER, overwrite=True)
    same_answers(opened(s3)[PATH], OTHER)
    with raises(StoreConflictError, "set-replaced", PATH):
        acts.samples.to_pandas(["c"])
    store.delete(PATH)
    assert list(store) == []
    assert store.verify().ok
    assert not [key for key in s3.objects if PATH in key], "nothing of the set is left, nor of its lock"


@pytest.mark.once
def test_busy_servers_and_lost_answers_change_nothing(s3):
    store = open_s3(s3, "a", max_retries="20")
    s3.share_of_503 = s3.share_dropped = s3.late = 0.03
    same_answers(write_case(store, CASE), CASE)
    assert store.verify().ok


def test_by_http_a_set_is_read_and_nothing_is_written(s3):
    write_case(open_s3(s3, "a"), CASE)
    url = f"{s3.url}/bucket/some/a.zarr"
    store = saestore.open(url)
    same_answers(store[PATH], CASE)
    with raises(UnreachableError, "no-listing", "full path"):
        list(store)
    with raises(StoreWriteError, "read-only", url):
        saestore.open(url, "a")


def test_the_xarray_engine_and_the_command_line_take_options(s3):
    import xarray as xr
    from click.testing import CliRunner

    from saestore.cli import main

    write_case(open_s3(s3, "a"), CASE)
    dataset = xr.open_dataset("s3://bucket/some/a.zarr", engine="saestore", group=PATH, storage_options=s3.options)
    assert np.array_equal(dataset["activation"][:5].values, CASE.dense[:5])
    options = [word for each in s3.options.items() for word in ("--storage-option", "=".join(each))]
    done = CliRunner().invoke(main, ["info", "--store", "s3://bucket/some/a.zarr", *options])
    assert done.exit_code == 0, done.output
    assert PATH in done.stdout
    done = CliRunner().invoke(main, ["info", "--store", "s3://bucket/x", "--storage-option", "region"])
    assert (done.exit_code, "KEY=VALUE" in done.stderr) == (1, True)


def test_the_environment_of_the_provider_is_read(s3, monkeypatch):
    write_case(open_s3(s3, "a"), CASE)
    names = {"AWS_ENDPOINT_URL": s3.url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "x"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert list(saestore.open("s3://bucket/some/a.zarr")) == [PATH]


@pytest.mark.parametrize(("status", "kind", "code"), [
    (401, NotAllowedError, "not-allowed"),
    (403, NotAllowedError, "not-allowed"),
    (404, NotFoundError, "no-store"),
    (503, UnreachableError, "unreachable"),
])  # fmt: skip
def test_the_error_says_whether_it_is_not_there_not_allowed_or_not_reachable(s3, status, kind, code):
    write_case(open_s3(s3, "a"), CASE)
    store = open_s3(s3, max_retries="0")
    acts = store[PATH]
    writable = open_s3(s3, "r+", max_retries="0")
    s3.status = status
    with raises(kind, code):
        open_s3(s3, max_retries="0")
    for use in (acts.dense, lambda: write_case(writable, OTHER, "Toy/patch/new")):
        if status != 404:
            with raises(kind, code):
                use()


def test_a_server_that_is_not_there_and_options_that_are_wrong():
    pytest.importorskip("obstore", reason="object stores need obstore")
    options = {"endpoint": "http://127.0.0.1:9", "skip_signature": "true", "max_retries": "0"}
    with raises(UnreachableError, "unreachable", "s3://bucket/x"):
        saestore.open("s3://bucket/x", storage_options=options)
    with raises(InvalidInputError, "unknown-option", "nonsense"):
        saestore.open("s3://bucket/x", storage_options={"nonsense": "1"})
    with raises(InvalidInputError, "unknown-option", "a.zarr"):
        saestore.open("a.zarr", storage_options={"region": "x"})


def test_a_bucket_that_is_not_there_is_named(s3):
    s3.status = 404
    with raises(NotFoundError, "missing-bucket", "bucket"):
        open_s3(s3, "a")


@pytest.mark.once
def test_a_lease_that_ran_out_is_taken_over_and_its_owner_commits_nothing_more(s3, monkeypatch):
    monkeypatch.setattr(lock_module.SetLock, "_renew", lambda *_: None)  # an owner that sleeps
    first, second = open_s3(s3, "a"), open_s3(s3, "a")
    monkeypatch.setattr(lock_module, "_is_gone", lambda _: False)  # as on another host
    with SetWriter(first.root, PATH) as asleep:
        append_segments(asleep, CASE, 8)
        with raises(LockedError, "locked", os.getpid()):
            SetWriter(second.root, PATH).__enter__()
        later = SimpleNamespace(
            **{n: lambda n=n: getattr(time, n)() + lock_module.LEASE for n in ("time", "monotonic")}
        )
        monkeypatch.setattr(lock_module, "time", later)
        with SetWriter(second.root, PATH) as awake:
            with raises(LockedError, "lock-lost", PATH):
                append_segments(asleep, CASE, 16)
            append_segments(awake, CASE)
            awake.finish()
    same_answers(second[PATH], CASE)
    assert second.verify().ok
    assert int(second[PATH].attributes.segments[-1].name.partition(".")[2]) > 1


def test_a_lease_is_renewed_while_its_owner_lives(s3, monkeypatch):
    monkeypatch.setattr(lock_module, "_HEARTBEATS", 100 * lock_module.LEASE)
    store = open_s3(s3, "a")
    with SetWriter(store.root, PATH) as writer:
        (key,) = (key for key in s3.objects if "/lock/" in key)
        begun, tries = s3.objects[key], iter(range(6000))
        while s3.objects[key] == begun:
            assert next(tries, None) is not None, "the lease was not renewed"
            threading.Event().wait(0.01)
        append_segments(writer, CASE, 8)
        with pytest.raises(LockedError):
            SetWriter(open_s3(s3, "a").root, PATH).__enter__()
    assert store[PATH].shape == (8, 6)
    assert not [key for key in s3.objects if "/lock/" in key]


def test_a_zip_file_is_read_and_not_written(tmp_path):
    write_case(saestore.open(tmp_path / "a.zarr", "a"), CASE)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in sorted(p for p in (tmp_path / "a.zarr").rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(tmp_path / "a.zarr"))
    same_answers(saestore.open(tmp_path / "a.zip")["Shapes"], CASE)
    with raises(StoreWriteError, "read-only", "a.zip"):
        saestore.open(tmp_path / "a.zip", "a")


def test_a_store_in_memory_has_a_url():
    write_case(saestore.open("memory://places", "a"), CASE)
    same_answers(saestore.open("memory://places")[PATH], CASE)


@pytest.mark.once
def test_what_is_written_after_a_delete_is_not_what_a_reader_opened_before(tmp_path):
    for store in (memory_store(), saestore.open(tmp_path / "a.zarr", "a")):
        acts = write_case(store, CASE)
        before = pickle.dumps(acts) if store.root.store.__class__ is not MemoryStore else None
        store.delete(PATH)
        write_case(store, OTHER)
        with raises(StoreConflictError, "set-replaced", PATH):
            acts.dense()
        if before is not None:
            with raises(StoreConflictError, "set-replaced", PATH):
                pickle.loads(before)
        same_answers(store[PATH], OTHER)
        assert store.verify().ok


@pytest.mark.once
def test_without_flushes_everything_is_written_all_the_same(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(durable.os, "fsync", flushed.append)
    store = saestore.open(tmp_path / "a.zarr", "a", durability="fast")
    flushed.clear()
    same_answers(write_case(store, CASE), CASE)
    assert not flushed
    write_case(store, CASE, "Toy/patch/safe", durability="full")
    assert flushed
    with raises(InvalidInputError, "unknown-durability", "quick"):
        saestore.open(tmp_path / "a.zarr", durability="quick")
    saestore.open(tmp_path / "a.zarr")
    flushed.clear()
    write_case(store, CASE, "Toy/patch/again")
    assert flushed


@pytest.mark.once
@pytest.mark.parametrize("seed", range(3))
def test_two_writers_a_merger_and_a_reader_lose_no_commit(seed):
    store = memory_store()
    write_case(store, CASE)
    rng, kept, wrong, done = np.random.default_rng(seed), set(), [], threading.Event()
    labels = CASE.dense[:, 1] > 0

    def attempt(act):
        while True:
            try:
                return act()
            except (LockedError, StoreConflictError) as error:
                if error.code not in ("locked", "lock-lost", "changed-meanwhile"):
                    raise
            done.wait(0.001)

    def label(who, pauses):
        for turn, pause in enumerate(pauses):
            name = f"{who}-{turn}"
            done.wait(pause)
            attempt(lambda name=name: store[PATH].concepts.add({name: labels}, level="sample", overwrite=True))
            kept.add(name)

    def read():
        acts = store[PATH]
        while not done.is_set():
            if not np.array_equal(acts.dense(), CASE.dense):
                wrong.append("a mixture")

    def guarded(act, *arguments):
        try:
            act(*arguments)
        except BaseException as error:  # noqa: BLE001  (a thread's error would be lost)
            wrong.append(error)

    jobs = [(label, who, rng.random(8) / 500) for who in "ab"] + [(attempt, lambda: store.compact(PATH))]
    threads = [threading.Thread(target=guarded, args=job) for job in jobs]
    reader = threading.Thread(target=guarded, args=(read,))
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()
    assert not wrong
    assert set(store[PATH].concepts.names("sample")) >= kept
    assert len(kept) == 16
    assert store.verify().ok


def test_a_hub_is_read_through_fsspec_and_never_written(tmp_path, monkeypatch):
    """A file system of this machine in the place of the hub's."""
    registry = pytest.importorskip("fsspec.registry")
    from fsspec.implementations.local import LocalFileSystem

    class Hub(LocalFileSystem):
        protocol = "hf"

        @classmethod
        def _strip_protocol(cls, path):
            return str(tmp_path / path.removeprefix("hf://").removeprefix(str(tmp_path)).lstrip("/"))

    monkeypatch.setitem(registry._registry, "hf", Hub)
    write_case(saestore.open(tmp_path / "datasets/me/a.zarr", "a"), CASE)
    url = "hf://datasets/me/a.zarr"
    store = saestore.open(url)
    assert list(store) == [PATH]
    same_answers(store[PATH], CASE)
    with raises(StoreWriteError, "no-conditional-writes", "Write to a local folder"):
        saestore.open(url, "a").delete(PATH)
    same_answers(saestore.open(url)[PATH], CASE)
    with raises(NotFoundError, "no-store", "hf://datasets/me/b.zarr"):
        saestore.open("hf://datasets/me/b.zarr")
