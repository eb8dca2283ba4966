"""Labels: taken from arrays, tables, image masks and character spans, and put into an activation set."""

from saestore.concepts.given import NewLabels, as_labels
from saestore.concepts.update import add_labels, remove_labels

__all__ = ["NewLabels", "add_labels", "as_labels", "remove_labels"]
