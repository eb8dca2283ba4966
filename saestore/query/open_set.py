"""An activation set opened: its segments, items and pointers as of then, and what there is to say of it."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import zarr

from saestore.errors import CorruptStoreError, NotFoundError
from saestore.format import LEVEL_TABLES, TOKEN_SPANS, SetAttributes
from saestore.query import distribution
from saestore.query.selection import Condition, select
from saestore.query.where import Names, condition
from saestore.segment import Segment, warm_all
from saestore.storage import SnapshotStore, stored_bytes
from saestore.tables.column import Column
from saestore.tables.item_index import ItemIndex
from saestore.tables.label_matrix import LabelMatrix, check_level
from saestore.tables.stored_table import StoredTable
from saestore.writing.writer import read_attributes

Array = np.ndarray[Any, Any]
P = ParamSpec("P")
R = TypeVar("R")
Self = TypeVar("Self", bound="OpenSet")

# Opening reads the pointers of segments up to this many bytes in all; those of further ones come with the first query.
_EAGER_POINTERS = 256 << 20

_asking = threading.local()


def retry_on_stale_snapshot(query: Callable[Concatenate[Self, P], R]) -> Callable[Concatenate[Self, P], R]:
    """Ask again on the present segments and items when those that were opened are gone: merged, or replaced.

    A question inside of another of the same set leaves that to the outer one, which has read of the old state already.
    """

    @functools.wraps(query)
    def asked(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        outer = getattr(_asking, "set", None)
        if outer is self:
            return query(self, *args, **kwargs)
        _asking.set = self
        try:
            return query(self, *args, **kwargs)
        except CorruptStoreError:
            if not self.reopen():
                raise
            return query(self, *args, **kwargs)
        finally:
            _asking.set = outer

    return asked


class OpenSet:
    """What every theme of questions stands on; `ActivationSet` documents parameters and attributes."""

    def __init__(self, root: zarr.Group, path: str) -> None:
        self.root = root
        self.path = path
        self._open()

    def _open(self) -> None:
        attributes = read_attributes(self.root, self.path)
        while True:
            if attributes is None:
                raise NotFoundError(f"There is no activation set {self.path} in the store.")
            try:
                self._open_segments(attributes)
                return
            except CorruptStoreError:
                # A compaction may have merged the segments just after they were named.
                before, attributes = attributes, read_attributes(self.root, self.path)
                if attributes == before:
                    raise

    def _open_segments(self, attributes: SetAttributes) -> None:
        self.attributes = attributes
        self._last_condition: tuple[str, Condition | None] | None = None
        snapshot = SnapshotStore(self.root.store)
        prefix = f"{self.root.path}/{self.path}".strip("/")
        self._snapshot, self._base, self._tables = snapshot, prefix, dict[str, StoredTable]()
        self.segments = [Segment(snapshot, prefix, info) for info in attributes.segments]
        self._index = ItemIndex.read(snapshot, prefix, attributes)
        eager = _EAGER_POINTERS // (8 * (attributes.n_features + 1))
        warm_all(self.segments[:eager])

    def reopen(self) -> bool:
        """Open anew; True if the segments or the tables differ from those before."""
        before = self.attributes
        self._open()
        return (before.segments, before.tables) != (self.attributes.segments, self.attributes.tables)

    def table(self, name: str) -> StoredTable:
        """One of the tables ``samples``, ``items`` and ``features``, as of opening."""
        if name not in self._tables:
            self._tables[name] = StoredTable(self._snapshot, self._base, name, self.attributes)
        return self._tables[name]

    @retry_on_stale_snapshot
    def read_column(self, table: str, name: str, rows: Any = None) -> Column:
        """Values of a column or concept of a table, of all rows or of some."""
        return self.table(table).read(name, rows)

    @retry_on_stale_snapshot
    def labels(self, level: str) -> LabelMatrix:
        """All concepts of a level, `item` or `sample`."""
        check_level(level)
        return self.table(LEVEL_TABLES[level]).labels()

    @property
    def group(self) -> zarr.Group:
        """The set's Zarr group."""
        group: Any = self.root[self.path]
        return group  # type: ignore[no-any-return]

    @property
    def item_index(self) -> ItemIndex:
        """Which item a sample belongs to, and which place in it."""
        return self._index

    @retry_on_stale_snapshot
    def spans(self, samples: Any = None) -> Array | None:
        """Characters of tokens in their texts: first, and the one after the last, int32 (n, 2); None where unknown."""
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

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        state = "" if self.attributes.complete else f", building: {self.attributes.planned_samples:,} planned"
        return (
            f"<{type(self).__name__} {self.path}: {self.shape[0]:,} samples x {self.shape[1]:,} features, "
            f"{self.nnz:,} non-zeros ({self.nnz / max(1, self.shape[0]):.1f} a sample), {self.dtype}, "
            f"{self.n_items:,} items{state}>"
        )

    @retry_on_stale_snapshot
    def info(self) -> dict[str, Any]:
        """What there is to say of the set, as JSON-able values: sizes, provenance, what was dropped.

        Returns
        -------
        dict
            ``stored_bytes`` are those of all arrays of the set, ``dense_bytes`` those of a float32 tensor, ``ratio`` is
            dense to stored; ``l0`` is the mean number of active features a sample.
        """
        a, (n_samples, n_features) = self.attributes, self.shape
        moments = distribution.all_moments(self.segments, np.arange(n_features), n_features, self.dtype)
        stored, dense = stored_bytes(self.group), 4 * n_samples * n_features
        return {
            "path": self.path,
            "n_samples": n_samples,
            "n_features": n_features,
            "n_items": a.n_items,
            "nnz": a.nnz,
            "l0": a.nnz / n_samples if n_samples else None,
            "dead_features": int((moments.n_active == 0).sum()),
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

    def condition(self, where: Any) -> Condition | None:
        """Resolve ``where=``. What words say is kept until other words come: a byte for every item or sample."""
        words = _words(where)
        if words is None:
            return self._resolved(where)
        last = self._last_condition
        if last is None or last[0] != words:
            self._last_condition = last = words, self._resolved(where)
        return last[1]

    def _resolved(self, where: Any) -> Condition | None:
        return condition(where, self.names())

    def names(self) -> Names:
        """What the names in a condition over samples can mean."""
        return Names(self.shape[0], self._index, self.table("items"), self.table("samples"))


def _words(where: Any) -> str | None:
    """What names a condition that is an expression or a mapping of plain values; None for any other."""
    if not isinstance(where, str | Mapping):
        return None
    try:
        return json.dumps(where if isinstance(where, str) else [[str(name), where[name]] for name in where])
    except TypeError:
        return None  # such as of numpy's values, which may change
