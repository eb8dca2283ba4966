"""Encoding with bfloat16 candidates that are computed again in float32: the same activations in less time.

`Bf16Candidates` is the one hook for encoders; nothing outside of this package needs more of it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from saestore.sae.bf16.candidates import MULTIPLE, CandidateFilter
from saestore.sae.bf16.self_test import find_violation, is_profitable, unsupported_reason
from saestore.sae.forward import AboveThreshold, Entries, Forward, TopK

__all__ = ["MULTIPLE", "Bf16Candidates"]


class Bf16Candidates:
    """Selects the entries of whole batches from bfloat16 candidates where that is possible and quicker.

    Never with `matmul_precision` ``float32``, always with ``bfloat16``; with ``auto`` where it is likely to be quicker
    and as long as it turns out to be.
    """

    def __init__(self, forward: Forward, matmul_precision: str) -> None:
        self._forward, self._always = forward, matmul_precision == "bfloat16"
        self._active = self._always or (matmul_precision == "auto" and is_profitable(forward))
        self._filter: CandidateFilter | None = None

    @property
    def encoding(self) -> dict[str, Any]:
        """``mode``: ``float32``, or ``bfloat16-candidates`` with the counts of `candidates.Counts`."""
        if self._filter is None:
            return {"mode": "float32"}
        return {"mode": "bfloat16-candidates", **asdict(self._filter.counts)}

    def prepare(self, buffer: torch.Tensor) -> str | None:
        """Make the filter and test the device; returns the reason where it cannot be used, else None.

        `buffer` is memory for the pre-activations of a batch, (n, d_sae).
        """
        affine, select = self._forward.affine, self._forward.select
        reason = unsupported_reason(self._forward)
        if reason is None and affine is not None and isinstance(select, TopK | AboveThreshold):
            candidates = CandidateFilter(affine, select)
            reason = find_violation(candidates, buffer)
            self._filter = candidates if reason is None else None
        return reason

    def __call__(self, x: torch.Tensor, buffer: torch.Tensor) -> Entries | None:
        """Select from embeddings (n, d_in); None where the caller has to compute the float32 product.

        That is the answer for less than a whole batch, too: its rounding differs where rows are left over.
        """
        if not self._active or len(x) < len(buffer) or len(x) % MULTIPLE:
            return None
        if self._filter is None and self.prepare(buffer) is not None:
            self._active = False
        if self._filter is None:
            return None
        entries = self._filter(x, buffer)
        self._active = self._always or self._filter.counts.is_profitable(self._filter.d_sae)
        return entries
