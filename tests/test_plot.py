"""The pictures: what is drawn is what the activations say. Whether it looks well was looked at, not tested."""

import dataclasses
import re
import struct
import subprocess
import sys
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises
from strategies import scratch_store

import saestore
from saestore.errors import InvalidInputError, NotFoundError, OutOfRangeError, escape
from saestore.format import TOKEN_SPANS, feature_dtype
from saestore.sparse_rows import SparseRows
from saestore.tables.item_index import ItemIndex
from saestore.tables.items import as_items
from saestore.writing import SetWriter
from saestore.writing.pipeline import start_set

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
image_module = pytest.importorskip("PIL.Image")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import StepPatch  # noqa: E402

from saestore.plot.distributions import _edges  # noqa: E402
from saestore.plot.images import ImageView  # noqa: E402
from saestore.plot.style import NEGATIVE, POSITIVE  # noqa: E402

GRID = 4  # patches in a row


@pytest.fixture(autouse=True)
def leave_pyplot_as_it_was():
    before = dict(matplotlib.rcParams)
    yield
    plt.close("all")
    assert dict(matplotlib.rcParams) == before


def write(matrix, **options):
    store = scratch_store()
    return store.write("D/patch/s", sp.csr_array(matrix), **options)


def random_matrix(n, seed=0):
    """Feature 0 is positive, 1 has both signs, 2 is dead, 3 negative, 4 active on one sample, 5 on all."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, 6)).astype(np.float32) * (rng.random((n, 6)) < 0.3)
    dense[:, 0] = np.abs(dense[:, 0])
    dense[:, 2], dense[:, 4] = 0, 0
    dense[:, 3] = -np.abs(dense[:, 3])
    dense[n // 2, 4] = 7
    dense[:, 5] = 1 + rng.random(n)
    return dense


@pytest.fixture(scope="module")
def acts():
    return write(
        random_matrix(200), items={"text_path": [f"t{i}.txt" for i in range(100)], "split": ["train", "test"] * 50}
    )


def new_axes(size=(6, 4)):
    return Figure(figsize=size).add_subplot()


def words_of(ax) -> str:
    return " ".join(text.get_text() for text in ax.texts)


# --- histogram


def bars(ax):
    """Counts, edges and colour of each histogram drawn."""
    steps = [patch for patch in ax.patches if isinstance(patch, StepPatch)]
    return [(*patch.get_data()[:2], to_hex(patch.get_facecolor())) for patch in steps]


@pytest.mark.parametrize("feature", [0, 1, 3, 4, 5])
def test_histogram_counts_the_active_samples(acts, feature):
    column = acts.dense(features=feature)
    active = column[column != 0]
    ax = acts.plot.histogram(feature)
    total = 0
    for counts, edges, colour in bars(ax):
        inside = (active > 0) if colour == POSITIVE else (active < 0)
        assert edges[-1] <= 0 or edges[0] >= 0
        np.testing.assert_array_equal(counts, np.histogram(active[inside], edges)[0])
        total += counts.sum()
    assert total == len(active)
    assert {colour for *_, colour in bars(ax)} == {POSITIVE if sign > 0 else NEGATIVE for sign in np.sign(active)}
    assert f"Feature {feature} of D/patch/s" in ax.get_title()
    assert f"active on {len(active)} of 200 samples" in ax.get_title()


@pytest.mark.once
@given(
    values=st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False).filter(bool), min_size=1, max_size=30
    ).map(np.array),
    bins=st.integers(1, 60),
)
def test_every_value_has_a_bin_of_its_own_sign(values, bins):
    edges = _edges(values, bins)
    counts = np.histogram(values, edges)[0]
    middles = (edges[1:] + edges[:-1]) / 2
    assert counts[middles > 0].sum() == (values > 0).sum()
    assert counts[middles < 0].sum() == (values < 0).sum()


def test_histogram_of_huge_values():
    values = np.array([3e38, -1e38, 1e-30, 5.0], np.float32)
    ax = write(values[:, None]).plot.histogram(0)
    ax.figure.canvas.draw()
    assert {colour: counts.sum() for counts, _, colour in bars(ax)} == {POSITIVE: 3, NEGATIVE: 1}


def test_histogram_has_the_bins_asked_for(acts):
    ((counts, edges, _),) = bars(acts.plot.histogram(5, bins=17))
    assert len(counts) == 17
    column = acts.dense(features=5)
    np.testing.assert_allclose(edges, np.linspace(column.min(), column.max(), 18))


def test_histogram_of_uneven_counts_is_logarithmic_and_shows_a_single_sample():
    dense = np.ones((1000, 1), np.float32)
    dense[0] = 9
    ax = write(dense).plot.histogram(0)
    assert ax.get_yscale() == "log"
    assert ax.get_ylim()[0] < 1
    assert write(dense[:5]).plot.histogram(0).get_yscale() == "linear"


def test_where_restricts_the_histogram(acts):
    column = acts.dense(features=0)
    test = np.repeat(np.array(["train", "test"] * 50) == "test", 2)
    ax = acts.plot.histogram(0, where={"split": "test"})
    ((counts, *_),) = bars(ax)
    assert counts.sum() == np.count_nonzero(column[test])
    assert f"active on {counts.sum():.0f} of 100 samples selected" in ax.get_title()
    none = acts.plot.histogram(0, where=np.zeros(200, bool))
    assert "active on none of 0 samples selected" in words_of(none)


# --- density


def test_density_counts_features_by_how_often_they_fire(acts):
    dense = acts.dense()
    share = (dense != 0).mean(axis=0)
    ax = acts.plot.density(bins=7)
    ((counts, edges, _),) = bars(ax)
    assert ax.get_xscale() == "log"
    np.testing.assert_array_equal(counts, np.histogram(share[share > 0], edges)[0])
    assert counts.sum() == 5
    steps = np.diff(np.log10(edges))
    np.testing.assert_allclose(steps, steps[0])
    assert "1 of 6 never fire (16.7 %)" in ax.get_title()


def test_where_restricts_the_density(acts):
    ax = acts.plot.density(where=np.arange(200) < 100)
    assert sum(c.sum() for c, *_ in bars(ax)) == (acts.dense()[:100] != 0).any(axis=0).sum()
    assert "share of 100 samples" in ax.get_xlabel()


def test_density_without_any_activation():
    assert "none fires on any of 3 samples" in words_of(write(np.zeros((3, 2), np.float32)).plot.density())


# --- images


def pictures(folder, sizes):
    """Grey images of some sizes, and a set whose feature 0 is active on one patch of each, and feature 1 on all."""
    for i, size in enumerate(sizes):
        image_module.new("RGB", size, (128, 128, 128)).save(folder / f"image-{i}.png")
    dense = np.zeros((len(sizes) * GRID**2, 4), np.float32)
    place = 1 * GRID + 2  # row 1, column 2
    dense[np.arange(len(sizes)) * GRID**2 + place, 0] = 10 - np.arange(len(sizes))
    dense[:, 1] = 1 + np.arange(len(dense)) % 5
    dense[:, 3] = -dense[:, 0]
    return write(dense, items={"image_path": [f"image-{i}.png" for i in range(len(sizes))]})


def tints_in(ax, points):
    """Whether the picture is tinted at some points of the Axes: orange (1) or blue (-1)."""
    ax.figure.canvas.draw()
    pixels = np.asarray(ax.figure.canvas.buffer_rgba()).astype(int)[..., :3]
    places = ax.transData.transform(points)
    columns, rows = np.floor(places[:, 0]).astype(int), pixels.shape[0] - 1 - np.floor(places[:, 1]).astype(int)
    red, green, blue = pixels[rows, columns].T
    return np.where(red - green > 15, 1, np.where(blue - red > 15, -1, 0))


def image_box(ax):
    """Left, right, lower and upper edge of the one image drawn, in inches of the Axes."""
    return max((image.get_extent() for image in ax.images), key=lambda e: (e[1] - e[0]) * (e[3] - e[2]))


@pytest.mark.once
@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (240, 240)])
@pytest.mark.parametrize(("feature", "sign"), [(0, 1), (3, -1)])
def test_tint_lies_on_the_patch(tmp_path, size, fit, feature, sign):
    """The corners and the middle of the active patch are tinted in the rendered picture, its surroundings are not."""
    acts = pictures(tmp_path, [size])
    figure = Figure(figsize=(6, 7), dpi=100)
    FigureCanvasAgg(figure)
    ax = acts.plot.top(feature, ax=figure.add_subplot(), images=tmp_path, fit=fit)
    left, right, low, high = image_box(ax)
    assert (right - left) / (high - low) == pytest.approx(size[0] / size[1])
    # What the model saw, by the transform itself: the middle square of the image, or all of it.
    seen_wide, seen_high = (min(size), min(size)) if fit == "crop" else size
    x0, y0 = (size[0] - seen_wide) / 2, (size[1] - seen_high) / 2

    def point(column, row):
        """The place of a point, given in patches from the upper left corner of what the model saw."""
        x, y = x0 + column / GRID * seen_wide, y0 + row / GRID * seen_high
        return left + x / size[0] * (right - left), high - y / size[1] * (high - low)

    inside = [point(2 + dx, 1 + dy) for dx in (0.15, 0.5, 0.85) for dy in (0.15, 0.5, 0.85)]
    outside = [point(*place) for place in [(1.85, 1.5), (3.15, 1.5), (2.5, 0.85), (2.5, 2.15), (0.5, 0.5), (3.5, 3.5)]]
    assert tints_in(ax, inside).tolist() == [sign] * len(inside)
    assert tints_in(ax, outside).tolist() == [0] * len(outside)


@pytest.mark.parametrize("size", [(300, 200), (200, 320), (250, 250)])
@pytest.mark.parametrize(
    ("resize", "crop"),
    [({"shortest_edge": 64}, [56, 56]), ({"height": 64, "width": 48}, None), ({"height": 64, "width": 64}, [32, 48])],
)
def test_patches_lead_back_to_their_pixels(size, resize, crop):
    """By Pillow: an image whose colours are its coordinates is resized and cropped, and a patch of it read."""
    wide, high = size
    x, y = np.meshgrid((np.arange(wide) + 0.5) / wide, (np.arange(high) + 0.5) / high)
    if "shortest_edge" in resize:
        zoom = resize["shortest_edge"] / min(size)
        new = round(wide * zoom), round(high * zoom)
    else:
        new = resize["width"], resize["height"]
    planes = [np.asarray(image_module.fromarray(plane.astype(np.float32)).resize(new)) for plane in (x, y)]
    if crop is not None:
        top, left = (new[1] - crop[0]) // 2, (new[0] - crop[1]) // 2
        planes = [plane[top : top + crop[0], left : left + crop[1]] for plane in planes]
    acts = write(np.ones((32, 1), np.float32), items={"image_path": ["a.png", "b.png"]})
    acts.attributes.source["transform"] = {"resize": resize, "crop": crop, "grid": [GRID, GRID]}
    seen = ImageView.of(acts, None)
    assert not seen.assumed
    box = seen.box(*size).subbox(1 / GRID, 2 / GRID, 2 / GRID, 3 / GRID)
    rows, columns = planes[0].shape
    at = slice(rows // GRID, 2 * rows // GRID), slice(2 * columns // GRID, 3 * columns // GRID)
    centre = [float(plane[at].mean()) for plane in planes]
    np.testing.assert_allclose(centre, [(box.left + box.right) / 2, (box.top + box.bottom) / 2], atol=0.012)
    span = [float(np.ptp(plane[at])) for plane in planes]
    np.testing.assert_allclose(span, [box.right - box.left, box.bottom - box.top], atol=0.04)


def test_embeddings_of_cropped_images_are_known_by_their_name():
    acts = write(np.ones((32, 1), np.float32), items={"image_path": ["a.png", "b.png"]})
    assert ImageView.of(acts, None).assumed
    acts.attributes.source["path"] = "x/CLIP_SAE_patch_embeddings_percentthrumodel_92_chunks_info.json"
    seen = ImageView.of(acts, None)
    assert not seen.assumed
    box = seen.box(480, 320)
    assert (box.left, box.top, box.right, box.bottom) == pytest.approx((1 / 6, 0, 5 / 6, 1))


def test_strength_is_opacity(tmp_path):
    acts = pictures(tmp_path, [(64, 64)])
    ax = acts.plot.top(1, images=tmp_path)
    overlay = next(image.get_array() for image in ax.images if image.get_array().shape == (GRID, GRID, 4))
    activations = acts.dense(features=1).reshape(GRID, GRID)
    assert (
        np.argsort(activations, axis=None, kind="stable") == np.argsort(overlay[..., 3], axis=None, kind="stable")
    ).all()
    assert overlay[..., 3].max() < 0.8  # the image stays visible


def test_images_come_strongest_first_and_each_once(tmp_path):
    acts = pictures(tmp_path, [(64, 48)] * 5)
    ax = acts.plot.top(0, 3, images=tmp_path)
    captions = [text.get_text() for text in ax.texts if text.get_text().startswith("image-")]
    assert captions == ["image-0", "image-1", "image-2"]
    assert "3 strongest images" in ax.get_title()
    assert "active on 5 of 80 samples" in ax.get_title()
    all_of_them = acts.plot.top(1, 8, images=tmp_path, level="sample")
    assert len([t for t in all_of_them.texts if t.get_text().startswith("image-")]) == 8
    assert len({t.get_text() for t in all_of_them.texts if t.get_text().startswith("image-")}) < 8


def test_where_restricts_the_images(tmp_path):
    acts = pictures(tmp_path, [(64, 48)] * 5)
    ax = acts.plot.top(0, images=tmp_path, where=np.arange(5) >= 3)
    assert [t.get_text() for t in ax.texts if t.get_text().startswith("image-")] == ["image-3", "image-4"]
    assert "active on 2 of 32 samples selected" in ax.get_title()


def test_keys_start_in_the_present_folder_where_nothing_else_is_said(tmp_path, monkeypatch):
    acts = pictures(tmp_path, [(64, 48)])
    monkeypatch.chdir(tmp_path)
    assert len(acts.plot.top(0).images) > 1


def test_missing_image_is_named(tmp_path):
    acts = pictures(tmp_path, [(64, 48)] * 2)
    (tmp_path / "image-1.png").unlink()
    with raises(NotFoundError, "image-missing", tmp_path / "image-1.png", "images="):
        acts.plot.top(0, images=tmp_path)
    assert not plt.get_fignums()
    acts.plot.top(0, 1, images=tmp_path)


def test_a_file_that_is_no_image(tmp_path):
    acts = pictures(tmp_path, [(64, 48)])
    claim = struct.pack(">4sIIBBBBB", b"IHDR", 1 << 30, 1 << 30, 8, 2, 0, 0, 0)  # more pixels than Pillow opens
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + claim + struct.pack(">I", zlib.crc32(claim))
    for content in (b"no image", bomb):
        (tmp_path / "image-0.png").write_bytes(content)
        with raises(InvalidInputError, "unreadable-image", "image-0.png"):
            acts.plot.top(0, images=tmp_path)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "I;16"])
def test_images_of_every_mode(tmp_path, mode):
    acts = pictures(tmp_path, [(64, 48)])
    suffix = "tif" if mode == "CMYK" else "png"
    image_module.new(mode, (64, 48)).save(tmp_path / "x", "tiff" if suffix == "tif" else "png")
    (tmp_path / "x").rename(tmp_path / "image-0.png")
    assert len(acts.plot.top(0, images=tmp_path).images) > 1


def test_patches_that_make_no_square(tmp_path):
    dense = np.ones((10, 1), np.float32)
    acts = write(dense, items={"image_path": ["a.png", "b.png"]})
    with raises(InvalidInputError, "no-patch-grid", "D/patch/s", "5 samples"):
        acts.plot.top(0, images=tmp_path)


def test_the_last_image_of_a_set_that_is_being_built_is_there_in_part(tmp_path):
    whole = pictures(tmp_path, [(64, 48)] * 2)
    store = scratch_store()
    attributes = dataclasses.replace(whole.attributes, segments=(), planned_samples=32, derived=(), arrays={})
    dense = whole.dense()[:20]
    dense[17, 0] = 99
    rows = sp.csr_array(dense)
    with SetWriter(store.root, "D/patch/s") as writer:
        start_set(writer, attributes, as_items({"image_path": ["image-0.png", "image-1.png"]}), ItemIndex(2, 16))
        writer.append(SparseRows(rows.indptr.astype(np.int64), rows.indices.astype(feature_dtype(4)), rows.data))
    acts = store["D/patch/s"]
    assert acts.shape == (20, 4)
    ax = acts.plot.top(0, images=tmp_path)
    overlay = next(image.get_array() for image in ax.images if image.get_array().shape == (GRID, GRID, 4))
    assert np.flatnonzero(overlay[..., 3]).tolist() == [1]
    assert "active on 2 of 20 samples" in ax.get_title()


def test_one_sample_an_image_has_no_patches_to_tint(tmp_path):
    image_module.new("RGB", (64, 48)).save(tmp_path / "a.png")
    acts = write(np.ones((1, 1), np.float32), items={"image_path": ["a.png"]})
    ax = acts.plot.top(0, images=tmp_path)
    assert len(ax.images) == 2  # the image and the scale


def test_items_that_are_not_images(acts):
    with raises(NotFoundError, "no-images", ".txt", "D/patch/s"):
        acts.plot.top(0)
    with raises(NotFoundError, "no-images"):
        write(np.ones((2, 1), np.float32)).plot.top(0)
    with raises(NotFoundError, "no-images", "plot.tokens"):
        tokens(["one two"], {0: 1.0}).plot.top(0)


# --- texts


def tokens(texts, active):
    """A set of texts, each word with the space before it a token, and feature 0 active on those that `active` names."""
    found = [[m.span() for m in re.finditer(r"\s*\S+", text)] for text in texts]
    rows = np.concatenate([np.array(f, np.int32).reshape(-1, 2) for f in found])
    dense = np.zeros((len(rows), 2), np.float32)
    for token, value in active.items():
        dense[token, 0] = value
    return with_spans(dense, rows, item_ptr=np.cumsum([0, *map(len, found)]), items={"text": texts})


def with_spans(dense, spans, **options):
    acts = write(dense, **options)
    for name, values in zip(TOKEN_SPANS, spans.T, strict=True):
        acts.samples.set(name, values)
    return acts


class Cells(HTMLParser):
    """The texts of a page, by Python's own parser: for each its value and item, and (text, style, tooltip) in order."""

    def __init__(self, page) -> None:
        super().__init__()
        self.labels: list[str] = []
        self.texts: list[list[tuple[str, str, str]]] = []
        self.around = ""
        self._open: list[tuple[str, dict]] = []
        self.feed(page.html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        if tag == "br":
            return
        assert tag in {"p", "strong", "table", "tbody", "tr", "td", "small", "span"}, tag
        self._open.append((tag, dict(attrs)))
        if tag == "td" and "dir" in self._open[-1][1]:
            self.texts.append([])
        elif tag == "td":
            self.labels.append("")

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        cells = [attrs for tag, attrs in self._open if tag == "td"]
        if not cells:
            self.around += data
        elif "dir" not in cells[0]:
            self.labels[-1] += data
        else:
            attrs = self._open[-1][1] if self._open[-1][0] == "span" else {}
            self.texts[-1].append((data, attrs.get("style", ""), attrs.get("title", "")))

    def text(self, i):
        return "".join(data for data, *_ in self.texts[i])


def shade(style):
    """Sign and opacity of a token's background."""
    *colour, opacity = map(float, re.search(r"rgba\(([^)]*)\)", style)[1].split(","))
    hex_colour = to_hex([part / 255 for part in colour])
    return {POSITIVE: 1, NEGATIVE: -1}[hex_colour] * opacity


def test_active_tokens_are_shaded_where_they_stand():
    text = "one two three four five six"
    cells = Cells(tokens([text], {1: 2.0, 4: -4.0}).plot.tokens(0))
    assert cells.text(0) == text
    shaded = {data: shade(style) for data, style, _ in cells.texts[0] if "rgba" in style}
    assert list(shaded) == ["two", "five"]
    assert 0 < shaded["two"] < -shaded["five"] < 0.8
    # The row is there for its strongest token, which is underlined; the negative one is larger, but last.
    assert [data for data, style, _ in cells.texts[0] if "border-bottom" in style] == ["two"]
    assert {data: title for data, _, title in cells.texts[0] if title} == {
        word: f"{value:g} · sample {i} · position {i}"
        for i, (word, value) in enumerate(zip(text.split(), [0, 2, 0, 0, -4, 0], strict=True))
    }
    assert "active on 2 of 6 samples" in cells.around


def test_texts_come_strongest_first_with_their_item():
    acts = tokens(["one two", "three four", "five"], {0: 1.0, 3: 3.0, 2: 2.0})
    cells = Cells(acts.plot.tokens(0))
    assert [cells.text(i) for i in range(2)] == ["three four", "one two"]
    assert cells.labels == ["3item 1", "1item 0"]
    assert len(Cells(acts.plot.tokens(0, 1)).texts) == 1
    assert Cells(acts.plot.tokens(0, level="sample")).labels == ["3item 1", "2item 1", "1item 0"]
    selected = Cells(acts.plot.tokens(0, where=np.array([True, False, True])))
    assert selected.labels == ["1item 0"]
    assert "of 3 samples selected" in selected.around


def test_long_texts_are_cut_around_the_strongest_token():
    texts = [" ".join(f"w{i}" for i in range(4000)), "short one"]
    acts = tokens(texts, {2500: 9.0, 4000: 1.0, 3: 0.5})
    cells = Cells(acts.plot.tokens(0, context=2))
    assert cells.text(0) == "… w2498 w2499 w2500 w2501 w2502…"
    assert cells.text(1) == "short one"
    at_the_start = Cells(acts.plot.tokens(0, level="sample", context=5)).text(2)
    assert at_the_start == " ".join(f"w{i}" for i in range(9)) + "…"


def test_texts_without_known_tokens_are_shown_unshaded():
    acts = write(np.ones((4, 1), np.float32), item_ptr=[0, 3, 4], items={"text": ["some words here", "x" * 1000]})
    cells = Cells(acts.plot.tokens(0, context=10))
    assert cells.texts[0] == [("some words here", "", "")]
    assert cells.text(1) == "x" * 100 + "…"
    assert "does not store" in cells.around


def test_tokens_that_share_characters_are_one_shade():
    """As the bytes of an emoji, and an empty token, which a model may see as well."""
    spans = np.array([[0, 0], [0, 2], [2, 3], [2, 3], [2, 3], [3, 5]], np.int32)
    dense = np.array([[1], [0], [2], [-5], [0], [0]], np.float32)
    acts = with_spans(dense, spans, item_ptr=[0, 6], items={"text": ["a \N{SLIGHTLY SMILING FACE} b"]})
    cells = Cells(acts.plot.tokens(0))
    assert [(data, bool(style)) for data, style, _ in cells.texts[0]] == [
        ("∅", True), ("a ", False), ("\N{SLIGHTLY SMILING FACE}", True), (" ", False), ("b", False),
    ]  # fmt: skip
    _, style, title = cells.texts[0][2]
    assert shade(style) < 0
    assert [line.split()[0] for line in title.splitlines()] == ["2", "-5", "0"]


ANY_TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs",)) | st.sampled_from(" \n\tאبこ中한हि👍\u200d🏽é&<>\"'$"),
    max_size=60,
)


