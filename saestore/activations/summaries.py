"""Questions for how features are distributed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saestore.activations import distribution
from saestore.activations.opened import on_snapshot
from saestore.activations.queries import Queries
from saestore.activations.select import select
from saestore.activations.tables import Histogram
from saestore.errors import InvalidInputError
from saestore.stats import statistics_table

if TYPE_CHECKING:
    import xarray


class Summaries(Queries):
    """`stats`, `quantile`, `histogram`."""

    @on_snapshot
    def stats(self, features: Any = None, *, where: Any = None) -> xarray.Dataset:
        """Exact statistics of every feature on dimension ``feature``; `saestore.stats.STATISTICS` says which.

        Parameters
        ----------
        where
            Over the samples only that fulfil this; see `samples`. By default over all, from sums that are stored.
        """
        ids = select(features, self.shape[1], "feature").ids
        chosen = self._condition(where)
        if chosen is None:
            moments = distribution.all_moments(self._segments, ids, self.shape[1], self.dtype)
        else:
            unique, back = np.unique(ids, return_inverse=True)
            rows = chosen.samples(self.shape[0])
            moments = distribution.moments_where(self._segments, unique, self.shape[1], rows, self.dtype).take(back)
        return statistics_table(moments, ids)

    @on_snapshot
    def quantile(
        self, q: Any, features: Any = None, *, over: Literal["all", "active"] = "all", where: Any = None
    ) -> xarray.DataArray:
        """Exact quantiles of features, by linear interpolation as `numpy.quantile`.

        Parameters
        ----------
        q
            One or several probabilities.
        over
            ``"all"`` samples, zeros included, or the ``"active"`` ones; NaN where there is none.
        where
            Over the samples only that fulfil this; see `samples`.

        Returns
        -------
        xarray.DataArray
            On (quantile, feature), float64.
        """
        import xarray as xr

        if over not in ("all", "active"):
            raise InvalidInputError(f"over={over!r}: use 'all' or 'active'.")
        try:
            probabilities = np.atleast_1d(np.asarray(q, np.float64))
        except (TypeError, ValueError):
            probabilities = np.array([np.nan])
        if probabilities.ndim != 1 or not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise InvalidInputError(f"q={q!r}: quantiles are probabilities from 0 to 1.")
        ids = select(features, self.shape[1], "feature").ids
        unique, back = np.unique(ids, return_inverse=True)
        values = distribution.quantiles(
            self._segments,
            probabilities,
            unique,
            self.shape[0],
            self.dtype,
            active=over == "active",
            where=self._condition(where),
        )
        return xr.DataArray(
            values[:, back], dims=("quantile", "feature"), coords={"quantile": probabilities, "feature": ids}
        )

    @on_snapshot
    def histogram(
        self,
        feature: int,
        bins: Any = 50,
        *,
        range: tuple[float, float] | None = None,
        over: Literal["all", "active"] = "active",
        where: Any = None,
    ) -> Histogram:
        """Exact histogram of one feature, as `numpy.histogram`, over its ``"active"`` samples or over ``"all"``.

        Parameters
        ----------
        where
            Over the samples only that fulfil this; see `samples`.
        """
        if over not in ("all", "active"):
            raise InvalidInputError(f"over={over!r}: use 'all' or 'active'.")
        if isinstance(bins, str) and over == "all":
            raise InvalidInputError(f"bins={bins!r} needs over='active': how to bin all samples is for you to say.")
        values = self.feature(feature, where=where).activation
        n_samples = self.shape[0] if where is None else len(self.samples(where))
        zeros = n_samples - len(values) if over == "all" else 0
        counts, edges = distribution.histogram(values, zeros, bins, range)
        return Histogram(edges[:-1], edges[1:], counts.astype(np.int64))
