"""Labels: which concepts the items and the samples have, and giving them new ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saestore.activations.opened import OpenSet, on_snapshot
from saestore.concepts import (
    THRESHOLD,
    Fit,
    MaskOptions,
    add_labels,
    as_labels,
    from_masks,
    from_metadata,
    from_spans,
    remove_labels,
)
from saestore.errors import InvalidInputError, NotFoundError
from saestore.format import LEVELS
from saestore.items.labels import position_of

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]
Level = Literal["item", "sample"]


class Labels(OpenSet):
    """`concepts`, `concept`, `concept_matrix`, `add_concepts` and its like, `remove_concepts`."""

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
    ) -> list[str]:
        """Give items or samples labels. A reader sees all of them or none, whenever this is interrupted.

        Parameters
        ----------
        labels
            A mapping of names to masks (``{"color::red": mask}``: bool, or 0 and 1, one value for each item or
            sample), a scipy sparse or 2-D matrix with `names`, or the path of a ``metadata.csv``, whose rows are
            matched to the items by their keys, else by the file names in them.
        level
            ``"item"`` or ``"sample"``: what the masks are over.
        overwrite
            Replace concepts that are there already.
        partial
            Pass over the rows of a ``metadata.csv`` that fit no item.

        Returns
        -------
        list of str
            Names of the concepts that were given.

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
            given = from_metadata(labels, self.items, self.n_items, partial=partial)
        else:
            given = as_labels(labels, level, self.n_items, self.shape[0], names)
        add_labels(self._root, self.path, given, overwrite=overwrite)
        self._open()
        return list(given.names)

    def add_concepts_from_masks(
        self,
        folder: str | os.PathLike[str],
        concept: str | None = None,
        *,
        within: bool | Sequence[str] = False,
        threshold: float = THRESHOLD,
        fit: Fit | None = None,
        missing: Literal["error", "empty"] = "error",
        partial: bool = False,
        overwrite: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> list[str]:
        """Give patches labels from image masks: a patch has a concept where a mask covers enough of it.

        Parameters
        ----------
        folder
            ``<folder>/<concept>/<item>.png``, or with `concept` or `within` ``<folder>/<item>.png``. Files are matched
            to the keys of the items without their suffix, by the whole path, else by the name where only one item has
            it. A mask is where a pixel is neither black nor index 0 nor transparent; it is as large as the image, or in
            its proportions.
        concept
            What the masks in `folder` show.
        within
            True, or some concepts of items: the label of a patch is that of its item, where the mask covers it. So one
            mask of the object and the item's ``color::green`` make a ``color::green`` of patches.
        threshold
            A patch counts where more than this share of it is covered.
        fit
            How images became the squares that were cut into patches: ``"squash"``, or ``"crop"`` of the middle. By
            default what the set says of it, else ``"squash"``.
        missing
            ``"empty"``: items without a mask have nothing to see. By default they are an error.
        partial
            Pass over masks that fit no item.
        overwrite
            Replace concepts that are there already.

        Raises
        ------
        InvalidInputError, NotFoundError, MissingDependencyError
            Samples that are no patches, files and items that do not fit one another, no such folder, no pillow.
        """
        options = MaskOptions(concept, threshold, fit, within, missing, partial)
        given = from_masks(
            folder, options, items=self.items, index=self._index, source=self.attributes.source, progress=progress
        )
        return self.add_concepts(given, overwrite=overwrite)

    def add_concepts_from_spans(
        self,
        spans: Mapping[Any, Sequence[tuple[int, int, str]]] | str | os.PathLike[str],
        *,
        partial: bool = False,
        overwrite: bool = False,
    ) -> list[str]:
        """Give tokens labels from spans of characters: a token has a concept where it shares a character with a span.

        Parameters
        ----------
        spans
            A mapping of items, by key or number, to ``[(start, stop, concept), …]``, or a CSV or JSONL file of ``key``,
            ``start``, ``stop`` and ``concept``. Characters are counted from 0, `stop` is the one after the last. What
            lies in no span does not have the concept.
        partial
            Pass over keys that are no item.
        overwrite
            Replace concepts that are there already.

        Raises
        ------
        InvalidInputError
            The set does not know the characters of its tokens; a key is no item; a span does not lie in its text.
        """
        given = from_spans(
            spans,
            self.items,
            self._index,
            lambda start, stop: self.spans(slice(start, stop)),
            self.shape[0],
            partial=partial,
        )
        return self.add_concepts(given, overwrite=overwrite)

    def remove_concepts(self, names: str | Sequence[str], level: Level | None = None) -> None:
        """Remove concepts, of both levels unless one is named."""
        if level is not None:
            _check_level(level)
        remove_labels(self._root, self.path, [names] if isinstance(names, str) else list(names), level)
        self._open()


def _check_level(level: str) -> None:
    if level not in LEVELS:
        raise InvalidInputError(f"level={level!r}: use 'item' or 'sample'.")
