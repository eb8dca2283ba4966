"""Opening a store, filling arrays and reading slices of them, by zarr itself and without."""

import asyncio
import itertools
import json
import os
import sys

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from raising import raises
from strategies import PATH, cases, layout, make_case, memory_store, write_case, write_segments
from zarr.storage import LocalStore, MemoryStore

import saestore
from saestore import storage
from saestore.errors import (
    CorruptStoreError,
    InvalidInputError,
    NotFoundError,
    SaestoreError,
    StoreFormatError,
    StoreWriteError,
    UnreachableError,
)
from saestore.files import damage
from saestore.format import digest
from saestore.frames import zstd_size
from saestore.segment.read import Segment
from saestore.storage import (
    ArrayReader,
    ArrayWriter,
    NewArray,
    SnapshotStore,
    WriteBatch,
    begin_array,
    read_all,
    read_many,
    shards,
)

CODECS = ["pcodec", "blosc"]
DTYPES = ["uint16", "uint32", "int32", "int64", "float16", "float32", "float64", "bool"]


def write_array(group, name, values, codec, **options):
    batch = WriteBatch(group.store, group.path)
    info = storage.write_array(batch, name, values, "item", codec, **options)
    batch.flush()
    return info


def some_values(dtype, n=1000):
    rng = np.random.default_rng(0)
    return (
        (rng.normal(size=n) * 50).astype(dtype) if np.dtype(dtype).kind == "f" else rng.integers(0, 2, n).astype(dtype)
    )


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_array_comes_back_and_zarr_alone_reads_it(tmp_path, dtype, codec):
    group = zarr.create_group(tmp_path / "a.zarr")
    values = some_values(dtype)
    write_array(group, "x", values, codec)
    array = zarr.open_array(tmp_path / "a.zarr", path="x", mode="r")
    assert array.dtype == dtype
    assert array.metadata.dimension_names == ("item",)
    assert np.array_equal(array[:], values)
    names = {c["name"] for c in json.loads((tmp_path / "a.zarr/x/zarr.json").read_text())["codecs"]}
    assert names == {"sharding_indexed"}


@pytest.mark.parametrize("text", [["", "a", "ü" * 300, "x\ny"], []])
def test_text_comes_back(text):
    group = zarr.create_group(MemoryStore())
    write_array(group, "x", np.array(text, np.dtypes.StringDType()), "pcodec")
    assert group["x"][:].tolist() == text


@pytest.mark.parametrize("route", ["alone", "numcodecs", "no symbol"])
@pytest.mark.parametrize("dtype", ["bool", "text"])
def test_zstd_is_decoded_the_same_with_and_without_numcodecs(monkeypatch, dtype, route):
    values = some_values("bool") if dtype == "bool" else np.array(["", "a", "ü" * 300, "x\ny"] * 9, shards.TEXT)
    group = zarr.create_group(MemoryStore())
    info = write_array(group, "x", values, "pcodec")
    if route == "alone":
        monkeypatch.setattr(shards, "_chunks_of_texts", itertools.count())
        monkeypatch.delitem(sys.modules, "numcodecs")
    elif route == "no symbol":  # as on Windows
        monkeypatch.setattr(shards, "_zstd", lambda: None)
    reader = ArrayReader.described(SnapshotStore.of(group), "x", info, "pcodec")
    result = reader.read(0, len(values))
    if route == "alone":
        assert "numcodecs" not in sys.modules
    assert result.dtype == values.dtype
    assert_array_equal(result, values)


@pytest.mark.once
@pytest.mark.parametrize(("n", "ahead", "taken"), [(1, 5, 1), (2, 0, 3), (2, 4, 7)])
def test_parts_are_taken_no_further_ahead_than_threads_and_asked(monkeypatch, n, ahead, taken):
    monkeypatch.setattr(storage.threads, "n_threads", lambda: n)
    seen = []
    results = storage.in_order(lambda part: 2 * part, (seen.append(i) or i for i in range(20)), ahead)
    assert next(results) == 0
    assert len(seen) == taken
    assert list(results) == list(range(2, 40, 2))


