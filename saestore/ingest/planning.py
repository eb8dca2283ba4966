"""`saestore.plan_build`: a build as tasks that any processes run."""

from __future__ import annotations

from typing import Any

from saestore.distributed.plan import Plan
from saestore.errors import InvalidInputError, reached, require
from saestore.ingest.build import build
from saestore.ingest.options import BuildOptions, bound, with_arguments_of
from saestore.ingest.recipes import BuildRecipe, make_plan, planned
from saestore.progress import Progress
from saestore.store import Store, destination_of, open


@with_arguments_of(build)
@reached("the input")
def plan_build(dataset: str, **arguments: Any) -> Plan:
    """Check the input of a build, and write its plan into the set; other processes then run the tasks.

    The same call finds the plan that is there. Takes the arguments of `saestore.build`, except that `client` must be
    left out.

    Returns
    -------
    Plan
        ``len(plan)`` tasks, each a segment; ``plan.run(i)`` in any process, ``plan.commit()`` once. A plan pickles.
        Of a complete set it has no tasks.

    Raises
    ------
    SaestoreError
        As `saestore.build`.

    Notes
    -----
    The committed set is byte-identical to the set that `saestore.build` makes, for any number of processes. Nothing is
    locked between this call and the commit. Memory: the SAE, and 64 MiB of embeddings.
    """
    given = bound(build, dataset, **arguments)
    if given["client"] is not None:
        raise InvalidInputError(
            "plan_build takes no client: run the tasks with it, or call saestore.build(client=).", code="bad-client"
        )
    require("torch", "sae", "building")
    recipe = BuildRecipe(BuildOptions.of(given), given["overwrite"])
    report, destination = Progress(given["progress"]), destination_of(given["store"])
    inputs = recipe.resolve(destination, report)
    return make_plan(recipe, inputs, destination, report, append=given["append"])


def open_plan(store: Any, path: str) -> Plan:
    """The plan that a set records, for a process that knows only the store.

    Parameters
    ----------
    store
        A folder, URL or zarr store, or an open `saestore.Store`.
    path
        Any part of the set's path that fits one set only.

    Raises
    ------
    NotFoundError
        The set has no plan: it was not planned, or it is committed.
    InvalidInputError
        It was planned from arrays or tables in memory: use the pickled plan.
    """
    opened = store if isinstance(store, Store) else open(store, "r+")
    return planned(opened.root, opened.resolve(path))
