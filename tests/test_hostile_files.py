"""Files made to harm: pipes and devices, sizes that are claimed, names that lead out of their folder."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import zarr
from foreign_files import save_delphi
from raising import raises
from strategies import PATH, make_case, write_case

import saestore
from saestore import files
from saestore.analysis.dashboards import _vocabulary
from saestore.embeddings.matrices import _decoding
from saestore.embeddings.opening import open_embeddings
from saestore.errors import CONTROL, InvalidInputError, NotFoundError, SaestoreError, StoreWriteError
from saestore.models.images import _named as find_images
from saestore.models.texts import _read as read_texts
from saestore.storage import places
from saestore.web.request import as_json

pytestmark = pytest.mark.once
torch = pytest.importorskip("torch", reason="embeddings need torch")


@pytest.fixture
def store(tmp_path):
    write_case(saestore.open(tmp_path / "s.zarr", "a"), make_case(3, 40, 6, segment_rows=11, chunk=16, shard=32))
    return tmp_path / "s.zarr"


@pytest.mark.parametrize("name", ["x.csv", "x.pt", "x.npy", "x.npz", "x.safetensors", "x.h5", "x.parquet"])
def test_a_pipe_is_never_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / name)
    for path in (tmp_path / name, tmp_path / "link"):
        with raises(InvalidInputError, "not-a-file"):
            files.existing_file(path)
    with pytest.raises(SaestoreError):
        saestore.import_activations("A/patch/s", tmp_path / name, store=tmp_path / "s.zarr", items=tmp_path / name)


def test_a_pipe_or_a_device_in_a_store_is_damage(store):
    chunk = max((file for file in store.rglob("c/*") if file.is_file()), key=lambda file: file.stat().st_size)
    for replace in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        chunk.unlink()
        replace(chunk)
        assert not saestore.open(store).verify().ok
    for document in (store / PATH / "zarr.json", store / "zarr.json"):
        document.unlink()
        os.mkfifo(document)
        with pytest.raises(SaestoreError):
            saestore.open(store)[PATH].dense()


def test_a_chunk_is_decoded_once_for_all_the_slices_of_it(tmp_path):
    values, reads = np.arange(600, dtype=np.float32).reshape(200, 3), []

    class Slow:
        chunks = (70, 3)

        def __getitem__(self, rows):
            reads.append((rows.start, min(rows.stop, 200)))
            return values[rows]

    fill, read = _decoding(Slow(), "x"), []
    for start in range(0, 200, 7):
        out = torch.empty((min(7, 200 - start), 3))
        fill(out, start, start + len(out))
        read.append(out.numpy())
    assert np.array_equal(np.concatenate(read), values)
    assert reads == [(0, 70), (70, 140), (140, 200)]


@pytest.mark.parametrize("codec", ["ZstdCodec", "BloscCodec", "GzipCodec"])
def test_a_chunk_that_inflates_is_refused_before_it_does(tmp_path, monkeypatch, codec):
    array = zarr.create_array(
        tmp_path / "x.zarr", shape=(4000, 8), chunks=(4000, 8), dtype="f4", compressors=getattr(zarr.codecs, codec)()
    )
    array[:] = 1
    assert open_embeddings(tmp_path / "x.zarr").read(0, 4000).sum() == 32000
    monkeypatch.setattr(files, "MOST_BYTES", 1000)
    monkeypatch.setattr(files, "check_written", lambda *_: None)
    node = files.open_zarr_node(tmp_path / "x.zarr")
    with raises(InvalidInputError, "too-large", "a chunk of"):
        node[:3]
    (chunk,) = (tmp_path / "x.zarr" / "c" / "0").iterdir()
    chunk.unlink()
    os.mkfifo(chunk)
    with raises(InvalidInputError, "not-a-file"):
        node[:3]


def test_a_parquet_table_that_inflates_is_refused(tmp_path, monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"x": np.zeros(100_000), "y": ["a"] * 100_000}, metadata={"a": "b"})
    parquet.write_table(table, tmp_path / "x.parquet")
    assert files.read_parquet(tmp_path / "x.parquet").equals(table)
    assert files.read_parquet(tmp_path / "x.parquet", ["y"]).column_names == ["y"]
    monkeypatch.setattr(files, "MOST_BYTES", 1000)
    with raises(InvalidInputError, "too-large"):
        files.read_parquet(tmp_path / "x.parquet")


def test_a_vocabulary_claims_no_more_ids_than_there_are():
    assert _vocabulary({"a": 2, "b": 0}) == ["b", "", "a"]
    for bad in ({"a": 10**12}, {"model": {"vocab": {"a": 10**30}}}):
        with raises(InvalidInputError, "bad-vocabulary"):
            _vocabulary(bad)


def test_a_cache_of_single_numbers_is_refused(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    folder = save_delphi(tmp_path / "h", np.where(np.arange(600).reshape(60, 10) % 7, 0, 1.5).astype(np.float16), 10)
    for file in folder.glob("*.safetensors"):
        content = safetensors.load_file(file)
        safetensors.save_file({**content, "activations": np.array(1, np.float16)}, file)
    with raises(InvalidInputError, "bad-shape"):
        saestore.import_activations("A/patch/s", folder, store=tmp_path / "s.zarr")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no such folders")
def test_a_place_where_the_system_makes_no_files_is_named(store):
    acts = saestore.open(store)[PATH]
    for write in (
        lambda: saestore.export(acts, "/proc/x.npz"), lambda: saestore.open("/proc/x.zarr", "a"),
        lambda: acts.card(1).save("/proc/x/y.html"),
    ):  # fmt: skip
        with raises(StoreWriteError, "bad-path"):
            write()


@pytest.mark.parametrize("key", ["../../private.txt", "{}/private.txt", "a/../../../private.txt", "../.."])
def test_a_table_of_texts_or_images_names_files_of_its_folder_only(tmp_path, key):
    folder = tmp_path / "data" / "texts"
    folder.mkdir(parents=True)
    (tmp_path / "private.txt").write_text("secret")
    (folder / "a.txt").write_text("open")
    for name in ("a.txt", "texts/a.txt", str(folder / "a.txt"), "../texts/a.txt"):
        (folder / "items.csv").write_text(f"text_path,split\n{name},test\n")
        assert read_texts(folder / "items.csv")[1] == ["open"]
        assert find_images([name], folder, None)[0].samefile(folder / "a.txt")
    (folder / "items.csv").write_text(f"text_path,split\n{key.format(tmp_path)},test\n")
    for find in (lambda: read_texts(folder / "items.csv"), lambda: find_images([key.format(tmp_path)], folder, None)):
        with raises(InvalidInputError, "outside-folder"):
            find()


def test_an_output_never_takes_the_place_of_a_pipe(tmp_path, store):
    acts = saestore.open(store)[PATH]
    for name in ("x.npz", "x.html", "link.html"):
        path = tmp_path / name
        if name == "link.html":
            path.symlink_to(tmp_path / "x.html")
        else:
            os.mkfifo(path)
        write = acts.card(1).save if path.suffix == ".html" else lambda to: saestore.export(acts, to, overwrite=True)
        with raises(StoreWriteError, "not-a-file"):
            write(path)
        assert path.is_fifo()


def test_a_home_of_nobody_is_a_folder_that_is_not_there():
    with raises(NotFoundError, "no-store"):
        saestore.open("~nobody-at-all/x.zarr")
    assert places.expanded("~") == Path.home()


def test_pages_in_json_have_no_control_characters():
    text = "\x1b[31m \x7f\x9b\u202e\u2028\ud800 é🙂"
    assert CONTROL.search(as_json({text: text}).decode()) is None
    assert json.loads(as_json({text: text})) == {text: text}
