"""`saestore compare`: features of two sets that are active on the same samples."""

from __future__ import annotations

from dataclasses import replace

import click

from saestore.cli import keys, output
from saestore.cli.features import feature_columns, feature_option, level_option, one_feature, with_names
from saestore.cli.group import command, note
from saestore.cli.options import option
from saestore.cli.similar import METRICS, Metric
from saestore.cli.table import measured
from saestore.cli.target import Target, json_option, with_set
from saestore.cli.where import where_option


@command("compare", example="saestore compare CLEVR/patch/clevr-sae CLEVR/patch/clevr-sae -n 5", keys=keys.COMPARE)
@with_set
@click.argument("other_path", metavar="OTHER")
@feature_option("Matches of this feature of SET", multiple=False)
@option("--metric", "As for `similar`.", choices=METRICS, default="correlation")
@level_option("What is compared; the activation of an item is the maximum over its samples.")
@option("-n N", "Rows.", at_least=1, default=20)
@where_option
@json_option
def compare(target: Target, *, other_path: str, feature: str | None, metric: Metric) -> None:
    """Show the features of another set over the same samples that match the features of a set, best first."""
    acts, other = target.activations(), replace(target, path=other_path).activations()
    number = None if feature is None else one_feature(acts, feature)
    if number is not None:
        number = int(acts.select_features(number).ids[0])
    per_feature = 1 if number is None else target.n
    found = acts.compare(other, metric, per_feature, level=target.level, where=target.condition(acts))
    if number is not None:
        found = found[found.feature == number]
    found = found[(-found.score).argsort(kind="stable")[: target.n]]
    if target.as_json:
        rows = with_names(other, with_names(acts, list(found)), "other_feature", "other_name")
        target.document(acts, other=other.path, feature=number, metric=metric, rows=rows)
        return
    output.title(f"{acts.path}: features that match features of {other.path}")
    if not len(found):
        note("no feature is active together with one of the other set.")
        return
    columns = feature_columns(acts, found.feature.tolist())
    columns += feature_columns(other, found.other_feature.tolist(), "other feature")
    output.table([*columns, measured(metric, found.score), measured(f"{target.level}s of both", found.n_both)])
