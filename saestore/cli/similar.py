"""`saestore similar`: features that are active together with one."""

from __future__ import annotations

from typing import Literal

import click

from saestore.cli import keys, output
from saestore.cli.features import called, feature_columns, feature_option, level_option, one_feature, with_names
from saestore.cli.group import command, note
from saestore.cli.table import counts, decimals
from saestore.cli.target import Target, json_option, with_target
from saestore.cli.where import conditions, where_option

_METRICS = ("jaccard", "cosine", "correlation")


@command("similar", example="saestore similar --dataset CLEVR --feature 1234 --metric cosine", keys=keys.SIMILAR)
@with_target
@feature_option(required=True, multiple=False)
@level_option("What is compared; the activation of an item is the maximum over its samples.")
@click.option(
    "--metric",
    metavar=f"[{'|'.join(_METRICS)}]",
    type=click.Choice(_METRICS),
    default=_METRICS[0],
    show_default=True,
    help="`jaccard`: samples where both are active as a share of those where either is; or of the activations.",
)
@click.option("-n", metavar="N", type=click.IntRange(1), default=10, show_default=True, help="Rows.")
@where_option
@json_option
def similar(
    target: Target,
    *,
    feature: str,
    level: Literal["sample", "item"],
    metric: Literal["jaccard", "cosine", "correlation"],
    n: int,
    where: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the features that are active on the same samples as a feature."""
    acts = target.activations()
    number = one_feature(acts, feature)
    found = acts.similar(number, n, metric, level=level, where=conditions(acts, where, [number]))
    if as_json:
        about = {"set": acts.path, "feature": number, "metric": metric, "level": level, "n": n}
        rows = with_names(acts, list(found))
        output.document({**about, "where": list(where) or None, "rows": rows})
        return
    output.title(f"{acts.path}: features most similar to {called(acts, [number])}")
    if len(found):
        columns = [*feature_columns(acts, found.feature.tolist()), decimals(metric, found.score.tolist())]
        output.table([*columns, counts(f"{level}s of both", found.n_both.tolist())])
    else:
        note(f"no other feature is active on a {level} with {called(acts, [number])}.")
