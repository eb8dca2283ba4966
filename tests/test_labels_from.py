"""Labels from a metadata.csv, from image masks, from spans of characters and from files of arrays."""

import csv
import json

import cli_stores
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from raising import raises
from strategies import copy_of, scratch_store

import saestore
from saestore.errors import InvalidInputError, NotFoundError, StoreConflictError
from saestore.labels.as_labels import read_arrays
from saestore.labels.patch_grid import Patches
from saestore.tables.item_index import ItemIndex

pytestmark = pytest.mark.once

N_ITEMS, GRID = 5, 3
KEYS = [f"images/{'ab'[i % 2]}/scene_{i}.jpg" for i in range(N_ITEMS)]
RED = np.array([1, 0, 1, 1, 0], bool)


@pytest.fixture
def acts(tmp_path):
    """3 x 3 patches of five images."""

    def make(folder):
        items = {"image_path": KEYS, "split": ["train"] * N_ITEMS, "color::red": RED.astype(int), "shape::cube": ~RED}
        matrix = sp.csr_array(np.eye(N_ITEMS * GRID**2, 4, dtype=np.float32))
        saestore.open(folder, "a").write("Toy/patch/x", matrix, items=items)

    return copy_of("patches", make, tmp_path / "patches.zarr")["Toy/patch/x"]


def write_table(path, keys, **columns):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image_path", *columns])
        writer.writerows(zip(keys, *columns.values(), strict=True))
    return path


# metadata.csv


@pytest.mark.parametrize("shorten", [str, lambda key: key.rsplit("/", 1)[-1], lambda key: f"elsewhere\\{key}"])
def test_rows_of_a_table_are_matched_by_their_keys(acts, tmp_path, shorten):
    order = np.random.default_rng(0).permutation(N_ITEMS)
    big = np.array([1, 1, 0, 0, 1])
    table = write_table(tmp_path / "m.csv", [shorten(KEYS[i]) for i in order], big=big[order], split=["cal"] * N_ITEMS)
    assert acts.concepts.add(table) == ["big"]
    assert acts.concepts.mask("big").tolist() == big.astype(bool).tolist()
    assert acts.concepts.names() == ["color::red", "shape::cube", "big"]


