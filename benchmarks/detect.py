"""Detection at the size of COCO: `python -m benchmarks.detect FOLDER [--items N]` writes a store there and asks it.

Synthetic: samples of `benchmarks.scale.Stream`, items with 80 concepts. Of these 3 are true of an item on average, as
in COCO, a few of them common and most rare. With `--dense` it is the hardest that one may meet: 21 concepts of an item,
and activations spread over all features, hardly any of which are cut. The splits are those of COCO. Prints JSON:
seconds, seconds of CPU, peak memory of the process.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import saestore
from benchmarks.labels import CONCEPTS, Items, labels
from benchmarks.memory import peak_bytes
from benchmarks.scale import Stream
from saestore.format import DEFAULT_SEGMENT_ROWS, SetAttributes
from saestore.writing.pipeline import start_set
from saestore.tables import as_items
from saestore.tables.item_index import ItemIndex
from saestore.writing import SetWriter

SET = "Coco/patch/synthetic"
SHARES = {"train": 4_001 / 5_500, "cal": 500 / 5_500, "test": 999 / 5_500}
SHIFT = 7_919  # a prime: features of neighbouring items share nothing
PER_ITEM = 3.0  # concepts that are true of an item of COCO


def items_of(n_items: int, dense: bool) -> Items:
    """Columns of items: path, split, 80 concepts."""
    made = labels(n_items)
    rng = np.random.default_rng(5)
    place = (rng.permutation(n_items) + 0.5) / n_items
    made["split"] = np.array(list(SHARES))[np.searchsorted(np.cumsum(list(SHARES.values()))[:-1], place)]
    if not dense:
        share = 1 / np.arange(1, CONCEPTS + 1)
        for i, each in enumerate(PER_ITEM * share / share.sum()):
            made[f"concept {i:02}"] = (rng.permutation(n_items) < max(6, each * n_items)).astype(np.int64)
    return made


def write(folder: Path, stream: Stream, dense: bool = False) -> None:
    """Write the store, a segment in memory at a time, and merge it."""
    attributes = SetAttributes(
        n_features=stream.n_features,
        dtype="float32",
        n_items=stream.n_items,
        item_size=stream.item_size,
        segment_rows=DEFAULT_SEGMENT_ROWS,
        planned_samples=stream.n_samples,
    )
    index, items = ItemIndex(stream.n_items, stream.item_size), as_items(items_of(stream.n_items, dense))
    with SetWriter(saestore.open(folder, mode="a").root, SET) as writer:
        start_set(writer, attributes, items, index)
        for start in range(0, stream.n_samples, DEFAULT_SEGMENT_ROWS):
            rows = stream.rows(start, min(start + DEFAULT_SEGMENT_ROWS, stream.n_samples))
            writer.append(*(spread(stream, start, *rows) if dense else rows))
        writer.finish()


def spread(
    stream: Stream, start: int, indptr: np.ndarray, ids: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same rows with the features of every item shifted by another number, so that all features are used."""
    items = np.arange(start, start + len(indptr) - 1) // stream.item_size
    shifted = (ids.reshape(-1, stream.l0) + items[:, None] * SHIFT) % stream.n_features
    order = np.argsort(shifted, axis=1)
    found = np.take_along_axis(shifted, order, axis=1).astype(ids.dtype)
    return indptr, found.ravel(), np.take_along_axis(values.reshape(-1, stream.l0), order, axis=1).ravel()


def ask(folder: Path) -> dict[str, Any]:
    """Detect all concepts, and say what it took."""
    acts = saestore.open(folder)[SET]
    wall, cpu = time.perf_counter(), time.process_time()
    found = acts.detect()
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_bytes": peak_bytes(),
        "shape": acts.shape,
        "nnz": acts.nnz,
        "concepts": len(found.settings["concepts"]),
        "concepts_an_item": acts.concept_matrix().nnz / acts.n_items,
        "kept": found.pruning["kept"],
        "rows": len(found.rows),
    }


def check(folder: Path, pairs: int) -> None:
    """Thresholds and F1 on cal of some candidates are those of their dense columns."""
    acts = saestore.open(folder)[SET]
    found, split = acts.detect(n=2), acts.items.column("split")
    cal = np.flatnonzero(split == "cal")
    size = acts.shape[0] // acts.n_items
    for one in found.candidates[:: max(1, len(found.candidates) // pairs)]:
        column = sp.csc_array(acts.sparse(features=[one["feature"]])).toarray()[:, 0].reshape(-1, size)
        true = acts.concepts.mask(one["concept"])
        active = column[cal][true[cal]]
        threshold = np.quantile(active[active > 0].astype(np.float64), 1 - one["p"])
        predicted = column[cal].max(axis=1) >= threshold
        f1 = 2 * (predicted & true[cal]).sum() / (predicted.sum() + true[cal].sum())
        if (threshold, f1) != (one["threshold"], one["cal_f1"]):
            raise AssertionError((one, threshold, f1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=5_500)
    parser.add_argument("--dense", action="store_true")
    given = parser.parse_args()
    if not given.folder.exists():
        write(given.folder, Stream(given.items, 256), given.dense)
    print(json.dumps(ask(given.folder), indent=1))


if __name__ == "__main__":
    main()
