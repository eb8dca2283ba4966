"""What a set's attributes say of its arrays and its tables; see `saestore.format`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

MATRIX = ("indptr", "indices", "data")  # the arrays of a matrix
MOST_DIGESTS = 8  # of the shards of one array, in the attributes of a set
LARGEST_SHARD = 1 << 27  # values; far above what is written, and a bound on what one digest makes a reader allocate


@dataclass(frozen=True)
class ArrayInfo:
    """One stored array, as a committed document describes it: all that a reader needs, and what it has to find."""

    # Number of values, and their dtype as Zarr names it.
    length: int
    dtype: str
    # Values per chunk and per shard; `shard` is None for an array of one chunk without shards.
    chunk: int
    shard: int | None
    n_bytes: int  # size as stored, its document included
    document: str  # SHA-256 of its ``zarr.json``
    # `shard_digest` of each shard; None for more than `MOST_DIGESTS`: its ``zarr.json`` has them as ``shards``.
    shards: tuple[str, ...] | None

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-self.length // (self.chunk if self.shard is None else self.shard))

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> ArrayInfo:
        """Parse an entry of an attribute ``arrays``."""
        shard, shards = entry["shard"], entry["shards"]
        info = cls(
            *(int(entry["length"]), str(entry["dtype"]), int(entry["chunk"]), None if shard is None else int(shard)),
            *(int(entry["n_bytes"]), str(entry["document"]), None if shards is None else tuple(map(str, shards))),
        )
        size = info.chunk if info.shard is None else info.shard
        # Before anything of that size is allocated: for every shard that is claimed there is a digest.
        if info.length < 0 or info.chunk < 1 or size < 1 or size % info.chunk or max(info.chunk, size) > LARGEST_SHARD:
            raise ValueError(f"an array has {info.length} values in chunks of {info.chunk} and shards of {info.shard}")
        if info.shards is not None:
            info.check_number(info.shards)
        return info

    def check_number(self, shards: Sequence[str]) -> None:
        """Refuse digests of another number of shards."""
        if len(shards) != self.n_shards:
            raise ValueError(f"an array of {self.length} values has digests of {len(shards)} shards")


def array_infos(entry: Any) -> dict[str, ArrayInfo]:
    """Parse an attribute ``arrays``."""
    return {str(name): ArrayInfo.from_json(info) for name, info in dict(entry).items()}


@dataclass(frozen=True)
class ConceptsInfo:
    """The concepts of a table: their names, and the groups that hold the two matrices."""

    names: tuple[str, ...]  # of the concepts, one per column
    # Names of the groups of the sparse matrices, rows x concepts: where a concept is true, and where it is unknown.
    # `unknown` is None where everything is known.
    true: str
    unknown: str | None
    n_rows: int  # rows that the matrices have; of later rows all concepts are unknown


@dataclass(frozen=True)
class TableInfo:
    """What the set's attributes say of one of its tables."""

    version: int = 0  # raised with each change. Arrays of a later version have other names than those that they replace
    # Names of the arrays by column: the values, and where some are unknown a second one that is true there.
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    concepts: ConceptsInfo | None = None  # None where the table has none
    pointers: str | None = None  # name of the array with each item's samples, or None; of ``items`` only
    arrays: Mapping[str, ArrayInfo] = field(default_factory=dict)  # every array, by its path in the table's group
    # SHA-256 of the ``zarr.json`` of each matrix' group, by name.
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def nodes(self) -> set[str]:
        """Names of the arrays and groups that are right below the table's group."""
        return {node.split("/")[0] for node in (*self.arrays, *self.groups)}

    @property
    def names(self) -> tuple[str, ...]:
        """Columns, then concepts."""
        return (*self.columns, *(self.concepts.names if self.concepts else ()))

    def to_json(self) -> dict[str, Any]:
        """Entry of the attribute ``tables``."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> TableInfo:
        """Parse an entry of the attribute ``tables``."""
        concepts, pointers = entry.get("concepts"), entry.get("pointers")
        if concepts is not None:
            unknown = concepts["unknown"]
            names = tuple(map(str, concepts["names"]))
            concepts = ConceptsInfo(
                names, str(concepts["true"]), None if unknown is None else str(unknown), int(concepts["n_rows"])
            )
        return cls(
            int(entry["version"]),
            {str(name): tuple(map(str, arrays)) for name, arrays in entry.get("columns", {}).items()},
            concepts,
            None if pointers is None else str(pointers),
            array_infos(entry.get("arrays", {})),
            {str(name): str(document) for name, document in entry.get("groups", {}).items()},
        )

    def check(self) -> None:
        """Refuse a table whose columns, concepts and pointers name what is not described."""
        of_columns = {array for arrays in self.columns.values() for array in arrays}
        matrices = [] if self.concepts is None else [self.concepts.true, self.concepts.unknown]
        of_concepts = {f"{group}/{array}" for group in filter(None, matrices) for array in MATRIX}
        lacking = (of_columns | of_concepts | ({self.pointers} if self.pointers else set())) - set(self.arrays)
        if lacking:
            raise ValueError(f"nothing is known of the array {min(lacking)}")
