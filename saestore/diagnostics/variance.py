"""Embeddings beside what the SAE makes of the stored activations. Needs torch; imported only where it is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from saestore.embeddings.base import EmbeddingSource
from saestore.errors import InvalidInputError
from saestore.sae import LoadedSAE
from saestore.sae.encode import Encoder
from saestore.sae.forward import AboveThreshold, Forward, TopK, forward_of
from saestore.sparse_rows import Array, SparseRows

if TYPE_CHECKING:
    from saestore.query.reader import SetReader


_RUNS = 64
_TRIED = 128  # embeddings that other scales are tried on
_SAME = 1e-2  # relative difference of an activation that a narrower dtype or another device may cause


def expected_of(sae: LoadedSAE) -> dict[str, Any]:
    """What the SAE itself records: mean L0 in training, whether values can be negative, lowest activations."""
    select = forward_of(sae.module).select
    l0 = sae.training.get("l0")
    expected: dict[str, Any] = {"l0": None if l0 is None else float(l0), "negative": None, "thresholds": None}
    if isinstance(select, TopK):
        expected["negative"] = not select.relu
    elif isinstance(select, AboveThreshold):
        expected |= {"negative": False, "thresholds": np.atleast_1d(select.threshold.cpu().double().numpy())}
    return expected


def sample_rows(n_samples: int, n_rows: int, seed: int) -> Array:
    """Samples to compare: all, or 64 runs of consecutive ones, each somewhere in its own 64th of the set."""
    if n_samples <= n_rows:
        return np.arange(n_samples)
    runs = min(_RUNS, n_rows)
    length = n_rows // runs
    edges = np.arange(runs + 1) * n_samples // runs
    starts = np.random.default_rng(seed).integers(edges[:-1], np.maximum(edges[1:] - length, edges[:-1]), endpoint=True)
    rows = (starts[:, None] + np.arange(length)).ravel()
    return np.unique(rows[rows < n_samples])


def compare(acts: SetReader, sae: LoadedSAE, source: EmbeddingSource, rows: Array) -> dict[str, Any]:
    """How well the stored activations of some samples reconstruct their embeddings; see `Diagnosis.reconstruction`."""
    x, matrix, forward = _read(source, rows), acts.sparse(rows), forward_of(sae.module)
    stored = SparseRows(matrix.indptr.astype(np.int64), matrix.indices, matrix.data)
    encoder = Encoder(sae)
    with torch.inference_mode():
        decoded, given = decoded_rows(forward, x, stored), x.double()
    encoded = encoder.encode(x)
    first = acts.item_index.locate(rows)[1] == 0
    inner = torch.from_numpy(np.flatnonzero(~first))
    several = len(inner) > 1
    return {
        "n_rows": len(rows),
        "explained_variance": explained(given, decoded),
        "without_first": explained(given[inner], decoded[inner]) if first.any() and several else None,
        "mse": float((given - decoded).square().mean()),
        "cosine": float(torch.nn.functional.cosine_similarity(given, decoded, dim=1).mean()),
        "agreement": _shared(stored, encoded, encoder.d_sae),
        "missing": 1 - _shared(encoded, stored, encoder.d_sae),
        "norm_median": float(given.norm(dim=1).median()),
        "decoded_norm_median": float(decoded.norm(dim=1).median()),
        **best_scale(sae, x[inner] if several else x),
    }


def best_scale(sae: LoadedSAE, x: torch.Tensor) -> dict[str, Any]:
    """The factor on the embeddings, with or without the decoder's bias added, with the largest explained variance.

    Powers of 4 from 2**-16 to 2**16 are tried on up to 128 of the embeddings, then steps of 2, 2**0.5 and 2**0.25
    around the best. A factor other than 1 must explain more than 1 by 0.01.
    """
    x = x[:: max(1, len(x) // _TRIED)][:_TRIED].double()
    encoder, bias = Encoder(sae), getattr(forward_of(sae.module).decode, "bias", None)

    def explain(shift: Any, power: float) -> float:
        tried = (x * 2.0**power + shift).float()
        try:
            with torch.inference_mode():
                return encoder.explained_variance(tried, encoder.encode(tried))
        except InvalidInputError:  # a value that the SAE's dtype cannot hold
            return -np.inf

    best = {"scale": 1.0, "shift": False, "scaled_explained_variance": explain(0.0, 0.0)}
    limit = best["scaled_explained_variance"] + 0.01
    for shift in [0.0] if bias is None else [0.0, bias.double().cpu()]:
        centre, near = 0.0, np.arange(-16.0, 17.0, 2.0)
        for step in (1.0, 0.5, 0.25, 0.0):
            shares = [explain(shift, power) for power in near]
            centre = float(near[int(np.argmax(shares))])
            near = np.array([centre - step, centre, centre + step])
        if max(shares) > limit:
            limit = max(shares)
            best = {"scale": 2.0**centre, "shift": not isinstance(shift, float), "scaled_explained_variance": limit}
    return best


def decoded_rows(forward: Forward, x: torch.Tensor, batch: SparseRows) -> torch.Tensor:
    """What the decoder makes of the activations, float64."""
    if forward.norm_in is not None:
        forward.norm_in(x.to(forward.dtype))  # leaves in the SAE what its way back needs
    return forward.decode(batch.indptr[:-1], batch.indices, batch.data).double().cpu()


def explained(given: torch.Tensor, decoded: torch.Tensor) -> float:
    """Share of the variance that is explained; NaN where all rows are alike."""
    total = (given - given.mean(0)).square().sum().item()
    return 1 - (given - decoded).square().sum().item() / total if total > 0 else float("nan")


def _read(source: EmbeddingSource, rows: Array) -> torch.Tensor:
    """Embeddings of ascending rows, float32 or wider, one read per run of consecutive rows."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    read = torch.cat([source.read(int(run[0]), int(run[-1]) + 1) for run in runs])
    return read if read.dtype == torch.float64 else read.float()


def _shared(batch: SparseRows, other: SparseRows, n_features: int) -> float:
    """Share of the non-zeros of a batch that another has too; 1 where there are none."""
    keys, others = (
        np.repeat(np.arange(len(each)), np.diff(each.indptr)) * n_features + each.indices.astype(np.int64)
        for each in (batch, other)
    )
    if not len(keys) or not len(others):
        return float(len(keys) == 0)
    index = np.minimum(np.searchsorted(others, keys), len(others) - 1)
    a, b = batch.data.astype(np.float64), other.data[index].astype(np.float64)
    same = (others[index] == keys) & (np.abs(a - b) <= _SAME * np.maximum(np.abs(a), np.abs(b)))
    return float(same.mean())
