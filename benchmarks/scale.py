"""What grows with the number of samples, and what does not: `python -m benchmarks.scale [--rows N ...]`.

Streams 10^5, 10^6 and 10^7 samples into stores of their own, one segment in memory at a time, asks each store the same
questions before and after its segments are merged, and writes `benchmarks/results/scale.json`. The stores are asked in
turns, query by query, so that a disturbance affects all. Where memory is measured, a new process does the work. Answers
before and after merging must be the same.
"""

import argparse
import hashlib
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from zarr.storage import LocalStore

import saestore
from benchmarks.counting import CountingStore, decoded
from benchmarks.peers.ours import SET, Saestore
from benchmarks.process import STATUS, peak_bytes
from benchmarks.recorder import Recorder
from benchmarks.synthetic import Columns, Items, Stream
from benchmarks.tasks import SCALE_TASKS, Task
from saestore.format import DEFAULT_SEGMENT_ROWS, SetAttributes
from saestore.sparse_rows import SparseRows
from saestore.tables.item_index import ItemIndex
from saestore.tables.items import as_items
from saestore.writing import SetWriter
from saestore.writing.pipeline import start_set

ROWS = (10**5, 10**6, 10**7)
MEMORY = 256 << 20  # the bound on the merge
N_QUERIES, ROUNDS = 30, 3
Result = dict[str, Any]


def write_stream(
    folder: Path,
    stream: Stream,
    segment_rows: int = DEFAULT_SEGMENT_ROWS,
    items: Items | None = None,
    change: Callable[[int, Columns], Columns] = lambda _, rows: rows,
) -> Result:
    """Write all samples as segments, and return the cost of the writing without the making."""
    attributes = SetAttributes(
        n_features=stream.n_features,
        dtype="float32",
        n_items=stream.n_items,
        item_size=stream.item_size,
        segment_rows=segment_rows,
        planned_samples=stream.n_samples,
    )
    index, cpu = ItemIndex(stream.n_items, stream.item_size), 0.0
    with SetWriter(saestore.open(folder / "store.zarr", mode="a").root, SET) as writer:
        start_set(writer, attributes, None if items is None else as_items(items), index)
        for start in range(0, stream.n_samples, segment_rows):
            rows = change(start, stream.rows(start, min(start + segment_rows, stream.n_samples)))
            started = time.process_time()
            writer.append(SparseRows(*rows))
            cpu += time.process_time() - started
    return {"cpu_seconds": cpu, **_stored(folder)}


def merge(folder: Path, memory: int = MEMORY) -> Result:
    """Merge all segments and complete the set."""
    started = time.process_time()
    with SetWriter(saestore.open(folder / "store.zarr", mode="a").root, SET) as writer:
        writer.finish(memory=memory)
    return {"cpu_seconds": time.process_time() - started, "memory": memory, **_stored(folder)}


def _stored(folder: Path) -> Result:
    """Peak memory first, as looking takes memory too."""
    peak, files = peak_bytes(), [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    acts = saestore.open(folder / "store.zarr")[SET]
    about = {"nnz": acts.nnz, "segments": len(acts.attributes.segments)}
    return {"peak_bytes": peak, "objects": len(files), "stored_bytes": sum(files), **about}


def count(folder: Path, stream: Stream) -> Result:
    """Requests, bytes, chunks and peak memory of every question, as an object store would see them."""
    result: Result = {}
    peer, store = Saestore(folder), CountingStore(LocalStore(folder / "store.zarr", read_only=True))
    asked = {key: queries(task, stream, 3) for key, task in SCALE_TASKS.items()}
    for key, task in SCALE_TASKS.items():
        if STATUS.exists():
            STATUS.with_name("clear_refs").write_text("5")  # Linux: start a new peak
        peer.acts = saestore.open(store)[SET]
        opening, costs = asdict(store.taken()), []
        for query in asked[key]:
            with decoded() as chunks:
                task.ask(peer, query)
            costs.append({**asdict(store.taken()), "chunks": chunks["chunks"]})
        result[key] = {"first": costs[0], "last": costs[-1], "peak_bytes": peak_bytes()}
        result["open"] = {"first": opening, "last": opening}
    return result


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    answer = call(*arguments)
    return 1e3 * (time.perf_counter() - started), answer


def queries(task: Task, stream: Stream, number: int) -> list[Any]:
    """The same features in every set, as often as they fire; samples anywhere."""
    ids = stream.pool[0].ravel()
    like = SimpleNamespace(indices=ids, nnz=len(ids), shape=(stream.n_samples, stream.n_features))
    return task.queries(like, np.random.default_rng(3), min(number, task.count))


def ask_in_turns(folders: dict[int, Path], streams: dict[int, Stream], number: int, rounds: int) -> dict[int, Result]:
    """Milliseconds of every query to every set, warm, and a digest of the answers, by number of samples."""
    peers, results = {n: Saestore(folder) for n, folder in folders.items()}, {n: {"answers": {}} for n in folders}
    for n, peer in list(peers.items()) * rounds:
        results[n].setdefault("open_ms", []).append(timed(peer.open)[0])
    for key, task in SCALE_TASKS.items():
        asked = {n: queries(task, stream, number) for n, stream in streams.items()}
        times = {n: np.full((rounds, len(asked[n])), np.nan) for n in folders}
        digests = {n: hashlib.sha256() for n in folders}
        for turn in range(-1, rounds):  # the first is not timed
            for i in range(len(next(iter(asked.values())))):
                for n, peer in peers.items():
                    ms, answer = timed(task.ask, peer, asked[n][i])
                    if turn >= 0:
                        times[n][turn, i] = ms
                        continue
                    # The last bits of means depend on the order of adding; the number and the maximum do not.
                    for column in task.canonical(answer)[: 2 if key == "stats" else None]:
                        digests[n].update(np.ascontiguousarray(column, np.float64).tobytes())
        for n in folders:
            results[n]["answers"][key] = digests[n].hexdigest()
            # A query's least time of several rounds is its time without disturbances.
            results[n][f"{key}_ms"] = times[n].min(axis=0).tolist()
    return results


def alone(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a new process, so that its memory can be measured."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(folder: Path, sizes: Sequence[int]) -> dict[int, Result]:
    """Everything, for sets of these numbers of items."""
    streams = {Stream(n_items).n_samples: Stream(n_items) for n_items in sizes}
    folders = {n: folder / str(n) for n in streams}
    results: dict[int, Result] = {n: {"write": alone(write_stream, folders[n], streams[n])} for n in streams}
    for state in ("segments", "compacted"):
        for n, stream in streams.items():
            if state == "compacted":
                results[n]["compact"] = alone(merge, folders[n])
            results[n][state] = {"count": alone(count, folders[n], stream)}
        for n, times in ask_in_turns(folders, streams, N_QUERIES, ROUNDS).items():
            results[n][state] |= times
            print(f"{n:,}, {state}: {json.dumps(results[n])}", file=sys.stderr, flush=True)
    for n, result in results.items():
        if result["segments"].pop("answers") != result["compacted"].pop("answers"):
            raise AssertionError(f"{n:,} samples: an answer changed with the merge")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="numbers of samples, multiples of 250")
    parser.add_argument("--folder", type=Path, help="where the stores go; by default a temporary folder")
    options, recorder = parser.parse_args(), Recorder()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for n, result in measure(Path(folder), [n // Stream(1).item_size for n in options.rows]).items():
            recorder.add("scale", f"{n}", result)
    print(*recorder.write(), sep="\n")


if __name__ == "__main__":
    main()
