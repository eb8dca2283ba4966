"""Building: its speed beside the bare matrix product of the same batches, and its memory at any number of samples."""

import shutil
import time

import numpy as np
import pytest

from benchmarks.test_process import run

torch = pytest.importorskip("torch")

from benchmarks.building import SaeShape, build, make  # noqa: E402  (imports torch)

ROUNDS = 3
CLIP_SCOPE = SaeShape(d_in=1_024, d_sae=65_536, k=32, rows=16_384)
SMALL = [SaeShape(d_in=64, d_sae=4_096, k=32, rows=rows) for rows in (100_000, 1_000_000)]
TINY = [SaeShape(d_in=16, d_sae=1_024, k=8, rows=rows) for rows in (600, 6_000)]


def product(folder, d_sae, batch_rows, cpu):
    """Seconds of the float32 products of a build and nothing else: its batches, one output buffer, weights loaded."""
    weights = torch.load(folder / "sae.pt", mmap=True, weights_only=True)["model_state_dict"]["enc"].clone()
    embeddings = torch.from_numpy(np.load(folder / "embeddings.npy"))
    out = torch.empty(batch_rows, d_sae)
    started, used = time.perf_counter(), time.process_time()
    for start in range(0, len(embeddings), batch_rows):
        part = embeddings[start : start + batch_rows]
        torch.mm(part, weights, out=out[: len(part)])
    cpu.append(time.process_time() - used)
    return time.perf_counter() - started


@torch.inference_mode()
def test_speed(benchmark, full, tmp_path, recorder):
    """The whole of `saestore.build`, from loading the SAE to the finished store, in turns with the product."""
    shape = CLIP_SCOPE if full else TINY[0]
    make(shape, tmp_path)
    batch_rows = min(4096, max(1, (1 << 27) // (4 * shape.d_sae)))
    seconds: dict[str, list[float]] = {"build": [], "product": []}
    cpu: list[float] = []  # how many times the product's processor time a build takes, all threads counted

    def both():
        shutil.rmtree(tmp_path / "store.zarr", ignore_errors=True)
        seconds["product"].append(product(tmp_path, shape.d_sae, batch_rows, cpu))
        started, used = time.perf_counter(), time.process_time()
        acts = build(tmp_path)
        seconds["build"].append(time.perf_counter() - started)
        cpu[-1] = (time.process_time() - used) / cpu[-1]
        return acts

    acts = benchmark.pedantic(both, rounds=ROUNDS if full else 1)
    # The store holds what the product gives: the k largest of a row.
    first = np.load(tmp_path / "embeddings.npy", mmap_mode="r")[:8]
    weights = torch.load(tmp_path / "sae.pt", weights_only=True)["model_state_dict"]["enc"]
    wanted = torch.topk(torch.from_numpy(first.copy()) @ weights, shape.k).values.sort().values
    stored = np.sort(acts.sparse(slice(0, 8)).data.reshape(8, shape.k))
    np.testing.assert_allclose(stored, wanted, rtol=1e-4)
    medians = {name: float(np.median(took)) for name, took in seconds.items()}
    speed = float(np.median(np.array(seconds["product"]) / np.array(seconds["build"])))
    about = {"shape": str(shape), "seconds": medians, "cpu_times": float(np.median(cpu))}
    recorder.add("build", "speed", {**about, "of_the_product": speed})


def test_peak_memory(full, tmp_path, recorder):
    """Ten times the samples take no more memory."""
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
    assert many["private_bytes"] < 1.2 * few["private_bytes"] + (64 << 20)
    recorder.add("build", "peak", peaks)
