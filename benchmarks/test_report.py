"""The pages quote the results, and the synthetic data have their properties."""

import numpy as np
import pytest

from benchmarks.goals import GOALS, Goal
from benchmarks.report import BLOCK, BLOCKS, PAGES, draw, load, render
from benchmarks.synthetic import Shape, concepts, labels


def test_pages_are_made_of_the_results(tmp_path):
    """Fails where someone changes a number by hand, or the results without `python -m benchmarks.report`."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    assert [render(text, load()) for text in texts] == texts
    assert {match[2] for text in texts for match in BLOCK.finditer(text)} == set(BLOCKS)
    pytest.importorskip("matplotlib")
    for path in draw(load(), tmp_path / "images"):
        assert any(f"(images/{path.name})" in text for text in texts)


def test_goals_show_missing_and_missed_figures():
    goal = Goal("x", "at most 2", "{:.1f} ms", "<=", 2, lambda r: [r["ms"]])
    assert [goal.row(r)[2:] for r in ({"ms": 1.5}, {"ms": 2.5})] == [["1.5 ms", "met"], ["2.5 ms", "**not met**"]]
    assert {goal.row({})[2] for goal in GOALS} == {"not measured"}


def test_synthetic_data():
    shape = Shape(n_items=10, item_size=16, n_features=300, l0=6)
    matrix = shape.matrix()
    assert matrix.has_canonical_format
    assert (matrix.data > 0).all()
    assert (np.diff(matrix.indptr) == shape.l0).all()
    assert all(0 < column.sum() < 10 for column in concepts(labels(10)).values())