def test_a_table_that_does_not_fit_is_told_by_name(acts, tmp_path):
    def refused(keys, code, *named, **how):
        table = write_table(tmp_path / "m.csv", keys, big=[1] * len(keys))
        with raises(InvalidInputError, code, *named):
            acts.concepts.add(table, **how)

    refused(["x.jpg", *KEYS], "unmatched-keys", "1 row", "'x.jpg'", "'images/a/scene_0.jpg'")
    refused(KEYS[:-2], "missing-rows", "2 of 5", "'images/b/scene_3.jpg', 'images/a/scene_4.jpg'")
    refused(KEYS[:-2], "missing-rows", "2 of 5", on_unmatched="ignore")
    refused([*KEYS, "scene_4.jpg"], "duplicate-key", "'images/a/scene_4.jpg' and 'scene_4.jpg'")
    refused(KEYS, "unknown-choice", "'skip'", on_unmatched="skip")
    table = write_table(tmp_path / "m.csv", [*KEYS, *"stuvw"], big=[1, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    with raises(InvalidInputError, "unmatched-keys", "5 rows", "'s', 't', 'u', …"):
        acts.concepts.add(table)
    acts.concepts.add(table, on_unmatched="ignore")
    assert acts.concepts.mask("big").tolist() == [True, False, False, False, False]
    with raises(StoreConflictError, "concept-exists", "big"):
        acts.concepts.add(table, on_unmatched="ignore")
    with raises(InvalidInputError, "no-concept", "m.csv"):
        acts.concepts.add(write_table(tmp_path / "m.csv", KEYS, size=[3, 4, 5, 6, 7]))
    with raises(NotFoundError, "no-such-file", "nothing.csv"):
        acts.concepts.add(tmp_path / "nothing.csv")


def test_a_file_name_that_several_items_have_is_not_guessed_at(tmp_path):
    keys = ["a/0.jpg", "b/0.jpg"]
    acts = scratch_store().write("Toy/patch/x", sp.csr_array(np.eye(2)), items={"image_path": keys})
    with raises(InvalidInputError, "ambiguous-key", "'0.jpg'", "'a/0.jpg', 'b/0.jpg'"):
        acts.concepts.add(write_table(tmp_path / "m.csv", ["0.jpg", "b/0.jpg"], big=[1, 0]))
    acts.concepts.add(write_table(tmp_path / "m.csv", ["b/0.jpg", "a/0.jpg"], big=[1, 0]))
    assert acts.concepts.mask("big").tolist() == [False, True]


def test_texts_without_a_path_are_matched_by_themselves(tmp_path):
    texts = ["one, two", "three", 'a "quote"']
    acts = scratch_store().write("Talk/token/x", sp.csr_array(np.eye(3)), items={"text": texts})

    def table(texts, **columns):
        path = tmp_path / "t.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["text", *columns], *zip(texts, *columns.values(), strict=True)])
        return path

    acts.concepts.add(table(texts[::-1], rude=[1, 0, 0]))
    assert acts.concepts.mask("rude").tolist() == [False, False, True]
    with raises(InvalidInputError, "unmatched-keys", "1 row", "'four'"):
        acts.concepts.add(table(["four", "three", "one, two"], other=[1, 0, 0]))
    images = scratch_store().write("Toy/patch/x", sp.csr_array(np.eye(3)), items={"image_path": list("abc")})
    with raises(InvalidInputError, "no-keys", "'a'"):
        images.concepts.add(table(texts, rude=[1, 0, 0]))


# Masks


def covered_by_repetition(mask, rows, columns):
    """The share of each patch, exactly: every pixel is cut into rows x columns equal ones."""
    fine = mask.repeat(rows, axis=0).repeat(columns, axis=1)
    height, width = mask.shape
    return fine.reshape(rows, height, columns, width).mean(axis=(1, 3))


@given(
    mask=hnp.arrays(bool, st.tuples(st.integers(1, 13), st.integers(1, 13))),
    side=st.integers(2, 6),
)
def test_shares_of_squashed_patches_are_exact(mask, side):
    grid = Patches.of(ItemIndex(1, side * side), {}, None)
    np.testing.assert_allclose(grid.covered(mask), covered_by_repetition(mask, side, side), atol=2e-9)


@given(mask=hnp.arrays(bool, (12, 20)), side=st.integers(2, 6), turned=st.booleans())
def test_shares_of_cropped_patches_are_those_of_the_middle(mask, side, turned):
    mask, middle = (mask.T, mask[:, 4:16].T) if turned else (mask, mask[:, 4:16])
    for fit, source in (
        ("crop", {}),
        (None, {"transform": {"resize": {"shortest_edge": 224}, "crop": [224, 224], "grid": [side, side]}}),
        (None, {"path": "Embeddings/CLEVR/CLIP_SAE_patch_embeddings_percentthrumodel_92.pt"}),
    ):
        grid = Patches.of(ItemIndex(1, side * side), source, fit)
        np.testing.assert_allclose(grid.covered(mask), covered_by_repetition(middle, side, side), atol=2e-9)


def test_a_crop_that_is_smaller_or_larger_than_the_image():
    mask = np.ones((16, 32), bool)
    resized = {"resize": {"shortest_edge": 8}, "grid": [2, 4]}
    smaller = Patches.of(ItemIndex(1, 8), {"transform": {**resized, "crop": [4, 8]}}, None)
    assert smaller.edges(16, 32)[0].tolist() == [4, 8, 12]
    assert smaller.edges(16, 32)[1].tolist() == [8, 12, 16, 20, 24]
    padded = Patches.of(ItemIndex(1, 8), {"transform": {**resized, "crop": [16, 16]}}, None)
    assert padded.covered(mask).tolist() == [[0.5] * 4, [0.5] * 4]


def test_the_shares_of_the_shipped_example(project_dir):
    """Those were measured on masks with soft edges, of which the files keep black and white."""
    image = pytest.importorskip("PIL.Image")
    clevr = project_dir / "examples" / "clevr"
    expected = np.load(clevr / "patch_object_fraction.npy").astype(float)
    with (clevr / "metadata.csv").open(encoding="utf-8") as file:
        names = [row["image_path"].split("/")[-1] for row in csv.DictReader(file)]
    grid = Patches.of(ItemIndex(len(names), 256), {}, None)
    found = []
    for name in names:
        with image.open(clevr / "masks" / name.replace(".jpg", ".png")) as opened:
            found.append(grid.covered(np.asarray(opened)).ravel())
    difference = np.abs(np.array(found) - expected)
    assert difference.max() < 0.03
    assert difference.mean() < 3e-4
    assert ((np.array(found) > 0.25) != (expected > 0.25)).sum() <= 1  # of 9,216 patches


@pytest.fixture
def masks(tmp_path):
    """A mask of every image, in many modes, and which patches each covers."""
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(1)
    folder, modes = tmp_path / "masks", ["1", "L", "P", "RGB", "RGBA"]
    found = np.zeros((N_ITEMS, GRID, GRID), bool)
    for i, (key, mode) in enumerate(zip(KEYS, modes, strict=True)):
        found[i] = rng.random((GRID, GRID)) < 0.4
        pixels = found[i].repeat(7, axis=0).repeat(10, axis=1)
        path = (folder / key).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(image, pixels, mode).save(path)
    return folder, found.reshape(-1)


def picture(image, pixels, mode):
    if mode == "P":
        made = image.fromarray(pixels.astype(np.uint8) * 3, "L").convert("P")
        made.putdata((pixels.astype(np.uint8) * 3).ravel().tolist())
        return made
    if mode == "RGB":
        return image.fromarray(pixels.astype(np.uint8)[..., None] * np.array([0, 0, 9], np.uint8))
    if mode == "RGBA":  # the colour is there everywhere, and seen in the mask only
        return image.fromarray(np.stack([np.full(pixels.shape, 200)] * 3 + [pixels * 255], axis=2).astype(np.uint8))
    return image.fromarray(pixels.astype(np.uint8) * 255).convert(mode)


def test_patches_under_a_mask_have_its_concept(acts, masks):
    folder, covered = masks
    assert acts.concepts.add_masks(folder, "object") == ["object"]
    assert np.array_equal(acts.concepts.mask("object", "sample"), covered)
    flat = folder.parent / "flat"
    flat.mkdir()
    for path in folder.rglob("*.png"):
        path.rename(flat / path.name)
    acts.concepts.add_masks(flat, "again")
    assert np.array_equal(acts.concepts.mask("again"), covered)


def test_a_folder_of_masks_for_each_concept(acts, masks):
    folder, covered = masks
    both = folder.parent / "both"
    both.mkdir()
    folder.rename(both / "front")
    (both / "traffic light").mkdir()
    source = both / "front" / "images" / "a" / "scene_2.png"
    (both / "traffic light" / "scene_3.png").write_bytes(source.read_bytes())
    with raises(InvalidInputError, "missing-masks", "traffic light", "4 of 5", "'images/a/scene_0.jpg'"):
        acts.concepts.add_masks(both)
    assert acts.concepts.names("sample") == []
    acts.concepts.add_masks(both, missing="negative")
    assert acts.concepts.names("sample") == ["front", "traffic light"]
    light = np.zeros(N_ITEMS * 9, bool)
    light[27:36] = covered[18:27]
    assert np.array_equal(acts.concepts.mask("traffic light"), light)
    assert np.array_equal(acts.concepts.mask("front"), covered)


def test_masks_and_labels_of_items_make_labels_of_patches(acts, masks):
    folder, covered = masks
    acts.concepts.add_masks(folder, within=True)
    assert acts.concepts.names("sample") == ["color::red", "shape::cube"]
    assert np.array_equal(acts.concepts.mask("color::red", "sample"), covered & RED.repeat(9))
    assert np.array_equal(acts.concepts.mask("shape::cube", "sample"), covered & ~RED.repeat(9))
    acts.concepts.add_masks(folder, "object", within=["color::red"], overwrite=True)
    assert acts.concepts.names("sample") == ["color::red", "shape::cube", "object"]
    with raises(NotFoundError, "unknown-concept", "'color::rd'", "'color::red'"):
        acts.concepts.add_masks(folder, within=["color::rd"])


def test_a_patch_counts_where_more_than_the_threshold_is_covered(acts, tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((12, 12), np.uint8)
    pixels[0:2, 0:2], pixels[4:8, 4:8], pixels[8, 8:11] = 1, 1, 1  # 4 of 16 pixels, all, 3
    for key in KEYS:
        image.fromarray(pixels * 255).save(tmp_path / f"{key.split('/')[-1][:-4]}.png")
    for i, (threshold, expected) in enumerate([(0.25, [4]), (0.249, [0, 4]), (0.1875, [0, 4]), (0, [0, 4, 8])]):
        acts.concepts.add_masks(tmp_path, f"c{i}", threshold=threshold)
        assert np.flatnonzero(acts.concepts.mask(f"c{i}")[:9]).tolist() == expected


def test_masks_that_do_not_fit_are_told(acts, masks, tmp_path):
    folder, _ = masks

    def refused(code, named, *words, error=InvalidInputError, **how):
        with raises(error, code, named):
            acts.concepts.add_masks(*words, **how)
        assert acts.concepts.names("sample") == []

    refused("no-folder", "none", tmp_path / "none", "x", error=NotFoundError)
    refused("invalid-threshold", "1.5", folder, "x", threshold=1.5)
    refused("invalid-threshold", "nan", folder, "x", threshold=float("nan"))
    refused("unknown-choice", "'squish'", folder, "x", fit="squish")
    refused("unknown-choice", "'no'", folder, "x", missing="no")
    refused("invalid-names", "'red'", folder, within="red")
    refused("reserved-name", "'position'", folder, "position")
    extra = folder / "extra.png"
    extra.write_bytes((folder / "images/a/scene_0.png").read_bytes())
    refused("unmatched-keys", "'extra.png'", folder, "x")
    refused("unnamed-masks", "--concept", folder)
    extra.write_bytes(b"\x89PNG no more")
    acts.concepts.add_masks(folder, "x", on_unmatched="ignore")
    acts.concepts.remove("x")
    extra.rename(folder / "scene_0.bmp")
    refused("duplicate-key", "'images/a/scene_0'", folder, "x")
    (folder / "scene_0.bmp").unlink()
    (folder / "images/a/scene_0.png").write_bytes(b"\x89PNG no more")
    refused("unreadable-image", "scene_0.png", folder, "x")
    (folder / "images/a/scene_0.png").rename(folder / "images/a/scene_0.jpg")
    refused("lossy-mask", "scene_0.jpg", folder, "x")
    (tmp_path / "empty").mkdir()
    refused("no-mask", "empty", tmp_path / "empty")
    refused("no-mask", "empty", tmp_path / "empty", "x")
    flat = scratch_store().write("Toy/cls/x", sp.csr_array(np.eye(4)), items={"image_path": list("abcd")})
    with raises(InvalidInputError, "no-patch-grid", "1 samples"):
        flat.concepts.add_masks(folder, "x")


# Spans


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """Tokens of texts with emoji, their characters known."""
    stored = cli_stores.text_store(tmp_path_factory.mktemp("talk") / "a.zarr")
    return saestore.open(stored.path, "a")["Talk/token"]


def characters(spans, texts):
    """Samples by brute force: each character of each token is looked up."""
    found = {}
    sample = 0
    for item, tokens in enumerate(texts):
        start = 0
        for token in tokens:
            places = set(range(start, start + len(token)))
            for a, b, concept in spans.get(item, []):
                if places & set(range(a, b)):
                    found.setdefault(concept, set()).add(sample)
            start += len(token)
            sample += 1
    return found


@settings(max_examples=25)
@given(data=st.data())
def test_tokens_that_share_a_character_with_a_span_have_its_concept(talk, data):
    lengths = [len("".join(tokens)) for tokens in cli_stores.TEXTS]
    spans = {}
    for item in data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, unique=True)):
        ends = st.lists(st.integers(0, lengths[item]), min_size=2, max_size=2, unique=True).map(sorted)
        drawn = data.draw(st.lists(st.tuples(ends, st.sampled_from(["irony", "a pun"])), min_size=1, max_size=4))
        spans[item] = [(a, b, concept) for (a, b), concept in drawn]
    keyed = {str(item) if data.draw(st.booleans()) else item: found for item, found in spans.items()}
    names = talk.concepts.add_spans(keyed, overwrite=True)
    expected = characters(spans, cli_stores.TEXTS)
    assert set(names) == {concept for found in spans.values() for *_, concept in found}
    for name in names:
        assert set(np.flatnonzero(talk.concepts.mask(name)).tolist()) == expected.get(name, set())


def test_spans_are_read_from_csv_and_jsonl(talk, tmp_path):
    spans = {0: [(3, 9, "file, one"), (9, 10, "b")], 2: [(0, 1, "b")]}
    rows = [{"key": str(k), "start": a, "stop": b, "concept": c} for k, found in spans.items() for a, b, c in found]
    lines = tmp_path / "spans.jsonl"
    lines.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    table = tmp_path / "spans.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["concept", "note", "stop", "key", "start"])
        writer.writeheader()
        writer.writerows({**row, "note": "x"} for row in rows)
    expected = characters(spans, cli_stores.TEXTS)
    for path in (lines, table):
        assert talk.concepts.add_spans(path, overwrite=True) == ["file, one", "b"]
        for name in ("file, one", "b"):
            assert np.flatnonzero(talk.concepts.mask(name)).tolist() == sorted(expected[name])


BAD_SPANS = [
    ({"9": [(0, 1, "x")]}, "unmatched-keys", "'9'"),
    ({9: [(0, 1, "x")]}, "out-of-range", "item 9"),
    ({0: [(3, 3, "x")]}, "invalid-span", "(3, 3, 'x')"),
    ({0: [(-1, 3, "x")]}, "invalid-span", "(-1, 3, 'x')"),
    ({0: [(0, 1.5, "x")]}, "invalid-span", "1.5"),
    ({0: [(0, True, "x")]}, "invalid-span", "True"),
    ({0: [(0, 1)]}, "invalid-span", "(0, 1)"),
    ({0: "irony"}, "invalid-span", "'irony'"),
    ({0: [(0, 1, "")]}, "invalid-name", "''"),
    ({0: [(0, 500, "x")]}, "span-out-of-text", "24 characters"),
    ({}, "no-span", "spans"),
    ([(0, 1, "x")], "unsupported-spans", "list"),
]


@pytest.mark.parametrize(("spans", "code", "named"), BAD_SPANS)
def test_wrong_spans_are_refused(talk, spans, code, named):
    before = talk.attributes
    with raises(InvalidInputError, code, named):
        talk.concepts.add_spans(spans)
    assert talk.attributes == before


@pytest.mark.parametrize(
    ("name", "text", "code", "named"),
    [
        ("a.csv", "key,start,concept\n0,1,x\n", "missing-field", "line 2 has no 'stop'"),
        ("a.csv", "key,start,stop,concept\n0,1,two,x\n", "invalid-span", "'two'"),
        ("a.csv", 'key,start,stop,concept\n0,1,2,"x\n', "unreadable-file", "a.csv"),
        ("a.jsonl", '{"key": "0", "start": 1}\n', "missing-field", "line 1 has no 'stop'"),
        ("a.jsonl", "[1]\n", "missing-field", "line 1"),
        ("a.jsonl", "\n{\n", "unreadable-file", "line 2"),
        ("a.jsonl", b"\xff\xfe", "unreadable-file", "UTF-8"),
    ],
)
def test_a_wrong_file_of_spans_is_refused(talk, tmp_path, name, text, code, named):  # noqa: PLR0917
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with raises(InvalidInputError, code, named):
        talk.concepts.add_spans(tmp_path / name)


def test_spans_need_a_set_that_knows_its_characters(acts):
    with raises(InvalidInputError, "no-token-spans"):
        acts.concepts.add_spans({0: [(0, 1, "x")]})


# Files of arrays


def test_arrays_are_read_with_their_names(tmp_path):
    mask, grid = np.array([1, 0, 1]), np.array([[1, 0], [0, 0], [1, 1]], bool)
    np.save(tmp_path / "one.npy", mask)
    np.save(tmp_path / "two.npy", grid)
    np.savez(tmp_path / "named.npz", **{"color::red": mask, "b": grid[:, 1]})
    sp.save_npz(tmp_path / "sparse.npz", sp.csr_array(grid))
    assert read_arrays(tmp_path / "one.npy", ["a"])["a"].tolist() == mask.tolist()
    assert np.array_equal(read_arrays(tmp_path / "two.npy", ["a", "b"]), grid)
    assert list(read_arrays(tmp_path / "named.npz", [])) == ["color::red", "b"]
    assert list(read_arrays(tmp_path / "named.npz", ["b"])) == ["b"]
    assert np.array_equal(read_arrays(tmp_path / "sparse.npz", ["a", "b"]).toarray(), grid)
    for path, names, code, named in (
        ("one.npy", [], "wrong-names", "--concept"),
        ("two.npy", ["a"], "wrong-names", "1 are named"),
        ("named.npz", ["c"], "unknown-array", "'c'; it has color::red, b"),
        ("sparse.npz", ["a"], "wrong-names", "1 are named"),
        ("labels.txt", ["a"], "unknown-suffix", ".txt"),
    ):
        with raises(InvalidInputError, code, named):
            read_arrays(tmp_path / path, names)


def test_pickles_and_damaged_archives_are_refused(tmp_path):
    np.savez(tmp_path / "pickled.npz", a=np.array([{}], object))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "pickled.npz").read_bytes()[:60])
    (tmp_path / "no.npz").write_bytes(b"hello")
    for name in ("pickled.npz", "cut.npz", "no.npz"):
        with raises(InvalidInputError, "pickled" if name == "pickled.npz" else "damaged-file", name):
            read_arrays(tmp_path / name, [])
