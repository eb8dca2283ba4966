"""Cards of features: every figure on the page is the query's, every text is escaped, and nothing is loaded."""

import re
from html.parser import HTMLParser

import cli_stores
import numpy as np
import pytest
import scipy.sparse as sp
from raising import raises
from strategies import make_case, memory_store, write_case

import saestore
from saestore.errors import InvalidInputError, NotFoundError, OutOfRangeError
from saestore.plot.style import number
from saestore.scoring.feature_scores import FeatureScorer

pytestmark = pytest.mark.once

CASE = make_case(5, 90, 8, density=0.4, palette="heavy", ragged=False)
FEATURE = int(np.flatnonzero(CASE.dense.any(axis=0))[0])


class Page(HTMLParser):
    """Texts of a page, its addresses, and whether each tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.addresses, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "rect", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("rect", "br"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def page_of(card):
    page = Page(card._repr_html_())
    assert page.open == []
    assert page.addresses.pop(0).startswith("#saestore:/")  # of the explorer
    assert all(address.startswith("data:image/") for address in page.addresses)
    return page


@pytest.fixture(scope="module")
def acts():
    made = write_case(memory_store(), CASE)
    made.features.set("name", {FEATURE: "<b>green</b>"})
    made.features.set("note", {FEATURE: "a & b"})
    return made


def test_a_card_has_the_figures_of_the_queries(acts, tmp_path):
    card = acts.card(FEATURE, n=2, quantiles=3)
    page = page_of(card)
    text = " ".join(page.texts)
    column = CASE.dense[:, FEATURE].astype(float)
    assert f"Feature {FEATURE}" in text
    assert "<b>green</b>" in text  # as text: the parser has unescaped it
    assert "a & b" in text
    for value in (column.max(), np.median(column[column != 0]), column.std()):
        assert number(value) in text
    assert f"{np.count_nonzero(column)} (" in text
    similar = acts.similar(FEATURE, 8)
    assert f"{similar.score[0]:.3f}" in text
    assert "Quantile 3 of 3" in text
    assert "color::red" in text
    saved = card.save(tmp_path / "x.html").read_text()
    assert saved.startswith("<!doctype html>")
    assert "prefers-color-scheme: dark" in saved
    assert not re.search(r"https?://", saved)


def test_concepts_are_chosen_on_cal_and_measured_on_test(acts):
    text = " ".join(page_of(acts.card(FEATURE)).texts)
    assert "F1 on cal" in text
    scorer = FeatureScorer(acts, "item", 'split == "test"')
    low, high = scorer.interval(scorer.lists(FEATURE), scorer.names.index("color::red"))
    assert f"[{low:.2f}, {high:.2f}]" in text


def test_decoder_neighbours_and_logits_are_those_of_numpy(acts):
    rng = np.random.default_rng(0)
    decoder, unembedding = rng.normal(size=(8, 5)).astype(np.float32), rng.normal(size=(5, 20))
    tokens = [f"tok{i}" for i in range(20)]
    text = " ".join(page_of(acts.card(FEATURE, sae=decoder, unembedding=(unembedding, tokens))).texts)
    cosine = np.delete(np.corrcoef(np.hstack([decoder, -decoder]))[FEATURE], FEATURE)  # centred: a cosine
    assert f"{cosine.max():.3f}" in text
    effects = decoder[FEATURE].astype(float) @ unembedding
    assert f"'tok{effects.argmax()}'" in text
    assert f"{effects.min():+.3f}" in text
    with raises(InvalidInputError, "wrong-decoder", 8):
        acts.card(FEATURE, sae=decoder[:3])
    with raises(InvalidInputError, "wrong-unembedding", 5):
        acts.card(FEATURE, sae=decoder, unembedding=(unembedding[:2], tokens))
    with raises(InvalidInputError, "missing-argument", "sae="):
        acts.card(FEATURE, unembedding=(unembedding, tokens))
    with raises(OutOfRangeError, "out-of-range", 99):
        acts.card(99)


def test_texts_are_shaded_and_images_have_a_heat_map(tmp_path, project_dir):
    texts = cli_stores.text_store(tmp_path / "t.zarr")
    page = page_of(saestore.open(texts.path)[texts.name].card(0))
    assert "\u202e" in "".join(page.texts) or " alert" in "".join(page.texts)
    images = sorted((project_dir / "examples" / "clevr" / "images").iterdir())[:3]
    dense = np.zeros((12, 2), np.float32)
    dense[[0, 5, 6], 0] = [3, 2, 1]
    items = {"image_path": [path.name for path in images]}
    acts = memory_store().write("T/patch/x", sp.csr_array(dense), 4, items)
    page = acts.card(0, n=1, quantiles=0, images=images[0].parent)
    assert page.html.count("data:image/jpeg") == len(page_of(page).addresses) > 0
    strongest = re.search(r"Strongest.*?<svg.*?</svg>", page.html, re.DOTALL)[0]
    assert 'x="0" y="0" width="1" height="1" opacity="0.700"' in strongest
    missing = acts.card(0, n=1, quantiles=0, images=tmp_path)
    assert "image missing" in missing.html
    with raises(NotFoundError, "folder-missing", "none"):
        acts.card(0, images=tmp_path / "none")
    assert page_of(missing).addresses == []
    assert "Companions" not in acts.card(1).html  # never active


def test_the_command_writes_the_page(tmp_path):
    store = cli_stores.image_store(tmp_path / "a.zarr")
    done = cli_stores.invoke("card", "--feature", 1, "--output", tmp_path / "1.html", store=store)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "1.html" in done.stderr
    expected = saestore.open(store.path)[store.name].card(1)
    assert expected.html in (tmp_path / "1.html").read_text()