@pytest.mark.once
@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"\1", lambda raw: b"\7" + raw[1:]])
def test_texts_that_do_not_fill_their_chunk_are_damage(change):
    raw = bytes(numcodecs.VLenUTF8().encode(np.array(["a", "bc"], object)))
    assert shards._split(raw) == ["a", "bc"]
    with pytest.raises(ValueError, match="does not end"):
        shards._split(change(raw))


@pytest.mark.once
@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65_791, 65_792, 1 << 20])
def test_the_header_of_a_frame_states_its_size(size):
    assert zstd_size(numcodecs.Zstd().encode(bytes(size))[:18]) == size
    assert zstd_size(numcodecs.Blosc().encode(bytes(size))) is None


@pytest.mark.once
def test_a_frame_of_another_size_is_damage():
    frame = numcodecs.Zstd().encode(b"abcd")
    for body, size in ((frame, 5), (frame, 3), (frame[:-1], 4)):
        with pytest.raises(ValueError, match="zstd frame"):
            shards._decode_zstd(body, np.empty(size, np.uint8))


def test_a_chunk_of_zeros_is_written_too():
    group = zarr.create_group(MemoryStore())
    write_array(group, "x", np.zeros(100, np.float32), "pcodec")
    assert group["x"].nbytes_stored() > 0
    assert "x/c/0" in group.store._store_dict


@given(st.lists(st.integers(0, 40), max_size=12), st.sampled_from([1, 3, 8]), st.sampled_from([1, 2, 5]))
@settings(max_examples=15)
def test_pieces_of_any_length_fill_an_array(lengths, chunk, per_shard):
    from unittest import mock

    values = np.arange(sum(lengths), dtype=np.int64)
    group = zarr.create_group(MemoryStore())
    with (
        mock.patch("saestore.storage.arrays.CHUNK", chunk),
        mock.patch("saestore.storage.arrays.SHARD", chunk * per_shard),
    ):
        batch = WriteBatch(group.store)
        writer = begin_array(batch, "x", NewArray(len(values), values.dtype, "item", "pcodec"))
        for piece in np.split(values, np.cumsum(lengths)):
            writer.append(piece)
        writer.close()
        batch.flush()
    assert np.array_equal(group["x"][:], values)


def test_pieces_that_do_not_add_up_are_a_mistake_of_ours():
    writer = ArrayWriter(WriteBatch(MemoryStore()), "x", NewArray(5, np.dtype(np.int64), "item", "pcodec"))
    writer.append(np.arange(4))
    with pytest.raises(RuntimeError, match="up to 4 of 5"):
        writer.close()


def arrays_of(group):
    for _, array in group.arrays():
        yield array
    for _, below in group.groups():
        yield from arrays_of(below)


@settings(max_examples=4, deadline=None)
@given(case=cases(), seed=st.integers(0, 9))
def test_slices_without_zarr_are_zarrs(tmp_path_factory, case, seed):
    folder = tmp_path_factory.mktemp("s") / "a.zarr"
    acts = write_segments(saestore.open(folder, "a"), case)
    plain, rng = zarr.open_group(folder, path=PATH, mode="r"), np.random.default_rng(seed)
    for store in (LocalStore(folder, read_only=True), copy_of(folder)):
        snapshot = SnapshotStore(store)
        segments = [Segment(snapshot, PATH, info, acts.attributes) for info in acts.attributes.segments]
        readers = {f"segments/{s.info.name}/{name}": s.reader(name) for s in segments for name in s.arrays}
        readers |= {f"items/{name}": acts.table("items").reader(name) for name in acts.attributes.table("items").arrays}
        assert len(readers) > 12
        for name, reader in readers.items():
            whole = plain[name][:]
            assert (reader.length, reader.dtype) == (len(whole), plain[name].dtype)
            nan = whole.dtype.kind == "f"
            for _ in range(3):
                start, stop = np.sort(rng.integers(0, len(whole) + 1, 2))
                assert np.array_equal(reader.read(start, stop), whole[start:stop], equal_nan=nan)
            assert np.array_equal(reader.read(0, reader.length), whole, equal_nan=nan)


