"""What a detection is made from: the lists, the labels, and which rows are of which split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError
from saestore.query.posting_lists import PostingLists, iterate_lists
from saestore.query.reader import SetReader
from saestore.scoring.concept_scores import labels_of
from saestore.scoring.pooling import Pooling
from saestore.segment import Segment
from saestore.tables.item_index import ItemIndex

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]
Level = Literal["item", "sample"]

_BLOCK = 1 << 20  # entries of lists that are read at a time
TRAIN, CALIBRATION, TEST = "train", "cal", "test"


@dataclass(frozen=True)
class Split:
    """The rows of one split.

    Attributes
    ----------
    name
        ``train``, ``cal`` or ``test``.
    rows
        Its samples that have labels, ascending int64.
    items
        Items of these, ascending int64.
    starts
        Where in `rows` each item starts, int64 (n_items,).
    units
        What is predicted: `items`, or at the level of samples `rows`.
    labels
        ScoredObservations x concepts, bool CSC.
    """

    name: str
    rows: Array
    items: Array
    starts: Array
    units: Array
    labels: scipy.sparse.csc_array

    def truth(self, concept: int) -> Array:
        """Which units a concept is true of, bool (n_units,)."""
        found = np.zeros(len(self.units), bool)
        found[self.labels.indices[self.labels.indptr[concept] : self.labels.indptr[concept + 1]]] = True
        return found

    @property
    def n_positive(self) -> Array:
        """ScoredObservations that each concept is true of, int64 (n_concepts,)."""
        counts: Array = np.diff(self.labels.indptr).astype(np.int64)
        return counts

    @property
    def item_of_row(self) -> Array:
        """Place in `items` of every row."""
        return np.repeat(np.arange(len(self.items)), np.diff(self.starts, append=len(self.rows)))

    def draws_of(self) -> Array:
        """Place in `items` of every unit: what is drawn is items."""
        return np.arange(len(self.items)) if len(self.units) == len(self.items) else self.item_of_row


@dataclass(frozen=True)
class Inputs:
    """One activation set as detection sees it.

    Attributes
    ----------
    names
        The concepts.
    labels
        ScoredObservations x concepts, bool CSR: items, or samples.
    sample_labels
        Samples x concepts, bool CSR, empty for concepts that only items have; None at the level of samples.
    from_samples
        Of every concept, whether its positive rows are known: bool (n_concepts,). Else they are all rows of its items.
    split
        Of every item.

    Notes
    -----
    Memory: 9 bytes a sample, and 5 for each label that is true.
    """

    path: str
    level: Level
    pooling: Pooling
    names: Sequence[str]
    labels: scipy.sparse.csr_array
    sample_labels: scipy.sparse.csr_array | None
    from_samples: Array
    split: Array
    index: ItemIndex
    segments: Sequence[Segment]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    _splits: dict[str, Split] = field(default_factory=dict, repr=False)

    def of(self, name: str) -> Split:
        """The rows of a split; kept."""
        if name not in self._splits:
            self._splits[name] = self._find(name)
        return self._splits[name]

    def _find(self, name: str) -> Split:
        pointers = np.minimum(self.index.pointers(), self.shape[0])
        n_rows = self.labels.shape[0] if self.level == "sample" else int(pointers[self.labels.shape[0]])
        chosen = np.repeat(self.split == name, np.diff(pointers))
        chosen[n_rows:] = False
        rows = np.flatnonzero(chosen)
        items, starts = np.unique(self.index.locate(rows)[0], return_index=True)
        units = items if self.level == "item" else rows
        return Split(name, rows, items, starts, units, self.labels[units].tocsc())

    def need(self, *names: str) -> None:
        """Refuse where a split has no rows.

        Raises
        ------
        NotFoundError
            It has none; the message says which there are.
        """
        for name in names:
            if not len(self.of(name).rows):
                there = ", ".join(sorted({str(s) for s in self.split.tolist()})) or "none"
                raise NotFoundError(
                    f"{self.path} has no {self.level}s with labels in the split {name!r}: thresholds and choices are "
                    f"made on 'cal', results on 'test'. The items have the splits {there}."
                )

    def row_labels(self, split: Split) -> scipy.sparse.csr_array:
        """Which rows of a split are positive for a concept: rows x concepts, bool CSR."""
        import scipy.sparse as sp

        if self.sample_labels is None:
            return split.labels.tocsr()
        known = self.sample_labels[split.rows].tocsr()
        only_items = sp.diags_array(~self.from_samples, dtype=bool)
        found = self.labels[split.items] @ only_items
        rows = sp.csr_array(known + found.tocsr()[split.item_of_row])
        rows.eliminate_zeros()
        rows.sort_indices()
        return rows

    def positive_rows(self, split: Split, concept: int) -> Array:
        """Which rows of a split a concept's thresholds are set on, bool (n_rows,)."""
        if self.level == "sample":
            return split.truth(concept)
        if not self.from_samples[concept] or self.sample_labels is None:
            return split.truth(concept)[split.item_of_row]
        found: Array = self.sample_labels[split.rows][:, [concept]].toarray()[:, 0]
        return found

    def blocks(self, split: Split, features: Array) -> Iterator[PostingLists]:
        """The lists of ascending features over a split; samples are numbered by their place in its rows.

        Memory: a block of a million entries or the longest list, and 8 bytes a sample.
        """
        place = np.full(self.shape[0], -1, np.int64)
        place[split.rows] = np.arange(len(split.rows))
        for lists in iterate_lists(self.segments, features, self.dtype, _BLOCK):
            at = place[lists.samples]
            kept = PostingLists(lists.features, lists.indptr, at, lists.data).keep(at >= 0)
            yield kept

    def columns(self, split: Split, features: Array) -> Iterator[tuple[int, Array, Array]]:
        """Features with their column over the rows of a split, and the scores of its units; float64 each.

        Memory: a block, and 24 bytes a row.
        """
        for lists in self.blocks(split, np.unique(features)):
            for i, feature in enumerate(lists.features.tolist()):
                part = slice(lists.indptr[i], lists.indptr[i + 1])
                column = np.zeros(len(split.rows))
                column[lists.samples[part]] = lists.data[part]
                yield feature, column, self.unit_scores(split, column)

    def unit_scores(self, split: Split, column: Array) -> Array:
        """What units score whose rows have these activations."""
        return self.pooling.of_column(column, split.starts) if self.level == "item" else column


