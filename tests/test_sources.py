"""Embeddings from every layout give the same rows, under every name that they may have, in bounded memory."""

import ctypes
import gc
import os
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from embedding_files import LAYOUTS, rows, write_chunks  # noqa: E402 (what follows needs torch)

from saestore.embeddings.base import EmbeddingSource  # noqa: E402
from saestore.embeddings.opening import open_embeddings  # noqa: E402
from saestore.errors import InvalidInputError, NotFoundError, OutOfRangeError  # noqa: E402

TORCH_DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

# numpy and zarr know no bfloat16.
WITHOUT_BFLOAT16 = [name for name in LAYOUTS if "npy" in name or "zarr" in name or name == "numpy"]
CASES = [
    pytest.param(name, dtype, id=f"{name}-{dtype}".replace("torch.", ""))
    for name in LAYOUTS
    for dtype in TORCH_DTYPES
    if dtype != torch.bfloat16 or name not in WITHOUT_BFLOAT16
]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_every_layout_gives_the_same_rows(tmp_path, name, dtype):
    layout, write = LAYOUTS[name]
    x = rows(dtype=dtype)
    source = open_embeddings(write(tmp_path, x))
    assert isinstance(source, EmbeddingSource)
    assert (source.n_rows, source.d_in) == x.shape
    assert f"torch.{source.dtype}" == str(dtype)
    assert source.layout == layout
    for start, stop in [(0, 11), (0, 4), (3, 6), (4, 5), (10, 11), (7, 7), (0, 0), (11, 11)]:
        part = source.read(start, stop)
        assert part.dtype == dtype
        assert part.is_contiguous()
        assert not part.requires_grad
        torch.testing.assert_close(part, x[start:stop], rtol=0, atol=0)
    source.read(0, 2).zero_()
    torch.testing.assert_close(source.read(0, 2), x[:2], rtol=0, atol=0)
    assert source.fingerprint() == open_embeddings(x.clone()).fingerprint()
    assert open_embeddings(source) is source


@settings(max_examples=25)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.data())
def test_reads_across_any_chunk_borders(sizes, data):
    x = rows(sum(sizes), 3)
    with tempfile.TemporaryDirectory() as folder:
        source = open_embeddings(write_chunks(Path(folder), x, sizes))
        for _ in range(4):
            start = data.draw(st.integers(0, len(x)))
            stop = data.draw(st.integers(start, len(x)))
            torch.testing.assert_close(source.read(start, stop), x[start:stop], rtol=0, atol=0)
        assert source.fingerprint() == open_embeddings(x).fingerprint()


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 12), (5, 4), (12, 12)])
def test_rows_out_of_range(tmp_path, start, stop):
    source = open_embeddings(write_chunks(tmp_path, rows(), [5, 6]))
    with raises(OutOfRangeError, "rows-out-of-range", start, stop, 11):
        source.read(start, stop)


def test_fingerprint_tells_embeddings_apart():
    x = rows(1000, 4)
    prints = {open_embeddings(x).fingerprint()}
    for row in (0, 999):
        other = x.clone()
        other[row, 3] += 1
        prints.add(open_embeddings(other).fingerprint())
    prints |= {open_embeddings(each).fingerprint() for each in (x.half(), x.double(), x[:999], x.view(2000, 2))}
    assert len(prints) == 7
    assert all(len(each) == 64 for each in prints)


def test_names_that_stand_for_chunks(tmp_path):
    x = rows()
    info = write_chunks(tmp_path, x, [5, 6])
    for spec in (info, tmp_path / "X", tmp_path / "X.pt", tmp_path, str(tmp_path) + os.sep):
        source = open_embeddings(spec)
        assert source.layout == "pt chunks"
        assert source.path == str(info)


@pytest.mark.parametrize("name", ["pt", "npy", "safetensors", "zarr group"])
def test_names_that_stand_for_a_single_file(tmp_path, name):
    spec = Path(LAYOUTS[name][1](tmp_path, rows()))
    for each in (tmp_path, tmp_path / "x"):
        assert open_embeddings(each).path == str(spec)


def test_relative_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_chunks(tmp_path, rows(), [5, 6])
    assert open_embeddings("X").n_rows == 11
    assert open_embeddings(".").n_rows == 11


