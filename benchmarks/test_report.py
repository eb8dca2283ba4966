"""The pages quote the results, and the synthetic data are what they say."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from benchmarks.entropy import bound
from benchmarks.report import BLOCK, BLOCKS, PAGES, load, render
from benchmarks.synthetic import Shape, matrix, segments

SHAPE = Shape(n_items=10, item_size=16, n_features=300, l0=6)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_made_of_the_results(page):
    """Fails where someone changed a number by hand, or the results without `python -m benchmarks.report`."""
    text = page.read_text(encoding="utf-8")
    assert render(text, load()) == text


def test_performance_page_has_every_block():
    names = {match[2] for match in BLOCK.finditer(PAGES[0].read_text(encoding="utf-8"))}
    assert names == set(BLOCKS) - {"headline", "beside"}


def test_plot_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.pictures import PATH, draw

    assert draw(load(), tmp_path / "images" / PATH.name).read_bytes().startswith(b"\x89PNG")
    assert f"(images/{PATH.name})" in PAGES[0].read_text(encoding="utf-8")
    assert PATH.is_file()


@pytest.mark.parametrize("kind", ["clustered", "jumprelu", "uniform"])
def test_segments_of_any_size_are_the_same_data(kind):
    shape = replace(SHAPE, kind=kind)
    whole = matrix(shape)
    for n_items in (1, 3, 10):
        again = sp.vstack(list(segments(shape, n_items)), format="csr")
        assert (again != whole).nnz == 0
    assert whole.shape == (shape.n_samples, shape.n_features)
    assert whole.data.dtype == np.float32
    assert (whole.data > 0).all()
    assert whole.has_canonical_format
    counts = np.diff(whole.indptr)
    assert counts.min() < counts.max() if kind == "jumprelu" else (counts == shape.l0).all()


def test_another_seed_is_another_set():
    assert (matrix(SHAPE) != matrix(replace(SHAPE, seed=1))).nnz > 0


def test_entropy_of_independent_entries():
    """Uniform ids and values of one half-known exponent: what can be worked out by hand."""
    rng = np.random.default_rng(0)
    dense = np.zeros((1000, 50), np.float32)
    active = rng.random(dense.shape) < 0.5
    dense[active] = 1 + rng.random(active.sum(), np.float32)  # 7 random bits above the 16 lowest ones
    found = bound(sp.csr_array(dense))
    assert found["ids_bits"] == pytest.approx(2, abs=0.1)  # a bit for each of two places, one of them active
    assert found["values_bits"] == pytest.approx(16 + 7, abs=0.05)
