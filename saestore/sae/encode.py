"""Embeddings to sparse activations, batch by batch: the result of sae_lens's ``encode``, without the zeros."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from saestore.errors import InvalidInputError, check_choice, shown
from saestore.format import feature_dtype
from saestore.sae.bf16 import MULTIPLE, Bf16Candidates
from saestore.sae.forward import Affine, CannotDecode, Entries, explained_variance, forward_of
from saestore.sae.hub import one_line
from saestore.sae.loaded import LoadedSAE
from saestore.sparse_rows import SparseRows, pointers
from saestore.vocabulary import MATMUL_PRECISIONS

_BATCH_BYTES = 1 << 27
_MAX_BATCH_ROWS = 4096
# sae_lens's own encode holds at once: pre-activations, masks, activations, and then ours.
_DENSE_IN_FALLBACK = 4


@dataclass(frozen=True)
class TruncationStats:
    """The loss by ``top_k`` and a narrower dtype; ``+`` gives the loss of two batches."""

    n_dropped: int = 0  # number of non-zeros that are gone, including those that the narrower dtype rounds to zero
    # Sums of the absolute activations that are gone, and of all before
    sum_dropped: float = 0.0
    sum_total: float = 0.0
    max_rel_error: float = 0.0  # largest relative rounding error of the others

    def __add__(self, other: TruncationStats) -> TruncationStats:
        return TruncationStats(
            self.n_dropped + other.n_dropped,
            self.sum_dropped + other.sum_dropped,
            self.sum_total + other.sum_total,
            max(self.max_rel_error, other.max_rel_error),
        )


class Encoder:
    """Turns batches of embeddings into activations of an SAE; its weights are moved to the device.

    It holds one dense batch of pre-activations, `batch_rows` by `d_sae` and at most 128 MiB (more only where a single
    row is larger), which every call uses again: an Encoder is for one thread at a time. An SAE of a kind without a
    quick way goes through sae_lens's own ``encode``, in smaller batches.

    `matmul_precision`: ``float32`` computes every pre-activation in float32. ``bfloat16`` filters with a bfloat16
    product and recomputes the candidates in float32. ``auto`` does so where it is likely to be quicker and the device
    passes a self-test, and stops when it turns out not to be quicker. The activations are identical, to the last bit.
    """

    def __init__(self, sae: LoadedSAE, device: str = "cpu", matmul_precision: str = "auto") -> None:
        check_choice("matmul_precision", matmul_precision, MATMUL_PRECISIONS)
        self._sae, self._device = sae, usable_device(device)
        self.d_in, self.d_sae = sae.d_in, sae.d_sae
        with torch.inference_mode():
            self._forward = forward_of(sae.module.to(self._device))
        row_bytes = self.d_sae * self._forward.dtype.itemsize * (1 if self._forward.affine else _DENSE_IN_FALLBACK)
        rows = min(max(1, _BATCH_BYTES // row_bytes), _MAX_BATCH_ROWS)
        self.batch_rows = max(rows - rows % MULTIPLE, min(rows, MULTIPLE))
        with torch.inference_mode():
            self._candidates = Bf16Candidates(self._forward, matmul_precision)
            reason = self._candidates.prepare(self._buffer) if matmul_precision == "bfloat16" else None
        if reason is not None:
            raise InvalidInputError(
                f"the SAE {sae.name} cannot be encoded with bfloat16 candidates on {self._device}: {reason}; use "
                "matmul_precision 'auto' or 'float32'",
                code="bfloat16-unsupported",
            )

    @property
    def info(self) -> Mapping[str, Any]:
        """The facts about the SAE that the store records."""
        return self._sae.info

    @property
    def encoding(self) -> dict[str, Any]:
        """How batches are encoded.

        ``mode`` is ``float32``, or ``bfloat16-candidates`` once a batch was encoded so, with the counts of `Counts`.
        """
        return self._candidates.encoding

    def fingerprint(self) -> str:
        """SHA-256, in hex, of the SAE's configuration and weights."""
        return self._sae.fingerprint()

    def encode(self, x: torch.Tensor, first_row: int = 0) -> SparseRows:
        """Encode embeddings (n, d_in), floats; of an SAE on attention heads (``hook_z``) also (n, heads, d_head).

        More than `batch_rows` rows are encoded in parts; `first_row` is the number of the first one, for messages.
        Support and values equal sae_lens's ``encode`` on the same rows: features ascend in a row and are uint16 up to
        65,536 features, else uint32; activations are float32 (float16 and bfloat16 are widened), or float64 for a
        float64 SAE.
        """
        rows = self._checked(x)
        with torch.inference_mode():
            parts = [
                self._encode_part(rows[start : start + self.batch_rows], first_row + start)
                for start in range(0, max(1, len(rows)), self.batch_rows)
            ]
        return SparseRows.concat(parts)

    def explained_variance(self, x: torch.Tensor, batch: SparseRows) -> float:
        """Share of the variance of the embeddings `x` (n, d_in) that their activations explain.

        NaN for equal rows, and for an SAE that cannot decode. Memory: nothing of width `d_sae` is made.
        """
        if isinstance(self._forward.decode, CannotDecode):
            return float("nan")
        with torch.inference_mode():
            given = self._checked(x).to(self._device)
            if self._forward.norm_in is not None:
                self._forward.norm_in(given.to(self._forward.dtype))  # the SAE keeps what its way back needs
            decoded = self._forward.decode(batch.indptr[:-1], batch.indices, batch.data).double()
            return explained_variance(given.double(), decoded)

    def _checked(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 3 and self._sae.config.get("reshape_activations") == "hook_z":
            x = x.flatten(1)
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise InvalidInputError(
                f"embeddings of shape {tuple(x.shape)} do not fit the SAE {self._sae.name}, which takes "
                f"(rows, {self.d_in}); check that they come from the model and layer that it was trained on",
                code="width-mismatch",
            )
        if not x.is_floating_point():
            raise InvalidInputError(
                f"embeddings of dtype {str(x.dtype).removeprefix('torch.')}; use a float dtype", code="not-float"
            )
        return x

    def _encode_part(self, x: torch.Tensor, first_row: int) -> SparseRows:
        step, x = self._forward, x.to(self._device)
        if step.affine is None:
            counts, ids, values = step.select(x)
        else:
            x = x.to(step.dtype)
            counts, ids, values = self._entries(x if step.norm_in is None else step.norm_in(x), step.affine)
        if values.itemsize < 4:
            values = values.float()
        features = ids.cpu().numpy().astype(feature_dtype(self.d_sae))
        batch = SparseRows(pointers(counts.cpu().numpy()), features, values.cpu().numpy())
        _refuse_non_finite(batch, first_row, self._sae.name)
        return batch

    def _entries(self, x: torch.Tensor, affine: Affine) -> Entries:
        """Select from embeddings as the product takes them."""
        entries = self._candidates(x, self._buffer[: self.batch_rows])
        return self._forward.select(affine(x, out=self._buffer[: len(x)])) if entries is None else entries

    @cached_property
    def _buffer(self) -> torch.Tensor:
        # Kept from call to call: fresh memory of this size costs the first writer a page fault every 4 KiB.
        return torch.empty(self.batch_rows, self.d_sae, dtype=self._forward.dtype, device=self._device)


def reduce_batch(
    batch: SparseRows, top_k: int | None = None, dtype: np.typing.DTypeLike | None = None, first_row: int = 0
) -> tuple[SparseRows, TruncationStats]:
    """Keep the `top_k` largest activations of each row (all if None), or store them in `dtype`, and measure the loss.

    Of equal values the lower feature id stays; negative ones go first. `first_row` is the number of the first row, for
    the message about an activation that `dtype` cannot hold.
    """
    if top_k is not None and top_k < 1:
        raise InvalidInputError(f"top_k is {top_k}; use 1 or more", code="invalid-count")
    rows, data = batch.rows(), batch.data
    keep, max_rel_error = np.ones(batch.nnz, bool), 0.0
    if top_k is not None:
        order = np.lexsort((-data, rows))  # stable: of equal values, lower ids come first
        keep[order] = np.arange(batch.nnz) - batch.indptr[:-1][rows] < top_k
    if dtype is not None:
        with np.errstate(over="ignore", under="ignore"):
            data = batch.data.astype(dtype)
        too_large = np.isinf(data) & keep
        if too_large.any():
            entry = int(np.argmax(too_large))
            raise InvalidInputError(
                f"row {first_row + int(rows[entry]):,}: feature {batch.indices[entry]} has the activation "
                f"{batch.data[entry]:,.8g}, which {data.dtype} cannot hold (at most {np.finfo(data.dtype).max:,}); use "
                "dtype float32",
                code="dtype-overflow",
            )
        keep &= data != 0
        exact = batch.data[keep].astype(np.float64)
        max_rel_error = float((np.abs(data[keep].astype(np.float64) - exact) / np.abs(exact)).max(initial=0.0))
    total, lost = (float(np.abs(part).sum(dtype=np.float64)) for part in (batch.data, batch.data[~keep]))
    stats = TruncationStats(int(np.count_nonzero(~keep)), lost, total, max_rel_error)
    return SparseRows(batch.indptr, batch.indices, data).keep(keep), stats


def usable_device(device: str) -> torch.device:
    """Return the device, or raise `InvalidInputError` if torch cannot use it here."""
    try:
        one = torch.ones(1, device=device)
        one.item()  # not of the device "meta", which holds no values
    # Torch built without CUDA raises an AssertionError.
    except (RuntimeError, AssertionError, TypeError) as error:
        available = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        available += ["mps"] if torch.backends.mps.is_available() else []
        reason = one_line(error).partition(". ")[0]
        raise InvalidInputError(
            f"device {shown(device)} cannot be used ({reason}); this machine has {', '.join(available)}",
            code="unusable-device",
        ) from error
    return one.device


def _refuse_non_finite(batch: SparseRows, first_row: int, name: str) -> None:
    finite = np.isfinite(batch.data)
    if finite.all():
        return
    entry = int(np.argmin(finite))
    row = int(np.searchsorted(batch.indptr, entry, side="right")) - 1
    raise InvalidInputError(
        f"row {first_row + row:,}: the SAE {name} gives feature {batch.indices[entry]} the activation "
        f"{batch.data[entry]}; the embedding holds NaN, infinity or a value too large for the SAE's dtype, "
        "or is all zeros where the SAE divides by its norm",
        code="not-finite",
    )
