"""Format 1 in Python: constants, and the attributes of an activation set as validated dataclasses.

``docs/format.md`` is the normative text; this module and `saestore.table_info` are its only copy in code. Nothing here
touches a store.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from saestore.errors import InvalidInputError, StoreFormatError, shown
from saestore.table_info import LARGEST_SHARD, ArrayInfo, TableInfo, array_infos
from saestore.vocabulary import DATA_DTYPES

FORMAT_VERSION = 1
SET_LEVELS = ("dataset", "sample_type", "sae")  # the groups that make the path of an activation set

# A chunk is what a query decodes: 16,384 values decode in 0.03 ms, less than the file system takes to hand them over.
# Half as many would make writing a third slower, for a top-20 that is 0.05 ms faster. Rows, which are asked for one by
# one, lie in chunks of a quarter of it.
CHUNK = 1 << 14
# A shard is what a writer writes and an object store holds: some 10 MB compressed, 256 chunks, an index of 4 KiB.
SHARD = 1 << 22
MAX_ROWS_PER_SEGMENT = (1 << 32) - 1  # sample numbers inside a segment are uint32
DEFAULT_SEGMENT_ROWS = 1 << 16

SEGMENTS = "segments"
DELETED = "deleted"  # attribute of the store: how many sets were deleted from it
NEXT = "next"  # holds the attributes of a set that will replace this one
ATTEMPT = "+"  # in the name of a segment that one of several attempts at a task wrote
TASKS = "tasks"  # holds the receipts of the tasks of a planned set
BY_SAMPLE, BY_FEATURE = "by_sample", "by_feature"
CSR_ATTRS = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0"}
CSC_ATTRS = {"encoding-type": "csc_matrix", "encoding-version": "0.1.0"}

TABLES = ("samples", "items", "features")
LEVEL_TABLES = {"sample": "samples", "item": "items"}  # the tables that have concepts
KEY, TOKEN_SPANS = "key", ("token_start", "token_stop")
SOURCE_ROW = "source_row"  # of samples: the row of the input, where not all of its rows became samples
# What an expression and an xarray dataset call something else.
RESERVED = ("item", "position", "sample", "feature")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z")
_LONGEST_NAME = 255  # bytes, on most file systems


def feature_dtype(n_features: int) -> np.dtype[Any]:
    """Dtype of stored feature ids: uint16 up to 65,536 features, uint32 above."""
    return np.dtype(np.uint16 if n_features <= 1 << 16 else np.uint32)


def default_segment_rows(l0: float) -> int:
    """Rows of a segment of about two million non-zeros: a power of two from 256 to 65,536."""
    return min(DEFAULT_SEGMENT_ROWS, max(1 << 8, 1 << int(np.log2((1 << 21) / max(1.0, l0)))))


def stripped_path(path: Any) -> str:
    """The path of a set, or a part of one, without slashes around it."""
    if not isinstance(path, str):
        raise InvalidInputError(f"path={shown(path)}: name a set, such as 'CLEVR/patch'.", code="invalid-set-path")
    return path.strip("/")


def split_set_path(path: str) -> tuple[str, str, str]:
    """Split ``dataset/sample_type/sae`` into its parts, refusing anything else, such as a leading slash or ``..``."""
    parts = str(path).split("/")
    if len(parts) != len(SET_LEVELS) or not all(_NAME.match(p) and len(p) <= _LONGEST_NAME for p in parts):
        raise InvalidInputError(
            f"{path!r} is not the path of an activation set: write dataset/sample_type/sae, such as "
            "CLEVR/patch/clip-scope-22, in letters, digits, '.', '_', '+' and '-'; each part begins with a letter or "
            f"digit and has at most {_LONGEST_NAME} characters.",
            code="invalid-set-path",
        )
    return parts[0], parts[1], parts[2]


def canonical_json(value: Any) -> bytes:
    """One byte string for one JSON value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Any) -> str:
    """SHA-256, in hex, of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


@dataclass(frozen=True)
class SegmentInfo:
    """One committed segment: rows ``start`` to ``stop``, ``nnz`` non-zeros."""

    start: int
    stop: int
    nnz: int
    # SHA-256 of the ``zarr.json`` of the segment's group, which holds the digests of the documents below it and of
    # every shard.
    digest: str
    name: str  # name of its group under ``segments``: ``<start>-<stop>``, or with an attempt's suffix
    n_bytes: int  # size of its arrays as stored, their documents included
    # Most values of a chunk and of a shard; the sizes of every array follow from them.
    chunk: int = CHUNK
    shard: int = SHARD

    @property
    def n_rows(self) -> int:
        """Number of samples in the segment."""
        return self.stop - self.start

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> SegmentInfo:
        """Parse an entry of the attribute ``segments``."""
        start, stop, nnz = (int(entry[name]) for name in ("start", "stop", "nnz"))
        sizes = (int(entry[name]) for name in ("n_bytes", "chunk", "shard"))
        info = cls(start, stop, nnz, str(entry["digest"]), str(entry["name"]), *sizes)
        if not _NAME.match(info.name):
            raise ValueError(f"{info.name!r} is not the name of a segment")
        if nnz < 0 or not 1 <= info.chunk <= info.shard <= LARGEST_SHARD:
            raise ValueError(f"segment {info.name} has {nnz} non-zeros in chunks of {info.chunk}")
        return info


def segment_name(start: int, stop: int, generation: int = 1) -> str:
    """Name of the group of a segment; a set that replaces another one has other names."""
    return f"{start}-{stop}" if generation == 1 else f"{start}-{stop}.{generation}"


def document_digest(document: bytes) -> str:
    """SHA-256, in hex, of the bytes of a metadata document."""
    return hashlib.sha256(document).hexdigest()


def shard_digest(content: bytes) -> str:
    """First 64 bits, in hex, of the SHA-256 of a shard's tail, or of the one chunk of an array without shards."""
    return hashlib.sha256(content).hexdigest()[:16]


