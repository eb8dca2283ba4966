"""Which item a sample belongs to, and its position in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saestore.errors import CorruptStoreError
from saestore.format import SetAttributes
from saestore.sparse_rows import Array
from saestore.storage import ArrayReader, SnapshotStore


@dataclass(frozen=True)
class ItemIndex:
    """The samples of each item. They follow one another, so one number or a pointer array describes all items."""

    n_items: int  # number of items
    item_size: int | None  # samples per item where all have the same number, else None
    # Else int64 (n_items + 1,): item i has the samples ``ptr[i]:ptr[i + 1]``. Memory: 8 bytes per item.
    ptr: Array | None = None
    stored: ArrayReader | None = None  # what reads `ptr`, where it was not read yet

    @classmethod
    def of(cls, ptr: Array) -> ItemIndex:
        """From a pointer array."""
        sizes = np.unique(np.diff(ptr))
        if len(sizes) == 1 and sizes[0] > 0:
            return cls(len(ptr) - 1, int(sizes[0]))
        return cls(len(ptr) - 1, None, ptr)

    @classmethod
    def read(cls, store: SnapshotStore, path: str, attributes: SetAttributes) -> ItemIndex:
        """Of the set at `path`; pointers are read when they are first needed."""
        items = attributes.table("items")
        if attributes.item_size is not None or items.pointers is None:
            return cls(attributes.n_items, attributes.item_size)
        path = f"{path}/items/{items.pointers}".strip("/")
        stored = ArrayReader.described(store, path, items.arrays[items.pointers], attributes.codec)
        return cls(attributes.n_items, None, stored=stored)

    def load(self) -> None:
        """Read stored pointers now."""
        if self.item_size is None:
            self._pointers()

    def locate(self, samples: Array) -> tuple[Array, Array]:
        """Item and position of samples, int64 each."""
        if self.item_size is not None:
            items = samples // self.item_size  # which numpy does six times as fast as divmod
            starts = items * self.item_size
        else:
            ptr = self._pointers()
            items = np.searchsorted(ptr, samples, "right") - 1
            starts = ptr[items]
        return items, np.subtract(samples, starts, out=starts)  # fresh memory takes longer than the difference

    def pointers(self) -> Array:
        """The pointer array, int64 (n_items + 1,)."""
        if self.item_size is not None:
            return np.arange(self.n_items + 1, dtype=np.int64) * self.item_size
        return self._pointers()

    def _pointers(self) -> Array:
        if self.ptr is None and self.stored is not None:
            ptr = self.stored.read(0, self.stored.length)
            if ptr.dtype != np.int64 or not len(ptr) or ptr[0] != 0 or (np.diff(ptr) < 0).any():
                raise CorruptStoreError(f"{self.stored.path} does not ascend from 0.")
            object.__setattr__(self, "ptr", ptr)
        if self.ptr is None:
            raise RuntimeError("an item index needs a size or pointers")
        return self.ptr
