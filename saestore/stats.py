"""Per-feature statistics: sums that can be merged over any pieces of the data, and the table made of them.

A statistic is a value in `STATISTICS`: its name, its description, and its formula from the sums. The query API, the
arrays at a set's root, the documentation and the tests all iterate over that one table.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.kernels import segment_sums
from saestore.sparse_rows import Array, pointers

if TYPE_CHECKING:
    import xarray

_BLOCKS_AT_ONCE = 4


@dataclass(frozen=True)
class Moments:
    """Sums per feature over a number of samples, exact to float64 rounding, mergeable with ``+``."""

    n_rows: int  # number of samples
    n_active: Array  # samples where the feature is not zero, int64 (n_features,)
    sum: Array  # sum of the activations, float64
    # Sum of squared deviations of the active values from their mean, float64. Unlike a sum of squares it loses nothing
    # where the mean is large beside the deviation.
    m2: Array
    # Over the active values; NaN where there is none.
    min: Array
    max: Array

    @staticmethod
    def names() -> tuple[str, ...]:
        """Names of the arrays, as stored in a segment."""
        return ("n_active", "sum", "m2", "min", "max")

    def arrays(self) -> dict[str, Array]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in self.names()}

    @classmethod
    def zeros(cls, n_features: int, n_rows: int = 0, dtype: Any = np.float32) -> Moments:
        """The sums over no sample, or over samples where nothing is active."""
        nothing = np.full(n_features, np.nan, np.result_type(dtype, np.float32))
        zero = np.zeros(n_features)
        return cls(n_rows, np.zeros(n_features, np.int64), zero, zero.copy(), nothing, nothing.copy())

    @classmethod
    def of_lists(cls, indptr: Array, data: Array, n_rows: int) -> Moments:
        """The sums of feature lists of `n_rows` samples, in any order within a list. Memory: 16 bytes per entry."""
        n_active = np.diff(indptr).astype(np.int64)
        # Sums of float64 activations near the largest number may be infinite, as numpy's own are.
        with np.errstate(over="ignore", invalid="ignore"):
            total = segment_sums(data, indptr)
            deviation = np.repeat(total / n_active, n_active)
            np.subtract(data, deviation, out=deviation)
            m2 = segment_sums(np.square(deviation, out=deviation), indptr)
        result = cls.zeros(len(n_active), n_rows, data.dtype)
        filled = np.flatnonzero(n_active)
        if len(filled):
            starts = indptr[filled]
            result.min[filled] = np.minimum.reduceat(data, starts)
            result.max[filled] = np.maximum.reduceat(data, starts)
        return cls(n_rows, n_active, total, m2, result.min, result.max)

    @classmethod
    def of_entries(cls, features: Array, data: Array, n_features: int, n_rows: int) -> Moments:
        """The sums of entries in any order, of `n_rows` samples. Memory: 32 bytes per entry."""
        result, features = cls.zeros(n_features, n_rows, data.dtype), features.astype(np.intp, copy=False)
        n_active = np.bincount(features, minlength=n_features)
        wide = data.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            total = np.bincount(features, wide, n_features).astype(np.float64, copy=False)  # of no entry it counts
            wide -= (total / n_active)[features]
            m2 = np.bincount(features, np.square(wide, out=wide), n_features).astype(np.float64, copy=False)
        narrow = data.astype(result.min.dtype, copy=False)
        # Not NaN: these pass it over.
        np.fmin.at(result.min, features, narrow)
        np.fmax.at(result.max, features, narrow)
        return cls(n_rows, n_active, total, m2, result.min, result.max)

    def __add__(self, other: Moments) -> Moments:
        """The sums over both sets of samples together (Chan, Golub and LeVeque, 1983)."""
        n = self.n_active + other.n_active
        both = (self.n_active > 0) & (other.n_active > 0)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            delta = other.sum / other.n_active - self.sum / self.n_active
            between = np.where(both, delta**2 * (self.n_active * (other.n_active / n)), 0.0)
            total, m2 = self.sum + other.sum, self.m2 + other.m2 + between
        low, high = np.fmin(self.min, other.min), np.fmax(self.max, other.max)
        return Moments(self.n_rows + other.n_rows, n, total, m2, low, high)

    def take(self, features: Array | slice) -> Moments:
        """The sums of these features."""
        return Moments(self.n_rows, *(values[features] for values in self.arrays().values()))


class RunningMoments:
    """Sums of feature lists with pointers `indptr`, of `n_rows` samples, that come in pieces of any length.

    They are added in blocks of fixed length, so that the same entries give the same bits for any pieces: an interrupted
    merge and an uninterrupted one end with the same bytes. The pieces begin with the entry `first`, the beginning of a
    block. Memory: 5 MB, and 40 bytes per feature.
    """

    BLOCK = 1 << 16

    def __init__(self, indptr: Array, n_rows: int, dtype: Any, first: int = 0) -> None:
        self._indptr = indptr
        self._total = Moments.zeros(len(indptr) - 1, n_rows, dtype)
        self._block = np.empty(min(self.BLOCK, max(1, int(indptr[-1]))), dtype)
        self._filled, self._done = 0, first

    def append(self, data: Array) -> None:
        """Add the activations that follow."""
        while len(data):
            # Whole blocks that lie there together take a quarter of the steps, at each of which threads may wait.
            n = min(len(data), _BLOCKS_AT_ONCE * self.BLOCK) // self.BLOCK * self.BLOCK
            if n and not self._filled:
                self._sum(data[:n])
            else:
                n = min(len(data), len(self._block) - self._filled)
                self._block[self._filled : self._filled + n] = data[:n]
                self._filled += n
                if self._filled == len(self._block):
                    self._flush()
            data = data[n:]

    def close(self) -> Moments:
        """The sums of everything that was added."""
        self._flush()
        return self._total

    def _flush(self) -> None:
        if self._filled:
            self._sum(self._block[: self._filled])
            self._filled = 0

    def _sum(self, values: Array) -> None:
        """Add whole blocks, of which the very last one may be shorter."""
        start, stop = self._done, self._done + len(values)
        edges = np.append(np.arange(start, stop, self.BLOCK), stop)
        firsts = np.searchsorted(self._indptr, edges[:-1], "right") - 1
        ends = np.searchsorted(self._indptr, edges[1:], "left")
        bounds = zip(firsts.tolist(), ends.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        parts = [np.clip(self._indptr[first:end], low, high) for first, end, low, high in bounds]
        sums = Moments.of_lists(np.append(np.concatenate(parts), stop) - start, values, 0)
        cuts = pointers(ends - firsts).tolist()
        for first, (a, b) in zip(firsts.tolist(), itertools.pairwise(cuts), strict=True):
            self.add(first, sums.take(slice(a, b)))
        self._done = stop

    def add(self, first: int, block: Moments) -> None:
        """Add the sums of the next block, of the features from `first` on."""
        features = slice(first, first + len(block.n_active))
        for name, values in (self._total.take(features) + block).arrays().items():
            self._total.arrays()[name][features] = values


class MomentBlocks(RunningMoments):
    """Sums of each block of entries, with its first feature, to be added to `RunningMoments` in their order."""

    def __init__(self, indptr: Array, dtype: Any, first: int) -> None:
        super().__init__(indptr, 0, dtype, first)
        self.blocks: list[tuple[int, Moments]] = []

    def add(self, first: int, block: Moments) -> None:
        """Keep the sums of a block."""
        self.blocks.append((first, block))


@dataclass(frozen=True)
class Statistic:
    """One statistic: its name, its description, and its formula from the sums."""

    name: str
    description: str
    formula: Callable[[Moments], Array]

    def of(self, moments: Moments) -> Array:
        """Its value per feature: NaN over no sample, infinite where float64 overflows."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            return self.formula(moments)


