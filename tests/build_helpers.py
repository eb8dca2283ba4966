"""Tiny SAEs, what a build of them must store, and builds in other processes that die where a test says.

Run as a program it is a server of such processes: it imports torch once and forks one process for each line of JSON.
The CLIP-Scope format serves there, because it needs no sae_lens, which takes ten seconds to import.
"""

import gc
import hashlib
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import saestore

D_IN, D_SAE, K = 8, 64, 4
# What changes a file system, as Python's audit events call it; of "open" only opening for writing counts.
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
PROJECT = Path(__file__).parent.parent


def clip_scope(path, d_in=D_IN, d_sae=D_SAE, k=K, seed=0):
    """Write a CLIP-Scope checkpoint whose decoder is good enough not to be warned about (see `near`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    dec = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
    state = {"pre_b": torch.randn(d_in, generator=generator) / 4, "enc": dec.T.contiguous(), "dec": dec / k}
    torch.save({"k": k, "n_features": d_sae, "d_in": d_in, "model_state_dict": state}, path)
    return path


def near(path, n_rows, seed=1):
    """Embeddings that a CLIP-Scope checkpoint explains well: some of its features, and a little noise."""
    state = torch.load(path, weights_only=True)["model_state_dict"]
    generator = torch.Generator().manual_seed(seed)
    d_sae, d_in = state["dec"].shape
    active = torch.rand(n_rows, d_sae, generator=generator) < 2 / d_sae
    strength = torch.rand(n_rows, d_sae, generator=generator) * active
    unit = torch.nn.functional.normalize(state["dec"], dim=1)
    return strength @ unit * 4 + state["pre_b"] + torch.randn(n_rows, d_in, generator=generator) / 20


def clip_scope_dense(path, x):
    """What the format says a checkpoint gives: the k largest of ``(x - pre_b) @ enc``, by torch alone."""
    loaded = torch.load(path, weights_only=True)
    state = loaded["model_state_dict"]
    pre = (x.to(state["enc"].dtype) - state["pre_b"]) @ state["enc"]
    top = torch.topk(pre, loaded["k"], dim=-1)
    return torch.zeros_like(pre).scatter_(-1, top.indices, top.values).numpy()


def sae_lens_folder(architecture, folder, d_in=D_IN, d_sae=D_SAE, seed=0):
    """An SAE as sae_lens trains and saves it, every weight set to a value that matters; returns what it loads again."""
    import sae_lens

    names = {
        "standard": "StandardTrainingSAEConfig",
        "topk": "TopKTrainingSAEConfig",
        "batchtopk": "BatchTopKTrainingSAEConfig",
        "matryoshka_batchtopk": "MatryoshkaBatchTopKTrainingSAEConfig",
        "jumprelu": "JumpReLUTrainingSAEConfig",
        "gated": "GatedTrainingSAEConfig",
    }
    more = {"k": K} if "topk" in architecture else {}
    if architecture.startswith("matryoshka"):
        more["matryoshka_widths"] = [d_sae // 4, d_sae]
    config = getattr(sae_lens, names[architecture])(d_in=d_in, d_sae=d_sae, **more)
    training = sae_lens.TrainingSAE.get_sae_class_for_architecture(architecture)(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in training.named_parameters():
            scale = {"threshold": 0.5, "b_enc": 0.3, "b_dec": 0.3, "r_mag": 0.3}.get(name, weight.shape[-1] ** -0.5)
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    if hasattr(training, "topk_threshold"):
        training.topk_threshold.fill_(0.4)
    training.save_inference_model(folder)
    return sae_lens.SAE.load_from_disk(folder)


def in_batches(encode, x, segment_rows=None, batch_rows=4096):
    """`encode` over the batches that a build makes, which begin anew with each segment: dense, float32 or wider."""
    with torch.no_grad():
        parts = [
            encode(part)
            for segment in torch.split(x, segment_rows or len(x))
            for part in torch.split(segment, batch_rows)
        ]
    return np.concatenate([np.asarray(part) for part in parts])


def run_apart(plan, store, name):
    """Run the tasks of a plan backwards, each as a process that begins would, and commit."""
    for task in reversed(range(len(plan))):
        with mock.patch("saestore.distributed.plan._OPEN", {}):
            saestore.open_plan(store, name).run(task)
    plan.commit()


def assert_holds(acts, dense):
    """The set holds the non-zeros of a dense matrix, every one of them, in both orders and within float32 rounding."""
    assert acts.shape == dense.shape
    stored = acts.sparse()
    rows, features = np.nonzero(dense)
    np.testing.assert_array_equal(np.repeat(np.arange(len(dense)), np.diff(stored.indptr)), rows)
    np.testing.assert_array_equal(stored.indices, features)
    assert stored.data.dtype == dense.dtype
    np.testing.assert_allclose(stored.data, dense[rows, features], rtol=1e-5, atol=1e-6)
    held = stored.toarray()
    active = np.flatnonzero((dense != 0).any(axis=0))
    for feature in active[:: max(1, len(active) // 5)]:
        listed, column = acts.feature(int(feature)), held[:, feature]
        expected = sorted(np.flatnonzero(column), key=lambda row: (-column[row], row))
        np.testing.assert_array_equal(listed.sample, expected)
        np.testing.assert_array_equal(listed.activation, column[expected])


@contextmanager
def unexplained():
    """Without the warning that an SAE explains little: here it has random weights, or a row or two."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* of the variance of the first", UserWarning)
        warnings.filterwarnings("ignore", ".*identical to another one", UserWarning)
        yield


