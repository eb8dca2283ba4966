"""`saestore compare`: features of two sets that are active on the same samples."""

from __future__ import annotations

from typing import Literal

import click

from saestore.cli import keys, output
from saestore.cli.features import feature_columns, feature_option, level_option, one_feature, with_names
from saestore.cli.group import command, note
from saestore.cli.table import counts, decimals
from saestore.cli.target import Target, json_option, store_option
from saestore.cli.where import conditions, where_option

_METRICS = ("jaccard", "cosine", "correlation")


@command("compare", example="saestore compare CLEVR/patch/clevr-sae CLEVR/patch/clevr-sae -n 5", keys=keys.COMPARE)
@click.argument("set_path", metavar="SET")
@click.argument("other_path", metavar="OTHER")
@feature_option("Matches of this feature of SET", multiple=False)
@click.option(
    "--metric",
    metavar=f"[{'|'.join(_METRICS)}]",
    type=click.Choice(_METRICS),
    default="correlation",
    show_default=True,
    help="As for `similar`.",
)
@level_option("What is compared; the activation of an item is the maximum over its samples.")
@click.option("-n", metavar="N", type=click.IntRange(1), default=20, show_default=True, help="Rows.")
@where_option
@store_option
@json_option
def compare(
    set_path: str,
    other_path: str,
    *,
    feature: str | None,
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
    number = None if feature is None else one_feature(acts, feature)
    if number is not None:
        number = int(acts.select_features(number).ids[0])
    found = acts.compare(other, metric, 1 if number is None else n, level=level, where=conditions(acts, where))
    if number is not None:
        found = found[found.feature == number]
    found = found[(-found.score).argsort(kind="stable")[:n]]
    if as_json:
        about = {"set": acts.path, "other": other.path, "feature": number, "metric": metric, "level": level, "n": n}
        rows = with_names(other, with_names(acts, list(found)), "other_feature", "other_name")
        output.document({**about, "where": list(where) or None, "rows": rows})
        return
    output.title(f"{acts.path}: features that match features of {other.path}")
    if not len(found):
        note("no feature is active together with one of the other set.")
        return
    columns = feature_columns(acts, found.feature.tolist())
    columns += feature_columns(other, found.other_feature.tolist(), "other feature")
    output.table([*columns, decimals(metric, found.score.tolist()), counts(f"{level}s of both", found.n_both.tolist())])
