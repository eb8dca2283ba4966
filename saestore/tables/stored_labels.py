"""Labels inside a store: a sparse boolean matrix, items or samples x concepts, in a group of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from saestore.errors import CorruptStoreError, InvalidInputError, NotFoundError
from saestore.format import CSC_ATTRS, LabelsInfo, document_digest
from saestore.storage import ArrayReader, ShardWriter, SnapshotStore, create_array, missing_as_error, write_array
from saestore.vocabulary import LEVELS

if TYPE_CHECKING:
    import scipy.sparse

Array = np.ndarray[Any, Any]

LABELS = "concepts"  # the group under a set that holds the groups of labels
LABEL_ARRAYS = ("concept", "indptr", "indices", "data")


class StoredLabels:
    """Labels of one level as they were committed: immutable, read when asked for.

    Parameters
    ----------
    store
        The store, as a snapshot.
    path
        Path of their group in it.
    info
        What the set's attributes say of them.

    Raises
    ------
    CorruptStoreError
        The group is gone or another one, because newer labels replaced it meanwhile, or it is damaged.
    """

    def __init__(self, store: SnapshotStore, path: str, info: LabelsInfo) -> None:
        self._store, self._path = store, path
        with missing_as_error(path):
            group = zarr.open_group(store, path=path, mode="r", zarr_format=3, use_consolidated=False)
            if document_digest(store.documents[f"{path}/zarr.json"]) != info.digest:
                raise CorruptStoreError(f"{path}/zarr.json does not agree with its digest.")
            shape: Any = group.attrs["shape"]
            self.shape = int(shape[0]), int(shape[1])
        self._readers: dict[str, ArrayReader] = {}

    def _reader(self, name: str) -> ArrayReader:
        if name not in self._readers:
            self._readers[name] = ArrayReader(self._store, f"{self._path}/{name}")
        return self._readers[name]

    def _read(self, name: str, column: int | None = None) -> Array:
        """An array, or the part of it that is of one concept."""
        reader = self._reader(name)
        if column is None:
            return reader.read(0, reader.length)
        return reader.read(int(self.pointers[column]), int(self.pointers[column + 1]))

    def length(self, name: str) -> int:
        """Length of one of the arrays."""
        return self._reader(name).length

    @cached_property
    def names(self) -> list[str]:
        """Names of the concepts, in the order of the columns."""
        return [str(name) for name in self._read("concept")]

    @cached_property
    def pointers(self) -> Array:
        """Where the rows of each concept lie, int64 (concepts + 1,)."""
        return self._read("indptr")

    def rows(self, column: int) -> Array:
        """Items or samples that have a concept, ascending. Memory: 4 bytes each."""
        return self._read("indices", column)

    def values(self, column: int) -> Array:
        """What is stored for these: true, always."""
        return self._read("data", column)

    def counts(self) -> Array:
        """How many items or samples have each concept, int64."""
        return np.diff(self.pointers)

    def check_covers(self, n_samples: int) -> None:
        """Refuse labels of samples that were given before others came: of those nothing is known."""
        if self.shape[0] != n_samples:
            raise InvalidInputError(
                f"the labels of samples are of {self.shape[0]:,} samples, but the set has {n_samples:,} now: those of "
                "the new ones are unknown. Give them anew."
            )

    def mask(self, name: str) -> Array:
        """Which items or samples have a concept, bool (n,)."""
        mask = np.zeros(self.shape[0], bool)
        mask[self.rows(position_of(name, self.names))] = True
        return mask

    def matrix(self) -> scipy.sparse.csc_array:
        """All labels, items or samples x concepts, bool. Memory: 5 bytes a positive label."""
        import scipy.sparse as sp

        indices = self._read("indices")
        narrow = max(self.shape[0], len(indices)) < 1 << 31  # scipy wants one signed type for both
        dtype = np.int32 if narrow else np.int64
        ids, pointers = indices.astype(dtype), self.pointers.astype(dtype)
        return sp.csc_array((np.ones(len(ids), bool), ids, pointers), shape=self.shape)


def position_of(name: str, names: Sequence[str], what: str = "concept") -> int:
    """Place of a name in a list of names, or an error that names those it is like."""
    if name in names:
        return names.index(name)
    import difflib

    near = difflib.get_close_matches(name, names, 3, 0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise NotFoundError(f"There is no {what} {name!r}.{hint} There are {listed(names)}.")


def listed(names: Sequence[str], most: int = 30) -> str:
    """Names for a message, the first of them where they are many."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return (", ".join(map(str, names[:most])) or "none") + more


