"""What runs the parts of a job: this process, or the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from saestore.errors import InvalidInputError, MissingDependencyError, shown
from saestore.progress import Progress
from saestore.segment.merge import Engine, InThisProcess

if TYPE_CHECKING:
    from saestore.distributed.plan import Plan

__all__ = ["DaskEngine", "engine_of", "run_tasks"]

T = TypeVar("T")
R = TypeVar("R")

_RETRIES = 3  # of a task that failed, on another worker: a full disk or a lost network folder of one node


class DaskEngine:
    """The workers of a Dask cluster.

    Parameters
    ----------
    client
        A ``distributed.Client``.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def n_workers(self) -> int:
        """Number of worker processes."""
        return max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))

    def map(self, work: Callable[[T], R], parts: Sequence[T], done: Callable[[], object] = lambda: None) -> list[R]:
        """What `work` makes of each of the parts; a part that a lost worker had not finished runs on another one."""
        from distributed import as_completed

        futures = self._client.map(work, parts, pure=False, retries=_RETRIES, **self._resources(work))
        results: dict[str, R] = {}
        try:
            for future in as_completed(futures):  # type: ignore[no-untyped-call]
                results[future.key] = future.result()
                future.release()  # so that it is not computed again where its worker is lost later
                done()
            return [results[future.key] for future in futures]
        finally:
            self._client.cancel([future for future in futures if not future.done()])

    def _resources(self, work: Any) -> dict[str, Any]:
        """One GPU of a worker for each task on a GPU, where the workers say that they have any."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        wants = getattr(work, "on_gpu", False) and any("GPU" in (each.get("resources") or {}) for each in workers)
        return {"resources": {"GPU": 1}} if wants else {}


def engine_of(client: Any) -> Engine:
    """The engine that a client stands for; this process where it is None.

    Raises
    ------
    InvalidInputError
        It is not a client.
    """
    if client is None:
        return InThisProcess()
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingDependencyError(f"client= needs distributed ({error}); pip install 'saestore[dask]'") from error
    if not isinstance(client, Client):
        raise InvalidInputError(f"client={shown(client)}: give a distributed.Client, or None.", code="bad-client")
    return DaskEngine(client)


class _Tasks:
    """The tasks of a plan as a function that pickles."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.on_gpu = str(plan.recipe.device).startswith("cuda")

    def __call__(self, task: int) -> None:
        self._plan.run(task)


def run_tasks(plan: Plan, client: Any, report: Progress) -> None:
    """Run the tasks of a plan that are not done, on the workers of a client."""
    engine, missing = engine_of(client), plan.missing()
    samples = {task: plan.range(task) for task in missing}
    done = plan.n_samples - plan.first - sum(stop - start for start, stop in samples.values())
    with report.bar(plan.path, "encoded", plan.n_samples - plan.first, done) as bar:
        engine.map(_Tasks(plan), missing, lambda: bar.advance(plan.segment_rows))
