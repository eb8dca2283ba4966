"""Embeddings from every layout, and every way in which a file can be wrong."""

import json
import os
import pickle
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from saestore.errors import (  # noqa: E402 (what follows needs torch)
    InvalidInputError,
    MissingDependencyError,
    NotFoundError,
    OutOfRangeError,
)
from saestore.sources import (  # noqa: E402
    DATASETS,
    EmbeddingSource,
    find_dataset,
    find_embeddings,
    find_items,
    open_embeddings,
)

TORCH_DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def rows(n_rows=11, d_in=6, dtype=torch.float32, seed=0):
    return torch.randn(n_rows, d_in, generator=torch.Generator().manual_seed(seed)).to(dtype)


def write_chunks(folder, x, sizes, base="X", wrap=lambda chunk: chunk):
    """Write what the pipeline writes: ``BASE_chunk_<i>.pt`` and their list."""
    entries = []
    for number, chunk in enumerate(torch.split(x, sizes)):
        name = f"{base}_chunk_{number}.pt"
        torch.save(wrap(chunk.clone()), folder / name)
        start = sum(sizes[:number])
        entries.append({"file": name, "start_idx": start, "end_idx": start + len(chunk), "shape": list(chunk.shape)})
    listed = {"chunks": entries, "total_samples": len(x), "embedding_dim": x.shape[1], "num_chunks": len(entries)}
    info = folder / f"{base}_chunks_info.json"
    info.write_text(json.dumps(listed))
    return info


def change(info, alter):
    listed = json.loads(info.read_text())
    alter(listed)
    info.write_text(json.dumps(listed))


def save_pt(content):
    def write(folder, x):
        torch.save(content(x), folder / "x.pt")
        return folder / "x.pt"

    return write


def save_npy(order="C", byteorder="="):
    def write(folder, x):
        array = x.numpy()
        np.save(folder / "x.npy", np.asarray(array, dtype=array.dtype.newbyteorder(byteorder), order=order))
        return folder / "x.npy"

    return write


def save_safetensors(key="", **others):
    def write(folder, x):
        name = key.removeprefix(":") or "embeddings"
        safetensors_torch.save_file({name: x, **others}, folder / "x.safetensors")
        return f"{folder / 'x.safetensors'}{key}"

    return write


def save_zarr(name="", zarr_format=3, shards=None):
    def write(folder, x):
        group = zarr.open_group(folder / "x.zarr", mode="w", zarr_format=zarr_format)
        array = group.create_array(
            name or "embeddings", shape=x.shape, chunks=(4, 3), dtype=x.numpy().dtype, shards=shards
        )
        array[...] = x.numpy()
        group.create_array("labels", shape=(3,), dtype="int64")
        return folder / "x.zarr" / name

    return write


LAYOUTS = {
    "pt": ("pt", save_pt(lambda x: x)),
    "pt dict": ("pt", save_pt(lambda x: {"embeddings": x, "normalized_embeddings": x / 2, "ids": torch.arange(3)})),
    "pt normalized": ("pt", save_pt(lambda x: {"normalized_embeddings": x})),
    "pt transposed": ("pt", save_pt(lambda x: x.T.contiguous().T)),
    "pt parameter": ("pt", save_pt(torch.nn.Parameter)),
    "chunks": ("pt chunks", lambda folder, x: write_chunks(folder, x, [4, 1, 6])),
    "one chunk": ("pt chunks", lambda folder, x: write_chunks(folder, x, [11])),
    "chunks of dicts": (
        "pt chunks",
        lambda folder, x: write_chunks(folder, x, [5, 6], wrap=lambda chunk: {"embeddings": chunk}),
    ),
    "safetensors": ("safetensors", save_safetensors()),
    "safetensors key": ("safetensors", save_safetensors(":b", a=torch.zeros(2, 2))),
    "tensor": ("array", lambda _, x: x),
    "npy": ("npy", save_npy()),
    "npy big-endian": ("npy", save_npy(byteorder=">")),
    "npy Fortran": ("npy", save_npy(order="F")),
    "numpy": ("array", lambda _, x: x.numpy()),
    "zarr group": ("zarr", save_zarr()),
    "zarr array": ("zarr", save_zarr("acts")),
    "zarr 2": ("zarr", save_zarr("acts", zarr_format=2)),
    "zarr shards": ("zarr", save_zarr("acts", shards=(8, 6))),
    "zarr object": ("zarr", lambda folder, x: zarr.open_array(save_zarr("acts")(folder, x), mode="r")),
}
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
    with pytest.raises(OutOfRangeError, match=f"rows {start} to {stop} .* 11 rows"):
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


