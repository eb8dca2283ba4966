"""Builds from input that cannot be used: one clear error in one line, and the store is as it was."""

import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

import saestore
from saestore.errors import InvalidInputError, NotFoundError, StoreFormatError, StoreWriteError

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors.torch")

from build_helpers import (  # noqa: E402 (what follows needs torch)
    D_IN,
    PROJECT,
    clip_scope,
    hashes,
    near,
    sae_lens_folder,
    unexplained,
)
from embedding_files import change, save_npy, save_pt, save_safetensors, save_zarr, write_chunks  # noqa: E402
from raising import raises  # noqa: E402
from strategies import copy_of  # noqa: E402


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    return clip_scope(tmp_path_factory.mktemp("saes") / "tiny.pt")


@pytest.fixture
def build(tmp_path, sae):
    def call(dataset="Mine", **how):
        return saestore.build(dataset, **{"store": tmp_path / "store", "sae": sae, "progress": False} | how)

    return call


@pytest.fixture
def refused(tmp_path, build, sae):
    """Builds into a new store and into one that holds a set: the error, and nothing was written."""

    def another(store):
        with unexplained():
            build("Another", embeddings=torch.ones(3, D_IN), store=store)

    def call(error, code, *named, dataset="Mine", **how):
        with raises(error, code, *named) as first:
            build(dataset, **how)
        assert "\n" not in str(first.value)
        assert not (tmp_path / "store").exists()
        copy_of(str(sae), another, tmp_path / "used")
        before = hashes(tmp_path / "used")
        with raises(error, code, *named):
            build(dataset, **how | {"store": tmp_path / "used"})
        assert hashes(tmp_path / "used") == before
        return first.value

    return call


@pytest.fixture
def x(sae):
    return near(sae, 40)


# Embeddings.