@pytest.mark.once
@settings(max_examples=12)
@given(
    texts=st.lists(ANY_TEXT, min_size=1, max_size=3),
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=8),
)
def test_any_text_comes_back_whole(texts, values):
    dense = np.zeros((8 * len(texts), 1), np.float32)
    dense[: len(values), 0] = values
    dense[0] = dense[0] or 1
    rng = np.random.default_rng(0)
    spans = np.sort(rng.integers(0, 1 + np.repeat([len(t) for t in texts], 8)[:, None], (len(dense), 2)), axis=1)
    items = {"text": np.array(texts, object), "id": list(range(len(texts)))}
    acts = with_spans(dense, spans.astype(np.int32), item_ptr=np.arange(0, 9 * len(texts), 8), items=items)
    page = acts.plot.tokens(0)
    expected = [escape(texts[i].replace("\n", "↵")) for i in acts.top_samples(0, 8, level="item").item]
    found = Cells(page)
    for i, text in enumerate(expected):
        assert found.text(i).replace("∅", "") == text.replace("∅", "")


def test_a_page_is_saved_whole_and_escaped(tmp_path):
    evil = "<script>alert('&\"')</script>"
    page = tokens([f"{evil} שלום 中文"], {0: 1.0}).plot.tokens(0)
    assert page._repr_html_() == page.html
    path = page.save(tmp_path / "page.html")
    saved = path.read_text(encoding="utf-8")
    assert page.html in saved
    assert saved.startswith("<!doctype html>")
    assert 'charset="utf-8"' in saved
    assert "script>" not in saved
    assert Cells(page).text(0) == f"{evil} שלום 中文"


