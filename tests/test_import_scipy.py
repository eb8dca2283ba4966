"""`saestore.import_activations` of scipy's `.npz`, and what every import has in common."""

import zipfile

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises
from strategies import cases, make_case, scratch_store

import saestore
from saestore.errors import InvalidInputError, NotFoundError, StoreConflictError

PATH = "Shapes/patch/sae"
FORMATS = ["csr", "csc", "coo", "bsr", "dia"]


def save(folder, matrix, name="x.npz", **how):
    sp.save_npz(folder / name, matrix, **how)
    return folder / name


def imported(path, store=None, **how):
    return saestore.import_activations(PATH, path, store=store or scratch_store(), **how)


def faults(acts):
    return {fault["kind"]: fault for fault in acts.attributes.source["faults"]}


@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
@settings(max_examples=8)
@given(case=cases(), kind=st.sampled_from(FORMATS))
def test_what_scipy_saves_is_what_is_stored(case, kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("npz")
    matrix = case.csr.asformat(kind)
    acts = imported(save(folder, matrix, compressed=case.split[0] == 0), segment_rows=case.segment_rows)
    assert np.array_equal(acts.dense(), matrix.toarray())
    assert acts.attributes.complete
    assert acts.dtype == matrix.dtype


def test_the_width_of_ids_is_that_of_the_matrix(tmp_path):
    for width in (1 << 16, (1 << 16) + 1):
        dense = sp.csr_array(([1.5, -2.0], ([0, 2], [0, width - 1])), shape=(3, width), dtype=np.float32)
        acts = imported(save(tmp_path, dense))
        assert (acts.sparse() != dense).nnz == 0
        assert acts.feature(width - 1).activation.tolist() == [-2.0]


def test_a_store_verifies_and_says_where_it_came_from(tmp_path):
    case = make_case(1, 30, 9)
    path = save(tmp_path, case.csr)
    acts = imported(path, tmp_path / "s.zarr", item_ptr=case.item_ptr, items=case.items)
    assert saestore.open(tmp_path / "s.zarr").verify().ok
    source, sae = acts.attributes.source, acts.attributes.sae
    assert (source["kind"], source["format"], source["path"]) == ("import", "scipy", str(path))
    assert sae["name"] == "sae"
    assert sae["architecture"] is sae["hook_name"] is sae["fingerprint"] is None
    assert acts.items.column("split").tolist() == case.items["split"]
    assert acts.item_index.pointers().tolist() == case.item_ptr.tolist()


def test_integers_become_floats_that_equal_them(tmp_path):
    for dtype, stored in ((np.int8, "float32"), (np.int64, "float64"), (bool, "float32")):
        matrix = sp.csr_array(np.array([[0, 1], [1, 0]], dtype))
        assert imported(save(tmp_path, matrix)).dtype == stored
    large = sp.csr_array(np.array([[2**53 + 1, 0]], np.int64))
    with raises(InvalidInputError, "inexact-value", "9007199254740993", "float64"):
        imported(save(tmp_path, large))
    with raises(InvalidInputError, "unsupported-dtype", "complex64"):
        imported(save(tmp_path, sp.csr_array(np.eye(2, dtype=np.complex64))))


def raw_csr(folder, indptr, indices, data, shape, **other):
    """What save_npz would write, had the matrix these arrays."""
    np.savez(folder / "raw.npz", indices=indices, indptr=indptr, format=b"csr", shape=shape, data=data, **other)
    return folder / "raw.npz"


def test_faults_are_counted_and_told(tmp_path):
    path = raw_csr(
        tmp_path,
        indptr=[0, 3, 3, 6],
        indices=[4, 1, 2, 0, 3, 3],
        data=np.array([1, 0, -2, 5, 1, 2], np.float32),
        shape=[3, 5],
    )
    acts = imported(path)
    assert np.array_equal(acts.dense(), [[0, 0, -2, 0, 1], [0] * 5, [5, 0, 0, 3, 0]])
    found = faults(acts)
    assert {kind: (f["severity"], f["count"]) for kind, f in found.items()} == {
        "explicit_zeros": ("info", 1),
        "negative": ("info", 1),
        "unsorted": ("fixed", 1),
        "summed_duplicates": ("fixed", 1),
    }
    assert "row 2 has feature 3" in found["summed_duplicates"]["message"]


@pytest.mark.parametrize(
    ("indices", "data", "kind", "message"),
    [
        ([0, 5], [1, 1], "id_out_of_range", "row 1 has 5; check --n-features"),
        ([0, -1], [1, 1], "id_out_of_range", "1 feature id outside of 0 to 4: row 1 has -1"),
        ([0, 2], [1, np.nan], "not_finite", "1 activation not finite: row 1, feature 2 is nan"),
        ([0, 2], [np.inf, -np.inf], "not_finite", "2 activations not finite: row 0, feature 0 is inf"),
    ],
)
def test_what_would_change_answers_is_refused(tmp_path, indices, data, kind, message):
    path = raw_csr(tmp_path, [0, 1, 2], np.array(indices), np.array(data, np.float32), [2, 5])
    with raises(InvalidInputError, "errors-in-file", "raw.npz", message):
        imported(path, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()
    report = saestore.check_import(PATH, path)
    assert not report.ok
    assert [(f.kind, f.severity) for f in report.faults] == [(kind, "error")]
    assert message in report.faults[0].message


def test_a_sum_that_overflows_is_refused(tmp_path):
    big = np.finfo(np.float32).max
    path = raw_csr(tmp_path, [0, 2], [1, 1], np.array([big, big], np.float32), [1, 3])
    with raises(InvalidInputError, "errors-in-file", "row 0, feature 1 is inf"):
        imported(path)


def test_float16_is_kept_and_its_infinity_explained(tmp_path):
    path = raw_csr(tmp_path, [0, 2], [0, 2], np.array([0.5, 65504], np.float16), [1, 3])
    acts = imported(path)
    assert acts.dtype == np.float16
    assert acts.dense().tolist() == [[0.5, 0, 65504]]
    path = raw_csr(tmp_path, [0, 1], [0], np.array([np.inf], np.float16), [1, 3])
    with raises(InvalidInputError, "errors-in-file", "float16", "65,504"):
        imported(path)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-200])