WRITERS = {
    "npy": save_npy(),
    "pt": save_pt(lambda x: x),
    "safetensors": save_safetensors(),
    "zarr": save_zarr(),
    "chunks": lambda folder, x: write_chunks(folder, x, [15, 25]),
    "tensor": lambda _, x: x,
}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("writer", WRITERS)
def test_not_finite(writer, value, tmp_path, refused, x):
    x[33, 5] = float(value)
    refused(
        InvalidInputError,
        "not-finite",
        "row 33 ",
        value,
        embeddings=WRITERS[writer](tmp_path, x),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_not_finite_in_other_dtypes(dtype, refused, x):
    x[7, 0], x[8, 0], x[9, 1] = float("inf"), float("-inf"), float("nan")
    refused(InvalidInputError, "not-finite", "row 7 ", "inf", embeddings=x.to(dtype))


def test_the_sum_of_finite_rows_may_overflow(build, sae):
    """The check looks at sums first; that they are infinite says nothing yet."""
    wide = torch.full((3, D_IN), 3e38)
    wide[1] = -1
    with raises(InvalidInputError, "not-finite", "tiny"):
        build(embeddings=wide)
    with unexplained():
        assert len(build(embeddings=torch.full((3, D_IN), 6e4).half())) == 3


def test_not_finite_far_into_the_file(tmp_path, refused, sae):
    rows = np.zeros((2_200_000, D_IN), np.float32)  # 70 MB: more than is looked at at once
    rows[2_150_000, 3] = np.nan
    np.save(tmp_path / "x.npy", rows)
    refused(InvalidInputError, "not-finite", "row 2,150,000 ", "x.npy", "nan", embeddings=tmp_path / "x.npy")


def test_not_finite_where_the_sae_would_be_silent(tmp_path, refused, x):
    """NaN is above no threshold: taken for inactive, the row would pass for one without features."""
    pytest.importorskip("sae_lens")
    sae_lens_folder("jumprelu", tmp_path / "mysae")
    x[20] = float("nan")
    refused(InvalidInputError, "not-finite", "row 20 ", "nan", embeddings=x, sae=tmp_path / "mysae")


def test_not_finite_in_what_is_still_to_be_done(tmp_path, build, sae, processes):
    """Of a build that goes on, the rows after the committed ones are looked at before anything is written."""
    x, path = near(sae, 600), tmp_path / "x.npy"
    np.save(path, x.numpy())
    job = {"dataset": "Mine", "store": tmp_path / "store", "sae": sae, "embeddings": path, "segment_rows": 100}
    assert processes.run(job, kill_at=300)["exit"] == -9
    assert 0 < len(saestore.open(tmp_path / "store")["Mine"]) < 590
    looked_at = set(np.linspace(0, 599, 256).astype(int).tolist())  # by the fingerprint: other rows are another build
    row = max(set(range(600)) - looked_at)
    x[row] = float("nan")
    np.save(path, x.numpy())
    before = hashes(tmp_path / "store")
    with raises(InvalidInputError, "not-finite", f"row {row} ", "nan"):
        build(embeddings=path, segment_rows=100)
    assert hashes(tmp_path / "store") == before


@pytest.mark.parametrize("width", [1, D_IN - 1, D_IN + 1, 512])
def test_wrong_width(width, refused):
    refused(InvalidInputError, "wrong-width", width, "tiny", D_IN, embeddings=torch.zeros(5, width))


def test_zero_rows(tmp_path, refused):
    torch.save(torch.zeros(0, D_IN), tmp_path / "x.pt")
    refused(InvalidInputError, "bad-shape", "x.pt", "(0, 8)", embeddings=tmp_path / "x.pt")


def test_integers(refused):
    refused(
        InvalidInputError, "unsupported-dtype", "int64", "float16", embeddings=torch.zeros(5, D_IN, dtype=torch.int64)
    )


def test_missing_chunk(tmp_path, refused, x):
    info = write_chunks(tmp_path, x, [15, 15, 10])
    (tmp_path / "X_chunk_1.pt").unlink()
    refused(NotFoundError, "missing-chunk", "X_chunk_1.pt", embeddings=info)


def test_chunks_that_do_not_add_up(tmp_path, refused, x):
    info = write_chunks(tmp_path, x, [15, 25])
    change(info, lambda listed: listed.update(total_samples=41))
    refused(InvalidInputError, "wrong-chunk-size", "40 rows", 41, embeddings=info)


def test_one_chunk_of_several(tmp_path, refused, x):
    write_chunks(tmp_path, x, [15, 25])
    refused(InvalidInputError, "one-chunk", "X_chunk_0.pt", "_chunks_info.json", embeddings=tmp_path / "X_chunk_0.pt")


@pytest.mark.parametrize("kind", ["pt", "npy", "safetensors"])
def test_truncated(kind, tmp_path, refused, x):
    path = tmp_path / f"x.{kind}"
    WRITERS[kind](tmp_path, x)
    path.write_bytes(path.read_bytes()[:-200])
    refused(InvalidInputError, "damaged-file", f"x.{kind}", embeddings=path)


def test_a_pickle(tmp_path, refused, x):
    (tmp_path / "x.pt").write_bytes(pickle.dumps(x.numpy()))
    refused(InvalidInputError, "pickled", "x.pt", embeddings=tmp_path / "x.pt")


class Trap:
    """Unpickling it would leave a trace."""

    def __reduce__(self):
        return exec, ("import builtins; builtins.saestore_was_trapped = True",)


def test_a_file_that_would_run_code(tmp_path, refused):
    import builtins

    torch.save({"embeddings": Trap()}, tmp_path / "x.pt")
    refused(InvalidInputError, "pickled", "x.pt", embeddings=tmp_path / "x.pt")
    assert not hasattr(builtins, "saestore_was_trapped")


def test_no_such_file(tmp_path, refused):
    refused(NotFoundError, "no-such-file", "nowhere.pt", embeddings=tmp_path / "nowhere.pt")


# The SAE.


@pytest.mark.parametrize("file", ["sae_weights.safetensors", "cfg.json"])
def test_sae_folder_without_a_file(file, tmp_path, refused, x):
    pytest.importorskip("sae_lens")
    sae_lens_folder("topk", tmp_path / "mysae")
    (tmp_path / "mysae" / file).unlink()
    refused(NotFoundError, "file-missing", f"of sae_lens: {file}", embeddings=x, sae=tmp_path / "mysae")


def test_no_sae(refused, x):
    refused(InvalidInputError, "missing-sae", "Mine", "--sae", embeddings=x, sae=None)


def test_unknown_sae(refused, x):
    refused(NotFoundError, "unknown-sae", "'clip-scope-23'", "'clip-scope-22'", embeddings=x, sae="clip-scope-23")


@pytest.mark.parametrize(
    ("dtype", "size", "expected"),
    [("float32", 3e38, ("not-finite", "tiny", "inf")), ("float16", 1e6, ("dtype-overflow", "65,504", "float32"))],
)
def test_activations_that_overflow(dtype, size, expected, build, sae):
    """Finite embeddings can still be too large for the SAE, or for float16; what is committed by then stays."""
    x = near(sae, 4200)
    x[4150] = size * torch.load(sae, weights_only=True)["model_state_dict"]["enc"][:, 0].sign()
    memory = saestore.open(zarr.storage.MemoryStore(), mode="a")
    with raises(InvalidInputError, *expected, "row 4,150") as error:
        build(embeddings=x, segment_rows=2000, dtype=dtype, store=memory)
    assert "\n" not in str(error.value)
    assert not memory["Mine"].attributes.complete
    assert len(memory["Mine"]) == 4000
    x[4150] = 0
    assert build(embeddings=x, segment_rows=2000, dtype=dtype, store=memory, overwrite=True).attributes.complete


# Items.


def table(folder, header, *rows):
    (folder / "metadata.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "metadata.csv"


def test_metadata_without_needed_columns(tmp_path, refused, x):
    items = table(tmp_path, "split,red", *["train,0"] * 4)
    refused(InvalidInputError, "no-keys", "split, red", "key", embeddings=x, items=items)


def test_labels_other_than_0_and_1(tmp_path, refused, x):
    items = table(tmp_path, "image_path,color::red", "a,0", "b,1", "c,2", "d,0")
    refused(InvalidInputError, "invalid-label", "'color::red'", "'2'", "row 2", embeddings=x, items=items)


def test_empty_split(tmp_path, refused, x):
    items = table(tmp_path, "image_path,split", "a,train", "b,", "c,test", "d,cal")
    refused(InvalidInputError, "unknown-split", "split", "row 1", embeddings=x, items=items)


def test_no_such_metadata(tmp_path, refused, x):
    refused(NotFoundError, "no-such-file", "nowhere.csv", embeddings=x, items=tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("how", "code", "named"),
    [
        ({"items": 7}, "rows-per-item", ["40 rows", "7 items", "28 rows", "10 items"]),
        ({"items": 4, "item_ptr": 9}, "rows-per-item", ["4 items of 9 rows", "36 rows", "10 per item"]),
        ({"items": 4, "item_ptr": [0, 10, 40]}, "invalid-pointers", ["3 pointers", "4 items need 5"]),
        ({"items": 2, "item_ptr": [0, 10, 41]}, "invalid-pointers", [41, "40 rows"]),
        ({"items": 7, "sample_type": "cls"}, "rows-per-item", ["7 items", "40"]),
        ({"items": 4, "sample_type": "token"}, "missing-item-ptr", ["40 tokens", "4 texts"]),
        ({"items": 4, "token_spans": np.zeros((39, 2), int)}, "invalid-spans", ["(39, 2)", "(40, 2)"]),
    ],
)
def test_rows_that_do_not_fit_the_items(how, code, named, refused, x):
    items = {"image_path": [f"{i}.png" for i in range(how["items"])]}
    refused(InvalidInputError, code, *named, embeddings=x, **how | {"items": items})


# Options and names.


def test_unknown_dataset_names_the_nearest(refused, monkeypatch):
    monkeypatch.delenv("SAESTORE_SCRATCH", raising=False)
    refused(NotFoundError, "unknown-dataset", "'CLEVRR'", "'CLEVR'", dataset="CLEVRR")


def test_known_dataset_without_its_embeddings(tmp_path, refused, monkeypatch):
    monkeypatch.delenv("SAESTORE_SCRATCH", raising=False)
    refused(NotFoundError, "no-embeddings", "--embeddings", "SAESTORE_SCRATCH", dataset="CLEVR")


def test_embeddings_that_are_not_in_the_scratch_folder(tmp_path, refused, monkeypatch):
    monkeypatch.setenv("SAESTORE_SCRATCH", str(tmp_path / "scratch"))
    refused(
        NotFoundError,
        "no-embeddings",
        "Embeddings/CLEVR/CLIP_SAE_patch_embeddings_percentthrumodel_92",
        dataset="CLEVR",
    )


@pytest.mark.parametrize("name", ["a/b", "", "my data", "../up", ".hidden"])
def test_a_name_that_no_store_can_hold(name, refused, x):
    refused(InvalidInputError, "invalid-set-path", f"{name}/patch/", dataset=name, embeddings=x)


@pytest.mark.parametrize(
    ("how", "code", "named"),
    [
        ({"sample_type": "patches"}, "unknown-sample-type", ["'patches'", "'patch', 'token', 'cls'"]),
        ({"dtype": "bfloat16"}, "unknown-dtype", ["'bfloat16'", "float32", "float16"]),
        ({"dtype": "int8"}, "unknown-dtype", ["'int8'"]),
        ({"codec": "zip"}, "unknown-codec", ["'zip'", "'pcodec' or 'blosc'"]),
        ({"top_k": 0}, "bad-top-k", ["0"]),
        ({"top_k": -3}, "bad-top-k", ["-3"]),
        ({"top_k": "all"}, "not-an-integer", ["'all'"]),
        ({"device": 1.5}, "unusable-device", ["1.5"]),
        ({"include": 1.5}, "where-type", ["1.5"]),
        ({"segment_rows": 0}, "bad-segment-rows", ["0", "1 or more"]),
        ({"segment_rows": 2**32}, "bad-segment-rows", ["4294967296"]),
        ({"images": "folder"}, "several-inputs", ["embeddings, images and texts"]),
        ({"layer": 3}, "unused-option", ["layer"]),
        ({"progress": "yes"}, "bad-progress", ["'yes'"]),
        ({"ground_truth": True}, "bad-ground-truth", ["True"]),
        ({"device": "gpu"}, "unusable-device", ["'gpu'", "cpu"]),
        ({"device": "cuda:99"}, "unusable-device", ["'cuda:99'"]),
    ],
)
def test_options(how, code, named, refused, x):
    refused(InvalidInputError, code, *named, embeddings=x, **how)


def test_a_sample_type_that_the_dataset_has_not(refused):
    refused(InvalidInputError, "unknown-sample-type", "patch and cls", "'token'", dataset="CLEVR", sample_type="token")


# The store.


def test_store_is_a_file(tmp_path, build, x):
    (tmp_path / "file").write_text("precious")
    with raises(StoreFormatError, "not-a-store", "file"):
        build(embeddings=x, store=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
    with raises(StoreWriteError, "path-is-a-file", "file"):
        build(embeddings=x, store=tmp_path / "file" / "below")


def test_store_is_a_folder_with_other_things(tmp_path, build, x):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("precious")
    with raises(StoreFormatError, "not-a-store", "zarr.json"):
        build(embeddings=x, store=tmp_path / "folder")
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["thesis.tex"]


def test_store_is_other_zarr(tmp_path, build, x):
    zarr.create_group(tmp_path / "group", attributes={"mine": 1})
    zarr.create_array(tmp_path / "array", shape=(3,), dtype="int8")
    before = hashes(tmp_path)
    with raises(StoreFormatError, "not-a-store", "group"):
        build(embeddings=x, store=tmp_path / "group")
    with raises(StoreFormatError, "not-a-store", "array"):
        build(embeddings=x, store=tmp_path / "array")
    assert hashes(tmp_path) == before


@pytest.mark.parametrize("node", ["", "Mine/patch/tiny"])
def test_store_or_set_of_a_newer_format(node, tmp_path, build, x):
    build(embeddings=x)
    group = zarr.open_group(tmp_path / "store", path=node, mode="r+")
    group.attrs["format"] = 2
    before = hashes(tmp_path / "store")
    for overwrite in (False, True):
        with raises(StoreFormatError, "newer-format", "format 2", "format 1"):
            build(embeddings=x, overwrite=overwrite)
    assert hashes(tmp_path / "store") == before


def test_an_empty_folder_becomes_a_store(tmp_path, build, x):
    (tmp_path / "store").mkdir()
    assert build(embeddings=x).attributes.complete


def test_store_is_read_only(tmp_path, build, x):
    build("Another", embeddings=x)
    before = hashes(tmp_path / "store")
    with raises(StoreWriteError, "read-only"):
        build(embeddings=x, store=LocalStore(tmp_path / "store", read_only=True))
    with raises(StoreWriteError, "read-only", "mode='a'"):
        build(embeddings=x, store=saestore.open(tmp_path / "store"))
    with raises(StoreWriteError, "read-only"):
        build(embeddings=x, store=LocalStore(tmp_path / "new", read_only=True))
    assert hashes(tmp_path / "store") == before
    assert not (tmp_path / "store" / "Mine").exists()
    assert not (tmp_path / "new").exists()


@pytest.fixture
def read_only_disk(tmp_path, build, x):
    """A store on a file system that is mounted read-only: what a mode of 0555 is to anyone but root."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("there is no mount(8) here")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "none", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    build("Another", embeddings=x, store=place / "store")
    subprocess.run([mount, "-o", "remount,ro", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_file_system_is_read_only(read_only_disk, build, x):
    for name in ("store", "new"):
        with raises(StoreWriteError, "read-only", "--store"):
            build(embeddings=x, store=read_only_disk / name)
    assert len(saestore.open(read_only_disk / "store")["Another"]) == len(x)


# Memory.

PEAK = """
import sys, warnings, saestore.ingest.encoded_rows, saestore.writing.pipeline
import saestore.sae.encode, saestore.embeddings.base
import saestore.storage.arrays
warnings.simplefilter("ignore")
saestore.writing.pipeline.MERGE_MEMORY = 8 << 20
saestore.ingest.encoded_rows._CHECK_BYTES = saestore.sae.encode._BATCH_BYTES = 1 << 20
saestore.embeddings.base.REMAP_BYTES = 1 << 20
saestore.storage.arrays.SHARD = 1 << 17
folder, *numbers = sys.argv[1:]
for n in numbers:
    saestore.build(
        "Mine", store=f"{folder}/{n}", embeddings=f"{folder}/{n}.npy", sae=f"{folder}/sae.pt", progress=False,
        segment_rows=8192,
    )
    print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_peak_memory_does_not_grow_with_the_samples(tmp_path):
    """Every bound is a constant; here they are small, so that 40,000 samples are beyond each.

    Without the bound of a segment, a merge or the mapped rows 160,000 samples more take 70, 59 and 41 MB.
    """
    sae = clip_scope(tmp_path / "sae.pt", d_in=16, d_sae=512, k=8)
    x, numbers = near(sae, 20_000).numpy(), (40_000, 200_000)
    for n in numbers:
        np.save(tmp_path / f"{n}.npy", np.tile(x, (n // len(x), 1)))
    run = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path, *map(str, numbers)],
        cwd=PROJECT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    few, many = (int(peak) / 1024 for peak in run.stdout.split())
    assert many - few < 33, (few, many)
