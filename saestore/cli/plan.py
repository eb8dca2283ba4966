"""`saestore plan`: a build as tasks for many processes."""

from __future__ import annotations

from typing import Any

import click

from saestore.cli import keys, output
from saestore.cli.build import build, find_jobs
from saestore.cli.group import command
from saestore.cli.options import option
from saestore.cli.table import pairs
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
    output.title(plan.path)
    output.line("\n".join(pairs(rows, output.line_width())))
