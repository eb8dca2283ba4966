"""The computation of an SAE on a batch of embeddings, cut into the steps of an encoder.

Every step is the same floating-point operation, in the same order, as in sae_lens's ``encode``: a product that rounds
otherwise would choose another feature where two are nearly tied. What is left out is what changes nothing (a bias of
zeros, decoder norms of one), and what is constant is computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from saestore.errors import InvalidInputError
from saestore.sae.lens_folder import linear_of
from saestore.sae.linear import LinearSAE
from saestore.sae.protocol import ObjectSAE

# The selected entries of a dense batch: how many each row has, then features (ascending in a row) and values in order.
Entries = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_ALL = slice(None)
# Features that one maximum stands for, and the share of such blocks from which on searching them gains nothing.
_BLOCK, _MOST_BLOCKS = 32, 10
_TRANSCODES = "the SAE is a transcoder, which reconstructs another place of the model than the one it reads"
_NORMALISING = ("constant_norm_rescale", "layer_norm")


@dataclass(frozen=True)
class Affine:
    """``((x - shift) @ weight + bias) * scale``; None where that would change nothing; `fused` as in `LinearSAE`."""

    weight: torch.Tensor
    shift: torch.Tensor | None
    bias: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    fused: bool = False

    def __call__(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Compute the pre-activations of (n, d_in) into `out` (n, d_sae)."""
        if self.fused and self.bias is not None:
            return torch.addmm(self.bias, self.shifted(x), self.weight, out=out).relu_()  # so that ties fall as there
        # Not addmm here: it rounds once where sae_lens rounds twice.
        return self.finish(torch.mm(self.shifted(x), self.weight, out=out))

    def shifted(self, x: torch.Tensor) -> torch.Tensor:
        """The input of the product, (n, d_in)."""
        return x if self.shift is None else x - self.shift

    def finish(self, product: torch.Tensor, features: torch.Tensor | slice = _ALL) -> torch.Tensor:
        """Add the bias and scale, in place; `features` are the ids along the last axis of `product`."""
        if self.bias is not None:
            product.add_(self.bias[features])
        if self.scale is not None:
            product.mul_(self.scale[features])
        return product


class Normalisation:
    """Normalises rows as sae_lens does, and undoes it for the same rows."""

    def __init__(self, kind: str) -> None:
        self._kind, self._scale, self._shift = kind, torch.ones(()), torch.zeros(())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (n, d_in)."""
        if self._kind == "constant_norm_rescale":
            factor: torch.Tensor = x.shape[-1] ** 0.5 / x.norm(dim=-1, keepdim=True)
            self._scale = 1 / factor
            return x * factor
        self._shift = x.mean(dim=-1, keepdim=True)
        x = x - self._shift
        self._scale = x.std(dim=-1, keepdim=True)
        return x / (self._scale + 1e-5)

    def undo(self, x: torch.Tensor) -> torch.Tensor:
        """Give reconstructed rows the length and mean of the rows that were normalised last."""
        return x * self._scale + self._shift


@dataclass(frozen=True)
class Decoder:
    """``norm_out((activations * scale) @ weight + bias)``; None where that would change nothing."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: torch.Tensor | None = None
    norm_out: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __call__(self, starts: np.ndarray, ids: np.ndarray, values: np.ndarray) -> torch.Tensor:
        """Reconstruct rows from their entries: row i has those from ``starts[i]`` up to the next row's."""
        # embedding_bag takes no half precision everywhere; widening loses nothing.
        weight = self.weight if self.weight.itemsize >= 4 else self.weight.float()
        features = torch.from_numpy(ids.astype(np.int64)).to(weight.device)
        activations = torch.from_numpy(values).to(weight.device, weight.dtype)
        if self.scale is not None:
            activations = activations * self.scale[features]
        offsets = torch.from_numpy(starts).to(weight.device)
        out = torch.nn.functional.embedding_bag(features, weight, offsets, mode="sum", per_sample_weights=activations)
        if self.bias is not None:
            out = out + self.bias
        return out if self.norm_out is None else self.norm_out(out)


