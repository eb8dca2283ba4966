"""Options of the commands that write a set from files."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from saestore.vocabulary import CODECS

Function = Callable[..., Any]


token_spans_option = click.option(
    "--token-spans",
    metavar="FILE",
    help="First character of every token in its text, and the one after its last: FILE.npy or FILE.npz:NAME.",
)

segment_rows_option = click.option(
    "--segment-rows",
    metavar="N",
    type=click.IntRange(1),
    help="Samples of a segment, the unit of commit.  [default: some two million non-zeros]",
)

codec_option = click.option(
    "--codec",
    metavar="CODEC",
    type=click.Choice(CODECS),
    default=CODECS[0],
    show_default=True,
    help="pcodec, or blosc for readers in other languages.",
)


items_option = click.option(
    "--items", metavar="CSV", help="metadata.csv of the images or texts: keys, split, concepts."
)

data_option = click.option(
    "--data",
    metavar="DIR",
    help="Folder with Embeddings/, SAE_Activations_Sparse/, Data/ and GT_Samples/ of known datasets; missing files are "
    "searched under $SAESTORE_SCRATCH.",
)


def ground_truth_options(function: Function) -> Function:
    """``--ground-truth`` and ``--no-ground-truth``, as one argument: a folder, False, or None."""

    @click.option(
        "--ground-truth",
        metavar="DIR",
        help="Folder with gt_samples_per_concept*.pt and gt_patch_per_concept*.pt: concepts of items, patches and "
        "tokens.  [default: GT_Samples/DATASET/ beside files that are found by name]",
    )
    @click.option("--no-ground-truth", is_flag=True, help="Leave it out.")
    @functools.wraps(function)
    def with_options(*args: Any, ground_truth: str | None, no_ground_truth: bool, **kwargs: Any) -> Any:
        if no_ground_truth and ground_truth is not None:
            raise click.UsageError("--ground-truth and --no-ground-truth exclude one another.")
        return function(*args, ground_truth=False if no_ground_truth else ground_truth, **kwargs)

    return with_options


def item_ptr_option(otherwise: str) -> Callable[[Function], Function]:
    """``--item-ptr``; `otherwise` describes the default."""
    return click.option(
        "--item-ptr",
        metavar="PTR",
        callback=lambda _, __, value: int(value) if (value or "").isdecimal() else value,
        help="Which samples belong to which item: FILE.npy, FILE.npz:NAME, a token_counts .pt, or a number of samples "
        f"per item.  [default: {otherwise}]",
    )
