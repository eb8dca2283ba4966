"""Makes the inputs of a build, and runs one in a process of its own: `python -m benchmarks.building FOLDER`.

The process prints as JSON its peak memory, and the peak of the part that is not mapped from files: pages of a
memory-mapped file count as resident until the system needs them for something else.
"""

import json
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

import saestore
from benchmarks.encoding import RandomSAE, SaeShape
from benchmarks.process import peak_bytes, private_bytes

BLOCK_ROWS = 1 << 14
SAMPLE_SECONDS = 0.005  # between two looks at the private memory


def make(shape: SaeShape, rows: int, folder: Path) -> None:
    """Write an SAE in CLIP-Scope's format and random embeddings, a block at a time."""
    RandomSAE(shape, folder)
    random, file = torch.Generator().manual_seed(1), folder / "embeddings.npy"
    npy = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(rows, shape.d_in))
    for start in range(0, rows, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, rows)
        npy[start:stop] = torch.randn(stop - start, shape.d_in, generator=random).numpy()
    npy.flush()


def build(folder: Path, dataset: str = "all", embeddings: str = "embeddings.npy") -> saestore.ActivationSet:
    """Build as a user does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*explains")  # random weights explain nothing
        return saestore.build(
            dataset,
            store=folder / "store.zarr",
            sample_type="cls",
            embeddings=folder / embeddings,
            sae=folder / "sae.pt",
            progress=False,
        )


def main() -> None:
    with ThreadPoolExecutor(1) as pool:
        building, private = pool.submit(build, Path(sys.argv[1])), private_bytes()
        while not building.done():
            private = max(private, private_bytes())
            time.sleep(SAMPLE_SECONDS)
    print(json.dumps({"peak_bytes": peak_bytes(), "private_bytes": private, "nnz": building.result().nnz}))


if __name__ == "__main__":
    main()
