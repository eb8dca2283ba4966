"""Hostile and unusual input: the right answer, or an error of saestore; no control character in the terminal."""

import errno

import numpy as np
import pytest
from click.testing import CliRunner
from raising import raises
from strategies import make_case, scratch_store, write_case
from zarr.storage import LocalStore, WrapperStore

import saestore
from saestore.cli import main
from saestore.cli.table import Column, counts, render
from saestore.errors import (
    InvalidInputError,
    NotFoundError,
    OutOfRangeError,
    StoreFormatError,
    UnreachableError,
    escape,
)

pytestmark = pytest.mark.once

ESCAPES = "\x1b]0;title\x07\x1b[31mred\x9b31m\x7f\u202e"


@pytest.fixture
def case():
    return make_case(3, 40, 6, segment_rows=11, chunk=16, shard=32)


@pytest.fixture
def acts(case):
    return write_case(scratch_store(), case)


def test_a_tensor_of_one_element_keeps_its_dimension(acts):
    torch = pytest.importorskip("torch")
    dense = acts.dense()
    assert np.array_equal(acts.dense(torch.tensor([3])), dense[[3]])
    assert np.array_equal(acts.dense(features=torch.tensor([3])), dense[:, [3]])
    assert np.array_equal(acts.dense(torch.tensor(3)), dense[3])
    assert np.array_equal(acts.dense(np.array(3, np.uint8)), dense[3])
    batches = list(acts.torch_dataset(batch_size=39))
    assert acts.dense(batches[-1].samples).shape == (1, 6)


def test_booleans_floats_and_texts_are_never_ids(acts):
    torch = pytest.importorskip("torch")
    for bad in (True, np.True_, np.array(True), torch.tensor(True), [True, 3], [3, torch.tensor(True)]):
        with raises(InvalidInputError, "not-an-index"):
            acts.dense(bad)
    for bad in (3.0, np.float32(2), torch.tensor(1.5)):
        with raises(InvalidInputError, "not-an-index", repr(bad)):
            acts.top_samples(bad)
    with raises(NotFoundError, "unknown-column", "gratitude"):  # a text is a condition
        acts.top_samples("gratitude")
    with raises(InvalidInputError, "not-an-index"):
        acts.dense(np.ma.masked_array([1, 2], mask=[False, True]))
    with raises(OutOfRangeError, "out-of-range", str(10**30)):
        acts.dense([10**30])


def test_n_is_a_whole_number_of_any_kind(acts):
    assert list(acts.top_samples(3, np.uint8(3))) == list(acts.top_samples(3, 3))
    assert list(acts.similar(3, np.uint8(2))) == list(acts.similar(3, 2))
    for ask in (acts.top_samples, acts.top_features, acts.similar):
        for bad in (2.0, None, "3", True):
            with raises(InvalidInputError, "not-an-integer", repr(bad)):
                ask(3, bad)


def test_similar_features_among_some_samples_are_those_of_a_set_of_them(acts):
    where = np.arange(40) % 3 > 0
    dense = acts.dense()[where] != 0
    both = {f: int((dense[:, 3] & dense[:, f]).sum()) for f in range(6) if f != 3}
    result = acts.similar(3, where=where)
    assert {row["feature"]: row["n_both"] for row in result} == {f: n for f, n in both.items() if n}
    for row in result:
        assert row["score"] == pytest.approx(row["n_both"] / (dense[:, 3] | dense[:, row["feature"]]).sum())


def test_no_command_prints_control_characters(tmp_path, case):
    store = saestore.open(tmp_path / "s.zarr", "a")
    names = [f"{ESCAPES}{i}.png" for i in range(3)]
    table = {"image_path": names, f"a{ESCAPES}": [0, 1, 0], f"n{ESCAPES}": [0.5, 3.5, 6.5]}
    acts = store.write("Toy/patch/s", case_matrix(), items=table)
    acts.concepts.add({f"lab{ESCAPES}": np.arange(6) % 2 == 0}, level="sample")
    options = ["--store", str(tmp_path / "s.zarr")]
    for words in (
        ["info", "Toy"], ["concepts", "Toy"], ["concepts", "Toy", "--level", "sample"], ["stats", "Toy"],
        ["top-samples", "Toy", "--feature", "1"], ["top-features", "Toy", "--sample", "1"], ["verify"],
        ["info", f"no{ESCAPES}"], ["top-samples", "Toy", "--feature", "1", "--where", f"no{ESCAPES}=1"],
        ["stats", "Toy", "--json"],
    ):  # fmt: skip
        result = CliRunner().invoke(main, [*words, *options])
        assert result.output
        assert [c for c in result.output if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160 or c == "\u202e")] == []


