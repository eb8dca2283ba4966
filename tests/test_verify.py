"""Whatever is wrong with a store is found and named: a flipped byte, a file too many, one too few."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from effort import choose
from raising import raises
from strategies import PATH, layout, make_case, write_case, write_segments
from test_storage import copy_of

import saestore
from saestore.errors import CorruptStoreError, SaestoreError, StoreFormatError
from saestore.verify import _check_document

pytestmark = pytest.mark.once

GROWING = "Shapes/token/growing"
FLIPS = (0x01, 0x80, 0xFF, 0x20)  # 0x20 turns a letter into the other case, and a space into nothing


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A store with a finished set, and one of two segments, in shards of a few chunks of blosc."""
    folder = tmp_path_factory.mktemp("sound") / "a.zarr"
    store = saestore.open(folder, "a")
    write_case(store, make_case(1, 24, 6, density=0.5, palette="signed", ragged=True))
    growing = make_case(2, 30, 5, density=0.6, segment_rows=15, codec="blosc", chunk=8, shard=16, dtype="float64")
    write_segments(store, growing, GROWING)
    assert store.verify().ok
    return folder


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound, tmp_path / "a.zarr"))


def files_of(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.is_file())


def node_of(file: Path, folder: Path) -> str:
    """The array or group that a file belongs to."""
    name = file.relative_to(folder).as_posix()
    return name.split("/c/")[0].removesuffix("zarr.json").strip("/") or "/"


Change = Callable[[bytes], bytes]


def flipped(at: int, pattern: int) -> Change:
    """Change one byte: the one at this place, counted round and round."""

    def change(content: bytes) -> bytes:
        damaged = bytearray(content)
        damaged[at % len(content)] ^= pattern
        return bytes(damaged)

    return change


def flip(file: Path, at: int, pattern: int) -> bytes:
    """Change one byte of a file; returns what was there."""
    before = file.read_bytes()
    file.write_bytes(flipped(at, pattern)(before))
    return before


def nodes_found(folder: Path) -> set[str]:
    """Nodes that a verification names; a store that cannot even be opened names its root."""
    try:
        report = saestore.open(folder).verify()
    except SaestoreError:
        return {"/"}
    assert bool(report) == report.ok == (not report.problems)
    assert all("\n" not in str(problem) for problem in report.problems)
    return {problem.node for problem in report.problems}


def assert_found(folder: Path, damage: dict[Path, Change | None]) -> None:
    """Verify names each of the files that are changed, or with None removed; afterwards they are as before."""
    before = {file: file.read_bytes() for file in damage}
    for file, change in damage.items():
        file.unlink()
        if change is not None:
            file.write_bytes(change(before[file]))
    found = nodes_found(folder)
    for file, content in before.items():
        node = node_of(file, folder)
        # A set that is not one any more is found by its files, which belong to no set then.
        assert any(n == node or n.startswith(f"{node}/") for n in found), f"{file}: {sorted(found)[:5]}"
        file.write_bytes(content)


def batches(files: list[Path]) -> list[list[Path]]:
    """Documents of groups one by one, for a damaged group is not looked into; of the other files several at once."""
    groups = [file for file in files if any(file.parent.glob("*/zarr.json"))]
    others = [file for file in files if file not in groups]
    n = choose(8, len(others))
    return [*([file] for file in groups), *(others[i::n] for i in range(n))]


def test_a_byte_flipped_in_any_file_is_found_and_its_array_named(folder):
    rng = np.random.default_rng(0)
    for batch in batches([file for file in files_of(folder) if "/15-30/" not in file.as_posix()]):  # which is as 0-15
        assert_found(folder, {file: flipped(int(rng.integers(1 << 30)), int(rng.choice(FLIPS))) for file in batch})
    assert nodes_found(folder) == set()


@pytest.mark.parametrize("name", [f"{PATH}/zarr.json", f"{GROWING}/zarr.json", f"{PATH}/segments/0-24/zarr.json"])
def test_bytes_flipped_in_the_documents_that_matter_most_are_found(folder, name):
    file, rng = folder / name, np.random.default_rng(1)
    size = file.stat().st_size
    for at in [0, 1, size - 1, *rng.integers(0, size, 12).tolist()]:
        assert_found(folder, {file: flipped(at, int(rng.choice(FLIPS)))})


