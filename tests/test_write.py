"""Ready matrices into a store: exactly what scipy says they hold, or one error and nothing written."""

import errno
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from raising import raises
from strategies import PATH, append_segments, layout, make_case, scratch_store, write_case, write_segments
from zarr.storage import LocalStore

import saestore
from saestore.errors import InvalidInputError, NotFoundError, StoreConflictError, StoreWriteError
from saestore.plot.images import find_image
from saestore.writing import SetWriter

FORMATS = ["coo", "csr", "csc", "lil", "dok", "bsr", "dia"]


def stored(matrix, **kwargs):
    """The set that a matrix becomes."""
    acts = scratch_store().write(PATH, matrix, **kwargs)
    assert acts.nnz == np.count_nonzero(acts.dense())
    return acts


@pytest.mark.parametrize("old", [False, True], ids=["array", "matrix"])
@pytest.mark.parametrize("form", FORMATS)
def test_any_scipy_format_is_stored_exactly_and_left_as_it_was(form, old):
    case = make_case(1, 21, 9, density=0.4, palette="signed")
    matrix = getattr(sp, f"{form}_{'matrix' if old else 'array'}")(case.csr)
    acts = stored(matrix, segment_rows=8)
    assert acts.dtype == np.float32
    assert np.array_equal(acts.dense(), case.dense)
    assert np.array_equal(matrix.toarray(), case.dense)


def test_duplicates_are_summed_and_explicit_zeros_dropped():
    rows, columns = [0, 0, 0, 2, 2, 3, 3, 1], [1, 1, 4, 0, 0, 2, 2, 3]
    values = np.array([1, 2, 0, 5, -5, -0.0, 0.0, 0.25], np.float32)
    coo = sp.coo_array((values, (rows, columns)), shape=(5, 6))
    unsorted = sp.csr_array((np.array([3, 1, 0.5], np.float32), np.array([4, 1, 4]), np.array([0, 3])), shape=(1, 6))
    assert np.array_equal(stored(coo).dense(), coo.toarray())
    assert stored(coo).nnz == 2
    assert stored(unsorted).dense().tolist() == [[0, 1, 0, 0, 3.5, 0]]
    assert unsorted.nnz == 3  # the caller's own is left as it was


def test_the_callers_matrix_is_not_changed():
    matrix = sp.csr_array((np.array([1, 1, 0], np.float32), np.array([2, 2, 1]), np.array([0, 3])), shape=(1, 3))
    before = matrix.data.copy(), matrix.indices.copy(), matrix.indptr.copy()
    scratch_store().write(PATH, matrix)
    for a, b in zip(before, (matrix.data, matrix.indices, matrix.indptr), strict=True):
        assert np.array_equal(a, b)


KEPT = [
    ("bool", [True, True], "float32"),
    ("int8", [127, -128], "float32"),
    ("uint16", [65_535, 1], "float32"),
    ("int32", [2**24, -(2**24)], "float32"),
    ("int32", [2**24 + 1, 1], "float64"),
    ("int64", [2**53, -(2**53)], "float32"),
    ("int64", [2**53 - 1, 1], "float64"),
    ("uint64", [2**63, 1], "float32"),
    ("float32", [1e-45, 3.4e38], "float32"),
    ("float64", [0.1, -1e300], "float64"),
    ("float16", [0.1, 65_504], "float32"),
    (">f4", [0.1, -2.0], "float32"),
    (">f8", [0.1, -2.0], "float64"),
    (">i4", [7, 2**24 + 1], "float64"),
]


@pytest.mark.parametrize(("dtype", "values", "kept"), KEPT, ids=[f"{d} {v[0]}" for d, v, _ in KEPT])
def test_values_are_kept_exactly_in_a_float_that_holds_them(dtype, values, kept):
    values = np.array(values, dtype)
    acts = stored(sp.csr_array((values, np.array([0, 3]), np.array([0, 1, 2])), shape=(2, 4)))
    assert acts.dtype == kept
    assert [acts.dense(0, 0), acts.dense(1, 3)] == values.tolist()


