"""Which SAEs can use `saestore.sae.bf16.candidates`, for which it is quicker, and whether the device is fit for it.

Candidates rely on three things that no library promises: a bfloat16 product adds up in float32; a float32 product
uses all bits (a setting may let it use fewer); and each of its elements is computed by the same steps for every part
of the rows and features, as long as their numbers are multiples of 16. `find_violation` tests all three.
"""

from __future__ import annotations

from typing import Any

import torch

from saestore.sae.bf16.candidates import BLOCK, MULTIPLE, CandidateFilter
from saestore.sae.bf16.error_bounds import accumulation_error, float32_error, rounding_error
from saestore.sae.forward import AboveThreshold, Forward, TopK

# Enough to meet every part into which threads and caches cut a product.
_SAMPLED = 64
_MOST_ROWS = 512
# The parts of the product that are compared with the whole grow by this: not a multiple of 16 or of a vector's length.
_STEP = 47

# Measured: the least product, and features per selected one, that win back the cost of the other steps.
_MIN_D_IN, _MIN_D_SAE, _MIN_FEATURES_PER_K = 768, 1 << 14, 256


def unsupported_reason(forward: Forward) -> str | None:
    """The reason why an SAE cannot be encoded with candidates, or None."""
    if forward.affine is None or not isinstance(forward.select, TopK | AboveThreshold):
        return "its pre-activations are not one matrix product"
    if isinstance(forward.select, TopK) and forward.select.by_magnitude:
        return "it selects by magnitude"
    weight = forward.affine.weight
    if weight.dtype != torch.float32:
        return f"its weights are {str(weight.dtype).removeprefix('torch.')}, not float32"
    if weight.shape[1] % BLOCK:
        return f"its {weight.shape[1]:,} features are not a multiple of {BLOCK}"
    return None


def is_profitable(forward: Forward) -> bool:
    """Whether candidates are likely to be quicker than the float32 product, judged by SAE and device alone.

    False on a GPU: its libraries may add in another order for each size of a product, which `find_violation` does not
    find.
    """
    if unsupported_reason(forward) is not None or forward.affine is None:
        return False
    weight, k = forward.affine.weight, forward.select.k if isinstance(forward.select, TopK) else 1
    if weight.shape[0] < _MIN_D_IN or weight.shape[1] < max(_MIN_D_SAE, _MIN_FEATURES_PER_K * k):
        return False
    # Absent from older versions of torch, where the float32 product then stays.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return weight.device.type == "cpu" and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def find_violation(candidates: CandidateFilter, buffer: torch.Tensor) -> str | None:
    """The assumption that the device violates, or None; `buffer` is memory for pre-activations (n, d_sae), float32.

    Costs about two float32 products of 512 rows.
    """
    rows = min(len(buffer) - len(buffer) % MULTIPLE, _MOST_ROWS)
    if not rows:
        return f"a batch has fewer than {MULTIPLE} rows"
    columns = candidates.affine.weight.T
    features = _spread(candidates.d_sae, columns.device)
    x = _rows(rows, columns[features])
    some = _spread(rows, x.device)
    y = candidates.propose(x, buffer)[some][:, features].double()
    exact, magnitudes = candidates.exact_proposal(x[some], features)
    if not ((y - exact).abs() <= accumulation_error(magnitudes, candidates.d_in) + rounding_error(y)).all():
        return "the bfloat16 product does not add up in float32"
    product = torch.mm(x, candidates.affine.weight, out=buffer[:rows])
    wide, weights = x[some].double(), columns[features].double().T
    error = (product[some][:, features].double() - wide @ weights).abs()
    if not (error <= float32_error(wide.abs() @ weights.abs(), candidates.d_in)).all():
        return "the float32 product uses fewer bits than float32 has"
    if not _same_bits(candidates, x, product):
        return "parts of the float32 product round otherwise than the whole"
    return None


def _same_bits(candidates: CandidateFilter, x: torch.Tensor, product: torch.Tensor) -> bool:
    sizes = (MULTIPLE, 3 * MULTIPLE)
    if not all(torch.equal(torch.mm(x[-n:], candidates.affine.weight), product[-n:]) for n in sizes):
        return False
    # Of the first rows all features, of the others more and more.
    counts = [candidates.d_sae, *(_STEP * group for group in range(1, len(x) // MULTIPLE))]
    rows = torch.arange(len(x), device=x.device).unsqueeze(1) * candidates.d_sae
    parts = zip(torch.split(rows, MULTIPLE), counts, strict=True)
    keys = torch.cat([(row + _spread(candidates.d_sae, x.device, count)).view(-1) for row, count in parts])
    scores = candidates.scores(x, keys)
    whole = product.view(-1)[keys]
    return torch.equal(scores, candidates.affine.finish(whole, keys % candidates.d_sae))


def _rows(n: int, columns: torch.Tensor) -> torch.Tensor:
    """Embeddings (n, d_in) on which rounding shows: random ones, some of very different sizes, and some that cancel."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, columns.shape[1], generator=generator)
    sizes = torch.rand(x.shape, generator=generator).mul_(16).sub_(8).exp2_()
    x[1::3] *= sizes[1::3]
    x = x.to(columns.device)
    # Sums that grow up to the middle, and from there shrink to nothing.
    cancelling = x[2::3].abs_() * columns.sign()[torch.arange(len(x[2::3]), device=x.device) % len(columns)]
    cancelling[:, columns.shape[1] // 2 :] *= -1
    x[2::3] = cancelling
    return x


def _spread(n: int, device: torch.device, count: int = _SAMPLED) -> torch.Tensor:
    """Up to `count` numbers below n, evenly spread, ascending, first and last among them."""
    return torch.arange(min(n, count), device=device) * (n - 1) // max(1, min(n, count) - 1)
