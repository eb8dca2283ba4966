"""Labels: which concepts the items and the samples have, and giving them new ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saestore.activations.opened import OpenSet, on_snapshot
from saestore.concepts import add_labels, as_labels, remove_labels
from saestore.errors import InvalidInputError, NotFoundError
from saestore.format import LEVELS
from saestore.items.labels import position_of

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]
Level = Literal["item", "sample"]


class Labels(OpenSet):
    """`concepts`, `concept`, `concept_matrix`, `add_concepts`, `remove_concepts`."""

    @on_snapshot
    def concepts(self, level: Level | None = None) -> list[str]:
        """Names of the concepts of a level, in the order of their columns; by default of both, those of items first."""
        if level is None:
            return list(dict.fromkeys([*self.concepts("item"), *self.concepts("sample")]))
        _check_level(level)
        if level == "item":
            return list(self.items.concept_names)
        labels = self._stored_labels(level)
        return [] if labels is None else list(labels.names)

    @on_snapshot
    def concept(self, name: str, level: Level | None = None) -> Array:
        """Which items or samples have a concept, bool (n_items,) or (n_samples,).

        Parameters
        ----------
        level
            Of which level; by default that of items where they have it, else that of samples.

        Raises
        ------
        NotFoundError
            There is no concept of this name; the message says what there is.
        """
        if level is None:
            level = "item" if name in self.items.concept_names else "sample"
            if level == "sample" and name not in self.concepts("sample"):
                position_of(name, self.concepts())
        _check_level(level)
        if level == "item":
            return self.items.concept(name)
        labels = self._labels_of_all_samples()
        if labels is None:
            raise NotFoundError(f"The samples of {self.path} have no concept {name!r}; they have none at all.")
        return labels.mask(name)

    @on_snapshot
    def concept_matrix(self, level: Level = "item") -> scipy.sparse.csc_array:
        """All labels of a level, bool, items or samples x concepts in the order of ``concepts(level)``.

        Memory: 5 bytes a positive label.
        """
        import scipy.sparse as sp

        _check_level(level)
        if level == "item":
            return self.items.concept_matrix()
        labels = self._labels_of_all_samples()
        return sp.csc_array((self.shape[0], 0), dtype=bool) if labels is None else labels.matrix()

    def add_concepts(
        self,
        labels: Any,
        level: Level = "item",
        *,
        names: Sequence[str] | None = None,
        overwrite: bool = False,
        partial: bool = False,
    ) -> None:
        """Give items or samples labels. A reader sees all of them or none, whenever this is interrupted.

        Parameters
        ----------
        labels
            A mapping of names to masks (``{"color::red": mask}``: bool, or 0 and 1, one value for each item or
            sample), a scipy sparse or 2-D matrix with `names`, what `saestore.concepts.from_masks` or `from_spans`
            made, or the path of a ``metadata.csv``, whose rows are matched to the items by their keys.
        level
            ``"item"`` or ``"sample"``: what the masks are over.
        overwrite
            Replace concepts that are there already.
        partial
            Pass over the rows of a ``metadata.csv`` that fit no item.

        Raises
        ------
        InvalidInputError
            A length, a value, a name or a key does not fit. Nothing was written.
        StoreConflictError
            The level has one of the names already.
        StoreWriteError, LockedError
            The store was opened to read only, or another process writes the set.
        """
        if isinstance(labels, str | os.PathLike):
            from saestore.concepts.metadata import from_metadata

            given = from_metadata(labels, self.items, self.n_items, partial=partial)
        else:
            given = as_labels(labels, level, self.n_items, self.shape[0], names)
        add_labels(self._root, self.path, given, overwrite=overwrite)
        self._open()

    def remove_concepts(self, names: str | Sequence[str], level: Level | None = None) -> None:
        """Remove concepts, of both levels unless one is named."""
        if level is not None:
            _check_level(level)
        remove_labels(self._root, self.path, [names] if isinstance(names, str) else list(names), level)
        self._open()


def _check_level(level: str) -> None:
    if level not in LEVELS:
        raise InvalidInputError(f"level={level!r}: use 'item' or 'sample'.")
