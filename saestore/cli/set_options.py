"""Options of the commands that make a set from files, or by running a model."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from saestore.cli import output
from saestore.cli.app import note
from saestore.cli.info import overview
from saestore.cli.options import Decorator, Function, all_of, option
from saestore.cli.target import json_option, store_option
from saestore.errors import require
from saestore.vocabulary import CODECS, MODEL_DTYPES, TRANSPARENCIES


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
            "Which rows are samples, such as an attention mask: FILE.npy, FILE:NAME, or a NAME: of an array in the "
            "input, or of NAME.npy, NAME.npz or NAME.pt beside it.",
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
        option("--other-model", "Go on although the input or the model states another model or hook than the SAE."),
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
    output.facts(found["path"], [*overview(found), *(more or [])])


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
    distributed = require("distributed", "dask", "--dask")
    kind, _, count = cluster.partition(":")
    local = {"n_workers": int(count), "threads_per_worker": 1} if kind == "local" and count.isdecimal() else {}
    if kind == "local" and not local.get("n_workers"):
        raise click.UsageError(f"--dask {cluster}: write local:4 for 4 processes.")
    with distributed.Client(**local) if local else distributed.Client(cluster) as client:
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


model_options = all_of(
    option(
        "--images DIR",
        "Folder of images to run through a model, in place of embeddings; --items selects and orders them.  "
        "[default order: by name]",
    ),
    option(
        "--texts FILE",
        "Texts to run through a model, in place of embeddings: .txt (one per line), .csv or .jsonl with `text`.",
    ),
    option(
        "--model, --model-type MODEL",
        "Folder or hub name of a model: CLIP, SigLIP, DINOv2; Gemma, Llama, GPT-2, BERT and the like; or timm:NAME, "
        "open_clip:NAME:WEIGHTS.  [default: the SAE's]  Without --images and --texts, clip or gemma: the known "
        "datasets of images or of texts.",
        to="model",
    ),
    option("--layer N", "Block, counted from 0, whose output is encoded.  [default: the SAE's]", at_least=0),
    option(
        "--hook HOOK",
        "In place of --layer, a hook as sae_lens names it: blocks.N. with hook_resid_post, hook_resid_pre, "
        "hook_resid_mid, attn.hook_z, hook_attn_out or hook_mlp_out.  [default: the SAE's]",
    ),
    option(
        "--model-dtype DTYPE",
        "Dtype of the model's weights: float32, bfloat16 or float16.",
        choices=MODEL_DTYPES,
        default="float32",
    ),
    option(
        "--batch-size N", "Images or texts that run through the model together.  [default: 16, on a GPU 64]", at_least=1
    ),
    option("--max-tokens N", "Cut longer texts.  [default: as in training, else the model's limit]", at_least=1),
    option("--window N", "Run longer texts in windows of N tokens instead of cutting them.", at_least=1),
    option(
        "--stride N", "Windows begin N tokens apart; every token is stored once.  [default: no overlap]", at_least=1
    ),
    option("--chat", "Put texts into the tokenizer's chat template; .jsonl may have lists of `messages`."),
    option("--bos TOKEN", "First token of every text, or none.  [default: as in training, else as the tokenizer does]"),
    click.option(
        "--exif/--no-exif",
        default=None,
        help="Turn images by their EXIF orientation, as is the default; --no-exif leaves them as stored.",
    ),
    option(
        "--transparency COLOUR",
        "What transparent pixels of images show: white, black, or stored (the file's own colours).  [default: white]",
        choices=TRANSPARENCIES,
    ),
    option("--skip-bad", "Leave out images that cannot be read and texts without tokens; the set records which."),
)
