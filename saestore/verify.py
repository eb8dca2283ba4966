"""Re-reading a whole store and checking everything that can be checked.

Every chunk carries a checksum; every metadata document has a digest in the set's attributes, or in a document that has
one, or can only look one way. So a flipped byte anywhere is found, and the array or document it is in is named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from saestore.errors import CorruptStoreError, SaestoreError, UnreachableError
from saestore.format import KEY, SEGMENTS, SetAttributes, document_digest
from saestore.segment import Segment, read_moments
from saestore.segment.check import check_segment
from saestore.segment.write import segment_nodes
from saestore.stats import STATISTICS, Moments
from saestore.storage import DOCUMENT, SnapshotStore, find_sets, local_folder, missing_as_error
from saestore.storage.open import root_attributes
from saestore.tables.item_index import ItemIndex
from saestore.tables.stored_table import MATRIX, StoredTable
from saestore.writing.derived import DERIVED, PER_SAMPLE, per_sample
from saestore.writing.lock import LOCK, holder_of
from saestore.writing.writer import n_deleted, read_attributes

__all__ = ["Problem", "Report", "verify_set", "verify_store"]

Array = np.ndarray[Any, Any]
Finding = tuple[str, str]
Progress = Callable[[str], None]
_ROWS = 1 << 20
_GROUPS = ("", "by_sample", "by_feature")  # of a segment; its other nodes are arrays


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
        return not self.problems

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
    metadata and chunks agree with their checksums; nothing lies there that the attributes do not name.

    Notes
    -----
    Memory: a block of about 4 million entries and the pointers of one segment. Entries are compared by a 128-bit sum of
    hashes, not pairwise.
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
    group: Any = root[path]
    yield from _check_document(root, path, None)
    yield from _check_document(root, f"{path}/{SEGMENTS}", {})
    damaged: set[str] = set()

    def noted(findings: Iterator[Finding]) -> Iterator[Finding]:
        for node, what in findings:
            damaged.add(node)
            yield node, what

    for info in attributes.segments:
        progress(f"{path}: segment {info.name}")
        node = f"{path}/{SEGMENTS}/{info.name}"
        segment = Segment(SnapshotStore(root.store), group.path, info)
        yield from noted(_guarded(node, _check_segment(root, node, segment, attributes)))
    progress(f"{path}: tables and derived arrays")
    for name in attributes.tables:
        yield from _check_document(root, f"{path}/{name}", {})
        yield from noted(_guarded(f"{path}/{name}", _check_table(root, path, name, attributes)))
    yield from noted(_guarded(path, _check_derived(group, attributes, path, damaged)))
    yield from _guarded(path, _check_leftovers(root, group, attributes, path, damaged))


def _check_segment(root: zarr.Group, node: str, segment: Segment, attributes: SetAttributes) -> Iterator[Finding]:
    yield from _check_digests(root, {node: segment.info.digest})
    with missing_as_error(node):
        below: Any = root[node].attrs["digests"]
    found = dict(_check_digests(root, {f"{node}/{name}": below.get(name) for name in segment_nodes()}))
    yield from found.items()
    damaged = {name.removeprefix(f"{node}/") for name in found}
    for name, what in check_segment(segment, attributes.n_features, attributes.dtype, damaged):
        yield f"{node}/{name}", what


def _check_digests(root: zarr.Group, expected: Mapping[str, str | None]) -> Iterator[Finding]:
    """Documents that do not agree with their digests, by node."""
    store = SnapshotStore(root.store)
    for node, digest_of_document in expected.items():
        key = f"{root.path}/{node}/{DOCUMENT}".strip("/")
        with suppress(Exception):  # zarr may fail on a damaged document; the snapshot keeps the bytes that were read
            zarr.open(store, path=key.removesuffix(f"/{DOCUMENT}"), mode="r", zarr_format=3)
        if key not in store.documents:
            yield node, f"{key} is missing"
        elif document_digest(store.documents[key]) != digest_of_document:
            yield node, "its zarr.json does not agree with its digest; it was damaged or changed by hand"


def _check_document(root: zarr.Group, path: str, attributes: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Check a group's document that no digest covers: only what saestore writes, spaced as JSON is dumped."""
    store = SnapshotStore(root.store)
    full = f"{root.path}/{path}".strip("/")
    try:
        with missing_as_error(path or "/"):
            zarr.open_group(store, path=full, mode="r", zarr_format=3, use_consolidated=False)
    except CorruptStoreError as e:
        yield path or "/", str(e)
        return
    raw = store.documents[f"{full}/zarr.json".strip("/")]
    parsed = json.loads(raw)
    spaced = {json.dumps(parsed, indent=indent).encode() for indent in (None, 0, 1, 2, 3, 4, 8)}
    known = {"zarr_format": 3, "node_type": "group"}
    rest = {k: v for k, v in parsed.items() if k != "attributes"}
    wrong = rest != known or (attributes is not None and parsed.get("attributes") != attributes)
    if wrong or raw not in spaced:
        yield path or "/", "its zarr.json is not what saestore writes; it was damaged or changed by hand"


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
        nodes = (f"{a}/{b}/{c}" for a, d in root.groups() for b, s in d.groups() for c in s.group_keys())
        strays = [n for n in nodes if n not in known]
    else:
        # Groups of a dataset whose sets were deleted stay: another writer may just have found them there.
        empty = (f.parent.relative_to(folder).as_posix() for n in ("*", "*/*") for f in folder.glob(f"{n}/{DOCUMENT}"))
        parents |= {group for group in empty if not any(_check_document(root, group, {}))}
        documents = {f"{p}/zarr.json".lstrip("/") for p in parents}
        names = (f.relative_to(folder).as_posix() for f in sorted(folder.rglob("*")) if f.is_file())
        strays = [n for n in names if n not in documents and not any(n.startswith(f"{s}/") for s in known)]
    for name in strays:
        yield name, "belongs to no activation set of the store"


