"""Input of any kind: an answer or an error of saestore, never another exception, and in a second.

`pytest --thorough tests/test_fuzz.py` draws a hundred times as many examples.
"""

import inspect
import itertools
import json
import shutil
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import pytest
import scipy.sparse as sp
from click.testing import CliRunner
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from raising import raises
from strategies import PATH, make_case, scratch_store, write_case

import saestore
from saestore.cli import main
from saestore.errors import InvalidInputError, SaestoreError

pytestmark = pytest.mark.once

SECONDS = 20  # of a busy machine; each takes milliseconds
CHARACTERS = st.characters(exclude_categories=[]) | st.sampled_from("\x00\x1b\u202e\udc80é'\"\\/.")
TEXT = st.text(CHARACTERS, max_size=12)
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**63, -(2**63) - 1, 10**400, 1e308])
PLAIN = st.none() | st.booleans() | NUMBERS | TEXT
VALUES = st.recursive(
    PLAIN, lambda each: st.lists(each, max_size=4) | st.dictionaries(TEXT, each, max_size=3), max_leaves=8
)
ARRAYS = arrays_of.arrays(
    arrays_of.scalar_dtypes() | arrays_of.unicode_string_dtypes(max_len=4),
    arrays_of.array_shapes(max_dims=2, max_side=5),
)
ANYTHING = VALUES | ARRAYS


def fuzzed(few: int) -> settings:
    return settings(max_examples=examples(few), deadline=None, suppress_health_check=list(HealthCheck))


@contextmanager
def refused_or_answered():
    """An error of saestore is an answer; any other goes on to the test."""
    began, refusals = time.monotonic(), []
    try:
        yield
    except SaestoreError as error:
        refusals.append(error)
    assert all(str(error) and error.code for error in refusals)
    assert time.monotonic() - began < SECONDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "s.zarr"
    acts = write_case(saestore.open(folder, "a"), make_case(1, 20, 4, density=0.5, segment_rows=7))
    acts.samples.set("x", np.arange(20))
    acts.concepts.add({"odd": np.arange(20) % 2 == 1}, level="sample")
    return folder


@pytest.fixture(scope="module")
def acts(folder):
    return saestore.open(folder)[PATH]


WORDS = st.sampled_from(
    ["split", "color::red", "x", "weight", "item.key", "position", "and", "or", "not", "in", "contains", "==", "!=",
     "<", ">=", "(", ")", "[", "]", ",", "1", "-0.5", "1e999", "9" * 30, '"test"', "'", '"', "true", "null", "::", "."]
)  # fmt: skip


@fuzzed(150)
@given(st.lists(WORDS | TEXT, max_size=10).map(" ".join) | VALUES | ARRAYS)
def test_conditions(acts, where):
    with refused_or_answered():
        ids = acts.samples.where(where)
        assert ids.dtype == np.int64


@pytest.mark.parametrize("opening", ["(", "not ", "[", "x == ", '"'])
def test_deep_conditions(acts, opening):
    with refused_or_answered():
        acts.samples.where(opening * 100_000)


QUESTIONS: list[Callable] = [
    lambda acts, a, b: acts.dense(a, b),
    lambda acts, a, b: acts.sparse(a, b),
    lambda acts, a, b: acts.vindex(a, b),
    lambda acts, a, b: acts.top_samples(a, b),
    lambda acts, a, b: acts.top_features(a, b),
    lambda acts, a, b: acts.stats(a, where=b),
    lambda acts, a, b: acts.quantile(a, b),
    lambda acts, a, b: acts.histogram(a, b),
    lambda acts, a, b: acts.similar(a, b),
    lambda acts, a, _: acts.cooccurrence(a),
    lambda acts, a, _: acts.feature(a),
    lambda acts, a, _: acts.items[a],
    lambda acts, a, _: acts.features.search(a),
    lambda acts, a, b: acts.items.to_pandas(a, b),
    lambda acts, a, _: acts.concepts.names(a),
    lambda acts, a, b: acts.concepts.scores(level=a, where=b),
]


