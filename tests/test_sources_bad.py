"""Every way in which embeddings can be wrong: one clear error each, and no code is run."""

import json
import os
import pickle
import sys
import tempfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from raising import raises

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from embedding_files import LAYOUTS, change, rows, save_safetensors, write_chunks  # noqa: E402 (it needs torch)

import saestore  # noqa: E402
from saestore.embeddings.opening import open_embeddings  # noqa: E402
from saestore.errors import InvalidInputError, MissingDependencyError, NotFoundError  # noqa: E402


@pytest.mark.parametrize("name", ["pt", "safetensors", "npy", "numpy", "tensor", "zarr array", "zarr object"])
@pytest.mark.parametrize(
    ("x", "code", "named"),
    [
        (torch.zeros(4, 3, dtype=torch.int64), "unsupported-dtype", "64"),
        (torch.zeros(4), "bad-shape", "(4,)"),
        (torch.zeros(0, 3), "bad-shape", "(0, 3)"),
    ],
)
def test_wrong_contents(tmp_path, name, x, code, named):
    if name.startswith("zarr"):
        array = zarr.create_array(tmp_path / "x.zarr", data=x.numpy(), chunks=tuple(max(1, n) for n in x.shape))
        array[...] = 1
        spec = tmp_path / "x.zarr" if name == "zarr array" else array
    else:
        spec = LAYOUTS[name][1](tmp_path, x)
    with raises(InvalidInputError, code, named):
        open_embeddings(spec)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
@pytest.mark.parametrize("name", ["pt", "pt dict", "npy", "safetensors"])
def test_truncated_files(tmp_path, name, share):
    file = Path(LAYOUTS[name][1](tmp_path, rows(100, 8)))
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with raises(InvalidInputError, "damaged-file", file.name) as error:
        open_embeddings(file)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # where the damage hits the protocol number
