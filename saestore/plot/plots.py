"""What `acts.plot` offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from saestore.errors import InvalidInputError
from saestore.plot import distributions, montage
from saestore.query.selection import select

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

    from saestore.query.reader import SetReader


class Plots:
    """Pictures of one activation set.

    Every method draws into `ax`, or into a new pyplot figure where none is given, and returns that one Axes.
    """

    def __init__(self, acts: SetReader) -> None:
        self._acts = acts

    def __repr__(self) -> str:
        return f"<plots of {self._acts.path}: histogram(feature), density(), top(feature)>"

    def histogram(self, feature: int, ax: Axes | None = None, *, bins: int | None = None, where: Any = None) -> Axes:
        """How strong a feature is where it is active; samples where it is zero are counted in the title.

        Counts are on a logarithmic axis where they differ much. Negative activations have a colour of their own.

        Parameters
        ----------
        bins
            Number of bins of equal width, zero always an edge; by default 10 to 50, more for more values.
        where
            These samples only, as in `ActivationSet.top_samples`.

        Notes
        -----
        Memory: the feature's list.
        """
        _check_bins(bins)
        return distributions.histogram(self._acts, self._one(feature), ax, bins, where)

    def density(self, ax: Axes | None = None, *, bins: int | None = None, where: Any = None) -> Axes:
        """On which share of the samples features fire: how many do so how often, on a logarithmic axis.

        Dead features have no place on such an axis; a note counts them.

        Parameters
        ----------
        bins
            Number of bins of equal width in the logarithm; by default five to each power of ten.
        where
            These samples only.
        """
        _check_bins(bins)
        return distributions.density(self._acts, ax, bins, where)

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
        """The images or texts on which a feature is strongest, and where in them.

        Images are tinted on the patches where the feature is active, the strongest patch framed; where the place is
        small, a corner shows it enlarged and without tint. Tokens of texts are shaded in the same way, the strongest
        underlined; of a long text the part around it is shown. All `n` are drawn into one Axes, whose unit is the inch.

        Parameters
        ----------
        n
            Images or texts at most.
        level
            ``"item"`` shows an item once; ``"sample"`` shows it for each of its samples that is among the `n`.
        where
            These samples only.
        images
            Folder in which the items' keys, paths of images, start. By default the folder of the ``metadata.csv`` that
            the set was built with, else the present one.
        fit
            How an image became a square for the model: ``"squash"``, or ``"crop"`` of its middle after its shorter
            side was resized. By default what the set says of it; where it says nothing, ``"squash"``, and the picture
            says so.

        Raises
        ------
        NotFoundError
            An image file is not there, or the items have neither images nor texts.
        """
        if fit not in (None, "squash", "crop"):
            raise InvalidInputError(f"fit={fit!r}: use 'squash' or 'crop'.")
        top = self._acts.top_samples(self._one(feature), n, level=level, where=where)
        return montage.draw(self._acts, int(feature), top, ax, where=where, images=images, fit=fit)

    def _one(self, feature: Any) -> int:
        chosen = select(feature, self._acts.shape[1], "feature")
        if not chosen.scalar:
            raise InvalidInputError(f"A picture is of one feature, an int, not of {feature!r}.")
        return int(chosen.ids[0])


def _check_bins(bins: Any) -> None:
    if bins is not None and (not isinstance(bins, int) or bins < 1):
        raise InvalidInputError(f"bins={bins!r}: use a number of bins, 1 or more.")
