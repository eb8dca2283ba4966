"""`saestore similar`: features that are active together with one."""

from __future__ import annotations

from typing import Literal

import click

from saestore.cli import keys, output
from saestore.cli.group import command, note
from saestore.cli.table import counts, decimals, numbers
from saestore.cli.target import Target, json_option, with_target
from saestore.cli.where import conditions, where_option

_METRICS = ("jaccard", "cosine", "correlation")


@command("similar", example="saestore similar --dataset CLEVR --feature 1234 --metric cosine", keys=keys.SIMILAR)
@with_target
@click.option("--feature", metavar="N", type=int, required=True, help="The feature.")
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
    feature: int,
    metric: Literal["jaccard", "cosine", "correlation"],
    n: int,
    where: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the features that are active on the same samples as a feature."""
    acts = target.activations()
    found = acts.similar(feature, n, metric, where=conditions(acts, where))
    if as_json:
        about = {"set": acts.path, "feature": feature, "metric": metric, "n": n, "where": list(where) or None}
        output.document({**about, "rows": list(found)})
        return
    output.title(f"{acts.path}: features most similar to feature {feature}")
    if len(found):
        columns = [numbers("feature", found.feature.tolist()), decimals(metric, found.score.tolist())]
        output.table([*columns, counts("samples of both", found.n_both.tolist())])
    else:
        note(f"no other feature is active on a sample with feature {feature}.")
