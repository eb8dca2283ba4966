"""The measurement of scale at a size that takes seconds, and that its stream is what it says."""

import re

import numpy as np
import pytest

from benchmarks import scale, scale_report
from benchmarks.report import BLOCK
from benchmarks.scale import Stream

TINY = {"item_size": 25, "n_features": 500, "l0": 8, "pool_items": 4}


def test_a_stream_is_the_same_however_long_it_becomes():
    short, long = Stream(8, **TINY), Stream(80, **TINY)
    for one, other in zip(short.rows(100, 200), long.rows(100, 200), strict=True):
        assert np.array_equal(one, other)
    indptr, ids, values = long.rows(0, 2_000)
    assert (np.diff(indptr) == TINY["l0"]).all()
    assert (np.diff(ids.reshape(-1, TINY["l0"]).astype(np.int64)) > 0).all()
    assert len(np.unique(values)) > 0.99 * len(values), "items of the pool come again with other activations"


def test_small_sets_before_and_after_merging(tmp_path, monkeypatch):
    streams = {n: Stream(n // 25, **TINY) for n in (500, 1_000)}
    folders = {n: tmp_path / f"{n}.zarr" for n in streams}
    monkeypatch.setattr(scale, "DENSE_ROWS", 32)
    written = {n: scale.write(folders[n], stream, 200) for n, stream in streams.items()}
    before = scale.ask_in_turns(folders, streams, 3, 1)
    merged = {n: scale.compact(folders[n], 1 << 24) for n in streams}
    after = scale.ask_in_turns(folders, streams, 3, 1)
    for n, stream in streams.items():
        assert (written[n]["segments"], merged[n]["segments"]) == (n // 200 + (n % 200 > 0), 1)
        assert written[n]["nnz"] == n * TINY["l0"]
        assert before[n]["answers"] == after[n]["answers"]
        costs = scale.count(folders[n], stream)
        assert costs["top20"]["last"]["requests"] == 2
        assert costs["top20"]["last"]["chunks"] == 2
    assert before[500]["answers"] != before[1_000]["answers"]


def test_a_write_goes_on_where_it_was_cut_short(tmp_path, monkeypatch):
    stream = Stream(20, **TINY)
    rows = Stream.rows
    monkeypatch.setattr(Stream, "rows", lambda self, a, b: rows(self, a, b) if a < 300 else pytest.fail("cut short"))
    with pytest.raises(pytest.fail.Exception):
        scale.write(tmp_path / "a.zarr", stream, 100)
    monkeypatch.setattr(Stream, "rows", rows)
    assert scale.write(tmp_path / "a.zarr", stream, 100)["rows"] == 200
    assert scale.write(tmp_path / "b.zarr", stream, 100)["rows"] == 500
    answers = scale.ask_in_turns({1: tmp_path / "a.zarr", 2: tmp_path / "b.zarr"}, {1: stream, 2: stream}, 2, 1)
    assert answers[1]["answers"] == answers[2]["answers"]


def test_a_delay_is_waited_for(tmp_path):
    stream = Stream(20, **TINY)
    scale.write(tmp_path / "a.zarr", stream, 500)
    found = scale.wait(tmp_path / "a.zarr", stream, 0.02)
    assert found["open"]["ms"] >= 20
    assert all(top["ms"] >= 20 for top in found["top20"] if top["requests"])


def test_the_page_is_made_of_the_results():
    """Fails where someone changed a number by hand, or the results without `python -m benchmarks.scale_report`."""
    page = scale_report.PAGE.read_text(encoding="utf-8")
    assert scale_report.render(page, scale_report.load()) == page
    assert {match[2] for match in BLOCK.finditer(page)} == set(scale_report.BLOCKS)
    for name in re.findall(r"\]\((images/[^)]*)\)", page):
        assert (scale_report.PAGE.parent / name).is_file()


def test_plots_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    for path in scale_report.draw(scale_report.load(), tmp_path / "images"):
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("n", "memory", "times"), [(10**7, 1 << 30, 1.0), (10**7, 256 << 20, 1.18), (10**9, 1 << 30, 1.97)]
)
def test_how_often_merging_rewrites_a_sample(n, memory, times):
    assert scale_report.passes(n, memory) == pytest.approx(times, abs=0.01)
