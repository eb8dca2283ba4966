"""`saestore build`, `plan`, `run` and `commit`: embeddings through an SAE into the store, also as tasks."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from saestore.cli import keys, output
from saestore.cli.app import command, note
from saestore.cli.options import option
from saestore.cli.set_options import (
    dask_client,
    dask_option,
    ground_truth_options,
    model_options,
    resumable,
    rows_options,
    show_set,
    writing_options,
)  # fmt: skip
from saestore.cli.target import store_option
from saestore.errors import InvalidInputError, LockedError, NotFoundError, StoreConflictError
from saestore.vocabulary import BUILD_DTYPES, MATMUL_PRECISIONS, SAMPLE_TYPES

if TYPE_CHECKING:
    from saestore.superactivators.datasets import Dataset

_ALL = "all"
# What is wrong with one of several datasets is no reason to leave out the others; a full disk would be.
_OF_ONE_JOB = (InvalidInputError, NotFoundError, StoreConflictError, LockedError)
# Files that belong to one dataset; they cannot serve several.
_OF_ONE_DATASET = (
    "embeddings", "images", "texts", "items", "item_ptr", "ground_truth", "token_spans", "tokens", "mask",
)  # fmt: skip
_SHOWN = 10  # missing tasks in a line
_TASKS = re.compile(r"(\d+)(?:-(\d+))?\Z")
_WORKER = re.compile(r"(\d+)/(\d+)\Z")


@command("build", example="saestore build CLEVR", keys=keys.SETS)
@click.argument("datasets", metavar="[DATASET]...", nargs=-1)
@option(
    "--sample-type TYPE",
    "patch (of texts: token), token, cls, or all.  [default: all whose embeddings are found; with --embeddings, "
    "the dataset's]",
    choices=(*SAMPLE_TYPES, _ALL),
)
@option("--datasets", "May stand before the names; changes nothing.", to="named", expose_value=False)
@option(
    "--embeddings PATH",
    "File or folder: .pt alone or in chunks, .npy, .npz, .safetensors, HDF5, Parquet, a zarr array, SAELens's "
    "cached activations, saev's shards.  [default: found by name under Embeddings/DATASET/ in --data or "
    "$SAESTORE_SCRATCH]",
)
@option(
    "--sae SAE",
    "Folder or file of sae_lens, sparsify, dictionary_learning, Gemma Scope, CLIP-Scope, OpenMOSS, saev or Qwen Scope; "
    "RELEASE:SAE_ID, see `saestore saes`; clip-scope-22; gemma-scope-9b-34-16k.  [default: the dataset's SAE]",
)
@rows_options("the samples divide evenly among the items")
@model_options
@option("--device DEVICE", "Where to encode, and to run the model: cpu, cuda, cuda:1 or mps.", default="cpu")
@option(
    "--dtype DTYPE",
    "float32 or float16, whose error is measured and recorded.  [default: the SAE's dtype, lossless]",
    choices=BUILD_DTYPES,
)
@option(
    "--top-k N", "Keep only the N strongest of each sample; what that drops is recorded.  [default: all]", at_least=1
)
@option(
    "--matmul-precision HOW",
    "float32 computes every activation in float32; bfloat16 only those that a bfloat16 product with its error "
    "bounds leaves in question, with the same result; auto takes what is likely to be quicker.",
    choices=MATMUL_PRECISIONS,
    default="auto",
)
@option(
    "--append", "Add what is new to a complete set: further images or texts, or rows of embeddings with their items."
)
@writing_options("another build made")
def build(
    datasets: tuple[str, ...],
    *,
    sample_type: str | None,
    embeddings: str | None,
    location: str,
    as_json: bool,
    dask: str | None,
    **how: Any,
) -> None:
    """Encode embeddings through an SAE and store the non-zeros.

    Without a name, all known datasets whose embeddings are found. With --images or --texts the embeddings are a model's
    hidden state, and are never written to disk. Run the same command again to resume an interrupted
    build. Complete sets are skipped.
    """
    import saestore

    _check_for_one({"embeddings": embeddings, **how}, len(datasets))
    jobs = _find_jobs(datasets, sample_type, embeddings, how)
    found, failed, unfit = [], [], []
    cluster = click.get_current_context().with_resource(dask_client(dask))
    for job in jobs:
        try:
            if job.error is not None:
                raise job.error
            with resumable():
                inputs = {"sample_type": job.sample_type, "embeddings": embeddings, "client": cluster, **how}
                found.append(saestore.build(job.dataset, store=location, progress=True, **inputs).info())
        except _OF_ONE_JOB as error:
            if len(jobs) == 1:
                raise
            # Without names, an SAE is meant for the data sets whose embeddings it takes.
            if not datasets and how["sae"] is not None and error.code == "wrong-width":
                unfit.append(error)
                note(f"skipping {job}: {error}")
                continue
            failed.append(str(job))
            note(f"error: {job}: {error}")
            continue
        if not as_json:
            show_set(found[-1])
    if as_json:
        output.document({"store": location, "sets": found})
    if unfit and not found and not failed:
        raise unfit[0]
    if failed:
        message = f"{len(failed)} of {len(jobs)} were not built: {', '.join(failed)}; see above."
        raise InvalidInputError(message, code="not-built")


def _check_for_one(given: dict[str, Any], n_datasets: int) -> None:
    for name in _OF_ONE_DATASET:
        if given[name] not in (None, False) and n_datasets != 1:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(f"{option} belongs to one dataset; name exactly one, not {n_datasets}.")


class _Job(NamedTuple):
    """One set to build, or the reason why it cannot be built."""

    dataset: str
    sample_type: str | None
    error: NotFoundError | InvalidInputError | None = None

    def __str__(self) -> str:
        return self.dataset if self.sample_type is None else f"{self.dataset} ({self.sample_type})"


def _find_jobs(
    names: tuple[str, ...], sample_type: str | None, embeddings: str | None, how: dict[str, Any]
) -> list[_Job]:
    """Which datasets and sample types to build, one after the other; what is named and cannot be built has its error.

    `how` are the other options. A model that only chooses datasets, for there is nothing to run, is taken out of them.
    """
    from saestore.superactivators.datasets import MODEL_TYPES, find_dataset, known_datasets
    from saestore.superactivators.file_names import data_roots

    given = embeddings is not None or how["images"] is not None or how["texts"] is not None
    if sample_type == _ALL and given:
        raise click.UsageError("--sample-type all goes with embeddings that are found by name; name one type.")
    sample_type, data, chooses = None if sample_type == _ALL else sample_type, how["data"], str(how["model"]).lower()
    data_roots(data)  # a folder that is not there is no reason to skip
    if given:
        return [_Job(names[0], sample_type)]
    if chooses in MODEL_TYPES:
        how["model"] = None
    jobs: list[_Job] = []
    others: list[Dataset] = []
    for name in names or [dataset.name for dataset in known_datasets()]:
        try:
            dataset = find_dataset(name)
        except NotFoundError as error:
            jobs.append(_Job(name, sample_type, error))
            continue
        if dataset.modality == MODEL_TYPES.get(chooses, dataset.modality):
            jobs += _jobs_of(dataset, sample_type, data, named=bool(names))
        else:
            others.append(dataset)
    if names and others and not jobs:
        raise _other_modality(others[0], chooses)
    for dataset in others if names else ():
        note(f"skipping {dataset.name}: {chooses} does not take {dataset.modality}s.")
    if not jobs:
        raise NotFoundError(
            "no embeddings of any known dataset were found: set SAESTORE_SCRATCH or --data to the folder that "
            "holds Embeddings/<dataset>/, or name a dataset and give its --embeddings."
        )
    return jobs


def _other_modality(dataset: Dataset, model_type: str) -> InvalidInputError:
    from saestore.superactivators.datasets import MODEL_TYPES, known_datasets

    fits = ", ".join(each.name for each in known_datasets() if each.modality == MODEL_TYPES[model_type])
    other = next(name for name, modality in MODEL_TYPES.items() if modality == dataset.modality)
    return InvalidInputError(
        f"{dataset.name} is a data set of {dataset.modality}s, and --model {model_type} chooses data sets of "
        f"{MODEL_TYPES[model_type]}s: {fits}. Name one of these, or use --model {other}.",
        code="other-modality",
    )


def _jobs_of(dataset: Dataset, sample_type: str | None, data: str | None, *, named: bool) -> Iterator[_Job]:
    """A job for each sample type whose embeddings are there; the reasons of the others are noted."""
    from saestore.superactivators.file_names import find_embeddings

    reasons: list[NotFoundError | InvalidInputError] = []
    tried = (dataset.sample_type(sample_type),) if sample_type else dataset.sample_types
    for each in tried:
        try:
            find_embeddings(dataset, each, data)
        except (NotFoundError, InvalidInputError) as error:
            reasons.append(error)
        else:
            yield _Job(dataset.name, each)
    none_found = len(reasons) == len(tried)
    if named and none_found:
        yield _Job(dataset.name, sample_type, reasons[0])
        return
    for reason in reasons[:1] if none_found else reasons:
        note(f"skipping {dataset.name}: {reason}")


@command("plan", example="saestore plan CLEVR --sample-type patch", keys=keys.PLAN)
@option("--status SET", "Show what is done of the plan of this set, and plan nothing.", to="status")
@ground_truth_options
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
    jobs = _find_jobs(datasets, sample_type, embeddings, how)
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


_has = {"dask", *(each.name for each in plan.params)}
plan.params[:0] = [each for each in build.params if each.name not in _has]


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
