"""Labels: taken from arrays, tables, image masks and character spans, and put into an activation set."""

from saestore.labels.commit import add_labels, remove_labels
from saestore.labels.from_masks import THRESHOLD, MaskOptions, from_masks
from saestore.labels.from_spans import from_spans
from saestore.labels.from_table import from_metadata
from saestore.labels.label_matrix import LabelMatrix, as_labels
from saestore.labels.patch_grid import Fit

__all__ = [
    "THRESHOLD",
    "Fit",
    "LabelMatrix",
    "MaskOptions",
    "add_labels",
    "as_labels",
    "from_masks",
    "from_metadata",
    "from_spans",
    "remove_labels",
]
