"""Everything that touches a Zarr store: opening it, creating arrays, reading slices of immutable ones."""

from saestore.storage.arrays import Delta, ShardWriter, create_array, packed_bytes, stored_bytes, write_array
from saestore.storage.open import find_sets, local_folder, missing_as_error, open_root, write_errors
from saestore.storage.reader import ArrayReader, at_once, read_all, read_ranges
from saestore.storage.snapshot import SnapshotStore

__all__ = [
    "ArrayReader",
    "Delta",
    "ShardWriter",
    "SnapshotStore",
    "at_once",
    "create_array",
    "find_sets",
    "local_folder",
    "missing_as_error",
    "open_root",
    "packed_bytes",
    "read_all",
    "read_ranges",
    "stored_bytes",
    "write_array",
    "write_errors",
]
