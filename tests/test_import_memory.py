"""What reading a file for an import, and writing one, hold in memory does not grow with its entries.

What storing them holds is tested with the writer's own tests.
"""

import gc
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

import saestore

pytestmark = pytest.mark.once

MIB = 1 << 20
ENTRIES = 20  # of a row


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks so small that what grows with the file would show beside them."""
    for module in ("formats.base", "formats.selection"):
        monkeypatch.setattr(f"saestore.{module}.BLOCK", 8000)


def matrix(n_rows):
    rng = np.random.default_rng(0)
    columns = rng.integers(0, 20, (n_rows, ENTRIES)) + 20 * np.arange(ENTRIES)
    values = rng.random((n_rows, ENTRIES)).astype(np.float32) + 0.1
    indptr = np.arange(n_rows + 1) * ENTRIES
    return sp.csr_array((values.ravel(), columns.astype(np.int32).ravel(), indptr), shape=(n_rows, 20 * ENTRIES))


def peak(work):
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def assert_bounded(peaks):
    """Peaks of 10,000 and 60,000 rows: 8 MB of entries lie between them, and 2 MB of what is kept of each row."""
    assert peaks[2] - peaks[1] < 4 * MIB, peaks


@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_reading(tmp_path, kind):
    peaks = []
    for n_rows in (100, 10_000, 60_000):  # the first imports what it needs
        path = tmp_path / f"{n_rows}.npz"
        sp.save_npz(path, matrix(n_rows).asformat(kind), compressed=False)
        peaks.append(peak(lambda path=path: saestore.check_import("Shapes/patch/sae", path)))
    assert_bounded(peaks)


def test_writing(tmp_path):
    store, peaks = saestore.open(tmp_path / "s.zarr", "a"), []
    for n_rows in (100, 10_000, 60_000):
        acts = store.write(f"Shapes/patch/of-{n_rows}", matrix(n_rows))
        peaks.append(peak(lambda acts=acts, n=n_rows: saestore.export(acts, tmp_path / f"{n}.npz")))
    assert_bounded(peaks)
