"""Embeddings that the SAE's decoder reconstructs from stored activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from saestore.errors import InvalidInputError
from saestore.query.selection import select
from saestore.query.slices import check_size
from saestore.sae import REGISTERED, LoadedSAE, load_sae
from saestore.sae.forward import CannotDecode, forward_of
from saestore.sparse_rows import Array

if TYPE_CHECKING:
    from saestore.query.reader import SetReader


_BATCH = 1 << 19  # non-zeros of a batch


def decode(acts: SetReader, samples: Any, sae: Any, max_bytes: int) -> Array:
    """See `ActivationSet.decode`."""
    loaded = sae_of(acts, sae)
    forward = forward_of(loaded.module)
    if forward.norm_in is not None:
        raise InvalidInputError(
            f"the SAE {loaded.name} scales every embedding by its own norm ({loaded.info['normalize_activations']}), "
            "which is not stored: the activations alone do not determine the length of the embedding.",
            code="norm-not-stored",
        )
    if isinstance(forward.decode, CannotDecode):
        raise InvalidInputError(f"{loaded.name}: {forward.decode.reason}.", code="cannot-decode")
    chosen = select(samples, acts.shape[0], "sample")
    wide = np.float64 if forward.dtype == torch.float64 else np.float32
    check_size((len(chosen), loaded.d_in), np.dtype(wide).itemsize, max_bytes, "Decode fewer samples at a time.")
    out = np.empty((len(chosen), loaded.d_in), wide)
    step = max(1, int(_BATCH * acts.shape[0] / max(1, acts.nnz)))
    for start in range(0, len(chosen), step):
        rows = acts.sparse(chosen.ids[start : start + step])
        with torch.inference_mode():
            decoded = forward.decode(rows.indptr[:-1].astype(np.int64), rows.indices, rows.data)
        out[start : start + step] = decoded.to("cpu", torch.float64 if wide is np.float64 else torch.float32).numpy()
    return out[0] if chosen.scalar else out


def sae_of(acts: SetReader, sae: Any) -> LoadedSAE:
    """The SAE, which must be the one that the set was made with."""
    loaded = load_sae(_recorded(acts) if sae is None else sae, str(getattr(sae, "device", "cpu")))
    if loaded.d_sae != acts.shape[1]:
        raise InvalidInputError(
            f"the SAE {loaded.name} has {loaded.d_sae:,} features, {acts.path} has {acts.shape[1]:,}; "
            "give the SAE that the set was made with.",
            code="wrong-sae",
        )
    recorded = acts.attributes.sae.get("fingerprint")
    if recorded is not None and recorded != loaded.fingerprint():
        raise InvalidInputError(
            f"the SAE {loaded.name} is not the one that {acts.path} was made with: its weights or its configuration "
            f"differ (fingerprint {loaded.fingerprint()[:12]}, recorded {recorded[:12]}).",
            code="wrong-sae",
        )
    return loaded


def _recorded(acts: SetReader) -> str:
    """The SAE as the attributes of the set name it."""
    sae = acts.attributes.sae
    if sae.get("name") in REGISTERED:
        return str(sae["name"])
    if sae.get("release") and sae.get("sae_id"):
        return f"{sae['release']}:{sae['sae_id']}"
    if sae.get("source"):
        return str(sae["source"])
    message = f"{acts.path} has no record of its SAE; give it: decode(samples, sae=…)."
    raise InvalidInputError(message, code="unknown-sae")
