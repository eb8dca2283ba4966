"""Everything that touches a Zarr store: opening it, creating arrays, reading slices of immutable ones."""

from saestore.storage.arrays import ShardWriter, create_array, stored_bytes, write_array
from saestore.storage.open import find_sets, local_folder, missing_as_error, open_root, write_errors
from saestore.storage.reader import ArrayReader, SnapshotStore, read_all

__all__ = [
    "ArrayReader",
    "ShardWriter",
    "SnapshotStore",
    "create_array",
    "find_sets",
    "local_folder",
    "missing_as_error",
    "open_root",
    "read_all",
    "stored_bytes",
    "write_array",
    "write_errors",
]
