"""Embeddings to sparse activations, batch by batch: what sae_lens's ``encode`` gives, without the zeros."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from saestore.errors import InvalidInputError
from saestore.format import feature_dtype
from saestore.sae.bf16.candidates import MULTIPLE, CandidateFilter
from saestore.sae.bf16.self_test import fault, pays, unsuited
from saestore.sae.forward import Above, Affine, Entries, TopK, forward_of
from saestore.sae.loaded import LoadedSAE
from saestore.vocabulary import MATMUL_PRECISIONS

__all__ = [
    "MATMUL_PRECISIONS",
    "Encoder",
    "SparseBatch",
    "TruncationStats",
    "make_encoder",
    "reduce_batch",
    "usable_device",
]

# Ways to the same activations: the whole float32 product, or a bfloat16 product that says what to compute in float32.

_BATCH_BYTES = 1 << 27
_MAX_BATCH_ROWS = 4096
# What sae_lens itself holds at once when its own encode is called: pre-activations, masks, activations, and then ours.
_DENSE_IN_FALLBACK = 4


@dataclass(frozen=True)
class SparseBatch:
    """Activations of consecutive rows in CSR form: feature ids ascend in a row; no zeros, no duplicates.

    Attributes
    ----------
    indptr
        int64 (n + 1,): row i holds the entries ``indptr[i]`` to ``indptr[i + 1]``.
    indices
        Feature ids, uint16 up to 65,536 features, else uint32, (nnz,).
    data
        Activations (nnz,): float32, or float64 of a float64 SAE. A float16 or bfloat16 SAE's are widened, exactly.
    """

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.indptr) - 1

    @property
    def nnz(self) -> int:
        """Number of non-zeros."""
        return len(self.data)

    def rows(self) -> np.ndarray:
        """Row of every entry, int64 (nnz,)."""
        return np.repeat(np.arange(self.n_rows), np.diff(self.indptr))


@dataclass(frozen=True)
class TruncationStats:
    """What ``top_k`` and a narrower dtype took away; sums of two batches add up with ``+``.

    Attributes
    ----------
    n_dropped
        Non-zeros that are gone, those included that the narrower dtype rounds to zero.
    sum_dropped, sum_total
        Sums of the absolute activations that are gone, and of all before.
    max_rel_error
        Largest relative rounding error among those that are left.
    """

    n_dropped: int = 0
    sum_dropped: float = 0.0
    sum_total: float = 0.0
    max_rel_error: float = 0.0

    def __add__(self, other: TruncationStats) -> TruncationStats:
        return TruncationStats(
            self.n_dropped + other.n_dropped,
            self.sum_dropped + other.sum_dropped,
            self.sum_total + other.sum_total,
            max(self.max_rel_error, other.max_rel_error),
        )


class Encoder:
    """Turns batches of embeddings into the activations that the SAE gives them.

    It holds one dense batch of pre-activations, `batch_rows` by `d_sae` and at most 128 MiB (more only where a single
    row is larger), which every call uses again: an Encoder is for one thread at a time. A kind of SAE that it has no
    quick way for goes through sae_lens's own ``encode``, in smaller batches.

    Parameters
    ----------
    sae, device, exact
        As in `make_encoder`.

    Attributes
    ----------
    d_in, d_sae
        Width of the embeddings, number of features.
    batch_rows
        Rows that are encoded at once; what to pass to `encode` at a time for the best speed.
    """

    def __init__(self, sae: LoadedSAE, device: str = "cpu", exact: str = "auto") -> None:
        if exact not in MATMUL_PRECISIONS:
            raise InvalidInputError(f"exact is {exact!r}; use one of {', '.join(MATMUL_PRECISIONS)}")
        self._sae, self._exact = sae, exact
        self._device = usable_device(device)
        self.d_in, self.d_sae = sae.d_in, sae.d_sae
        with torch.inference_mode():
            self._forward = forward_of(sae.module.to(self._device))
        row_bytes = self.d_sae * self._forward.dtype.itemsize * (1 if self._forward.affine else _DENSE_IN_FALLBACK)
        rows = min(max(1, _BATCH_BYTES // row_bytes), _MAX_BATCH_ROWS)
        self.batch_rows = max(rows - rows % MULTIPLE, min(rows, MULTIPLE))
        # Made by the first batch that is large enough for them.
        self._candidates: CandidateFilter | None = None
        self._may_use_candidates = exact == "bfloat16" or (exact == "auto" and pays(self._forward))
        if exact == "bfloat16":
            self._demand_candidates()

    @property
    def info(self) -> Mapping[str, Any]:
        """What the store records of the SAE."""
        return self._sae.info

    @property
    def encoding(self) -> dict[str, Any]:
        """How batches are encoded.

        ``mode`` is ``float32``, or ``bfloat16-candidates`` once a batch was encoded so; then there are also the rows
        encoded so far (``rows``), those among them that went through the float32 product after all
        (``rows_fallback``), and the pre-activations that were computed in float32 for the others (``candidates``).
        """
        if self._candidates is None:
            return {"mode": "float32"}
        return {"mode": "bfloat16-candidates", **asdict(self._candidates.counts)}

    def fingerprint(self) -> str:
        """SHA-256, in hex, of the SAE's configuration and weights."""
        return self._sae.fingerprint()

    def encode(self, x: torch.Tensor, first_row: int = 0) -> SparseBatch:
        """Encode embeddings.

        Parameters
        ----------
        x
            (n, d_in), any float dtype; for an SAE on attention heads (``hook_z``) also (n, heads, d_head). More than
            `batch_rows` rows are encoded in parts.
        first_row
            Number of the first row, for messages.

        Returns
        -------
        SparseBatch
            The support is exactly that of sae_lens's ``encode`` on the same rows, and so are the values.

        Raises
        ------
        InvalidInputError
            If the width is not the SAE's, or an activation is not finite: the message names row and feature.
        """
        rows = self._checked(x)
        with torch.inference_mode():
            parts = [
                self._encode_part(rows[start : start + self.batch_rows], first_row + start)
                for start in range(0, max(1, len(rows)), self.batch_rows)
            ]
        return parts[0] if len(parts) == 1 else _concatenated(parts)

    def explained_variance(self, x: torch.Tensor, batch: SparseBatch) -> float:
        """Share of the embeddings' variance that the activations explain.

        ``1 - sum((x - decoded)**2) / sum((x - x.mean(0))**2)``, summed in float64 over all rows and columns; NaN where
        the rows are all alike. The decoder's rows are summed as the activations name them: nothing of width `d_sae` is
        made.

        Parameters
        ----------
        x
            The embeddings (n, d_in).
        batch
            Their activations, as `encode` gave them or reduced.
        """
        with torch.inference_mode():
            given = self._checked(x).to(self._device)
            if self._forward.norm_in is not None:
                self._forward.norm_in(given.to(self._forward.dtype))  # leaves in the SAE what its way back needs
            decoded = self._forward.decode(batch.indptr[:-1], batch.indices, batch.data).double()
            given = given.double()
            lost = (given - decoded).square().sum().item()
            total = (given - given.mean(0)).square().sum().item()
        return 1 - lost / total if total > 0 else float("nan")

    def _checked(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 3 and self._sae.config.get("reshape_activations") == "hook_z":
            x = x.flatten(1)
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise InvalidInputError(
                f"embeddings of shape {tuple(x.shape)} do not fit the SAE {self._sae.name}, which takes "
                f"(rows, {self.d_in}); check that they come from the model and layer that it was trained on"
            )
        if not x.is_floating_point():
            raise InvalidInputError(f"embeddings of dtype {str(x.dtype).removeprefix('torch.')}; want a float dtype")
        return x

    def _encode_part(self, x: torch.Tensor, first_row: int) -> SparseBatch:
        step, x = self._forward, x.to(self._device)
        if step.affine is None:
            counts, ids, values = step.select(x)
        else:
            x = x.to(step.dtype)
            x = x if step.norm_in is None else step.norm_in(x)
            counts, ids, values = self._entries(x, step.affine)
        if values.itemsize < 4:
            values = values.float()
        indptr = np.zeros(len(x) + 1, np.int64)
        np.cumsum(counts.cpu().numpy(), out=indptr[1:])
        batch = SparseBatch(indptr, ids.cpu().numpy().astype(feature_dtype(self.d_sae)), values.cpu().numpy())
        _refuse_non_finite(batch, first_row, self._sae.name)
        return batch

    def _entries(self, x: torch.Tensor, affine: Affine) -> Entries:
        """Select from embeddings as the product takes them."""
        buffer = self._buffer[: len(x)]
        # Rounding differs where rows are left over; and what is less than a batch is not worth the preparation.
        if self._may_use_candidates and len(x) >= self.batch_rows and len(x) % MULTIPLE == 0:
            if self._candidates is None and self._prepare_candidates() is not None:
                self._may_use_candidates = False
            if self._candidates is not None:
                entries = self._candidates(x, buffer)
                self._may_use_candidates = self._exact == "bfloat16" or self._candidates.counts.pay(self.d_sae)
                return entries
        return self._forward.select(affine(x, out=buffer))

    def _prepare_candidates(self) -> str | None:
        """Make what proposes candidates, and try it; returns why not."""
        affine, select = self._forward.affine, self._forward.select
        reason = unsuited(self._forward)
        if affine is None or not isinstance(select, TopK | Above) or reason is not None:
            return reason
        candidates = CandidateFilter(affine, select)
        reason = fault(candidates, self._buffer[: self.batch_rows])
        self._candidates = candidates if reason is None else None
        return reason

    def _demand_candidates(self) -> None:
        with torch.inference_mode():
            reason = self._prepare_candidates()
        if reason is not None:
            raise InvalidInputError(
                f"the SAE {self._sae.name} cannot be encoded from bfloat16 candidates on {self._device}: {reason}; use "
                "'auto' or 'float32'"
            )

    @cached_property
    def _buffer(self) -> torch.Tensor:
        # Kept from call to call: fresh memory of this size costs the first writer a page fault every 4 KiB.
        return torch.empty(self.batch_rows, self.d_sae, dtype=self._forward.dtype, device=self._device)


def make_encoder(sae: LoadedSAE, device: str = "cpu", exact: str = "auto") -> Encoder:
    """Make an Encoder of a loaded SAE; its weights are moved to the device.

    Parameters
    ----------
    sae
        What `load_sae` gave.
    device
        ``cpu``, ``cuda``.
    exact
        ``float32`` computes every pre-activation in float32; ``bfloat16`` only those that a bfloat16 product, with its
        error bounds, leaves in question; ``auto`` takes the second way where it is likely to be quicker and the device
        keeps what it relies on, and leaves it when it turns out not to pay. The activations are the same, to the last
        bit.

    Raises
    ------
    InvalidInputError
        If torch cannot use the device, or ``bfloat16`` is asked for and cannot be had.
    """
    return Encoder(sae, device, exact)


def reduce_batch(
    batch: SparseBatch, top_k: int | None = None, dtype: np.typing.DTypeLike | None = None, first_row: int = 0
) -> tuple[SparseBatch, TruncationStats]:
    """Keep the largest activations of each row, or hold them in fewer bits, and say what that drops.

    Parameters
    ----------
    batch
        Activations as `Encoder.encode` gave them.
    top_k
        Activations to keep in a row: the largest values, so negative ones go first; where values tie the lower feature
        id stays. None keeps all.
    dtype
        Float dtype to hold them in; None leaves it as it is.
    first_row
        Number of the batch's first row, for messages.

    Raises
    ------
    InvalidInputError
        If `dtype` cannot hold an activation: the message names value, row and feature.
    """
    if top_k is not None and top_k < 1:
        raise InvalidInputError(f"top_k is {top_k}; want at least 1")
    total = float(np.abs(batch.data).sum(dtype=np.float64))
    kept = batch if top_k is None else _largest(batch, top_k)
    kept, max_rel_error = (kept, 0.0) if dtype is None else _cast(kept, np.dtype(dtype), first_row)
    if kept.nnz == batch.nnz:
        return kept, TruncationStats(sum_total=total, max_rel_error=max_rel_error)
    gone = np.ones(batch.nnz, bool)
    place = batch.rows() << 32 | batch.indices
    gone[np.searchsorted(place, kept.rows() << 32 | kept.indices)] = False
    lost = float(np.abs(batch.data[gone]).sum(dtype=np.float64))
    return kept, TruncationStats(batch.nnz - kept.nnz, lost, total, max_rel_error)


def usable_device(device: str) -> torch.device:
    """Return the device, or raise `InvalidInputError` if torch cannot use it here."""
    try:
        return torch.empty(0, device=device).device
    # Torch built without CUDA says so with an AssertionError.
    except (RuntimeError, AssertionError) as error:
        have = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        reason = " ".join(str(error).split())[:160]
        raise InvalidInputError(
            f"device {device!r} cannot be used ({reason}); this machine has {', '.join(have)}"
        ) from error


def _refuse_non_finite(batch: SparseBatch, first_row: int, name: str) -> None:
    finite = np.isfinite(batch.data)
    if finite.all():
        return
    entry = int(np.argmin(finite))
    row = int(np.searchsorted(batch.indptr, entry, side="right")) - 1
    raise InvalidInputError(
        f"row {first_row + row:,}: the SAE {name} gives feature {batch.indices[entry]} the activation "
        f"{batch.data[entry]}; the embedding holds NaN, infinity or a value too large for the SAE's dtype, "
        "or is all zeros where the SAE divides by its norm"
    )


def _concatenated(parts: list[SparseBatch]) -> SparseBatch:
    counts = np.concatenate([np.diff(part.indptr) for part in parts])
    return SparseBatch(
        np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.data for part in parts]),
    )