def _check_table(root: zarr.Group, path: str, name: str, attributes: SetAttributes) -> Iterator[Finding]:
    """Every column readable, of a length and dtype that it can have; concepts in canonical form."""
    info, node = attributes.table(name), f"{path}/{name}"
    damaged = dict(_check_digests(root, {f"{node}/{each}": sha for each, sha in info.digests.items()}))
    concepts, groups = info.concepts, [] if info.concepts is None else [info.concepts.true, info.concepts.unknown]
    for each in info.digests:
        if f"{node}/{each}" not in damaged and each not in groups:
            damaged |= dict(_check_array(root, f"{node}/{each}", None))
    yield from damaged.items()
    table = StoredTable(SnapshotStore(root.store), f"{root.path}/{path}".strip("/"), name, attributes)

    def intact(*nodes: str) -> bool:
        return not any(bad.startswith(tuple(f"{node}/{each}" for each in nodes)) for bad in damaged)

    for column, arrays in info.columns.items():
        if intact(*arrays):
            for each, what in _check_column(table, column, arrays, attributes):
                yield f"{node}/{each}", what
    if info.pointers is not None and intact(info.pointers):
        pointers = ItemIndex.read(SnapshotStore(root.store), f"{root.path}/{path}".strip("/"), attributes).pointers()
        if len(pointers) != attributes.n_items + 1:
            yield f"{node}/{info.pointers}", f"has {len(pointers)} values, expected {attributes.n_items + 1}"
        elif pointers[0] != 0 or (np.diff(pointers) < 0).any() or pointers[-1] < attributes.n_samples:
            yield f"{node}/{info.pointers}", "does not ascend from 0 to the number of samples"
    if concepts is not None and intact(*filter(None, groups)):
        if len(set(info.names)) != len(info.names):
            yield node, "has two columns or concepts of the same name"
        parts = {group: [table.reader(f"{group}/{array}") for array in MATRIX] for group in groups if group}
        for group, readers in parts.items():
            read = {array: reader.read(0, reader.length) for array, reader in zip(MATRIX, readers, strict=True)}
            for array, what in _check_concepts(read, concepts.n_rows, len(concepts.names)):
                yield f"{node}/{group}/{array}", what


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


def _check_concepts(arrays: Mapping[str, Array], n_rows: int, n_concepts: int) -> Iterator[Finding]:
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


def _check_array(group: zarr.Group, node: str, length: int | None) -> Iterator[Finding]:
    """Read an array of any kind, a million rows at a time, and check its length."""
    try:
        with missing_as_error(f"{group.path}/{node}"):
            store = SnapshotStore(group.store)
            array = zarr.open_array(store, path=f"{group.path}/{node}", mode="r", zarr_format=3)
            for start in range(0, array.shape[0], _ROWS):
                _ = array[start : start + _ROWS]
    except CorruptStoreError as e:
        yield node, str(e)
        return
    if length is not None and array.shape[0] != length:
        yield node, f"has {array.shape[0]} values, expected {length}"


