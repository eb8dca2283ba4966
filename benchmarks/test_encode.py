"""Encoding beside the bare float32 matrix product of the same batches, in turns."""

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks.encoding import RandomSAE, SaeShape  # noqa: E402  (imports torch)
from saestore.sae import load_sae  # noqa: E402  (imports torch)
from saestore.sae.encode import Encoder  # noqa: E402  (imports torch)

WARM_UPS, ROUNDS = 1, 5
# The shapes of CLIP-Scope and of Gemma Scope.
FULL = {
    "topk": SaeShape("topk", 1_024, 65_536, 32),
    "jumprelu": SaeShape("jumprelu", 3_584, 16_384, 100),
    "relu": SaeShape("relu", 3_584, 16_384, 100),
}
TINY = {kind: SaeShape(kind, 32, 512, 8) for kind in FULL}
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
# On a GPU `auto` is `float32`; bfloat16 candidates are an option.
MODES = {"cpu": ("float32", "auto"), "cuda": ("float32", "bfloat16")}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_GPU)])
@pytest.mark.parametrize("kind", FULL)
@torch.inference_mode()
def test_encode(full, kind, device, recorder, tmp_path):
    if kind != "topk":
        pytest.importorskip("sae_lens")
    shape = (FULL if full else TINY)[kind]
    sae = RandomSAE(shape, tmp_path)
    weight, loaded = sae.weight.to(device), load_sae(sae.spec)
    encoders = {mode: Encoder(loaded, device, matmul_precision=mode) for mode in MODES[device]}
    rows = encoders["float32"].batch_rows
    out = torch.empty(rows, shape.d_sae, device=device)

    def product(x):
        torch.mm(x.to(device), weight, out=out)
        return out[-1, -1].item()  # waits until the GPU has finished

    steps = {"product": product} | {mode: encoder.encode for mode, encoder in encoders.items()}
    rng, times = np.random.default_rng(0), []
    for x in sae.batches(rows, WARM_UPS + ROUNDS if full else 1):
        times.append({name: timed(steps[name], x) for name in rng.permutation(list(steps)).tolist()})
    one, other = (encoder.encode(x) for encoder in encoders.values())
    assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("indptr", "indices", "data"))
    assert np.diff(one.indptr).mean() == pytest.approx(shape.l0, rel=0.1)
    measured = {name: ratios(times[WARM_UPS if full else 0 :], name) for name in steps}
    about = {"shape": str(shape), "rows": rows, "encoding": {m: e.encoding for m, e in encoders.items()}}
    if device == "cuda":
        about["gpu"] = torch.cuda.get_device_name()
    recorder.add("encode" if device == "cpu" else "gpu", kind, {**about, "steps": measured})


def timed(step, x):
    started, cpu = time.perf_counter(), time.process_time()
    step(x)
    return time.perf_counter() - started, time.process_time() - cpu


def ratios(times, name):
    """Median milliseconds, wall-clock and of processors, and the speed relative to the product of the same batch."""
    wall, cpu = np.array([t[name] for t in times]).T
    bare_wall, bare_cpu = np.array([t["product"] for t in times]).T
    return {
        "ms": 1e3 * float(np.median(wall)),
        "cpu_ms": 1e3 * float(np.median(cpu)),
        "of_the_product": float(np.median(bare_wall / wall)),
        "of_the_product_cpu": float(np.median(bare_cpu / cpu)),
    }
