"""Further items for a set: the answers are those of a set that was built of all of them at once."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from build_helpers import clip_scope, clip_scope_dense, hashes, near, unexplained
from effort import choose
from raising import raises
from zarr.storage import MemoryStore

import saestore
from benchmarks.counting import CountingStore
from saestore.errors import StoreConflictError
from saestore.writing.derived import DERIVED

PATH = "Mine/token/tiny"
N_ITEMS = (12, 20, 31)
SEGMENT_ROWS = 50


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Embeddings, items, pointers and spans of three stages, each the beginning of the next."""
    folder = tmp_path_factory.mktemp("inputs")
    sae = clip_scope(folder / "tiny.pt")
    random = np.random.default_rng(0)
    sizes = random.integers(3, 9, N_ITEMS[-1])
    sizes[: N_ITEMS[0]] = [8] * 8 + [9] * 4  # two whole segments: rounding depends on which rows are encoded together
    ptr = np.concatenate([[0], np.cumsum(sizes)])
    x = near(sae, int(ptr[-1]))
    starts = random.integers(0, 40, len(x))
    texts = [f"text number {i}" for i in range(N_ITEMS[-1])]
    splits = [("train", "cal", "test")[i % 3] for i in range(N_ITEMS[-1])]
    stages = []
    for stage, n in enumerate(N_ITEMS):
        rows = int(ptr[n])
        np.save(folder / f"x{stage}.npy", x[:rows].numpy())
        np.save(folder / f"ptr{stage}.npy", ptr[: n + 1])
        np.save(folder / f"spans{stage}.npy", np.stack([starts, starts + 2], axis=1)[:rows])
        lines = [f"{texts[i]},{splits[i]},{i % 2}" for i in range(n)]
        (folder / f"items{stage}.csv").write_text("\n".join(["text,split,odd", *lines]) + "\n")
        stages.append(
            {
                "dataset": "Mine",
                "sample_type": "token",
                "sae": str(sae),
                "embeddings": str(folder / f"x{stage}.npy"),
                "items": str(folder / f"items{stage}.csv"),
                "item_ptr": str(folder / f"ptr{stage}.npy"),
                "token_spans": str(folder / f"spans{stage}.npy"),
                "segment_rows": SEGMENT_ROWS,
            }
        )
    return stages


def build(store, stage, **how):
    with unexplained():
        return saestore.build(**{**stage, **how}, store=store, progress=False)


def assert_same(acts, whole):
    """Two sets give the same answers, whatever their segments."""
    assert acts.shape == whole.shape
    ours, theirs = acts.sparse(), whole.sparse()
    np.testing.assert_array_equal(ours.indptr, theirs.indptr)
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    np.testing.assert_allclose(ours.data, theirs.data, rtol=1e-5)
    assert acts.n_items == whole.n_items
    np.testing.assert_array_equal(acts.item_index.pointers(), whole.item_index.pointers())
    np.testing.assert_array_equal(acts.spans(), whole.spans())
    assert acts.items.names() == whole.items.names()
    for name in whole.items.names():
        np.testing.assert_array_equal(acts.items.column(name), whole.items.column(name))
    for name in whole.items.concept_names:
        np.testing.assert_array_equal(acts.items.column(name), whole.items.column(name))
    for feature in (0, 5, 17):
        found = [each.top_samples(feature, n=20, where={"split": "test"}) for each in (acts, whole)]
        np.testing.assert_array_equal(found[0].sample, found[1].sample)
        np.testing.assert_array_equal(found[0].item, found[1].item)
    for name, values in whole.stats().items():
        np.testing.assert_allclose(acts.stats()[name], values, rtol=1e-5)


def assert_sound(store):
    report = saestore.open(store).verify()
    assert report.ok, report.problems


def as_xarray(store):
    import xarray as xr

    return xr.open_zarr(store, group=PATH, consolidated=False)


def test_two_appends_answer_as_one_build(tmp_path, inputs):
    whole = build(tmp_path / "whole", inputs[2])
    store = tmp_path / "store"
    first = build(store, inputs[0])
    old = hashes(store / PATH / "segments")
    build(store, inputs[1], append=True)
    acts = build(store, inputs[2], append=True)
    assert [s.start for s in acts.attributes.segments] == [0, len(first), len(build(tmp_path / "second", inputs[1]))]
    assert old.items() <= hashes(store / PATH / "segments").items()  # what was there was not even written again
    assert acts.attributes.complete
    assert_same(acts, whole)
    assert_sound(store)
    assert [step["n_items"] for step in acts.attributes.source["appended"]] == list(N_ITEMS[:2])
    assert acts.attributes.source["fingerprint"] == whole.attributes.source["fingerprint"]
    plain, expected = as_xarray(store), as_xarray(tmp_path / "whole")
    for name in expected.variables:
        np.testing.assert_allclose(plain[name], expected[name], rtol=1e-5)


