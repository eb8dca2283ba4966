"""The options of `saestore build` that run a model on images or texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from saestore.vocabulary import MODEL_DTYPES, TRANSPARENCIES

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--images",
        metavar="DIR",
        help="Folder of images to run through a model, in place of embeddings; --items selects and orders them.  "
        "[default order: by name]",
    ),
    click.option(
        "--texts",
        metavar="FILE",
        help="Texts to run through a model, in place of embeddings: .txt (one per line), .csv or .jsonl with `text`.",
    ),
    click.option(
        "--model",
        "--model-type",
        "model",
        metavar="MODEL",
        help="Folder or hub name of a model: CLIP, SigLIP, DINOv2; Gemma, Llama, GPT-2, BERT and the like; or "
        "timm:NAME, open_clip:NAME:WEIGHTS.  [default: "
        "the SAE's]  Without --images and --texts, clip or gemma: the known datasets of images or of texts.",
    ),
    click.option(
        "--layer",
        metavar="N",
        type=click.IntRange(0),
        help="Block, counted from 0, whose output is encoded.  [default: the SAE's]",
    ),
    click.option(
        "--hook",
        metavar="HOOK",
        help="In place of --layer, a hook as sae_lens names it: blocks.N. with hook_resid_post, hook_resid_pre, "
        "hook_resid_mid, attn.hook_z, hook_attn_out or hook_mlp_out.  [default: the SAE's]",
    ),
    click.option(
        "--model-dtype",
        metavar="DTYPE",
        type=click.Choice(MODEL_DTYPES),
        default="float32",
        show_default=True,
        help="Dtype of the model's weights: float32, bfloat16 or float16.",
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
        help="Cut longer texts.  [default: as in training, else the model's limit]",
    ),
    click.option(
        "--window",
        metavar="N",
        type=click.IntRange(1),
        help="Run longer texts in windows of N tokens instead of cutting them.",
    ),
    click.option(
        "--stride",
        metavar="N",
        type=click.IntRange(1),
        help="Windows begin N tokens apart; every token is stored once.  [default: no overlap]",
    ),
    click.option(
        "--chat",
        is_flag=True,
        help="Put texts into the tokenizer's chat template; .jsonl may have lists of `messages`.",
    ),
    click.option(
        "--bos",
        metavar="TOKEN",
        help="First token of every text, or none.  [default: as in training, else as the tokenizer does]",
    ),
    click.option(
        "--exif/--no-exif",
        default=None,
        help="Turn images by their EXIF orientation, or leave them as stored.  [default: --exif]",
    ),
    click.option(
        "--transparency",
        metavar="COLOUR",
        type=click.Choice(TRANSPARENCIES),
        help="What transparent pixels of images show: white, black, or stored (the file's own colours).  [default: "
        "white]",
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
