"""A build or import as tasks: any process runs any of them, in any order and more than once, and one commits them all.

A task writes one segment under a name of its own, and then its receipt, if there is none yet: the first attempt wins.
Nothing is locked meanwhile. A build in one process makes the same segments, so that the result has the same bytes.
"""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import Any, Protocol

import zarr
from zarr.storage import MemoryStore

from saestore.distributed.engines import engine_of
from saestore.errors import InvalidInputError, OutOfRangeError, StoreConflictError, reached
from saestore.format import ATTEMPT, NEXT, TASKS, SegmentInfo, SetAttributes, segment_name
from saestore.progress import Progress, ProgressOption
from saestore.segment.write import write_segment
from saestore.sparse_rows import SparseRows
from saestore.storage import DOCUMENT, at_once, group_document, missing_as_error, read_attributes, write_errors
from saestore.storage.conditional import put_if_absent
from saestore.writing import SetWriter
from saestore.writing.compare import refuse_other
from saestore.writing.leftovers import remove_group
from saestore.writing.pipeline import MERGE_MEMORY, first_of_last_append
from saestore.writing.plan import WritePlan, add_dropped

__all__ = ["Plan", "Recipe", "keep_open", "planned_attributes"]

_SHOWN = 5  # tasks in a message


class Recipe(Protocol):
    """What a set is made from: enough to open it in another process. A value that pickles."""

    @property
    def device(self) -> str:
        """Where tasks encode: ``cpu``, ``cuda``."""

    def on(self, device: str) -> Recipe:
        """The same, encoded on another device."""

    def open(self, root: zarr.Group) -> WritePlan:
        """Open everything, in a process that runs tasks."""

    def complete(self, root: zarr.Group, path: str, progress: Progress) -> None:
        """Give the committed set what it gets besides its rows and items."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The tasks that write a set, from `saestore.plan_build`; `len` is their number. It pickles.

    Attributes
    ----------
    path
        ``dataset/sample_type/sae``.
    recipe
        What the set is made from.
    root
        The store.
    token
        Names this plan among those that there ever were of the set; None where nothing is left to do.
    identity
        Of the set.
    first, n_samples, segment_rows
        Task i writes the samples from ``first + i * segment_rows`` on, up to the next task's or `n_samples`.

    Examples
    --------
    >>> plan = saestore.plan_build("Mine", embeddings="x.npy", sae="sae/", store="s.zarr")  # doctest: +SKIP
    >>> for i in plan.missing():  # doctest: +SKIP
    ...     plan.run(i)
    >>> plan.commit()  # doctest: +SKIP
    """

    path: str
    recipe: Recipe
    root: zarr.Group
    token: str | None
    identity: str
    first: int
    n_samples: int
    segment_rows: int

    @classmethod
    def of(cls, path: str, recipe: Recipe, root: zarr.Group, attributes: SetAttributes) -> Plan:
        """The plan that the attributes of the set record; of a complete set a plan without tasks."""
        of = attributes.plan or {"token": None, "first": attributes.n_samples}
        n = attributes.planned_samples or attributes.n_samples
        return cls(path, recipe, root, of["token"], attributes.identity, of["first"], n, attributes.segment_rows)

    def __len__(self) -> int:
        return math.ceil((self.n_samples - self.first) / self.segment_rows)

    def __repr__(self) -> str:
        return f"<saestore plan of {len(self):,} tasks for {self.path}: samples {self.first:,} to {self.n_samples:,}>"

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self.root.store, MemoryStore):
            raise InvalidInputError(
                "a plan for a store in memory cannot go to another process; build in a folder or object store.",
                code="store-in-memory",
            )
        return dict(self.__dict__)

    def on(self, device: str) -> Plan:
        """The same plan, its tasks encoded on another device, such as ``cuda:1``: a process each for several GPUs.

        Raises
        ------
        InvalidInputError
            torch cannot use the device here (``unusable-device``), or nothing is encoded: it is an import.
        """
        return replace(self, recipe=self.recipe.on(device))

    def range(self, task: int) -> tuple[int, int]:
        """First sample of a task, and the one after its last.

        Raises
        ------
        OutOfRangeError
            There is no such task.
        """
        if not 0 <= task < len(self):
            raise OutOfRangeError(f"task {task}: the plan has tasks 0 to {len(self) - 1}.", code="no-such-task")
        start = self.first + task * self.segment_rows
        return start, min(start + self.segment_rows, self.n_samples)

    @reached("the input")
    def run(self, task: int) -> None:
        """Encode and write the samples of a task, if that is not done yet.

        A process that runs several tasks opens the input, and loads the SAE, once.

        Raises
        ------
        OutOfRangeError
            There is no such task.
        StoreConflictError
            The plan was given up (``plan-gone``), or the input is not what was planned (``different-content``).
        """
        start, stop = self.range(task)
        attributes = self._open_attributes(stop)
        if attributes is None or self._receipt(task) is not None:
            return
        with _opened(self, attributes) as plan:
            rows, dropped = plan.rows.read(start, stop), plan.count_dropped(plan.dropped)
        self._write(task, attributes, rows, dropped)

    def missing(self) -> list[int]:
        """The tasks that have not been done, ascending."""
        if self._open_attributes(self.n_samples) is None:
            return []
        return [task for task, receipt in enumerate(self._receipts()) if receipt is None]

    def commit(self, *, progress: ProgressOption = False, client: Any = None) -> None:
        """Make the set of what the tasks wrote: one commit, then the merge that every build ends with.

        A commit that was killed goes on with the same call; of a committed set nothing is changed.

        Parameters
        ----------
        progress
            True shows lines on stderr, False shows nothing, a function receives every line.
        client
            A ``distributed.Client`` on whose workers to merge.

        Raises
        ------
        InvalidInputError
            Tasks are missing (``missing-tasks``).
        LockedError, StoreConflictError
            Another process writes the set, or the plan was given up.
        """
        if self._attributes() is None and self._open_attributes(self.n_samples) is None:
            return
        report = Progress(progress)
        with SetWriter(self.root, self.path, resumes=self._is_mine) as writer:
            attributes = writer.require()
            if not self._is_mine(attributes):
                raise self._gone()
            if attributes.n_samples != self.n_samples:
                writer.hold_back(self._with_receipts(attributes))
            writer.finish(
                first=first_of_last_append(writer.require()),
                memory=MERGE_MEMORY,
                progress=report.line,
                plan=None,
                engine=None if client is None else engine_of(client),
            )
        _OPEN.clear()
        self.recipe.complete(self.root, self.path, report)

    def _with_receipts(self, attributes: SetAttributes) -> SetAttributes:
        receipts = self._receipts()
        missing = [str(task) for task, receipt in enumerate(receipts) if receipt is None]
        if missing:
            more = ", …" if len(missing) > _SHOWN else ""
            raise InvalidInputError(
                f"{len(missing):,} of {len(self):,} tasks of {self.path} are not done: {', '.join(missing[:_SHOWN])}"
                f"{more}. Run them (`saestore run {self.path}`), then commit again.",
                code="missing-tasks",
            )
        found: list[Mapping[str, Any]] = [receipt for receipt in receipts if receipt is not None]
        infos = [SegmentInfo.from_json(receipt["segment"]) for receipt in found]
        dropped = attributes.dropped
        if dropped is not None:
            dropped = reduce(add_dropped, (receipt["dropped"] for receipt in found), dropped)
        return replace(attributes.with_segments([*attributes.segments, *infos]), dropped=dropped, dead_features=None)

    def _write(self, task: int, attributes: SetAttributes, rows: SparseRows, dropped: Mapping[str, Any] | None) -> None:
        start, stop = self.range(task)
        store, base = self.root.store, f"{self.root.path}/{self.path}".strip("/")
        name = f"{segment_name(start, stop, attributes.generation)}{ATTEMPT}{uuid.uuid4().hex[:12]}"
        with write_errors(f"{store}"):
            how: dict[str, Any] = {"n_features": attributes.n_features, "codec": attributes.codec, "name": name}
            info = write_segment(store, base, start, rows, **how, quick=True)  # the commit writes all of it again
            receipt = group_document({"segment": asdict(info), "dropped": dropped})
            won = put_if_absent(store, f"{base}/{self._receipt_path(task)}/{DOCUMENT}", receipt)
            # The receipts are gone once they are committed: a late attempt must not leave a new one.
            if not won or self._open_attributes(stop) is None:
                remove_group(self.root, f"{self.path}/segments/{name}")
                if won:
                    remove_group(self.root, f"{self.path}/{self._receipt_path(task)}")

    def _receipt_path(self, task: int) -> str:
        return f"{TASKS}/{self.token}-{task}"

    def _receipt(self, task: int) -> Mapping[str, Any] | None:
        path = f"{self.path}/{self._receipt_path(task)}"
        with missing_as_error(path):
            group = self.root.get(path)
            return None if group is None else group.attrs.asdict()

    def _receipts(self) -> list[Mapping[str, Any] | None]:
        return at_once(self._receipt, range(len(self)))

    def _is_mine(self, attributes: SetAttributes) -> bool:
        return attributes.plan is not None and attributes.plan["token"] == self.token

    def _attributes(self) -> SetAttributes | None:
        """The attributes of the set while it is planned, None once it is committed or given up."""
        for path in (self.path, f"{self.path}/{NEXT}"):
            attributes = read_attributes(self.root, path)
            if attributes is not None and self._is_mine(attributes):
                return attributes
        return None

    def _open_attributes(self, stop: int) -> SetAttributes | None:
        """The attributes of the set while its samples up to `stop` are not committed; None once they are."""
        attributes = self._attributes()
        if attributes is None:
            attributes = read_attributes(self.root, self.path)
            if attributes is None or attributes.identity != self.identity:
                raise self._gone()
        return attributes if attributes.n_samples < stop else None

    def _gone(self) -> StoreConflictError:
        return StoreConflictError(
            f"this plan for {self.path} was given up: the store has another set there, or none. Plan it again.",
            code="plan-gone",
        )


def planned_attributes(root: zarr.Group, path: str) -> SetAttributes | None:
    """The attributes of the planned set that will replace the set at `path`, or is there; None without a plan."""
    for each in (f"{path}/{NEXT}", path):
        attributes = read_attributes(root, each)
        if attributes is not None and attributes.plan is not None:
            return attributes
    return None


_LOCK = threading.Lock()
_OPEN: dict[tuple[str, str], WritePlan] = {}  # the inputs of one plan, open here, by its token and device


@contextmanager
def _opened(plan: Plan, attributes: SetAttributes) -> Iterator[WritePlan]:
    """The inputs of a plan, opened once in a process; one thread at a time reads them."""
    with _LOCK:
        key = str(plan.token), plan.recipe.device
        if key not in _OPEN:
            found = plan.recipe.open(plan.root)
            refuse_other(found, attributes)
            keep_open(plan, found)
        yield _OPEN[key]


def keep_open(plan: Plan, inputs: WritePlan) -> None:
    """Have the tasks of a plan that this process runs use inputs that are open already, in place of another plan's."""
    _OPEN.clear()
    _OPEN[str(plan.token), plan.recipe.device] = inputs
