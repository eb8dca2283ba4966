"""Building: its speed beside the bare matrix product of the same batches, and its memory at any number of samples."""

import shutil
import time

import numpy as np
import pytest

from benchmarks.test_process import run

torch = pytest.importorskip("torch")

from benchmarks.building import SaeShape, build, make  # noqa: E402  (imports torch)

ROUNDS = 3
MERGE = 256 << 20  # what `saestore.build` lets the merge at its end have
CLIP_SCOPE = SaeShape(d_in=1_024, d_sae=65_536, k=32, rows=16_384)
# A million rows of CLIP-Scope's would take twenty minutes. What is bounded does not know of d_in, and d_sae shows in it
# only by what is kept of every feature.
SMALL = [SaeShape(d_in=64, d_sae=16_384, k=32, rows=rows) for rows in (100_000, 1_000_000)]
TINY = [SaeShape(d_in=16, d_sae=1_024, k=8, rows=rows) for rows in (600, 6_000)]


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
def test_speed(benchmark, full, tmp_path, recorder):
    """The whole of `saestore.build`, from loading the SAE to the finished store, in turns with the product.

    Also of a quarter of the rows: the difference is what further rows cost, once all is loaded and prepared.
    """
    shape = CLIP_SCOPE if full else TINY[0]
    make(shape, tmp_path)
    quarter = shape.rows // 4
    np.save(tmp_path / "quarter.npy", np.load(tmp_path / "embeddings.npy", mmap_mode="r")[:quarter])
    seconds: dict[str, list[float]] = {"product": [], "quarter": [], "all": []}

    def all_three():
        shutil.rmtree(tmp_path / "store.zarr", ignore_errors=True)
        seconds["product"].append(product(tmp_path, shape.d_sae))
        for name, file in (("quarter", "quarter.npy"), ("all", "embeddings.npy")):
            started = time.perf_counter()
            acts = build(tmp_path, name, file)
            seconds[name].append(time.perf_counter() - started)
        return acts

    acts = benchmark.pedantic(all_three, rounds=ROUNDS if full else 1)
    check_first_rows(acts, tmp_path, shape.k)
    wall, few, bare = (np.array(seconds[name]) for name in ("all", "quarter", "product"))
    found = {
        "shape": str(shape),
        "seconds": {name: float(np.median(took)) for name, took in seconds.items()},
        "of_the_product": float(np.median(bare / wall)),
        "of_the_product_further_rows": float(np.median(bare * (1 - quarter / shape.rows) / (wall - few))),
    }
    recorder.add("build", "speed", found)


def check_first_rows(acts, folder, k):
    """The store holds what the product gives: the k largest of a row."""
    first = torch.from_numpy(np.load(folder / "embeddings.npy", mmap_mode="r")[:8].copy())
    weights = torch.load(folder / "sae.pt", weights_only=True)["model_state_dict"]["enc"]
    wanted = torch.topk(first @ weights, k).values.sort().values
    stored = np.sort(acts.sparse(slice(0, 8)).data.reshape(8, k))
    np.testing.assert_allclose(stored, wanted, rtol=1e-4)


def test_peak_memory(full, tmp_path, recorder):
    """Ten times the samples take no more memory than the merge at the end may, which few do not fill."""
    peaks = {}
    for shape in SMALL if full else TINY:
        folder = tmp_path / str(shape.rows)
        folder.mkdir()
        make(shape, folder)
        seconds, found = run(["-m", "benchmarks.building", str(folder)])
        assert found["nnz"] == shape.rows * shape.k
        peaks[f"{shape.rows}"] = {"shape": str(shape), "seconds": seconds, **found}
        shutil.rmtree(folder)
    few, many = peaks.values()
    assert many["private_bytes"] < few["private_bytes"] + MERGE + (32 << 20)
    recorder.add("build", "peak", peaks)
