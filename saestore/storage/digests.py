"""The digests of shards, which a committed document holds: what is read is held against them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from saestore.errors import CorruptStoreError
from saestore.format import document_digest
from saestore.storage.batch import DOCUMENT
from saestore.storage.snapshot import SnapshotStore
from saestore.table_info import ArrayInfo


class Digests:
    """The digests of the shards of arrays, by array: those that a committed document holds.

    `key`, `parse`: Where the document is that holds them, and what makes them of its bytes, or refuses it. It is read
    together with the first shards.
    """

    def __init__(self, key: str, parse: Callable[[bytes], Mapping[str, Sequence[str]]]) -> None:
        self.key = key
        self._parse = parse
        self._shards: Mapping[str, Sequence[str]] | None = None

    @property
    def is_known(self) -> bool:
        """Whether the document was read."""
        return self._shards is not None

    @classmethod
    def known(cls, shards: Mapping[str, Sequence[str]]) -> Digests:
        """Those that were read already."""
        digests = cls("", lambda _: shards)
        digests.load(b"")
        return digests

    @classmethod
    def described(cls, path: str, info: ArrayInfo) -> Digests:
        """Of the array at `path` that the set's attributes describe."""
        if info.shards is not None:
            return cls.known({"": info.shards})
        return cls(f"{path.strip('/')}/{DOCUMENT}", partial(_shards_in, info))

    def load(self, document: bytes) -> None:
        """Take the document, which must be the one that was committed."""
        self._shards = self._parse(document)

    def fetch(self, store: SnapshotStore) -> None:
        """Read the document, unless that was done."""
        if not self.is_known:
            self.load(store.fetch([(self.key, None)])[0])

    def of(self, name: str, shard: int) -> str:
        """The digest of one shard of an array."""
        return (self._shards or {})[name][shard]


def _shards_in(info: ArrayInfo, document: bytes) -> Mapping[str, Sequence[str]]:
    """The digests of the shards of an array from its own document, which must be the one that was committed."""
    if document_digest(document) != info.document:
        raise CorruptStoreError(f"The {DOCUMENT} of an array does not agree with its digest. Run `saestore verify`.")
    shards = json.loads(document)["attributes"]["shards"]
    info.check_number(shards)
    return {"": shards}