@dataclass(frozen=True)
class TopK:
    """Selects the k largest pre-activations of a row, by value or by magnitude."""

    k: int
    relu: bool = True
    by_magnitude: bool = False

    def __call__(self, dense: torch.Tensor) -> Entries:
        """Select, dropping zeros; with `relu` also what is below."""
        return self.entries(*(top_k_by_magnitude if self.by_magnitude else top_k)(dense, self.k))

    def entries(self, values: torch.Tensor, ids: torch.Tensor) -> Entries:
        """Make entries of the k largest values of every row (n, k), in any order."""
        ids, order = ids.sort(dim=-1)
        values = values.gather(1, order)
        keep = (values <= 0).logical_not_() if self.relu else values != 0  # so that NaN stays, to be refused
        return keep.sum(-1), ids[keep], values[keep]


@dataclass(frozen=True)
class AboveThreshold:
    """Selects the pre-activations above a threshold: one number, or one for every feature."""

    threshold: torch.Tensor

    def __call__(self, dense: torch.Tensor) -> Entries:
        """Select.

        Where few blocks of features reach the lowest of their thresholds, only those are searched, in a quarter of the
        time.
        """
        n, m = dense.shape
        if not n or m % _BLOCK:
            return _entries(dense, self.keep(dense))
        threshold = self.threshold.expand(m).view(-1, _BLOCK)
        maxima = dense.view(n, -1, _BLOCK).amax(-1)
        where = true_indices((maxima <= threshold.amin(1)).logical_not_())  # so that a block with a NaN is searched
        if len(where) * _MOST_BLOCKS > maxima.numel():
            return _entries(dense, self.keep(dense))
        row, block = where // maxima.shape[1], where % maxima.shape[1]
        values = dense.view(-1, _BLOCK)[where]
        hit = true_indices((values <= threshold[block]).logical_not_())
        entry = hit // _BLOCK
        return row[entry].bincount(minlength=n), block[entry] * _BLOCK + hit % _BLOCK, values.view(-1)[hit]

    def keep(self, values: torch.Tensor, features: torch.Tensor | slice = _ALL) -> torch.Tensor:
        """Which of the values are selected; `features` are the ids along their last axis."""
        threshold = self.threshold[features] if self.threshold.ndim else self.threshold
        return (values <= threshold).logical_not_()  # so that NaN stays, to be refused


