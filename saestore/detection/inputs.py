"""What a detection is made from: the lists, the labels, and which rows belong to which split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import NotFoundError
from saestore.format import digest
from saestore.query.posting_lists import PostingLists, iterate_lists
from saestore.query.reader import Level, SetReader
from saestore.scoring.concept_scores import read_labels
from saestore.scoring.pooling import Pooling
from saestore.scoring.splits import described, samples_of, samples_on
from saestore.sparse_rows import Array
from saestore.table_info import TableInfo

if TYPE_CHECKING:
    import scipy.sparse


_BLOCK = 1 << 20  # entries of lists that are read at a time
FIT, CHOOSE, REPORT = "fit_on", "choose_on", "report_on"  # what a part of the samples is for


@dataclass(frozen=True)
class Split:
    """One part of the samples."""

    name: str  # what it is for: ``fit_on``, ``choose_on`` or ``report_on``
    rows: Array  # its samples that have labels, ascending int64
    items: Array  # items of these, ascending int64
    starts: Array  # where in `rows` each item starts, int64 (n_items,)
    units: Array  # what is predicted: `items`, or at the level of samples `rows`
    # Units x concepts, bool CSC: where a concept is true, and where its label is not known.
    labels: scipy.sparse.csc_array
    unknown: scipy.sparse.csc_array

    def truth(self, concept: int) -> Array:
        """Which units a concept is true of, bool (n_units,)."""
        return _column(self.labels, concept)

    def known(self, concept: int) -> Array:
        """Units whose label of a concept is known, bool (n_units,). Others count for nothing."""
        return ~_column(self.unknown, concept)

    @property
    def n_positive(self) -> Array:
        """Units that each concept is true of, int64 (n_concepts,)."""
        counts: Array = np.diff(self.labels.indptr).astype(np.int64)
        return counts

    @property
    def n_known(self) -> Array:
        """Units whose label of each concept is known, int64 (n_concepts,)."""
        counts: Array = len(self.units) - np.diff(self.unknown.indptr).astype(np.int64)
        return counts

    @property
    def sizes(self) -> Array:
        """Rows of every item, int64 (n_items,)."""
        sizes: Array = np.diff(self.starts, append=len(self.rows))
        return sizes

    @property
    def item_of_row(self) -> Array:
        """Index into `items` of every row."""
        return np.repeat(np.arange(len(self.items)), self.sizes)

    @property
    def item_of_unit(self) -> Array:
        """Index into `items` of every unit."""
        return np.arange(len(self.items)) if self.units is self.items else self.item_of_row


@dataclass(frozen=True)
class Inputs:
    """One activation set as detection sees it. Memory: 9 bytes per sample, and 5 per true or unknown label."""

    # The set, what is predicted, and how an item is scored.
    reader: SetReader
    level: Level
    pooling: Pooling
    names: Sequence[str]  # the concepts
    # Units x concepts, bool CSR: items, or samples.
    labels: scipy.sparse.csr_array
    unknown: scipy.sparse.csr_array
    # Samples x concepts, bool CSR, empty for concepts that only items have; None at the level of samples.
    sample_labels: scipy.sparse.csr_array | None
    sample_unknown: scipy.sparse.csr_array | None
    # Whether the positive rows of each concept are known, bool (n_concepts,). Else they are all rows of its items.
    from_samples: Array
    # For ``fit_on``, ``choose_on`` and ``report_on`` a split or a condition, as `samples_on` takes them.
    on: dict[str, Any]
    where: Any  # the samples that count at all
    _splits: dict[str, Split] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Samples x features."""
        return self.reader.shape

    @property
    def by_samples(self) -> bool:
        """Whether a score is the activation of one sample, so that samples set the thresholds."""
        return self.level == "sample" or self.pooling.is_activation

    def of(self, name: str) -> Split:
        """The rows of a split, cached."""
        if name not in self._splits:
            n_rows = self.labels.shape[0]
            if self.level == "item":
                n_rows = min(int(self.reader.item_index.pointers()[n_rows]), self.shape[0])
            kept = samples_on(self.reader, self.on[name]) & samples_of(self.reader, self.where)
            rows = np.flatnonzero(kept[:n_rows])
            items, starts = np.unique(self.reader.item_index.locate(rows)[0], return_index=True)
            units = items if self.level == "item" else rows
            labels, unknown = self.labels[units].tocsc(), self.unknown[units].tocsc()
            self._splits[name] = Split(name, rows, items, starts, units, labels, unknown)
        return self._splits[name]

    def need(self, *names: str) -> None:
        """Raise a `NotFoundError` where a part has no rows."""
        for name in names:
            if not len(self.of(name).rows):
                part = f"{name}={described(self.on[name])!r}"
                message = f"{self.reader.path} has no {self.level}s with labels in {part}."
                raise NotFoundError(message, code="empty-split")

    def row_labels(self, split: Split) -> scipy.sparse.csr_array:
        """Which rows of a split are positive for a concept: rows x concepts, bool CSR."""
        return self._of_rows(split, split.labels, self.sample_labels)

    def row_unknown(self, split: Split) -> scipy.sparse.csr_array:
        """Which rows of a split have no known label of a concept: rows x concepts, bool CSR."""
        return self._of_rows(split, split.unknown, self.sample_unknown)

    def _of_rows(
        self, split: Split, of_units: scipy.sparse.csc_array, of_samples: scipy.sparse.csr_array | None
    ) -> scipy.sparse.csr_array:
        import scipy.sparse as sp

        if of_samples is None:
            return of_units.tocsr()
        only_items = sp.diags_array(~self.from_samples, dtype=bool)
        rows = sp.csr_array(of_samples[split.rows] + (of_units @ only_items).tocsr()[split.item_of_row])
        rows.eliminate_zeros()
        rows.sort_indices()
        return rows

    def lists(self, split: Split, features: Array) -> Iterator[PostingLists]:
        """The lists of ascending features over a split; samples are numbered by their index in its rows.

        Memory: a block of a million entries or the longest list, and 8 bytes per sample.
        """
        index = np.full(self.shape[0], -1, np.int64)
        index[split.rows] = np.arange(len(split.rows))
        for lists in iterate_lists(self.reader.segments, features, self.reader.dtype, _BLOCK):
            rows = index[lists.samples]
            yield PostingLists(lists.features, lists.indptr, rows, lists.data).keep(rows >= 0)

    def unit_lists(self, split: Split, lists: PostingLists) -> PostingLists:
        """From lists over the rows of a split to lists over its units, those that score above 0."""
        if self.level == "sample":
            return lists.keep(lists.data > 0)
        items = split.item_of_row[lists.samples]
        return PostingLists(lists.features, *self.pooling.of_lists(lists.indptr, items, lists.data, split.sizes))

    def columns(self, split: Split, features: Array) -> Iterator[tuple[int, Array, Array]]:
        """Features with their column over the rows of a split, and the scores of its units; float64 each.

        Memory: a block, and 24 bytes per row.
        """
        for lists in self.lists(split, np.unique(features)):
            for i, feature in enumerate(lists.features.tolist()):
                part = slice(lists.indptr[i], lists.indptr[i + 1])
                column = np.zeros(len(split.rows))
                column[lists.samples[part]] = lists.data[part]
                yield feature, column, self.unit_scores(split, column)

    def unit_scores(self, split: Split, column: Array) -> Array:
        """Scores of units whose rows have these activations."""
        return self.pooling.of_column(column, split.starts) if self.level == "item" else column