def test_items_without_texts_have_no_tokens(acts):
    with raises(NotFoundError, "no-texts", "D/patch/s", "plot.top"):
        acts.plot.tokens(0)


# --- what all have in common


PLOTS = {
    "histogram": lambda acts, **k: acts.plot.histogram(0, **k),
    "density": lambda acts, **k: acts.plot.density(**k),
    "top": lambda acts, **k: acts.plot.top(0, **k),
}


@pytest.fixture(scope="module")
def texts():
    return tokens(["one two three", "four five"], {0: 1.0, 4: 2.0})


@pytest.fixture
def two_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return pictures(tmp_path, [(64, 48)] * 2)


@pytest.mark.parametrize("name", PLOTS)
def test_axes_given_are_drawn_into_and_no_figure_is_made(two_images, name):
    ax = new_axes()
    assert PLOTS[name](two_images, ax=ax) is ax
    assert not plt.get_fignums()
    ax.figure.savefig("/dev/null", format="png")


@pytest.mark.parametrize("name", PLOTS)
def test_without_axes_there_is_one_new_figure(two_images, name):
    ax = PLOTS[name](two_images)
    assert plt.get_fignums() == [ax.figure.number]


@pytest.mark.once
@pytest.mark.parametrize("name", PLOTS)
@pytest.mark.parametrize("size", [(2, 1.5), (14, 9)])
def test_small_and_large_axes(two_images, name, size):
    ax = PLOTS[name](two_images, ax=new_axes(size))
    ax.figure.savefig("/dev/null", format="png")
    title = ax.title.get_window_extent()
    assert title.x0 > -0.1 * ax.figure.bbox.width
    assert title.x1 < 1.1 * ax.figure.bbox.width


