"""Hostile and unusual input: the right answer, or an error of saestore; no control character in the terminal."""

import errno
import gzip
import tracemalloc
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import scipy.sparse as sp
from click.testing import CliRunner
from raising import raises
from strategies import PATH, make_case, scratch_store, write_case, written
from zarr.storage import LocalStore, MemoryStore, WrapperStore

import saestore
from saestore import files
from saestore.cli import main
from saestore.cli.table import Column, counts, render
from saestore.errors import (
    InvalidInputError,
    NotFoundError,
    OutOfRangeError,
    SaestoreError,
    StoreFormatError,
    UnreachableError,
    escape,
)
from saestore.plot.images import find_image
from saestore.tables.items import as_items

pytestmark = pytest.mark.once

ESCAPES = "\x1b]0;title\x07\x1b[31mred\x9b31m\x7f\u202e\u200f\u061c"


@pytest.fixture
def case():
    return make_case(3, 40, 6, segment_rows=11, chunk=16, shard=32)


@pytest.fixture
def acts(case):
    return written(case)


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
    for ids in ([3, -1], [], 3):  # as a column of objects holds them
        assert np.array_equal(acts.dense(np.array(ids, object)), acts.dense(ids))


def test_n_is_a_whole_number_of_any_kind(acts):
    assert list(acts.top_samples(3, np.uint8(3))) == list(acts.top_samples(3, 3))
    assert list(acts.similar(3, np.uint8(2))) == list(acts.similar(3, 2))
    for ask in (acts.top_samples, acts.top_features, acts.similar):
        for bad in (2.0, None, "3", True):
            with raises(InvalidInputError, "not-an-integer", repr(bad)):
                ask(3, bad)


def test_rows_of_a_column_are_chosen_as_those_of_a_matrix(acts):
    torch = pytest.importorskip("torch")
    acts.samples.set("x", np.arange(40))
    acts.concepts.add({"odd": np.arange(40) % 2 == 1}, level="sample")
    for name, values in (("x", np.arange(40)), ("odd", np.arange(40) % 2 == 1)):
        for rows in ([3], (3, -1), [], torch.tensor([3]), np.array([2, 2], "u1"), np.arange(40) % 3 == 0):
            expected = values[np.asarray(rows, None if len(rows) else int)]
            assert np.array_equal(acts.samples.column(name, rows), expected)
        assert acts.samples.column(name, slice(30, None, 4)).tolist() == values[30::4].tolist()
        for bad in ([1.0], [[3]], torch.tensor([True]), np.ma.masked_array([1, 2], mask=[0, 1]), True, "3"):
            with pytest.raises(InvalidInputError):
                acts.samples.column(name, bad)
        for bad in ([40], -41, np.array([2**64 - 1], "u8")):
            with raises(OutOfRangeError, "out-of-range"):
                acts.samples.column(name, bad)


def test_choices_and_numbers_that_are_arrays_are_refused(acts):
    for bad in (np.array(["cosine", "jaccard"]), np.array([1, 2]), None, 1.5):
        for ask in (
            lambda bad: acts.similar(1, metric=bad), lambda bad: acts.match(acts, by=bad),
            lambda bad: acts.dense(level="item", pooling=bad), lambda bad: acts.families(by=bad),
        ):  # fmt: skip
            with pytest.raises(InvalidInputError):
                ask(bad)
        with raises(InvalidInputError, "not-an-integer", "memory"):
            saestore.open(acts.location, "a").compact(acts.path, memory=bad)
        if bad is not None:
            with raises(InvalidInputError, "not-an-integer", "segment_rows"):
                scratch_store().write("T/patch/s", case_matrix(), segment_rows=bad)
    acts = scratch_store().write("T/patch/s", case_matrix(), segment_rows=np.int64(2))
    assert acts.attributes.segment_rows == 2
    with raises(InvalidInputError, "not-a-number", "max_bytes"):
        acts.dense(max_bytes="1")


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
    acts = store.write("Toy/patch/s", case_matrix(), items=table, sae={"name": ESCAPES, "k": ESCAPES})
    acts.concepts.add({f"lab{ESCAPES}": np.arange(6) % 2 == 0}, level="sample")
    options = ["--store", str(tmp_path / "s.zarr")]
    for words in (
        ["info", "Toy"], ["concepts", "Toy"], ["concepts", "Toy", "--level", "sample"], ["stats", "Toy"],
        ["top-samples", "Toy", "--feature", "1"], ["top-features", "Toy", "--sample", "1"], ["verify"],
        ["info", f"no{ESCAPES}"], ["top-samples", "Toy", "--feature", "1", "--where", f"no{ESCAPES}=1"],
        ["stats", "Toy", "--json"], ["diagnose", "Toy"],
    ):  # fmt: skip
        result = CliRunner().invoke(main, [*words, *options])
        assert result.output
        assert "unexpected" not in result.output
        assert controls_in(result.output) == []
    for shown in (acts.items, acts.samples, acts.top_samples(1), acts.diagnose(), acts.card(1), acts, store):
        assert controls_in(repr(shown) + shown._repr_html_()) == []