def write_labels(
    parent: zarr.Group,
    name: str,
    *,
    names: Sequence[str],
    n_rows: int,
    columns: Iterable[Array],
    nnz: int,
    codec: str,
) -> LabelsInfo:
    """Write labels as a group under `parent`; nothing names it yet.

    Parameters
    ----------
    n_rows
        Number of items or of samples.
    columns
        For each of `names` the rows that have it, ascending.
    nnz
        How many those are together.

    Notes
    -----
    Memory: one column and two shards.
    """
    group = parent.create_group(name)
    ids = np.dtype(np.uint32 if n_rows < 1 << 32 else np.int64)
    # Filled through these: an array that is opened again has forgotten that it writes chunks of zeros too.
    indices = create_array(group, "indices", (nnz,), ids, ("nonzero",), codec, delta="consecutive")
    data = create_array(group, "data", (nnz,), np.bool_, ("nonzero",), codec)
    rows, ones = ShardWriter(indices), ShardWriter(data)
    pointers = [0]
    for column in columns:
        rows.append(column.astype(ids))
        ones.append(np.ones(len(column), bool))
        pointers.append(pointers[-1] + len(column))
    rows.close()
    ones.close()
    write_array(group, "indptr", np.array(pointers, np.int64), ("pointer",), codec, sharded=False)
    write_array(group, "concept", np.array(list(names), np.dtypes.StringDType()), ("concept",), codec)
    return LabelsInfo(name, _seal(group, [n_rows, len(names)]))


def _seal(group: zarr.Group, shape: list[int]) -> str:
    """Give the group its attributes, digests of its arrays among them; returns the digest of its own document."""
    digests = {name: _digest_of(group, name) for name in LABEL_ARRAYS}
    group.attrs.put({**CSC_ATTRS, "shape": shape, "digests": digests})
    return _digest_of(group, "")


def _digest_of(group: zarr.Group, name: str) -> str:
    store = SnapshotStore(group.store)
    path = f"{group.path}/{name}".strip("/")
    zarr.open(store, path=path, mode="r", zarr_format=3)
    return document_digest(store.documents[f"{path}/zarr.json"])


def check_labels(labels: StoredLabels, level: str, n_rows: int) -> Iterator[tuple[str, str]]:
    """What is wrong with labels whose documents and chunks are sound: the array, and what it is.

    Memory: the rows of one concept.
    """
    n_concepts = labels.shape[1]
    # Of samples there may be more since: those have no labels yet.
    if labels.shape[0] > n_rows or (level == "item" and labels.shape[0] < n_rows):
        yield "", f"is of {labels.shape[0]} items or samples, but there are {n_rows}"
    if len(labels.names) != n_concepts or len(set(labels.names)) != n_concepts:
        yield "concept", f"does not hold {n_concepts} different names"
    pointers = labels.pointers
    if len(pointers) != n_concepts + 1 or pointers[0] != 0 or (np.diff(pointers) < 0).any():
        yield "indptr", f"does not lead over {n_concepts} concepts"
        return
    lengths = {name: labels.length(name) for name in ("indices", "data")}
    for name, length in lengths.items():
        if length != pointers[-1]:
            yield name, f"has {length} values, expected {pointers[-1]}"
    if set(lengths.values()) != {int(pointers[-1])}:
        return
    for column in range(n_concepts):
        rows = labels.rows(column).astype(np.int64)
        if (np.diff(rows) <= 0).any() or (len(rows) and not 0 <= rows[0] <= rows[-1] < labels.shape[0]):
            yield "indices", f"do not ascend within the {labels.shape[0]} items or samples in column {column}"
            break
        if not labels.values(column).all():
            yield "data", f"is false in column {column}; only what is true is stored"
            break


def check_level(level: str) -> None:
    """Refuse anything but a level."""
    if level not in LEVELS:
        raise InvalidInputError(f"level={level!r}: use 'item' or 'sample'.")
