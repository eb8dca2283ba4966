"""The options of `saestore build` that run a model on images or texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

# A copy of what saestore.models.opening allows: that imports torch, and help must not wait for it.
MODEL_DTYPES = ("float32", "bfloat16", "float16")

_OPTIONS = (
    click.option(
        "--images",
        metavar="DIR",
        help="Folder of images to run through a model, in place of embeddings; --items says which, and in what order.  "
        "[default order: by name]",
    ),
    click.option(
        "--texts",
        metavar="FILE",
        help="Texts to run through a model, in place of embeddings: .txt with one a line, .csv or .jsonl with `text`.",
    ),
    click.option(
        "--model",
        metavar="MODEL",
        help="Folder or hub name of a model: CLIP, SigLIP, DINOv2; Gemma, Llama, GPT-2, BERT and the like.  [default: "
        "what the SAE was trained on]",
    ),
    click.option(
        "--layer",
        metavar="N",
        type=click.IntRange(0),
        help="Block, counted from 0, whose output is encoded.  [default: what the SAE was trained on]",
    ),
    click.option(
        "--model-dtype",
        metavar="DTYPE",
        type=click.Choice(MODEL_DTYPES),
        default="float32",
        show_default=True,
        help="What the model's weights are held in: float32, bfloat16 or float16.",
    ),
    click.option(
        "--batch-size",
        metavar="N",
        type=click.IntRange(1),
        help="Images or texts that run through the model together.  [default: 16, on a GPU 64]",
    ),
    click.option(
        "--max-tokens",
        metavar="N",
        type=click.IntRange(1),
        help="Cut longer texts.  [default: as the SAE was trained, else the model's own limit]",
    ),
    click.option(
        "--skip-bad",
        is_flag=True,
        help="Leave out images that cannot be read and texts without tokens; the set records which.",
    ),
)


def model_options(command: Command) -> Command:
    """Give a command these options, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
