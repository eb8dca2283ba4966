"""What pages ask: the store's sets, each opened once per state, and what is known of their features."""

from __future__ import annotations

import math
import shlex
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from saestore.errors import InvalidInputError, NotFoundError, SaestoreError, TooLargeError, did_you_mean
from saestore.format import digest, split_set_path
from saestore.progress import time_left
from saestore.query.distribution import all_moments
from saestore.query.reader import Level, SetReader
from saestore.query.rows import iterate_rows
from saestore.query.selection import Condition
from saestore.query.similarity import Sizes
from saestore.scoring.feature_scores import FeatureScorer
from saestore.sparse_rows import Array, pointers
from saestore.stats import STATISTICS, Moments
from saestore.storage import find_sets, read_attributes
from saestore.tables.column import Column
from saestore.web.drawing import Thumbnails
from saestore.web.request import Links

EDITABLE = ("name", "note", "explanation")  # columns of features that a page shows first, and can change
MOST_ROWS = 500  # of a table on one page
MOST_HELD = 1 << 26  # non-zeros of a set whose ids are held
_OPEN_SETS = 16
_HOLDING = 2  # sets whose ids are held
_SAMPLES_AT_ONCE = 1 << 15
_RECENT = 1.0  # seconds for which a list of sets that was read serves
_REMEMBERED = 8  # answers per set that took long
_BESIDE = threading.Semaphore(2)


@dataclass(frozen=True)
class Page:
    """What a page shows: the name of its template, its title, and its data, which is also its JSON twin.

    A page that `moves` shows what is not done yet: a browser loads it again in some seconds.
    """

    template: str
    title: str
    data: Mapping[str, Any]
    moves: bool = False


@dataclass(frozen=True)
class HeldIds:
    """The features of all samples, one after the other. Memory: 2 bytes per non-zero up to 65,536 features, else 4."""

    indptr: Array
    ids: Array
    n_features: int

    @classmethod
    def of(cls, reader: SetReader) -> HeldIds:
        """Of a set, a block at a time."""
        n_samples, n_features = reader.shape
        ids = np.empty(reader.nnz, np.uint16 if n_features <= 1 << 16 else np.uint32)
        counts, done = np.zeros(n_samples, np.int64), 0
        for rows, block in iterate_rows(reader.segments, np.arange(n_samples), values=False):
            counts[rows] = np.diff(block.indptr)
            ids[done : done + block.nnz] = block.indices
            done += block.nnz
        return cls(pointers(counts), ids, n_features)

    def count(self, samples: Array) -> Array:
        """On how many of these samples each feature is active, int64 (n_features,)."""
        counts, ordered = np.zeros(self.n_features, np.int64), np.sort(samples)
        for first in range(0, len(ordered), _SAMPLES_AT_ONCE):
            part = ordered[first : first + _SAMPLES_AT_ONCE]
            starts, lengths = self.indptr[part], self.indptr[part + 1] - self.indptr[part]
            ends = pointers(lengths)
            entries = np.arange(ends[-1]) + np.repeat(starts - ends[:-1], lengths)
            counts += np.bincount(self.ids[entries], minlength=self.n_features)
        return counts


