"""Re-reading a whole store and checking everything that can be checked.

Every chunk carries a checksum; every metadata document is either part of a digest in the set's attributes or can only
look one way. So a flipped byte anywhere is found, and the array or document it is in is named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from saestore.errors import CorruptStoreError, SaestoreError
from saestore.format import SetAttributes, digest
from saestore.items.index import ITEMS, POINTERS, ItemIndex
from saestore.items.stored import CONCEPT, SPANS
from saestore.segment import Segment
from saestore.segment.check import check_segment
from saestore.segment.write import documents_digest, segment_nodes
from saestore.stats import STATISTICS, Moments
from saestore.storage import SnapshotStore, missing_as_error
from saestore.storage.open import ROOT_ATTRIBUTES
from saestore.writing.derived import DERIVED, PER_SAMPLE
from saestore.writing.lock import LOCK, holder_of
from saestore.writing.writer import SEGMENTS, local_folder, read_attributes

Array = np.ndarray[Any, Any]
_ROWS = 1 << 20


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

    @classmethod
    def merged(cls, root: zarr.Group, reports: list[Report], *, whole: bool) -> Report:
        """One report of several sets; of a whole store also its groups and what lies beside its sets."""
        checked = tuple(p for r in reports for p in r.checked)
        problems = [p for r in reports for p in r.problems]
        problems += _check_parents(root, checked)
        if whole:
            problems += _check_strays(root, checked)
        return cls(checked, tuple(problems))


def verify_set(root: zarr.Group, path: str, progress: Callable[[str], None] | None = None) -> Report:
    """Re-read one activation set and check it.

    Both orders hold the same entries; rows ascend; features are in impact order; statistics and counts are right;
    metadata and chunks agree with their checksums; nothing lies there that the attributes do not name.

    Notes
    -----
    Memory: a block of some 4 million entries and the pointers of one segment. Entries are compared by a 128-bit sum of
    hashes, not pairwise.
    """
    problems: list[Problem] = []
    try:
        for node, what in _findings(root, path, progress or (lambda _: None)):
            problems.append(Problem(path, node, what))
    except SaestoreError as e:
        problems.append(Problem(path, path, str(e)))
    return Report((path,), tuple(problems))


def _findings(root: zarr.Group, path: str, progress: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    attributes = read_attributes(root, path)
    if attributes is None:
        yield path, "is no activation set"
        return
    group: Any = root[path]
    body = {k: v for k, v in group.attrs.asdict().items() if k != "checksum"}
    if group.attrs.get("checksum") != digest(body):
        yield path, "its attributes do not agree with their checksum; zarr.json was damaged or changed by hand"
    yield from _document(root, path, None)
    yield from _document(root, f"{path}/{SEGMENTS}", {})
    snapshot = SnapshotStore(root.store)
    base = f"{root.path}/{path}".strip("/")
    for info in attributes.segments:
        progress(f"{path}: segment {info.name}")
        node = f"{path}/{SEGMENTS}/{info.name}"
        yield from _digest(group, [f"{base}/{SEGMENTS}/{info.name}", *_below(base, info.name)], info.digest, node)
        segment = Segment(snapshot, f"{base}/{SEGMENTS}", info)
        for array, what in check_segment(segment, attributes.n_features, attributes.dtype):
            yield f"{node}/{array}", what
    progress(f"{path}: items and derived arrays")
    yield from _check_items(group, attributes, path)
    yield from _check_derived(group, attributes, path)
    yield from _check_leftovers(root, group, attributes, path)


def _below(base: str, segment: str) -> list[str]:
    return [f"{base}/{SEGMENTS}/{segment}/{name}" for name in segment_nodes()]


def _digest(group: zarr.Group, paths: list[str], expected: str | None, node: str) -> Iterator[tuple[str, str]]:
    try:
        with missing_as_error(f"metadata of {node}"):
            found = documents_digest(group, paths)
    except CorruptStoreError as e:
        yield node, str(e)
        return
    if found != expected:
        yield node, "its metadata (a zarr.json) does not agree with the digest in the set's attributes"


def _document(root: zarr.Group, path: str, attributes: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Check a group's document that no digest covers: only what saestore writes, spaced as JSON is dumped."""
    store = SnapshotStore(root.store)
    full = f"{root.path}/{path}".strip("/")
    try:
        with missing_as_error(full):
            zarr.open_group(store, path=full, mode="r", zarr_format=3, use_consolidated=False)
    except CorruptStoreError as e:
        yield path, str(e)
        return
    raw = store.documents[f"{full}/zarr.json".strip("/")]
    parsed = json.loads(raw)
    spaced = {json.dumps(parsed, indent=indent).encode() for indent in (None, 0, 1, 2, 3, 4, 8)}
    known = {"zarr_format": 3, "node_type": "group"}
    rest = {k: v for k, v in parsed.items() if k not in ("attributes", "consolidated_metadata")}
    wrong = rest != known or (attributes is not None and parsed.get("attributes") != attributes)
    if wrong or raw not in spaced:
        yield path or "/", "its zarr.json is not what saestore writes; it was damaged or changed by hand"


