"""What `acts.plot` offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from saestore.errors import InvalidInputError, check_choice, require
from saestore.plot.tokens import TokenPage, token_page

if TYPE_CHECKING:
    import os

    import xarray
    from matplotlib.axes import Axes

    from saestore.query.reader import SetReader


class Plots:
    """Pictures of one activation set.

    `histogram`, `density`, `cloud` and `top` (images) draw with matplotlib into `ax`, or into a new pyplot figure if
    `ax` is None, and return that one Axes. `tokens` (texts) returns HTML, which a notebook shows, without matplotlib.
    """

    def __init__(self, acts: SetReader) -> None:
        self._acts = acts

    def __repr__(self) -> str:
        return f"<plots of {self._acts.path}: histogram(feature), density(), top(feature), …>"

    def histogram(self, feature: int, ax: Axes | None = None, *, bins: int | None = None, where: Any = None) -> Axes:
        """How strong a feature is where it is active; the title counts the samples where it is zero.

        Counts are on a logarithmic axis where they differ much. Negative activations have their own colour.

        Parameters
        ----------
        bins
            Number of bins of equal width, zero always an edge; by default 10 to 50, more for more values.
        where
            Only these samples, as in `ActivationSet.top_samples`.

        Notes
        -----
        Memory: the feature's posting list.
        """
        _check_count("bins", 1 if bins is None else bins, 1)
        require("matplotlib", "plot", "a plot")
        from saestore.plot.distributions import histogram

        return histogram(self._acts, self._one(feature), ax, bins, where)

    def density(self, ax: Axes | None = None, *, bins: int | None = None, where: Any = None) -> Axes:
        """How many features fire on which share of the samples, on a logarithmic axis. The title counts dead features.

        Parameters
        ----------
        bins
            Number of bins of equal width in the logarithm; by default five to each power of ten.
        where
            Only these samples.
        """
        _check_count("bins", 1 if bins is None else bins, 1)
        require("matplotlib", "plot", "a plot")
        from saestore.plot.distributions import density

        return density(self._acts, ax, bins, where)

    def cloud(self, found: xarray.Dataset, ax: Axes | None = None) -> Axes:
        """The first two components of `ActivationSet.cloud`: a point per sample, coloured by its strongest feature.

        Parameters
        ----------
        found
            What ``acts.cloud(features, decoder)`` gives.
        """
        require("matplotlib", "plot", "a plot")
        from saestore.plot.distributions import cloud

        if not {"position", "strongest", "explained"} <= set(getattr(found, "data_vars", ())):
            raise InvalidInputError("plot.cloud() draws what acts.cloud(features, decoder) gives.", code="not-a-cloud")
        return cloud(self._acts, found, ax)

    def top(
        self,
        feature: int,
        n: int = 8,
        ax: Axes | None = None,
        *,
        level: Literal["sample", "item"] = "item",
        where: Any = None,
        images: str | os.PathLike[str] | None = None,
        fit: Literal["squash", "crop"] | None = None,
    ) -> Axes:
        """The images on which a feature is strongest, tinted on the patches where it is active.

        The strongest patch is framed; where the active patches are few, a corner shows them enlarged and without tint.
        All images are drawn into one Axes, whose unit is the inch.

        Parameters
        ----------
        n
            Number of images at most.
        level
            ``"item"`` shows an item once; ``"sample"`` shows it for each of its samples that is among the `n`.
        where
            Only these samples.
        images
            Folder in which the items' keys, paths of images, start. By default the folder of the ``metadata.csv`` that
            the set was built with, else the current folder.
        fit
            How an image became a square for the model: ``"squash"``, or ``"crop"`` of its middle after its shorter
            side was resized. By default what the set records; if it records nothing, ``"squash"``, and the picture
            has a text that explains it.

        Raises
        ------
        NotFoundError
            An image file does not exist, or the items are not images.
        """
        if fit is not None:
            check_choice("fit", fit, ("squash", "crop"))
        require("matplotlib", "plot", "a plot")
        from saestore.plot.montage import draw

        feature = self._one(feature)
        top = self._acts.top_samples(feature, n, level=level, where=where)
        return draw(self._acts, feature, top, ax, where=where, images=images, fit=fit)

    def tokens(
        self,
        feature: int,
        n: int = 8,
        *,
        level: Literal["sample", "item"] = "item",
        where: Any = None,
        context: int = 32,
    ) -> TokenPage:
        """The texts on which a feature is strongest, their tokens shaded by its activation.

        The strongest token of each text is underlined. A tooltip gives activation, sample and position of each token.

        Parameters
        ----------
        n
            Number of texts at most.
        level
            ``"item"`` shows a text once; ``"sample"`` shows it for each of its tokens that is among the `n`.
        where
            Only these samples.
        context
            Tokens to show on either side of the strongest.

        Returns
        -------
        TokenPage
            A notebook shows it; ``.save("page.html")`` writes it to a file, ``.html`` is its text.

        Raises
        ------
        NotFoundError
            The items have no texts.

        Examples
        --------
        >>> acts.plot.tokens(500, n=6).save("feature-500.html")  # doctest: +SKIP
        """
        _check_count("context", context, 0)
        feature = self._one(feature)
        top = self._acts.top_samples(feature, n, level=level, where=where)
        return token_page(self._acts, feature, top, where=where, context=context)

    def _one(self, feature: Any) -> int:
        chosen = self._acts.select_features(feature)
        if not chosen.scalar and (not isinstance(feature, str) or len(chosen) != 1):
            raise InvalidInputError(f"A picture is of one feature, an int, not of {feature!r}.", code="not-one-feature")
        return int(chosen.ids[0])


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidInputError(f"{name}={value!r}: use an int, {least} or more.", code="invalid-count")
