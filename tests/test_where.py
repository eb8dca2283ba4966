"""Conditions: expressions against numpy, what a wrong one is told, every query under one against the dense tensor."""

import tracemalloc
from dataclasses import dataclass
from unittest import mock

import brute
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises
from strategies import SPLITS, cases, make_case, scratch_store, write_case

import saestore
from benchmarks.counting import decoded
from saestore.errors import InvalidInputError, NotFoundError
from saestore.query.where_parser import parse, quote_text

pytestmark = pytest.mark.once

ODD = "odd `name` and \\ 日本語"


@dataclass(frozen=True)
class Named:
    """A set, and what each name in a condition stands for: one value for every sample, made by numpy."""

    acts: saestore.ActivationSet
    values: dict


@pytest.fixture(scope="module")
def named() -> Named:
    case = make_case(3, 40, 6)
    acts = write_case(scratch_store(), case)
    rng = np.random.default_rng(0)
    of_samples = {name: rng.random(40) < share for name, share in (("object", 0.4), ("color::red", 0.5), (ODD, 0.3))}
    acts.concepts.add(of_samples, level="sample")
    acts.concepts.add({"item.dot": ~case.red, "3d": case.red, "not": ~case.red, "traffic light": case.red})
    item_of = case.item_of_sample
    values = {
        "split": SPLITS[case.split][item_of],
        "key": np.array(case.items["image_path"])[item_of],
        "weight": np.array(case.items["weight"])[item_of],
        "color::red": case.red[item_of],
        "item.color::red": case.red[item_of],
        "sample.color::red": of_samples["color::red"],
        "object": of_samples["object"],
        "sample.object": of_samples["object"],
        ODD: of_samples[ODD],
        "item.dot": ~case.red[item_of],
        "item.item.dot": ~case.red[item_of],
        "3d": case.red[item_of],
        "not": ~case.red[item_of],
        "traffic light": case.red[item_of],
        "item": item_of,
        "position": np.arange(40) - case.item_ptr[item_of],
        "sample": np.arange(40),
    }
    return Named(acts, values)


NUMBERS = ["weight", "item", "position", "sample"]
TEXTS = ["split", "key"]
BOOLEANS = [
    "color::red", "item.color::red", "sample.color::red", "object", "sample.object", ODD, "item.dot", "3d", "not",
    "item.item.dot", "traffic light",
]  # fmt: skip
WORDS = st.sampled_from(["train", "test", "images/003.png", "", 'a "quoted" \\ one', "it's", "日本語", "new\nline"])
RANK = {"==": np.equal, "!=": np.not_equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}


def quoted(name):
    """A name between back-quotes, which may hold anything."""
    return "`" + name.replace("`", "``") + "`"


@st.composite
def spelt(draw, name):
    """A name as it may be written."""
    level, _, rest = name.partition(".")
    if level in ("item", "sample") and rest and name != "item.dot" and draw(st.booleans()):
        return f"{level}.{quoted(rest)}"
    needs_quotes = name in (ODD, "3d", "not", "traffic light")
    return quoted(name) if needs_quotes or draw(st.booleans()) else name


@st.composite
def literals(draw, kind):
    if kind == "number":
        value = draw(st.one_of(st.integers(-3, 45), st.integers(10**18, 10**30), st.floats(-3, 45)))
        return repr(value), value
    if kind == "text":
        value = draw(WORDS)
        single = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
        return draw(st.sampled_from([quote_text(value), single])), value
    value = draw(st.booleans())
    return draw(st.sampled_from(["true", "True", "1"] if value else ["false", "False", "0"])), value


@st.composite
def leaves(draw, values):
    """A comparison as text, and the samples that fulfil it, by numpy."""
    kind = draw(st.sampled_from(["number", "text", "boolean"]))
    name = draw(st.sampled_from({"number": NUMBERS, "text": TEXTS, "boolean": BOOLEANS}[kind]))
    text, column = draw(spelt(name)), values[name]
    form = draw(st.sampled_from(["compare", "turned", "in", "names", "alone"]))
    if form == "alone" and kind == "boolean":
        return text, column
    if form == "in":
        options = draw(st.lists(literals(kind), min_size=1, max_size=3))
        negated = draw(st.booleans())
        inside = np.any([[v == option for v in column.tolist()] for _, option in options], axis=0)
        comma = draw(st.sampled_from(["", ","]))
        return f"{text} {'not ' * negated}in ({', '.join(t for t, _ in options)}{comma})", inside != negated
    operator = draw(st.sampled_from(["==", "!="] if kind == "boolean" else list(RANK)))
    if form == "names":
        other = draw(st.sampled_from({"number": NUMBERS, "text": TEXTS, "boolean": BOOLEANS}[kind]))
        return f"{text} {operator} {draw(spelt(other))}", RANK[operator](column, values[other])
    written, value = draw(literals(kind))
    pairs = [(v, value) if form != "turned" else (value, v) for v in column.tolist()]
    compare = {"==": "__eq__", "!=": "__ne__"}.get(operator)
    kept = [{"==": a == b, "!=": a != b}[operator] if compare else ordered(operator, a, b) for a, b in pairs]
    return (f"{written} {operator} {text}" if form == "turned" else f"{text}{operator}{written}"), np.array(kept)


