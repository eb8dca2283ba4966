"""SAEs of one linear map each way, of any library: their weights, and the rule that makes activations of the first."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from saestore.sae.loaded import invalid

_OF_K = ("topk", "abstopk", "groupmax")
_SHAPES = {"W_enc": ("d_in", "d_sae"), "W_dec": ("d_sae", "d_out"), "b_dec": ("d_out",), "W_skip": ("d_out", "d_in")}


@dataclass(frozen=True)
class Rule:
    """How pre-activations become activations."""

    # ``relu``; ``topk``: the `k` largest; ``abstopk``: the `k` furthest from zero; ``groupmax``: the largest of each of
    # `k` equal groups; ``jumprelu``: those above a threshold; ``gated``: ``relu(exp(r_mag) * p + b_mag)`` where
    # ``p + b_gate`` is above 0
    kind: str
    k: int | None = None  # of ``topk``, ``abstopk`` and ``groupmax``
    # Whether negative activations become zeros. With ``topk`` they may be kept.
    relu: bool = True
    shift: bool = False  # whether ``b_dec`` is subtracted from embeddings first

    def __post_init__(self) -> None:
        k: Any = self.k
        if isinstance(k, float) and k.is_integer():  # as some write it
            object.__setattr__(self, "k", int(k))

    @property
    def facts(self) -> dict[str, Any]:
        """JSON-able values, for the fingerprint."""
        return asdict(self)


class LinearSAE(torch.nn.Module):
    """The weights of an SAE: ``rule((x - shift) @ W_enc + b_enc)``, and back ``activations @ W_dec + b_dec``.

    `weights` are ``W_enc`` (d_in, d_sae), ``W_dec`` (d_sae, d_out), ``b_dec`` (d_out,), and, as the rule needs them,
    ``b_enc``, ``threshold`` (d_sae,) or one number, ``r_mag``, ``b_gate``, ``b_mag`` (d_sae,). One that `transcodes`
    reconstructs something else than its input, so that nothing can be decoded or explained.
    """

    W_enc: torch.Tensor
    W_dec: torch.Tensor
    b_dec: torch.Tensor
    normalize: str = "none"  # how embeddings are normalised first, as sae_lens names it
    rescale: bool = False  # whether pre-activations are multiplied by the norms of the rows of ``W_dec``
    # Whether the bias is added within the product, and a ReLU comes next, as `torch.nn.Linear` has it: half precision
    # is rounded once, and ties of the k largest fall as there.
    fused: bool = False

    def __init__(self, rule: Rule, weights: dict[str, torch.Tensor], *, transcodes: bool = False) -> None:
        super().__init__()
        self.rule, self.transcodes = rule, transcodes
        # Buffers, so that .to(device) and .state_dict() do what they do for any other SAE.
        for name, tensor in weights.items():
            self.register_buffer(name, tensor.detach())


def checked(rule: Rule, weights: dict[str, Any], where: str, *, transcodes: bool) -> LinearSAE:
    """The SAE of these weights, if they are finite, of the shapes that the others ask for, and k is in range."""
    sizes: dict[str, int] = {}
    d_sae = weights["W_enc"].shape[-1]
    for name, tensor in weights.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            what = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise invalid(f"{where}: {name} is {what}; it must be a float tensor")
        expected = () if name == "threshold" and tensor.ndim == 0 else _SHAPES.get(name, ("d_sae",))
        for size, dimension in zip(tensor.shape, expected, strict=False):
            sizes.setdefault(dimension, size)
        shape = tuple(sizes.get(dimension) for dimension in expected)
        if tuple(tensor.shape) != shape:
            raise invalid(
                f"{where}: {name} has the shape {tuple(tensor.shape)}; with the other weights it must have {shape}"
            )
        # A threshold or bias may be infinite: the feature never fires.
        if not bool((tensor.isfinite() if tensor.ndim == len(_SHAPES["W_enc"]) else ~tensor.isnan()).all()):
            raise invalid(f"{where}: {name} holds NaN or infinity")
    if len({tensor.dtype for tensor in weights.values()}) > 1:
        raise invalid(f"{where}: all weights must have one dtype")
    if rule.kind in _OF_K and not (type(rule.k) is int and 1 <= rule.k <= d_sae):
        raise invalid(f"{where} has k={rule.k!r}; it must be 1 to d_sae={d_sae:,}")
    if rule.kind == "groupmax" and d_sae % (rule.k or 1):
        raise invalid(f"{where} has k={rule.k} groups of {d_sae:,} features, which are not of one size")
    if sizes["d_out"] != sizes["d_in"] and not transcodes:
        raise invalid(
            f"{where}: W_dec is {sizes['d_out']:,} wide and W_enc takes {sizes['d_in']:,}; an SAE has one width"
        )
    return LinearSAE(rule, weights, transcodes=transcodes)
