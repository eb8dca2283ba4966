"""Options of the commands that write a set from files."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from saestore.cli import output
from saestore.cli.info import overview
from saestore.cli.options import Decorator, Function, all_of, option
from saestore.cli.table import pairs
from saestore.cli.target import json_option, store_option
from saestore.vocabulary import CODECS


def rows_options(otherwise: str) -> Decorator:
    """Options of what the rows of an input are; `otherwise` describes the default of ``--item-ptr``."""
    return all_of(
        option(
            "--data DIR",
            "Folder with Embeddings/, SAE_Activations_Sparse/, Data/ and GT_Samples/ of known datasets; missing "
            "files are searched under $SAESTORE_SCRATCH.",
        ),
        option("--items CSV", "metadata.csv of the images or texts: keys, split, concepts."),
        option(
            "--item-ptr PTR",
            "Which samples belong to which item: FILE.npy, FILE.npz:NAME, a token_counts .pt, or a number of "
            f"samples per item.  [default: {otherwise}]",
            callback=lambda _, __, value: int(value) if (value or "").isdecimal() else value,
        ),
        ground_truth_options,
        option(
            "--token-spans FILE",
            "First character of every token in its text, and the one after its last: FILE.npy or FILE.npz:NAME.",
        ),
        option("--tokens FILE", "Token id of each row, to keep with it; given as --mask is."),
        option(
            "--mask MASK",
            "Which rows are samples, such as an attention mask: FILE.npy, FILE:NAME, or the name of an array in "
            "the file of the input.",
        ),
        option(
            "--include WHERE",
            "Only rows that fulfil a condition on position, token, norm (of an embedding), sink (a norm above 10 "
            "times the median) or columns of the items, such as 'position > 0'; may be repeated.",
            multiple=True,
        ),
        option(
            "--exclude WHERE",
            "Not the rows that fulfil a condition, such as sink or 'token in (0, 2)'; may be repeated.",
            multiple=True,
        ),
    )


def writing_options(overwrite: str) -> Decorator:
    """Options of how a set is written; `overwrite` describes what ``--overwrite`` replaces."""
    return all_of(
        option(
            "--segment-rows N",
            "Samples of a segment, the unit of commit.  [default: some two million non-zeros]",
            at_least=1,
        ),
        option("--codec CODEC", "pcodec, or blosc for readers in other languages.", choices=CODECS, default=CODECS[0]),
        option("--overwrite", f"Replace a set of the same name that {overwrite}."),
        dask_option,
        store_option,
        json_option,
    )


@contextmanager
def resumable() -> Iterator[None]:
    """Say how to go on, where a build or an import is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        message = "interrupted. What is committed is kept; give the same command again to go on from there."
        raise KeyboardInterrupt(message) from None


def show_set(found: dict[str, Any], more: list[tuple[str, str]] | None = None) -> None:
    """Print the lines of `saestore info` on a set, and further ones."""
    output.title(found["path"])
    output.line("\n".join(pairs([*overview(found), *(more or [])], output.line_width())))


dask_option = option(
    "--dask CLUSTER",
    "Work on a Dask cluster: local:4 starts 4 processes here, tcp://HOST:PORT is a scheduler.  [default: in this "
    "process]",
)


@contextmanager
def dask_client(cluster: str | None) -> Iterator[Any]:
    """The client of a Dask cluster, as ``--dask`` names it; None where it is not given."""
    if cluster is None:
        yield None
        return
    from saestore.cli.group import note
    from saestore.interop.optional import require

    distributed = require("distributed", "dask", "--dask")
    kind, _, count = cluster.partition(":")
    if kind == "local":
        if not count.isdecimal() or int(count) < 1:
            raise click.UsageError(f"--dask {cluster}: write local:4 for 4 processes.")
        with distributed.Client(n_workers=int(count), threads_per_worker=1) as client:
            note(f"progress at {client.dashboard_link}")
            yield client
    else:
        with distributed.Client(cluster) as client:
            note(f"progress at {client.dashboard_link}")
            yield client


def ground_truth_options(function: Function) -> Function:
    """``--ground-truth`` and ``--no-ground-truth``, as one argument: a folder, False, or None."""

    @option(
        "--ground-truth DIR",
        "Folder with gt_samples_per_concept*.pt and gt_patch_per_concept*.pt: concepts of items, patches and "
        "tokens.  [default: GT_Samples/DATASET/ beside files that are found by name]",
    )
    @option("--no-ground-truth", "Leave it out.")
    @functools.wraps(function)
    def with_options(*args: Any, ground_truth: str | None, no_ground_truth: bool, **kwargs: Any) -> Any:
        if no_ground_truth and ground_truth is not None:
            raise click.UsageError("--ground-truth and --no-ground-truth exclude one another.")
        return function(*args, ground_truth=False if no_ground_truth else ground_truth, **kwargs)

    return with_options