@pytest.mark.parametrize("name", ["histogram", "top"])
def test_an_ax_of_another_kind_is_refused(two_images, name):
    with raises(InvalidInputError, "not-axes", "ax=3"):
        PLOTS[name](two_images, ax=3)
    with raises(InvalidInputError, "not-axes", "ax=3"):
        two_images.plot.density(3)


@pytest.mark.parametrize("name", ["histogram", "top"])
def test_dead_feature_says_so(texts, name):
    ax = getattr(texts.plot, name)(1)
    assert "active on none of 5 samples" in words_of(ax)
    assert "Feature 1" in ax.get_title()
    page = Cells(texts.plot.tokens(1))
    assert not page.texts
    assert "active on none of 5 samples" in page.around
    assert "selected" in Cells(texts.plot.tokens(0, where=np.zeros(2, bool))).around


@pytest.mark.parametrize(
    ("call", "code", "named"),
    [
        (lambda p: p.histogram([0, 1]), "not-one-feature", "[0, 1]"),
        (lambda p: p.histogram(0, bins=0), "invalid-count", "bins=0"),
        (lambda p: p.density(bins="many"), "invalid-count", "bins='many'"),
        (lambda p: p.top(slice(3)), "not-one-feature", "slice(None, 3, None)"),
        (lambda p: p.top(0, fit="stretch"), "unknown-choice", "fit='stretch'"),
        (lambda p: p.tokens(0, context=-1), "invalid-count", "context=-1"),
        (lambda p: p.tokens([0]), "not-one-feature", "[0]"),
    ],
)
def test_bad_arguments(texts, call, code, named):
    with raises(InvalidInputError, code, named):
        call(texts.plot)
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda p: p.histogram(99), OutOfRangeError, "99"),
        (lambda p: p.top(0, level="image"), InvalidInputError, "image"),
        (lambda p: p.tokens(0, level="image"), InvalidInputError, "image"),
        (lambda p: p.top(0, -1), InvalidInputError, "-1"),
    ],
)
def test_arguments_that_the_query_refuses(texts, call, error, named):
    with pytest.raises(error) as caught:
        call(texts.plot)
    assert named in str(caught.value)
    assert not plt.get_fignums()


