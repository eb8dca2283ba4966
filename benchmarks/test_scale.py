"""The measurement of scale at a size that takes seconds."""

import numpy as np

from benchmarks import scale
from benchmarks.synthetic import Stream

TINY = {"item_size": 25, "n_features": 500, "l0": 8, "pool_items": 4}


def test_a_longer_stream_starts_with_a_shorter_one():
    short, long = Stream(8, **TINY), Stream(80, **TINY)
    assert all(np.array_equal(*pair) for pair in zip(short.rows(100, 200), long.rows(100, 200), strict=True))
    _, ids, values = long.rows(0, 2_000)
    assert (np.diff(ids.reshape(-1, TINY["l0"]).astype(np.int64)) > 0).all()
    assert len(np.unique(values)) > 0.99 * len(values), "items of the pool have other activations each time"


def test_small_sets_before_and_after_merging(tmp_path):
    streams = {n: Stream(n // 25, **TINY) for n in (500, 1_000)}
    folders = {n: tmp_path / str(n) for n in streams}
    written = {n: scale.write_stream(folders[n], stream, 200) for n, stream in streams.items()}
    before = scale.ask_in_turns(folders, streams, 3, 1)
    merged = {n: scale.merge(folders[n], 1 << 24) for n in streams}
    after = scale.ask_in_turns(folders, streams, 3, 1)
    for n, stream in streams.items():
        assert (written[n]["segments"], merged[n]["segments"]) == (-(-n // 200), 1)
        assert written[n]["nnz"] == n * TINY["l0"]
        assert before[n]["answers"] == after[n]["answers"]
        last = scale.count(folders[n], stream)["top20"]["last"]
        assert (last["requests"], last["chunks"]) == (2, 2)
    assert before[500]["answers"] != before[1_000]["answers"]
