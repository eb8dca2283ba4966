"""What a notebook shows of stores, sets and tables."""

import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from strategies import scratch_store

import saestore
from saestore.errors import SaestoreError

pytestmark = pytest.mark.once

EVIL = "<script>alert('&\"')</script>"


class Page(HTMLParser):
    """The tags and the text of a page, by Python's own parser."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        # Colours are those of the page around it, dark or light.
        assert all("color" not in (value or "") and "background" not in (value or "") for _, value in attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def rows(self) -> int:
        return self.tags.count("tr")


@pytest.fixture
def store():
    return scratch_store()


def matrix(n=6):
    dense = np.zeros((n, 5), np.float32)
    dense[np.arange(n), np.arange(n) % 4] = np.arange(1, n + 1)
    return sp.csr_array(dense)


def test_store_shows_every_set(store):
    store.write("CLEVR/patch/a", matrix(), items={"image_path": list("abc")})
    store.write("CLEVR/patch/b", matrix(1200))
    page = Page(store._repr_html_())
    assert page.rows() == 1 + 2
    for text in ("CLEVR/patch/a", "CLEVR/patch/b", "1,200", "6", "1.0", "complete"):
        assert text in page.texts
    sizes = [text for text in page.texts if text.endswith((" B", " kB"))]
    assert len(sizes) == 2


def test_store_size_is_that_of_info(store):
    acts = store.write("CLEVR/patch/a", matrix())
    assert f"{acts.info()['stored_bytes'] / 1000:.3g} kB" in Page(store._repr_html_()).texts


def test_empty_store(store):
    assert "No activation set yet." in Page(store._repr_html_()).texts


def test_store_of_many_sets_is_cut(store):
    for i in range(22):
        store.write(f"D/patch/s{i:02}", matrix(1))
    page = Page(store._repr_html_())
    assert page.rows() == 1 + 20
    assert "… 2 more sets" in page.texts


def test_store_shows_damage_beside_the_rest(tmp_path):
    store = saestore.open(tmp_path / "s.zarr", mode="a")
    store.write("D/patch/good", matrix())
    store.write("D/patch/newer", matrix())
    group = zarr.open_group(tmp_path / "s.zarr" / "D/patch/newer")
    group.attrs["format"] = 99
    page = Page(saestore.open(tmp_path / "s.zarr")._repr_html_())
    assert "D/patch/good" in page.texts
    assert any("99" in text for text in page.texts)


def test_store_shows_what_cannot_be_read(tmp_path):
    saestore.open(tmp_path / "s.zarr", mode="a").write("D/patch/good", matrix())
    (tmp_path / "s.zarr" / "D" / "zarr.json").write_text("no json")
    store = saestore.open(tmp_path / "s.zarr")
    with pytest.raises(SaestoreError):
        list(store)
    assert any(text.startswith("Damaged: ") for text in Page(store._repr_html_()).texts)


def test_set_shows_its_numbers_and_its_origin(store):
    acts = store.write("CLEVR/patch/a", matrix(1200), items={"image_path": [str(i) for i in range(600)]})
    page = Page(acts._repr_html_())
    for text in ("CLEVR/patch/a", "1,200", "5", "1.0", "600", "float32", "complete", "pcodec", "matrix", "nothing"):
        assert text in page.texts
    assert "details" in page.tags


def test_set_reads_nothing(store):
    acts = store.write("CLEVR/patch/a", matrix())
    expected = acts._repr_html_()
    shutil.rmtree(acts.group.store.root)
    assert acts._repr_html_() == expected


def test_names_are_escaped(tmp_path):
    """A folder, an SAE or a table may have any name; here they come back as text and never as a tag."""
    folder = tmp_path / "s<script>.zarr"
    acts = saestore.open(folder, mode="a").write("D/patch/a", matrix())
    acts.attributes.source["path"] = acts.attributes.sae["name"] = EVIL
    group = zarr.open_group(folder / "D/patch/a")
    page = Page(acts._repr_html_())
    assert "script" not in page.tags
    assert EVIL in page.texts
    assert group.attrs["format"] == 1
    page = Page(saestore.open(folder)._repr_html_())
    assert "script" not in page.tags
    assert any("s<script>.zarr" in text for text in page.texts)


def test_errors_in_a_store_are_escaped(tmp_path):
    saestore.open(tmp_path / "s.zarr", mode="a").write("D/patch/a", matrix())
    zarr.open_group(tmp_path / "s.zarr" / "D/patch/a").attrs["format"] = EVIL
    page = Page(saestore.open(tmp_path / "s.zarr")._repr_html_())
    assert "script" not in page.tags
    assert any("<script>" in text for text in page.texts)


def test_table_shows_its_first_rows(store):
    acts = store.write("CLEVR/patch/a", matrix(1200))
    table = acts.feature(1)
    page = Page(table._repr_html_())
    assert page.rows() == 1 + 20
    assert "… 280 more rows" in page.texts
    head = ["feature", "sample", "item", "position", "activation"]
    assert page.texts[:5] == head
    first = [str(getattr(table, name)[0].item()) for name in head[:4]] + [f"{table.activation[0]:.6g}"]
    assert page.texts[5:10] == first


def test_empty_table(store):
    acts = store.write("CLEVR/patch/a", matrix())
    assert Page(acts.feature(4)._repr_html_()).rows() == 1