# --- what a path stands for ------------------------------------------------------------------------------------------


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
    with pytest.raises(NotFoundError, match=r"several.*CLIP_cls\.pt, CLIP_patch_chunks_info\.json; give the path"):
        open_embeddings(tmp_path)
    assert open_embeddings(tmp_path / "CLIP_patch").n_rows == 11
    torch.save(rows(), tmp_path / "CLIP_patch.pt")
    with pytest.raises(NotFoundError, match=r"CLIP_patch has several.*CLIP_patch\.pt, CLIP_patch_chunks_info\.json"):
        open_embeddings(tmp_path / "CLIP_patch")
    assert open_embeddings(tmp_path / "CLIP_patch.pt").layout == "pt"


def test_one_chunk_of_several_is_not_taken_for_all(tmp_path):
    info = write_chunks(tmp_path, rows(), [5, 6])
    with pytest.raises(InvalidInputError, match=r"one of 2 chunks; give .*X_chunks_info\.json"):
        open_embeddings(tmp_path / "X_chunk_1.pt")
    info.unlink()
    assert open_embeddings(tmp_path / "X_chunk_1.pt").n_rows == 6
    with pytest.raises(NotFoundError, match=r"no .*X_chunks_info\.json, which lists the chunks"):
        open_embeddings(tmp_path / "X")


def test_nothing_there(tmp_path):
    torch.save(rows(), tmp_path / "CLIP_patch.pt")
    with pytest.raises(NotFoundError, match=r"CLIP_ptch\.pt; nearest names there: CLIP_patch\.pt"):
        open_embeddings(tmp_path / "CLIP_ptch.pt")
    with pytest.raises(NotFoundError, match=r"the folder .*nowhere does not exist"):
        open_embeddings(tmp_path / "nowhere" / "x.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match=r"empty has no embeddings .*\.pt"):
        open_embeddings(tmp_path / "empty")
    with pytest.raises(NotFoundError, match="memory://nothing"):
        open_embeddings("memory://nothing")


def test_unknown_suffix(tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n")
    with pytest.raises(InvalidInputError, match=r"suffix '\.csv'; known are \.pt, \.npy, \.safetensors.*zarr"):
        open_embeddings(tmp_path / "x.csv")


def test_unknown_object():
    with pytest.raises(InvalidInputError, match="a list; give a path"):
        open_embeddings([[1.0, 2.0]])


# --- memory ----------------------------------------------------------------------------------------------------------


def resident() -> int:
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
    before = resident()
    source = open_embeddings(spec)
    assert resident() - before < 16 * MIB
    most = 0
    for start in range(0, source.n_rows, 8 << 10):
        source.read(start, start + (8 << 10))
        most = max(most, resident() - before)
    assert source.n_rows * 256 * 4 == 200 * MIB
    assert most < 130 * MIB


# --- what cannot be embeddings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pt", "safetensors", "npy", "numpy", "tensor", "zarr array", "zarr object"])
@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.zeros(4, 3, dtype=torch.int64), r"(int|I)64; embeddings are one of float16, bfloat16, float32, float64"),
        (torch.zeros(4), r"\(4,\); embeddings have two dimensions"),
        (torch.zeros(4, 3, 2), r"\(4, 3, 2\).*reshape to \(12, 2\)"),
        (torch.zeros(0, 3), r"\(0, 3\).*at least one row"),
    ],
)
def test_wrong_contents(tmp_path, name, x, match):
    if name.startswith("zarr"):
        array = zarr.create_array(tmp_path / "x.zarr", data=x.numpy(), chunks=tuple(max(1, n) for n in x.shape))
        array[...] = 1
        spec = tmp_path / "x.zarr" if name == "zarr array" else array
    else:
        spec = LAYOUTS[name][1](tmp_path, x)
    with pytest.raises(InvalidInputError, match=match):
        open_embeddings(spec)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
