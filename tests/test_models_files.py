"""Images as people have them: read as Pillow and numpy say they look; what is none is found in time."""

import io

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL")

from PIL import Image, ImageOps
from raising import raises

from saestore.errors import InvalidInputError, NotFoundError
from saestore.models.images import check_image, find_images, read_image

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]


def read(tmp_path, image, name="a.png", options=None, **how):
    image.save(tmp_path / name, **how)
    found = read_image(tmp_path / name, **(options or {}))
    assert found.mode == "RGB"
    assert found.size == check_image(tmp_path / name, exif=(options or {}).get("exif", True))
    return np.asarray(found)


def grey_of(values):
    return np.repeat(values[..., None], 3, axis=2)


def test_colour_grey_palette_and_bits(tmp_path):
    np.testing.assert_array_equal(read(tmp_path, Image.fromarray(PIXELS)), PIXELS)
    np.testing.assert_array_equal(read(tmp_path, Image.fromarray(GREY)), grey_of(GREY))
    np.testing.assert_array_equal(read(tmp_path, Image.fromarray(GREY > 99)), grey_of((GREY > 99) * np.uint8(255)))
    palette = Image.fromarray(PIXELS).quantize(16)
    np.testing.assert_array_equal(read(tmp_path, palette), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_16_bits_are_scaled_not_clipped(tmp_path, name):
    deep = GREY.astype(np.uint16) * 257
    np.testing.assert_array_equal(read(tmp_path, Image.fromarray(deep), name), grey_of(GREY))


def test_what_is_transparent_is_white(tmp_path):
    alpha = RANDOM.integers(0, 256, GREY.shape, dtype=np.uint8)
    alpha[:5], alpha[5:10] = 0, 255
    found = read(tmp_path, Image.fromarray(np.dstack([PIXELS, alpha])))
    share = alpha[..., None] / 255
    np.testing.assert_allclose(found, PIXELS * share + 255 * (1 - share), atol=1)
    assert (found[:5] == 255).all()
    image = Image.fromarray(np.dstack([PIXELS, alpha]))
    black = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
    np.testing.assert_array_equal(read(tmp_path, image, options={"transparency": "black"}), np.asarray(black))
    np.testing.assert_array_equal(read(tmp_path, image, options={"transparency": "stored"}), PIXELS)
    with_hole = Image.fromarray(PIXELS).quantize(4)
    with_hole.info["transparency"] = 0
    found = read(tmp_path, with_hole)
    assert (found[np.asarray(with_hole) == 0] == 255).all()


def test_cmyk_and_several_frames(tmp_path):
    cmyk = Image.fromarray(PIXELS).convert("CMYK")
    np.testing.assert_array_equal(read(tmp_path, cmyk, "a.tiff"), np.asarray(cmyk.convert("RGB")))
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (10, 200)]
    found = read(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert (found == 10).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_exif_orientation(tmp_path, orientation, mode):
    image = Image.fromarray(PIXELS if mode == "RGB" else GREY.astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read(tmp_path, image, exif=exif)
    looks = Image.fromarray(PIXELS if mode == "RGB" else GREY).convert("RGB")
    looks.info["exif"] = exif.tobytes()
    looks.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(found, np.asarray(ImageOps.exif_transpose(looks)))
    assert found.shape[:2] == ((30, 20) if orientation > 4 else (20, 30))
    as_stored = read(tmp_path, image, options={"exif": False}, exif=exif)
    np.testing.assert_array_equal(as_stored, PIXELS if mode == "RGB" else grey_of(GREY))


def encoded(image, kind, **how):
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


BIG = Image.fromarray(RANDOM.integers(0, 256, (200, 300, 3), dtype=np.uint8))
DAMAGED = {
    "cut.jpg": encoded(BIG, "JPEG")[:-5000],
    "cut.png": encoded(BIG, "PNG")[:-5000],
    "cut.webp": encoded(BIG, "WEBP")[:-5000],
    "cut.bmp": encoded(BIG, "BMP")[:-5000],
    "flipped.png": encoded(BIG, "PNG")[:9000] + b"damage" + encoded(BIG, "PNG")[9006:],
    "empty.jpg": b"",
    "text.jpg": b"<html>404</html>",
    "float.tiff": encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_images_are_told_by_name(tmp_path, name):
    (tmp_path / "fine.png").write_bytes(encoded(BIG, "PNG"))
    (tmp_path / name).write_bytes(DAMAGED[name])
    with raises(InvalidInputError, "unreadable-image", "1 of 2") as caught:
        find_images(tmp_path, None, skip_bad=False, advance=lambda _: None)
    told = str(caught.value)
    assert name in told
    assert "--skip-bad" in told
    assert "\n" not in told
    found = find_images(tmp_path, None, skip_bad=True, advance=lambda _: None)
    assert [path.name for path in found.paths] == ["fine.png"]
    assert list(found.skipped) == [name]


def test_order_hidden_files_and_folders_called_like_images(tmp_path):
    for name in ("b/2.png", "b/10.PNG", "a.jpeg", ".hidden.png", ".cache/x.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(BIG, "PNG"))
    counted = []
    found = find_images(tmp_path, None, skip_bad=False, advance=counted.append)
    assert found.items.key.tolist() == ["a.jpeg", "b/10.PNG", "b/2.png"]
    assert sum(counted) == 3
    (tmp_path / "z.png").mkdir()
    with raises(InvalidInputError, "unreadable-image", "z.png"):
        find_images(tmp_path, None, skip_bad=False, advance=counted.append)


def test_a_table_says_which_and_in_what_order(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(encoded(BIG, "PNG"))
    table = tmp_path / "metadata.csv"
    table.write_text("image_path,split,width,color::red\nimages/c.png,test,1,1\nimages/a.png,train,2,0\n")
    found = find_images(folder, table, skip_bad=False, advance=lambda _: None)
    assert [path.name for path in found.paths] == ["c.png", "a.png"]
    assert found.items.key.tolist() == ["images/c.png", "images/a.png"]
    assert found.items.columns["width"].tolist() == [300, 300]  # of the images themselves
    assert found.items.columns["split"].tolist() == ["test", "train"]
    assert found.items.concepts["color::red"].tolist() == [True, False]
    table.write_text("image_path\nimages/c.png\nimages/d.png\nmissing.png\n")
    with raises(NotFoundError, "image-missing", "2 of the 3", "images/d.png, missing.png"):
        find_images(folder, table, skip_bad=True, advance=lambda _: None)


def test_folders_that_are_none(tmp_path):
    with raises(NotFoundError, "folder-missing", "nowhere"):
        find_images(tmp_path / "nowhere", None, skip_bad=False, advance=lambda _: None)
    (tmp_path / "file.png").write_bytes(DAMAGED["empty.jpg"])
    with raises(NotFoundError, "folder-missing", "that is a file"):
        find_images(tmp_path / "file.png", None, skip_bad=False, advance=lambda _: None)
    (tmp_path / "none").mkdir()
    with raises(NotFoundError, "no-images", "none"):
        find_images(tmp_path / "none", None, skip_bad=False, advance=lambda _: None)


def test_what_identifies_an_image(tmp_path):
    """Not when it was copied; its name, its size, its first and its last bytes."""

    def digests():
        return find_images(tmp_path, None, skip_bad=False, advance=lambda _: None).digests

    content = encoded(BIG, "BMP")
    (tmp_path / "a.bmp").write_bytes(content)
    before = digests()
    (tmp_path / "a.bmp").touch()
    np.testing.assert_array_equal(digests(), before)
    (tmp_path / "a.bmp").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert (digests() != before).any()
    (tmp_path / "a.bmp").rename(tmp_path / "b.bmp")
    (tmp_path / "b.bmp").write_bytes(content)
    assert (digests() != before).any()


def texts_of(path, table=None):
    from saestore.models.texts import find_texts

    return find_texts(path, table)


def test_texts_a_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\ntwo\u2028still two\n\nfour".encode())
    assert texts_of(path).columns["text"].tolist() == ["one", "two\u2028still two", "", "four"]
    path.write_text("one\n")
    assert texts_of(path).columns["text"].tolist() == ["one"]


def test_texts_of_tables(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,split,sarcasm\n"one, with a comma",train,1\nNA,test,0\n')
    found = texts_of(path)
    assert found.columns["text"].tolist() == ["one, with a comma", "NA"]
    assert found.columns["split"].tolist() == ["train", "test"]
    assert found.concepts["sarcasm"].tolist() == [True, False]
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "stars": 3}\n\n{"stars": 5, "text": "two\\nlines", "lang": "en"}\n')
    found = texts_of(path)
    assert found.columns["text"].tolist() == ["one", "two\nlines"]
    assert found.columns["stars"].tolist() == [3, 5]
    assert found.columns["lang"].tolist() == ["", "en"]


def test_texts_in_files_of_their_own(tmp_path):
    (tmp_path / "texts").mkdir()
    for name in ("a", "b"):
        (tmp_path / "texts" / f"{name}.txt").write_text(f"text {name}\n")
    path = tmp_path / "metadata.csv"
    path.write_text("text_path,split\ntexts/b.txt,train\ntexts/a.txt,test\n")
    found = texts_of(path)
    assert found.key.tolist() == ["texts/b.txt", "texts/a.txt"]
    assert found.columns["text"].tolist() == ["text b\n", "text a\n"]
    path.write_text("text_path\ntexts/c.txt\n")
    with raises(NotFoundError, "text-missing", "texts/c.txt"):
        texts_of(path)


def test_texts_with_a_table_beside_them(tmp_path):
    table = {"text_path": ["x", "y"], "split": ["train", "test"]}
    found = texts_of(["one", "two"], table)
    assert (found.key.tolist(), found.columns["text"].tolist()) == (["x", "y"], ["one", "two"])
    with raises(InvalidInputError, "item-count", 2, 3):
        texts_of(["one", "two", "three"], table)