@pytest.mark.parametrize("path", ["Shapes", "Shapes/patch", f"{PATH}/segments"])
def test_every_byte_of_a_document_without_a_digest_counts(folder, path):
    file = folder / path / "zarr.json"
    root = saestore.open(folder).root
    assert list(_check_document(root, path, {})) == []
    for at in range(file.stat().st_size):
        for pattern in FLIPS:
            before = flip(file, at, pattern)
            assert list(_check_document(root, path, {})), f"byte {at} ^ {pattern:#x}"
            file.write_bytes(before)


def test_every_byte_of_the_roots_document_counts(tmp_path):
    folder = tmp_path / "a.zarr"
    saestore.open(folder, "a")
    file = folder / "zarr.json"
    for at in range(file.stat().st_size):
        for pattern in FLIPS:
            before = flip(file, at, pattern)
            assert nodes_found(folder) == {"/"}, f"byte {at} ^ {pattern:#x}"
            file.write_bytes(before)


@pytest.mark.parametrize("matrix", ["by_sample", "by_feature"])
@pytest.mark.parametrize("path", [f"{PATH}/segments/0-24", f"{GROWING}/segments/15-30"])
def test_no_query_answers_from_a_damaged_chunk(folder, path, matrix):
    """Every byte of a matrix' chunks and tails, in a folder and in memory."""
    name = f"{matrix}/data"
    for file in files_of(folder / path / name / "c"):
        for at in range(file.stat().st_size):
            before = flip(file, at, FLIPS[at % len(FLIPS)])
            with raises(CorruptStoreError, "corrupt-store", name):
                read_whole(saestore.open(folder), path, name)
            if at % 16 == 0:
                with raises(CorruptStoreError, "corrupt-store", name):
                    read_whole(saestore.open(copy_of(folder)), path, name)
            file.write_bytes(before)


def read_whole(store, path: str, name: str) -> None:
    (segment,) = (s for s in store[path.split("/segments/", maxsplit=1)[0]].segments if s.path == path)
    reader = segment.reader(name)
    reader.read(0, reader.length)


def test_a_file_that_is_missing_is_named(folder):
    for batch in batches(files_of(folder)[:-1]):  # without its own document, the last, a store is none
        assert_found(folder, dict.fromkeys(batch))
    assert nodes_found(folder) == set()


@pytest.mark.parametrize("keep", [0, 3, -1])
def test_a_file_that_is_cut_short_is_named(folder, keep):
    for batch in batches(files_of(folder)[:: 3 + keep]):
        assert_found(folder, dict.fromkeys(batch, lambda content: content[:keep]))


def test_a_file_that_nobody_named_is_reported(folder):
    for name in (
        "notes.txt",
        "Shapes/notes.txt",
        f"{PATH}/notes.txt",
        f"{PATH}/items/key/c/7",
        f"{PATH}/segments/24-30/zarr.json",
        f"{PATH}/segments/0-24/by_sample/data/c/9",
        "Shapes/patch/other/zarr.json",
    ):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
        assert nodes_found(folder) == {name} or nodes_found(folder) == {name.removesuffix("/zarr.json")}
        file.unlink()
        if not any(file.parent.iterdir()):
            file.parent.rmdir()
    assert nodes_found(folder) == set()


def test_one_set_may_be_verified_alone(folder):
    flip(folder / GROWING / "segments/0-15/by_sample/data/c/0", 5, 1)
    store = saestore.open(folder)
    assert store.verify("sae").ok
    report = store.verify(GROWING)
    assert report.checked == (GROWING,)
    assert [p.node for p in report.problems] == [f"{GROWING}/segments/0-15/by_sample/data"]
    assert [p.path for p in report.problems] == [GROWING]


def test_every_damaged_array_is_named_at_once(folder):
    damaged = {
        f"{PATH}/segments/0-24/by_sample/indices",
        f"{PATH}/segments/0-24/by_feature/data",
        f"{PATH}/segments/0-24/m2",
        f"{PATH}/items/key",
        f"{PATH}/l0",
        f"{GROWING}/segments/0-15/by_feature/indptr",
        f"{GROWING}/segments/15-30/n_active",
    }
    for node in damaged:
        flip(folder / node / "c/0", 3, 0xFF)
    assert nodes_found(folder) == damaged


def test_a_set_that_lost_a_segments_document_still_has_its_others_checked(folder):
    (folder / PATH / "segments/0-24/zarr.json").unlink()
    flip(folder / GROWING / "segments/0-15/sum/c/0", 3, 0xFF)
    found = nodes_found(folder)
    assert f"{PATH}/segments/0-24" in found
    assert f"{GROWING}/segments/0-15/sum" in found