@pytest.mark.parametrize("name", ["pt", "pt dict", "npy", "safetensors"])
def test_truncated_files(tmp_path, name, share):
    file = Path(LAYOUTS[name][1](tmp_path, rows(100, 8)))
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(InvalidInputError, match=rf"{file.name} is truncated or not a {file.suffix} file") as error:
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
    with pytest.raises(InvalidInputError, match=rf"x{suffix} is truncated or not a {suffix} file"):
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
    with pytest.raises(InvalidInputError, match=rf"{name} .*not unpickled because that could run code") as error:
        open_embeddings(tmp_path / name)
    assert "\n" not in str(error.value)
    assert not marker.exists()
    UNPICKLERS[name](tmp_path / name)
    assert marker.exists(), "the payload would have run"


def test_pt_files_without_embeddings(tmp_path):
    file = tmp_path / "x.pt"
    torch.save({"W_enc": rows(), "W_dec": rows(), "b": torch.zeros(3)}, file)
    with pytest.raises(
        InvalidInputError, match="holds W_enc, W_dec, b; embeddings are called embeddings or normalized"
    ):
        open_embeddings(file)
    torch.save([rows()], file)
    with pytest.raises(InvalidInputError, match="holds a list; embeddings are a tensor or a dict"):
        open_embeddings(file)
    torch.save(rows().to_sparse(), file)
    with pytest.raises(InvalidInputError, match="embeddings are dense"):
        open_embeddings(file)


def test_safetensors_keys(tmp_path):
    file = tmp_path / "x.safetensors"
    safetensors_torch.save_file({"a": rows(), "b": rows(seed=1), "c": torch.zeros(3)}, file)
    with pytest.raises(InvalidInputError, match=r"holds a, b, c;.*choose one as x\.safetensors:KEY"):
        open_embeddings(file)
    with pytest.raises(InvalidInputError, match="no tensor 'd'; it has a, b, c"):
        open_embeddings(f"{file}:d")
    torch.testing.assert_close(open_embeddings(f"{file}:b").read(0, 11), rows(seed=1), rtol=0, atol=0)
    assert open_embeddings(f"{file}:b").path == f"{file}:b"


def test_safetensors_is_not_installed(tmp_path, monkeypatch):
    file = save_safetensors()(tmp_path, rows())
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingDependencyError, match=r"needs safetensors; pip install 'saestore\[sae\]'"):
        open_embeddings(file)