@pytest.mark.parametrize("in_memory", [False, True], ids=["folder", "memory"])
@pytest.mark.parametrize("codec", CODECS)
def test_of_a_chunk_no_more_is_decoded_than_is_needed(tmp_path, monkeypatch, codec, in_memory):
    group = zarr.create_group(MemoryStore() if in_memory else tmp_path, zarr_format=3)
    values, chunk = some_values("float32", 40_000), 16_384
    info = write_array(group, "x", values, codec)
    reader = ArrayReader.described(SnapshotStore(group.store), "x", info, codec)
    opened, open_file = [], os.open
    monkeypatch.setattr(os, "open", lambda path, *mode: opened.append(str(path)) or open_file(path, *mode))
    for start, stop, needed in [
        (0, 20, 256),
        (0, 256, 256),
        (300, 520, 768),
        (chunk - 1, chunk + 1, chunk + 256),
        (chunk, 2 * chunk, chunk),
        (2 * chunk, 40_000, 40_192 - 2 * chunk),
    ]:
        _, pieces = reader.plan(start, stop)
        whole = -(-(stop - start // chunk * chunk) // chunk) * chunk
        assert sum(len(piece.out) for piece in pieces) == (needed if codec == "pcodec" else whole)
        assert_array_equal(reader.read(start, stop), values[start:stop])
    opened.clear()
    starts = np.array([5, 17_000, 39_000])
    assert_array_equal(read_many([(reader, starts, starts + 9)])[0], values[(starts[:, None] + np.arange(9)).ravel()])
    # These are in neighbouring chunks, of which neither is needed whole; two in one chunk are decoded together.
    for firsts, needed in [([5, 17_000, 39_000], [256, 768, 6_400]), ([5, 300], [512])]:
        _, pieces, _ = reader.plan_ranges(np.array(firsts), np.array(firsts) + 9)
        assert [len(piece.out) for piece in pieces] == (needed if codec == "pcodec" else [chunk] * len(needed))
    # A file is opened once, however many of its chunks are read.
    assert [path.endswith("x/c/0") for path in opened] == ([] if in_memory else [True])


@pytest.mark.parametrize("chunk", [2, 255, 256, 1000, 4096])
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "bool"])
def test_neighbouring_chunks_are_decoded_in_one_call(monkeypatch, dtype, chunk):
    values, calls = some_values(dtype, 5 * chunk + chunk // 2), []
    plan = shards.Layout.of(len(values), dtype, "pcodec", chunk=chunk)
    chunks = encoded(values, chunk)
    decode = shards.standalone.simple_decompress_into
    monkeypatch.setattr(shards.standalone, "simple_decompress_into", lambda *args: calls.append(1) or decode(*args))
    # Of the last chunk, which may be a whole one, no more is decoded than there is memory for.
    for n, expected in [(len(values), 2), (5 * chunk, 1), (chunk, 1), *([(3 * chunk + 256, 2)] if chunk > 256 else [])]:
        out = np.empty(n, dtype)
        shards.decoder_of_many(plan)(chunks[: -(-n // chunk)], out)
        assert out.tobytes() == values[:n].tobytes()
        assert len(calls) == expected
        calls.clear()


def encoded(values, chunk):
    parts = [values[start : start + chunk] for start in range(0, len(values), chunk)]
    return [with_checksum(shards.standalone.simple_compress(part, shards.ChunkConfig())) for part in parts]


def with_checksum(body):
    return body + shards.crc(body)


def test_chunks_that_cannot_be_joined_are_decoded_one_by_one():
    values = some_values("float32", 4 * 1000)
    plan = shards.Layout.of(len(values), "float32", "pcodec", chunk=1000)
    chunks = encoded(values, 1000)
    head = chunks[0].index((999).to_bytes(3, "little")) - 1
    # The number of all values, which is a hint only, is in the header: another writer may give another one.
    other = shards.standalone.simple_compress(np.zeros(900, "float32"), shards.ChunkConfig())[:head]
    chunks[2], out = with_checksum(other + chunks[2][head:-4]), np.empty_like(values)
    shards.decoder_of_many(plan)(chunks, out)
    assert out.tobytes() == values.tobytes()
    for short in (chunks[:1], [chunks[0], chunks[1][:-13]], [chunks[0], chunks[0][:-5]]):
        with pytest.raises((ValueError, RuntimeError)):
            shards.decoder_of_many(plan)(short, np.empty(2000, np.float32))


def copy_of(folder, name="") -> MemoryStore:
    """The same store, or one node of it, in memory, where zarr itself has to read it."""
    from zarr.core.buffer import default_buffer_prototype

    buffer = default_buffer_prototype().buffer
    files = (f for f in (folder / name).rglob("*") if f.is_file())
    return MemoryStore({f.relative_to(folder).as_posix(): buffer.from_bytes(f.read_bytes()) for f in files})


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 100), st.integers(0, 30)), max_size=8))
@settings(max_examples=40)
def test_slices_that_are_read_together_are_those_that_were_asked_for(two_arrays, wanted):
    readers, values = two_arrays
    asked = [(int(which), start, min(start + length, 100)) for which, start, length in wanted]
    found = read_all([(readers[which], start, stop) for which, start, stop in asked])
    for (which, start, stop), block in zip(asked, found, strict=True):
        assert block.dtype == values[which].dtype
        assert np.array_equal(block, values[which][start:stop])