def ordered(operator, a, b):
    return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[operator]


def trees(values):
    """Conditions with parentheses where they may be, and where they must."""

    def joined(inner):
        pairs = st.tuples(inner, inner, st.sampled_from(["and", "or"]))
        return st.one_of(
            inner.map(lambda t: (f"not ({t[0]})", ~t[1])),
            inner.map(lambda t: (f"( {t[0]} )", t[1])),
            pairs.map(lambda p: (f"({p[0][0]}) {p[2]}\n({p[1][0]})", JOIN[p[2]](p[0][1], p[1][1]))),
        )

    return st.recursive(leaves(values), joined, max_leaves=6)


JOIN = {"and": np.logical_and, "or": np.logical_or}


@settings(max_examples=200)
@given(data=st.data())
def test_an_expression_is_what_numpy_makes_of_it(named, data):
    text, expected = data.draw(trees(named.values))
    assert named.acts.samples.where(text).tolist() == np.flatnonzero(expected).tolist()


@given(data=st.data())
def test_and_binds_stronger_than_or_and_not_the_strongest(named, data):
    """Chains without parentheses, against Python's own rules."""
    names = data.draw(st.lists(st.sampled_from(["object", "`3d`", "`traffic light`"]), min_size=1, max_size=7))
    joins = data.draw(st.lists(st.sampled_from(["and", "or"]), min_size=len(names) - 1, max_size=len(names) - 1))
    nots = data.draw(st.lists(st.integers(0, 3), min_size=len(names), max_size=len(names)))
    terms = ["not " * n + name for n, name in zip(nots, names, strict=True)]
    text = " ".join(word for pair in zip(terms, [*joins, ""], strict=True) for word in pair)
    python = text
    for place, name in enumerate(["object", "`3d`", "`traffic light`"]):
        python = python.replace(name, f"v[{place}]")
    columns = [named.values[name].tolist() for name in ("object", "3d", "traffic light")]
    expected = [i for i, v in enumerate(zip(*columns, strict=True)) if eval(python, {}, {"v": v})]
    assert named.acts.samples.where(text).tolist() == expected


def test_long_and_flat_is_no_problem_and_deep_is_told(named):
    assert len(named.acts.samples.where(" or ".join(["object"] * 5_000))) == named.values["object"].sum()
    assert len(named.acts.samples.where("(" * 49 + "object" + ")" * 49)) == named.values["object"].sum()
    for deep in ("(" * 10_000 + "object", "not " * 10_000 + "object", "(not " * 51 + "object" + ")" * 51):
        with raises(InvalidInputError, "condition-too-deep", "deeper than 50"):
            parse(deep)


