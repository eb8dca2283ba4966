"""What the analyses cost on 45 million non-zeros: `python -m benchmarks.analyses [--items N] [--folder FOLDER]`.

Writes the two synthetic sets of COCO's shape that the explorer is measured on, then asks each analysis in a process of
its own, one after the other, on one thread. Writes `benchmarks/results/analyses.json`, of which the report makes the
table in `docs/analysis.md`.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import saestore
from benchmarks.explorer import OTHER, SET, write_store
from benchmarks.process import peak_bytes, run
from benchmarks.recorder import RESULTS, Recorder

D_IN, N_ITEMS, CONCEPT = 256, 5500, "concept 12"
RESULT = RESULTS / "analyses.json"


def _decoder(acts: Any) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(acts.shape[1], D_IN)).astype(np.float32)


def _monosemanticity(acts: Any, other: Any, folder: Path) -> Any:
    return acts.monosemanticity(np.load(folder / "embeddings.npy", mmap_mode="r"))


# By the call that the table shows: what asks it, of a set, another one over the same samples, and their folder.
ANALYSES: dict[str, Callable[[Any, Any, Path], Any]] = {
    f"diff('\"{CONCEPT}\"')": lambda acts, *_: acts.diff(f'"{CONCEPT}"'),
    "search(sample=…)": lambda acts, *_: acts.search(sample=700_000),
    'search(item=…, level="item")': lambda acts, *_: acts.search(item=2000, level="item"),
    f"monosemanticity(embeddings), {D_IN} wide": _monosemanticity,
    "families()": lambda acts, *_: acts.families(),
    "match(other)": lambda acts, other, _: acts.match(other),
    "examples(range(1000))": lambda acts, *_: acts.examples(range(1000)),
    f'probe("{CONCEPT}", k=[1, 2, 5])': lambda acts, *_: acts.probe(CONCEPT, k=[1, 2, 5]),
    f'attribute(weights, "{CONCEPT}", decoder)': lambda acts, *_: acts.attribute(
        np.ones(D_IN), CONCEPT, _decoder(acts), level="item"
    ),
    f'select("{CONCEPT}")': lambda acts, *_: acts.select(CONCEPT),
    f'select("{CONCEPT}", method="permutation")': lambda acts, *_: acts.select(CONCEPT, method="permutation"),
    "cloud(features, decoder)": lambda acts, *_: acts.cloud([3, 14, 15, 92], _decoder(acts)),
    'stats(classes="split", positions=True)': lambda acts, *_: acts.stats(classes="split", positions=True).feature,
}


def measure(folder: Path, name: str) -> dict[str, float]:
    """Seconds by the clock and of the processor of one analysis, and the peak memory of this process."""
    store = saestore.open(folder / "s.zarr")
    acts, other = store[SET], store[OTHER]
    started, cpu = time.perf_counter(), time.process_time()
    rows = len(ANALYSES[name](acts, other, folder))
    taken = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    return {**taken, "rows": rows, "peak_bytes": peak_bytes()}


def write_embeddings(path: Path, n_samples: int) -> None:
    """Random embeddings, float16."""
    out = np.lib.format.open_memmap(path, "w+", np.float16, (n_samples, D_IN))
    block = np.random.default_rng(1).normal(size=(10_000, D_IN)).astype(np.float16)
    for start in range(0, n_samples, len(block)):
        out[start : start + len(block)] = block[: n_samples - start]
    out.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=N_ITEMS)
    parser.add_argument(
        "--folder", type=Path, help="where the stores are, or are written; by default removed at the end"
    )
    parser.add_argument("--only", nargs="*", choices=ANALYSES, help="measure these again, and keep the others")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(Path(given.measure[0]), given.measure[1])))
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        if not (folder / "s.zarr").exists():
            write_store(folder, given.items)
        acts = saestore.open(folder / "s.zarr")[SET]
        if not (folder / "embeddings.npy").exists():
            write_embeddings(folder / "embeddings.npy", acts.shape[0])
        recorder = Recorder()
        recorder.add("analyses", "set", {"samples": acts.shape[0], "features": acts.shape[1], "nnz": acts.nnz})
        measured = json.loads(RESULT.read_text())["calls"] if given.only else {}
        recorder.add("analyses", "calls", measured)
        for name in given.only or ANALYSES:
            found = run(["-m", "benchmarks.analyses", "--measure", str(folder), name])[1]
            measured[name] = {**found, "load": os.getloadavg()[0]}
            print(name, json.dumps(measured[name]), file=sys.stderr, flush=True)
            recorder.write()


if __name__ == "__main__":
    main()