class TestChunks:
    """A list of chunks that does not hold together."""

    @pytest.fixture
    def info(self, tmp_path):
        return write_chunks(tmp_path, rows(), [4, 1, 6])

    def test_missing_chunk(self, info, tmp_path):
        (tmp_path / "X_chunk_1.pt").unlink()
        with pytest.raises(
            NotFoundError, match=r"chunk 1 of 3 is missing: .*X_chunk_1\.pt.*nearest names there: X_chunk"
        ):
            open_embeddings(info)

    def test_truncated_chunk(self, info, tmp_path):
        file = tmp_path / "X_chunk_2.pt"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(InvalidInputError, match=r"X_chunk_2\.pt is truncated"):
            open_embeddings(info)

    @pytest.mark.parametrize(
        ("alter", "match"),
        [
            (lambda d: d.update(total_samples=12), "add up to 11 rows, but total_samples is 12"),
            (lambda d: d.update(num_chunks=4), "lists 3 chunks, but says num_chunks 4"),
            (
                lambda d: d["chunks"].pop(1) and d.update(num_chunks=2),
                r"X_chunk_2\.pt starts at row 5, expected 4: .*gap",
            ),
            (lambda d: d["chunks"][1].update(start_idx=3), r"X_chunk_1\.pt starts at row 3, expected 4: .*overlap"),
            (lambda d: d["chunks"][2].update(start_idx=6), r"X_chunk_2\.pt starts at row 6, expected 5: .*gap"),
            (lambda d: d["chunks"][2].update(end_idx=12), r"rows 5 to 12, but the shape \(6, 6\)"),
            (
                lambda d: d["chunks"][0].update(shape=[4, 7]),
                r"has the shape \(4, 6\), but X_chunks_info.json says \(4, 7\)",
            ),
            (lambda d: d["chunks"][0].update(shape=[]), r"X_chunk_0\.pt has the rows 0 to 4, but the shape \(\)"),
            (lambda d: d.update(chunks=[], num_chunks=0), "lists 0 chunks"),
            (lambda d: d["chunks"][0].pop("shape"), "not a list of chunks .*'shape'.*needs total_samples"),
            (lambda d: d.pop("total_samples"), "not a list of chunks .*'total_samples'"),
            (lambda d: d.update(chunks=3), "not a list of chunks"),
        ],
    )
    def test_lists_that_do_not_add_up(self, info, alter, match):
        change(info, alter)
        with pytest.raises(InvalidInputError, match=match):
            open_embeddings(info)

    def test_shuffled_lists_are_put_in_row_order(self, info):
        change(info, lambda listed: listed["chunks"].reverse())
        torch.testing.assert_close(open_embeddings(info).read(0, 11), rows(), rtol=0, atol=0)

    def test_list_that_is_no_json(self, info):
        info.write_text(info.read_text()[:50])
        with pytest.raises(InvalidInputError, match=r"not a list of chunks .*JSONDecodeError"):
            open_embeddings(info)
        info.write_text("[1, 2]")
        with pytest.raises(InvalidInputError, match="not a list of chunks"):
            open_embeddings(info)

    def test_chunk_of_another_width(self, info, tmp_path):
        torch.save(torch.zeros(1, 7), tmp_path / "X_chunk_1.pt")
        change(info, lambda listed: listed["chunks"][1].update(shape=[1, 7]))
        with pytest.raises(
            InvalidInputError, match=r"X_chunk_1\.pt is float32 of width 7, but X_chunk_0\.pt .* width 6"
        ):
            open_embeddings(info)

    def test_chunk_of_another_dtype(self, info, tmp_path):
        torch.save(torch.zeros(1, 6).half(), tmp_path / "X_chunk_1.pt")
        with pytest.raises(InvalidInputError, match=r"X_chunk_1\.pt is float16 .*X_chunk_0\.pt is float32"):
            open_embeddings(info)

    def test_chunk_of_another_length(self, info, tmp_path):
        torch.save(rows(2), tmp_path / "X_chunk_1.pt")
        with pytest.raises(InvalidInputError, match=r"X_chunk_1\.pt has the shape \(2, 6\), but .*says \(1, 6\)"):
            open_embeddings(info)

    def test_chunk_of_integers(self, info, tmp_path):
        torch.save(torch.zeros(1, 6, dtype=torch.int32), tmp_path / "X_chunk_1.pt")
        with pytest.raises(InvalidInputError, match=r"X_chunk_1\.pt is int32"):
            open_embeddings(info)


class TestZarr:
    """Zarr arrays that cannot be used."""

    @pytest.mark.parametrize("shards", [None, (8, 6)])
    def test_missing_chunk(self, tmp_path, shards):
        array = zarr.create_array(tmp_path / "x.zarr", shape=(11, 6), chunks=(4, 3), shards=shards, dtype="float32")
        array[:8] = 1.0
        with pytest.raises(InvalidInputError, match=r"x\.zarr: \d+ of 6 chunks are missing and would read as zeros"):
            open_embeddings(tmp_path / "x.zarr")
        array[8:] = 1.0
        assert open_embeddings(tmp_path / "x.zarr").n_rows == 11

    def test_group_with_several(self, tmp_path):
        group = zarr.open_group(tmp_path / "x.zarr", mode="w")
        for name in ("a", "b"):
            group.create_array(name, data=rows().numpy())
        with pytest.raises(InvalidInputError, match=r"holds a, b;.*choose one as .*x\.zarr/NAME"):
            open_embeddings(tmp_path / "x.zarr")
        assert open_embeddings(tmp_path / "x.zarr" / "b").n_rows == 11
        with pytest.raises(NotFoundError, match=r"no embeddings at .*x\.zarr/c"):
            open_embeddings(tmp_path / "x.zarr" / "c")

    def test_damaged_metadata(self, tmp_path):
        zarr.create_array(tmp_path / "x.zarr", data=rows().numpy())
        (tmp_path / "x.zarr" / "zarr.json").write_text("{")
        with pytest.raises(InvalidInputError, match=r"x\.zarr is not a zarr array"):
            open_embeddings(tmp_path / "x.zarr")

    def test_damaged_chunk(self, tmp_path):
        zarr.create_array(tmp_path / "x.zarr", data=rows().numpy(), chunks=(11, 6))
        [chunk] = (path for path in (tmp_path / "x.zarr" / "c").rglob("*") if path.is_file())
        chunk.write_bytes(chunk.read_bytes()[:-20])
        source = open_embeddings(tmp_path / "x.zarr")
        with pytest.raises(InvalidInputError, match=r"x\.zarr: rows 2 to 5 cannot be decoded"):
            source.read(2, 5)