@fuzzed(150)
@given(st.sampled_from(QUESTIONS), ANYTHING | st.integers(-5, 25), ANYTHING | st.integers(-5, 25))
def test_arguments_of_questions(acts, question, a, b):
    with refused_or_answered():
        question(acts, a, b)


WRONG = [object(), 1.5, b"x", ["x"], {}, np.zeros((2, 2, 2))]
NEEDED = {
    "path": PATH, "level": "item", "feature": 1, "features": [1, 2], "samples": [1], "n": 3, "values": [1, 2, 3],
    "columns": {"n": [1, 2, 3]}, "labels": {"new": [True, False, True]}, "matrix": sp.csr_array(np.eye(3, dtype="f4")),
    "table": "items", "condition": "x > 1", "embeddings": np.ones((3, 2), np.float32), "weights": np.ones(7),
}  # fmt: skip
SERVES = {"explore", "torch_dataset"}  # a server, and an object that asks later
PARTS = ["store", "acts", "samples", "items", "features", "concepts"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", PARTS)
def test_an_argument_of_a_wrong_type_is_answered_or_refused(folder, tmp_path, monkeypatch, part):
    """Every parameter of every public method of a store, a set, its tables and its concepts."""
    monkeypatch.chdir(tmp_path)  # where what is exported goes
    document = Path("s.zarr", PATH, "zarr.json")

    def opened():
        shutil.rmtree("s.zarr", ignore_errors=True)
        shutil.copytree(folder, "s.zarr")
        store = saestore.open("s.zarr", "a")
        whole = {"store": store, "acts": store[PATH]}.get(part) or getattr(store[PATH], part)
        return whole, document.read_bytes()

    (whole, before), raw, asked = opened(), [], 0
    for name in (name for name in dir(whole) if not name.startswith("_") and name not in SERVES):
        if not inspect.ismethod(getattr(whole, name)):
            continue
        parameters = inspect.signature(getattr(whole, name)).parameters.values()
        needed = {p.name: NEEDED.get(p.name, "x") for p in parameters if p.default is p.empty}
        wrong = [p.name for p in parameters if not isinstance(p.default, bool) and p.kind.name[:3] != "VAR"]
        for parameter, value in itertools.product(wrong, WRONG):
            asked += 1
            try:
                getattr(whole, name)(**needed | {parameter: value})
            except SaestoreError:
                pass
            except Exception as error:  # noqa: BLE001 (all are shown together)
                raw.append(f"{name}({parameter}={value!r}): {error!r}")
            if not document.exists() or document.read_bytes() != before:
                whole, before = opened()
    assert asked > 50
    assert not raw, "\n".join(raw)


IMPORT = {"store": {}, "progress": False}
CALLS = [
    (lambda _: saestore.export(1.5, "x.npz"), "not-a-set"),
    (lambda acts: saestore.export(acts, 1.5), "not-a-path"),
    (lambda acts: saestore.export(acts, "x.parquet", columns=1.5), "invalid-names"),
    (lambda acts: saestore.import_activations(1.5, acts.sparse(), **IMPORT), "invalid-set-path"),
    (lambda acts: saestore.import_activations(PATH, acts.sparse(), n_features="3", **IMPORT), "not-an-integer"),
    (lambda _: saestore.open("memory://x", "a", storage_options=1.5), "bad-option"),
]


@pytest.mark.parametrize(("call", "code"), CALLS)
def test_a_function_refuses_what_it_does_not_take(acts, tmp_path, monkeypatch, call, code):
    monkeypatch.chdir(tmp_path)
    with raises(InvalidInputError, code):
        call(acts)
    assert not list(tmp_path.iterdir())


@fuzzed(40)
@given(st.dictionaries(TEXT | st.sampled_from(["key", "split", "text"]), ANYTHING, max_size=3) | VALUES, ANYTHING)
def test_tables(items, item_ptr):
    store = scratch_store()
    with refused_or_answered():
        store.write(PATH, sp.csr_array(np.eye(3, dtype=np.float32)), item_ptr, items)
    assert list(store) in ([], [PATH])
    assert store.verify().problems == ()


@fuzzed(60)
@given(st.sampled_from(["samples", "items", "features"]), TEXT | st.just("x"), ANYTHING)
def test_columns(folder, table, name, values):
    acts = saestore.open(folder, "a")[PATH]
    with refused_or_answered():
        getattr(acts, table).set(name, values)
        assert name in getattr(saestore.open(folder)[PATH], table).columns
        getattr(acts, table).remove(name)


@fuzzed(40)
@given(ANYTHING)
def test_matrices(matrix):
    store = scratch_store()
    with refused_or_answered():
        store.write(PATH, matrix)


@fuzzed(60)
@given(
    st.binary(max_size=80) | st.lists(TEXT, max_size=6).map(lambda rows: "\n".join(rows).encode(errors="surrogatepass"))
)
def test_files_of_items(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("items") / "items.csv"
    path.write_bytes(content)
    store = scratch_store()
    with refused_or_answered():
        store.write(PATH, sp.csr_array(np.eye(3, dtype=np.float32)), items=path)


def places_in(document: object, at: tuple = ()) -> list[tuple]:
    """Paths of all values in a JSON document."""
    if isinstance(document, dict):
        return [at, *(p for key, value in document.items() for p in places_in(value, (*at, key)))]
    if isinstance(document, list):
        return [at, *(p for i, value in enumerate(document) for p in places_in(value, (*at, i)))]
    return [at]


@fuzzed(30)
@given(st.data())
def test_documents_of_a_store(folder, data):
    """One value of one document is another one."""
    with scratch_copy(folder) as copy:
        file = data.draw(st.sampled_from(sorted(copy.rglob("zarr.json"))))
        document = json.loads(file.read_text())
        *parents, last = data.draw(st.sampled_from([p for p in places_in(document) if p]))
        node = document
        for key in parents:
            node = node[key]
        node[last] = data.draw(VALUES | st.sampled_from([2**62, -1, 10**30]))
        file.write_text(json.dumps(document))
        for ask in (
            lambda s: s[PATH].dense(), lambda s: s[PATH].top_samples([1, 2], where="x > 3"), list, lambda s: s.verify(),
            lambda s: s[PATH].items.to_pandas(), lambda s: s[PATH].stats(), repr,
        ):  # fmt: skip
            with refused_or_answered():
                ask(saestore.open(copy))


@contextmanager
def scratch_copy(folder: Path):
    copy = Path(scratch_store().root.store.root).parent / "copy.zarr"
    shutil.copytree(folder, copy)
    yield copy
    shutil.rmtree(copy.parent)


def commands(group: click.Group, words: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        below = (*words, name)
        found += commands(command, below) if isinstance(command, click.Group) else [(below, command)]
    return found


READING = {"info", "top-samples", "top-features", "stats", "concepts", "verify", "similar", "feature", "datasets"}


@fuzzed(80)
@given(st.data())
def test_arguments_of_commands(folder, data):
    words, command = data.draw(st.sampled_from([c for c in commands(main) if c[0][0] in READING]))
    options = sorted({name for p in command.params if isinstance(p, click.Option) for name in p.opts} - {"--help"})
    arguments = data.draw(
        st.lists(st.sampled_from([*options, "Shapes", PATH, "1", "test"]) | TEXT | NUMBERS.map(str), max_size=6)
    )
    arguments = [a for a in arguments if "\x00" not in a and a not in ("--debug", "--store", "--output", "-o")]
    result = CliRunner().invoke(main, [*words, "--store", str(folder), *arguments])
    assert result.exit_code in (0, 1, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), (words, arguments, result.exception)
    assert "Traceback" not in result.output
