"""`saestore build`: embeddings through an SAE into the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from saestore.cli import keys, output
from saestore.cli.group import command, note
from saestore.cli.options import option
from saestore.cli.set_options import dask_client, model_options, resumable, rows_options, show_set, writing_options
from saestore.errors import InvalidInputError, LockedError, NotFoundError, StoreConflictError
from saestore.vocabulary import BUILD_DTYPES, MATMUL_PRECISIONS, SAMPLE_TYPES

if TYPE_CHECKING:
    from saestore.superactivators.datasets import Dataset

_ALL = "all"
# What is wrong with one of several datasets is no reason to leave out the others; a full disk would be.
_OF_ONE_JOB = (InvalidInputError, NotFoundError, StoreConflictError, LockedError)

# Files that belong to one dataset; they cannot serve several.
_OF_ONE_DATASET = (
    "embeddings",
    "images",
    "texts",
    "items",
    "item_ptr",
    "ground_truth",
    "token_spans",
    "tokens",
    "mask",
)


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
    "--append",
    "Add what is new to a complete set: further images or texts, or rows of embeddings with their items.",
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
    _check_for_one({"embeddings": embeddings, **how}, len(datasets))
    jobs = find_jobs(datasets, sample_type, embeddings, how)
    found, failed, unfit = [], [], []
    cluster = click.get_current_context().with_resource(dask_client(dask))
    for job in jobs:
        try:
            if job.error is not None:
                raise job.error
            inputs = {"sample_type": job.sample_type, "embeddings": embeddings, "client": cluster}
            found.append(_build_one(job.dataset, store=location, **inputs, **how))
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
        raise InvalidInputError(
            f"{len(failed)} of {len(jobs)} were not built: {', '.join(failed)}; see above.", code="not-built"
        )


def _check_for_one(given: dict[str, Any], n_datasets: int) -> None:
    for name in _OF_ONE_DATASET:
        if given[name] not in (None, False) and n_datasets != 1:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(f"{option} belongs to one dataset; name exactly one, not {n_datasets}.")


def _build_one(dataset: str, **how: Any) -> dict[str, Any]:
    import saestore

    with resumable():
        return saestore.build(dataset, progress=True, **how).info()


class _Job(NamedTuple):
    """One set to build, or the reason why it cannot be built."""

    dataset: str
    sample_type: str | None
    error: NotFoundError | InvalidInputError | None = None

    def __str__(self) -> str:
        return self.dataset if self.sample_type is None else f"{self.dataset} ({self.sample_type})"


def find_jobs(
    names: tuple[str, ...], sample_type: str | None, embeddings: str | None, how: dict[str, Any]
) -> list[_Job]:
    """Which dataset and sample type to build; `how` are the other options, of which a known model type is taken out."""
    given = embeddings is not None or how["images"] is not None or how["texts"] is not None
    if sample_type == _ALL:
        if given:
            raise click.UsageError("--sample-type all goes with embeddings that are found by name; name one type.")
        sample_type = None
    model_type = None if given else _model_type(how)
    return _jobs(names, sample_type, how["data"], given=given, model_type=model_type)


def _model_type(how: dict[str, Any]) -> str | None:
    """The pipeline's name of a model, taken out of the options: without images or texts there is none to run."""
    from saestore.superactivators.datasets import MODEL_TYPES

    name = str(how["model"]).lower()
    if name not in MODEL_TYPES:
        return None
    how["model"] = None
    return name


def _jobs(
    names: tuple[str, ...], sample_type: str | None, data: str | None, *, given: bool, model_type: str | None
) -> list[_Job]:
    """Which dataset and sample type to build, one after the other; what is named and cannot be built has its error."""
    from saestore.superactivators.datasets import MODEL_TYPES, find_dataset, known_datasets
    from saestore.superactivators.file_names import data_roots

    data_roots(data)  # a folder that is not there is no reason to skip
    if given:
        return [_Job(names[0], sample_type)]
    jobs: list[_Job] = []
    others: list[Dataset] = []
    for name in names or [dataset.name for dataset in known_datasets()]:
        try:
            dataset = find_dataset(name)
        except NotFoundError as error:
            jobs.append(_Job(name, sample_type, error))
            continue
        if model_type is not None and dataset.modality != MODEL_TYPES[model_type]:
            others.append(dataset)
            continue
        jobs += _jobs_of(dataset, sample_type, data, named=bool(names))
    if names and not jobs and model_type is not None:
        raise _other_modality(others[0], model_type)
    for dataset in others if names else ():
        note(f"skipping {dataset.name}: {model_type} does not take {dataset.modality}s.")
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
    tried = dict(_found(dataset, sample_type, data))
    reasons = [missing for missing in tried.values() if missing is not None]
    yield from (_Job(dataset.name, each) for each, missing in tried.items() if missing is None)
    if named and len(reasons) == len(tried):
        yield _Job(dataset.name, sample_type, reasons[0])
        return
    for reason in reasons if len(reasons) < len(tried) else reasons[:1]:
        note(f"skipping {dataset.name}: {reason}")


def _found(
    dataset: Dataset, sample_type: str | None, data: str | None
) -> Iterator[tuple[str, NotFoundError | InvalidInputError | None]]:
    """Each sample type with the reason why its embeddings cannot be had, None where they can."""
    from saestore.superactivators.file_names import find_embeddings

    for each in (dataset.sample_type(sample_type),) if sample_type else dataset.sample_types:
        try:
            find_embeddings(dataset, each, data)
        except (NotFoundError, InvalidInputError) as e:
            yield each, e
        else:
            yield each, None
