"""Exact activations from a product in half the precision: it proposes, a bound proves, float32 decides.

A bfloat16 product costs a third of a float32 one, and errs by less than half a percent. How much at most follows, for
every single pre-activation, from the norms of what rounding takes off embeddings and weights: see
`saestore.sae.bf16.error_bounds`. So what cannot be among the k largest, or above its threshold, is known without being
computed in float32. The few dozen candidates per row are computed in float32, bit for bit as the whole
product would have given them, and selected among as ever. Rows that have too many, and rows that no bound holds for,
go through the float32 product whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from saestore.sae.bf16.error_bounds import RowBounds, as_bfloat16, prepare
from saestore.sae.forward import AboveThreshold, Affine, Entries, TopK, true_indices

# Features that one maximum stands for.
BLOCK = 32
# A product's elements are computed by the same steps for all sizes that are multiples of this; other
# sizes leave a remainder to other code, which adds in another order. `saestore.sae.bf16.self_test` tries it.
MULTIPLE = 16
# Bounds on what is copied at once: blocks of bfloat16 pre-activations, and features' weights.
_BLOCKS_AT_ONCE, _FEATURES_AT_ONCE = 1 << 15, 1 << 12
# A row with more candidates than this share of the features is cheaper as a whole,
_MOST_CANDIDATES = 32
# and so is a batch with more than this share of such rows.
_MOST_FALLBACK = 4
# With more candidates a row than this share of the features, fetching their weights costs more than the product saves.
_PAYING_CANDIDATES = 128
# Rows after which a set of embeddings that has too many is known for one.
_FIRST_ROWS = 1 << 12

# Rows, features and values, ascending.
_Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass
class Counts:
    """How the rows so far were encoded."""

    rows: int = 0  # rows that candidates were sought for
    rows_fallback: int = 0  # those among them that went through the float32 product after all
    candidates: int = 0  # pre-activations that were computed in float32 for the others

    def is_profitable(self, d_sae: int) -> bool:
        """Whether few enough rows fell back, and few enough candidates were computed for the others."""
        few = self.candidates * _PAYING_CANDIDATES <= self.rows * d_sae
        return few and self.rows_fallback * _MOST_FALLBACK <= max(self.rows, _FIRST_ROWS)


class CandidateFilter:
    """Selects what ``select(affine(x))`` would, mostly without computing that.

    The weights are float32, the features a multiple of 32. Beside the SAE it holds its encoder's weights twice more, in
    bfloat16 and in float32 with each feature's weights side by side: 134 MB and 268 MB at CLIP-Scope's size.
    """

    def __init__(self, affine: Affine, select: TopK | AboveThreshold) -> None:
        self.affine, self.select = affine, select
        self.d_in, self.d_sae = affine.weight.shape
        self.counts = Counts()
        self._columns = affine.weight.T.contiguous()
        threshold = select.threshold if isinstance(select, AboveThreshold) else None
        self._weight, self.bounds = prepare(self._columns, affine.bias, affine.scale, threshold)
        # The features of a block are those with the same remainder, so that maxima are taken along whole rows.
        blocks = torch.stack([self.bounds.norm, self.bounds.lost, self.bounds.offset]).view(3, BLOCK, -1)
        self._of_block, self._in_block = blocks.amax(1), blocks.transpose(1, 2).contiguous()

    def __call__(self, x: torch.Tensor, buffer: torch.Tensor) -> Entries:
        """Select from embeddings (n, d_in), float32, n a multiple of 16; `buffer` is memory (n, d_sae), float32."""
        n = len(x)
        shifted = self.affine.shifted(x)
        keys, whole = self._candidates(self.propose(shifted, buffer), RowBounds.of(shifted, self.bounds))
        found: _Found | None = None
        if int(whole.sum()) * _MOST_FALLBACK <= n:
            found, tied = self._selected(keys, self.scores(shifted, keys), n)
            whole |= tied
        n_whole = int(whole.sum())
        self.counts.rows += n
        if found is None or n_whole * _MOST_FALLBACK > n:
            self.counts.rows_fallback += n
            return self.select(self.affine(x, out=buffer))
        self.counts.rows_fallback += n_whole
        self.counts.candidates += len(keys)
        if n_whole:
            found = self._replaced(found, whole, x, buffer)
        return torch.bincount(found[0], minlength=n), found[1], found[2]

    def propose(self, shifted: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
        """Pre-activations (n, d_sae) in bfloat16, less the thresholds; `buffer` is their memory."""
        n = len(shifted)
        out = buffer.view(-1).view(torch.bfloat16)[: n * self.d_sae].view(n, self.d_sae)
        with _accumulating_in_float32():
            return torch.mm(self._with_ones(as_bfloat16(shifted)), self._weight, out=out)

    def exact_proposal(self, shifted: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The result of `propose` for some features without rounding, and the sums of magnitudes; both float64."""
        x, weight = self._with_ones(as_bfloat16(shifted)).double(), self._weight[:, features].double()
        return x @ weight, x.abs() @ weight.abs()

    def _with_ones(self, x: torch.Tensor) -> torch.Tensor:
        """The embeddings, with what the biases among the weights are multiplied by."""
        extra = len(self._weight) - self.d_in
        return torch.cat([x, x.new_ones(len(x), extra)], 1) if extra else x

    def scores(self, shifted: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Float32 pre-activations, as the whole product would round them.

        `shifted` are embeddings less the shift (n, d_in), `keys` name which: ``row * d_sae + feature``, ascending.
        Memory: 4,096 features' weights, and about 16 numbers per key.
        """
        if not len(keys):
            return shifted.new_empty(0)
        row, feature = keys // self.d_sae, keys % self.d_sae
        # What several rows of a group need is fetched once. A unit is a group, or a part of one that needs much.
        needed, place = torch.unique(row // MULTIPLE * self.d_sae + feature, return_inverse=True)
        group = needed // self.d_sae
        column = torch.arange(len(needed), device=keys.device) - torch.searchsorted(group, group)
        part, column = column // _FEATURES_AT_ONCE, column % _FEATURES_AT_ONCE
        of, unit, sizes = torch.unique_consecutive(
            torch.stack([group, part]), dim=1, return_inverse=True, return_counts=True
        )
        ids = keys.new_zeros(of.shape[1], min(_FEATURES_AT_ONCE, _padded(int(sizes.max()))))
        ids[unit, column] = needed % self.d_sae
        groups = shifted.view(-1, MULTIPLE, self.d_in)
        products, begins, widths = [], torch.zeros_like(sizes), torch.zeros_like(sizes)
        for some, width, begin in _steps(sizes):
            weights = self._columns.index_select(0, ids[some, :width].view(-1)).view(len(some), width, self.d_in)
            products.append(torch.bmm(groups[of[0, some]], weights.transpose(1, 2)).view(-1))
            begins[some], widths[some] = begin, width
        unit = unit[place]
        at = begins[unit] + row % MULTIPLE * widths[unit] + column[place]
        return self.affine.finish(torch.cat(products)[at], feature)

    def _candidates(self, proposed: torch.Tensor, rows: RowBounds) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys of what must be computed, ascending, and a mask of the rows that must be computed whole."""
        n = len(proposed)
        blocks = proposed.view(n, BLOCK, -1)
        maxima, m = blocks.amax(1).float(), blocks.shape[2]
        error = rows.error(maxima, *self._of_block)
        floor = self._floor(maxima - error)
        keys = [torch.zeros(0, dtype=torch.int64, device=proposed.device)]
        # Not `>=`, so that where there is a NaN all are candidates.
        for part in torch.split(true_indices((maxima + error < floor).logical_not_()), _BLOCKS_AT_ONCE):
            row, block = part // m, part % m
            values = blocks[row, :, block].float()
            error = rows[row].error(values, *self._in_block[:, block])
            hit = true_indices((values + error < floor[row]).logical_not_())
            pair = hit // BLOCK
            keys.append(row[pair] * self.d_sae + hit % BLOCK * m + block[pair])
        key = torch.cat(keys).sort().values
        row = key // self.d_sae
        whole = torch.bincount(row, minlength=n) > max(1, self.d_sae // _MOST_CANDIDATES)
        whole |= rows.out_of_range
        return key[whole[row].logical_not_()], whole

    def _floor(self, lower: torch.Tensor) -> torch.Tensor:
        """What the float32 value of each selected feature of a row reaches, (n, 1), from lower bounds of maxima."""
        if isinstance(self.select, AboveThreshold):
            return lower.new_zeros(len(lower), 1)
        if lower.shape[1] < self.select.k:
            floor = lower.new_full((len(lower), 1), -torch.inf)
        else:
            # Each block has a feature that reaches its lower bound, so k features reach the k-th largest of these.
            floor = torch.topk(lower, self.select.k, sorted=False).values.amin(-1, keepdim=True)
        return floor.clamp_(min=0) if self.select.relu else floor

    def _selected(self, keys: torch.Tensor, scores: torch.Tensor, n: int) -> tuple[_Found, torch.Tensor]:
        """The selection among candidates, and the rows that need the whole row for it."""
        row, feature = keys // self.d_sae, keys % self.d_sae
        if isinstance(self.select, AboveThreshold):
            keep = self.select.keep(scores, feature)
            return (row[keep], feature[keep], scores[keep]), torch.zeros(n, dtype=torch.bool, device=keys.device)
        counts, k = torch.bincount(row, minlength=n), self.select.k
        place = torch.arange(len(keys), device=keys.device) - (counts.cumsum(0) - counts)[row]
        values = scores.new_full((n, max(k, int(counts.max()))), -torch.inf)
        ids = torch.zeros_like(values, dtype=torch.int64)
        values[row, place], ids[row, place] = scores, feature
        top = torch.topk(values, k, sorted=False)
        last = top.values.amin(-1, keepdim=True)
        # Where values tie for the last place, which of them count is what torch.topk says of the whole row.
        tied = ((values >= last).sum(-1) > k) & (last.squeeze(1) > -torch.inf)
        counts, ids, values = self.select.entries(top.values.nan_to_num_(neginf=0), ids.gather(1, top.indices))
        return (torch.repeat_interleave(counts), ids, values), tied

    def _replaced(self, found: _Found, whole: torch.Tensor, x: torch.Tensor, buffer: torch.Tensor) -> _Found:
        """The selection, with the rows in `whole` taken from the float32 product."""
        rows = whole.nonzero().squeeze(1)
        padded = torch.cat([rows, rows[:1].expand(_padded(len(rows)) - len(rows))])
        dense = self.affine(x[padded], out=buffer[: len(padded)])
        counts, ids, values = self.select(dense[: len(rows)])
        keep = whole[found[0]].logical_not_()
        parts = zip((part[keep] for part in found), (rows.repeat_interleave(counts), ids, values), strict=True)
        row, ids, values = (torch.cat(pair) for pair in parts)
        row, order = row.sort(stable=True)
        return row, ids[order], values[order]


def _padded(n: int) -> int:
    return -(-n // MULTIPLE) * MULTIPLE


def _steps(sizes: torch.Tensor) -> Iterator[tuple[torch.Tensor, int, torch.Tensor]]:
    """Steps of the product: units of similar sizes, their width, and where each begins in all the products.

    Few and large steps, because each is a place where threads wait for one another.
    """
    order, begin = sizes.argsort(descending=True), 0
    done = 0
    while done < len(order):
        width = _padded(int(sizes[order[done]]))
        some = order[done : done + max(1, _FEATURES_AT_ONCE // width)]
        yield some, width, begin + torch.arange(len(some), device=sizes.device) * (MULTIPLE * width)
        begin += len(some) * MULTIPLE * width
        done += len(some)


@contextmanager
def _accumulating_in_float32() -> Iterator[None]:
    """On a GPU, a bfloat16 product may by default add parts of its sums in bfloat16."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before