def _column(matrix: scipy.sparse.csc_array, column: int) -> Array:
    mask = np.zeros(matrix.shape[0], bool)
    mask[matrix.indices[matrix.indptr[column] : matrix.indptr[column + 1]]] = True
    return mask


def inputs_of(
    reader: SetReader,
    level: Level,
    concepts: Sequence[str] | str | None,
    score: str,
    on: dict[str, Any],
    *,
    where: Any = None,
) -> Inputs:
    """What detection needs of a set, read once; a `NotFoundError` where it has no such concepts."""
    labels = read_labels(reader, level, concepts)
    known = reader.concept_names("sample")
    of_samples: Any = (None, None)
    if level == "item":
        matrices = (reader.concept_matrix("sample"), reader.unknown_matrix("sample"))
        of_samples = tuple(_chosen(matrix.tocsr(), known, labels.names) for matrix in matrices)
    return Inputs(
        reader=reader,
        level=level,
        pooling=Pooling.of(score),
        names=labels.names,
        labels=labels.matrix.tocsr(),
        unknown=labels.unknown.tocsr(),
        sample_labels=of_samples[0],
        sample_unknown=of_samples[1],
        from_samples=np.array([level == "sample" or name in known for name in labels.names]),
        on=on,
        where=where,
    )


def _chosen(matrix: scipy.sparse.csr_array, known: list[str], names: Sequence[str]) -> scipy.sparse.csr_array:
    """The columns of `names`, empty for names that `known` lacks."""
    import scipy.sparse as sp

    pairs = [(known.index(name), i) for i, name in enumerate(names) if name in known]
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    return sp.csr_array(matrix @ sp.csr_array((np.ones(len(pairs), bool), (rows, columns)), (len(known), len(names))))


def provenance(reader: SetReader) -> dict[str, Any]:
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
        "labels": {name: _labels_digest(table) for name, table in a.tables.items() if table.concepts is not None},
    }


def _labels_digest(table: TableInfo) -> str:
    """What the labels of a table are known by: the digests of all that they are stored in."""
    groups = [] if table.concepts is None else list(filter(None, (table.concepts.true, table.concepts.unknown)))
    arrays = ((node, info) for node, info in table.arrays.items() if node.split("/")[0] in groups)
    return digest({node: info.shards or info.document for node, info in arrays})
