"""Detection of 80 concepts with every feature of a set of COCO's size: its cost in a process of its own."""

import pytest

from benchmarks import detect
from benchmarks.process import run
from benchmarks.synthetic import Stream

TINY = Stream(n_items=60, item_size=16, n_features=256, l0=8, pool_items=12)
MAX_BYTES = 4 << 30


def test_detection(full, recorder, tmp_path):
    detect.write(tmp_path / "made", detect.COCO if full else TINY)
    _, result = run(["-m", "benchmarks.detect", str(tmp_path / "made")])
    assert result["rows"]
    assert result["peak_bytes"] < MAX_BYTES
    assert result["concepts_an_item"] == pytest.approx(21, rel=0.05) or not full
    recorder.add("detect", "COCO", result)