@given(
    bounds=st.lists(st.integers(0, 100), max_size=150).map(lambda n: np.sort(n[: len(n) // 2 * 2]).astype(np.int64)),
    many=st.sampled_from([1, 64]),
)
@settings(max_examples=40)
def test_ranges_of_several_arrays_are_those_that_were_asked_for(two_arrays, bounds, many):
    from unittest import mock

    readers, values = two_arrays
    starts, stops = bounds[::2], bounds[1::2]
    expected = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)] or [[]]).astype(np.int64)
    with mock.patch("saestore.storage.reader._MANY", many):
        found = read_many([(reader, starts, stops) for reader in readers])
    for block, whole in zip(found, values, strict=True):
        assert block.dtype == whole.dtype
        assert np.array_equal(block, whole[expected])


@pytest.fixture(scope="module")
def two_arrays():
    from unittest import mock

    group = zarr.create_group(MemoryStore())
    values = np.arange(100, dtype=np.uint32), np.arange(100, dtype=np.float32) / 2
    with mock.patch("saestore.storage.arrays.CHUNK", 7), mock.patch("saestore.storage.arrays.SHARD", 21):
        infos = [write_array(group, name, array, "pcodec") for name, array in zip("ab", values, strict=True)]
    snapshot = SnapshotStore(group.store)
    return [ArrayReader.described(snapshot, *named, "pcodec") for named in zip("ab", infos, strict=True)], values


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_chunk_that_is_missing_is_damage_and_not_zeros(tmp_path, in_memory):
    case = make_case(1, 20, 5, density=0.5, segment_rows=20)
    write_segments(saestore.open(tmp_path / "a.zarr", "a"), case)
    chunk = f"{PATH}/segments/0-20/by_feature/data/c/0"
    if in_memory:
        store = copy_of(tmp_path / "a.zarr")
        del store._store_dict[chunk]
    else:
        store = tmp_path / "a.zarr"
        (store / chunk).unlink()
    with raises(CorruptStoreError, "corrupt-store", "by_feature/data"):
        saestore.open(store)[PATH].top_samples(1)


# Opening: each mistake is one error of our own, in one line.


def not_a_store(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "photo.jpg").write_bytes(b"x")
    return tmp_path / "a.zarr"


def a_file(tmp_path):
    (tmp_path / "a.zarr").write_bytes(b"x")
    return tmp_path / "a.zarr"


def below_a_file(tmp_path):
    return a_file(tmp_path) / "b.zarr"