@dataclass(frozen=True)
class GroupMax:
    """Selects the largest pre-activation of each of k groups of neighbouring features, where it is above zero."""

    k: int

    def __call__(self, dense: torch.Tensor) -> Entries:
        """Select."""
        best = dense.view(len(dense), self.k, -1).max(dim=-1)
        ids = best.indices + torch.arange(self.k, device=dense.device) * (dense.shape[-1] // self.k)
        keep = (best.values <= 0).logical_not_()  # so that NaN stays, to be refused
        return keep.sum(-1), ids[keep], best.values[keep]


@dataclass(frozen=True)
class Gated:
    """Selects by a gate: ``relu(exp(r_mag) * p + b_mag)`` where the pre-activation ``p + b_gate`` is above zero."""

    r_mag: torch.Tensor
    b_mag: torch.Tensor
    b_gate: torch.Tensor

    def __call__(self, dense: torch.Tensor) -> Entries:
        """Select."""
        values = self.r_mag.exp() * dense + self.b_mag
        return _entries(values, (dense + self.b_gate <= 0).logical_not_() & (values <= 0).logical_not_())


@dataclass(frozen=True)
class ObjectEncode:
    """Lets an object encode the embeddings, and selects what is not zero."""

    sae: ObjectSAE

    def __call__(self, x: torch.Tensor) -> Entries:
        """Encode and select."""
        dense = self.sae.encode(x.to(self.sae.dtype))
        return _entries(dense.contiguous(), dense != 0)


@dataclass(frozen=True)
class ObjectDecode:
    """Lets an object decode; memory: dense rows, a few at a time."""

    sae: ObjectSAE

    def __call__(self, starts: np.ndarray, ids: np.ndarray, values: np.ndarray) -> torch.Tensor:
        """Reconstruct rows from their entries, as `Decoder` does."""
        parts, ends = [], np.append(starts, len(ids))
        for first in range(0, len(starts), _ROWS_AT_ONCE):
            stop = min(first + _ROWS_AT_ONCE, len(starts))
            rows = np.repeat(np.arange(stop - first), np.diff(ends[first : stop + 1]))
            dense = torch.zeros(stop - first, self.sae.d_sae, dtype=self.sae.dtype)
            inside = slice(ends[first], ends[stop])
            dense[rows, ids[inside].astype(np.int64)] = torch.from_numpy(values[inside]).to(self.sae.dtype)
            parts.append(self.sae.given.decode(dense.to(self._device)))
        return torch.cat(parts) if parts else torch.zeros(0, self.sae.d_in, dtype=self.sae.dtype)

    @property
    def _device(self) -> torch.device | str:
        return next((value.device for value in self.sae.state_dict().values()), "cpu")


@dataclass(frozen=True)
class CannotDecode:
    """In place of a decoder, where activations do not lead back to the embeddings."""

    reason: str

    def __call__(self, starts: np.ndarray, ids: np.ndarray, values: np.ndarray) -> torch.Tensor:  # noqa: ARG002
        """Refuse."""
        raise InvalidInputError(f"{self.reason}: its activations cannot be decoded", code="cannot-decode")


@dataclass(frozen=True)
class SaeLensEncode:
    """Lets sae_lens encode the embeddings, and selects what is not zero."""

    sae: Any

    def __call__(self, x: torch.Tensor) -> Entries:
        """Encode and select."""
        # An SAE on attention heads flattens (heads, d_head) itself, so it gets its flat rows as one head.
        dense = self.sae.encode(x.unsqueeze(1) if self.sae.cfg.reshape_activations == "hook_z" else x)
        return _entries(dense, dense != 0)


@dataclass(frozen=True)
class Forward:
    """The steps of one SAE."""

    dtype: torch.dtype  # dtype that embeddings are cast to first
    # Normalises embeddings, or None; the SAE keeps what `decode` needs to take it back.
    norm_in: Callable[[torch.Tensor], torch.Tensor] | None
    affine: Affine | None  # pre-activations, or None where `select` takes embeddings as they come and does it all
    select: Callable[[torch.Tensor], Entries]  # makes entries of pre-activations
    decode: Decoder | ObjectDecode | CannotDecode  # makes embeddings of entries; a `CannotDecode` raises


def explained_variance(given: torch.Tensor, decoded: torch.Tensor) -> float:
    """Share of the variance of embeddings that their reconstruction explains, both float64 (n, d_in).

    ``1 - sum((given - decoded)**2) / sum((given - given.mean(0))**2)`` over all rows and columns; NaN for equal rows.
    """
    total = (given - given.mean(0)).square().sum().item()
    return 1 - (given - decoded).square().sum().item() / total if total > 0 else float("nan")


def forward_of(module: Any) -> Forward:
    """Cut an SAE into steps: the quick ones where it is exactly of a kind that has them, else sae_lens's own."""
    if isinstance(module, LinearSAE):
        return _linear(module)
    if isinstance(module, ObjectSAE):
        can = callable(getattr(module.given, "decode", None))
        back = ObjectDecode(module) if can else CannotDecode(f"{type(module.given).__name__} has no decode()")
        return Forward(module.dtype, None, None, ObjectEncode(module), back)
    linear = _as_linear(module)
    if linear is not None:
        return _linear(linear)
    norms = module.cfg.normalize_activations in _NORMALISING
    norm_in, norm_out = module.run_time_activation_norm_fn_in, module.run_time_activation_norm_fn_out
    # Matching pursuit has one set of weights for both ways, and adds on the way back only what it took off.
    tied = module.cfg.architecture() == "matching_pursuit" and not module.cfg.apply_b_dec_to_input
    bias = None if tied else _unless(module.b_dec, 0)
    scale = 1 / module.W_dec.norm(dim=-1) if getattr(module.cfg, "rescale_acts_by_decoder_norm", False) else None
    decoder = Decoder(module.W_dec.detach(), bias, scale, norm_out if norms else None)
    decode = CannotDecode(_TRANSCODES) if "transcoder" in module.cfg.architecture() else decoder
    return Forward(module.dtype, norm_in if norms else None, None, SaeLensEncode(module), decode)


def _as_linear(sae: Any) -> LinearSAE | None:
    """An SAE object of sae_lens, exactly of a class whose computation is known: a subclass may have another one."""
    if not type(sae).__module__.startswith("sae_lens.saes."):
        return None
    config = {**vars(sae.cfg), "architecture": sae.cfg.architecture()}
    return linear_of(config, sae.state_dict(), "the SAE")


def _linear(sae: LinearSAE) -> Forward:
    rule, weights = sae.rule, dict(sae.named_buffers())
    select: Callable[[torch.Tensor], Entries]
    if rule.kind in ("topk", "abstopk"):
        select = TopK(rule.k or 1, relu=rule.relu, by_magnitude=rule.kind == "abstopk")
    elif rule.kind == "groupmax":
        select = GroupMax(rule.k or 1)
    elif rule.kind == "gated":
        select = Gated(weights["r_mag"], weights["b_mag"], weights["b_gate"])
    else:
        # ReLU comes before the threshold, so one below zero lets nothing more through.
        zero = torch.zeros((), dtype=sae.W_enc.dtype, device=sae.W_enc.device)
        select = AboveThreshold(weights.get("threshold", zero).clamp(min=0))
    bias, b_dec = weights.get("b_enc"), _unless(sae.b_dec, 0)
    norms = sae.W_dec.norm(dim=-1) if sae.rescale else None
    affine = Affine(
        sae.W_enc,
        b_dec if rule.shift else None,
        None if bias is None else _unless(bias, 0),
        None if norms is None else _unless(norms, 1),
        sae.fused and sae.W_enc.itemsize < 4,
    )
    norm = Normalisation(sae.normalize) if sae.normalize in _NORMALISING else None
    decoder = Decoder(sae.W_dec, b_dec, None if norms is None else 1 / norms, None if norm is None else norm.undo)
    return Forward(sae.W_enc.dtype, norm, affine, select, CannotDecode(_TRANSCODES) if sae.transcodes else decoder)


def _unless(values: torch.Tensor, neutral: float) -> torch.Tensor | None:
    return None if bool((values == neutral).all()) else values.detach()


def true_indices(mask: torch.Tensor) -> torch.Tensor:
    """Flat true_indices of what is set, ascending."""
    flat = mask.view(-1)
    # numpy finds the few set true_indices of a mask several times faster than torch does on a CPU.
    return torch.from_numpy(np.flatnonzero(flat.numpy())) if flat.device.type == "cpu" else flat.nonzero().squeeze(1)


def _entries(dense: torch.Tensor, keep: torch.Tensor) -> Entries:
    where = true_indices(keep)
    n, m = dense.shape
    ends = torch.searchsorted(where, torch.arange(n + 1, device=dense.device) * m)
    return ends.diff(), where % m, dense.view(-1)[where]


# 32 values are two cache lines; smaller blocks leave more maxima to search, larger ones more candidates.
# Below this many blocks for each value sought, searching maxima and candidates costs as much as searching the row.
_MIN_BLOCKS_PER_K = 16
# Rows that are copied at once where a copy is needed: bounds it to a sliver of the batch.
_ROWS_AT_ONCE = 64


def top_k(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the k largest values of each row of (n, m), contiguous, and their ids, int64; in no particular order.

    The k largest are in the k blocks whose maxima are the largest, so only those blocks are searched. Where values tie
    for the last place, ``torch.topk`` decides which of them count: it gets the whole of such rows, a few at a time.
    """
    n, m = values.shape
    n_blocks = m // _BLOCK
    if m % _BLOCK or n_blocks < _MIN_BLOCKS_PER_K * k or n == 0:
        found = torch.topk(values, k, dim=-1, sorted=False)
        return found.values, found.indices
    maxima = values.view(n, n_blocks, _BLOCK).amax(-1)
    best = torch.topk(maxima, k, dim=-1, sorted=False)
    first_block = torch.arange(n, device=values.device).unsqueeze(1) * n_blocks
    candidates = values.view(n * n_blocks, _BLOCK)[(best.indices + first_block).view(-1)].view(n, k * _BLOCK)
    found = torch.topk(candidates, k, dim=-1, sorted=False)
    top, place = found.values, found.indices
    ids = best.indices.gather(1, place // _BLOCK) * _BLOCK + place % _BLOCK
    last = top.amin(-1, keepdim=True)
    tied = (candidates >= last).sum(-1) > k
    tied |= (maxima >= last).sum(-1) > (best.values >= last).sum(-1)
    for rows in torch.split(tied.nonzero().squeeze(1), _ROWS_AT_ONCE):
        exact = torch.topk(values[rows], k, dim=-1, sorted=False)
        top[rows], ids[rows] = exact.values, exact.indices
    return top, ids


def top_k_by_magnitude(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the k values of each row that are furthest from zero, with their signs, as `top_k` returns them."""
    parts = torch.split(values, _ROWS_AT_ONCE)  # so that only a few rows are copied
    ids = torch.cat([torch.topk(part.abs(), k, dim=-1, sorted=False).indices for part in parts])
    return values.gather(1, ids), ids