class SetView:
    """One state of a set, and what was computed of it. Memory: about 100 bytes per feature, and the columns."""

    def __init__(self, root: zarr.Group, path: str) -> None:
        self.reader = SetReader(root, path)
        self.attributes = self.reader.attributes  # a reader opens a newer state by itself; what is kept here is of this
        self.path = path
        self._remembered: OrderedDict[Any, Future[Any]] = OrderedDict()
        self._lock = threading.Lock()

    @cached_property
    def tag(self) -> str:
        """A name of this state."""
        return digest(self.attributes.to_json())

    @cached_property
    def moments(self) -> Moments:
        """The stored sums of all features."""
        reader, n_features = self.reader, self.reader.shape[1]
        return all_moments(reader.segments, np.arange(n_features), n_features, reader.dtype)

    @cached_property
    def statistics(self) -> dict[str, Array]:
        """Every statistic of all features."""
        return {statistic.name: statistic.of(self.moments) for statistic in STATISTICS}

    @cached_property
    def sizes(self) -> Sizes:
        """Sizes of all features, which measures of two features need."""
        return Sizes.of(self.moments)

    @cached_property
    def held_ids(self) -> HeldIds:
        """The features of all samples, so that their rows need not be read again."""
        return HeldIds.of(self.reader)

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The columns of the table of features; names, notes and explanations come first."""
        names = list(self.reader.table("features").info.names)
        ordered = [name for name in EDITABLE if name in names] + [name for name in names if name not in EDITABLE]
        return {name: self.reader.read_column("features", name) for name in ordered}

    def known_of(self, feature: int) -> dict[str, Any]:
        """What the table of features has of one; None where it is unknown."""
        return {name: value_at(column, feature) for name, column in self.columns.items()}

    def name_of(self, feature: int) -> str | None:
        """The name of a feature, None where it has none."""
        column = self.columns.get("name")
        return (value_at(column, feature) if column is not None else None) or None

    def named_rows(self, columns: Mapping[str, Array]) -> list[dict[str, Any]]:
        """Rows of a table of features, with the name of each beside its number."""
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        rows = [dict(zip(columns, row, strict=True)) for row in values]
        return [{"feature": row["feature"], "name": self.name_of(row["feature"]), **row} for row in rows]

    def remember(self, key: Any, compute: Callable[[], Any], seconds: float = math.inf) -> Any:
        """An answer that takes long, computed once for this state, beside the pages.

        `TooLargeError`: it is not there after these seconds, or at the deadline. It will be later.
        """
        with self._lock:
            work = self._remembered.get(key)
            if work is None or (work.done() and work.exception() is not None):
                work = self._remembered[key] = _beside(compute)
            self._remembered.move_to_end(key)
            while len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        left = min(time_left(), seconds)
        try:
            return work.result(None if math.isinf(left) else max(0.0, left))
        except TimeoutError:
            message = "The answer is still being computed. Load the page again in some seconds."
            raise TooLargeError(message, code="being-computed") from None

    @cached_property
    def scorers(self) -> dict[Level, FeatureScorer]:
        """What scores features with the concepts of each level that has some."""
        return scorers_of(self.reader, None)

    @cached_property
    def _split_of_items(self) -> tuple[Array, Array]:
        """Values of the items' column ``split``, and the place of each item's among them; none without the column."""
        if "split" not in self.reader.items.names():
            return np.empty(0, object), np.empty(0, np.int64)
        names = np.array(self.reader.items.column("split").tolist(), object)
        return np.unique(names, return_inverse=True)

    @property
    def splits(self) -> list[str]:
        """Values of the items' column ``split``, at most 20."""
        return [str(name) for name in self._split_of_items[0][:20]]

    def splits_of(self, condition: Condition | None) -> list[str]:
        """The splits that a condition leaves something of."""
        names, place = self._split_of_items
        if condition is not None and len(names):
            items = self.reader.item_index.locate(np.flatnonzero(condition.over_samples(self.reader.shape[0])))[0]
            names = names[np.unique(place[items])]
        return [str(name) for name in names[:20]]


def _beside(compute: Callable[[], Any]) -> Future[Any]:
    """Compute in a thread that does not keep the process from ending, two at a time."""
    work: Future[Any] = Future()

    def run() -> None:
        with _BESIDE:
            try:
                work.set_result(compute())
            except BaseException as error:  # noqa: BLE001 - who waits gets it
                work.set_exception(error)

    threading.Thread(target=run, name="saestore-beside", daemon=True).start()
    return work


def value_at(column: Column, row: int) -> Any:
    """A value of a column as Python's, None where it is unknown."""
    one = column.at(np.array([row]))
    return plain(one.values[0]) if one.known is None or one.known[0] else None


def binned(values: Array, bins: int) -> dict[str, list[float]]:
    """A histogram: the ends and the count of each bin; no bin without a value."""
    counts, edges = np.histogram(values, bins) if len(values) else (np.empty(0, int), np.empty(1))
    return {"left": edges[:-1].tolist(), "right": edges[1:].tolist(), "count": counts.tolist()}


