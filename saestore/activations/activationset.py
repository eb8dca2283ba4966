"""One activation set: every question that can be asked of it, a file a theme."""

from __future__ import annotations

from saestore.activations.conversions import Conversions
from saestore.activations.detect import Detect
from saestore.activations.fidelity import Faithful
from saestore.activations.labels import Labels
from saestore.activations.neighbours import Neighbours
from saestore.activations.showing import Showing
from saestore.activations.summaries import Summaries


class ActivationSet(Labels, Summaries, Detect, Faithful, Neighbours, Showing, Conversions):
    """The activations of one SAE over one sample type of one dataset.

    Features and samples are given as an int, a slice, a list or array of ints, or a boolean mask, by numpy's rules.

    Parameters
    ----------
    root
        Root group of the store.
    path
        Full path of the set.

    Attributes
    ----------
    path : str
    attributes : SetAttributes
        What the store says of the set, as of opening.
    """
