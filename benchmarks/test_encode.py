"""Encoding beside the bare float32 matrix product of the same batches, in turns."""

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks.encoding import Made, SaeShape  # noqa: E402  (imports torch)
from saestore.sae.encode import make_encoder  # noqa: E402  (imports torch)

WARM, ROUNDS = 1, 5
# CLIP-Scope's and Gemma Scope's.
FULL = {
    "topk": SaeShape("topk", 1_024, 65_536, 32),
    "jumprelu": SaeShape("jumprelu", 3_584, 16_384, 100),
    "relu": SaeShape("relu", 3_584, 16_384, 100),
}
TINY = {kind: SaeShape(kind, 32, 512, 8) for kind in FULL}
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
# On a GPU `auto` is `float32`; bfloat16 candidates have to be asked for.
MODES = {"cpu": ("float32", "auto"), "cuda": ("float32", "bfloat16")}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_GPU)])
@pytest.mark.parametrize("kind", FULL)
@torch.inference_mode()
def test_encode(full, kind, device, recorder):
    if kind != "topk":
        pytest.importorskip("sae_lens")
    shape = (FULL if full else TINY)[kind]
    made = Made(shape)
    weight = made.weight.to(device)
    encoders = {mode: make_encoder(made.sae, device, matmul_precision=mode) for mode in MODES[device]}
    rows = encoders["float32"].batch_rows
    out = torch.empty(rows, shape.d_sae, device=device)

    def product(x):
        torch.mm(x.to(device), weight, out=out)
        return out[-1, -1].item()  # a GPU has finished when it gives a value

    steps = {"product": product} | {mode: encoder.encode for mode, encoder in encoders.items()}
    rng, times = np.random.default_rng(0), []
    for x in made.batches(rows, WARM + ROUNDS if full else 1):
        times.append({name: timed(steps[name], x) for name in rng.permutation(list(steps)).tolist()})
    check(shape, x, made.weight, *(encoder.encode(x) for encoder in encoders.values()))
    found = {name: ratios(times[WARM if full else 0 :], name) for name in steps}
    about = {"shape": str(shape), "rows": rows, "encoding": {m: e.encoding for m, e in encoders.items()}}
    if device == "cuda":
        about["gpu"] = torch.cuda.get_device_name()
    recorder.add("encode" if device == "cpu" else "gpu", kind, {**about, "steps": found})


def timed(step, x):
    started, cpu = time.perf_counter(), time.process_time()
    step(x)
    return time.perf_counter() - started, time.process_time() - cpu


def ratios(times, name):
    """Median milliseconds, wall-clock and of processors, and how often as fast as the product of the same batch."""
    wall, cpu = np.array([t[name] for t in times]).T
    bare_wall, bare_cpu = np.array([t["product"] for t in times]).T
    return {
        "ms": 1e3 * float(np.median(wall)),
        "cpu_ms": 1e3 * float(np.median(cpu)),
        "of_the_product": float(np.median(bare_wall / wall)),
        "of_the_product_cpu": float(np.median(bare_cpu / cpu)),
    }


def check(shape, x, weight, one, other):
    """Both ways to encode give the same activations, and those are what the product says."""
    assert np.array_equal(one.indptr, other.indptr)
    assert np.array_equal(one.indices, other.indices)
    assert np.array_equal(one.data, other.data)
    dense = (x[:8] @ weight).numpy()
    counts = np.diff(one.indptr)
    assert counts.mean() == pytest.approx(shape.l0, rel=0.1)
    for row, values in enumerate(dense):
        strongest = np.sort(np.argsort(-values)[: counts[row]])
        assert np.array_equal(one.indices[one.indptr[row] : one.indptr[row + 1]], strongest)