REFUSED = [
    (np.array([2**53 + 1, 1]), None, "inexact-value", (2**53 + 1, "int64")),
    (np.array([2**64 - 1], np.uint64), None, "inexact-value", (2**64 - 1, "uint64")),
    (np.array([2**63 - 1]), None, "inexact-value", (2**63 - 1,)),
    (np.array([1 + 2j]), None, "bad-dtype", ("complex128",)),
    (np.array([0.1]), "float32", "inexact-value", ("float32",)),
    (np.array([70_000.0]), "float16", "inexact-value", ("70000.0", "float64", "float16")),
    (np.array([2049], np.int32), "float16", "inexact-value", (2049, "float16")),
    (np.array([1.0]), "int8", "unknown-dtype", ("'int8'", "'float16', 'float32', 'float64'")),
]


@pytest.mark.parametrize(("values", "dtype", "code", "named"), REFUSED)
def test_values_that_no_float_holds_are_refused_and_nothing_is_written(values, dtype, code, named):
    store = scratch_store()
    matrix = sp.csr_array((values, np.arange(len(values)), np.array([0, len(values)])), shape=(1, 5))
    with raises(InvalidInputError, code, *named):
        store.write(PATH, matrix, dtype=dtype)
    assert list(store) == []


def test_float16_is_stored_where_it_holds_every_value():
    case = make_case(2, 20, 8, palette="ties", dtype="float16")
    acts = stored(case.csr, dtype="float16")
    assert acts.dtype == np.float16
    assert np.array_equal(acts.dense(), case.dense)
    assert acts.sparse().dtype == np.float32


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_finite_is_named_by_sample_and_feature(value, dtype):
    dense = make_case(1, 20, 8, density=0.5).dense.astype(dtype)
    dense[13] = 0
    dense[13, 5] = value
    store = scratch_store()
    with raises(InvalidInputError, "not-finite", "sample 13, feature 5", value):
        store.write(PATH, sp.coo_array(dense))
    assert list(store) == []


def test_float64_duplicates_that_add_up_to_infinity_are_named():
    top = np.finfo(np.float64).max
    matrix = sp.coo_array(([top, top], ([1, 1], [2, 2])), shape=(3, 4))
    with raises(InvalidInputError, "not-finite", "sample 1, feature 2", "inf"):
        scratch_store().write(PATH, matrix)


