"""Put if absent and put if match, on every kind of place that a store is written to."""

import threading

import pytest
from raising import raises
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, WrapperStore

from saestore.errors import StoreWriteError
from saestore.storage import durable, group_document
from saestore.storage.conditional import check_conditional, get_tagged, put_if_absent, put_if_match

KEY = "a/b/lock/zarr.json"  # icechunk takes only documents of Zarr


def doc(who):
    return group_document({"who": who})


@pytest.fixture(scope="module")
def s3_server():
    pytest.importorskip("aiohttp", reason="the S3 server of the tests needs aiohttp")
    pytest.importorskip("obstore", reason="object stores need obstore")
    from s3_server import serve

    with serve() as server:
        yield server


def google_store(server):
    from obstore.store import GCSStore
    from s3_server import BUCKET

    options = {name: value for name, value in server.google_options.items() if name != "allow_http"}
    return ObjectStore(GCSStore(BUCKET, **options, client_options={"allow_http": True}))


def s3_store(server):
    from obstore.store import S3Store
    from s3_server import BUCKET

    return ObjectStore(S3Store(BUCKET, **server.obstore_options))


@pytest.fixture(params=["folder", "memory", "wrapped", "objects in memory", "s3", "google", "icechunk"])
def store(request, tmp_path):
    if request.param == "folder":
        return LocalStore(tmp_path)
    if request.param == "icechunk":
        icechunk = pytest.importorskip("icechunk")
        return icechunk.Repository.create(icechunk.in_memory_storage()).writable_session("main").store
    if request.param == "objects in memory":
        return ObjectStore(pytest.importorskip("obstore").store.MemoryStore())
    if request.param in ("s3", "google"):
        server = request.getfixturevalue("s3_server")
        server.objects.clear()
        return s3_store(server) if request.param == "s3" else google_store(server)
    return MemoryStore() if request.param == "memory" else WrapperStore(MemoryStore())


def test_one_of_two_puts_if_absent(store):
    assert get_tagged(store, KEY) is None
    assert put_if_absent(store, KEY, doc("mine"))
    assert not put_if_absent(store, KEY, doc("yours"))
    assert put_if_absent(store, KEY, doc("mine")), "asked again, as after a lost answer"
    assert get_tagged(store, KEY).value == doc("mine")


def test_only_what_was_read_is_replaced(store):
    assert put_if_match(store, KEY, doc("first"), None)
    assert not put_if_match(store, KEY, doc("other"), None)
    before = get_tagged(store, KEY)
    assert put_if_match(store, KEY, doc("second"), before)
    assert not put_if_match(store, KEY, doc("third"), before)
    assert put_if_match(store, KEY, doc("second"), before), "asked again, as after a lost answer"
    assert get_tagged(store, KEY).value == doc("second")
    assert not put_if_match(store, "a/elsewhere/zarr.json", doc("x"), before), "what was read is gone"


def test_of_many_at_once_one_wins_each_round(store):
    rounds, n = 6, 4
    wins, barrier = [[] for _ in range(rounds)], threading.Barrier(n)

    def contend(name):
        for turn in range(rounds):
            before = get_tagged(store, KEY)
            barrier.wait()
            if put_if_match(store, KEY, doc(f"{name} of {turn}"), before):
                wins[turn].append(name)
            barrier.wait()

    threads = [threading.Thread(target=contend, args=(name,)) for name in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(each) for each in wins] == [1] * rounds
    assert get_tagged(store, KEY).value == doc(f"{wins[-1][0]} of {rounds - 1}")


def test_nothing_else_is_left(tmp_path):
    store = LocalStore(tmp_path)
    put_if_absent(store, KEY, doc("1"))
    put_if_absent(store, KEY, doc("2"))
    put_if_match(store, KEY, doc("3"), get_tagged(store, KEY))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / KEY]


def test_a_network_folder_that_loses_the_answer_to_a_link_is_believed_by_the_link_count(tmp_path, monkeypatch):
    link = durable.os.link

    def lost(source, target):
        link(source, target)
        raise FileExistsError(17, "the repeated request found it there")

    monkeypatch.setattr(durable.os, "link", lost)
    assert put_if_absent(LocalStore(tmp_path), KEY, doc("1"))
    assert not put_if_absent(LocalStore(tmp_path), KEY, doc("2"))


def test_lost_answers_and_busy_servers_lose_no_claim(s3_server):
    s3_server.objects.clear()
    store = s3_store(s3_server)
    check_conditional(store)
    s3_server.share_of_503, s3_server.share_dropped = 0.2, 0.2
    try:
        for turn in range(12):
            key = f"claims/{turn}"
            assert put_if_absent(store, key, doc(f"mine {turn}"))
            assert not put_if_absent(store, key, doc("yours"))
            assert put_if_match(store, key, doc("mine again"), get_tagged(store, key))
    finally:
        s3_server.share_of_503 = s3_server.share_dropped = 0
    assert len(s3_server.objects) == 12


@pytest.mark.parametrize("kept", ["If-None-Match", "If-Match", ""])
def test_a_place_that_ignores_a_condition_is_refused(kept):
    pytest.importorskip("aiohttp", reason="the S3 server of the tests needs aiohttp")
    pytest.importorskip("obstore", reason="object stores need obstore")
    from s3_server import serve

    with serve() as server:
        server.conditions = (kept,)
        lacking = "If-Match" if kept == "If-None-Match" else "If-None-Match"
        with raises(StoreWriteError, "no-conditional-writes", lacking):
            put_if_absent(s3_store(server), KEY, doc("1"))
        with raises(StoreWriteError, "no-conditional-writes", "put if absent"):
            put_if_absent(google_store(server), KEY, doc("1"))
        assert not server.objects, "nothing is left of the probe"


def test_a_place_without_conditions_is_refused_by_name():
    pytest.importorskip("fsspec")
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from fsspec.implementations.memory import MemoryFileSystem

    wrapper = AsyncFileSystemWrapper(MemoryFileSystem(), asynchronous=True)
    with raises(StoreWriteError, "no-conditional-writes", "FsspecStore"):
        check_conditional(FsspecStore(wrapper, path="/x"))
