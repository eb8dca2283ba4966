"""A build by one process and by two, a processor each: `python -m benchmarks.workers`, on a machine without other work.

Each round plans a set, and lets processes that have opened its input pull the tasks; then one process commits and
merges, which is given by itself. The least time of the rounds counts.
"""

import argparse
import json
import multiprocessing
import multiprocessing.connection
import os
import tempfile
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import torch

import saestore
from benchmarks.building import make
from benchmarks.encoding import SaeShape
from saestore.distributed.plan import Plan

SHAPE = SaeShape("topk", d_in=512, d_sae=8192, l0=32)
ROWS, SEGMENT_ROWS = 1 << 15, 1 << 11


def plan_in(folder: Path, store: str) -> Plan:
    """A plan of the set in a store of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*explains")  # random weights explain nothing
        return saestore.plan_build(
            "all",
            store=folder / store,
            sample_type="cls",
            embeddings=folder / "embeddings.npy",
            sae=folder / "sae.pt",
            segment_rows=SEGMENT_ROWS,
            progress=False,
        )


def work(pipe: Connection, processor: int) -> None:
    """Run the tasks that come through the pipe, on one processor."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[processor]})
    torch.set_num_threads(1)
    while (job := pipe.recv()) is not None:
        plan, task = job
        plan.run(task)
        pipe.send(task)


def seconds(folder: Path, store: str, pipes: list[Connection]) -> tuple[float, float]:
    """How long processes take for all tasks but the first of each, which opens the input; and the commit."""
    plan = plan_in(folder, store)
    for task, pipe in enumerate(pipes):
        pipe.send((plan, task))
    for pipe in pipes:
        pipe.recv()
    rest = list(range(2, len(plan)))  # as many for one process as for two
    started = time.perf_counter()
    for pipe in pipes:
        pipe.send((plan, rest.pop()))
    busy = list(pipes)
    while busy:
        ready = multiprocessing.connection.wait(busy)
        for pipe in [each for each in busy if each in ready]:
            pipe.recv()
            if rest:
                pipe.send((plan, rest.pop()))
            else:
                busy.remove(pipe)
    ran = time.perf_counter() - started
    if len(pipes) == 1:
        plan.run(1)
    started = time.perf_counter()
    plan.commit()
    return ran, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make(SHAPE, ROWS, folder)
        ends = [spawn.Pipe() for _ in range(2)]
        processes = [spawn.Process(target=work, args=(theirs, i), daemon=True) for i, (_, theirs) in enumerate(ends)]
        for process in processes:
            process.start()
        pipes = [ours for ours, _ in ends]
        times = {n: [seconds(folder, f"{n}-{i}.zarr", pipes[:n]) for i in range(rounds)] for n in (1, 2)}
        for pipe in pipes:
            pipe.send(None)
    (one, commit), (two, _) = min(times[1]), min(times[2])
    result = {"one": one, "two": two, "speedup": one / two, "commit": commit}
    print(json.dumps({name: round(value, 2) for name, value in result.items()}))


if __name__ == "__main__":
    main()