def test_negative_feature_counts_from_the_end(texts):
    assert "Feature 1 of" in texts.plot.histogram(-1).get_title()


@pytest.mark.once
def test_without_matplotlib_the_extra_is_named():
    code = """if True:
        import sys
        sys.modules["matplotlib"] = None  # what `import matplotlib` finds where it is not installed
        import numpy as np, scipy.sparse as sp, saestore, saestore.errors, zarr
        acts = saestore.open(zarr.storage.MemoryStore(), "a").write("D/patch/s", sp.csr_array(np.eye(2)))
        try:
            acts.plot.histogram(0)
        except saestore.errors.MissingDependencyError as error:
            assert "saestore[plot]" in str(error), error
        else:
            raise AssertionError("no error")
        texts = saestore.open(zarr.storage.MemoryStore(), "a").write(
            "D/token/s", sp.csr_array(np.eye(2)), items={"text": ["a", "b"]})
        assert "item 1" in texts.plot.tokens(1).html
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


# --- the examples


def test_examples_are_shown_as_they_were_built(example_store, project_dir, monkeypatch):
    monkeypatch.chdir(project_dir)
    store = saestore.open(example_store)
    for name in ("CLEVR", "iSarcasm"):
        acts = store[name]
        feature = int(acts.stats()["mean_active"].argmax("feature"))
        for ax in (acts.plot.histogram(feature), acts.plot.density()):
            ax.figure.canvas.draw()
    store["CLEVR"].plot.top(int(store["CLEVR"].stats()["mean_active"].argmax("feature"))).figure.canvas.draw()
    assert len(Cells(store["iSarcasm"].plot.tokens(500, n=6)).texts) == 6
