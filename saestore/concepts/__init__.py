"""Labels: taken from arrays, tables, image masks and character spans, and put into an activation set."""

from saestore.concepts.given import NewLabels, as_labels
from saestore.concepts.masks import THRESHOLD, MaskOptions, from_masks
from saestore.concepts.metadata import from_metadata
from saestore.concepts.patches import Fit
from saestore.concepts.spans import from_spans
from saestore.concepts.update import add_labels, remove_labels

__all__ = [
    "THRESHOLD",
    "Fit",
    "MaskOptions",
    "NewLabels",
    "add_labels",
    "as_labels",
    "from_masks",
    "from_metadata",
    "from_spans",
    "remove_labels",
]
