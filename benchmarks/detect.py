"""Detection at the size of COCO: `python -m benchmarks.detect FOLDER` writes a store there and asks it.

Synthetic: samples of `benchmarks.synthetic.Stream`, items with 80 concepts and the splits of COCO. An item has 21
concepts, seven times as many as in COCO, and activations spread over all features, so that few features are cut. Prints
JSON: seconds, seconds of CPU, peak memory of the process.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import saestore
from benchmarks.peers.ours import SET
from benchmarks.process import peak_bytes
from benchmarks.scale import merge, write_stream
from benchmarks.synthetic import Columns, Stream, labels

SPLITS = {"train": 4_001 / 5_500, "cal": 500 / 5_500, "test": 999 / 5_500}
SHIFT = 7_919  # a prime: features of neighbouring items share nothing
COCO = Stream(n_items=5_500, item_size=256)


def write(folder: Path, stream: Stream) -> None:
    """Write the store, one segment in memory at a time, and merge it."""

    def spread(start: int, rows: Columns) -> Columns:
        """Shift the features of every item by another number, so that all features are used."""
        indptr, ids, values = rows
        items = np.arange(start, start + len(indptr) - 1) // stream.item_size
        shifted = (ids.reshape(-1, stream.l0) + items[:, None] * SHIFT) % stream.n_features
        order = np.argsort(shifted, axis=1)
        ids = np.take_along_axis(shifted, order, axis=1).astype(ids.dtype)
        return indptr, ids.ravel(), np.take_along_axis(values.reshape(-1, stream.l0), order, axis=1).ravel()

    write_stream(folder, stream, items=labels(stream.n_items, SPLITS), change=spread)
    merge(folder)


def ask(folder: Path) -> dict[str, Any]:
    """Detect all concepts, and return the cost."""
    acts = saestore.open(folder / "store.zarr")[SET]
    wall, cpu = time.perf_counter(), time.process_time()
    detection = acts.detect()
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_bytes": peak_bytes(),
        "nnz": acts.nnz,
        "concepts_an_item": acts.concept_matrix().nnz / acts.n_items,
        "rows": len(detection.rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if not options.folder.exists():
        write(options.folder, COCO)
    print(json.dumps(ask(options.folder), indent=1))


if __name__ == "__main__":
    main()