def _mean(m: Moments) -> Array:
    return m.sum / m.n_rows


def _mean_active(m: Moments) -> Array:
    return np.where(m.n_active > 0, m.sum / np.maximum(m.n_active, 1), np.nan)


def _std(m: Moments) -> Array:
    # Deviations of the active values around their mean, and of that mean and the zeros around the mean of all.
    spread = np.where(m.n_active > 0, np.square(m.sum) / np.maximum(m.n_active, 1), 0.0)
    return np.sqrt((m.m2 + spread * ((m.n_rows - m.n_active) / m.n_rows)) / m.n_rows)


def _sum_sq(m: Moments) -> Array:
    return m.m2 + np.square(m.sum) / np.maximum(m.n_active, 1)


STATISTICS: tuple[Statistic, ...] = (
    Statistic("n_active", "samples where the feature is not zero", lambda m: m.n_active),
    Statistic("frac_nonzero", "n_active as a share of all samples", lambda m: m.n_active / m.n_rows),
    Statistic("mean", "mean activation over all samples", _mean),
    Statistic("std", "population standard deviation over all samples", _std),
    Statistic("mean_active", "mean over the samples where it is active; NaN when dead", _mean_active),
    Statistic("min", "smallest activation where it is active; NaN when dead", lambda m: m.min),
    Statistic("max", "largest activation where it is active; NaN when dead", lambda m: m.max),
    Statistic("sum", "sum of its activations", lambda m: m.sum),
    Statistic("sum_sq", "sum of its squared activations", _sum_sq),
)


def statistics_table(moments: Moments, features: Array | None = None) -> xarray.Dataset:
    """All statistics as an `xarray.Dataset` on dimension ``feature``; `features` are the ids of some."""
    import xarray as xr

    ids = np.arange(len(moments.n_active)) if features is None else features
    values = {s.name: ("feature", s.of(moments), {"long_name": s.description}) for s in STATISTICS}
    return xr.Dataset(values, coords={"feature": ids}, attrs={"n_samples": moments.n_rows})
