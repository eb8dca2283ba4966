"""`saestore card`: a page about one feature."""

from __future__ import annotations

from typing import Literal

import click

from saestore.cli.features import feature_option, level_option, one_feature
from saestore.cli.group import command, note
from saestore.cli.target import Target, with_target
from saestore.cli.where import conditions, where_option


@command("card", example="saestore card --dataset CLEVR --feature 1884 --output demo/1884.html")
@with_target
@feature_option(required=True, multiple=False)
@click.option("--output", metavar="FILE", help="Where to write the page.  [default: feature-N.html]")
@click.option(
    "--quantiles", metavar="N", type=click.IntRange(0), default=5, show_default=True, help="Parts of the range."
)
@click.option("-n", metavar="N", type=click.IntRange(0), default=5, show_default=True, help="Examples of each part.")
@click.option("--context", metavar="N", type=click.IntRange(0), default=16, show_default=True, help="Tokens beside.")
@level_option("`item` shows each item once per group, with its strongest sample.", "item")
@click.option("--images", metavar="FOLDER", help="Folder in which the keys of images start.")
@click.option("--sae-weights", metavar="SAE", help="The SAE, as `build` takes it: also show decoder neighbours.")
@where_option
def card(
    target: Target,
    *,
    feature: str,
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
    number = one_feature(acts, feature)
    page = acts.card(
        number,
        quantiles=quantiles,
        n=n,
        context=context,
        level=level,
        where=conditions(acts, where, [number]),
        images=images,
        sae=sae_weights,
    )
    note(f"wrote {page.save(output or f'feature-{number}.html')}.")
