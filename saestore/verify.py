"""Re-reading a whole store and checking everything that can be checked.

The set's attributes carry their own checksum and hold the digest of every segment's document, which holds the digests
of all documents and shards below it. For arrays of tables and derived arrays the attributes hold the digests. A
document without a digest can only look one way. So a flipped byte, a foreign or a stale file is found and named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from saestore.errors import CorruptStoreError, SaestoreError, UnreachableError
from saestore.format import BY_FEATURE, BY_SAMPLE, KEY, SEGMENTS, SET_LEVELS, TABLES, SetAttributes, document_digest
from saestore.segment.arrays import arrays_of
from saestore.segment.check import check_segment
from saestore.segment.read import Segment, read_moments
from saestore.sparse_rows import Array
from saestore.stats import STATISTICS
from saestore.storage import (
    DOCUMENT,
    ArrayReader,
    SnapshotStore,
    find_sets,
    local_folder,
    missing_as_error,
    read_attributes,
)
from saestore.storage.durable import drafts
from saestore.storage.open import root_attributes
from saestore.table_info import MATRIX, ArrayInfo
from saestore.tables.item_index import ItemIndex
from saestore.tables.stored_table import StoredTable
from saestore.writing.commits import n_deleted
from saestore.writing.derived import DERIVED, PER_SAMPLE, dead_features, per_sample
from saestore.writing.lock import LOCK, holder_of

Finding = tuple[str, str]
Progress = Callable[[str], None]
_ROWS = 1 << 20
_DAMAGED = "does not agree with its digest; it was damaged or changed by hand"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the set (or ""), the node in the store, and what it is."""

    path: str
    node: str
    what: str

    def __str__(self) -> str:
        return f"{self.node}: {self.what}"


@dataclass(frozen=True)
class Report:
    """What a verification found; it is true when nothing is wrong."""

    checked: tuple[str, ...]
    problems: tuple[Problem, ...]

    def __bool__(self) -> bool:
        return self.ok

    @property
    def ok(self) -> bool:
        """True when nothing is wrong."""
        return not self.problems


def verify_store(root: zarr.Group, progress: Progress | None = None) -> Report:
    """Re-read everything in a store: its sets as `verify_set` does, and everything else in it."""
    paths, unreadable = find_sets(root)
    problems = [Problem("", node, str(e)) for node, e in unreadable.items()]
    problems += [p for path in paths for p in _set_problems(root, path, progress)]
    problems += [Problem("", *f) for f in _check_parents(root, paths)]
    problems += [Problem("", *f) for f in _check_strays(root, [*paths, *unreadable])]
    return Report(tuple(paths), tuple(problems))


def verify_set(root: zarr.Group, path: str, progress: Progress | None = None) -> Report:
    """Re-read one activation set and check it.

    Both orders hold the same entries; rows ascend; features are in impact order; statistics and counts are right;
    metadata and chunks agree with their checksums; nothing lies there that the attributes do not name. Entries are
    compared by a 128-bit sum of hashes, not pairwise. Memory: a block of about 4 million entries and the pointers of
    one segment.
    """
    problems = _set_problems(root, path, progress) + [Problem("", *f) for f in _check_parents(root, [path])]
    return Report((path,), tuple(problems))


def _set_problems(root: zarr.Group, path: str, progress: Progress | None) -> list[Problem]:
    found = _guarded(path, _check_set(root, path, progress or (lambda _: None)))
    return [Problem(path, node, what) for node, what in found]