def hashes(store):
    """SHA-256 of every file below a folder, by relative name."""
    return {
        str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(Path(store).rglob("*"))
        if file.is_file()
    }


def committed(store, path):
    """Samples that the store says it has of a set, 0 where there is no such set or store yet."""
    try:
        return len(saestore.open(store)[path])
    except saestore.errors.NotFoundError:
        return 0


class Server:
    """Builds in processes of their own, forked from one that has torch imported, on one thread."""

    def __init__(self):
        variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
        variables.pop("SAESTORE_SCRATCH", None)
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
        )

    def have(self, *modules):
        """Import these once, for all processes that begin from now on."""
        print(json.dumps({"modules": modules}), file=self._process.stdin, flush=True)

    def start(self, build=None, **when):
        """Begin a build; returns its process id.

        `build` are the arguments of `saestore.build`; ``command`` in its place are words for the command line,
        ``environment`` more variables. `when` says what befalls it: ``kill_at``, ``stop_at``, ``interrupt_at``,
        ``full_at`` (no space from then on) the n-th change of the file system, or ``kill_after`` so many seconds.
        """
        print(json.dumps({"build": build, **when}, default=str), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())["pid"]

    def result(self):
        """How the build ended: ``exit`` code (negative: killed by that signal), what it said, and what it changed."""
        return json.loads(self._process.stdout.readline())

    def run(self, build=None, **when):
        self.start(build, **when)
        return self.result()

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _befall(job, changes):
    """Have the file system's n-th change kill, stop or interrupt this process, or fail for want of space.

    An audit hook sees every change before it is made, whoever makes it, and what it raises the caller gets.
    """
    signals = {"kill_at": signal.SIGKILL, "stop_at": signal.SIGSTOP, "interrupt_at": signal.SIGINT}
    at = {job[name]: number for name, number in signals.items() if name in job}
    count = itertools.count(1)

    def hook(event, arguments):
        if event == "open":
            flags = arguments[2]
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in CHANGES:
            return
        n = next(count)
        changes.append(event)
        if n in at:
            os.kill(os.getpid(), at[n])
        if event == "open" and n >= job.get("full_at", float("inf")):
            raise OSError(28, "No space left on device", str(arguments[0]))

    sys.addaudithook(hook)


def _child(job, report):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
    os.environ.update(job.get("environment", {}))
    changes = []
    if "kill_after" in job:
        threading.Timer(job["kill_after"], os.kill, (os.getpid(), signal.SIGKILL)).start()
    _befall(job, changes)
    result = {}
    try:
        if "command" in job:
            from saestore.cli import main

            with redirect_stdout(sys.stderr):  # what it prints is no answer of the server
                main(job["command"], standalone_mode=False)
        else:
            result = {"samples": len(saestore.build(**job["build"], progress=False))}
        code = 0
    except BaseException as error:  # noqa: BLE001 (an interrupt is one of those that a test asks about)
        result = {"error": type(error).__name__, "message": str(error)}
        code = 1
    os.write(report, json.dumps({**result, "changes": len(changes)}).encode())
    os._exit(code)


def _serve():
    torch.set_num_threads(1)
    # What every build imports. Frozen, so that no collection in a child copies the pages that it shares with us.
    import tomllib  # noqa: F401

    import pandas as pd  # noqa: F401
    import scipy.sparse  # noqa: F401
    import tqdm.auto  # noqa: F401
    import zarr.codecs.numcodecs  # noqa: F401

    import saestore.cli
    import saestore.ingest.build_plan
    import saestore.ingest.planning  # noqa: F401

    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        if "modules" in job:
            for module in job["modules"]:
                importlib.import_module(module)
            gc.collect()
            gc.freeze()
            continue
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            _child(job, write)
        os.close(write)
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        with os.fdopen(read) as stream:
            said = stream.read()
        answer = {"exit": os.waitstatus_to_exitcode(status), **json.loads(said or "{}")}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
