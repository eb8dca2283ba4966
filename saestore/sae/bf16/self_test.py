"""When `saestore.sae.bf16.candidates` can be used, when it pays, and whether the device keeps what it relies on.

Three things are assumed, for no library promises them: that a bfloat16 product adds up in float32; that the float32
product is one (a setting may let it use fewer bits); and that each of its elements is computed by the same steps
whatever part of the rows and features is asked for, as long as these are multiples of 16. `fault` tries all three.
"""

from __future__ import annotations

from typing import Any

import torch

from saestore.sae.bf16.candidates import BLOCK, MULTIPLE, CandidateFilter
from saestore.sae.bf16.error_bounds import accumulation_error, float32_error, rounding_error
from saestore.sae.forward import Above, Forward, TopK

# Enough to meet every part that a product is cut into, by threads and by the caches.
_SAMPLED = 64
_MOST_ROWS = 512
# By which parts of the product grow that are compared with the whole: no multiple of 16, nor of a vector's length.
_STEP = 47
# By which parts of the product grow that are compared with the whole: no multiple of 16, nor of a vector's length.
_STEP = 47
# Ampere: the first GPUs whose tensor cores take bfloat16.
_FIRST_WITH_BFLOAT16 = (8, 0)

# Measured: what the rest costs is won back from this size of the product on, and so many features for each one sought.
_MIN_D_IN, _MIN_D_SAE, _MIN_FEATURES_PER_K = 768, 1 << 14, 256


def unsuited(forward: Forward) -> str | None:
    """Say why candidates cannot be had of an SAE, or None."""
    if forward.affine is None or not isinstance(forward.select, TopK | Above):
        return "its pre-activations are not one matrix product"
    if isinstance(forward.select, TopK) and forward.select.by_magnitude:
        return "it selects by magnitude"
    weight = forward.affine.weight
    if weight.dtype != torch.float32:
        return f"its weights are {str(weight.dtype).removeprefix('torch.')}, not float32"
    if weight.shape[1] % BLOCK:
        return f"its {weight.shape[1]:,} features are not a multiple of {BLOCK}"
    return None


def pays(forward: Forward) -> bool:
    """Whether candidates are likely to be quicker than the float32 product, by SAE and device alone.

    On a GPU they are not taken to be: a library that chooses another way to add for every size of a product, as theirs
    may, would not be caught by `fault`.
    """
    if unsuited(forward) is not None or forward.affine is None:
        return False
    weight, k = forward.affine.weight, forward.select.k if isinstance(forward.select, TopK) else 1
    if weight.shape[0] < _MIN_D_IN or weight.shape[1] < max(_MIN_D_SAE, _MIN_FEATURES_PER_K * k):
        return False
    # Absent from older versions of torch, where the float32 product then stays.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return weight.device.type == "cpu" and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def fault(candidates: CandidateFilter, buffer: torch.Tensor) -> str | None:
    """Say what is not as assumed, or None. Costs about two float32 products of 512 rows.

    Parameters
    ----------
    buffer
        Memory for pre-activations (n, d_sae), float32.
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
    for n in (MULTIPLE, 3 * MULTIPLE):
        if not torch.equal(torch.mm(x[-n:], candidates.affine.weight), product[-n:]):
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
    """Embeddings (n, d_in) that rounding does not spare: random ones, ones of all sizes, and ones that cancel."""
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
