"""`saestore plot`: a picture as a file."""

from __future__ import annotations

from typing import Any, Literal

import click

from saestore.cli.features import feature_option, level_option, one_feature
from saestore.cli.group import command, note
from saestore.cli.target import Target, with_target
from saestore.cli.where import conditions, where_option
from saestore.errors import require

_KINDS = ("top", "tokens", "histogram", "density")


@command("plot", example="saestore plot --dataset CLEVR --kind top --feature 1884 --output demo/top.png")
@with_target
@click.option(
    "--kind", metavar=f"[{'|'.join(_KINDS)}]", type=click.Choice(_KINDS), required=True,
    help="The strongest images or texts of a feature, its activations, or how often all features fire.",
)  # fmt: skip
@feature_option("The feature", multiple=False)
@click.option("--output", metavar="FILE", required=True, help="Where to write it: .png, .svg or .pdf; tokens: .html.")
@click.option("-n", metavar="N", type=click.IntRange(1), default=8, show_default=True, help="Images or texts.")
@level_option("`item` shows an image or a text once.", "item")
@click.option("--images", metavar="FOLDER", help="Folder in which the keys of images start.")
@where_option
def plot(
    target: Target,
    *,
    kind: Literal["top", "tokens", "histogram", "density"],
    feature: str | None,
    output: str,
    n: int,
    level: Literal["item", "sample"],
    images: str | None,
    where: tuple[str, ...],
) -> None:
    """Draw the strongest images or texts of a feature, its activations, or how often features fire."""
    if (feature is None) != (kind == "density"):
        raise click.UsageError("--kind density is of all features; the others need --feature.")
    acts = target.activations()
    number = None if feature is None else one_feature(acts, feature)
    given: dict[str, Any] = {"where": conditions(acts, where, [] if number is None else [number])}
    plots: Any = acts.plot
    if kind in ("top", "tokens"):
        given |= {"n": n, "level": level}
    if kind == "tokens":
        plots.tokens(number, **given).save(output)
    else:
        require("matplotlib", "plot", "plot").use("Agg")
        given |= {"images": images} if kind == "top" else {}
        ax = plots.density(**given) if kind == "density" else getattr(plots, kind)(number, **given)
        ax.figure.savefig(output, bbox_inches="tight", dpi=150)
    note(f"wrote {output}.")