def change(folder: Path, path: str, **attributes) -> None:
    group = saestore.open(folder, "a").root[path]
    group.attrs.update(attributes)


def test_attributes_changed_by_hand_do_not_agree_with_their_checksum(folder):
    change(folder, PATH, note="mine")
    (problem,) = saestore.open(folder).verify().problems
    assert (problem.node, "do not agree with their checksum" in problem.what) == (PATH, True)
    with raises(StoreFormatError, "edited-document", PATH):
        _ = saestore.open(folder)[PATH]


@pytest.mark.parametrize(
    "change", [{"item_size": 10, "n_items": 6}, {"n_features": 8}, {"dtype": "float16"}, {"tables": {}}]
)
def test_attributes_that_were_edited_answer_nothing(folder, change):
    group = saestore.open(folder, "a").root[PATH]
    group.attrs.update(change)
    with raises(StoreFormatError, "edited-document", PATH):
        _ = saestore.open(folder)[PATH]


def test_arrays_at_the_root_that_say_something_else_are_named(folder):
    from saestore.format import digest

    store = saestore.open(folder, "a")
    group = store.root[PATH]
    for name in ("l0", "position", "mean", "n_active"):
        array = group[name]
        before = array[:]
        file = folder / PATH / name / "c/0"
        stored = file.read_bytes()
        array[:] = before + 1
        assert nodes_found(folder) == {f"{PATH}/{name}"}
        file.write_bytes(stored)

    def put(**changes):
        attributes = {**group.attrs.asdict(), **changes}
        attributes.pop("checksum")
        group.attrs.put({**attributes, "checksum": digest(attributes)})

    dead = group.attrs["dead_features"]
    put(dead_features=7)
    assert nodes_found(folder) == {PATH}
    # The same where they do not claim to cover the present segments: nobody trusts them.
    put(derived=["0-7"], dead_features=dead)
    assert nodes_found(folder) == set()
    group["l0"][:] = 99
    assert nodes_found(folder) == {f"{PATH}/l0"}


def test_pointers_of_items_that_do_not_fit_are_named(folder):
    store = saestore.open(folder, "a")
    ptr = store.root[f"{PATH}/items/ptr"]
    ptr[:] = ptr[:][::-1].copy()
    assert f"{PATH}/items/ptr" in nodes_found(folder)


def test_a_store_in_memory_is_verified_too(sound):
    memory = copy_of(sound)
    assert saestore.open(memory).verify().ok
    key = f"{GROWING}/segments/15-30/by_feature/indices/c/0"
    whole = memory._store_dict[key]
    memory._store_dict[key] = whole[:-1]
    (problem,) = saestore.open(memory).verify().problems
    assert problem.node == key.removesuffix("/c/0")
    del memory._store_dict[key]
    (problem,) = saestore.open(memory).verify().problems
    assert problem.node == key.removesuffix("/c/0")
    memory._store_dict[key] = whole
    for name in ("zarr.json", "sum/zarr.json"):
        memory._store_dict[f"{PATH}/segments/99-100/{name}"] = memory._store_dict[f"{PATH}/segments/0-24/{name}"]
    (problem,) = saestore.open(memory).verify().problems
    assert (problem.node, "named by no attributes" in problem.what) == (f"{PATH}/segments/99-100", True)


def test_an_empty_store_is_sound(tmp_path):
    report = saestore.open(tmp_path / "a.zarr", "a").verify()
    assert report.ok
    assert report.checked == ()


def test_a_damaged_set_is_an_error_of_ours_in_whatever_is_done_with_it(folder):
    file = folder / PATH / "zarr.json"
    document = json.loads(file.read_text())
    for damaged in (
        "", "{", "[]", "{}", "null", '{"zarr_format": 3}', '{"zarr_format": 3, "node_type": "array"}',
        '{"zarr_format": 2, "node_type": "group"}', '{"zarr_format": 3, "node_type": "group", "attributes": []}',
        json.dumps({**document, "node_type": 5}), json.dumps({**document, "attributes": {"format": 1}}),
        json.dumps({**document, "extra": 1}),
    ):  # fmt: skip
        file.write_text(damaged)
        store = saestore.open(folder, "a")
        for use in (list, lambda s: s[PATH], lambda s: s["sae"], lambda s: s.compact(PATH), repr):
            try:
                use(store)
            except SaestoreError as e:
                assert "\n" not in str(e)  # noqa: PT017
        assert not store.verify().ok
    with layout(make_case(1, 2, 2)):
        assert saestore.open(folder)[GROWING].shape == (30, 5)