def _selected(batch: SparseBatch, keep: np.ndarray) -> SparseBatch:
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep)])
    return SparseBatch(before[batch.indptr], batch.indices[keep], batch.data[keep])


def _largest(batch: SparseBatch, n: int) -> SparseBatch:
    order = np.lexsort((-batch.data, batch.rows()))  # stable: where values tie, lower ids come first
    keep = np.empty(batch.nnz, bool)
    keep[order] = np.arange(batch.nnz) - batch.indptr[:-1][batch.rows()] < n
    return _selected(batch, keep)


def _cast(batch: SparseBatch, dtype: np.dtype[Any], first_row: int) -> tuple[SparseBatch, float]:
    with np.errstate(over="ignore", under="ignore"):
        data = batch.data.astype(dtype)
    too_large = np.isinf(data)
    if too_large.any():
        entry = int(np.argmax(too_large))
        raise InvalidInputError(
            f"row {first_row + int(batch.rows()[entry]):,}: feature {batch.indices[entry]} has the activation "
            f"{batch.data[entry]:,.8g}, which {dtype} cannot hold (at most {np.finfo(dtype).max:,}); use dtype float32"
        )
    cast = _selected(SparseBatch(batch.indptr, batch.indices, data), data != 0)
    exact = batch.data[data != 0].astype(np.float64)
    error = np.abs(cast.data.astype(np.float64) - exact) / np.abs(exact)
    return cast, float(error.max(initial=0.0))
