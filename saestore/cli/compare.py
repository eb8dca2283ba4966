"""`saestore compare`: features of two sets that are active on the same samples."""

from __future__ import annotations

from typing import Literal

import click

from saestore.cli import keys, output
from saestore.cli.group import command, note
from saestore.cli.table import counts, decimals, numbers
from saestore.cli.target import Target, json_option, store_option
from saestore.cli.where import conditions, where_option
from saestore.errors import OutOfRangeError

_METRICS = ("jaccard", "cosine", "correlation")


@command("compare", example="saestore compare CLEVR/patch/clevr-sae CLEVR/patch/clevr-sae -n 5", keys=keys.COMPARE)
@click.argument("set_path", metavar="SET")
@click.argument("other_path", metavar="OTHER")
@click.option("--feature", metavar="N", type=int, help="Matches of this feature of SET.  [default: of all, one each]")
@click.option(
    "--metric",
    metavar=f"[{'|'.join(_METRICS)}]",
    type=click.Choice(_METRICS),
    default="correlation",
    show_default=True,
    help="As for `similar`.",
)
@click.option(
    "--level",
    metavar="[item|sample]",
    type=click.Choice(["item", "sample"]),
    default="sample",
    show_default=True,
    help="What is compared; the activation of an item is the maximum over its samples.",
)
@click.option("-n", metavar="N", type=click.IntRange(1), default=20, show_default=True, help="Rows.")
@where_option
@store_option
@json_option
def compare(
    set_path: str,
    other_path: str,
    *,
    feature: int | None,
    metric: Literal["jaccard", "cosine", "correlation"],
    level: Literal["item", "sample"],
    n: int,
    where: tuple[str, ...],
    location: str,
    as_json: bool,
) -> None:
    """Show the features of another set over the same samples that match the features of a set, best first."""
    acts = Target(location, set_path).activations()
    other = Target(location, other_path).activations()
    if feature is not None and not 0 <= feature < acts.shape[1]:
        raise OutOfRangeError(f"feature {feature} is out of range: {acts.path} has {acts.shape[1]:,} features.")
    found = acts.compare(other, metric, 1 if feature is None else n, level=level, where=conditions(acts, where))
    if feature is not None:
        found = found[found.feature == feature]
    found = found[(-found.score).argsort(kind="stable")[:n]]
    if as_json:
        about = {"set": acts.path, "other": other.path, "feature": feature, "metric": metric, "level": level, "n": n}
        output.document({**about, "where": list(where) or None, "rows": list(found)})
        return
    output.title(f"{acts.path}: features that match features of {other.path}")
    if not len(found):
        note("no feature is active together with one of the other set.")
        return
    columns = [numbers("feature", found.feature.tolist()), numbers("other feature", found.other_feature.tolist())]
    output.table([*columns, decimals(metric, found.score.tolist()), counts(f"{level}s of both", found.n_both.tolist())])
