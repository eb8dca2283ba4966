"""Questions to an object store that takes 30 ms for each request: `python -m benchmarks.far [--milliseconds N]`.

A server of S3 on loopback, in a process of its own, waits this long before each answer. Each round asks in a new
process whose modules are loaded, and the least time of the rounds counts, because other work disturbs the machine. The
number of requests stands beside it.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from zarr.storage import LocalStore

import saestore
from benchmarks.synthetic import Shape
from saestore.format import SetAttributes, feature_dtype
from saestore.sparse_rows import SparseRows
from saestore.tables.item_index import ItemIndex
from saestore.writing import SetWriter
from saestore.writing.pipeline import start_set

SET = "Scenes/patch/sae"
SHAPE = Shape(n_items=80, item_size=256, n_features=8192, l0=32)
SEGMENTS = 10
GOALS = {"first answer": 200, "top 20, warm": 40, "100 random rows, cold": 120, "info": 80}


def write(folder: Path, *, merged: bool) -> None:
    """The set in ten segments, as while it is built, or in one."""
    n, matrix = SHAPE.n_samples, SHAPE.matrix()
    index = ItemIndex(SHAPE.n_items, SHAPE.item_size)
    with SetWriter(saestore.open(folder, "a", durability="fast").root, SET) as writer:
        start_set(writer, SetAttributes(SHAPE.n_features, "float32", n_items=index.n_items,
                                        item_size=index.item_size, planned_samples=n), None, index)  # fmt: skip
        for start in range(0, n, n // SEGMENTS):
            part = matrix[start : start + n // SEGMENTS]
            ids = part.indices.astype(feature_dtype(SHAPE.n_features))
            writer.append(SparseRows(part.indptr.astype(np.int64), ids, part.data))
        if merged:
            writer.finish()


def serve(folder: Path, seconds: float, pipe: Connection) -> None:
    """Serve what a folder has; answers each message with the number of requests since the last one."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from s3_server import serve as serving

    with serving() as s3:
        files = (path for path in folder.rglob("*") if path.is_file())
        s3.objects.update({str(path.relative_to(folder.parent)): path.read_bytes() for path in files})
        s3.latency = seconds
        pipe.send((s3.url, s3.options))
        while pipe.recv() is not None:
            pipe.send(len(s3.requests))
            s3.requests.clear()


def in_new_process(folder: Path, options: dict[str, str], server: Connection) -> dict[str, tuple[float, int]]:
    """What `ask` finds in a new process, which reaches the server's pipe through this one."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=ask, args=(folder, options, theirs), daemon=True)
    process.start()
    while (message := ours.recv()) == "count":
        server.send(message)
        ours.send(server.recv())
    process.join()
    return message


def ask(folder: Path, options: dict[str, str], pipe: Connection) -> None:
    """Milliseconds and requests of each question in this process, which asks a copy in a folder first."""

    def requests() -> int:
        pipe.send("count")
        return int(pipe.recv())

    random = np.random.default_rng(0)
    first, later = random.choice(SHAPE.n_features, 2, replace=False).tolist()
    rows = np.sort(random.choice(SHAPE.n_samples, 100, replace=False))
    for location, given in ((LocalStore(folder), None), (f"s3://bucket/{folder.name}", options)):
        results = {}

        def timed(name: str, question: Any, results: dict[str, tuple[float, int]] = results) -> Any:
            requests()
            started = time.perf_counter()
            answer = question()
            results[name] = 1e3 * (time.perf_counter() - started), requests()
            return answer

        def opened(location: Any = location, given: Any = given) -> Any:
            return saestore.open(location, storage_options=given)[SET]

        acts = timed("open", opened)
        timed("100 random rows, cold", lambda acts=acts: acts.sparse(rows))
        timed("first answer", lambda opened=opened: opened().top_samples(first, n=20))
        acts = opened()
        acts.top_samples(first, n=20)
        timed("top 20, warm", lambda acts=acts: acts.top_samples(later, n=20))
        timed("info", lambda opened=opened: opened().info())
    pipe.send(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--milliseconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    for name, merged in (("one segment", True), (f"{SEGMENTS} segments", False)):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "a.zarr"
            write(folder, merged=merged)
            ours, theirs = spawn.Pipe()
            server = spawn.Process(target=serve, args=(folder, chosen.milliseconds / 1e3, theirs), daemon=True)
            server.start()
            _, options = ours.recv()

            rounds = [in_new_process(folder, options, ours) for _ in range(chosen.rounds)]
            ours.send(None)
            server.join()
            for question in rounds[0]:
                times = sorted(each[question][0] for each in rounds)
                print(
                    json.dumps(
                        {
                            "set": name,
                            "question": question,
                            "ms": round(times[0]),
                            "median": round(times[len(times) // 2]),
                            "requests": rounds[0][question][1],
                            "goal": GOALS.get(question),
                        }
                    )
                )


if __name__ == "__main__":
    main()
