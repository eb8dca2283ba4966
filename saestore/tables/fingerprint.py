"""Digests of what a set is built with beside its rows, by which a build knows its own."""

from __future__ import annotations

import hashlib

import numpy as np

from saestore.format import digest
from saestore.sparse_rows import Array
from saestore.tables.item_index import ItemIndex
from saestore.tables.items import Items


def items_fingerprint(items: Items | None, index: ItemIndex) -> str:
    """Digest of the items and of which rows belong to which."""
    table = None
    if items is not None:
        table = {
            "key": items.key.tolist(),
            "columns": {k: [str(x) for x in v.tolist()] for k, v in items.columns.items()},
            "concepts": {
                name: [np.packbits(bits).tobytes().hex() for bits in (np.ma.filled(v, False), np.ma.getmaskarray(v))]
                for name, v in items.concepts.items()
            },
        }
    pointers = None if index.item_size is not None else index.pointers().tolist()
    return digest([table, index.n_items, index.item_size, pointers])


def spans_fingerprint(spans: Array) -> str:
    """Digest of the characters of tokens."""
    return hashlib.sha256(np.ascontiguousarray(spans).tobytes()).hexdigest()