@pytest.mark.parametrize(
    "piece", ["object or ", "(", "not ", "'", '"a" ', "`", "\\", "1<", "日", " ", "object in (1, "]
)
def test_ten_megabytes_are_one_short_error_at_once(piece):
    text = piece * (10_000_000 // len(piece))
    tracemalloc.start()
    try:
        with raises(InvalidInputError, "condition-too-long", f"{len(text):,}") as error:
            parse(text)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 300


def test_the_longest_expression_is_answered(named):
    text = " or ".join(["weight<1"] * ((1 << 18) // 12))
    assert np.array_equal(named.acts.samples.where(text), np.flatnonzero(named.values["weight"] < 1))


def test_a_name_in_quotes_stands_for_itself_where_only_a_name_can(named):
    light = np.flatnonzero(named.values["traffic light"]).tolist()
    for text in ('"traffic light"', "'traffic light' == true", '"traffic light" in (1)', "not ('traffic light' == 0)"):
        assert named.acts.samples.where(text).tolist() == light
    test = np.flatnonzero(named.values["split"] == "test").tolist()
    assert named.acts.samples.where('"test" == split').tolist() == test


@given(st.text(max_size=30))
def test_any_text_is_a_condition_or_an_error_that_marks_it(text):
    try:
        parse(text)
    except InvalidInputError as error:
        message, *marked = str(error).splitlines()
        assert message.startswith("where=: ")
        if text.strip():
            assert len(marked) == 2
            assert set(marked[1]) == {" ", "^"}


@given(st.text(min_size=1, max_size=20).filter(lambda t: "\0" not in t))
def test_any_name_and_any_text_can_be_written(text):
    result = parse(f"{quoted(text)} == {quote_text(text)}")
    assert (result.left.text, [value.value for value in result.right]) == (text, [text])


SYNTAX, TYPE = (InvalidInputError, "condition-syntax"), (InvalidInputError, "condition-type")
UNKNOWN = (NotFoundError, "unknown-column")
WRONG = [
    ("", SYNTAX, ['split == "test"'], ""),
    ('split = "test"', SYNTAX, ["'='", "=="], "      ^"),
    ("split == test", UNKNOWN, ["'test'", '"test"'], "         ^^^^"),
    ("splt == 'test'", UNKNOWN, ["'splt'", "Did you mean 'split'?"], "^^^^"),
    ("split", TYPE, ["'split'", "text"], "^^^^^"),
    ("split == 3", TYPE, ["'split'", "text", 3], "         ^"),
    ("3 < split", TYPE, ["'split'", "text", 3], "^"),
    ("weight == 'a'", TYPE, ["'weight'", "numbers", '"a"'], "          ^^^"),
    ("weight == true", TYPE, ["'weight'", "numbers", "true"], "          ^^^^"),
    ("weight in (1, 'a')", TYPE, ["'weight'", '"a"'], "              ^^^"),
    ("object == 2", TYPE, ["'object'", "true and false", 2], "          ^"),
    ("object < 1", TYPE, ["'object'", "==", "!="], "         ^"),
    ("split == weight", TYPE, ["'split'", "text", "'weight'", "numbers"], "^^^^^^^^^^^^^^^"),
    ("(object", SYNTAX, ["ends", "')'"], "       ^"),
    ("object)", SYNTAX, ["not ')'"], "      ^"),
    ("object object", SYNTAX, ["not 'object'"], "       ^^^^^^"),
    ("object and", SYNTAX, ["ends", "a name"], "          ^"),
    ("and object", SYNTAX, ["not 'and'"], "^^^"),
    ("object & object", SYNTAX, ["not '&'", "'and'"], "       ^"),
    ("object || object", SYNTAX, ["not '|'", "'or'"], "       ^"),
    ("!object", SYNTAX, ["not '!'", "'not'"], "^"),
    ("split == 'test", SYNTAX, ["never closed"], "         ^"),
    ("split == 'a\0b'", SYNTAX, ["NUL"], "         ^^^^^^^^"),
    ("split in ()", SYNTAX, ["a text", "not ')'"], "          ^"),
    ("split in ('a',,)", SYNTAX, ["a text", "not ','"], "              ^"),
    ("split in ('a' 'b')", SYNTAX, ["','", "not \"'b'\""], "              ^^^"),
    ("split in 'test'", SYNTAX, ["'('"], "         ^^^^^^"),
    ("split in (weight)", SYNTAX, ["a text", "not 'weight'"], "          ^^^^^^"),
    ("split not 'test'", SYNTAX, ["'in'"], "          ^^^^^^"),
    ("1 < weight < 3", SYNTAX, ["'and'"], "           ^"),
    ("1 == 1", SYNTAX, [1, "position == 1"], "^"),
    ("1 in (1)", SYNTAX, [1], "^"),
    ("true", SYNTAX, ["comparison"], "    ^"),
    ("-1.2.3 < weight", SYNTAX, ["-1.2.3"], "^^^^^^"),
    ("sample.weight == 1", UNKNOWN, ["'sample.weight'"], "^^^^^^^^^^^^^"),
    ("sample.`weight` == 1", UNKNOWN, ["'weight'", "of samples"], "^^^^^^^^^^^^^^^"),
    ("__import__('os')", SYNTAX, ["not '('"], "          ^"),
    ("日本 == 1 and x", UNKNOWN, ["'日本'"], "^^^^"),
]


@pytest.mark.parametrize(("text", "error", "values", "marked"), WRONG, ids=[text for text, *_ in WRONG])
def test_a_wrong_expression_is_reported_with_its_place(named, text, error, values, marked):
    with raises(*error, *values) as caught:
        named.acts.samples.where(text)
    lines = [f"\n  {text}", f"\n  {marked}"] if text else []
    assert str(caught.value).endswith("".join(lines).replace("\0", "\\x00"))


def test_a_long_expression_is_shown_around_the_place(named):
    text = "object and " * 30 + "nothing == 1" + " and object" * 30
    with raises(NotFoundError, "unknown-column", "'nothing'") as error:
        named.acts.samples.where(text)
    _, shown, carets = str(error.value).splitlines()
    assert len(shown) < 90
    assert shown[carets.index("^") : carets.rindex("^") + 1] == "nothing"


def test_a_mapping_asks_concepts_of_samples_too(named):
    acts, values = named.acts, named.values
    for where, expected in (
        ({"object": True, "split": "test"}, values["object"] & (values["split"] == "test")),
        ({"sample.color::red": False}, ~values["sample.color::red"]),
        ({"position": [0, 1], ODD: 1}, (values["position"] < 2) & values[ODD]),
        ({"item": 3}, values["item"] == 3),
    ):
        assert acts.samples.where(where).tolist() == np.flatnonzero(expected).tolist()
    for name, value in (("object", "yes"), ("object", 2), ("weight", None), ("weight", True), ("split", 3)):
        with raises(InvalidInputError, "condition-type", repr(name)):
            acts.samples.where({name: value})
    with raises(NotFoundError, "unknown-column", "'splt'", "'split'"):
        acts.samples.where({"splt": "test"})
    assert len(acts.samples.where({})) == 40
    assert len(acts.samples.where({"split": []})) == 0


@settings(max_examples=15)
@given(case=cases(), data=st.data())
def test_every_query_under_a_condition_equals_the_dense_tensor(case, data):
    acts, dense = write_case(scratch_store(), case), case.dense
    n, width = dense.shape
    mask = np.random.default_rng(n).random(n) < data.draw(st.sampled_from([0.1, 0.5, 1.0]))
    acts.concepts.add({"marked": mask}, level="sample")
    where, keep = data.draw(
        st.sampled_from(
            [
                ("marked", mask),
                ('split != "test" and not marked', (SPLITS[case.split] != "test")[case.item_of_sample] & ~mask),
                (mask, mask),
                ({"color::red": True}, case.red[case.item_of_sample]),
                ("item == -1", np.zeros(n, bool)),
            ]
        )
    )
    rows, feature = np.flatnonzero(keep), data.draw(st.integers(0, width - 1))
    assert acts.samples.where(where).tolist() == rows.tolist()
    assert np.array_equal(acts.dense(where=where), dense[keep])
    assert np.array_equal(acts.sparse(where=where).toarray(), dense[keep])
    backwards = np.arange(n)[::-1]
    assert np.array_equal(
        acts.dense(samples=backwards, features=[feature], where=where), dense[rows[::-1]][:, [feature]]
    )
    for level in ("sample", "item"):
        for count in (1, 3, n):
            top = acts.top_samples([feature], n=count, level=level, where=where)
            _, samples = brute.top_samples(
                dense, [feature], count, case.item_of_sample, per_item=level == "item", keep=keep
            )
            assert top.sample.tolist() == samples.tolist()
    column = dense[keep, feature].astype(np.float64)
    found = acts.feature(feature, where=where)
    assert found.sample.tolist() == brute.ranked(dense[:, feature], keep).tolist()
    features, samples = acts.top_features(n=2, where=where), brute.top_features(dense, rows.tolist(), 2)
    assert (features.sample.tolist(), features.feature.tolist()) == tuple(s.tolist() for s in samples)
    for active_only, values in ((False, column), (True, column[column != 0])):
        expected = np.quantile(values, [0.1, 0.5, 1.0]) if len(values) else np.full(3, np.nan)
        quantiles = acts.quantile([0.1, 0.5, 1.0], [feature], active_only=active_only, where=where)
        np.testing.assert_allclose(quantiles.values[:, 0], expected, rtol=1e-12)
        counts = acts.histogram(feature, 5, range=(-3, 3), active_only=active_only, where=where).count
        assert counts.tolist() == np.histogram(values, 5, (-3, 3))[0].tolist()


def test_one_sample_cannot_be_chosen_among(named):
    with raises(InvalidInputError, "one-sample", "[17]"):
        named.acts.dense(samples=3, where="object")
    with raises(InvalidInputError, "missing-argument", "sample=", "where="):
        named.acts.top_features()


def test_a_selective_top_reads_the_list_only_as_far_as_it_must():
    """Chunks, counted: the first samples that fulfil a condition lie at a known depth of the list."""
    n, chunk = 40_000, 256
    descending = sp.csr_array(np.arange(n, 0, -1, np.float32)[:, None])  # so that the list is 0, 1, 2, …
    with mock.patch("saestore.storage.arrays.CHUNK", chunk):
        acts = scratch_store().write("Deep/patch/list", descending, np.arange(0, n + 1, 2))
    for depth in (10, 1_000, 9_000):
        mask = np.arange(n) >= depth
        for level in ("sample", "item"):
            fresh = type(acts)(acts.root, acts.path)
            with decoded() as chunks:
                top = fresh.top_samples(0, n=5, level=level, where=mask)
            assert top.sample.tolist() == np.arange(depth, n, 2 if level == "item" else 1)[:5].tolist()
            # Samples and activations, of a prefix that may be four times as long as it must.
            assert chunks["chunks"] <= 2 * (4 * (depth + 10) // chunk + 2)
    with decoded() as chunks:
        assert len(acts.top_samples(0, n=5, where=np.zeros(n, bool))) == 0
    assert chunks["chunks"] <= 1  # the pointers of the features, which are read with a first question
