"""Options of the commands that write a set from files."""

from __future__ import annotations

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


def item_ptr_option(otherwise: str) -> Callable[[Function], Function]:
    """``--item-ptr``; `otherwise` describes the default."""
    return click.option(
        "--item-ptr",
        metavar="PTR",
        callback=lambda _, __, value: int(value) if (value or "").isdecimal() else value,
        help="Which samples belong to which item: FILE.npy, FILE.npz:NAME, a token_counts .pt, or a number of samples "
        f"per item.  [default: {otherwise}]",
    )
