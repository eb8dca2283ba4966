"""Everything that touches a Zarr store: opening it, creating arrays, reading slices of immutable ones."""

from saestore.storage.arrays import (
    ArrayWriter,
    Delta,
    NewArray,
    Written,
    array_info,
    begin_array,
    chunk_sizes,
    packed_bytes,
    write_array,
)
from saestore.storage.batch import DOCUMENT, WriteBatch, group_document
from saestore.storage.digests import Digests
from saestore.storage.open import (
    LocalRoot,
    Root,
    group_of,
    local_folder,
    local_root,
    missing_as_error,
    open_root,
    place_name,
    save_file,
    write_errors,
)
from saestore.storage.reader import ArrayReader, hold_small, prefetch, read_all, read_many
from saestore.storage.sets import find_sets, is_set_at, read_attributes
from saestore.storage.snapshot import SnapshotStore
from saestore.storage.threads import at_once, in_order, keep_freed_memory, n_threads

__all__ = [
    "DOCUMENT",
    "ArrayReader",
    "ArrayWriter",
    "Delta",
    "Digests",
    "LocalRoot",
    "NewArray",
    "Root",
    "SnapshotStore",
    "WriteBatch",
    "Written",
    "array_info",
    "at_once",
    "begin_array",
    "chunk_sizes",
    "find_sets",
    "group_document",
    "group_of",
    "hold_small",
    "in_order",
    "is_set_at",
    "keep_freed_memory",
    "local_folder",
    "local_root",
    "missing_as_error",
    "n_threads",
    "open_root",
    "packed_bytes",
    "place_name",
    "prefetch",
    "read_all",
    "read_attributes",
    "read_many",
    "save_file",
    "write_array",
    "write_errors",
]