# --- known data sets -------------------------------------------------------------------------------------------------


def test_the_seven():
    assert [dataset.name for dataset in DATASETS] == [
        "CLEVR", "Coco", "Broden-Pascal", "Broden-OpenSurfaces", "Sarcasm", "GoEmotions", "iSarcasm",
    ]  # fmt: skip
    clevr, sarcasm = find_dataset("CLEVR"), find_dataset("Sarcasm")
    assert (clevr.modality, clevr.sample_types, clevr.sae) == ("image", ("patch", "cls"), "clip-scope-22")
    assert (sarcasm.modality, sarcasm.sample_types, sarcasm.sae) == ("text", ("token", "cls"), "gemma-scope-9b-34-16k")


@pytest.mark.parametrize(("name", "found"), [("clevr", "CLEVR"), ("COCO", "Coco"), ("isarcasm", "iSarcasm")])
def test_names_in_any_case(name, found):
    assert find_dataset(name).name == found


def test_unknown_names_give_the_nearest():
    with pytest.raises(NotFoundError, match=r"'CLEVRR'; nearest: CLEVR\. For one of your own"):
        find_dataset("CLEVRR")
    with pytest.raises(NotFoundError, match="'broden'; nearest: Broden-Pascal"):
        find_dataset("broden")
    with pytest.raises(NotFoundError, match=r"'xyz'; known are CLEVR, Coco, .*iSarcasm"):
        find_dataset("xyz")


BASES = {
    ("CLEVR", "patch"): "CLIP_SAE_patch_embeddings_percentthrumodel_92",
    ("CLEVR", "cls"): "CLIP_SAE_cls_embeddings_percentthrumodel_92",
    ("iSarcasm", "token"): "Gemma_SAE_patch_embeddings_percentthrumodel_81",
    ("iSarcasm", "cls"): "Gemma_SAE_cls_embeddings_percentthrumodel_81",
}


@pytest.mark.parametrize("key", BASES, ids="/".join)
@pytest.mark.parametrize("chunked", [True, False])
def test_embeddings_are_found_by_name(tmp_path, monkeypatch, key, chunked):
    folder = tmp_path / "Embeddings" / key[0]
    folder.mkdir(parents=True)
    for (dataset, _), base in BASES.items():
        if dataset == key[0]:
            x = rows(seed=len(base))
            write_chunks(folder, x, [5, 6], base=base) if chunked else torch.save(x, folder / f"{base}.pt")
    found = find_embeddings(find_dataset(key[0]), key[1], tmp_path)
    assert found == folder / (BASES[key] + ("_chunks_info.json" if chunked else ".pt"))
    torch.testing.assert_close(open_embeddings(found).read(0, 11), rows(seed=len(BASES[key])), rtol=0, atol=0)
    monkeypatch.setenv("SAESTORE_SCRATCH", str(tmp_path))
    assert find_embeddings(find_dataset(key[0]), key[1]) == found


def test_embeddings_that_are_not_there(tmp_path, monkeypatch):
    clevr = find_dataset("CLEVR")
    with pytest.raises(NotFoundError, match=r"Embeddings/CLEVR/CLIP_SAE_patch\w+_92;.*give --embeddings"):
        find_embeddings(clevr, "patch", tmp_path)
    with pytest.raises(InvalidInputError, match="CLEVR has no samples of type 'token'; allowed are patch, cls"):
        find_embeddings(clevr, "token", tmp_path)
    monkeypatch.delenv("SAESTORE_SCRATCH", raising=False)
    with pytest.raises(NotFoundError, match="give --embeddings, or set SAESTORE_SCRATCH"):
        find_embeddings(clevr, "patch")


def test_metadata_is_found_by_name(tmp_path):
    dataset = find_dataset("GoEmotions")
    with pytest.raises(NotFoundError, match=r"GoEmotions/metadata\.csv nor .*Augmented_GoEmotions.* give --items"):
        find_items(dataset, tmp_path)
    for folder in ("Augmented_GoEmotions", "GoEmotions"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "metadata.csv").write_text("text\nhello\n")
        assert find_items(dataset, tmp_path) == tmp_path / folder / "metadata.csv"