def without(name):
    def change(path):
        with zipfile.ZipFile(path) as archive:
            kept = {n: archive.read(n) for n in archive.namelist() if n != f"{name}.npy"}
        with zipfile.ZipFile(path, "w") as archive:
            for n, content in kept.items():
                archive.writestr(n, content)

    return change


def flipped(path):
    """One bit of the stored activations: the archive's own checksum must tell."""
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("data.npy").header_offset
    content = bytearray(path.read_bytes())
    content[at + 200] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "error", "code"),
    [
        (truncated, InvalidInputError, "damaged-file"),
        (without("shape"), InvalidInputError, "not-a-matrix"),
        (without("indptr"), NotFoundError, "no-such-array"),
        (flipped, InvalidInputError, "damaged-file"),
        (lambda path: path.write_bytes(b"hello"), InvalidInputError, "damaged-file"),
    ],
)
@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_damage_is_one_clear_error(tmp_path, damage, error, code, kind):
    path = save(tmp_path, make_case(2, 200, 9).csr.asformat(kind), compressed=False)
    damage(path)
    with raises(error, code, path):
        imported(path, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"indptr": [0, 2, 1, 3]}, "damaged-file", "indptr"),
        ({"indptr": [0, 1, 2, 9]}, "damaged-file", "3"),
        ({"indptr": [0, 1]}, "damaged-file", "4"),
        ({"shape": [0, 5]}, "bad-shape", "[0, 5]"),
        ({"shape": [3, 5, 7]}, "bad-shape", "[3, 5, 7]"),
        ({"format": b"lil"}, "not-a-matrix", "'lil'"),
        ({"data": np.array([{}, {}, {}])}, "pickled", "data"),
    ],
)
def test_arrays_that_contradict_each_other(tmp_path, change, code, named):
    arrays = {"indptr": [0, 1, 2, 3], "indices": [0, 1, 2], "data": np.ones(3, np.float32), "shape": [3, 5]}
    np.savez(tmp_path / "raw.npz", **{"format": b"csr", **arrays, **change})
    with raises(InvalidInputError, code, "raw.npz", named):
        imported(tmp_path / "raw.npz")


@pytest.mark.parametrize("kind", ["csc", "coo"])
def test_a_sample_out_of_range_is_damage(tmp_path, kind):
    arrays = {"csc": {"indptr": [0, 2], "indices": [0, 7]}, "coo": {"row": [0, 7], "col": [0, 0]}}[kind]
    np.savez(tmp_path / "raw.npz", format=kind.encode(), shape=[3, 1], data=np.ones(2, np.float32), **arrays)
    with raises(InvalidInputError, "damaged-file", "7", "3"):
        imported(tmp_path / "raw.npz")


def test_items_that_do_not_fit(tmp_path):
    case = make_case(1, 30, 9)
    path = save(tmp_path, case.csr)
    with raises(InvalidInputError, "rows-per-item", "30 rows", "7 items"):
        imported(path, items={"image_path": list("abcdefg")})
    with raises(InvalidInputError, "missing-item-ptr", "30 tokens"):
        saestore.import_activations("A/token/x", path, items={"text": ["a", "b"]}, store=scratch_store())
    with raises(InvalidInputError, "unknown-sample-type", "'pixel'"):
        saestore.import_activations("A/pixel/x", path, store=scratch_store())
    with raises(InvalidInputError, "missing-sae", "A/patch"):
        saestore.import_activations("A/patch", path, store=scratch_store())
    with raises(InvalidInputError, "wrong-width", "9 features", "10"):
        imported(path, n_features=10)


