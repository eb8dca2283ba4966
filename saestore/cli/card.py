"""`saestore card`: a page about one feature."""

from __future__ import annotations

from typing import Literal

import click

from saestore.cli.group import command, note
from saestore.cli.target import Target, with_target
from saestore.cli.where import conditions, where_option


@command("card", example="saestore card --dataset CLEVR --feature 1884 --output demo/1884.html")
@with_target
@click.option("--feature", metavar="N", type=int, required=True, help="The feature.")
@click.option("--output", metavar="FILE", help="Where to write the page.  [default: feature-N.html]")
@click.option(
    "--quantiles", metavar="N", type=click.IntRange(0), default=5, show_default=True, help="Parts of the range."
)
@click.option("-n", metavar="N", type=click.IntRange(0), default=5, show_default=True, help="Examples of each part.")
@click.option("--context", metavar="N", type=click.IntRange(0), default=16, show_default=True, help="Tokens beside.")
@click.option(
    "--level",
    metavar="[item|sample]",
    type=click.Choice(["item", "sample"]),
    default="item",
    show_default=True,
    help="`item` shows each item once per group, with its strongest sample.",
)
@click.option("--images", metavar="FOLDER", help="Folder in which the keys of images start.")
@click.option("--sae-weights", metavar="SAE", help="The SAE, as `build` takes it: also show decoder neighbours.")
@where_option
def card(
    target: Target,
    *,
    feature: int,
    output: str | None,
    quantiles: int,
    n: int,
    context: int,
    level: Literal["item", "sample"],
    images: str | None,
    sae_weights: str | None,
    where: tuple[str, ...],
) -> None:
    """Write a page about a feature: statistics, examples, concepts, companions and similar features."""
    acts = target.activations()
    page = acts.card(
        feature,
        quantiles=quantiles,
        n=n,
        context=context,
        level=level,
        where=conditions(acts, where),
        images=images,
        sae=sae_weights,
    )
    note(f"wrote {page.save(output or f'feature-{feature}.html')}.")