def controls_in(text):
    return [c for c in text if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u200f\u061c")]


def test_a_page_shows_what_turns_text_but_a_form_sends_it_back():
    pytest.importorskip("jinja2")
    from saestore.web.explorer import Explorer
    from saestore.web.view import StoreView

    templates = Explorer(StoreView(scratch_store().root, "x")).templates
    page = templates.from_string("{{ x }} {{ x|field }} {{ 3 }}").render(x="\u202e<")
    assert page == "\\u202e&lt; \u202e&lt; 3"


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
        OSError(errno.ENOTCONN, "Transport endpoint is not connected"),
        OSError(errno.EKEYEXPIRED, "Key has expired"),
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
        denied = isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EKEYEXPIRED
        code = "not-allowed" if denied else "unreachable"
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
    "another dimension": lambda d, _: d.expand_dims(z=2),
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
    deep = {}
    for _ in range(5000):
        deep = {"split": deep}
    for value in (deep, None, b"test", 1j, object()):
        with raises(InvalidInputError, "condition-type", type(value).__name__):
            acts.samples.where({"split": value})
    nested = []
    for _ in range(100):
        nested = [nested]
    with raises(InvalidInputError, "not-values", "the condition"):
        acts.items.where(nested)
    assert acts.samples.where({"split": np.array("test")}).tolist() == [3, 4, 5]
    assert acts.samples.where({"split": [*map(str, range(100)), "test"]}).tolist() == [3, 4, 5]
    often = " and ".join(['split contains "t"'] * 1001)
    for many in ({"split": ["x"] * 300_000}, {f"k{i}": 1 for i in range(2000)}, often):
        with raises(InvalidInputError, "condition-too-long"):
            acts.samples.where(many)
    with raises(InvalidInputError, "text-too-long"):
        acts.items.search("x" * 100_000)
    tracemalloc.start()
    for where in ({"split": "x" * 1_000_000}, {"split": ["x" * 100_000] * 10}):
        assert acts.samples.where(where).tolist() == []
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
    with raises(InvalidInputError, "invalid-set-path", "None"):
        saestore.open(tmp_path / "s.zarr", "a").write(None, case_matrix())


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32", "float64"])
def test_many_numbers_are_any_of_them_as_few_are(tmp_path, dtype):
    acts = saestore.open(tmp_path / "s.zarr", "a").write("T/patch/s", case_matrix())
    values = (np.arange(6) / (3 if dtype.startswith("f") else 1)).astype(dtype)
    acts.samples.set("x", values)
    wanted = [0, 1 / 3, values[2].item(), 1e300, -(2**70), float("nan"), 4, 1e-300]
    few = [set(acts.samples.where({"x": value}).tolist()) for value in wanted]
    many = acts.samples.where({"x": wanted + [float(i) + 9.5 for i in range(100)]}).tolist()
    assert many == sorted(set().union(*few))
    assert len(many) == 3


@pytest.mark.parametrize("name", ["a\0b", "n" * 300, "n/" * 4000])
def test_a_place_that_cannot_be_is_refused(tmp_path, name):
    for mode in ("r", "a"):
        with raises(StoreFormatError, "store-format", "cannot be"):
            saestore.open(f"{tmp_path}/{name}", mode)


def test_a_column_has_a_name_of_any_length(tmp_path):
    acts = saestore.open(tmp_path / "s.zarr", "a").write("T/patch/s", case_matrix())
    for length in (250, 255):
        acts.samples.set("y" * length, np.where(np.arange(6) % 2, np.arange(6.0), np.nan))
        assert np.asarray(acts.samples["y" * length]).tolist()[5] == 5


def test_blocks_of_dask_hold_the_values_of_the_set(acts):
    pytest.importorskip("dask")
    assert np.array_equal(acts.to_xarray("auto")["activation"].values, acts.dense())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
@pytest.mark.once
def test_a_tensor_without_plain_numbers_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    values = torch.rand(6, 2) + 0.1
    ids = torch.tensor([[0, 1]] * 6)
    odd = {"meta": values.to("meta"), "float8_e4m3fn": values.to(torch.float8_e4m3fn), "sparse_coo": values.to_sparse(),
           "nested": torch.nested.nested_tensor([values[0], values[:2, 0]]),
           "(1073741824, 2)": ids[:1].expand(1 << 30, 2)}  # fmt: skip
    for name, tensor in odd.items():
        torch.save({"indices": ids, "values": tensor}, tmp_path / "x.pt")
        for given in (tmp_path / "x.pt", {"indices": ids, "values": tensor}):
            with raises(InvalidInputError, "too-large" if "," in name else "unsupported-tensor", name):
                saestore.check_import("T/patch/s", given, n_features=3)
    for marked in (values.clone().requires_grad_(), torch._neg_view(-values)):
        torch.save({"indices": ids, "values": marked}, tmp_path / "x.pt")
        store = saestore.open(MemoryStore(), "a")
        acts = saestore.import_activations("T/patch/s", tmp_path / "x.pt", store=store, n_features=3)
        assert np.array_equal(acts.dense()[:, :2], values)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
@pytest.mark.parametrize("name", ["meta", "nested", "float8", "sparse", "grad", "bfloat16", "negative"])
def test_a_tensor_is_an_array_of_its_numbers_or_refused_everywhere(acts, name):
    torch = pytest.importorskip("torch")
    ones = torch.ones(40)
    nested = torch.nested.nested_tensor([ones[:2]] * 40)
    tensor = {"meta": ones.to("meta"), "nested": nested, "sparse": ones.to_sparse(),
              "float8": ones.to(torch.float8_e5m2), "grad": ones.clone().requires_grad_(),
              "bfloat16": ones.to(torch.bfloat16), "negative": torch._neg_view(-ones)}[name]  # fmt: skip
    if name in ("grad", "bfloat16", "negative"):
        acts.samples.set("x", tensor)
        assert acts.samples["x"].tolist() == [1] * 40
    else:
        with raises(InvalidInputError, "unsupported-tensor", "'x'"):
            acts.samples.set("x", tensor)
    store = scratch_store()
    for options in ({"item_ptr": tensor}, {"token_spans": tensor, "items": {"text": ["ab"] * 6}}):
        with pytest.raises(InvalidInputError):
            store.write("T/token/s", case_matrix(), **options)
    for ask in (lambda: acts.samples.set("y", [1] * 40, unknown=tensor), lambda: acts.search({1: tensor})):
        with pytest.raises(InvalidInputError):
            ask()


def test_documents_that_are_deep_or_inflate_are_refused(acts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for suffix in (".json", ".jsonl", ".json.gz"):
        content = b"[" * 100_000
        (tmp_path / f"x{suffix}").write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
        with raises(InvalidInputError, "unreadable-file", suffix):
            acts.import_explanations(tmp_path / f"x{suffix}")
    for content in ("a=" + "[" * 20_000, "a=" + "9" * 10_000):
        (tmp_path / "saestore.toml").write_text(content)
        result = CliRunner().invoke(main, ["datasets"])
        assert (result.exit_code, "cannot be read as TOML" in result.output) == (1, True)
    monkeypatch.setattr(files, "MOST_BYTES", 1 << 16)
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(b" " * (1 << 20)))
    with raises(InvalidInputError, "too-large", "x.json.gz"):
        acts.import_explanations(tmp_path / "x.json.gz")
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zarr.json", b" " * (1 << 20))
    with raises(InvalidInputError, "too-large", "s.zip", "zarr.json"):
        saestore.open(tmp_path / "s.zip")


@pytest.mark.parametrize("number", [10**5000, 2**63 - 1, 10**12], ids=["5001 digits", "int64", "10^12"])
def test_a_number_of_any_size_is_refused_or_answered(acts, number):
    """Python writes no number of more than 4,300 digits, so that a message cannot name it."""
    for ask in (
        lambda: acts.top_samples(3, n=number), lambda: acts.top_samples(number), lambda: acts.dense([number]),
        lambda: acts.dense(slice(0, number)), lambda: acts.samples.where({"split": number}),
        lambda: acts.quantile(1, number),
        lambda: acts.card(1, n=number), lambda: acts.card(1, context=number), lambda: acts.card(1, quantiles=number),
        lambda: acts.examples(1, random=number, near_misses=number), lambda: acts.compare(acts, n=number),
        lambda: acts.examples(1, seed=number), lambda: acts.concepts.scores(level=number),
        lambda: acts.decode(1, sae=number),
    ):  # fmt: skip
        with suppress(SaestoreError):
            ask()


@pytest.mark.parametrize("path", ["9" * 5000, "a\0b", "\udc80/x", 17])
def test_a_path_that_no_file_can_have_is_refused(acts, path):
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    asked = [lambda: acts.decode([1], sae=path), lambda: find_image(acts, "a.png", path)]
    if path != 17 and "\udc80" not in path:
        asked += [lambda: saestore.export(acts, path, format="scipy"), lambda: as_items(path)]
    for ask in asked:
        with pytest.raises(SaestoreError):
            ask()


@pytest.mark.filterwarnings("default")
def test_a_value_that_no_item_has_is_a_warning_with_what_is_near(tmp_path, case):
    write_case(saestore.open(tmp_path / "s.zarr", "a"), case)
    asked = ["top-samples", PATH, "--feature", "1", "--store", str(tmp_path / "s.zarr"), "--where"]
    result = CliRunner().invoke(main, [*asked, "split=tset"])
    assert result.exit_code == 0
    assert "'test'" in result.stderr
    assert "warning" not in CliRunner().invoke(main, [*asked, "split=test"]).stderr


def test_a_device_is_not_a_file():
    with raises(InvalidInputError, "not-a-file", "/dev/zero"):
        scratch_store().write(PATH, sp.csr_array(np.eye(3, dtype=np.float32)), items="/dev/zero")


def test_a_truncated_gzip_is_refused(tmp_path):
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"image_path,a\nx,1\n")[:-6])
    with pytest.raises(InvalidInputError, match=r"x\.csv\.gz"):
        saestore.open(tmp_path / "s.zarr", "a").write(
            PATH, sp.csr_array(np.eye(1, dtype="f4")), items=tmp_path / "x.csv.gz"
        )
