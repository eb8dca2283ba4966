"""An opened activation set: a snapshot of its segments, items and pointers, and facts about it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from saestore.errors import (
    CorruptStoreError,
    InvalidInputError,
    NotFoundError,
    StoreConflictError,
    check_choice,
    refuse_unusable,
)
from saestore.format import LEVEL_TABLES, TABLES, TOKEN_SPANS, SetAttributes, digest
from saestore.query.posting_lists import one_list
from saestore.query.selection import Condition, select
from saestore.segment.read import Segment, active_features, open_lists
from saestore.sparse_rows import Array
from saestore.storage import (
    ArrayReader,
    Root,
    SnapshotStore,
    group_of,
    keep_freed_memory,
    place_name,
    read_attributes,
)
from saestore.tables.column import Column
from saestore.tables.item_index import ItemIndex
from saestore.tables.label_matrix import LabelMatrix, check_level, position_of
from saestore.tables.stored_table import StoredTable

if TYPE_CHECKING:
    import scipy.sparse
    import zarr

    from saestore.writing.writer import SetWriter

P = ParamSpec("P")
R = TypeVar("R")
Self = TypeVar("Self", bound="OpenSet")

_asking = threading.local()


def retry_on_stale_snapshot(query: Callable[Concatenate[Self, P], R]) -> Callable[Concatenate[Self, P], R]:
    """Ask again after `reopen` when a committed file of the snapshot is gone, for as long as the set has newer states.

    A merge or a replacement deletes the old files. Where the state is still the same, the missing file is damage, and
    the error stays. A question inside another question on the same set leaves this to the outer one, which has already
    read parts of the old state.
    """

    @functools.wraps(query)
    def asked(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        outer = getattr(_asking, "set", None)
        if outer is self:
            return query(self, *args, **kwargs)
        _asking.set = self
        try:
            while True:
                try:
                    return query(self, *args, **kwargs)
                except CorruptStoreError:
                    if not self.reopen():
                        raise
                except ValueError as error:
                    refuse_unusable(error)
                    raise
        finally:
            _asking.set = outer

    return asked


def _check_same(path: str, attributes: SetAttributes, identity: str) -> None:
    if attributes.identity != identity:
        raise StoreConflictError(
            f"{path} was replaced by another set after it was opened. Open it again.", code="set-replaced"
        )


def _reopened(kind: type[Self], root: Root, path: str, identity: str) -> Self:
    result = kind(root, path)
    _check_same(path, result.attributes, identity)
    return result


class OpenSet:
    """Base class: an opened activation set, as one snapshot; `ActivationSet` documents parameters and attributes."""

    def __init__(self, root: Root, path: str) -> None:
        self._root = root
        self.path = path
        keep_freed_memory()  # so that an answer takes the memory of the one before
        self._open()

    def _open(self, before: SetAttributes | None = None) -> None:
        attributes = read_attributes(self._root, self.path)
        while True:
            if attributes is None:
                raise NotFoundError(f"There is no activation set {self.path} in the store.", code="unknown-set")
            if before is not None:
                _check_same(self.path, attributes, before.identity)
            try:
                self._open_segments(attributes)
                return
            except CorruptStoreError:
                # A compaction may have merged the segments just after they were named.
                last, attributes = attributes, read_attributes(self._root, self.path)
                if attributes == last:
                    raise

    def _open_segments(self, attributes: SetAttributes) -> None:
        self.attributes = attributes
        self._last_condition: tuple[str, Condition] | None = None
        snapshot = SnapshotStore.of(self._root)
        prefix = f"{self._root.path}/{self.path}".strip("/")
        self._snapshot, self._base, self._tables = snapshot, prefix, dict[str, StoredTable]()
        self.segments = [Segment(snapshot, prefix, info, attributes) for info in attributes.segments]
        self._index = ItemIndex.read(snapshot, prefix, attributes)

    def reopen(self) -> bool:
        """Open the present state; True if it differs from the state before. Another set in its place is an error."""
        before = self.attributes
        self._open(before)
        return before != self.attributes

    def table(self, name: str) -> StoredTable:
        """One of the tables ``samples``, ``items`` and ``features``, as of opening."""
        check_choice("table", name, TABLES, "unknown-table")
        if name not in self._tables:
            self._tables[name] = StoredTable(self._snapshot, self._base, name, self.attributes)
        return self._tables[name]

    @retry_on_stale_snapshot
    def read_column(self, table: str, name: str, rows: Any = None) -> Column:
        """Values of a column or concept of a table, of all rows or of some."""
        if not isinstance(name, str):
            raise InvalidInputError(f"{name!r} is not the name of a column; names are text.", code="invalid-name")
        return self.table(table).read(name, rows)

    @retry_on_stale_snapshot
    def labels(self, level: str) -> LabelMatrix:
        """All concepts of a level, `item` or `sample`."""
        check_level(level)
        return self.table(LEVEL_TABLES[level]).labels()

    @retry_on_stale_snapshot
    def concept_names(self, level: str | None = None) -> list[str]:
        """Names of the concepts of a level, in the order of their columns; by default of both, items first."""
        if level is None:
            return list(dict.fromkeys([*self.concept_names("item"), *self.concept_names("sample")]))
        check_level(level)
        return self.table(LEVEL_TABLES[level]).concept_names

    def concept_mask(self, name: str, level: str | None = None) -> Array:
        """Whether each item or sample has a concept, bool (n_items,) or (n_samples,); False where unknown.

        Parameters
        ----------
        level
            By default items where they have the concept, else samples.

        Raises
        ------
        NotFoundError
            There is no concept of this name; the message names those that there are.
        """
        if level is None:
            position_of(name, self.concept_names())
            level = "item" if name in self.concept_names("item") else "sample"
        position_of(name, self.concept_names(level), f"concept of {level}s")
        return np.ma.filled(self.read_column(LEVEL_TABLES[level], name).array(), False)

    def concept_matrix(self, level: str = "item") -> scipy.sparse.csc_array:
        """Where concepts are true, bool, items or samples x concepts in the order of `concept_names`.

        Memory: 5 bytes per positive label.
        """
        return self.labels(level).matrix

    def unknown_matrix(self, level: str = "item") -> scipy.sparse.csc_array:
        """Where concepts are unknown, as `concept_matrix` has where they are true."""
        return self.labels(level).unknown_matrix

    @property
    def root(self) -> zarr.Group:
        """The root group of the store."""
        return group_of(self._root)

    @property
    def group(self) -> zarr.Group:
        """The set's Zarr group."""
        group: Any = self.root[self.path]
        return group  # type: ignore[no-any-return]

    @property
    def item_index(self) -> ItemIndex:
        """The item and the position of each sample; pointers are read when they are first needed."""
        return self._index

    def _open_lists(
        self, wholes: Sequence[ArrayReader] = (), tails: Sequence[ArrayReader] = (), *, lists: bool = True
    ) -> None:
        """Read in one step what a first question needs: pointers of items, of features, and further arrays.

        In a local folder, where there is nothing to wait for, each is read when it is needed.
        """
        if self._snapshot.folder is not None:
            return
        index = self._index
        pointers = [] if index.stored is None or index.ptr is not None else [index.stored]
        open_lists(self.segments if lists else [], [*pointers, *wholes], tails)
        if pointers:
            index.load()

    @retry_on_stale_snapshot
    def spans(self, samples: Any = None) -> Array | None:
        """First character of each token in its text and the one after its last, int32 (n, 2); None where unknown."""
        ids, table = select(samples, self.shape[0], "sample").ids, self.table("samples")
        if any(name not in table.info.columns for name in TOKEN_SPANS):
            return None
        return np.stack([table.read(name, ids).values for name in TOKEN_SPANS], axis=1)

    @property
    def shape(self) -> tuple[int, int]:
        """Samples x features."""
        return self.attributes.n_samples, self.attributes.n_features

    @property
    def nnz(self) -> int:
        """Number of non-zeros."""
        return self.attributes.nnz

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the activations."""
        return np.dtype(self.attributes.dtype)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.attributes.n_items

    @property
    def location(self) -> str:
        """The place of the store as zarr names it: a URL, or an object in memory."""
        return f"{place_name(self._root)}/{self._root.path}".rstrip("/")

    def __dask_tokenize__(self) -> tuple[str, str, str]:
        """A name of the set's content, by which dask recognises equal arrays."""
        return self.location, self.path, digest(self.attributes.to_json())

    def __reduce__(self) -> tuple[Any, ...]:
        # Without shard indexes and pointers: the set is opened again where it is unpickled, if it is still the same.
        return _reopened, (type(self), self._root, self.path, self.attributes.identity)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        state = "" if self.attributes.complete else f", building: {self.attributes.planned_samples:,} planned"
        return (
            f"<{type(self).__name__} {self.path}: {self.shape[0]:,} samples x {self.shape[1]:,} features, "
            f"{self.nnz:,} non-zeros ({self.nnz / max(1, self.shape[0]):.1f} per sample), {self.dtype}, "
            f"{self.n_items:,} items{state}>"
        )

    @retry_on_stale_snapshot
    def info(self) -> dict[str, Any]:
        """Facts about the set, as JSON-able values: sizes, provenance, dropped activations.

        Returns
        -------
        dict
            ``stored_bytes`` counts all arrays of the set, ``dense_bytes`` a float32 tensor, ``ratio`` is dense to
            stored; ``l0`` is the mean number of active features per sample.
        """
        a, (n_samples, n_features) = self.attributes, self.shape
        dead = a.dead_features
        if dead is None:
            dead = n_features - int(np.count_nonzero(active_features(self.segments, n_features)))
        stored, dense = a.stored_bytes, 4 * n_samples * n_features
        return {
            "path": self.path,
            "n_samples": n_samples,
            "n_features": n_features,
            "n_items": a.n_items,
            "nnz": a.nnz,
            "l0": a.nnz / n_samples if n_samples else None,
            "dead_features": dead,
            "stored_bytes": stored,
            "dense_bytes": dense,
            "ratio": dense / stored,
            "bytes_per_nonzero": stored / a.nnz if a.nnz else None,
            "dtype": a.dtype,
            "codec": a.codec,
            "segments": [s.name for s in a.segments],
            "complete": a.complete,
            "planned_samples": a.planned_samples,
            "sae": dict(a.sae),
            "source": dict(a.source),
            "dropped": None if a.dropped is None else dict(a.dropped),
            "summary": dict(a.summary),
        }

    def condition(self, where: Any, feature: int | None = None, *, lists: bool = False) -> Condition | None:
        """The samples that fulfil ``where=``; see `samples`. `feature` is the one that ``activation`` means.

        The last expression or mapping is remembered: a byte per item or sample. With `lists`, what a question about
        features needs is read in the same step.
        """
        if where is None:
            if lists:
                self._open_lists()
            return None
        from saestore.query.where import as_tree, bind, names_activation, of_mask, stored_arrays
        from saestore.query.where_names import Activations, Names

        tree = as_tree(where)
        if tree is None:
            if lists:
                self._open_lists()
            return of_mask(where, self.shape[0], self.item_index)
        feature = feature if names_activation(tree) else None
        key = repr((tree, feature))  # which tells 1 from True, as == does not
        if self._last_condition is not None and self._last_condition[0] == key:
            return self._last_condition[1]
        tables = self.table("items"), self.table("samples")
        self._open_lists(*stored_arrays(tree, *tables), lists=lists)
        activations = Activations(self._by_sample, self.shape[1], feature)
        self._last_condition = key, bind(tree, Names(*tables, self.item_index, activations))
        return self._last_condition[1]

    def _by_sample(self, feature: int) -> tuple[Array, Array]:
        """The samples where a feature is active, ascending, and its activations. Memory: its list, twice."""
        lists = one_list(self.segments, feature, self.dtype)
        order = np.argsort(lists.samples)
        return lists.samples[order], lists.data[order]


@contextmanager
def changing(reader: OpenSet) -> Iterator[SetWriter]:
    """Hold the lock of a set: what is read meanwhile nobody else changes."""
    from saestore.writing.writer import SetWriter

    with SetWriter(reader.root, reader.path) as writer:
        reader.reopen()
        yield writer
    reader.reopen()
