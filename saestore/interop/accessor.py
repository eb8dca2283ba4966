"""The accessor ``.sae`` of a Dataset: questions to the store about the samples and features that were selected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from saestore.errors import InvalidInputError, OutOfRangeError
from saestore.interop.origin import KEY, Origin
from saestore.query.selection import select

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from saestore.plot import Plots as SetPlots
    from saestore.plot.tokens import TokenPage
    from saestore.query.reader import SetReader
    from saestore.query.results import TopSamples

Array = np.ndarray[Any, Any]

_SELECT = "Select with isel or sel, such as ds.isel(sample=ds.split == 'test'), and ask that."


@xr.register_dataset_accessor("sae")  # type: ignore[no-untyped-call]
class SAEAccessor:
    """Questions to the store that a Dataset was opened from.

    They are about the samples and features that the Dataset's coordinates name: all of them, or those that were
    selected with `isel` or `sel`, in whatever order. The answers come from the store, not from the values in memory. A
    Dataset whose coordinates or activations are no longer those of the store is refused.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    @property
    def acts(self) -> SetReader:
        """The activation set, of which all samples and features can be asked."""
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
            Its number, or several; they must be among those of the Dataset.
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
        return self.acts.stats(self._features(), where=self.where())

    def where(self) -> Array | None:
        """Which samples of the set are selected, bool (n_samples,); None where all are.

        Raises
        ------
        InvalidInputError
            A sample is there more than once.
        """
        n_samples, samples = self.acts.shape[0], self._labels("sample")
        if len(samples) == n_samples and np.array_equal(samples, np.arange(n_samples)):
            return None
        mask = np.zeros(n_samples, bool)
        mask[samples] = True
        if np.count_nonzero(mask) != len(samples):
            raise InvalidInputError(
                "the Dataset has samples more than once, which .sae would count once: select each sample once."
            )
        return mask

    def _features(self) -> Array:
        return self._labels("feature")

    def _check_features(self, feature: Any) -> None:
        asked = select(feature, self.acts.shape[1], "feature").ids
        missing = asked[~np.isin(asked, self._features())]
        if len(missing):
            raise OutOfRangeError(
                f"feature {missing[0]} is not among the {len(self._features()):,} features of this Dataset; ask "
                ".sae.acts, or a Dataset that has it."
            )

    def _labels(self, name: str) -> Array:
        """What the coordinate ``sample`` or ``feature`` names, int64 (n,)."""
        size = self.acts.shape[0 if name == "sample" else 1]
        labels = np.atleast_1d(self._dataset.variables[name].to_numpy())
        outside = labels[(labels < 0) | (labels >= size)]
        if len(outside):
            raise OutOfRangeError(f"the Dataset names {name} {outside[0]}, but the set has {size:,}, numbered from 0.")
        return labels.astype(np.int64)

    def _origin(self) -> Origin:
        """Where the Dataset is from, after a check that it still is what was opened, or a part of it."""
        variables = self._dataset.variables
        found = variables["activation"].encoding.get(KEY) if "activation" in variables else None
        if not isinstance(found, Origin):
            raise InvalidInputError(
                ".sae needs the variable `activation` of a Dataset that saestore opened, unchanged: by "
                "acts.to_xarray(), or xr.open_dataset(…, engine='saestore'). This Dataset has none, or one that "
                f"where() or arithmetic made anew. {_SELECT}"
            )
        for name in ("sample", "feature"):
            self._check_coordinate(name, found)
        address = variables.get("activation_set")
        if address is None or address.ndim or str(address.values) != found.address:
            raise InvalidInputError(
                ".sae needs the coordinate `activation_set` to name the one set that the Dataset is of; this one was "
                "put together from several, or lacks it. Ask the Dataset of each set."
            )
        return found

    def _check_coordinate(self, name: str, origin: Origin) -> None:
        variable = self._dataset.variables.get(name)
        if variable is None or variable.encoding.get(KEY) != origin or variable.dtype.kind not in "iu":
            raise InvalidInputError(
                f".sae needs the coordinate `{name}` that saestore gave the Dataset, since that names the {name}s; it "
                f"was dropped or replaced. {_SELECT}"
            )
        dims = self._dataset.variables["activation"].dims
        if variable.dims not in ((), (name,)) or set(variable.dims) != {name} & set(dims):
            raise InvalidInputError(
                f".sae needs samples and features as dimensions of their own; here `{name}` lies along "
                f"{variable.dims} and `activation` along {dims}. {_SELECT}"
            )


class Plots:
    """`ActivationSet.plot`, of the samples that a Dataset has."""

    def __init__(self, sae: SAEAccessor) -> None:
        self._sae = sae

    def histogram(self, feature: int, **options: Any) -> Axes:
        """How strong a feature is where it is active; options as for `ActivationSet.plot.histogram`."""
        self._sae._check_features(feature)  # noqa: SLF001 (the other half of the accessor)
        return self._plots().histogram(feature, **self._with_where(options))

    def top(self, feature: int, **options: Any) -> Axes:
        """The images on which a feature is strongest; options as for `ActivationSet.plot.top`."""
        self._sae._check_features(feature)  # noqa: SLF001
        return self._plots().top(feature, **self._with_where(options))

    def tokens(self, feature: int, **options: Any) -> TokenPage:
        """The texts on which a feature is strongest; options as for `ActivationSet.plot.tokens`."""
        self._sae._check_features(feature)  # noqa: SLF001
        return self._plots().tokens(feature, **self._with_where(options))

    def density(self, **options: Any) -> Axes:
        """On which share of the samples features fire; options as for `ActivationSet.plot.density`."""
        if self._sae._features().size != self._sae.acts.shape[1]:  # noqa: SLF001
            raise InvalidInputError("density() is a picture of all features: ask a Dataset that has all of them.")
        return self._plots().density(**self._with_where(options))

    def _plots(self) -> SetPlots:
        from saestore.plot import Plots as SetPlots

        return SetPlots(self._sae.acts)

    def _with_where(self, options: dict[str, Any]) -> dict[str, Any]:
        if "where" in options:
            raise InvalidInputError(f"where= is what the Dataset selects. {_SELECT}")
        return {**options, "where": self._sae.where()}