def case_matrix():
    import scipy.sparse as sp

    return sp.csr_array(np.arange(1, 25, dtype=np.float32).reshape(6, 4))


def test_an_error_shows_control_characters_as_text():
    assert str(InvalidInputError(f"no {ESCAPES}")) == f"no {escape(ESCAPES)}"
    assert escape("a\tb\r\nc\x1b") == "a\tb\r\nc\\x1b"
    assert escape("a\nb", one_line=True) == "a b"


def test_names_that_differ_stay_different_in_a_narrow_table():
    names = [f"COCO/patch/dinov2-small-layer{layer}-topk-4096" for layer in (9, 11)]
    columns = [Column("set", names, cut="end"), *(counts(f"column {i}", [10**6, 1]) for i in range(6))]
    head, *lines = render(columns, 60)
    assert all(len(line) <= 60 for line in (head, *lines))
    assert len({line.split()[0] for line in lines}) == 2


def test_a_relative_path_is_that_of_the_opened_store(tmp_path, monkeypatch, case):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    store = saestore.open("s.zarr", "a")
    acts = store.write("Toy/patch/s", case_matrix())
    monkeypatch.chdir("other")
    assert acts.dense().shape == (6, 4)
    store.write("New/patch/s", case_matrix())
    assert list(saestore.open(tmp_path / "s.zarr")) == ["New/patch/s", "Toy/patch/s"]
    assert list((tmp_path / "other").iterdir()) == []


def test_a_store_is_opened_by_any_kind_of_path(tmp_path, monkeypatch):
    saestore.open(tmp_path / "s.zarr", "a").write("Toy/patch/s", case_matrix())
    monkeypatch.setenv("HOME", str(tmp_path))
    for location in (bytes(tmp_path / "s.zarr"), "~/s.zarr", type(tmp_path)("~/s.zarr")):
        assert list(saestore.open(location)) == ["Toy/patch/s"]
    (tmp_path / "s.txt").write_bytes(b"PK")
    with raises(StoreFormatError, "not-a-store"):
        saestore.open(tmp_path / "s.txt")


class Refusing(WrapperStore):
    """A store whose reads of some keys fail."""

    error: Exception | None = None
    key = ""

    async def get(self, key, *rest, **options):
        if self.error is not None and self.key in key:
            raise self.error
        return await self._store.get(key, *rest, **options)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EIO, "Input/output error"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        TimeoutError("timed out"),
    ],
)
def test_what_cannot_be_reached_is_not_damage(tmp_path, monkeypatch, error):
    saestore.open(tmp_path / "s.zarr", "a").write("Toy/patch/s", case_matrix())
    for key, ask in (
        ("by_feature/data/c/", lambda store: store["Toy"].top_samples(1)),
        ("patch/s/zarr.json", lambda store: store["Toy/patch/s"]),
        ("Toy/zarr.json", list),
        ("by_feature/data/c/", lambda store: store.verify()),
    ):
        store = saestore.open(Refusing(LocalStore(tmp_path / "s.zarr")))
        monkeypatch.setattr(Refusing, "error", error)
        monkeypatch.setattr(Refusing, "key", key)
        code = "not-allowed" if isinstance(error, PermissionError) else "unreachable"
        with raises(UnreachableError, code, error.strerror or str(error)):
            ask(store)
        monkeypatch.setattr(Refusing, "error", None)
        assert store["Toy"].top_samples(1, 1).activation.tolist() == [22.0]