# Attributes of a set that are taken as they are written, and those that are written only where they are known.
_AS_WRITTEN = ("item_size", "planned_samples", "sae", "source", "dropped", "summary")
_OPTIONAL = ("dead_features", "plan")


@dataclass(frozen=True)
class SetAttributes:
    """The attributes of an activation set; rewriting them is the only commit."""

    n_features: int  # width of the SAE, ``d_sae``
    dtype: str  # dtype of the stored activations: float16, float32 or float64
    codec: str = "pcodec"  # ``pcodec`` or ``blosc``
    segments: tuple[SegmentInfo, ...] = ()  # the committed segments, consecutive from sample 0
    # Number of items, and samples per item where all have the same number, else None (``items`` has pointers then).
    n_items: int = 0
    item_size: int | None = 1
    # Rows that the build will write in all; None once complete, and for ready matrices.
    planned_samples: int | None = None
    segment_rows: int = DEFAULT_SEGMENT_ROWS  # rows per segment while writing
    # Provenance: the SAE and where the embeddings came from, as JSON.
    sae: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    # What ``top_k`` or a narrower dtype dropped, or None where the set is lossless.
    dropped: Mapping[str, Any] | None = None
    # Figures of the finished build that cannot be derived from the arrays, such as the explained variance.
    summary: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, TableInfo] = field(default_factory=dict)  # the tables that have columns, by name (`TABLES`)
    arrays: Mapping[str, ArrayInfo] = field(default_factory=dict)  # the arrays at the set's root, by name
    derived: tuple[str, ...] = ()  # names of the segments that the arrays at the set's root cover
    # Features that are active in no committed sample, or None where they were not counted.
    dead_features: int | None = None
    # How many sets there were at this path, each replaced by the next; part of the names of segments from 2 on.
    generation: int = 1
    # SHA-256 of the attributes that the set began with: other content, or another generation, has another one.
    identity: str = ""
    # How the tasks of several processes write the set, until their segments are committed; else None.
    plan: Mapping[str, Any] | None = None

    @property
    def n_samples(self) -> int:
        """Number of committed samples."""
        return self.segments[-1].stop if self.segments else 0

    @property
    def nnz(self) -> int:
        """Number of committed non-zeros."""
        return sum(s.nnz for s in self.segments)

    @property
    def stored_bytes(self) -> int:
        """Size of all arrays as stored, their documents included."""
        arrays = [*self.arrays.values(), *(a for table in self.tables.values() for a in table.arrays.values())]
        return sum(s.n_bytes for s in self.segments) + sum(a.n_bytes for a in arrays)

    @property
    def complete(self) -> bool:
        """True when nothing is left to build."""
        return self.planned_samples is None

    @property
    def is_derived(self) -> bool:
        """True where the arrays at the root cover the present segments."""
        return bool(self.segments) and self.derived == tuple(s.name for s in self.segments)

    def table(self, name: str) -> TableInfo:
        """A table, which may have no columns."""
        return self.tables.get(name, TableInfo())

    def n_rows(self, table: str) -> int:
        """Number of rows of a table; of samples those that are committed."""
        return {"samples": self.n_samples, "items": self.n_items, "features": self.n_features}[table]

    def with_table(self, name: str, table: TableInfo) -> SetAttributes:
        """Same set, with this table."""
        return replace(self, tables={**self.tables, name: table})

    def with_segments(self, segments: Sequence[SegmentInfo]) -> SetAttributes:
        """Same set, with these committed segments."""
        return replace(self, segments=tuple(segments))

    def to_json(self) -> dict[str, Any]:
        """The attributes as written, their own checksum included."""
        values = {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(self).items()}
        for name in _OPTIONAL:
            if values[name] is None:
                del values[name]
        body: dict[str, Any] = {
            **values,
            "format": FORMAT_VERSION,
            "encoding-type": "saestore-activation-set",
            "n_samples": self.n_samples,
            "segments": [asdict(s) for s in self.segments],
            "tables": {name: table.to_json() for name, table in self.tables.items()},
            "arrays": {name: asdict(info) for name, info in self.arrays.items()},
        }
        body = json.loads(canonical_json(body))  # what a reader will see, so that the checksum is of that
        return {**body, "checksum": digest(body)}

    @classmethod
    def from_json(cls, attrs: Mapping[str, Any], where: str) -> SetAttributes:
        """Parse and validate the attributes of the set at `where`; a newer format is a `StoreFormatError`."""
        check_version(attrs, where)
        if attrs.get("checksum") != digest({name: value for name, value in attrs.items() if name != "checksum"}):
            raise StoreFormatError(
                f"The attributes of {where} do not agree with their checksum: its zarr.json was damaged or changed by "
                "hand. Restore it from a copy.",
                code="edited-document",
            )
        try:
            known: dict[str, Any] = {name: attrs[name] for name in _AS_WRITTEN}
            known |= {name: attrs.get(name) for name in _OPTIONAL}
            result = cls(
                n_features=int(attrs["n_features"]),
                dtype=str(attrs["dtype"]),
                codec=str(attrs["codec"]),
                segments=tuple(SegmentInfo.from_json(entry) for entry in attrs["segments"]),
                n_items=int(attrs["n_items"]),
                segment_rows=int(attrs["segment_rows"]),
                tables={name: TableInfo.from_json(entry) for name, entry in attrs["tables"].items()},
                arrays=array_infos(attrs["arrays"]),
                derived=tuple(attrs["derived"]),
                generation=int(attrs["generation"]),
                identity=str(attrs["identity"]),
                **known,
            )
            result._validate()
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise StoreFormatError(
                f"The attributes of {where} are not attributes of a format {FORMAT_VERSION} activation set "
                f"({type(e).__name__}: {e}). They were damaged or changed by hand: restore its zarr.json from a copy.",
                code="invalid-attributes",
            ) from e
        return result

    def _validate(self) -> None:
        expected = 0
        for s in self.segments:
            if s.start != expected or not s.start < s.stop or s.n_rows > MAX_ROWS_PER_SEGMENT:
                raise ValueError(f"segment {s.name} does not follow sample {expected}")
            expected = s.stop
        if self.dtype not in DATA_DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(DATA_DTYPES)}")
        if self.n_features < 1 or self.n_items < 0 or self.segment_rows < 1:
            raise ValueError("n_features, n_items or segment_rows is out of range")
        optional = {"item_size": 1, "planned_samples": 1, "dead_features": 0}  # and the least of each
        for name, least in optional.items():
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise ValueError(f"{name} is {value!r}")
        if len({s.name for s in self.segments}) != len(self.segments):
            raise ValueError("two segments have the same name")
        for mapping in (self.sae, self.source, self.summary, self.dropped or {}, self.plan or {}):
            if not isinstance(mapping, Mapping):
                raise TypeError(f"{mapping!r} is not an object")
        self._validate_tables()

    def _validate_tables(self) -> None:
        if not set(self.tables) <= set(TABLES):
            raise ValueError(f"there are tables {', '.join(self.tables)}")
        if self.item_size is None and self.table("items").pointers is None:
            raise ValueError("item_size is null, and the items have no pointers")
        for table in self.tables.values():
            table.check()
        items = self.table("items")
        if items.pointers is not None and items.arrays[items.pointers].length != self.n_items + 1:
            raise ValueError(f"there are {self.n_items} items, and pointers of another number")


def check_version(attrs: Mapping[str, Any], where: str) -> None:
    """Refuse attributes of another format version with one clear error."""
    version = attrs.get("format")
    if version is None:
        raise StoreFormatError(
            f"{where} is a Zarr group but no saestore activation set (it has no attribute 'format').",
            code="not-a-set",
        )
    if version != FORMAT_VERSION:
        raise StoreFormatError(
            f"{where} is of format {version!r}; this version of saestore reads format {FORMAT_VERSION}. "
            "Upgrade with `pip install --upgrade saestore`.",
            code="newer-format",
        )
