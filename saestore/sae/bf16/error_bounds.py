"""How far a pre-activation from a bfloat16 product can lie from the one that float32 gives.

With ``x`` an embedding (less the shift), ``w`` a feature's weights (times its scale), ``x'`` and ``w'`` what bfloat16
makes of them and ``y`` what the product returns, the exact value is ``x.w = x'.w' + (x - x').w + x'.(w - w')``, so that

    ``|y - x.w| <= |x - x'| |w| + |x'| |w - w'| + (accumulation) + 2^-8 |y|``

with the last term for rounding the result. The norms are measured, not assumed, and rounded up. Accumulation: each of
the product's d_in steps may err by 2^-23 of the sum of magnitudes (twice what float32 rounding does, for units that
truncate). The float32 path has its own error, about (d_in + 4) 2^-24 of ``|x| |w| + |bias|`` in any order of adding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

_BFLOAT16_ROUNDING, _ACCUMULATION, _FLOAT32_ROUNDING = 2.0**-8, 2.0**-23, 2.0**-24
# For the rounding of the bounds themselves, and of norms that were made in float64.
_UP = 1 + 2.0**-14
# Smaller ones are taken for zero by the units that multiply them.
_SMALLEST_NORMAL = torch.finfo(torch.bfloat16).tiny
# Loss per step of a product or sum that underflows.
_UNDERFLOW = 2.0**-123
# Beyond this an intermediate result may be infinite where another order of adding is not.
_LARGEST = 2.0**100
# Weights that are measured at once, so that they stay in the processor's cache.
_WEIGHTS_AT_ONCE = 1 << 18
# A bias is three bfloat16 numbers, which hold 24 bits.
_PARTS = 3
# Largest ratio of the sum of their magnitudes to the bias.
_SUM_OF_PARTS = 1 + 2.0**-6
# A bound below this is taken for this, so that float32 holds it in full.
_SMALLEST_BOUND = 2.0**-100


@dataclass(frozen=True)
class Bounds:
    """Of every feature: what its weights and bias do to the error of its pre-activations."""

    # (d_sae,), float32: ``|w| + |w - w'|``; ``|w - w'|``; and what does not depend on the embedding.
    norm: torch.Tensor
    lost: torch.Tensor
    offset: torch.Tensor
    largest: float  # the largest number that comes from the SAE into any pre-activation
    d_in: int  # width of the embeddings


@dataclass(frozen=True)
class RowBounds:
    """Of every row: what its embedding does to the error of its pre-activations."""

    # (n, 1), float32: factors of `Bounds.norm` and `Bounds.lost`.
    by_norm: torch.Tensor
    by_lost: torch.Tensor
    out_of_range: torch.Tensor  # bool (n,): rows that no bound holds for, because they are not finite or too large

    @classmethod
    def of(cls, shifted: torch.Tensor, bounds: Bounds) -> Self:
        """Of embeddings (n, d_in), float32."""
        lost = _norm(shifted - as_bfloat16(shifted).float())
        size = _norm(shifted) + lost
        by_norm = lost + accumulation_error(size, bounds.d_in) + float32_error(size, bounds.d_in)
        # Written so that NaN is out of range.
        in_range = (size * bounds.largest < _LARGEST) & (size < _LARGEST) & (bounds.largest < _LARGEST)
        columns = [_rounded_up(part).unsqueeze(1) for part in (by_norm, size)]
        return cls(columns[0], columns[1], in_range.logical_not_())

    def __getitem__(self, rows: torch.Tensor) -> RowBounds:
        return RowBounds(self.by_norm[rows], self.by_lost[rows], self.out_of_range[rows])

    def error(self, values: torch.Tensor, norm: torch.Tensor, lost: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """How far the float32 pre-activations can lie from `values` (n, m), which a bfloat16 product gave.

        `norm`, `lost` and `offset` are the `Bounds` of their features, (m,) or (n, m).
        """
        return rounding_error(values).addcmul_(self.by_norm, norm).addcmul_(self.by_lost, lost).add_(offset)


def rounding_error(values: torch.Tensor) -> torch.Tensor:
    """Largest error of rounding to these bfloat16 values."""
    return values.abs().mul_(_BFLOAT16_ROUNDING * _UP)


def accumulation_error(magnitudes: torch.Tensor, d_in: int) -> torch.Tensor:
    """Largest error of the sums of a bfloat16 product, given the sums of magnitudes."""
    steps = d_in + _PARTS + 4
    return magnitudes * _gamma(steps, _ACCUMULATION) + steps * _UNDERFLOW


def float32_error(magnitudes: torch.Tensor, d_in: int) -> torch.Tensor:
    """Largest error of a float32 product with bias and scale, given the sums of magnitudes."""
    return magnitudes * _gamma(d_in + 4, _FLOAT32_ROUNDING)


def _gamma(steps: int, unit: float) -> float:
    """Relative error of this many roundings, one on the other (Higham, Accuracy and Stability, lemma 3.1)."""
    return steps * unit / (1 - steps * unit)


def as_bfloat16(x: torch.Tensor) -> torch.Tensor:
    """Round to bfloat16, to zero where only a subnormal number would be left."""
    rounded = x.to(torch.bfloat16)
    return rounded.masked_fill_(rounded.abs() < _SMALLEST_NORMAL, 0)


def prepare(
    columns: torch.Tensor, bias: torch.Tensor | None, scale: torch.Tensor | None, threshold: torch.Tensor | None
) -> tuple[torch.Tensor, Bounds]:
    """Make the weights of a bfloat16 product that gives ``(x @ weight + bias) * scale - threshold``, and its bounds.

    `columns` are each feature's weights (d_sae, d_in), float32; the others are (d_sae,), or one number of all, and None
    for 0, 1, 0. The weights are (d_in, d_sae), with three more rows that make the bias where there is one: the
    embeddings then need three ones at their end.
    """
    d_sae, d_in = columns.shape
    factor, added, taken = (
        columns.new_full((d_sae,), neutral, dtype=torch.float64) if given is None else given.double().expand(d_sae)
        for given, neutral in ((scale, 1), (bias, 0), (threshold, 0))
    )
    offset = added * factor - taken
    extra = _PARTS if offset.any() else 0
    weight = torch.empty(d_in + extra, d_sae, dtype=torch.bfloat16, device=columns.device)
    given, norm, lost = (torch.empty_like(offset) for _ in range(3))
    step = max(1, _WEIGHTS_AT_ONCE // d_in)
    for some in (slice(start, start + step) for start in range(0, d_sae, step)):
        exact = columns[some]
        given[some] = _norm(exact)
        if scale is not None:
            exact = exact.double() * factor[some].unsqueeze(1)
        rounded = as_bfloat16(exact)
        weight[:d_in, some] = rounded.T
        lost[some] = _norm(exact - rounded)
        norm[some] = lost[some] + (given[some] if scale is None else _norm(exact))
    rest = offset
    for row in weight[d_in:]:
        row.copy_(as_bfloat16(rest))
        rest = rest - row.double()
    own = (added * factor).abs() + taken.abs()
    constant = rest.abs() + accumulation_error(own * _SUM_OF_PARTS, d_in) + float32_error(own, d_in)
    # Where the scale is large, so is what it makes of a product that underflowed.
    constant += accumulation_error(torch.zeros_like(own), d_in) * factor.abs().clamp(min=1)
    largest = max(float(part.abs().max()) for part in (given, norm, own, added, factor))
    return weight, Bounds(_rounded_up(norm), _rounded_up(lost), _rounded_up(constant), largest, d_in)


def _rounded_up(bound: torch.Tensor) -> torch.Tensor:
    return (bound * _UP).clamp_(min=_SMALLEST_BOUND).float()


def _norm(rows: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norm