@given(st.data())
def test_damaged_files_give_an_error_of_ours_or_rows(data):
    name = data.draw(st.sampled_from(["pt", "npy", "safetensors"]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(LAYOUTS[name][1](Path(folder), rows(5, 4)))
        content = bytearray(file.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
        file.write_bytes(content)
        try:
            source = open_embeddings(file)
            assert source.read(0, 1).shape == (1, source.d_in)
        except (InvalidInputError, NotFoundError):
            pass


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".safetensors"])
def test_a_file_of_another_kind(tmp_path, suffix):
    (tmp_path / f"x{suffix}").write_text("hello world, this is no tensor\n")
    with raises(InvalidInputError, "damaged-file", f"x{suffix}"):
        open_embeddings(tmp_path / f"x{suffix}")


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def bare_pickle(payload, file):
    file.write_bytes(pickle.dumps(payload))


WRITERS = {
    "x.pt": torch.save,
    "dict.pt": lambda payload, file: torch.save({"embeddings": rows(), "extra": payload}, file),
    "pickle.pt": bare_pickle,
    "old.pt": lambda payload, file: torch.save(payload, file, _use_new_zipfile_serialization=False),
    "x.npy": lambda payload, file: np.save(file, np.array([payload], dtype=object)),
}
UNPICKLERS = {
    "x.pt": lambda file: torch.load(file, weights_only=False),
    "dict.pt": lambda file: torch.load(file, weights_only=False),
    "pickle.pt": lambda file: pickle.loads(file.read_bytes()),
    "old.pt": lambda file: torch.load(file, weights_only=False),
    "x.npy": lambda file: np.load(file, allow_pickle=True),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_pickle_is_refused_and_never_run(tmp_path, name):
    marker = tmp_path / "ran"
    WRITERS[name](Payload(marker), tmp_path / name)
    with raises(InvalidInputError, "pickled", name) as error:
        open_embeddings(tmp_path / name)
    assert "\n" not in str(error.value)
    assert not marker.exists()
    UNPICKLERS[name](tmp_path / name)
    assert marker.exists(), "the payload would have run"


def test_pt_files_without_embeddings(tmp_path):
    file = tmp_path / "x.pt"
    torch.save({"W_enc": rows(), "W_dec": rows(), "b": torch.zeros(3)}, file)
    with raises(InvalidInputError, "no-embeddings"):
        open_embeddings(file)
    torch.save([rows()], file)
    with raises(InvalidInputError, "no-embeddings"):
        open_embeddings(file)
    torch.save(rows().to_sparse(), file)
    with raises(InvalidInputError, "not-dense"):
        open_embeddings(file)


def test_safetensors_keys(tmp_path):
    file = tmp_path / "x.safetensors"
    safetensors_torch.save_file({"a": rows(), "b": rows(seed=1), "c": torch.zeros(3)}, file)
    with raises(InvalidInputError, "no-embeddings", "x.safetensors", "KEY"):
        open_embeddings(file)
    with raises(InvalidInputError, "no-such-tensor", "d"):
        open_embeddings(f"{file}:d")
    torch.testing.assert_close(open_embeddings(f"{file}:b").read(0, 11), rows(seed=1), rtol=0, atol=0)
    assert open_embeddings(f"{file}:b").path == f"{file}:b"


def test_safetensors_is_not_installed(tmp_path, monkeypatch):
    file = save_safetensors()(tmp_path, rows())
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with raises(MissingDependencyError, "missing-dependency", "safetensors", "saestore[sae]"):
        open_embeddings(file)


class TestChunks:
    """A list of chunks that does not hold together."""

    @pytest.fixture
    def info(self, tmp_path):
        return write_chunks(tmp_path, rows(), [4, 1, 6])

    def test_missing_chunk(self, info, tmp_path):
        (tmp_path / "X_chunk_1.pt").unlink()
        with raises(NotFoundError, "missing-chunk", "X_chunk_1.pt"):
            open_embeddings(info)

    def test_truncated_chunk(self, info, tmp_path):
        file = tmp_path / "X_chunk_2.pt"
        file.write_bytes(file.read_bytes()[:-100])
        with raises(InvalidInputError, "damaged-file", "X_chunk_2.pt"):
            open_embeddings(info)

    @pytest.mark.parametrize(
        ("alter", "code", "named"),
        [
            (lambda d: d.update(total_samples=12), "wrong-chunk-size", ("11", "12")),
            (lambda d: d.update(num_chunks=4), "bad-chunk-list", ("3", "4")),
            (lambda d: d["chunks"].pop(1) and d.update(num_chunks=2), "missing-chunk", ("0, 2",)),
            (lambda d: d["chunks"][1].update(start_idx=3), "wrong-chunk-bounds", ("chunk 1", "3 to 5", "4 to 5")),
            (lambda d: d["chunks"][2].update(start_idx=6), "wrong-chunk-bounds", ("chunk 2", "6 to 11", "5 to 11")),
            (lambda d: d["chunks"][2].update(end_idx=12), "wrong-chunk-bounds", ("chunk 2", "5 to 12", "5 to 11")),
            (lambda d: d["chunks"][0].update(shape=[4, 7]), "wrong-chunk-size", ("X_chunk_0.pt", "(4, 6)", "(4, 7)")),
            (lambda d: d["chunks"][0].update(shape=[3, 6]), "wrong-chunk-size", ("X_chunk_0.pt", "(4, 6)", "(3, 6)")),
            (lambda d: d.update(chunks=[], num_chunks=0), "bad-chunk-list", ("0",)),
            (lambda d: d["chunks"][0].pop("file"), "bad-chunk-list", ("'file'",)),
            (lambda d: d.update(chunks=3), "bad-chunk-list", ()),
        ],
    )
    def test_lists_that_do_not_add_up(self, info, alter, code, named):
        change(info, alter)
        with raises(InvalidInputError, code, *named):
            open_embeddings(info)

    def test_what_a_list_leaves_out_is_in_the_files(self, info):
        change(info, lambda d: d.pop("total_samples") and d["chunks"][0].pop("shape"))
        torch.testing.assert_close(open_embeddings(info).read(0, 11), rows(), rtol=0, atol=0)

    def test_shuffled_lists_are_put_in_row_order(self, info):
        change(info, lambda listed: listed["chunks"].reverse())
        torch.testing.assert_close(open_embeddings(info).read(0, 11), rows(), rtol=0, atol=0)

    @pytest.mark.parametrize("name", ["../{}", "{folder}/{}", "a/../../{}"])
    def test_a_list_names_files_of_its_folder_only(self, info, name):
        facts = json.loads(info.read_text())
        first = facts["chunks"][0]
        first["file"] = name.format(first["file"], folder=info.parent.parent)
        info.write_text(json.dumps(facts))
        with raises(InvalidInputError, "bad-chunk-list", "leads out"):
            open_embeddings(info)

    def test_list_that_is_no_json(self, info):
        info.write_text(info.read_text()[:50])
        with raises(InvalidInputError, "bad-chunk-list", "not JSON"):
            open_embeddings(info)
        info.write_text("[1, 2]")
        with raises(InvalidInputError, "bad-chunk-list"):
            open_embeddings(info)

    def test_chunk_of_another_width(self, info, tmp_path):
        torch.save(torch.zeros(1, 7), tmp_path / "X_chunk_1.pt")
        change(info, lambda listed: listed["chunks"][1].update(shape=[1, 7]))
        with raises(InvalidInputError, "unequal-chunks", "X_chunk_1.pt", "float32", "7", "X_chunk_0.pt", "6"):
            open_embeddings(info)

    def test_chunk_of_another_dtype(self, info, tmp_path):
        torch.save(torch.zeros(1, 6).half(), tmp_path / "X_chunk_1.pt")
        with raises(InvalidInputError, "unequal-chunks", "X_chunk_1.pt", "float16", "X_chunk_0.pt", "float32"):
            open_embeddings(info)

    def test_chunk_of_another_length(self, info, tmp_path):
        torch.save(rows(2), tmp_path / "X_chunk_1.pt")
        with raises(InvalidInputError, "wrong-chunk-size", "X_chunk_1.pt", "2", "6", "1"):
            open_embeddings(info)

    def test_chunk_of_integers(self, info, tmp_path):
        torch.save(torch.zeros(1, 6, dtype=torch.int32), tmp_path / "X_chunk_1.pt")
        with raises(InvalidInputError, "unsupported-dtype", "X_chunk_1.pt", "int32"):
            open_embeddings(info)


class TestZarr:
    """Zarr arrays that cannot be used."""

    @pytest.mark.parametrize("shards", [None, (8, 6)])
    def test_missing_chunk(self, tmp_path, shards):
        array = zarr.create_array(tmp_path / "x.zarr", shape=(11, 6), chunks=(4, 3), shards=shards, dtype="float32")
        array[:8] = 1.0
        with raises(InvalidInputError, "missing-chunk", "x.zarr", "6"):
            open_embeddings(tmp_path / "x.zarr")
        array[8:] = 1.0
        assert open_embeddings(tmp_path / "x.zarr").n_rows == 11
        document = tmp_path / "x.zarr" / "zarr.json"
        document.write_text(json.dumps(json.loads(document.read_text()) | {"shape": [1 << 40, 6]}))
        with raises(InvalidInputError, "too-large", "x.zarr"):
            open_embeddings(tmp_path / "x.zarr")

    @pytest.mark.parametrize("chunks", [(4, 3), None])
    def test_missing_chunk_of_hdf5(self, tmp_path, chunks):
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "x.h5", "w") as file:
            array = file.create_dataset("x", (11, 6), "f4", chunks=chunks)
            if chunks:
                array[:8] = 1
        with raises(InvalidInputError, "missing-chunk", "x.h5:x", "2 of 6" if chunks else "1 of 1"):
            open_embeddings(tmp_path / "x.h5")
        with h5py.File(tmp_path / "y.h5", "w") as file:
            file.create_dataset("x", (11, 6), "f4", chunks=chunks)[:] = 1
        assert open_embeddings(tmp_path / "y.h5").n_rows == 11

    def test_group_with_several(self, tmp_path):
        group = zarr.open_group(tmp_path / "x.zarr", mode="w")
        for name in ("a", "b"):
            group.create_array(name, data=rows().numpy())
        with raises(InvalidInputError, "no-embeddings", "x.zarr", "NAME"):
            open_embeddings(tmp_path / "x.zarr")
        assert open_embeddings(tmp_path / "x.zarr" / "b").n_rows == 11
        with raises(NotFoundError, "no-such-file", "x.zarr"):
            open_embeddings(tmp_path / "x.zarr" / "c")

    def test_damaged_metadata(self, tmp_path):
        zarr.create_array(tmp_path / "x.zarr", data=rows().numpy())
        (tmp_path / "x.zarr" / "zarr.json").write_text("{")
        with raises(InvalidInputError, "damaged-file", "x.zarr"):
            open_embeddings(tmp_path / "x.zarr")

    @pytest.mark.parametrize(
        "document",
        ["[" * 100_000, "null", "[]", b"\xff", {"shape": [-11, 6]}, {"shape": [2.5, 6]}, {"shape": "ab"},
         {"shape": [10**19]}, {"codecs": [{"name": "other"}]}, {"data_type": "float9"}, {"chunk_shape": [0, 6]},
         {"chunk_shape": [10**10, 6], "shape": [10**10, 6]}],
        ids=lambda each: str(each)[:20],
    )  # fmt: skip
    def test_documents_that_no_array_has(self, tmp_path, document):
        """Refused as embeddings and as activations; a chunk that claims far more than is stored, too."""
        zarr.create_array(tmp_path / "x.zarr", data=rows().numpy(), chunks=(11, 6))
        file = tmp_path / "x.zarr" / "zarr.json"
        if isinstance(document, dict):
            whole = json.loads(file.read_text())
            if "chunk_shape" in document:
                whole["chunk_grid"]["configuration"]["chunk_shape"] = document.pop("chunk_shape")
            document = json.dumps(whole | document)
        file.write_bytes(document if isinstance(document, bytes) else document.encode())
        for ask in (open_embeddings, partial(saestore.check_import, "A/patch/x")):
            with pytest.raises(InvalidInputError) as caught:
                ask(tmp_path / "x.zarr")
            assert caught.value.code in ("damaged-file", "too-large", "missing-chunk")

    def test_damaged_chunk(self, tmp_path):
        zarr.create_array(tmp_path / "x.zarr", data=rows().numpy(), chunks=(11, 6))
        [chunk] = (path for path in (tmp_path / "x.zarr" / "c").rglob("*") if path.is_file())
        chunk.write_bytes(chunk.read_bytes()[:-20])
        source = open_embeddings(tmp_path / "x.zarr")
        with raises(InvalidInputError, "damaged-file", "x.zarr", "2", "5"):
            source.read(2, 5)


@pytest.mark.parametrize("padding", [0, 4 << 20])
def test_a_file_that_was_compressed_again_is_refused(tmp_path, padding):
    """torch maps an entry as numbers, however it is stored."""
    torch.save(rows(100, 8), tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in entries.items():
            new.writestr(name, content + bytes(padding if "/data/" in name else 0))
    with raises(InvalidInputError, "compressed-file", "y.pt"):
        open_embeddings(tmp_path / "y.pt")


def test_tensors_without_numbers_are_refused(tmp_path):
    torch.save(torch.zeros(4, 3, device="meta"), tmp_path / "meta.pt")
    with raises(InvalidInputError, "unsupported-tensor", "meta"):
        open_embeddings(tmp_path / "meta.pt")
    torch.save({"embeddings": torch.ones(4, 3, requires_grad=True)}, tmp_path / "grad.pt")
    assert open_embeddings(tmp_path / "grad.pt").read(0, 4).tolist() == [[1.0] * 3] * 4


def test_a_npy_of_an_odd_shape_is_refused(tmp_path):
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4), }\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(64))
    with raises(InvalidInputError, "damaged-file", "x.npy"):
        open_embeddings(tmp_path / "x.npy")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize(
    ("name", "shape"), [("attention_mask", (12,)), ("attention_mask", (3, 4)), ("lengths", (12, 1))]
)
def test_a_tensor_of_the_rows_is_not_ignored(tmp_path, suffix, name, shape):
    """A mask beside the embeddings marks padding: rows that are no samples."""
    tensors = {"embeddings": rows(12, 8), name: torch.ones(shape, dtype=torch.int64)}
    file = tmp_path / f"x.{suffix}"
    (torch.save if suffix == "pt" else safetensors_torch.save_file)(tensors, file)
    with raises(InvalidInputError, "unused-tensor", name, file.name):
        open_embeddings(file)