def _guarded(node: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Go on with the rest of the store where one part of it is damaged so that it cannot be checked."""
    try:
        with missing_as_error(node):
            yield from findings
    except UnreachableError:
        raise  # nothing is known of what cannot be read now
    except SaestoreError as e:
        yield node, str(e)


def _check_set(root: zarr.Group, path: str, progress: Progress) -> Iterator[Finding]:
    attributes = read_attributes(root, path)
    if attributes is None:
        yield path, "is not an activation set"
        return
    yield from _check_document(root, path, None)
    yield from _check_document(root, f"{path}/{SEGMENTS}", {})
    store, base = SnapshotStore(root.store), f"{root.path}/{path}".strip("/")
    found: list[Finding] = []
    for info in attributes.segments:
        progress(f"{path}: segment {info.name}")
        node = f"{path}/{SEGMENTS}/{info.name}"
        found += _guarded(node, _check_segment(Segment(store, base, info, attributes), node))
    progress(f"{path}: tables and derived arrays")
    for name in attributes.tables:
        yield from _check_document(root, f"{path}/{name}", {})
        found += _guarded(f"{path}/{name}", _check_table(store, base, path, name, attributes))
    found += _guarded(path, _check_derived(store, base, attributes, path, intact=not found))
    yield from found
    yield from _guarded(path, _check_leftovers(root, attributes, path, {node for node, _ in found}))


def _check_segment(segment: Segment, node: str) -> Iterator[Finding]:
    (raw,) = segment.store.find([(f"{segment.path}/{DOCUMENT}", None)])
    if raw is None:
        yield node, f"its {DOCUMENT} is missing"
        return
    try:
        described = segment.parse(raw)
    except CorruptStoreError as e:
        yield node, str(e)
        return
    documents = dict(described["groups"]) | {name: array["document"] for name, array in described["arrays"].items()}
    found = dict(_check_digests(segment.store, segment.path, documents))
    yield from ((f"{node}/{name}", what) for name, what in found.items())
    checked = check_segment(segment, segment.n_features, segment.arrays[f"{BY_SAMPLE}/data"].dtype)
    yield from ((f"{node}/{name}", what) for name, what in checked if name not in found)


def _check_digests(store: SnapshotStore, base: str, expected: Mapping[str, str]) -> Iterator[Finding]:
    """Documents that do not agree with their digests, by node below `base`."""
    found = store.find([(f"{base}/{node}/{DOCUMENT}", None) for node in expected])
    for (node, digest_of_document), raw in zip(expected.items(), found, strict=True):
        if raw is None:
            yield node, f"its {DOCUMENT} is missing"
        elif document_digest(raw) != digest_of_document:
            yield node, f"its {DOCUMENT} {_DAMAGED}"


def _check_document(root: zarr.Group, path: str, attributes: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Check a group's document that no digest covers: only what saestore writes, spaced as JSON is dumped."""
    key = f"{root.path}/{path}/{DOCUMENT}".replace("//", "/").strip("/")
    (raw,) = SnapshotStore(root.store).find([(key, None)])
    if raw is None:
        yield path or "/", f"its {DOCUMENT} is missing"
        return
    try:
        parsed = dict(json.loads(raw))
    except (ValueError, TypeError, RecursionError):
        yield path or "/", f"its {DOCUMENT} is not a JSON object"
        return
    known = {"zarr_format": 3, "node_type": "group"}
    rest = {k: v for k, v in parsed.items() if k != "attributes"}
    wrong = rest != known or (attributes is not None and parsed.get("attributes") != attributes)
    if wrong or all(raw != json.dumps(parsed, indent=indent).encode() for indent in (2, None, 0, 1, 3, 4, 8)):
        yield path or "/", f"its {DOCUMENT} is not what saestore writes; it was damaged or changed by hand"


def _check_parents(root: zarr.Group, paths: Iterable[str]) -> Iterator[Finding]:
    parents = {"/".join(p.split("/")[:n]) for p in paths for n in (1, 2)}
    deleted = 0
    with suppress(Exception):  # a damaged document is named below
        deleted = n_deleted(root)[0]
    yield from _check_document(root, "", root_attributes(deleted))
    for parent in sorted(parents):
        yield from _check_document(root, parent, {})


def _check_strays(root: zarr.Group, known: Iterable[str]) -> Iterator[Finding]:
    """What is in the store and belongs to no set: in a local folder any file, elsewhere any group."""
    known = tuple(known)
    parents = {"", *("/".join(p.split("/")[:n]) for p in known for n in (1, 2))}
    folder = local_folder(root)
    if folder is None:
        nodes, store = (
            [""],
            SnapshotStore(root.store),
        )  # by their names: what lacks the document of its group is no group
        for _ in SET_LEVELS:
            below = [(node, store.names(f"{root.path}/{node}".strip("/")) - {DOCUMENT}) for node in nodes]
            nodes = sorted(f"{node}/{name}".lstrip("/") for node, names in below for name in names)
        strays = [n for n in nodes if n not in known and holder_of(root, n) is None]
    else:
        # Groups of a dataset whose sets were deleted stay: another writer may just have found them there.
        empty = (f.parent.relative_to(folder).as_posix() for n in ("*", "*/*") for f in folder.glob(f"{n}/{DOCUMENT}"))
        parents |= {group for group in empty if not any(_check_document(root, group, {}))}
        documents = {f"{p}/zarr.json".lstrip("/") for p in parents}
        documents |= {d.relative_to(folder).as_posix() for p in parents for d in drafts(folder / p, old=False)}
        names = (f.relative_to(folder).as_posix() for f in sorted(folder.rglob("*")) if f.is_file())
        strays = [n for n in names if n not in documents and not any(n.startswith(f"{s}/") for s in known)]
    for name in strays:
        yield name, "belongs to no activation set of the store; `saestore delete` removes what is left of one"


def _check_table(store: SnapshotStore, base: str, path: str, name: str, attributes: SetAttributes) -> Iterator[Finding]:
    """Every column readable, of a length and dtype that it can have; concepts in canonical form."""
    info, node = attributes.table(name), f"{path}/{name}"
    documents = {**info.groups, **{each: array.document for each, array in info.arrays.items()}}
    unreadable = _unreadable(store, f"{base}/{name}", info.arrays, attributes.codec)
    wrong = {**unreadable, **dict(_check_digests(store, f"{base}/{name}", documents))}
    yield from ((f"{node}/{each}", what) for each, what in wrong.items())
    table = StoredTable(store, base, name, attributes)
    for column, arrays in info.columns.items():
        if unreadable.keys().isdisjoint(arrays):
            for each, what in _check_column(table, column, arrays, attributes):
                yield f"{node}/{each}", what
    if info.pointers is not None and info.pointers not in unreadable:
        pointers = table.reader(info.pointers).read(0, attributes.n_items + 1)
        if pointers[0] != 0 or (np.diff(pointers) < 0).any() or pointers[-1] < attributes.n_samples:
            yield f"{node}/{info.pointers}", "does not ascend from 0 to the number of samples"
    for each, what in _check_concepts(table, unreadable):
        yield f"{node}/{each}", what


def _check_column(
    table: StoredTable, name: str, arrays: tuple[str, ...], attributes: SetAttributes
) -> Iterator[Finding]:
    readers = [table.reader(array) for array in arrays]
    # Columns may be older than rows that were appended, and of samples that are still to come there may be values.
    most = max(table.n_rows, attributes.planned_samples or 0) if table.name == "samples" else table.n_rows
    shortest = table.n_rows if table.name == "features" else 0
    if not shortest <= readers[0].length <= most:
        yield arrays[0], f"has {readers[0].length} values; the {table.name} are {table.n_rows}"
    if readers[0].dtype.kind not in "biufT":
        yield arrays[0], f"has the dtype {readers[0].dtype}, which no column has"
    if len(readers) > 1 and (readers[1].length, readers[1].dtype) != (readers[0].length, np.dtype(bool)):
        yield arrays[1], f"has {readers[1].length} values of {readers[1].dtype}, expected {readers[0].length} of bool"
    if name == KEY and len(readers) > 1:
        yield arrays[1], "marks keys of items as unknown"


def _check_concepts(table: StoredTable, unreadable: Collection[str]) -> Iterator[Finding]:
    info = table.info.concepts
    if info is None:
        return
    if len(set(table.info.names)) != len(table.info.names):
        yield info.true, "has two columns or concepts of the same name"
    for group in filter(None, (info.true, info.unknown)):
        if not {f"{group}/{array}" for array in MATRIX} & set(unreadable):
            readers = {array: table.reader(f"{group}/{array}") for array in MATRIX}
            read = {array: reader.read(0, reader.length) for array, reader in readers.items()}
            for array, what in _check_matrix(read, info.n_rows, len(info.names)):
                yield f"{group}/{array}", what


def _check_matrix(arrays: Mapping[str, Array], n_rows: int, n_concepts: int) -> Iterator[Finding]:
    """A matrix of concepts holds sorted rows without doubles, and nothing but true."""
    indptr, indices, data = (arrays[name] for name in MATRIX)
    if len(indptr) != n_concepts + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any():
        yield "indptr", f"does not lead over {n_concepts} concepts"
        return
    for name in ("indices", "data"):
        if len(arrays[name]) != indptr[-1]:
            yield name, f"has {len(arrays[name])} values, expected {indptr[-1]}"
            return
    column = np.repeat(np.arange(n_concepts), np.diff(indptr))
    if ((np.diff(indices.astype(np.int64)) <= 0) & (np.diff(column) == 0)).any() or (indices >= n_rows).any():
        yield "indices", f"do not ascend within {n_rows} rows in every column"
    if not data.all():
        yield "data", "is false somewhere; only true is stored"


def _unreadable(store: SnapshotStore, base: str, arrays: Mapping[str, ArrayInfo], codec: str) -> dict[str, str]:
    """Why arrays below `base` cannot be read, a million rows at a time, by their names."""
    found = {}
    for name, info in arrays.items():
        try:
            reader = ArrayReader.described(store, f"{base}/{name}", info, codec)
            for start in range(0, reader.length, _ROWS):
                reader.read(start, min(start + _ROWS, reader.length))
        except CorruptStoreError as e:
            found[name] = str(e)
    return found


def _check_derived(
    store: SnapshotStore, base: str, attributes: SetAttributes, path: str, *, intact: bool
) -> Iterator[Finding]:
    """The arrays at the root; where they cover the present segments, and all else is intact, also what they say."""
    arrays = attributes.arrays
    unreadable = _unreadable(store, base, arrays, attributes.codec)
    unreadable |= _check_digests(store, base, {name: info.document for name, info in arrays.items()})
    yield from ((f"{path}/{name}", what) for name, what in unreadable.items())
    if not intact or not attributes.segments:
        return
    segments = [Segment(store, base, info, attributes) for info in attributes.segments]
    moments = read_moments(segments)
    if attributes.dead_features not in (None, dead_features(moments)):
        yield path, f"has {dead_features(moments):,} dead features, not {attributes.dead_features:,}"
    if not attributes.is_derived:
        return
    index = ItemIndex.read(store, base, attributes)
    for name in set(DERIVED) & set(arrays) - set(unreadable):
        reader = ArrayReader.described(store, f"{base}/{name}", arrays[name], attributes.codec)
        if name in PER_SAMPLE:
            agrees = _agrees(reader, name, segments, index)
        else:
            (statistic,) = (s for s in STATISTICS if s.name == name)
            found, expected = reader.read(0, reader.length), statistic.of(moments)
            agrees = np.allclose(found, expected, rtol=1e-9, atol=0, equal_nan=True)
        if not agrees:
            yield f"{path}/{name}", "does not agree with the segments"


def _agrees(reader: ArrayReader, name: str, segments: list[Segment], index: ItemIndex) -> bool:
    """Whether a per-sample array at the root equals the arrays of the segments."""
    for segment in segments:
        for start in range(segment.info.start, segment.info.stop, _ROWS):
            stop = min(start + _ROWS, segment.info.stop)
            if not np.array_equal(reader.read(start, stop), per_sample(segment, index, start, stop)[name]):
                return False
    return True


def _check_leftovers(
    root: zarr.Group, attributes: SetAttributes, path: str, damaged: Collection[str]
) -> Iterator[Finding]:
    """What the attributes do not name; while a builder holds the lock or tasks are planned, it may be their work."""
    if holder_of(root, path) is not None or attributes.plan is not None:
        return
    group: Any = root[path]
    if LOCK in group:
        yield f"{path}/{LOCK}", "is the lock of a process that is gone; the next build takes it over"
    folder = local_folder(group)
    if folder is None:
        named = {SEGMENTS: {s.name for s in attributes.segments}}
        named |= {name: attributes.table(name).nodes for name in TABLES}
        for parent, names in named.items():
            below = SnapshotStore(root.store).names(f"{group.path}/{parent}")
            for name in sorted(below - names - {DOCUMENT}):
                yield f"{path}/{parent}/{name}", "is named by no attributes; the next build removes it"
        return
    expected = _expected_files(attributes)
    present = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    # The next writer replaces these under the same names.
    harmless = [f"{table}/{DOCUMENT}" for table in TABLES]
    harmless += [f"{name}/" for name in DERIVED if name not in attributes.arrays]
    for name in sorted(present - expected):
        if not name.startswith((f"{LOCK}/", *harmless)):
            yield f"{path}/{name}", "is named by no attributes; the next build removes it"
    known = tuple(f"{node}/" for node in damaged)
    for name in sorted(expected - present):
        if not f"{path}/{name}".startswith(known):
            yield f"{path}/{name}", "is missing"


def _expected_files(attributes: SetAttributes) -> set[str]:
    """Every file that a set in a local folder consists of, relative to it."""
    groups, shards = ["", SEGMENTS, *attributes.tables], {n: a.n_shards for n, a in attributes.arrays.items()}
    for info in attributes.segments:
        base = f"{SEGMENTS}/{info.name}"
        arrays = arrays_of(info, attributes)
        groups += [base, f"{base}/{BY_SAMPLE}", f"{base}/{BY_FEATURE}"]
        shards |= {f"{base}/{n}": array.layout_in(info.chunk, info.shard).n_shards for n, array in arrays.items()}
    for table, of in attributes.tables.items():
        groups += [f"{table}/{name}" for name in of.groups]
        shards |= {f"{table}/{name}": array.n_shards for name, array in of.arrays.items()}
    files = {f"{node}/{DOCUMENT}".lstrip("/") for node in (*groups, *shards)}
    return files | {f"{name}/c/{shard}" for name, n in shards.items() for shard in range(n)}