def _check_parents(root: zarr.Group, paths: tuple[str, ...]) -> list[Problem]:
    parents = {"/".join(p.split("/")[:n]) for p in paths for n in (1, 2)}
    found = [Problem("", *f) for f in _document(root, "", ROOT_ATTRIBUTES)]
    return found + [Problem("", *f) for parent in sorted(parents) for f in _document(root, parent, {})]


def _check_strays(root: zarr.Group, sets: tuple[str, ...]) -> list[Problem]:
    """What lies in the store and belongs to no set: in a local folder any file, elsewhere any group."""
    folder = local_folder(root)
    if folder is not None:
        parents = {"/".join(p.split("/")[:n]) for p in sets for n in (0, 1, 2)}
        documents = {f"{p}/zarr.json".lstrip("/") for p in parents}
        names = (f.relative_to(folder).as_posix() for f in sorted(folder.rglob("*")) if f.is_file())
        strays = [n for n in names if n not in documents and not any(n.startswith(f"{s}/") for s in sets)]
    else:
        known = {"/".join(p.split("/")[:n]) for p in sets for n in (1, 2, 3)}
        strays = []
        for a, dataset in root.groups():
            for b, sample_type in dataset.groups():
                strays += [f"{a}/{b}/{c}" for c in sample_type.group_keys() if f"{a}/{b}/{c}" not in known]
    return [Problem("", s, "belongs to no activation set of the store") for s in strays]


def _check_items(group: zarr.Group, attributes: SetAttributes, path: str) -> Iterator[tuple[str, str]]:
    items: Any = group.get(ITEMS)
    if items is None:
        yield f"{path}/{ITEMS}", "is missing"
        return
    names = [str(n) for n in items.attrs.get("columns", [])]
    names += [POINTERS] if attributes.item_size is None else []
    nodes = [*(f"{ITEMS}/{n}" for n in dict.fromkeys(names)), *(s for s in SPANS if s in group)]
    paths = [items.path, *(f"{group.path}/{n}" for n in nodes)]
    yield from _digest(group, paths, attributes.digests.get("items"), f"{path}/{ITEMS}")
    for node in nodes:
        length = {POINTERS: attributes.n_items + 1, CONCEPT: None}.get(node.split("/")[-1], attributes.n_items)
        yield from _readable(group, node, path, None if node in SPANS else length)
    index = ItemIndex.read(group, attributes)
    pointers = index.pointers()
    if pointers[0] != 0 or (np.diff(pointers) < 0).any() or pointers[-1] < attributes.n_samples:
        yield f"{path}/{ITEMS}/{POINTERS}", "does not lead from 0 to the number of samples"


def _readable(group: zarr.Group, node: str, path: str, length: int | None) -> Iterator[tuple[str, str]]:
    """Read an array of any kind, a million rows at a time, and check its length."""
    snapshot = SnapshotStore(group.store)
    try:
        with missing_as_error(f"{path}/{node}"):
            array = zarr.open_array(snapshot, path=f"{group.path}/{node}", mode="r", zarr_format=3)
            for start in range(0, array.shape[0], _ROWS):
                _ = array[start : start + _ROWS]
    except CorruptStoreError as e:
        yield f"{path}/{node}", str(e)
        return
    if length is not None and array.shape[0] != length:
        yield f"{path}/{node}", f"has {array.shape[0]} values, expected {length}"


