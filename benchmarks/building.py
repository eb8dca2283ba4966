"""Making what a build needs, and running one in a process of its own: `python -m benchmarks.building FOLDER`.

The process prints the peak of its memory, and that of the part which is not mapped from files, as JSON: pages of a
memory-mapped file count as resident until the system needs them for something else.
"""

import contextlib
import json
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import saestore
from benchmarks.memory import peak_bytes, private_bytes
from saestore.activation_set import ActivationSet

ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class SaeShape:
    """A TopK SAE, and how many embeddings go through it."""

    d_in: int
    d_sae: int
    k: int
    rows: int

    def __str__(self) -> str:
        return f"{self.rows:,} embeddings, {self.d_in:,} to {self.d_sae:,}, k {self.k}"


def make(shape: SaeShape, folder: Path) -> None:
    """Write random weights in CLIP-Scope's format and random embeddings, a block at a time."""
    random = torch.Generator().manual_seed(0)
    encoder = torch.randn(shape.d_in, shape.d_sae, generator=random) / shape.d_in**0.5
    state = {"pre_b": torch.zeros(shape.d_in), "enc": encoder, "dec": encoder.T.contiguous()}
    whole = {"k": shape.k, "n_features": shape.d_sae, "d_in": shape.d_in, "model_state_dict": state}
    torch.save(whole, folder / "sae.pt")
    npy = np.lib.format.open_memmap(
        folder / "embeddings.npy", mode="w+", dtype=np.float32, shape=(shape.rows, shape.d_in)
    )
    for start in range(0, shape.rows, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, shape.rows - start)
        npy[start : start + rows] = torch.randn(rows, shape.d_in, generator=random).numpy()
    npy.flush()


def build(folder: Path, dataset: str = "all", embeddings: str = "embeddings.npy") -> ActivationSet:
    """What a user runs."""
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


@contextlib.contextmanager
def watched(every: float = 0.005) -> Iterator[dict[str, int]]:
    """The largest private memory seen meanwhile, looked at 200 times a second."""
    found, stop = {"private_bytes": private_bytes()}, threading.Event()

    def watch() -> None:
        while not stop.wait(every):
            found["private_bytes"] = max(found["private_bytes"], private_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def main() -> None:
    with watched() as seen:
        acts = build(Path(sys.argv[1]))
    print(json.dumps({"peak_bytes": peak_bytes(), **seen, "nnz": acts.nnz}))


if __name__ == "__main__":
    main()
