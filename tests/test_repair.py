"""A repair makes again what follows from the rest, names what is lost, and changes nothing that is whole."""

import numpy as np
import pytest
from click.testing import CliRunner
from raising import raises
from strategies import PATH, layout, make_case, memory_store, write_case
from test_damage import put, restore

import saestore
from saestore.cli import main
from saestore.errors import StoreFormatError
from saestore.format import SetAttributes

pytestmark = pytest.mark.once

SEGMENT = f"{PATH}/segments/0-24"


@pytest.fixture(scope="module")
def stored():
    store, case = memory_store(), make_case(1, 24, 6, density=0.5, palette="signed", ragged=True)
    write_case(store, case)
    memory = store.root.store
    return memory, {key: value.to_bytes() for key, value in memory._store_dict.items()}, case


def mended(stored, *damage: str) -> tuple[saestore.store.Store, object]:
    """Repair the set after these files lost a byte."""
    memory, before, case = stored
    restore(memory, before)
    for key in damage:
        put(memory, f"{PATH}/{key}", before[f"{PATH}/{key}"][:-1])
    store = saestore.open(memory, "a")
    with layout(case):
        result = store.repair(PATH)
    return store, result


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (["l0/c/0"], "l0: computed again"),
        (["mean/zarr.json"], "mean: computed again"),
        (["segments/0-24/by_sample/data/c/0"], "written again from by_feature"),
        (
            ["segments/0-24/by_sample/indptr/c/0", "segments/0-24/by_sample/indices/c/0"],
            "written again from by_feature",
        ),
        (["segments/0-24/by_feature/indices/c/0"], "written again from by_sample"),
        (["segments/0-24/by_feature/indptr/c/0", "segments/0-24/sum/c/0", "l0/c/0"], "written again from by_sample"),
        (["segments/0-24/m2/c/0"], "written again from by_sample"),
        (["segments/0-24/by_feature/zarr.json"], "written again from by_sample"),
        (["segments/0-24/zarr.json"], "its document was made again"),
        (["items/split/zarr.json"], "split written again"),
        (["items/concepts/data/zarr.json"], "concepts written again"),
        (["items/ptr/zarr.json"], "pointers written again"),
    ],
)
def test_what_follows_from_the_rest_is_made_anew(stored, damage, what):
    store, result = mended(stored, *damage)
    assert not result.found.ok
    assert any(what in line for line in result.mended), result.mended
    assert (result.ok, result.lost) == (True, ())
    assert store.verify().ok
    acts, case = saestore.open(stored[0])[PATH], stored[2]
    assert np.array_equal(acts.dense(), case.dense)
    assert np.array_equal(acts.dense(features=2), case.dense[:, 2])
    assert acts.items["split"].tolist() == case.items["split"]
    assert np.array_equal(acts.labels("item").mask("color::red"), case.red)


@pytest.mark.parametrize("key", ["items/split/c/0", "items/key/c/0", "items/ptr/c/0", "items/concepts/indices/c/0"])
def test_what_is_lost_is_named_and_refused(stored, key):
    store, result = mended(stored, key)
    assert not result.ok
    assert {problem.node for problem in result.lost} == {f"{PATH}/{key.removesuffix('/c/0')}"}
    assert {p.node for p in store.verify().problems} == {p.node for p in result.lost}


def test_a_segment_without_a_whole_order_is_lost(stored):
    _, result = mended(stored, "segments/0-24/by_sample/data/c/0", "segments/0-24/by_feature/data/c/0")
    assert not result.ok
    assert all(problem.node.startswith(SEGMENT) for problem in result.lost)


def test_documents_of_groups_and_strays_are_put_right(stored):
    memory, before, _ = stored
    restore(memory, before)
    put(memory, f"{PATH}/segments/zarr.json", b"{}")
    put(memory, f"{PATH}/items/zarr.json", before[f"{PATH}/items/zarr.json"] + b" ")
    put(memory, f"{PATH}/segments/9-12/zarr.json", before[f"{SEGMENT}/zarr.json"])
    store = saestore.open(memory, "a")
    assert store.repair(PATH).ok
    assert store.verify().ok


def test_a_document_with_the_digests_of_many_shards_is_made_again():
    """Only of shards that are those that were committed: of others the digest of the document is another one."""
    store, case = memory_store(), make_case(2, 60, 4, density=0.5, palette="signed", chunk=2, shard=4, ragged=True)
    acts, odd, weight = write_case(store, case), np.arange(60) % 5 > 0, np.arange(60) % 7
    with layout(case):
        acts.samples.update({"weight": weight, "a b": np.ma.MaskedArray(weight, odd)})
        acts.concepts.add({"odd": odd}, level="sample")
        memory, info = store.root.store, acts.attributes.tables["samples"]
        nodes = [node for node, array in info.arrays.items() if array.shards is None]
        before = {key: value.to_bytes() for key, value in memory._store_dict.items()}
        assert len(nodes) == 5
        for node in nodes:
            put(memory, f"{PATH}/samples/{node}/zarr.json", b"{}")
        result = store.repair(PATH)
        assert (result.ok, len(result.mended)) == (True, 5)
        assert {key: value.to_bytes() for key, value in memory._store_dict.items()} == before
        lost = f"{PATH}/samples/{nodes[0]}"
        put(memory, f"{lost}/zarr.json", b"{}")
        put(memory, f"{lost}/c/3", before[f"{lost}/c/4"])
        assert {problem.node for problem in store.repair(PATH).lost} == {lost}


@pytest.mark.filterwarnings("ignore:Object at")  # of zarr
@pytest.mark.parametrize("parent", ["Shapes", "Shapes/patch", PATH])
def test_a_set_that_is_not_found_any_more_is_noticed(stored, parent):
    memory, before, _ = stored
    restore(memory, before)
    put(memory, f"{parent}/zarr.json", None)
    assert [problem.node for problem in saestore.open(memory).verify().problems] == [PATH]
    if parent != PATH:
        assert saestore.open(memory, "a").repair(PATH).ok
        assert saestore.open(memory).verify().ok


def test_a_sound_set_is_left_as_it_is(stored):
    store, result = mended(stored)
    assert (result.ok, result.mended, result.found.ok) == (True, (), True)
    assert {k: v.to_bytes() for k, v in store.root.store._store_dict.items()} == stored[1]


def test_a_set_whose_attributes_are_damaged_cannot_be_repaired(stored):
    memory, before, _ = stored
    restore(memory, before)
    put(memory, f"{PATH}/zarr.json", before[f"{PATH}/zarr.json"].replace(b'"n_features": 6', b'"n_features": 7'))
    assert SetAttributes
    with raises(StoreFormatError, "edited-document"):
        saestore.open(memory, "a").repair(PATH)


def test_the_command_line_repairs(tmp_path):
    store = saestore.open(tmp_path / "s.zarr", "a")
    write_case(store, make_case(1, 24, 6, density=0.5))
    file = tmp_path / "s.zarr" / SEGMENT / "by_sample/data/c/0"
    file.write_bytes(file.read_bytes()[:-2])
    options = ["verify", "--store", str(tmp_path / "s.zarr")]
    assert CliRunner().invoke(main, options).exit_code == 1
    result = CliRunner().invoke(main, [*options, "--repair"])
    assert result.exit_code == 0
    assert "written again from by_feature" in result.output
    assert CliRunner().invoke(main, options).exit_code == 0