def _check_derived(group: zarr.Group, attributes: SetAttributes, path: str) -> Iterator[tuple[str, str]]:
    """The arrays at the root, where they claim to cover the present segments."""
    names = tuple(s.name for s in attributes.segments)
    if attributes.derived != names or not names:
        return
    yield from _digest(group, [f"{group.path}/{n}" for n in DERIVED], attributes.digests.get("derived"), path)
    damaged = [f for name in DERIVED for f in _readable(group, name, path, None)]
    yield from damaged
    if damaged:
        return
    snapshot = SnapshotStore(group.store)
    segments = [Segment(snapshot, f"{group.path}/{SEGMENTS}", info) for info in attributes.segments]
    moments = sum((s.moments() for s in segments), Moments.zeros(attributes.n_features, 0, attributes.dtype))
    with np.errstate(invalid="ignore", divide="ignore"):
        for statistic in STATISTICS:
            array: Any = group[statistic.name]
            if not np.allclose(array[...], statistic.of(moments), rtol=1e-9, atol=0, equal_nan=True):
                yield f"{path}/{statistic.name}", "does not agree with the segments"
    yield from _check_per_sample(group, attributes, segments, path)


def _check_per_sample(
    group: zarr.Group, attributes: SetAttributes, segments: list[Segment], path: str
) -> Iterator[tuple[str, str]]:
    index = ItemIndex.read(group, attributes)
    arrays: dict[str, Any] = {name: group[name] for name in PER_SAMPLE}
    wrong: set[str] = set()
    for segment in segments:
        for start in range(segment.info.start, segment.info.stop, _ROWS):
            stop = min(start + _ROWS, segment.info.stop)
            items, positions = index.locate(np.arange(start, stop))
            expected = (items, positions, np.diff(segment.row_pointers(start, stop)))
            for (name, array), values in zip(arrays.items(), expected, strict=True):
                if not np.array_equal(array[start:stop], values):
                    wrong.add(name)
    for name in sorted(wrong):
        yield f"{path}/{name}", "does not agree with the segments"


def _check_leftovers(
    root: zarr.Group, group: zarr.Group, attributes: SetAttributes, path: str
) -> Iterator[tuple[str, str]]:
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
        return
    expected = _expected_files(group, attributes)
    present = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    for name in sorted(present - expected):
        if not name.startswith(f"{LOCK}/"):
            yield f"{path}/{name}", "is named by no attributes; the next build removes it"
    for name in sorted(expected - present):
        yield f"{path}/{name}", "is missing"


def _expected_files(group: zarr.Group, attributes: SetAttributes) -> set[str]:
    """Every file that a complete set of a local folder consists of, relative to it."""
    items: Any = group[ITEMS]
    columns = [str(n) for n in items.attrs.get("columns", [])]
    columns += [POINTERS] if attributes.item_size is None else []
    arrays = [f"{ITEMS}/{n}" for n in columns] + [s for s in SPANS if s in group]
    arrays += DERIVED if attributes.derived else ()
    groups = ["", ITEMS, SEGMENTS]
    for info in attributes.segments:
        base = f"{SEGMENTS}/{info.name}"
        nodes = [f"{base}/{n}" for n in segment_nodes()]
        groups += [base, *(n for n in nodes if n.endswith(("by_sample", "by_feature")))]
        arrays += [n for n in nodes if not n.endswith(("by_sample", "by_feature"))]
    files = {f"{g}/zarr.json".lstrip("/") for g in groups}
    for name in arrays:
        array: Any = group.get(name)
        files.add(f"{name}/zarr.json")
        if array is None:
            continue
        grid = [-(-n // s) for n, s in zip(array.shape, array.shards or array.chunks, strict=True)]
        files |= {f"{name}/c/{'/'.join(map(str, place))}" for place in np.ndindex(*grid)}
    return files


__all__ = ["Problem", "Report", "verify_set"]
