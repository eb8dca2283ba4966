"""`saestore card`: a page about one feature."""

from __future__ import annotations

from typing import Any

from saestore.cli.features import feature_option, level_option, one_feature
from saestore.cli.group import command, note
from saestore.cli.options import option
from saestore.cli.target import Target, with_target
from saestore.cli.where import where_option


@command("card", example="saestore card --dataset CLEVR --feature 1884 --output demo/1884.html")
@with_target
@feature_option(required=True, multiple=False)
@option("--output FILE", "Where to write the page.  [default: feature-N.html]")
@option("--quantiles N", "Parts of the range.", at_least=0, default=5)
@option("-n N", "Examples of each part.", at_least=0, default=5)
@option("--context N", "Tokens beside.", at_least=0, default=16)
@level_option("`item` shows each item once per group, with its strongest sample.", "item")
@option("--images FOLDER", "Folder in which the keys of images start.")
@option("--sae-weights SAE", "The SAE, as `build` takes it: also show decoder neighbours.")
@where_option
def card(target: Target, *, feature: str, output: str | None, sae_weights: str | None, **how: Any) -> None:
    """Write a page about a feature: statistics, examples, concepts, companions and similar features."""
    acts = target.activations()
    number = one_feature(acts, feature)
    how |= {"level": target.level, "n": target.n, "where": target.condition(acts, [number]), "sae": sae_weights}
    note(f"wrote {acts.card(number, **how).save(output or f'feature-{number}.html')}.")