# Codes of other rooms are theirs to choose: None here.
BAD = {
    "dense": ({"matrix": np.eye(3)}, "not-sparse", "ndarray"),
    "no samples": ({"matrix": sp.csr_array((0, 5))}, "bad-shape", "(0, 5)"),
    "no features": ({"matrix": sp.csr_array((5, 0))}, "bad-shape", "(5, 0)"),
    "codec": ({"codec": "gzip"}, "unknown-codec", "'gzip'"),
    "segment_rows": ({"segment_rows": 0}, "bad-segment-rows", "0"),
    "one level": ({"path": "Shapes"}, None, "'Shapes'"),
    "four levels": ({"path": "a/b/c/d"}, None, "'a/b/c/d'"),
    "dots": ({"path": "a/../c"}, None, "'a/../c'"),
    "space": ({"path": "a b/c/d"}, None, "'a b/c/d'"),
    "leading slash": ({"path": "/a/b/c"}, None, "'/a/b/c'"),
    "trailing slash": ({"path": "a/b/c/"}, None, "'a/b/c/'"),
    "empty part": ({"path": "a//c"}, None, "'a//c'"),
    "long name": ({"path": f"a/b/{'c' * 256}"}, None, "at most 255"),
    "too few rows": ({"item_ptr": [0, 3]}, None, "3"),
    "falling": ({"item_ptr": [0, 4, 3, 6]}, None, "from 4 to 3"),
    "uneven size": ({"item_ptr": 4}, None, "4"),
    "uneven items": ({"items": {"text": ["a"] * 4}}, None, "6 rows"),
    "pointers and items": ({"items": {"text": ["a"] * 4}, "item_ptr": [0, 6]}, None, "4 items"),
    "labels": ({"items": {"text": ["a"] * 6, "x::y": [0, 1, 2, 0, 1, 2]}}, None, "x::y"),
    "spans": ({"token_spans": np.zeros((5, 2), int)}, None, "(5, 2)"),
    "reserved": ({"source": {"kind": "mine"}}, "reserved-name", "'kind'"),
    "not JSON": ({"source": {"when": object()}}, "bad-source", "object"),
    "progress": ({"progress": 3}, "bad-progress", "3"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_one_error_and_nothing_is_written(tmp_path, case):
    wrong, code, named = BAD[case]
    arguments = {"path": PATH, "matrix": sp.csr_array(np.eye(6, dtype=np.float32)), **wrong}
    store = saestore.open(tmp_path / "a.zarr", "a")
    with pytest.raises(InvalidInputError) as caught:
        store.write(**arguments)
    assert code in (None, caught.value.code)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [f.name for f in (tmp_path / "a.zarr").rglob("*") if f.is_file()] == ["zarr.json"]


def test_items_say_which_rows_are_theirs():
    matrix = sp.csr_array(np.eye(6, dtype=np.float32))
    one_each = scratch_store().write(PATH, matrix)
    assert (one_each.n_items, one_each.top_samples(4).item.tolist()) == (6, [4])
    even = scratch_store().write(PATH, matrix, items={"text": ["a", "b"]})
    assert (even.n_items, even.top_samples(4).item.tolist(), even.top_samples(4).position.tolist()) == (2, [1], [1])
    by_size = scratch_store().write(PATH, matrix, 2)
    assert (by_size.n_items, by_size.top_samples(5).item.tolist()) == (3, [2])
    ragged = scratch_store().write(PATH, matrix, [0, 0, 1, 6, 6])
    found = ragged.top_samples(range(6))
    assert found.item.tolist() == [1, 2, 2, 2, 2, 2]
    assert found.position.tolist() == [0, 0, 1, 2, 3, 4]
    assert ragged.n_items == 4


def test_items_come_back_as_they_were():
    case = make_case(4, 30, 6)
    acts = write_case(scratch_store(), case)
    assert acts.items.names() == ["key", "split", "weight"]
    assert acts.items.column("key").tolist() == case.items["image_path"]
    assert acts.items.column("split").tolist() == case.items["split"]
    assert acts.items.column("weight").tolist() == case.items["weight"]
    assert acts.items.concept_names == ["color::red"]
    assert np.array_equal(acts.items.column("color::red"), case.red)
    for ask, code in ((acts.items.column, "unknown-column"), (acts.concepts.mask, "unknown-concept")):
        with raises(saestore.errors.NotFoundError, code, "'colour'"):
            ask("colour")


def test_columns_of_any_name_are_kept():
    names = {"a/b": [1, 2], "ptr": [3, 4], "concepts": ["x", "y"], "c": [0.5, 1.5], "über": [7, 8], "__x": [9, 10]}
    acts = scratch_store().write(PATH, sp.csr_array(np.eye(2)), items={"text": ["p", "q"], **names})
    for name, values in names.items():
        assert acts.items.column(name).tolist() == values


def test_other_content_is_refused_unless_it_shall_replace():
    store = scratch_store()
    first, second = make_case(1, 20, 8), make_case(2, 33, 5)
    write_case(store, first)
    with raises(StoreConflictError, "different-content", PATH, "matrix (", "overwrite=True"):
        write_case(store, second)
    with SetWriter(store.root, PATH) as writer, raises(StoreConflictError, "set-exists", PATH, "overwrite=True"):
        writer.start(writer.attributes, lambda _, attributes: attributes)
    assert np.array_equal(store[PATH].dense(), first.dense)
    acts = write_case(store, second, overwrite=True)
    assert np.array_equal(acts.dense(), second.dense)
    assert store.verify().ok


MATRIX = sp.csr_array(np.diag(np.arange(1, 7, dtype=np.float32)))
OTHER = {
    "matrix": {"matrix": 2 * MATRIX},
    "items": {"items": {"text": list("abcdefg")[:6]}},
    "token_spans": {"token_spans": np.ones((6, 2), int)},
    "SAE": {"sae": "another"},
    "source model": {"source": {"model": "another"}},
    "dtype": {"dtype": "float64"},
    "codec": {"codec": "blosc"},
    "segment_rows": {"segment_rows": 3},
}


@pytest.mark.once
@pytest.mark.parametrize("what", OTHER)
def test_what_differs_is_named(what):
    store = scratch_store()
    arguments = {"path": PATH, "matrix": MATRIX, "sae": "one", "source": {"model": "one"}, "segment_rows": 2}
    store.write(**arguments)
    before = store[PATH].attributes
    with raises(StoreConflictError, "different-content", f"{what} ("):
        store.write(**arguments | OTHER[what])
    assert store[PATH].attributes == before


def test_the_same_again_leaves_a_complete_set_as_it_is(tmp_path):
    store, lines = saestore.open(tmp_path / "a.zarr", "a"), []
    case = make_case(1, 20, 8, segment_rows=5)
    write_case(store, case)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a.zarr").rglob("*")}
    acts = write_case(store, case, progress=lines.append)
    assert np.array_equal(acts.dense(), case.dense)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a.zarr").rglob("*")} == before
    assert lines == [f"{PATH} is complete already (20 samples); nothing to do."]


class Stopped(Exception):
    pass


def test_an_interrupted_write_goes_on_after_what_is_committed(tmp_path):
    case = make_case(1, 20, 8, segment_rows=5, density=0.5)
    store = saestore.open(tmp_path / "a.zarr", "a")

    def stop(line):
        if line.startswith(f"{PATH}: 15 of 20 samples read"):
            raise Stopped

    with pytest.raises(Stopped):
        write_case(store, case, progress=stop)
    assert store[PATH].shape == (10, 8)
    assert np.array_equal(store[PATH].dense(), case.dense[:10])
    other = replace(case, dense=2 * case.dense)
    with raises(StoreConflictError, "different-content", "matrix ("):
        write_case(store, other)
    lines = []
    acts = write_case(store, case, progress=lines.append)
    assert [line.split(",")[0] for line in lines[:3]] == [
        f"{PATH}: going on after 10 of 20 samples.",
        f"{PATH}: 15 of 20 samples read",
        f"{PATH}: 20 of 20 samples read",
    ]
    assert np.array_equal(acts.dense(), case.dense)
    write_case(saestore.open(tmp_path / "b.zarr", "a"), case)
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "b.zarr")


def test_spans_source_sae_and_images_are_recorded(tmp_path):
    (tmp_path / "images").mkdir()
    spans = np.array([[0, 1], [1, 3], [0, 2], [2, 5], [5, 6], [6, 9]])
    acts = scratch_store().write(
        PATH, MATRIX, items={"text": ["abc", "defghi jk"]}, item_ptr=[0, 2, 6], token_spans=spans,
        sae={"name": "mine", "k": 32}, source={"model": "gemma", "layers": (3, 4)}, images=tmp_path / "images",
    )  # fmt: skip
    assert np.array_equal(acts.spans(), spans)
    assert acts.attributes.sae == {"name": "mine", "k": 32}
    source = acts.attributes.source
    assert (source["kind"], source["model"], source["layers"]) == ("matrix", "gemma", [3, 4])
    assert source["images"] == str(tmp_path / "images")
    (tmp_path / "images" / "a.png").write_bytes(b"")
    assert find_image(acts, "a.png", None) == tmp_path / "images" / "a.png"


def test_an_sae_that_is_not_at_hand_is_recorded_by_its_name(tmp_path):
    def recorded(sae):
        return scratch_store().write(PATH, MATRIX, sae=sae).attributes.sae

    assert recorded(None) == {}
    assert recorded("gemma-scope") == {"name": "gemma-scope"}
    assert recorded("release:layer/4") == {"name": "sae", "release": "release", "sae_id": "layer/4"}
    assert recorded({"k": 4}) == {"name": "sae", "k": 4}
    for missing in (tmp_path / "nowhere", "no/such/folder", "missing.pt"):
        with raises(NotFoundError, "missing-sae", missing):
            recorded(missing)
    with raises(NotFoundError, "missing-images", "nowhere"):
        scratch_store().write(PATH, MATRIX, images=tmp_path / "nowhere")


def test_an_sae_that_can_be_loaded_is_recorded_with_its_fingerprint(tmp_path):
    pytest.importorskip("torch")
    from build_helpers import clip_scope

    from saestore.sae import load_sae

    path = clip_scope(tmp_path / "mine.pt", d_in=4, d_sae=6, k=2)
    loaded = load_sae(path)
    for given in (path, str(path), loaded):
        sae = scratch_store().write(PATH, MATRIX, sae=given).attributes.sae
        assert (sae["name"], sae["d_sae"], sae["fingerprint"]) == ("mine", 6, loaded.fingerprint())
    with raises(InvalidInputError, "wrong-width", "5"):
        scratch_store().write(PATH, MATRIX[:, :5], sae=path)


def test_a_build_that_is_not_finished_is_not_overwritten_by_a_write():
    store = scratch_store()
    case = make_case(1, 20, 8, segment_rows=5)
    write_segments(store, case, upto=10)
    with raises(StoreConflictError, "different-content", "overwrite=True"):
        write_case(store, case)
    assert store[PATH].shape == (10, 8)


def test_a_set_can_be_asked_while_it_grows():
    store = scratch_store()
    case = make_case(1, 20, 8, segment_rows=5, density=0.5)
    for rows in (5, 10, 20):
        acts = write_segments(store, case, upto=rows)
        assert acts.shape == (rows, 8)
        assert not acts.attributes.complete
        assert "building: 20 planned" in repr(acts)
        assert np.array_equal(acts.dense(), case.dense[:rows])
        assert store.verify().ok
    with SetWriter(store.root, PATH) as writer:
        writer.finish()
    assert store[PATH].attributes.complete


def test_a_set_that_lacks_rows_is_not_finished():
    store = scratch_store()
    case = make_case(1, 20, 8, segment_rows=5)
    write_segments(store, case, upto=10)
    with SetWriter(store.root, PATH) as writer, raises(InvalidInputError, "incomplete-set", "10 of 20"):
        writer.finish()


def test_a_deleted_set_leaves_nothing(tmp_path):
    store = saestore.open(tmp_path / "a.zarr", "a")
    case = make_case(1, 20, 8)
    write_case(store, case)
    write_case(store, case, "Shapes/patch/other")
    store.delete("sae")
    assert list(store) == ["Shapes/patch/other"]
    assert store.verify().ok
    store.delete("other")
    assert list(store) == []
    assert store.verify().ok
    write_case(store, case, "Shapes/patch/other")
    assert not (tmp_path / "a.zarr" / PATH).exists()
    assert store.verify().ok


def test_a_path_is_found_by_any_part_that_fits_one_set():
    store = scratch_store()
    case = make_case(1, 4, 3)
    for path in ("CLEVR/patch/a-1", "CLEVR/cls/a-1", "Coco/patch/b-2"):
        write_case(store, case, path)
    assert list(store) == list(store.keys()) == ["CLEVR/cls/a-1", "CLEVR/patch/a-1", "Coco/patch/b-2"]
    assert len(store) == 3
    for part, path in {"CLEVR/patch": "CLEVR/patch/a-1", "b-2": "Coco/patch/b-2", "cls": "CLEVR/cls/a-1"}.items():
        assert store[part].path == path
        assert part in store
    with raises(NotFoundError, "ambiguous-set", "'CLEVR'", "CLEVR/cls/a-1, CLEVR/patch"):
        store["CLEVR"]
    with raises(NotFoundError, "unknown-set", "'CLVER'", "Did you mean 'CLEVR'") as caught:
        store["CLVER"]
    assert isinstance(caught.value, KeyError)
    for part in ("CLEV", "patch/b", "nothing", "CLEVR/patch/a-2", "CLEVR/patch/a-1/segments"):
        assert part not in store


def test_a_store_is_a_mapping_that_opens_a_set_when_it_is_asked_for(monkeypatch):
    store = scratch_store()
    case = make_case(1, 4, 3)
    paths = ["A/patch/b", "A/patch/c", "B/cls/a"]
    for path in reversed(paths):
        write_case(store, case, path)
    assert isinstance(store, Mapping)
    assert list(store) == list(store.keys()) == paths
    opened = []
    monkeypatch.setattr("saestore.activation_set.ActivationSet", lambda _, path: opened.append(path) or path)
    pairs = iter(store.items())
    assert opened == []
    assert next(pairs) == ("A/patch/b", "A/patch/b")
    assert opened == paths[:1]
    assert list(store.values()) == paths
    assert store.get("nothing") is None
    assert store.get("cls") == "B/cls/a"
    assert store != saestore.open(store.root.store)
    assert len({store, saestore.open(store.root.store)}) == 2


# A full disk, and being killed: what is committed stays, and the next call goes on.


def tree(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def fail_at(monkeypatch, n, error):
    """Make the n-th write of any local store fail."""
    left = [n]
    for name in ("set", "set_sync"):
        if not hasattr(LocalStore, name):
            continue
        original = getattr(LocalStore, name)

        async def asynchronous(self, key, value, original=original):
            left[0] -= 1
            if left[0] == 0:
                raise error
            return await original(self, key, value)

        def synchronous(self, key, value, original=original):
            left[0] -= 1
            if left[0] == 0:
                raise error
            return original(self, key, value)

        monkeypatch.setattr(LocalStore, name, asynchronous if name == "set" else synchronous)


@pytest.mark.once
@pytest.mark.parametrize("at", [1, 8, 40, 80, 100])
def test_a_disk_that_is_full_is_told_and_the_next_call_goes_on(tmp_path, at):
    case = make_case(1, 20, 8, segment_rows=5, density=0.5)
    undisturbed = saestore.open(tmp_path / "b.zarr", "a")
    write_segments(undisturbed, case)
    store = saestore.open(tmp_path / "a.zarr", "a")
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, at, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        with raises(StoreWriteError, "disk-full", "a.zarr") as caught:
            write_segments(store, case)
    assert "What is committed is safe" in str(caught.value)
    assert "\n" not in str(caught.value)
    committed = store[PATH].shape[0] if PATH in store else 0
    if committed:
        assert np.array_equal(store[PATH].dense(), case.dense[:committed])
    write_segments(store, case)
    for each in (store, undisturbed):
        with SetWriter(each.root, PATH) as writer:
            writer.finish()
    assert np.array_equal(store[PATH].dense(), case.dense)
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "b.zarr")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_place_that_may_not_be_written_is_told(tmp_path, monkeypatch, code):
    store = saestore.open(tmp_path / "a.zarr", "a")
    fail_at(monkeypatch, 3, OSError(code, os.strerror(code)))
    with pytest.raises(StoreWriteError) as caught:
        write_case(store, make_case(1, 5, 4))
    assert f"it is read-only for this user ({os.strerror(code)})" in str(caught.value)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with room for 512 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full_keeps_what_is_committed(small_disk):
    case = make_case(1, 6000, 40, density=0.7, palette="signed", segment_rows=1000)
    store = saestore.open(small_disk / "a.zarr", "a")
    with raises(StoreWriteError, "disk-full", "a.zarr"):
        write_segments(store, case)
    acts = saestore.open(small_disk / "a.zarr")[PATH]
    committed = acts.shape[0]
    assert 0 < committed < 6000
    assert np.array_equal(acts.dense(), case.dense[:committed])
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    assert np.array_equal(write_segments(store, case).dense(), case.dense)
    assert store.verify().ok


def test_leftovers_of_a_killed_write_are_invisible_and_then_gone(tmp_path):
    case = make_case(1, 20, 8, segment_rows=5, density=0.5)
    store = saestore.open(tmp_path / "a.zarr", "a")
    write_segments(store, case, upto=10)
    segments = tmp_path / "a.zarr" / PATH / "segments"
    (segments / "10-15" / "by_sample").mkdir(parents=True)
    (segments / "10-15" / "by_sample" / "zarr.json").write_text("{}")
    (segments / "0-5" / "sum" / "c" / "0.0123.partial").write_bytes(b"half")
    assert np.array_equal(store[PATH].dense(), case.dense[:10])
    report = store.verify()
    assert {p.node.removeprefix(f"{PATH}/segments/") for p in report.problems} == {
        "10-15/by_sample/zarr.json",
        "0-5/sum/c/0.0123.partial",
    }
    acts = write_segments(store, case)
    assert np.array_equal(acts.dense(), case.dense)
    assert store.verify().ok


@pytest.mark.once
def test_killed_anywhere_and_started_again_it_ends_with_the_same_bytes(tmp_path, project_dir):
    """A build, a write and a merge of segments."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{project_dir}{os.pathsep}{here}"}
    subprocess.run([sys.executable, here / "killing.py", tmp_path], env=environment, check=True, timeout=600)


def test_segments_beside_a_layout_of_many_shards_are_the_same(tmp_path):
    case = make_case(5, 40, 12, density=0.6, segment_rows=9, chunk=7, shard=21)
    store = saestore.open(tmp_path / "a.zarr", "a")
    with layout(case), SetWriter(store.root, PATH) as writer:
        append_segments(writer, case)
        writer.finish(memory=1)
    assert np.array_equal(store[PATH].dense(), case.dense)
    assert store.verify().ok


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr"])
@pytest.mark.parametrize(("width", "bad"), [(65536, -1), (65536, 65536), (30, 65541), (30, 30), (30, 2**32)])
def test_ids_are_checked_before_they_are_narrowed(form, width, bad):
    """scipy does not look again at numbers that are set later; a narrower dtype would turn them into other features."""
    matrix = sp.csr_array((np.float32([1, 2]), [0, 1], [0, 1, 2]), shape=(2, width)).asformat(form)
    axis = 0 if form == "csc" else 1
    if form == "coo":
        matrix.coords = (matrix.row.astype(np.int64), np.array([0, bad]))
    else:
        matrix.indices = np.r_[matrix.indices[:-1].astype(np.int64), bad]
    store = scratch_store()
    limit = matrix.shape[axis] // (matrix.blocksize[1] if form == "bsr" else 1)
    if bad < 0 or bad >= limit:
        with raises(InvalidInputError, "id-out-of-range", bad):
            store.write(PATH, matrix)
    assert list(store) == []


def test_pointers_that_do_not_fit_are_refused():
    matrix = sp.csr_array((np.float32([1, 2]), [0, 1], [0, 1, 2]), shape=(2, 3))
    matrix.indptr = np.array([0, 900, 2])
    with raises(InvalidInputError, "bad-pointers"):
        scratch_store().write(PATH, matrix)
