"""The accessor ``.sae`` of a Dataset: questions to the store about the samples and features that were selected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from saestore.errors import InvalidInputError, OutOfRangeError
from saestore.interop.lazy import unread_ids
from saestore.interop.origin import KEY, Origin
from saestore.query.selection import select
from saestore.sparse_rows import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from saestore.plot import Plots as SetPlots
    from saestore.plot.tokens import TokenPage
    from saestore.query.reader import SetReader
    from saestore.query.results import TopSamples


_BLOCK = 1 << 22  # activations that are compared at once
_SELECT = "Select with isel or sel, such as ds.isel(sample=ds.split == 'test'), and ask that."


@xr.register_dataset_accessor("sae")  # type: ignore[no-untyped-call]
class SAEAccessor:
    """Questions to the store that a Dataset was opened from.

    They are about the samples and features that the Dataset's coordinates name: all, or those selected with `isel` or
    `sel`, in any order. The answers come from the store, not from the values in memory. A Dataset whose coordinates or
    activations were changed is refused.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    @property
    def acts(self) -> SetReader:
        """The activation set, with all samples and features."""
        return self._origin().acts

    @property
    def plot(self) -> Plots:
        """Pictures of the selected samples: ``histogram(feature)``, ``top(feature)``, ``density()``."""
        return Plots(self)

    def top(self, feature: Any, n: int = 20, *, level: Literal["sample", "item"] = "sample") -> TopSamples:
        """The selected samples on which a feature, or each of several, is strongest.

        Parameters
        ----------
        feature
            Its number, or several; they must be in the Dataset.
        n, level
            As in `ActivationSet.top_samples`.

        Returns
        -------
        TopSamples
            Strongest first; samples have the numbers that the coordinate ``sample`` has.
        """
        self._check_features(feature)
        return self.acts.top_samples(feature, n, level=level, where=self.where())

    def stats(self) -> xr.Dataset:
        """Exact statistics of the selected features over the selected samples, on dimension ``feature``."""
        self._check_values(np.unique(self._ids("feature")))
        return self.acts.stats(self._ids("feature"), where=self.where())

    def where(self) -> Array | None:
        """The selected samples of the set, as a mask, bool (n_samples,); None where all are selected.

        Raises
        ------
        InvalidInputError
            The Dataset has a sample more than once.
        """
        n_samples, samples = self.acts.shape[0], self._samples()
        if _same(samples, range(n_samples)):
            return None
        mask = np.zeros(n_samples, bool)
        mask[samples] = True
        if np.count_nonzero(mask) != len(samples):
            raise InvalidInputError(
                "the Dataset has samples more than once, which .sae would count once: select each sample once.",
                code="repeated-samples",
            )
        return mask

    def _check_features(self, feature: Any) -> None:
        requested, own = select(feature, self.acts.shape[1], "feature").ids, self._ids("feature")
        missing = requested[~np.isin(requested, own)]
        if len(missing):
            raise OutOfRangeError(
                f"feature {missing[0]} is not among the {len(own):,} features of this Dataset; ask .sae.acts, or a "
                "Dataset that has it."
            )
        self._check_values(np.unique(requested))

    def _check_values(self, features: Array) -> None:
        """Refuse a Dataset whose activations of some features differ from its samples in the set.

        Encoding and coordinates survive `roll`, `shift`, `concat`, ``copy(data=)`` and values that are set in place.
        Activations that were not read yet are recognised by their rows and columns; others are compared with the set,
        in blocks of about 4 million entries.
        """
        acts, samples, own = self.acts, self._samples(), self._ids("feature")
        variable = self._dataset.variables["activation"]
        unread = unread_ids(variable)
        if unread is not None:
            same = _same(unread[0], samples) and np.array_equal(unread[1], own)
        else:
            sizes = {name: variable.sizes.get(name, 1) for name in ("sample", "feature")}
            values = variable.set_dims(sizes)  # type: ignore[no-untyped-call]
            values = values.transpose("sample", "feature").isel(feature=np.flatnonzero(np.isin(own, features)))
            step = max(1, _BLOCK // max(1, len(features)))
            blocks = (slice(start, start + step) for start in range(0, len(samples), step))
            chosen = own[np.isin(own, features)]
            same = all(np.array_equal(values[at].to_numpy(), acts.dense(samples[at], chosen)) for at in blocks)
        if not same:
            raise _not_a_selection(
                "answers from the set, and `activation` of this Dataset has other values or another order."
            )

    def _samples(self) -> range | Array:
        """The values of the coordinate ``sample``; a range has no number for each."""
        index = self._dataset.indexes.get("sample")
        if isinstance(index, pd.RangeIndex) and index.equals(pd.RangeIndex(self.acts.shape[0])):
            return range(len(index))
        return self._ids("sample")

    def _ids(self, name: str) -> Array:
        """The values of the coordinate ``sample`` or ``feature``, int64 (n,)."""
        size = self.acts.shape[0 if name == "sample" else 1]
        ids = np.atleast_1d(self._dataset.variables[name].to_numpy())
        outside = ids[(ids < 0) | (ids >= size)]
        if len(outside):
            raise OutOfRangeError(f"the Dataset names {name} {outside[0]}, but the set has {size:,}, numbered from 0.")
        return ids.astype(np.int64)

    def _origin(self) -> Origin:
        """The set of the Dataset, after a check that the Dataset is a selection of it."""
        variables = self._dataset.variables
        origin = variables["activation"].encoding.get(KEY) if "activation" in variables else None
        if not isinstance(origin, Origin):
            raise _not_a_selection(
                "needs the variable `activation` of a Dataset that saestore opened, unchanged: by acts.to_xarray(), or "
                "xr.open_dataset(…, engine='saestore'). This Dataset has none, or one that where() or arithmetic "
                "computed."
            )
        for name in ("sample", "feature"):
            self._check_coordinate(name, origin)
        address = variables.get("activation_set")
        if address is None or address.ndim or str(address.values) != origin.address:
            raise InvalidInputError(
                ".sae needs the coordinate `activation_set` to name the one set of the Dataset; this Dataset was put "
                "together from several sets, or lacks it. Ask the Dataset of each set.",
                code="not-a-selection",
            )
        return origin

    def _check_coordinate(self, name: str, origin: Origin) -> None:
        variable = self._dataset.variables.get(name)
        if variable is None or variable.encoding.get(KEY) != origin or variable.dtype.kind not in "iu":
            raise _not_a_selection(
                f"needs the coordinate `{name}` of the opened Dataset, which names the {name}s; it was dropped or "
                "replaced."
            )
        dims = self._dataset.variables["activation"].dims
        of_both = {"sample", "feature"}.issuperset(dims)
        if not of_both or variable.dims not in ((), (name,)) or set(variable.dims) != {name} & set(dims):
            raise _not_a_selection(
                f"needs samples and features as dimensions of their own; here `{name}` lies along {variable.dims} and "
                f"`activation` along {dims}."
            )


def _not_a_selection(reason: str) -> InvalidInputError:
    return InvalidInputError(f".sae {reason} {_SELECT}", code="not-a-selection")


def _same(a: range | Array, b: range | Array) -> bool:
    both = isinstance(a, range) and isinstance(b, range)
    return a == b if both else len(a) == len(b) and np.array_equal(a, b)


class Plots:
    """`ActivationSet.plot`, over the samples of a Dataset."""

    def __init__(self, sae: SAEAccessor) -> None:
        self._sae = sae

    def histogram(self, feature: int, **options: Any) -> Axes:
        """How strong a feature is where it is active; options as for `ActivationSet.plot.histogram`."""
        return self._plots(feature).histogram(feature, **self._with_where(options))

    def top(self, feature: int, **options: Any) -> Axes:
        """The images on which a feature is strongest; options as for `ActivationSet.plot.top`."""
        return self._plots(feature).top(feature, **self._with_where(options))

    def tokens(self, feature: int, **options: Any) -> TokenPage:
        """The texts on which a feature is strongest; options as for `ActivationSet.plot.tokens`."""
        return self._plots(feature).tokens(feature, **self._with_where(options))

    def density(self, **options: Any) -> Axes:
        """The share of samples on which features are active; options as for `ActivationSet.plot.density`."""
        features = self._sae._ids("feature")  # noqa: SLF001
        if features.size != self._sae.acts.shape[1]:
            message = "density() is a picture of all features: ask a Dataset that has all of them."
            raise InvalidInputError(message, code="missing-features")
        return self._plots(features).density(**self._with_where(options))

    def _plots(self, features: Any) -> SetPlots:
        from saestore.plot import Plots as SetPlots

        self._sae._check_features(features)  # noqa: SLF001 (the other half of the accessor)
        return SetPlots(self._sae.acts)

    def _with_where(self, options: dict[str, Any]) -> dict[str, Any]:
        if "where" in options:
            raise InvalidInputError(f"where= comes from the Dataset's selection. {_SELECT}", code="unexpected-where")
        return {**options, "where": self._sae.where()}