def a_plain_group(tmp_path):
    zarr.create_group(tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


def an_array(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(3,), dtype="f4")
    return tmp_path / "a.zarr"


def no_json(tmp_path):
    saestore.open(tmp_path / "a.zarr", "a")
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    return tmp_path / "a.zarr"


def another_node(tmp_path):
    """One flipped bit, of which zarr says that there is no group."""
    saestore.open(tmp_path / "a.zarr", "a")
    document = tmp_path / "a.zarr" / "zarr.json"
    document.write_bytes(document.read_bytes().replace(b"group", b"grOup"))
    return tmp_path / "a.zarr"


def newer(tmp_path):
    store = saestore.open(tmp_path / "a.zarr", "a")
    store.root.attrs["format"] = 2
    return tmp_path / "a.zarr"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


REFUSED = [
    (a_file, StoreFormatError, "not-a-store"),
    (below_a_file, (NotFoundError, StoreWriteError), ("no-store", "path-is-a-file")),
    (not_a_store, StoreFormatError, "not-a-store"),
    (a_plain_group, StoreFormatError, "not-a-store"),
    (an_array, StoreFormatError, "not-a-store"),
    (no_json, StoreFormatError, "unreadable-store"),
    (another_node, StoreFormatError, "unreadable-store"),
    (newer, StoreFormatError, "newer-format"),
]


@pytest.mark.parametrize("mode", ["r", "a"])
@pytest.mark.parametrize(("make", "error", "code"), REFUSED, ids=[make.__name__ for make, _, _ in REFUSED])
def test_what_is_no_store_is_refused_and_left_alone(tmp_path, make, error, code, mode):
    path = make(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(error) as caught:
        saestore.open(path, mode)
    assert caught.value.code == (code if isinstance(code, str) else code["ra".index(mode)])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "error",
    [
        KeyError("Unable to synchronously open object (file read failed: errno = 5, error message = '...'"),
        RuntimeError("Error while deserializing: I/O error: Input/output error (os error 5)"),
        ValueError("[Errno 5] Input/output error"),
    ],
)
def test_an_error_of_the_device_is_known_by_the_words_of_a_library(error):
    with raises(UnreachableError, "unreachable", "device"), damage("x.h5", "is damaged", type(error)):
        raise error
    with raises(InvalidInputError, "damaged-file"), damage("x.h5", "is damaged", ValueError):
        raise ValueError("bad magic number (os error 22)")


def test_nothing_there_is_told_and_nothing_is_made(tmp_path):
    for path in (tmp_path / "a.zarr", str(tmp_path / "deep" / "er")):
        with raises(NotFoundError, "no-store", path):
            saestore.open(path)
    assert list(tmp_path.iterdir()) == []
    for empty in (MemoryStore(), {}):
        with raises(NotFoundError, "no-store"):
            saestore.open(empty)
        assert list(saestore.open(empty, "a")) == []


def test_a_zarr_store_of_a_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    store = saestore.open(LocalStore("a.zarr"), "a")
    monkeypatch.chdir("other")
    write_case(store, make_case(1, 8, 3))
    assert list(saestore.open(tmp_path / "a.zarr")) == list(store) != []
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize("make", [lambda p: p, str, lambda p: f"file://{p}", LocalStore])
def test_a_store_is_made_and_opened_by_path_url_or_zarr_store(tmp_path, make):
    where = make(tmp_path / "deep" / "a.zarr")
    assert list(saestore.open(where, "a")) == []
    assert list(saestore.open(where, "a")) == []
    assert list(saestore.open(where)) == []


def test_an_empty_folder_may_become_a_store(tmp_path):
    saestore.open(tmp_path, "a")
    assert list(saestore.open(tmp_path)) == []


def test_a_mode_that_does_not_exist_is_told(tmp_path):
    with raises(InvalidInputError, "unknown-mode", "'w'", "'r+'"):
        saestore.open(tmp_path / "a.zarr", "w")


def test_a_newer_set_in_a_store_is_refused_by_name_and_others_open(tmp_path):
    case = make_case(1, 8, 3)
    store = saestore.open(tmp_path / "a.zarr", "a")
    write_case(store, case)
    write_case(store, case, "Shapes/patch/other")
    group = store.root[PATH]
    group.attrs["format"] = 7
    with raises(StoreFormatError, "newer-format", PATH, "7"):
        saestore.open(tmp_path / "a.zarr")[PATH]
    assert saestore.open(tmp_path / "a.zarr")["other"].shape == case.dense.shape


BAD_ATTRIBUTES = {
    "segments": ["none", [{}], [{"start": 3, "stop": 9, "nnz": 1, "digest": ""}]],
    "dtype": ["int8"],
    "n_features": ["many", 0],
    "item_size": [0, 1.5, "x"],
    "planned_samples": [-1],
    "n_items": [None],
    "arrays": [3, {"l0": {}}],
    "sae": [[]],
    "derived": [5],
    "dropped": ["yes"],
}


def test_attributes_that_no_saestore_wrote_are_one_error():
    store = memory_store()
    group = write_case(store, make_case(1, 8, 3)).group
    good = group.attrs.asdict()
    for name, values in BAD_ATTRIBUTES.items():
        for value in values:
            bad = {**good, name: value}
            group.attrs.put({**bad, "checksum": digest({k: v for k, v in bad.items() if k != "checksum"})})
            with raises(StoreFormatError, "invalid-attributes") as caught:
                store[PATH]
            assert "\n" not in str(caught.value)


def test_a_store_for_reading_only_is_not_written(tmp_path):
    case = make_case(1, 8, 3)
    write_case(saestore.open(tmp_path / "a.zarr", "a"), case)
    before = sorted(tmp_path.rglob("*"))
    for location in (tmp_path / "a.zarr", LocalStore(tmp_path / "a.zarr", read_only=True)):
        store = saestore.open(location)
        for change in (
            lambda s: write_case(s, case, "Shapes/patch/new"),
            lambda s: s.compact(PATH),
            lambda s: s.delete(PATH),
        ):
            with raises(StoreWriteError, "read-only"):
                change(store)
    with raises(StoreWriteError, "read-only"):
        saestore.open(LocalStore(tmp_path / "a.zarr", read_only=True), "a")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("ignore:Object at")  # a folder of which the document is lost, as zarr says
def test_what_is_left_where_no_set_is_can_be_deleted(tmp_path):
    for place in (tmp_path / "a.zarr", MemoryStore()):
        store = saestore.open(place, "a")
        write_case(store, make_case(1, 8, 3))
        asyncio.run(store.root.store.delete(f"{PATH}/zarr.json"))
        assert any(PATH in problem.node for problem in store.verify().problems)
        store.delete(PATH)
        assert saestore.open(place).verify().problems == ()
        with raises(NotFoundError, "unknown-set"):
            store.delete(PATH)


def test_a_remote_store_says_what_it_needs_or_that_it_is_not_there():
    with pytest.raises(SaestoreError) as caught:
        saestore.open("s3://no-such-bucket-of-saestore/a.zarr")
    assert "s3://no-such-bucket-of-saestore/a.zarr" in str(caught.value)


def test_codecs_and_chunks_are_those_of_the_format(tmp_path):
    case = make_case(1, 300, 40, density=0.9, codec="blosc", chunk=64, shard=256)
    with layout(case):
        acts = write_segments(saestore.open(tmp_path / "a.zarr", "a"), case)
    for array in arrays_of(acts.group):
        meta = json.loads((tmp_path / "a.zarr" / array.path / "zarr.json").read_text())
        assert "numcodecs" not in json.dumps(meta["codecs"])
        assert json.dumps(meta["codecs"]).count("crc32c") >= 1
        assert all(meta["dimension_names"])


def test_a_chunk_is_the_one_that_was_committed_or_refused():
    body = np.random.default_rng(0).bytes(300)
    raw, checksum = with_checksum(body), google_crc32c.value(body)
    assert shards.check_chunk(raw, checksum) is raw
    for place in range(8 * len(raw)):
        damaged = bytearray(raw)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(ValueError, match="not the one"):
            shards.check_chunk(bytes(damaged), checksum)
    # One that agrees with itself, but is another one; and what is too short to agree with anything.
    for foreign in (with_checksum(body[1:]), with_checksum(b""), *(raw[:n] for n in range(5))):
        with pytest.raises(ValueError, match="not the one"):
            shards.check_chunk(foreign, checksum)