def plain(value: Any) -> Any:
    """A value of an array as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def shortened(value: Any) -> Any:
    """A value for a cell of a table; a text has at most 200 characters."""
    return value if not isinstance(value, str) or len(value) <= 200 else value[:200] + "…"


def scorers_of(reader: SetReader, where: Any) -> dict[Level, FeatureScorer]:
    """What scores features with the concepts of each level that has some."""
    levels: tuple[Level, ...] = ("item", "sample")
    return {level: FeatureScorer(reader, level, where) for level in levels if reader.concept_names(level)}


def is_set_path(path: str) -> bool:
    """Whether a set can have this path."""
    try:
        split_set_path(path)
    except InvalidInputError:
        return False
    return True


@dataclass
class StoreView:
    """A store as the pages show it.

    `location` is how a user named it, for the lines that can be copied; `images` the folder that keys of images start
    in, by default where each set records it.
    """

    root: zarr.Group
    location: str
    images: Path | None = None
    writable: bool = False
    links: Links = field(default_factory=Links)
    thumbnails: Thumbnails = field(default_factory=Thumbnails)
    _views: OrderedDict[str, SetView] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: tuple[float, list[str]] = (-math.inf, [])  # when, and which sets there were

    def open(self, path: str) -> SetView:
        """The present state of a set; where there is none, the error names those that there are."""
        attributes = read_attributes(self.root, path) if is_set_path(path) else None
        if attributes is None:
            known = self.paths()[0]
            message = f"There is no activation set {path!r}. {did_you_mean(path, known)}The store has "
            raise NotFoundError(f"{message}{', '.join(known[:20]) or 'none'}.", code="unknown-set")
        with self._lock:
            view = self._views.get(path)
        if view is None or view.attributes != attributes:
            view = SetView(self.root, path)
        with self._lock:
            self._views[path] = view
            self._views.move_to_end(path)
            while len(self._views) > _OPEN_SETS:
                self._views.popitem(last=False)
            for older in list(self._views.values())[:-_HOLDING]:
                older.__dict__.pop("held_ids", None)
        return view

    def others(self, path: str) -> list[str]:
        """Other sets of the same dataset and kind of samples, which are likely to have the same samples."""
        group, now = path.rsplit("/", 1)[0], time.monotonic()
        if now - self._seen[0] > _RECENT:
            self._seen = now, self.paths()[0]
        return [other for other in self._seen[1] if other != path and other.rsplit("/", 1)[0] == group]

    def tag(self, view: SetView, other: str) -> str:
        """A name of the state of all that a page of a set shows: of the set, of `other`, and of the sets like it."""
        tags = [view.tag]
        for path in dict.fromkeys([*self.others(view.path), *([other] if is_set_path(other) else [])]):
            try:
                attributes = read_attributes(self.root, path)
                tags.append("" if attributes is None else digest(attributes.to_json()))
            except SaestoreError as error:
                tags.append(str(error))
        return " ".join(tags)

    def copies(self, path: str, python: str, *words: str) -> dict[str, str | None]:
        """A question about a set as lines of Python and as a command, which can be copied; None without a command."""
        acts = f"acts = saestore.open({self.location!r})[{path!r}]"
        command = shlex.join(["saestore", *words, "--store", self.location]) if words else None
        return {"python": f"{acts}\n{python}".rstrip(), "command": command}

    def has(self, path: str) -> bool:
        """Whether there is a set at this path, damaged or not."""
        try:
            return is_set_path(path) and read_attributes(self.root, path) is not None
        except SaestoreError:
            return True

    def concepts_of(self, path: str) -> list[str]:
        """Names of the concepts of a set, none where it cannot be opened."""
        try:
            return self.open(path).reader.concept_names()
        except SaestoreError:
            return []

    def paths(self) -> tuple[list[str], dict[str, str]]:
        """Paths of all sets, and the message for every group that cannot be read, by path."""
        paths, damaged = find_sets(self.root)
        return paths, {path: str(error) for path, error in damaged.items()}
