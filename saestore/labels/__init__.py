"""Labels: taken from arrays, tables, image masks and character spans, and put into an activation set."""

from saestore.labels.as_labels import as_labels
from saestore.labels.from_masks import THRESHOLD, MaskOptions, from_masks
from saestore.labels.from_spans import from_spans
from saestore.labels.from_table import from_metadata
from saestore.labels.item_keys import OnUnmatched
from saestore.labels.patch_grid import Fit

__all__ = ["THRESHOLD", "Fit", "MaskOptions", "OnUnmatched", "as_labels", "from_masks", "from_metadata", "from_spans"]