def check_splits(split: Any, path: str) -> Array:
    """The column of splits.

    Raises
    ------
    NotFoundError
        There is none.
    """
    if split is None:
        raise NotFoundError(
            f"The items of {path} have no column 'split'; detection needs one that says train, cal or test of each."
        )
    found = np.asarray(split)
    if found.dtype.kind not in "TUO":
        raise InvalidInputError(f"The column 'split' of {path} is {found.dtype}; it must say train, cal or test.")
    return found


def inputs_of(reader: SetReader, level: Level, concepts: Sequence[str] | str | None, score: str) -> Inputs:
    """What detection asks of a set, read once."""
    import scipy.sparse as sp

    names, labels = labels_of(reader, level, concepts)
    split = check_splits(reader.items.column("split") if "split" in reader.items.names() else None, reader.path)
    stored = reader.labels_of_all_samples() if level == "sample" or reader.stored_labels("sample") else None
    known = [] if stored is None else list(stored.names)
    of_samples = None
    if stored is not None and level == "item" and set(known) & set(names):
        # The columns of concepts that samples have, others empty.
        place = {name: i for i, name in enumerate(known)}
        there = [(place[name], i) for i, name in enumerate(names) if name in place]
        rows, columns = map(list, zip(*there, strict=True))
        chooser = sp.csr_array((np.ones(len(there), bool), (rows, columns)), shape=(len(known), len(names)))
        of_samples = sp.csr_array(stored.matrix().tocsr() @ chooser)
    elif level == "item":
        of_samples = sp.csr_array((reader.shape[0], len(names)), dtype=bool)
    return Inputs(
        path=reader.path,
        level=level,
        pooling=Pooling.of(score),
        names=names,
        labels=sp.csr_array(labels),
        sample_labels=of_samples,
        from_samples=np.array([level == "sample" or name in known for name in names]),
        split=split,
        index=reader.item_index,
        segments=reader.segments,
        shape=reader.shape,
        dtype=reader.dtype,
    )


def about(reader: SetReader) -> dict[str, Any]:
    """Which set a result is of, in what state."""
    a = reader.attributes
    return {
        "set": reader.path,
        "n_samples": reader.shape[0],
        "n_features": reader.shape[1],
        "n_items": reader.n_items,
        "nnz": reader.nnz,
        "sae": dict(a.sae),
        "source": dict(a.source),
        "dropped": None if a.dropped is None else dict(a.dropped),
        "segments": {segment.name: segment.digest for segment in a.segments},
        "labels": {level: info.digest for level, info in a.concepts.items()},
    }