@pytest.mark.once
def test_what_a_whole_append_asks_of_a_store(inputs):
    """As many writes and reads for any set, and 7 reads for each of its segments; see docs/decisions/019."""
    counting = CountingStore(MemoryStore())
    store, reads = saestore.open(counting, "a"), []
    build(store, inputs[0], segment_rows=100)
    for stage in (1, 2):
        counting.taken()
        acts = build(store, inputs[stage], segment_rows=100, append=True)
        parts = Counter((kind, key.removeprefix(f"{PATH}/").split("/")[0]) for kind, key, _ in counting.log)
        assert parts["write", "segments"] == 25
        assert parts["read", "segments"] == 7 * len(acts.segments) == 7 * (stage + 1)
        assert sum(n for (kind, part), n in parts.items() if kind == "write" and part in DERIVED) == 24
        reads.append(sum(n for (kind, part), n in parts.items() if kind == "read" and part != "segments"))
    assert reads[0] == reads[1] <= 40


def test_compacted_it_is_the_segment_of_one_build(tmp_path, inputs):
    whole, store = tmp_path / "whole", tmp_path / "store"
    build(whole, inputs[1])
    build(store, inputs[0])
    build(store, inputs[1], append=True)
    saestore.open(store, mode="a").compact(PATH)
    assert hashes(store / PATH / "segments") == hashes(whole / PATH / "segments")
    assert_sound(store)


def test_the_same_again_does_nothing(tmp_path, inputs):
    store = tmp_path / "store"
    build(store, inputs[0])
    build(store, inputs[1], append=True)
    before = hashes(store)
    build(store, inputs[1], append=True)
    build(store, inputs[1])
    assert hashes(store) == before


def test_to_nothing_is_an_ordinary_build(tmp_path, inputs):
    build(tmp_path / "a", inputs[0], append=True)
    build(tmp_path / "b", inputs[0])
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_without_the_flag_it_is_said(tmp_path, inputs):
    store = tmp_path / "store"
    build(store, inputs[0])
    before = hashes(store)
    with raises(StoreConflictError, "different-content", "--append (append=True)"):
        build(store, inputs[1])
    assert hashes(store) == before


@pytest.fixture
def changed(tmp_path, inputs):
    """The second stage with something that it must not have; gives what to build then."""

    def change(name, text_of):
        path = tmp_path / "changed.csv"
        path.write_text(text_of(Path(inputs[1][name]).read_text()))
        return {**inputs[1], name: str(path)}

    return change


