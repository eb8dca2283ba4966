"""Embeddings beside what the SAE makes of the stored activations. Needs torch; imported only where that is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from saestore.embeddings.base import EmbeddingSource
from saestore.embeddings.opening import open_embeddings
from saestore.errors import InvalidInputError
from saestore.interop.decoding import sae_of
from saestore.sae import LoadedSAE
from saestore.sae.encode import make_encoder
from saestore.sae.forward import AboveThreshold, Forward, TopK, forward_of
from saestore.sparse_rows import SparseRows

if TYPE_CHECKING:
    from saestore.query.reader import SetReader

Array = np.ndarray[Any, Any]

_RUNS = 64
_TRIED = 256  # embeddings that other scales are tried on
_SAME = 1e-2  # relative difference of an activation that a narrower dtype or another device may make


@dataclass(frozen=True)
class Opened:
    """The SAE and the embeddings of a set."""

    sae: LoadedSAE
    source: EmbeddingSource

    @property
    def forward(self) -> Forward:
        """The steps of the SAE."""
        return forward_of(self.sae.module)


def open_sae(acts: SetReader, sae: Any) -> LoadedSAE:
    """The SAE that is given, or that the set names."""
    return sae_of(acts, sae)


def open_rows(acts: SetReader, spec: Any, sae: LoadedSAE) -> EmbeddingSource:
    """The embeddings, which must be those of the set, as far as it says.

    Raises
    ------
    NotFoundError, InvalidInputError
        There are none, or they are others.
    """
    source = open_embeddings(spec)
    wanted = acts.attributes.planned_samples or acts.shape[0]
    if (source.n_rows, source.d_in) != (wanted, sae.d_in):
        raise InvalidInputError(
            f"{source.path} has {source.n_rows:,} embeddings of width {source.d_in:,}; {acts.path} has {wanted:,} "
            f"samples, and the SAE {sae.name} takes width {sae.d_in:,}: give the embeddings that were encoded."
        )
    recorded = acts.attributes.source
    there = recorded.get("fingerprint") if recorded.get("kind") == "embeddings" else None
    if there is not None and source.fingerprint() != there:
        raise InvalidInputError(
            f"{source.path} holds other embeddings than those that {acts.path} was built from (fingerprint "
            f"{source.fingerprint()[:12]}, there {there[:12]}): give those, or build the set again."
        )
    return source


def said_by(sae: LoadedSAE) -> dict[str, Any]:
    """What the SAE itself says beyond the attributes of the set: mean L0 in training, lowest threshold, negatives."""
    select = forward_of(sae.module).select
    notes = getattr(getattr(sae.module, "cfg", None), "metadata", None)
    l0 = notes.to_dict().get("l0") if notes is not None else None
    return {
        "l0": None if l0 is None else float(l0),
        "negative": not select.relu
        if isinstance(select, TopK)
        else False
        if isinstance(select, AboveThreshold)
        else None,
        "thresholds": np.atleast_1d(select.threshold.cpu().double().numpy())
        if isinstance(select, AboveThreshold)
        else None,
    }


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


def compare(acts: SetReader, opened: Opened, rows: Array) -> dict[str, Any]:
    """How well the stored activations of some samples reconstruct their embeddings."""
    x = _read(opened.source, rows)
    matrix = acts.sparse(rows)
    stored = SparseRows(matrix.indptr.astype(np.int64), matrix.indices, matrix.data)
    encoder = make_encoder(opened.sae)
    with torch.inference_mode():
        decoded, given = decoded_rows(opened.forward, x, stored), x.double()
    encoded = encoder.encode(x)
    first = acts.item_index.locate(rows)[1] == 0
    inner = torch.from_numpy(np.flatnonzero(~first))
    norms = given.norm(dim=1)
    return {
        "explained_variance": explained(given, decoded),
        "measured": "stored activations against embeddings",
        "n_rows": len(rows),
        "without_first": explained(given[inner], decoded[inner]) if first.any() and len(inner) > 1 else None,
        "encoded_again": encoder.explained_variance(x, encoded),
        "agreement": _agreement(stored, encoded, encoder.d_sae),
        "mse": float((given - decoded).square().mean()),
        "cosine": float(torch.nn.functional.cosine_similarity(given, decoded, dim=1).mean()),
        "norm_median": float(norms.median()),
        "norm_max": float(norms.max()),
        "decoded_norm_median": float(decoded.norm(dim=1).median()),
    }


def best_scale(opened: Opened, rows: Array) -> dict[str, Any]:
    """The factor on the embeddings, with or without the decoder's bias added, that the SAE explains most of.

    Powers of 4 from 2**-16 to 2**16 are tried on up to 256 of the samples, and then what is between the best ones.
    """
    x = _read(opened.source, rows[:: max(1, len(rows) // _TRIED)][:_TRIED]).double()
    encoder, bias = make_encoder(opened.sae), opened.forward.decode.bias
    shifts = [("scaled", 0.0)] + ([] if bias is None else [("centred", bias.double().cpu())])
    best: dict[str, Any] = {"explained_variance": -np.inf}

    def attempt(kind: str, shift: Any, power: float) -> float:
        nonlocal best
        tried = (x * 2.0**power + shift).float()
        try:
            with torch.inference_mode():
                share = encoder.explained_variance(tried, encoder.encode(tried))
        except InvalidInputError:  # a value that the SAE's dtype cannot hold
            return -np.inf
        if share > best["explained_variance"]:
            best = {"explained_variance": share, "kind": kind, "factor": 2.0**power, "power": power}
        return share

    for kind, shift in shifts:
        coarse = np.arange(-16.0, 17.0, 2.0)
        centre = coarse[int(np.argmax([attempt(kind, shift, power) for power in coarse]))]
        for step in (1.0, 0.5, 0.25):
            near = [centre - step, centre, centre + step]
            centre = near[int(np.argmax([attempt(kind, shift, power) for power in near]))]
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
    """Embeddings of ascending rows, float32 or wider, one read a run of consecutive ones."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    read = torch.cat([source.read(int(run[0]), int(run[-1]) + 1) for run in runs])
    return read if read.dtype == torch.float64 else read.float()


def _agreement(stored: SparseRows, encoded: SparseRows, n_features: int) -> float:
    """Share of the stored non-zeros that come out of encoding again; NaN of none."""
    keys, again = (batch.rows() * n_features + batch.indices.astype(np.int64) for batch in (stored, encoded))
    if not len(keys) or not len(again):
        return float(len(again) == 0) if len(keys) == 0 else 0.0
    place = np.minimum(np.searchsorted(again, keys), len(again) - 1)
    a, b = stored.data.astype(np.float64), encoded.data[place].astype(np.float64)
    same = (again[place] == keys) & (np.abs(a - b) <= _SAME * np.maximum(np.abs(a), np.abs(b)))
    return float(same.mean())
