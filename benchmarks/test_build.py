"""Building: its speed beside the bare matrix product of the same batches, and its memory at any number of samples."""

import shutil
import time

import numpy as np
import pytest

from benchmarks.process import run

torch = pytest.importorskip("torch")

from benchmarks.building import build, make  # noqa: E402  (imports torch)
from benchmarks.encoding import SaeShape  # noqa: E402  (imports torch)

ROUNDS = 2
MERGE, SLACK = 256 << 20, 32 << 20  # the bound of `saestore.build` on the merge at its end
CLIP_SCOPE, CLIP_SCOPE_ROWS = SaeShape("topk", 1_024, 65_536, 32), 16_384
# A million rows at CLIP-Scope's shape would take twenty minutes. The bounded memory does not depend on d_in, and on
# d_sae only by the arrays of one value per feature.
SMALL, SMALL_ROWS = SaeShape("topk", 64, 4_096, 32), (100_000, 1_000_000)
TINY, TINY_ROWS = SaeShape("topk", 16, 1_024, 8), (600, 6_000)


def product(folder, d_sae):
    """Seconds of the float32 products of a build and nothing else: batches of 128 MiB into one buffer, all loaded."""
    weights = torch.load(folder / "sae.pt", mmap=True, weights_only=True)["model_state_dict"]["enc"].clone()
    embeddings = torch.from_numpy(np.load(folder / "embeddings.npy"))
    rows = min(4096, max(1, (1 << 27) // (4 * d_sae)))
    out = torch.empty(rows, d_sae)
    started = time.perf_counter()
    for part in embeddings.split(rows):
        torch.mm(part, weights, out=out[: len(part)])
    return time.perf_counter() - started


@torch.inference_mode()
def test_speed(full, tmp_path, recorder):
    """The whole of `saestore.build`, from loading the SAE to the finished store, in turns with the product.

    Also of a quarter of the rows: the difference is the cost of further rows, once all is loaded and prepared.
    """
    shape, rows = (CLIP_SCOPE, CLIP_SCOPE_ROWS) if full else (TINY, TINY_ROWS[0])
    make(shape, rows, tmp_path)
    quarter = rows // 4
    np.save(tmp_path / "quarter.npy", np.load(tmp_path / "embeddings.npy", mmap_mode="r")[:quarter])
    seconds = {"product": [], "quarter": [], "all": []}
    for _ in range(ROUNDS if full else 1):
        shutil.rmtree(tmp_path / "store.zarr", ignore_errors=True)
        seconds["product"].append(product(tmp_path, shape.d_sae))
        for name, file in (("quarter", "quarter.npy"), ("all", "embeddings.npy")):
            started = time.perf_counter()
            acts = build(tmp_path, name, file)
            seconds[name].append(time.perf_counter() - started)
    assert acts.nnz == rows * shape.l0
    wall, few, bare = (np.array(seconds[name]) for name in ("all", "quarter", "product"))
    result = {
        "shape": f"{rows:,} embeddings, {shape}",
        "seconds": {name: float(np.median(times)) for name, times in seconds.items()},
        "of_the_product": float(np.median(bare / wall)),
        "of_the_product_further_rows": float(np.median(bare * (1 - quarter / rows) / (wall - few))),
    }
    recorder.add("build", "speed", result)


def test_peak_memory(full, tmp_path, recorder):
    """Ten times the samples take no more memory than the bound on the merge, which few samples do not reach."""
    peaks = {}
    shape, numbers = (SMALL, SMALL_ROWS) if full else (TINY, TINY_ROWS)
    for rows in numbers:
        folder = tmp_path / str(rows)
        folder.mkdir()
        make(shape, rows, folder)
        seconds, result = run(["-m", "benchmarks.building", str(folder)])
        assert result["nnz"] == rows * shape.l0
        peaks[f"{rows}"] = {"shape": f"{rows:,} embeddings, {shape}", "seconds": seconds, **result}
        shutil.rmtree(folder)
    few, many = peaks.values()
    assert many["private_bytes"] < few["private_bytes"] + MERGE + SLACK
    recorder.add("build", "peak", peaks)