def test_nothing_is_mixed(tmp_path):
    case, store = make_case(1, 30, 9), tmp_path / "s.zarr"
    path, other = save(tmp_path, case.csr), save(tmp_path, 2 * case.csr, "other.npz")
    imported(path, store)
    before = saestore.open(store)[PATH].attributes
    assert imported(path, store).attributes == before  # complete, so nothing to do
    with raises(StoreConflictError, "different-content", "files ("):
        imported(other, store)
    with raises(StoreConflictError, "different-content", "items ("):
        imported(path, store, item_ptr=3)
    with raises(StoreConflictError, "different-content", "codec ("):
        imported(path, store, codec="blosc")
    assert saestore.open(store)[PATH].attributes == before
    assert np.array_equal(imported(other, store, overwrite=True).dense(), 2 * case.dense)
    saestore.open(store, "a").write("Shapes/patch/written", case.csr)
    with raises(StoreConflictError, "different-content", "kind (matrix there, import now)"):
        saestore.import_activations("Shapes/patch/written", path, store=store)


def test_the_input_may_move_and_is_known_again(tmp_path):
    case, store = make_case(1, 30, 9), tmp_path / "s.zarr"
    path = save(tmp_path, case.csr)
    imported(path, store)
    path.rename(tmp_path / "moved.npz")
    said = []
    imported(tmp_path / "moved.npz", store, progress=said.append)
    assert said == [f"{PATH} is complete already (30 samples); nothing to do."]


@pytest.mark.once
def test_reads_stay_within_a_block(tmp_path, monkeypatch):
    """Segments and blocks that fit nothing evenly, and entries that a spool has to sort."""
    case = make_case(5, 47, 13, density=0.5)
    monkeypatch.setattr("saestore.formats.base.BLOCK", 29)
    monkeypatch.setattr("saestore.formats.spool._BUCKET", 5)
    for kind in ("csr", "csc", "coo"):
        acts = imported(save(tmp_path, case.csr.asformat(kind)), segment_rows=11)
        assert np.array_equal(acts.dense(), case.dense)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
@pytest.mark.parametrize("bad", [-1, 9, 2**32 + 5])
def test_ids_of_a_file_are_checked_before_they_are_narrowed(tmp_path, kind, bad):
    matrix = sp.coo_array((np.float32([1, 2, 3]), ([0, 1, 2], [0, 1, 2])), shape=(4, 9)).asformat(kind)
    path = save(tmp_path, matrix)
    arrays = dict(np.load(path))
    name = "col" if kind == "coo" else "indices"
    arrays[name] = np.array([0, 1, bad if kind != "csc" or bad != 9 else 4])
    np.savez(path, **arrays)
    with pytest.raises(InvalidInputError) as error:
        imported(path)
    assert error.value.code in ("id-out-of-range", "errors-in-file", "damaged-file")
    assert str(int(arrays[name][2])) in str(error.value)


def test_ids_that_are_not_integers_are_refused(tmp_path):
    path = save(tmp_path, sp.csr_array(np.eye(3, dtype=np.float32)))
    np.savez(path, **(dict(np.load(path)) | {"indices": np.array([0.0, 1.5, 2.0])}))
    with raises(InvalidInputError, "unsupported-dtype", "float64"):
        imported(path)


@pytest.mark.once
def test_an_array_that_inflates_without_measure_is_refused(tmp_path):
    path = save(tmp_path, sp.csr_array(np.eye(3, dtype=np.float32)))
    np.savez_compressed(path, **(dict(np.load(path)) | {"indptr": np.zeros(40_000_000, np.int64)}))
    with raises(InvalidInputError, "too-large", "indptr"):
        imported(path)


CSR = {
    "data": np.float32([1, 2]),
    "indices": np.array([0, 1]),
    "indptr": np.array([0, 1, 2]),
    "shape": np.array([2, 3]),
}
ODD = [np.array(["a", "b"]), np.array(3), np.array([]), np.array([np.nan, 1]), np.array([-1, -2]), np.zeros((2, 2, 2)),
       np.array([2**62, 2**62]), np.zeros(2, "V8"), np.array([b"\xff", b"a"]), np.zeros(2, complex)]  # fmt: skip


@pytest.mark.parametrize("name", [*CSR, "format", "n_features", "row"])
def test_an_array_that_cannot_be_is_refused(tmp_path, name):
    for odd in ODD:
        if name == "row":
            arrays = {"row": odd, "col": CSR["indices"], "data": CSR["data"], "n_features": np.array(3)}
        elif name == "n_features":
            arrays = {"values": np.ones((1, 2)), "indices": np.ones((1, 2), int), "n_features": odd}
        else:
            arrays = {**CSR, "format": np.array("csr"), name: odd}
        np.savez(tmp_path / "x.npz", **arrays)
        if (name, odd.size) == ("n_features", 1) or (name == "data" and odd.dtype.kind in "if"):
            continue
        with pytest.raises(InvalidInputError):
            imported(tmp_path / "x.npz")


def test_a_number_of_rows_that_nothing_shows_is_refused(tmp_path):
    last = np.array([0, 1 << 40])
    np.savez(tmp_path / "x.npz", row=last, col=CSR["indices"], data=CSR["data"], n_features=np.array(3))
    with raises(InvalidInputError, "too-large", f"{(1 << 40) + 1:,} rows"):
        imported(tmp_path / "x.npz")