def _check_derived(
    group: zarr.Group, attributes: SetAttributes, path: str, damaged: Iterable[str]
) -> Iterator[Finding]:
    """The arrays at the root; where they cover the present segments, and those are intact, also what they say."""
    nodes = [n for n in attributes.digests if n in DERIVED]
    unreadable = dict(_check_digests(group, {n: attributes.digests[n] for n in nodes}))
    for node in nodes:
        if node not in unreadable:
            unreadable |= dict(_check_array(group, node, None))
    for node, what in unreadable.items():
        yield f"{path}/{node}", what
    current = bool(attributes.segments) and attributes.derived == tuple(s.name for s in attributes.segments)
    if not current or any(True for _ in damaged):
        return
    segments = [Segment(SnapshotStore(group.store), group.path, info) for info in attributes.segments]
    moments = read_moments(segments)
    for name in DERIVED:
        if name in unreadable:
            continue
        in_samples = name in PER_SAMPLE
        if not (_agrees(group, name, attributes, segments) if in_samples else _is_of(group, name, moments)):
            yield f"{path}/{name}", "does not agree with the segments"


def _is_of(group: zarr.Group, name: str, moments: Moments) -> bool:
    """Whether a statistic at the root equals the statistic of these sums."""
    stored: Any = group[name]
    (statistic,) = (s for s in STATISTICS if s.name == name)
    return np.allclose(stored[...], statistic.of(moments), rtol=1e-9, atol=0, equal_nan=True)


def _agrees(group: zarr.Group, name: str, attributes: SetAttributes, segments: list[Segment]) -> bool:
    """Whether a per-sample array at the root equals the arrays of the segments."""
    stored: Any = group[name]
    index = ItemIndex.read(SnapshotStore(group.store), group.path, attributes)
    for segment in segments:
        for start in range(segment.info.start, segment.info.stop, _ROWS):
            stop = min(start + _ROWS, segment.info.stop)
            if not np.array_equal(stored[start:stop], per_sample(segment, index, start, stop)[name]):
                return False
    return True


def _check_leftovers(
    root: zarr.Group, group: zarr.Group, attributes: SetAttributes, path: str, damaged: set[str]
) -> Iterator[Finding]:
    """What the attributes do not name; while a builder holds the lock or tasks are planned, it may be their work."""
    if holder_of(root, path) is not None or attributes.plan is not None:
        return
    if LOCK in group:
        yield f"{path}/{LOCK}", "is the lock of a process that is gone; the next build takes it over"
    folder = local_folder(group)
    if folder is None:
        named = {SEGMENTS: {s.name for s in attributes.segments}}
        named |= {name: {n.split("/")[0] for n in table.digests} for name, table in attributes.tables.items()}
        for parent, names in named.items():
            below: Any = group[parent]
            for name in sorted(set(below.keys()) - names):
                yield f"{path}/{parent}/{name}", "is named by no attributes; the next build removes it"
        return
    expected = _expected_files(group, attributes, {d.removeprefix(f"{path}/") for d in damaged})
    present = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    known = tuple(f"{d.removeprefix(f'{path}/')}/c/" for d in damaged)  # which chunks those have is not known
    for name in sorted(present - expected):
        if not name.startswith((f"{LOCK}/", *known)):
            yield f"{path}/{name}", "is named by no attributes; the next build removes it"
    for name in sorted(expected - present):
        yield f"{path}/{name}", "is missing"


def _expected_files(group: zarr.Group, attributes: SetAttributes, damaged: set[str]) -> set[str]:
    """Every file that a set in a local folder consists of, relative to it, but the chunks of damaged arrays."""
    groups, arrays = ["", SEGMENTS, *attributes.tables], list(attributes.digests)
    for info in attributes.segments:
        base = f"{SEGMENTS}/{info.name}"
        for name in ["", *segment_nodes()]:
            (groups if name in _GROUPS else arrays).append(f"{base}/{name}".rstrip("/"))
    for table, of in attributes.tables.items():
        matrices = () if of.concepts is None else (of.concepts.true, of.concepts.unknown)
        for name in of.digests:
            (groups if name in matrices else arrays).append(f"{table}/{name}")
    files = {f"{node}/zarr.json".lstrip("/") for node in groups + arrays}
    for name in arrays:
        if name not in damaged:
            array: Any = group[name]
            grid = [-(-n // s) for n, s in zip(array.shape, array.shards or array.chunks, strict=True)]
            files |= {f"{name}/c/{'/'.join(map(str, place))}" for place in np.ndindex(*grid)}
    return files
