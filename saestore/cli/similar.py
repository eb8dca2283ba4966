"""`saestore similar`: features that are active together with one."""

from __future__ import annotations

from typing import Literal

from saestore.cli import keys, output
from saestore.cli.features import called, feature_columns, feature_option, level_option, one_feature, with_names
from saestore.cli.group import command, note
from saestore.cli.options import option
from saestore.cli.table import measured
from saestore.cli.target import Target, json_option, with_target
from saestore.cli.where import where_option

Metric = Literal["jaccard", "cosine", "correlation"]
METRICS: tuple[Metric, ...] = ("jaccard", "cosine", "correlation")


@command("similar", example="saestore similar --dataset CLEVR --feature 1234 --metric cosine", keys=keys.SIMILAR)
@with_target
@feature_option(required=True, multiple=False)
@level_option("What is compared; the activation of an item is the maximum over its samples.")
@option(
    "--metric",
    "`jaccard`: samples where both are active as a share of those where either is; or of the activations.",
    choices=METRICS,
    default=METRICS[0],
)
@option("-n N", "Rows.", at_least=1, default=10)
@where_option
@json_option
def similar(target: Target, *, feature: str, metric: Metric) -> None:
    """Show the features that are active on the same samples as a feature."""
    acts = target.activations()
    number = one_feature(acts, feature)
    found = acts.similar(number, target.n, metric, level=target.level, where=target.condition(acts, [number]))
    if target.as_json:
        target.document(acts, feature=number, metric=metric, rows=with_names(acts, list(found)))
        return
    output.title(f"{acts.path}: features most similar to {called(acts, [number])}")
    if len(found):
        columns = [*feature_columns(acts, found.feature.tolist()), measured(metric, found.score)]
        output.table([*columns, measured(f"{target.level}s of both", found.n_both)])
    else:
        note(f"no other feature is active on a {target.level} with {called(acts, [number])}.")
