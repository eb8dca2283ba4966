"""`saestore plan`, `run` and `commit`: a build as tasks of many processes, and the set that they make."""

from __future__ import annotations

import random
import re
from typing import Any

import click

from saestore.cli import keys, output
from saestore.cli.build import build, find_jobs
from saestore.cli.group import command, note
from saestore.cli.options import option
from saestore.cli.set_options import dask_client, dask_option
from saestore.cli.target import store_option
from saestore.errors import InvalidInputError

_OWN = ("dask",)  # options of `saestore build` that plan has no use for
_SHOWN = 10  # missing tasks in a line


@command("plan", example="saestore plan CLEVR --sample-type patch", keys=keys.PLAN)
@option("--status SET", "Show what is done of the plan of this set, and plan nothing.", to="status")
def plan(
    datasets: tuple[str, ...],
    *,
    sample_type: str | None,
    embeddings: str | None,
    location: str,
    as_json: bool,
    status: str | None,
    **how: Any,
) -> None:
    """Check the input of a build, and write its plan into the set.

    Takes the options of `saestore build`, for one dataset. Then any number of processes run the tasks with `saestore
    run`, in any order, and `saestore commit` makes the set of what they wrote. The same command finds the plan again.
    """
    import saestore

    if status is not None:
        if datasets:
            raise click.UsageError("--status takes the SET; leave DATASET out.")
        _show(saestore.open_plan(location, status), as_json=as_json, with_tasks=True)
        return
    if len(datasets) != 1:
        raise click.UsageError(f"a plan is for one dataset; name exactly one, not {len(datasets)}.")
    jobs = find_jobs(datasets, sample_type, embeddings, how)
    if len(jobs) > 1:
        raise InvalidInputError(
            f"{datasets[0]} has embeddings of {' and '.join(str(job.sample_type) for job in jobs)} samples: choose one "
            "with --sample-type.",
            code="several-sample-types",
        )
    if jobs[0].error is not None:
        raise jobs[0].error
    found = saestore.plan_build(
        jobs[0].dataset, store=location, sample_type=jobs[0].sample_type, embeddings=embeddings, progress=True, **how
    )
    _show(found, as_json=as_json, with_tasks=False)


plan.params[:0] = [each for each in build.params if each.name not in _OWN and "--debug" not in each.opts]


def _show(plan: Any, *, as_json: bool, with_tasks: bool) -> None:
    missing = plan.missing() if with_tasks else None
    if as_json:
        output.document({"set": plan.path, "n_tasks": len(plan), **({} if missing is None else {"missing": missing})})
        return
    rows = [("tasks", f"{len(plan):,}")]
    if missing is not None:
        more = ", …" if len(missing) > _SHOWN else ""
        rows.append(("missing", f"{', '.join(map(str, missing[:_SHOWN]))}{more}" or "none"))
    output.facts(plan.path, rows)


_TASKS = re.compile(r"(\d+)(?:-(\d+))?\Z")
_WORKER = re.compile(r"(\d+)/(\d+)\Z")


def _range(_: click.Context, __: click.Parameter, value: str | None) -> range | None:
    """Tasks as they are given: ``7``, or ``0-99``, the last one included."""
    if value is None:
        return None
    match = _TASKS.match(value)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise click.BadParameter(f"{value!r} is not a task; write 7, or 0-99.")
    return range(int(match[1]), int(match[2] or match[1]) + 1)


def _share(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Which of several workers this is: ``0/8`` to ``7/8``."""
    if value is None:
        return None
    match = _WORKER.match(value)
    if match is None or int(match[1]) >= int(match[2]):
        raise click.BadParameter(f"{value!r} is not a worker; of 8 workers write 0/8 to 7/8.")
    return int(match[1]), int(match[2])


@command("run", example="saestore run CLEVR/patch --worker 0/8")
@click.argument("path", metavar="SET")
@option("--task N|A-B", "Task N, or the tasks A to B.", to="tasks", callback=_range)
@option("--worker K/N", "Of the tasks every N-th from K on, K from 0: a rank.", to="worker", callback=_share)
@option("--device DEVICE", "Where this process encodes, such as cuda:1.  [default: the plan's]")
@store_option
def run(path: str, tasks: range | None, worker: tuple[int, int] | None, device: str | None, location: str) -> None:
    """Run tasks of a planned set; those that are done are skipped.

    Without --task and --worker all that are not done, in random order, so that several processes share them. Tasks may
    run again, twice at the same time, on any machine that sees the same paths; Ctrl-C and a kill lose the current task
    only.
    """
    import saestore

    if tasks is not None and worker is not None:
        raise click.UsageError("--task and --worker exclude one another.")
    plan = saestore.open_plan(location, path)
    plan = plan if device is None else plan.on(device)
    if tasks is not None:
        chosen = list(tasks)
        for task in (chosen[0], chosen[-1]):
            plan.range(task)  # which refuses tasks that do not exist before any runs
    elif worker is not None:
        chosen = list(range(worker[0], len(plan), worker[1]))
    else:
        chosen = plan.missing()
        random.shuffle(chosen)
    for i, task in enumerate(chosen):
        plan.run(task)
        note(f"task {task} is done, {i + 1} of {len(chosen)}")


@command("commit", example="saestore commit CLEVR/patch")
@click.argument("path", metavar="SET")
@dask_option
@store_option
@click.pass_context
def commit(ctx: click.Context, path: str, location: str, dask: str | None) -> None:
    """Make the set of what the tasks of its plan wrote, once all are done.

    It merges their segments, in this process or on the workers of a Dask cluster. Run the same command again after an
    interruption.
    """
    import saestore

    plan = saestore.open_plan(location, path)
    plan.commit(progress=True, client=ctx.with_resource(dask_client(dask)))
    output.line(f"{plan.path}: {plan.n_samples:,} samples committed")
