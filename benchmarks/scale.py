"""What grows with the number of samples, and what does not: `python -m benchmarks.scale [--rows N ...]`.

Streams 10^5, 10^6 and 10^7 samples into stores of their own, segment by segment, asks them the same questions before
and after compaction, and writes `benchmarks/results/scale.json`. Sets are asked in turns, question by question, so that
what else the machine does disturbs all alike; whatever has its memory measured runs in a process of its own. Answers
before and after compaction must be the same.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from zarr.storage import LocalStore

import saestore
from benchmarks.counting import CountingStore, decoded
from benchmarks.memory import STATUS, peak_bytes
from benchmarks.recorder import Recorder
from benchmarks.synthetic import Shape, segment
from benchmarks.tasks import DENSE_ROWS, RANDOM_ROWS, TOP
from saestore.activation_set import ActivationSet
from saestore.format import DEFAULT_SEGMENT_ROWS, SetAttributes, feature_dtype
from saestore.storage import stored_bytes
from saestore.writing.pipeline import start_set
from saestore.tables.item_index import ItemIndex
from saestore.writing import SetWriter

ROOT = Path(__file__).parent.parent
SET = "Scale/patch/sae"
ROWS = (10**5, 10**6, 10**7)
MEMORY = 256 << 20  # the bound on compaction that is shown
DELAY = 0.04  # of a read from an object store, pretended


@dataclass(frozen=True)
class Stream:
    """Any number of samples, made from a pool of synthetic items: each item is one of the pool, its activations
    changed by noise of their own, so that all values differ. Quicker than a new item by a factor of ten.
    """

    n_items: int
    item_size: int = 250
    n_features: int = 65_536
    l0: int = 32
    pool_items: int = 256

    @property
    def n_samples(self) -> int:
        return self.n_items * self.item_size

    def __str__(self) -> str:
        return f"{self.n_samples:,} samples x {self.n_features:,} features, L0 {self.l0}, clustered"

    @cached_property
    def pool(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids and activations of the pool's samples, (samples, l0) each."""
        made = segment(Shape(self.pool_items, self.item_size, self.n_features, self.l0), 0, self.pool_items)
        ids = made.indices.astype(feature_dtype(self.n_features))
        return ids.reshape(-1, self.l0), made.data.reshape(-1, self.l0)

    @cached_property
    def items(self) -> np.ndarray:
        """Which of the pool every item is; a longer stream begins as a shorter one does."""
        return np.random.default_rng(1).integers(0, self.pool_items, self.n_items)

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """CSR arrays of some samples."""
        samples = np.arange(start, stop)
        picked = self.items[samples // self.item_size] * self.item_size + samples % self.item_size
        ids, values = (column[picked] for column in self.pool)
        noise = np.random.default_rng([2, start]).normal(0, 0.3, values.shape).astype(np.float32)
        indptr = np.arange(0, ids.size + 1, self.l0, dtype=np.int64)
        return indptr, ids.ravel(), (values * np.exp(noise)).ravel()


# --- what is measured, each in a process of its own ---------------------------------------------------------------


def write(folder: Path, stream: Stream, segment_rows: int) -> dict[str, Any]:
    """Write all samples as segments, one in memory at a time; goes on where an earlier run was cut short."""
    root, index = saestore.open(folder, mode="a").root, ItemIndex(stream.n_items, stream.item_size)
    attributes = SetAttributes(
        n_features=stream.n_features,
        dtype="float32",
        n_items=stream.n_items,
        item_size=stream.item_size,
        segment_rows=segment_rows,
        planned_samples=stream.n_samples,
    )
    clock = Clock()
    with SetWriter(root, SET) as writer:
        if writer.attributes is None:
            start_set(writer, attributes, None, index)
        there = writer.attributes.n_samples
        for start in range(there, stream.n_samples, segment_rows):
            piece = stream.rows(start, min(start + segment_rows, stream.n_samples))
            with clock:
                writer.append(*piece)
    acts = saestore.open(folder)[SET]
    return {
        **clock.results(),
        "rows": stream.n_samples - there,
        "nnz": acts.nnz,
        "segments": len(acts.attributes.segments),
        "stored_bytes": stored_bytes(acts.group),
    }


def compact(folder: Path, memory: int) -> dict[str, Any]:
    """Merge all segments."""
    before, clock = peak_bytes(), Clock()
    with SetWriter(saestore.open(folder, mode="a").root, SET) as writer, decoded() as chunks, clock:
        writer.finish(memory=memory)
    acts = saestore.open(folder)[SET]
    return {
        **clock.results(),
        "memory": memory,
        "started_with_bytes": before,
        "segments": len(acts.attributes.segments),
        "stored_bytes": stored_bytes(acts.group),
        "objects": sum(1 for path in folder.rglob("*") if path.is_file()),
        "decoded_bytes": chunks["bytes"],
    }


def count(folder: Path, stream: Stream) -> dict[str, Any]:
    """Requests, bytes, chunks and peak memory of every question, as an object store would see them."""
    found: dict[str, Any] = {}
    counting = CountingStore(LocalStore(folder, read_only=True))
    for name, question in questions(stream, 3).items():
        reset_peak()
        acts = saestore.open(counting)[SET]
        opened = asdict(counting.taken())
        costs = []
        for query in question.queries:
            with decoded() as chunks:
                question.ask(acts, query)
            costs.append({**asdict(counting.taken()), "chunks": chunks["chunks"]})
        found[name] = {"first": costs[0], "last": costs[-1], "peak_bytes": peak_bytes()}
        found["open"] = {"first": opened, "last": opened}
    return found


def wait(folder: Path, stream: Stream, delay: float) -> dict[str, Any]:
    """Milliseconds of opening and of top-20s where every read waits, beside the number of reads."""
    counting = CountingStore(LocalStore(folder, read_only=True), delay)
    started = time.perf_counter()
    acts = saestore.open(counting)[SET]
    found = [{"ms": 1e3 * (time.perf_counter() - started), **asdict(counting.taken())}]
    for feature in questions(stream, 5)["top20"].queries:
        started = time.perf_counter()
        acts.top_samples(feature, TOP)
        found.append({"ms": 1e3 * (time.perf_counter() - started), **asdict(counting.taken())})
    return {"delay_ms": 1e3 * delay, "open": found[0], "top20": found[1:]}


class Clock:
    """Adds up wall and processor seconds of what runs inside."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started[0]
        self.cpu_seconds += time.process_time() - self._started[1]

    def results(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "peak_bytes": peak_bytes()}


def reset_peak() -> None:
    """From here on `peak_bytes` is of what follows (Linux)."""
    if STATUS.exists():
        STATUS.with_name("clear_refs").write_text("5")


# --- questions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A kind of question, and the queries that are asked."""

    label: str
    ask: Callable[[ActivationSet, Any], Any]
    queries: Sequence[Any]


def questions(stream: Stream, number: int) -> dict[str, Question]:
    """The same features in every set, as often as they fire; samples anywhere."""
    rng = np.random.default_rng(3)
    ids = stream.pool[0]
    features = ids[rng.integers(0, len(ids), number), rng.integers(0, stream.l0, number)].tolist()
    blocks = rng.integers(0, stream.n_samples - DENSE_ROWS, number).tolist()
    rows = [np.sort(rng.choice(stream.n_samples, RANDOM_ROWS, replace=False)) for _ in range(number)]
    return {
        "top20": Question(f"top {TOP} of a feature", lambda a, f: _columns(a.top_samples(f, TOP)), features),
        "top20_item": Question(
            f"top {TOP} items of a feature", lambda a, f: _columns(a.top_samples(f, TOP, level="item")), features
        ),
        "dense": Question(
            f"{DENSE_ROWS} samples, dense", lambda a, s: [a.dense(samples=slice(s, s + DENSE_ROWS))], blocks
        ),
        "rows": Question(f"{RANDOM_ROWS} random samples", lambda a, r: _csr(a.sparse(samples=r)), rows),
        "column": Question("a whole feature", lambda a, f: _columns(a.feature(f)), features),
        "stats": Question("statistics of all features", lambda a, _: _statistics(a), [None] * min(number, 3)),
    }


def _columns(table: Any) -> list[np.ndarray]:
    return [table.sample, table.item, table.position, table.activation]


def _csr(rows: Any) -> list[np.ndarray]:
    return [rows.indptr.astype(np.int64), rows.indices.astype(np.int64), rows.data]


def _statistics(acts: ActivationSet) -> list[np.ndarray]:
    # Sums of float64 depend on the order of adding; these do not.
    table = acts.stats()
    return [table["n_active"].values, table["min"].values, table["max"].values]


def ask_in_turns(folders: dict[int, Path], streams: dict[int, Stream], number: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of every question to every set, warm, and a digest of the answers, by number of samples."""
    opened, found = {}, {n: {"answers": {}} for n in folders}
    for _ in range(rounds):
        for n, folder in folders.items():
            started = time.perf_counter()
            opened[n] = saestore.open(folder)[SET]
            found[n].setdefault("open_ms", []).append(1e3 * (time.perf_counter() - started))
    asked = {n: questions(streams[n], number) for n in folders}
    for name in next(iter(asked.values())):
        times = {n: np.full((rounds, len(asked[n][name].queries)), np.nan) for n in folders}
        digests = {n: hashlib.sha256() for n in folders}
        for turn in range(rounds + 1):  # the first is not timed
            for i, n in _turns(asked, name):
                question = asked[n][name]
                started = time.perf_counter()
                answer = question.ask(opened[n], question.queries[i])
                took = time.perf_counter() - started
                if turn:
                    times[n][turn - 1, i] = 1e3 * took
                else:
                    for column in answer:
                        digests[n].update(np.ascontiguousarray(column).tobytes())
        for n in folders:
            found[n]["answers"][name] = digests[n].hexdigest()
            # A query's least time of several rounds is what it takes where nothing disturbs it.
            found[n][f"{name}_ms"] = times[n].min(axis=0).tolist()
    return found


def _turns(asked: dict[int, dict[str, Question]], name: str) -> Iterator[tuple[int, int]]:
    for i in range(max(len(q[name].queries) for q in asked.values())):
        for n, q in asked.items():
            if i < len(q[name].queries):
                yield i, n


# --- putting it together ------------------------------------------------------------------------------------------


def alone(folder: Path, *arguments: Any) -> dict[str, Any]:
    """Run a phase in a process of its own, and return what it prints."""
    command = [sys.executable, "-m", "benchmarks.scale", "--phase", *map(str, arguments), "--folder", str(folder)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure(folder: Path, sizes: Sequence[int], segment_rows: int, memory: int, number: int) -> dict[int, Any]:
    """Everything, of sets of so many items."""
    streams = {Stream(n).n_samples: Stream(n) for n in sizes}
    folders = {n: folder / f"{n}.zarr" for n in streams}
    found: dict[int, Any] = {n: {} for n in streams}
    for n, stream in streams.items():
        found[n]["write"] = alone(folders[n], "write", stream.n_items, segment_rows)
        _say(n, found[n])
    for when in ("segments", "compacted"):
        for n, stream in streams.items():
            if when == "compacted":
                found[n]["compact"] = alone(folders[n], "compact", memory)
            found[n][when] = {
                "count": alone(folders[n], "count", stream.n_items),
                "wait": alone(folders[n], "wait", stream.n_items),
            }
            _say(n, found[n])
        for n, times in ask_in_turns(folders, streams, number, rounds=3).items():
            found[n][when] |= times
            _say(n, times)
    for n, result in found.items():
        if result["segments"].pop("answers") != result["compacted"].pop("answers"):
            raise AssertionError(f"{n:,} samples: an answer changed with compaction")
    return found


def bounds(folder: Path, n_items: int, segment_rows: int, memories: Sequence[int]) -> list[dict[str, Any]]:
    """Compact copies of one set under several bounds."""
    alone(folder / "original.zarr", "write", n_items, segment_rows)
    found = []
    for memory in memories:
        shutil.copytree(folder / "original.zarr", folder / "copy.zarr")
        found.append(alone(folder / "copy.zarr", "compact", memory))
        shutil.rmtree(folder / "copy.zarr")
    return found


def _say(n: int, result: Any) -> None:
    print(f"{n:,}: {json.dumps(result)}", file=sys.stderr, flush=True)


def phase(folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    first, *more = map(int, arguments)
    if name == "compact":
        return compact(folder, first)
    if name == "write":
        return write(folder, Stream(first), *more)
    return count(folder, Stream(first)) if name == "count" else wait(folder, Stream(first), DELAY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="numbers of samples, multiples of 250")
    parser.add_argument("--folder", type=Path, help="where the stores go; by default a temporary folder")
    parser.add_argument("--phase", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        print(json.dumps(phase(options.folder, *options.phase)))
        return
    item_size, recorder = Stream(1).item_size, Recorder()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        sizes = [n // item_size for n in options.rows]
        middle = sorted(sizes)[len(sizes) // 2]
        found = bounds(Path(folder), middle, DEFAULT_SEGMENT_ROWS, [64 << 20, 256 << 20, 1 << 30])
        recorder.add("scale", "bounds", {"samples": middle * item_size, "compactions": found})
        for n, result in measure(Path(folder), sizes, DEFAULT_SEGMENT_ROWS, MEMORY, 50).items():
            recorder.add("scale", f"{n}", result)
    print(*recorder.write(), sep="\n")


if __name__ == "__main__":
    main()
