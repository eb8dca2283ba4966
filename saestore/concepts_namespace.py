"""``acts.concepts``: which concepts items and samples have, giving them new ones, and scoring features by them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from saestore import layouts
from saestore.errors import check_texts
from saestore.labels import (
    THRESHOLD,
    Fit,
    MaskOptions,
    OnUnmatched,
    as_labels,
    from_masks,
    from_metadata,
    from_spans,
)
from saestore.progress import Progress, ProgressOption
from saestore.query.open_set import changing
from saestore.query.reader import Level, SetReader
from saestore.query.slices import DENSE_LIMIT
from saestore.scoring.concept_scores import concept_scores, score_intervals
from saestore.sparse_rows import Array
from saestore.tables.label_matrix import check_level

if TYPE_CHECKING:
    import scipy.sparse
    import xarray


class Concepts:
    """The concepts of a set: labels of its items and samples."""

    def __init__(self, reader: SetReader) -> None:
        self._reader = reader

    def names(self, level: Level | None = None) -> list[str]:
        """Names of the concepts of a level, in the order of their columns; by default of both, items first."""
        return self._reader.concept_names(level)

    def mask(self, name: str, level: Level | None = None) -> Array:
        """Where a concept is true, bool (n,), False where it is unknown; by default of items, else of samples."""
        return self._reader.concept_mask(name, level)

    def matrix(self, level: Level = "item") -> scipy.sparse.csc_array:
        """Where concepts are true, bool, items or samples x concepts in the order of ``names(level)``."""
        return self._reader.concept_matrix(level)

    def unknown_matrix(self, level: Level = "item") -> scipy.sparse.csc_array:
        """Where concepts are unknown, bool, as `matrix` has where they are true."""
        return self._reader.unknown_matrix(level)

    def add(
        self,
        labels: Any,
        level: Level = "item",
        *,
        names: Sequence[str] | None = None,
        overwrite: bool = False,
        on_unmatched: OnUnmatched = "error",
    ) -> list[str]:
        """Give items or samples labels. A reader sees all of them or none, whenever this is interrupted.

        Parameters
        ----------
        labels
            A mapping of names to masks (``{"color::red": mask}``: bool, or 0 and 1, one value for each item or
            sample; what is masked, NaN, None or ``pandas.NA`` is unknown), a scipy sparse or 2-D matrix with `names`,
            or the path of a ``metadata.csv``, whose rows are matched to the items by their keys, else by the file
            names in them.
        level
            ``"item"`` or ``"sample"``: what the masks are over.
        overwrite
            Replace concepts that are there already.
        on_unmatched
            ``"ignore"`` skips rows of a ``metadata.csv`` that fit no item.

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
            given = from_metadata(labels, self._reader.items, self._reader.n_items, on_unmatched=on_unmatched)
        else:
            given = as_labels(labels, level, self._reader.n_items, self._reader.shape[0], names)
        from saestore.writing.columns import add_labels

        with changing(self._reader) as writer:
            add_labels(writer, given, overwrite=overwrite)
        return list(given.names)

    def add_masks(
        self,
        folder: str | os.PathLike[str],
        concept: str | None = None,
        *,
        within: bool | Sequence[str] = False,
        threshold: float = THRESHOLD,
        fit: Fit | None = None,
        missing: Literal["error", "negative"] = "error",
        on_unmatched: OnUnmatched = "error",
        overwrite: bool = False,
        progress: ProgressOption = False,
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
            True, or some concepts of items: a patch has the label of its item, where the mask covers it. So one
            mask of the object and the item's ``color::green`` make a ``color::green`` of patches.
        threshold
            A patch counts where more than this share of it is covered.
        fit
            How images became the squares that were cut into patches: ``"squash"``, or ``"crop"`` of the middle. By
            default from the set, else ``"squash"``.
        missing
            ``"negative"``: the patches of items without a mask do not have the concept. By default they are an error.
        on_unmatched
            ``"ignore"`` skips masks that fit no item.
        overwrite
            Replace concepts that are there already.

        Raises
        ------
        InvalidInputError, NotFoundError, MissingDependencyError
            Samples that are not patches, files and items that do not fit one another, no such folder, no pillow.
        """
        options = MaskOptions(concept, threshold, fit, within, missing, on_unmatched)
        given = from_masks(
            folder,
            options,
            items=self._reader.items,
            index=self._reader.item_index,
            source=self._reader.attributes.source,
            progress=Progress(progress).line,
        )
        return self.add(given, overwrite=overwrite)

    def add_spans(
        self,
        spans: Mapping[Any, Sequence[tuple[int, int, str]]] | str | os.PathLike[str],
        *,
        on_unmatched: OnUnmatched = "error",
        overwrite: bool = False,
    ) -> list[str]:
        """Give tokens labels from spans of characters: a token has a concept where it shares a character with a span.

        Parameters
        ----------
        spans
            A mapping of items, by key or number, to ``[(start, stop, concept), …]``, or a CSV or JSONL file of ``key``,
            ``start``, ``stop`` and ``concept``. Characters are counted from 0, `stop` is the one after the last. What
            is in no span does not have the concept.
        on_unmatched
            ``"ignore"`` skips keys that fit no item.
        overwrite
            Replace concepts that are there already.

        Raises
        ------
        InvalidInputError
            The set does not know the characters of its tokens; a key is not an item; a span is not inside its text.
        """
        given = from_spans(
            spans,
            self._reader.items,
            self._reader.item_index,
            lambda start, stop: self._reader.spans(slice(start, stop)),
            self._reader.shape[0],
            on_unmatched=on_unmatched,
        )
        return self.add(given, overwrite=overwrite)

    def add_ground_truth(
        self, folder: str | os.PathLike[str], *, overwrite: bool = False, progress: ProgressOption = False
    ) -> list[str]:
        """Give items and samples the concepts of a folder with a research pipeline's ground truth.

        Parameters
        ----------
        folder
            A folder that ``saestore build --ground-truth`` takes: files of items, and of patches or tokens.
        overwrite
            Replace concepts that are there already, and take the files as they are where they contradict the metadata.
        progress
            Receives a caveat that no check can replace.

        Returns
        -------
        list of str
            Names of the concepts that were given; none where the set has them all.

        Raises
        ------
        NotFoundError
            There is no such folder, or no such file in it.
        InvalidInputError
            A file is damaged, or does not fit the set or its metadata. Nothing was written.
        StoreConflictError
            The set has a concept that differs.
        """
        names: list[str] | None = layouts.ask(
            "add_ground_truth", self._reader, folder, overwrite, Progress(progress).line
        )
        return names or []

    def remove(self, names: str | Sequence[str], level: Level | None = None) -> None:
        """Remove concepts, of both levels unless one is named."""
        if level is not None:
            check_level(level)
        from saestore.writing.columns import remove_labels

        chosen = check_texts("names", names)
        with changing(self._reader) as writer:
            remove_labels(writer, chosen, level)

    def scores(
        self,
        level: Level = "item",
        *,
        where: Any = None,
        concepts: Sequence[str] | str | Mapping[str, Any] | None = None,
        features: Any = None,
        choose_on: Any = None,
        report_on: Any = None,
        max_bytes: int = DENSE_LIMIT,
    ) -> xarray.Dataset:
        """Score every feature with every concept, exactly; `saestore.scoring.scores.SCORES` lists the scores.

        Parameters
        ----------
        level
            ``"sample"`` scores the activations of samples with their labels; ``"item"`` the maximum over an item's
            samples, inactive ones included as 0, with the labels of the items. Items without samples are left out.
        where
            Over these samples or items only, as in every query: a mapping, an expression, or a boolean mask.
        concepts
            Names; by default all. Or a mapping of names to masks, as of `add`, which are scored and not kept: for a
            store that is read only.
        features
            By default all.
        choose_on, report_on
            Both or none: values of the items' column ``split``, or conditions, that share no sample. The threshold is
            the best on the first; all scores are those on the second. The scores on the first are there too, as
            ``chosen_roc_auc`` and so on: choose features by these.

        Returns
        -------
        xarray.Dataset
            On (concept, feature), float64: ``roc_auc``, ``average_precision``, ``f1`` (the best over all thresholds)
            with ``threshold`` (the highest that reaches it), ``precision`` and ``recall`` there, ``mean_difference``,
            ``point_biserial``. On concept: ``n_positive``, ``n_negative``, and ``n_unknown``, which are not scored.
            On feature: ``n_active``, the samples or items whose score is not 0. A feature with none has NaN for scores,
            and so has a concept that is true of all or none.

        Raises
        ------
        NotFoundError
            There is no such concept, or none at all.
        TooLargeError
            The scores would be larger than `max_bytes` (4 GiB); nothing was read.

        Notes
        -----
        A threshold predicts positive what is at least as large, as in `sklearn.metrics.precision_recall_curve`; it may
        be 0 or negative, where it is best to say yes to all that is not, or less, negative.

        Memory: the scores (64 bytes for each concept and feature), the labels and a byte a sample, and a block of a
        million entries or the longest list.
        """
        reader = self._reader
        given: Any = concepts
        if isinstance(concepts, Mapping):
            given = as_labels(concepts, level, reader.n_items, reader.shape[0])
        return concept_scores(
            reader, level, where=where, concepts=given, features=features, choose_on=choose_on, report_on=report_on,
            max_bytes=max_bytes,
        )  # fmt: skip

    def intervals(
        self,
        pairs: Sequence[tuple[str, int]],
        level: Level = "item",
        *,
        where: Any = None,
        choose_on: Any = None,
        report_on: Any = None,
        confidence_level: float = 0.95,
        n_resamples: int = 1000,
        seed: int = 0,
    ) -> xarray.Dataset:
        """Scores of some (concept, feature) pairs with their confidence intervals, by the bootstrap over items.

        Parameters
        ----------
        pairs
            ``[("color::red", 1234), …]``.
        level, where, choose_on, report_on
            As for `scores`.
        confidence_level
            Share of the draws inside of an interval, whose ends are percentiles.
        n_resamples
            How often items are drawn, with replacement, as many as there are; each comes with all its samples.
        seed
            Of `numpy.random.default_rng`.

        Returns
        -------
        xarray.Dataset
            On ``pair``: ``concept``, ``feature``, all that `scores` gives, and ``roc_auc_low``,
            ``roc_auc_high`` and so on for every score but the threshold. F1, precision and recall belong to that one
            threshold in every draw. NaN where the score is NaN.

        Notes
        -----
        Memory: the lists of the features, 56 bytes for each pair and draw, and about 200 MB.
        """
        return score_intervals(
            self._reader,
            pairs,
            level,
            where=where,
            choose_on=choose_on,
            report_on=report_on,
            confidence_level=confidence_level,
            n_resamples=n_resamples,
            seed=seed,
        )
