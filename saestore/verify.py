"""Re-reading a whole store and checking everything that can be checked.

Every chunk carries a checksum; every metadata document has a digest in the set's attributes, or in a document that has
one, or can only look one way. So a flipped byte anywhere is found, and the array or document it is in is named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from saestore.errors import CorruptStoreError, SaestoreError
from saestore.format import SetAttributes, digest
from saestore.segment import Segment, read_moments
from saestore.segment.check import check_segment
from saestore.segment.write import document_digests, segment_nodes
from saestore.stats import STATISTICS, Moments
from saestore.storage import SnapshotStore, find_sets, local_folder, missing_as_error
from saestore.storage.open import ROOT_ATTRIBUTES
from saestore.tables.item_index import POINTERS, ItemIndex
from saestore.tables.stored_items import CONCEPT, SPANS, span_nodes
from saestore.tables.stored_labels import LABEL_ARRAYS, LABELS, StoredLabels, check_labels
from saestore.writing.derived import DERIVED, PER_SAMPLE
from saestore.writing.lock import LOCK, holder_of
from saestore.writing.writer import SEGMENTS, read_attributes

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
    """Re-read everything in a store: its sets as `verify_set` does, and what lies beside them."""
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
    Memory: a block of some 4 million entries and the pointers of one segment. Entries are compared by a 128-bit sum of
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
    except SaestoreError as e:
        yield node, str(e)


def _check_set(root: zarr.Group, path: str, progress: Progress) -> Iterator[Finding]:
    attributes = read_attributes(root, path)
    if attributes is None:
        yield path, "is no activation set"
        return
    group: Any = root[path]
    body = {k: v for k, v in group.attrs.asdict().items() if k != "checksum"}
    if group.attrs.get("checksum") != digest(body):
        yield path, "its attributes do not agree with their checksum; zarr.json was damaged or changed by hand"
    yield from _check_document(root, path, None)
    yield from _check_document(root, f"{path}/{SEGMENTS}", {})
    damaged: set[str] = set()

    def noted(findings: Iterator[Finding]) -> Iterator[Finding]:
        for node, what in findings:
            damaged.add(node)
            yield node, what

    for info in attributes.segments:
        progress(f"{path}: segment {info.name}")
        segment = Segment(SnapshotStore(root.store), f"{group.path}/{SEGMENTS}", info)
        node = f"{path}/{SEGMENTS}/{info.name}"
        yield from noted(_guarded(node, _check_segment(root, node, segment, attributes)))
    progress(f"{path}: items and derived arrays")
    yield from noted(_guarded(f"{path}/{attributes.items}", _check_items(group, attributes, path)))
    yield from noted(_guarded(path, _check_derived(group, attributes, path, damaged)))
    if attributes.concepts:
        progress(f"{path}: labels")
        yield from _check_document(root, f"{path}/{LABELS}", {})
        yield from noted(_guarded(f"{path}/{LABELS}", _check_labels(root, attributes, path)))
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
    for node, wanted in expected.items():
        try:
            found = document_digests(root, [node])[node]
        except CorruptStoreError as e:
            yield node, str(e)
            continue
        if found != wanted:
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
    yield from _check_document(root, "", ROOT_ATTRIBUTES)
    for parent in sorted(parents):
        yield from _check_document(root, parent, {})


def _check_strays(root: zarr.Group, known: Iterable[str]) -> Iterator[Finding]:
    """What lies in the store and belongs to no set: in a local folder any file, elsewhere any group."""
    known = tuple(known)
    parents = {"", *("/".join(p.split("/")[:n]) for p in known for n in (1, 2))}
    folder = local_folder(root)
    if folder is None:
        nodes = (f"{a}/{b}/{c}" for a, d in root.groups() for b, s in d.groups() for c in s.group_keys())
        strays = [n for n in nodes if n not in known]
    else:
        documents = {f"{p}/zarr.json".lstrip("/") for p in parents}
        names = (f.relative_to(folder).as_posix() for f in sorted(folder.rglob("*")) if f.is_file())
        strays = [n for n in names if n not in documents and not any(n.startswith(f"{s}/") for s in known)]
    for name in strays:
        yield name, "belongs to no activation set of the store"


def _check_items(group: zarr.Group, attributes: SetAttributes, path: str) -> Iterator[Finding]:
    nodes = [n for n in attributes.digests if n not in DERIVED]
    damaged = dict(_check_digests(group, {n: attributes.digests[n] for n in nodes}))
    for node in nodes:
        if node != attributes.items and node not in damaged:
            damaged |= dict(_check_array(group, node, _length(node, attributes)))
    for node, what in damaged.items():
        yield f"{path}/{node}", what
    pointers_node = f"{attributes.items}/{POINTERS}"
    if pointers_node in damaged:
        return
    pointers = ItemIndex.read(group, attributes).pointers()
    if pointers[0] != 0 or (np.diff(pointers) < 0).any() or pointers[-1] < attributes.n_samples:
        yield f"{path}/{pointers_node}", "does not lead from 0 to the number of samples"


def _check_labels(root: zarr.Group, attributes: SetAttributes, path: str) -> Iterator[Finding]:
    for level, info in attributes.concepts.items():
        node = f"{path}/{LABELS}/{info.name}"
        damaged = dict(_check_digests(root, {node: info.digest}))
        with missing_as_error(node):
            below: Any = root[node].attrs["digests"]
        damaged |= dict(_check_digests(root, {f"{node}/{name}": below.get(name) for name in LABEL_ARRAYS}))
        for name in LABEL_ARRAYS:
            if f"{node}/{name}" not in damaged:
                damaged |= dict(_check_array(root, f"{node}/{name}", None))
        yield from damaged.items()
        if not damaged:
            labels = StoredLabels(SnapshotStore(root.store), f"{root.path}/{node}".strip("/"), info)
            n_rows = attributes.n_items if level == "item" else attributes.n_samples
            # Labels of samples stay those of the samples that there were, when others are appended.
            appends: Any = attributes.source.get("appended", [])
            if level == "sample" and labels.shape[0] in [each["n_samples"] for each in appends]:
                n_rows = labels.shape[0]
            for name, what in check_labels(labels, level, n_rows):
                yield f"{node}/{name}".rstrip("/"), what


def _length(node: str, attributes: SetAttributes) -> int | None:
    """How long an array beside the segments has to be; None where nothing says it."""
    if node in (*SPANS, *span_nodes(attributes.items), f"{attributes.items}/{CONCEPT}"):
        return None
    return attributes.n_items + (node == f"{attributes.items}/{POINTERS}")


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
    current = attributes.derived == tuple(s.name for s in attributes.segments)
    if not current or any(True for _ in damaged):
        return
    segments = [Segment(SnapshotStore(group.store), f"{group.path}/{SEGMENTS}", info) for info in attributes.segments]
    moments = read_moments(segments) if segments else Moments.zeros(attributes.n_features, 0, attributes.dtype)
    for name in DERIVED:
        if name in unreadable:
            continue
        in_samples = name in PER_SAMPLE
        if not (_agrees(group, name, attributes, segments) if in_samples else _is_of(group, name, moments)):
            yield f"{path}/{name}", "does not agree with the segments"


def _is_of(group: zarr.Group, name: str, moments: Moments) -> bool:
    """Whether a statistic at the root is that of these sums."""
    stored: Any = group[name]
    (statistic,) = (s for s in STATISTICS if s.name == name)
    return np.allclose(stored[...], statistic.of(moments), rtol=1e-9, atol=0, equal_nan=True)


def _agrees(group: zarr.Group, name: str, attributes: SetAttributes, segments: list[Segment]) -> bool:
    """Whether a per-sample array at the root says what the segments say."""
    stored: Any = group[name]
    index = ItemIndex.read(group, attributes)
    for segment in segments:
        for start in range(segment.info.start, segment.info.stop, _ROWS):
            stop = min(start + _ROWS, segment.info.stop)
            item, position = index.locate(np.arange(start, stop))
            expected = {"item": item, "position": position, "l0": np.diff(segment.row_pointers(start, stop))}
            if not np.array_equal(stored[start:stop], expected[name]):
                return False
    return True


def _check_leftovers(
    root: zarr.Group, group: zarr.Group, attributes: SetAttributes, path: str, damaged: set[str]
) -> Iterator[Finding]:
    """What the attributes do not name; while a living builder holds the lock it may be its work in progress."""
    if holder_of(root, path) is not None:
        return
    if LOCK in group:
        yield f"{path}/{LOCK}", "is the lock of a process that is gone; the next build takes it over"
    folder = local_folder(group)
    if folder is None:
        segments: Any = group[SEGMENTS]
        for name in set(segments.group_keys()) - {s.name for s in attributes.segments}:
            yield f"{path}/{SEGMENTS}/{name}", "is named by no attributes; the next build removes it"
        labels: Any = group.get(LABELS)
        for name in set(() if labels is None else labels.group_keys()) - {i.name for i in attributes.concepts.values()}:
            yield f"{path}/{LABELS}/{name}", "is named by no attributes; the next build removes it"
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
    groups: list[str] = ["", SEGMENTS]
    arrays: list[str] = []
    for node in attributes.digests:
        (groups if node == attributes.items else arrays).append(node)
    for info in attributes.segments:
        base = f"{SEGMENTS}/{info.name}"
        for name in ["", *segment_nodes()]:
            (groups if name in _GROUPS else arrays).append(f"{base}/{name}".rstrip("/"))
    for labels in attributes.concepts.values():
        groups += [LABELS, f"{LABELS}/{labels.name}"]
        arrays += [f"{LABELS}/{labels.name}/{name}" for name in LABEL_ARRAYS]
    files = {f"{node}/zarr.json".lstrip("/") for node in groups + arrays}
    for name in arrays:
        if name not in damaged:
            array: Any = group[name]
            grid = [-(-n // s) for n, s in zip(array.shape, array.shards or array.chunks, strict=True)]
            files |= {f"{name}/c/{'/'.join(map(str, place))}" for place in np.ndindex(*grid)}
    return files