REFUSED = {
    "renamed": (
        lambda csv: csv.replace("text number 3,", "another,"),
        "changed-column",
        ("'text' of item 3", "text number 3"),
    ),
    "split": (lambda csv: csv.replace("number 4,cal", "number 4,test"), "changed-column", ("'split' of item 4", "cal")),
    "label": (lambda csv: csv.replace("number 5,test,1", "number 5,test,0"), "changed-column", ("'odd' of item 5",)),
    "no column": (
        lambda csv: "\n".join(line.rsplit(",", 1)[0] for line in csv.split("\n")),
        "missing-column",
        ("'odd'",),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_was_changed_is_named(tmp_path, inputs, changed, case):
    text_of, code, named = REFUSED[case]
    store = tmp_path / "store"
    build(store, inputs[0])
    before = hashes(store)
    with raises(StoreConflictError, code, "--overwrite", *named):
        build(store, changed("items", text_of), append=True)
    assert hashes(store) == before


def test_a_further_column_is_welcome(tmp_path, inputs):
    store = tmp_path / "store"
    build(store, inputs[0])
    rows = Path(inputs[1]["items"]).read_text().splitlines()
    path = tmp_path / "more.csv"
    path.write_text("\n".join([rows[0] + ",length", *(f"{row},{i + 7}" for i, row in enumerate(rows[1:]))]) + "\n")
    acts = build(store, {**inputs[1], "items": str(path)}, append=True)
    np.testing.assert_array_equal(acts.items.column("length"), np.arange(N_ITEMS[1]) + 7)
    assert_sound(store)


def test_changed_rows_items_of_other_sizes_and_spans(tmp_path, inputs):
    store = tmp_path / "store"
    build(store, inputs[0])
    x, ptr, spans = (np.load(inputs[1][name]) for name in ("embeddings", "item_ptr", "token_spans"))
    x[0, 0] += 1
    np.save(tmp_path / "x.npy", x)
    with raises(StoreConflictError, "changed-rows", "x.npy"):
        build(store, {**inputs[1], "embeddings": str(tmp_path / "x.npy")}, append=True)
    ptr[3] -= 1
    with raises(StoreConflictError, "changed-sizes", PATH):
        build(store, {**inputs[1], "item_ptr": ptr}, append=True)
    spans[0, 1] += 1
    with raises(StoreConflictError, "changed-token-spans", PATH):
        build(store, {**inputs[1], "token_spans": spans}, append=True)
    with raises(StoreConflictError, "different-content", "top_k (None there, 2 now)"):
        build(store, inputs[1], append=True, top_k=2)


def test_fewer_items_are_refused(tmp_path, inputs):
    build(tmp_path / "store", inputs[1])
    with raises(StoreConflictError, "changed-items", "'12' is missing", "--overwrite"):
        build(tmp_path / "store", inputs[0], append=True)


def test_what_top_k_drops_is_added_up(tmp_path, inputs):
    how = {"top_k": 2, "dtype": "float16"}
    build(tmp_path / "store", inputs[0], **how)
    acts = build(tmp_path / "store", inputs[1], append=True, **how)
    whole = build(tmp_path / "whole", inputs[1], **how)
    ours, theirs = acts.attributes.dropped, whole.attributes.dropped
    assert ours["n_dropped"] == theirs["n_dropped"] > 0
    assert ours["sum_dropped"] == pytest.approx(theirs["sum_dropped"])
    assert ours["max_relative_error"] == theirs["max_relative_error"]


@pytest.mark.once
def test_killed_anywhere_it_goes_on_and_readers_see_old_or_new(tmp_path, inputs, processes):
    """At every state that a kill leaves, the set opens and says of the samples that it has what a whole build says."""
    expected = clip_scope_dense(inputs[1]["sae"], torch.from_numpy(np.load(inputs[1]["embeddings"])))
    base, undisturbed = tmp_path / "base", tmp_path / "undisturbed"
    n_old = len(build(base, inputs[0]))
    shutil.copytree(base, undisturbed)
    done = processes.run({**inputs[1], "store": str(undisturbed), "append": True})
    assert done["exit"] == 0, done
    seen, exits = set(), []
    for n in np.linspace(3, done["changes"] - 1, choose(6, 40), dtype=int).tolist():
        store = tmp_path / f"killed-{n}"
        shutil.copytree(base, store)
        opened = saestore.open(store)[PATH]
        exits.append(processes.run({**inputs[1], "store": str(store), "append": True}, kill_at=n)["exit"])
        acts = saestore.open(store)[PATH]
        seen.add((acts.attributes.table("items").version, len(acts) > n_old, acts.attributes.complete))
        np.testing.assert_allclose(acts.sparse().toarray(), expected[: len(acts)], rtol=1e-5, atol=1e-6)
        texts = acts.items.column("text")[acts.item_index.locate(np.arange(len(acts)))[0]]
        assert len(texts) == len(acts.spans()) == len(acts)
        assert opened.top_samples(5, n=9, where={"split": "cal"}).sample.max(initial=0) < len(acts)
        ended = processes.run({**inputs[1], "store": str(store), "append": True})
        assert ended["exit"] == 0, ended
        assert hashes(store) == hashes(undisturbed)
        assert_sound(store)
        shutil.rmtree(store)
    assert set(exits) <= {-9, 0}
    assert (
        exits.count(-9) >= len(exits) - 1
    )  # threads decide how many changes there are: the last kill may come too late
    assert {version for version, _, _ in seen} == {1, 2}
    assert (2, False, False) in seen
    assert (2, True, False) in seen


def test_labels_that_were_given_later(tmp_path, inputs):
    """Those of items must be in the table of all of them; those of samples are of the samples they were given for."""
    store = tmp_path / "store"
    old = build(store, inputs[0])
    labels = np.arange(N_ITEMS[0]) % 3 == 0
    saestore.open(store, mode="a")[PATH].concepts.add({"third": labels}, level="item")
    saestore.open(store, mode="a")[PATH].concepts.add({"first": np.arange(len(old)) < 5}, level="sample")
    with raises(StoreConflictError, "missing-column", "'third'"):
        build(store, inputs[1], append=True)
    rows = Path(inputs[1]["items"]).read_text().splitlines()
    path = tmp_path / "with-labels.csv"
    path.write_text("\n".join([rows[0] + ",third", *(f"{row},{int(i % 3 == 0)}" for i, row in enumerate(rows[1:]))]))
    acts = build(store, {**inputs[1], "items": str(path)}, append=True)
    np.testing.assert_array_equal(acts.items.column("third"), np.arange(N_ITEMS[1]) % 3 == 0)
    assert np.ma.getmaskarray(acts.samples["first"]).sum() == len(acts) - len(old)  # of the new ones nothing is known
    assert set(acts.samples.where("first")) == set(range(5))
    assert set(acts.samples.where("not first")) == set(range(5, len(old)))
    assert_sound(store)
    saestore.open(store, mode="a").compact(PATH)
    assert_sound(store)