def test_a_folder_with_several_asks_which(tmp_path):
    write_chunks(tmp_path, rows(), [5, 6], base="CLIP_patch")
    torch.save(rows(), tmp_path / "CLIP_cls.pt")
    (tmp_path / "notes.txt").write_text("not embeddings")
    with raises(NotFoundError, "ambiguous-path", "CLIP_cls.pt", "CLIP_patch_chunks_info.json"):
        open_embeddings(tmp_path)
    assert open_embeddings(tmp_path / "CLIP_patch").n_rows == 11
    torch.save(rows(), tmp_path / "CLIP_patch.pt")
    with raises(NotFoundError, "ambiguous-path", "CLIP_patch", "CLIP_patch.pt", "CLIP_patch_chunks_info.json"):
        open_embeddings(tmp_path / "CLIP_patch")
    assert open_embeddings(tmp_path / "CLIP_patch.pt").layout == "pt"


def test_one_chunk_of_several_is_not_taken_for_all(tmp_path):
    info = write_chunks(tmp_path, rows(), [5, 6])
    with raises(InvalidInputError, "one-chunk", "X_chunks_info.json"):
        open_embeddings(tmp_path / "X_chunk_1.pt")
    info.unlink()
    assert open_embeddings(tmp_path / "X_chunk_1.pt").n_rows == 6
    with raises(NotFoundError, "no-chunk-list", "X_chunks_info.json"):
        open_embeddings(tmp_path / "X")


def test_nothing_there(tmp_path):
    torch.save(rows(), tmp_path / "CLIP_patch.pt")
    with raises(NotFoundError, "no-such-file", "CLIP_ptch.pt", "CLIP_patch.pt"):
        open_embeddings(tmp_path / "CLIP_ptch.pt")
    with raises(NotFoundError, "no-such-file"):
        open_embeddings(tmp_path / "nowhere" / "x.pt")
    (tmp_path / "empty").mkdir()
    with raises(NotFoundError, "no-embeddings"):
        open_embeddings(tmp_path / "empty")
    with raises(NotFoundError, "no-such-file"):
        open_embeddings("memory://nothing")


def test_unknown_suffix(tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n")
    with raises(InvalidInputError, "unknown-format", ".csv"):
        open_embeddings(tmp_path / "x.csv")


def test_unknown_object():
    with raises(InvalidInputError, "bad-embeddings"):
        open_embeddings([[1.0, 2.0]])


def resident() -> int:
    """Bytes of this process that are in use: what the C library keeps of freed memory is given back first."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to tell its memory")
MIB = 1 << 20


def sparse_npy(path, n_rows, d_in):
    """Write a file whose array is a hole: gigabytes that take no disk."""
    with path.open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n_rows, d_in)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.truncate(stream.tell() + n_rows * d_in * 4)
    return path


@needs_proc
def test_a_few_rows_of_two_gigabytes_cost_a_few_rows(tmp_path):
    file = sparse_npy(tmp_path / "x.npy", 2 << 20, 256)
    assert file.stat().st_size > 2**31
    before = resident()
    tracemalloc.start()
    source = open_embeddings(file)
    assert source.read(1_000_000, 1_000_010).shape == (10, 256)
    assert source.read(source.n_rows - 10, source.n_rows).shape == (10, 256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MIB
    assert resident() - before < 16 * MIB


def write_large(folder, layout):
    if layout == "npy":
        return sparse_npy(folder / "x.npy", 200 << 10, 256)
    x = torch.zeros(200 << 10, 256)
    if layout == "pt":
        torch.save(x, folder / "x.pt")
        return folder / "x.pt"
    if layout == "chunks":
        return write_chunks(folder, x, [20 << 10] * 10)
    safetensors_torch.save_file({"embeddings": x}, folder / "x.safetensors")
    return folder / "x.safetensors"


@needs_proc
@pytest.mark.parametrize("layout", ["pt", "npy", "safetensors", "chunks"])
def test_reading_all_of_it_takes_no_more_than_a_window(tmp_path, layout):
    spec = write_large(tmp_path, layout)
    open_embeddings(spec).read(0, 1)  # what is imported on the way is no part of the window
    gc.collect()
    before = resident()
    source = open_embeddings(spec)
    assert resident() - before < 16 * MIB
    most = 0
    for start in range(0, source.n_rows, 8 << 10):
        source.read(start, start + (8 << 10))
        most = max(most, resident() - before)
    assert source.n_rows * 256 * 4 == 200 * MIB
    assert most < 130 * MIB
