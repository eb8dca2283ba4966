"""Every kind of damage, and every kind of question: each answer is right, or refused with an error of saestore."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from damage import lie_in_segment
from effort import choose
from raising import raises
from strategies import PATH, make_case, write_case
from test_requests import CountingStore

import saestore
from saestore.errors import CorruptStoreError, NotFoundError, SaestoreError
from saestore.format import digest

pytestmark = pytest.mark.once

SEGMENT = f"{PATH}/segments/0-24"
OTHER = "Shapes/patch/other"
QUESTIONS = {
    "dense": lambda a: a.dense(),
    "some dense": lambda a: a.dense([1, 20], [0, 3]),
    "sparse": lambda a: a.sparse([9, 2]).toarray(),
    "top": lambda a: a.top_samples(range(6), 5).sample,
    "top items": lambda a: a.top_samples(3, 4, level="item").sample,
    "top where": lambda a: a.top_samples(3, 4, where='split == "test"').sample,
    "feature": lambda a: a.feature(2).activation,
    "top features": lambda a: a.top_features([0, 5, 23], 2).feature,
    "vindex": lambda a: a.vindex([3, 7], [1, 2]),
    "stats": lambda a: a.stats().to_array().values,
    "stats where": lambda a: a.stats(where="color::red").to_array().values,
    "quantile": lambda a: a.quantile(0.5).values,
    "similar": lambda a: a.similar(1).score,
    "info": lambda a: np.array([a.info()["dead_features"], a.info()["nnz"], a.info()["stored_bytes"]]),
    "where split": lambda a: a.samples.where('split != "train"'),
    "where label": lambda a: a.samples.where("not color::red"),
    "where number": lambda a: a.samples.where("weight > 3 and c"),
    "keys": lambda a: np.array(a.items["key"].tolist()),
    "labels": lambda a: a.labels("item").matrix.toarray(),
    "scores": lambda a: a.concepts.scores("item")["roc_auc"].values,
}


@pytest.fixture(scope="module")
def sound():
    """A store in memory, the bytes of its keys, and the answers, each with the keys that it is from."""
    store = saestore.open(CountingStore(), "a")
    case = make_case(1, 24, 6, density=0.5, palette="signed", ragged=True)
    acts = write_case(store, case)
    acts.concepts.add({"c": np.arange(24) % 4 == 0}, level="sample")
    write_case(store, make_case(2, 24, 6, density=0.5, palette="signed", ragged=True), OTHER)
    memory = store.root.store
    before = {key: value.to_bytes() for key, value in memory._store_dict.items()}
    answers = {}
    for name, ask in QUESTIONS.items():
        memory.taken()
        answer = ask(saestore.open(memory)[PATH])
        answers[name] = answer, {key for key, _ in memory.taken()}
    return memory, before, answers


def put(memory, key: str, content: bytes | None) -> None:
    from zarr.buffer.cpu import Buffer

    if content is None:
        del memory._store_dict[key]
    else:
        memory._store_dict[key] = Buffer.from_bytes(content)


def restore(memory, before) -> None:
    memory._store_dict.clear()
    for key, content in before.items():
        put(memory, key, content)


def wrong_answers(memory, answers, *damaged: str, questions=QUESTIONS) -> list[str]:
    """Questions with another answer than before, or an error that is not of saestore; only of those that read this."""
    wrong = []
    for name in questions:
        answer, read = answers[name]
        if read.isdisjoint(damaged):
            continue
        try:
            found = QUESTIONS[name](saestore.open(memory)[PATH])
        except SaestoreError:
            continue
        except Exception as error:  # noqa: BLE001
            wrong.append(f"{name}: {error!r}")
            continue
        if not np.array_equal(found, answer, equal_nan=np.asarray(found).dtype.kind == "f"):
            wrong.append(name)
    return wrong


def test_every_array_of_a_segment_is_read_by_a_question(sound):
    _, before, answers = sound
    read = set().union(*(read for _, read in answers.values()))
    assert {key for key in chunks_of(before) if key.startswith(SEGMENT)} <= read


def chunks_of(before) -> list[str]:
    return sorted(key for key in before if key.startswith(f"{PATH}/") and "/c/" in key)


@pytest.mark.parametrize("how", ["missing", "empty", "cut short", "of another set", "flipped"])
def test_no_question_is_answered_from_a_damaged_file(sound, how):
    memory, before, answers = sound
    damaged = {}
    for key in chunks_of(before):
        content = before[key]
        damaged[key] = {
            "missing": None,
            "empty": b"",
            "cut short": content[:-3],
            "of another set": before.get(key.replace(PATH, OTHER), content[::-1]),
            "flipped": content[:2] + bytes([content[2] ^ 1]) + content[3:],
        }[how]
        if damaged[key] == content:  # such as pointers that two sets have in common
            del damaged[key]
            continue
        put(memory, key, damaged[key])
        assert wrong_answers(memory, answers, key) == [], key
        if how == "flipped":  # found also where all else is sound
            assert key.split("/c/")[0] in {problem.node for problem in saestore.open(memory).verify(PATH).problems}
        put(memory, key, content)
    for key, content in damaged.items():
        put(memory, key, content)
    found = {problem.node for problem in saestore.open(memory).verify(PATH).problems}
    assert {key.split("/c/")[0] for key in damaged} <= found
    restore(memory, before)


def test_swapped_arrays_are_refused_although_their_checksums_are_good(sound):
    memory, before, answers = sound
    keys = chunks_of(before)
    pairs = [(f"{SEGMENT}/{a}/c/0", f"{SEGMENT}/{b}/c/0") for a, b in (
        ("min", "max"), ("n_active", "sum"), ("sum", "m2"), ("by_sample/data", "by_feature/data"),
        ("by_sample/indices", "by_sample/data"), ("by_sample/indptr", "by_feature/indptr"),
    )]  # fmt: skip
    pairs += [(a, b) for a in keys for b in keys if a < b and "/items/" in a and "/items/" in b]
    for a, b in pairs:
        if before[a] == before[b]:
            continue
        put(memory, a, before[b])
        put(memory, b, before[a])
        assert wrong_answers(memory, answers, a, b) == [], (a, b)
        assert not saestore.open(memory).verify(PATH).ok
        put(memory, a, before[a])
        put(memory, b, before[b])


def test_an_older_version_of_a_column_is_refused(sound):
    memory, before, _ = sound
    acts = saestore.open(memory, "a")[PATH]
    acts.features.set("note", list("abcdef"))
    (old,) = acts.attributes.table("features").columns["note"]
    stale = memory._store_dict[f"{PATH}/features/{old}/c/0"].to_bytes()
    acts.features.set("note", list("ghijkl"))
    (new,) = acts.attributes.table("features").columns["note"]
    put(memory, f"{PATH}/features/{new}/c/0", stale)
    with raises(CorruptStoreError, "corrupt-store", "features/"):
        _ = saestore.open(memory)[PATH].features["note"]
    restore(memory, before)


@pytest.mark.parametrize(
    "edit",
    [
        lambda a: a.update(item_size=2),
        lambda a: a.update(dtype="float16"),
        lambda a: a.update(n_features=4),
        lambda a: a.update(n_items=a["n_items"] - 1),
        lambda a: a["segments"].pop(),
        lambda a: a["segments"][0].update(nnz=a["segments"][0]["nnz"] - 1),
        lambda a: a["tables"]["items"]["columns"].update(splat=a["tables"]["items"]["columns"].pop("split")),
        lambda a: a["tables"]["items"].pop("concepts"),
        lambda a: a["tables"]["items"]["arrays"]["key"]["shards"].reverse() or a.update(codec="blosc"),
    ],
)
@pytest.mark.parametrize("checksum", ["old", "new"])
def test_edited_attributes_are_refused_at_opening_or_by_every_question(sound, edit, checksum):
    memory, before, answers = sound
    document = json.loads(before[f"{PATH}/zarr.json"])
    edit(document["attributes"])
    if checksum == "new":  # an editor who knows the format; what cannot be known then is what a name means
        body = {k: v for k, v in document["attributes"].items() if k != "checksum"}
        document["attributes"]["checksum"] = digest(body)
    put(memory, f"{PATH}/zarr.json", json.dumps(document).encode())
    if checksum == "old":
        with raises(SaestoreError, "edited-document"):
            _ = saestore.open(memory)[PATH]
        assert not saestore.open(memory).verify(PATH).ok
    else:
        crashes = [wrong for wrong in wrong_answers(memory, answers, f"{PATH}/zarr.json") if ":" in wrong]
        assert crashes == []
    restore(memory, before)


def test_sizes_that_documents_claim_are_refused_before_anything_is_allocated(sound):
    memory, before, _ = sound
    huge = 1 << 50
    for change in (
        lambda a: a["segments"][0].update(nnz=huge),
        lambda a: a["segments"][0].update(chunk=huge, shard=huge),
        lambda a: a["tables"]["items"]["arrays"]["key"].update(length=huge),
        lambda a: a["tables"]["items"]["arrays"]["key"].update(length=huge, chunk=huge, shard=huge),
    ):
        document = json.loads(before[f"{PATH}/zarr.json"])
        change(document["attributes"])
        body = {k: v for k, v in document["attributes"].items() if k != "checksum"}
        document["attributes"]["checksum"] = digest(body)
        put(memory, f"{PATH}/zarr.json", json.dumps(document).encode())
        for ask in (lambda s: s[PATH].dense(), lambda s: s[PATH].items["key"], lambda s: s[PATH].top_samples(1)):
            try:
                ask(saestore.open(memory))
            except SaestoreError:
                continue
        assert not saestore.open(memory).verify(PATH).ok
    restore(memory, before)


def test_rows_of_labels_beyond_the_table_are_refused(sound):
    """A writer with a fault: digests agree, and the numbers are wrong; scipy would end the interpreter."""
    memory, before, _ = sound
    from saestore.storage import WriteBatch, write_array

    document = json.loads(before[f"{PATH}/zarr.json"])
    table = document["attributes"]["tables"]["samples"]
    node = f"{table['concepts']['true']}/indices"
    values = np.array([0, 4, 8, 12, 16, 5000], np.uint32)
    batch = WriteBatch(memory, PATH)
    info = write_array(batch, f"samples/{node}", values, "nonzero", "pcodec", delta="consecutive")
    batch.flush()
    table["arrays"][node] = asdict(info)
    body = {k: v for k, v in document["attributes"].items() if k != "checksum"}
    document["attributes"]["checksum"] = digest(body)
    put(memory, f"{PATH}/zarr.json", json.dumps(document).encode())
    acts = saestore.open(memory)[PATH]
    for ask in (lambda: acts.samples.where("c"), lambda: acts.concepts.scores("sample"), lambda: acts.labels("sample")):
        with raises(CorruptStoreError, "corrupt-store"):
            ask()
    assert not saestore.open(memory).verify(PATH).ok
    restore(memory, before)


def test_pointers_that_lead_elsewhere_are_refused(sound):
    memory, before, _ = sound
    acts = saestore.open(memory)[PATH]
    (info,) = acts.attributes.segments
    lie = lie_in_segment(memory, PATH, info, acts.attributes, {"by_sample/indptr": lambda p: np.r_[p[:-1], 10**9]})
    attributes = acts.attributes.with_segments([lie])
    document = json.loads(before[f"{PATH}/zarr.json"])
    put(memory, f"{PATH}/zarr.json", json.dumps({**document, "attributes": attributes.to_json()}).encode())
    with raises(CorruptStoreError, "corrupt-store", "indptr"):
        saestore.open(memory)[PATH].dense()
    restore(memory, before)


def flips(before, n: int, seed: int):
    """Flipped bits of the files of a set: key and content."""
    rng = np.random.default_rng(seed)
    keys = sorted(key for key in before if key.startswith(f"{PATH}/"))
    sizes = np.array([len(before[key]) for key in keys])
    for at in rng.integers(0, sizes.sum(), n).tolist():
        which = int(np.searchsorted(np.cumsum(sizes), at, "right"))
        damaged = bytearray(before[keys[which]])
        damaged[at - int(sizes[:which].sum())] ^= 1 << int(rng.integers(8))
        yield keys[which], bytes(damaged)


def check_flips(sound, n: int, seed: int) -> tuple[int, int, int]:
    """Flip bits one after the other: how many, how many that verify does not find, and how many wrong answers."""
    memory, before, answers = sound
    names, unnoticed, wrong = list(QUESTIONS), [], []
    for i, (key, damaged) in enumerate(flips(before, n, seed)):
        put(memory, key, damaged)
        if saestore.open(memory).verify(PATH).ok:
            unnoticed.append(key)
        asked = [names[(i + k) % len(names)] for k in range(4)]
        wrong += [(key, name) for name in wrong_answers(memory, answers, key, questions=asked)]
        put(memory, key, before[key])
    assert not unnoticed, unnoticed
    assert not wrong, wrong
    return n, len(unnoticed), len(wrong)


def test_flipped_bits_are_found_and_answer_nothing(sound):
    n = choose(60, 5000)
    assert check_flips(sound, n, 0) == (n, 0, 0)


def test_a_shown_table_says_which_details_cannot_be_read(sound):
    memory, before, _ = sound
    top = saestore.open(memory)[PATH].top_samples(2, 3)
    put(memory, f"{PATH}/items/key/c/0", b"")
    shown = [repr(top), top._repr_html_()]
    with raises(CorruptStoreError, "corrupt-store"):
        top.to_pandas()
    restore(memory, before)
    assert ["Names and texts cannot be read: " in text for text in shown] == [True, True]
    assert "cannot be read" not in repr(saestore.open(memory)[PATH].top_samples(2, 3))


def test_a_set_that_is_not_there_is_not_damage(sound):
    with raises(NotFoundError, "unknown-set"):
        _ = saestore.open(sound[0])["Shapes/patch/none"]
