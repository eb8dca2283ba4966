"""Detection of 80 concepts with every feature of a set of COCO's size: what it takes, in a process of its own."""

import json
import subprocess
import sys

import pytest

from benchmarks import detect
from benchmarks.labels import concepts
from benchmarks.scale import Stream

TINY = Stream(n_items=60, item_size=16, n_features=256, l0=8, pool_items=12)
LARGEST = 4 << 30  # bytes that it may take


@pytest.mark.parametrize("dense", [False, True], ids=["as in COCO", "many concepts, all features"])
def test_detection(dense, full, recorder, tmp_path):
    folder = tmp_path / "activations.zarr"
    detect.write(folder, Stream(5_500, 256) if full else TINY, dense)
    detect.check(folder, 20)
    if not full:
        return
    command = [sys.executable, "-m", "benchmarks.detect", str(folder)]
    took = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert took["peak_bytes"] < LARGEST
    recorder.add("detect", "many concepts, all features" if dense else "as in COCO", took)


def test_labels_are_as_common_as_in_coco():
    columns = concepts(detect.items_of(5_500, dense=False))
    assert len(columns) == 80
    assert 2.5 < sum(column.mean() for column in columns.values()) < 3.5