def test_the_epoch_reaches_workers_that_stay_alive(tmp_path):
    data = pytest.importorskip("torch.utils.data")
    acts = saestore.open(tmp_path / "s.zarr", "a").write("Toy/patch/s", case_matrix())
    batches = acts.torch_dataset(batch_size=2, shuffle=True, block_rows=1, buffer_rows=2)
    loader = data.DataLoader(batches, batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in range(3):
        batches.set_epoch(epoch)
        result = [batch.samples.tolist() for batch in loader]
        assert result == [batch.samples.tolist() for batch in batches]
    batches.set_epoch(0)
    assert result != [batch.samples.tolist() for batch in batches]


def test_an_image_is_never_read_outside_of_the_images(tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    image = pytest.importorskip("PIL.Image")
    for name in ("images/sub/a.png", "private.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (32, 32), "red").save(tmp_path / name)
    (tmp_path / "images/link.png").symlink_to(tmp_path / "private.png")
    keys = ["sub/a.png", "../private.png", str(tmp_path / "private.png"), "sub/../../private.png", "link.png", "\0.png"]
    for i, key in enumerate(keys):
        acts = saestore.open(tmp_path / "s.zarr", "a").write(f"T/patch/s{i}", case_matrix()[:4], items={"key": [key]})
        if i == 0:
            assert len(acts.plot.top(1, n=1, images=tmp_path / "images").images) >= 1
            continue
        with raises(InvalidInputError, "outside-images"):
            acts.plot.top(1, n=1, images=tmp_path / "images")


MOVED = {
    "shifted": lambda d, _: d.shift(sample=1),
    "rolled": lambda d, _: d.roll(sample=3),
    "other data": lambda d, _: d.assign(activation=d["activation"].copy(data=d["activation"].values[::-1].copy())),
    "set in place": lambda d, _: _changed(d.copy(deep=True).load()),
    "of two sets": lambda d, other: _together(d.isel(sample=slice(0, 10)), other.isel(sample=slice(30, 40))),
    "other order": lambda d, _: d.assign(activation=(d["activation"].dims, d["activation"].variable[::-1]._data)),
    "map_blocks": lambda d, _: d.chunk().assign(
        activation=d["activation"].copy(data=d["activation"].chunk().data.map_blocks(lambda block: block * 2))
    ),
    "rolled blocks": lambda d, _: d.chunk(sample=7).roll(sample=3),
}


def _changed(dataset):
    dataset["activation"][:, 3] = 0
    return dataset


def _together(*parts):
    import xarray as xr

    return xr.concat(parts, "sample", data_vars="minimal", coords="minimal", compat="override")


@pytest.mark.parametrize("name", MOVED)
def test_the_accessor_refuses_a_dataset_with_other_values(acts, name):
    if "blocks" in name:
        pytest.importorskip("dask")
    other = write_case(scratch_store(), make_case(8, 40, 6, segment_rows=11, chunk=16, shard=32))
    dataset = MOVED[name](acts.to_xarray(), other.to_xarray())
    for ask in (lambda: dataset.sae.top(3), dataset.sae.stats, lambda: dataset.sae.plot.histogram(3)):
        with raises(InvalidInputError, "not-a-selection"):
            ask()


def test_the_accessor_answers_of_values_that_are_the_sets(acts):
    pytest.importorskip("dask")
    for change in (lambda d: d.load(), lambda d: d.chunk(sample=7), lambda d: d.isel(sample=[5, 3, 9]).transpose()):
        dataset = change(acts.to_xarray())
        where = np.isin(np.arange(40), dataset["sample"])
        assert list(dataset.sae.top(3)) == list(acts.top_samples(3, where=where))
        assert dataset.sae.stats().equals(acts.stats(where=where))


def test_a_split_has_any_name(tmp_path):
    items = {"key": ["a", "b"], "split": ["fit", "hold out"]}
    acts = saestore.open(tmp_path / "s.zarr", "a").write("T/patch/s", case_matrix(), items=items)
    assert acts.samples.where('split == "hold out"').tolist() == [3, 4, 5]


def test_a_condition_with_what_no_column_can_hold_is_refused_or_answered(tmp_path):
    items = {"key": ["a", "b"], "split": ["fit", "test"], "size": [0.5, 1.5]}
    acts = saestore.open(tmp_path / "s.zarr", "a").write("T/patch/s", case_matrix(), items=items)
    for where in ({"split": "\udc80"}, 'split < "\udc80"'):
        with raises(InvalidInputError, "condition-type"):
            acts.samples.where(where)
    assert acts.samples.where({"size": 10**400}).tolist() == []
    with raises(InvalidInputError, "invalid-set-path", "None"):
        saestore.open(tmp_path / "s.zarr", "a").write(None, case_matrix())


def test_blocks_of_dask_hold_the_values_of_the_set(acts):
    pytest.importorskip("dask")
    assert np.array_equal(acts.to_xarray("auto")["activation"].values, acts.dense())