def test_lengths_of_items_are_not_ignored(tmp_path):
    torch.save({"embeddings": rows(12, 8).reshape(3, 4, 8), "lengths": torch.tensor([4, 2, 1])}, tmp_path / "x.pt")
    with raises(InvalidInputError, "unused-tensor", "lengths"):
        open_embeddings(tmp_path / "x.pt")


def test_a_tensor_that_is_named_may_have_neighbours_but_no_mask(tmp_path):
    x, labels = rows(12, 8), torch.ones(12)
    file = tmp_path / "x.safetensors"
    safetensors_torch.save_file({"embeddings": x, "labels": labels, "mean": torch.ones(8)}, file)
    assert torch.equal(open_embeddings(f"{file}:embeddings").read(0, 12), x)
    safetensors_torch.save_file({"embeddings": x, "mask": labels}, file)
    with raises(InvalidInputError, "unused-tensor", "mask"):
        open_embeddings(f"{file}:embeddings")


@pytest.mark.parametrize("width", [0, -32, 2**62])
def test_shards_of_saev_with_a_width_that_cannot_be(tmp_path, width):
    np.zeros(5 * 4 * 32, "<f4").tofile(tmp_path / "acts000000.bin")
    facts = {"layers": [3], "d_vit": width, "n_patches_per_img": 4, "n_imgs": 5, "cls_token": False}
    (tmp_path / "metadata.json").write_text(json.dumps(facts))
    with raises(InvalidInputError, "damaged-file", tmp_path):
        open_embeddings(tmp_path)
