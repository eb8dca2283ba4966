"""`saestore plot`: a picture as a file."""

from __future__ import annotations

from typing import Any

import click

from saestore.cli.features import feature_option, level_option, one_feature
from saestore.cli.group import command, note
from saestore.cli.options import option
from saestore.cli.target import Target, with_target
from saestore.cli.where import where_option

_KINDS = ("top", "tokens", "histogram", "density")


@command("plot", example="saestore plot --dataset CLEVR --kind top --feature 1884 --output demo/top.png")
@with_target
@option(
    "--kind",
    "The strongest images or texts of a feature, its activations, or how often all features fire.",
    choices=_KINDS,
    required=True,
)
@feature_option("The feature", multiple=False)
@option("--output FILE", "Where to write it: .png, .svg or .pdf; tokens: .html.", required=True)
@option("-n N", "Images or texts.", at_least=1, default=8)
@level_option("`item` shows an image or a text once.", "item")
@option("--images FOLDER", "Folder in which the keys of images start.")
@where_option
def plot(target: Target, *, kind: str, feature: str | None, output: str, images: str | None) -> None:
    """Draw the strongest images or texts of a feature, its activations, or how often features fire."""
    if (feature is None) != (kind == "density"):
        raise click.UsageError("--kind density is of all features; the others need --feature.")
    acts = target.activations()
    number = None if feature is None else one_feature(acts, feature)
    given: dict[str, Any] = {"where": target.condition(acts, [] if number is None else [number])}
    plots: Any = acts.plot
    if kind in ("top", "tokens"):
        given |= {"n": target.n, "level": target.level}
    if kind == "tokens":
        plots.tokens(number, **given).save(output)
    else:
        from saestore.interop.optional import require

        require("matplotlib", "plot", "plot").use("Agg")
        given |= {"images": images} if kind == "top" else {}
        ax = plots.density(**given) if kind == "density" else getattr(plots, kind)(number, **given)
        ax.figure.savefig(output, bbox_inches="tight", dpi=150)
    note(f"wrote {output}.")
