"""`saestore similar`, `compare` and `diff`: features that belong together, match or differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import click

from saestore.cli import keys, output
from saestore.cli.features import called, feature_columns, feature_option, level_option, one_feature, with_names
from saestore.cli.group import command, note
from saestore.cli.options import option
from saestore.cli.table import measured
from saestore.cli.target import Target, json_option, with_set, with_target
from saestore.cli.where import conditions, where_option

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


_SHOWN = ("difference", "rate_a", "rate_b", "n_active_a", "n_active_b", "p", "q")


@command("diff", example="saestore diff --dataset CLEVR --group-a color::green -n 5", keys=keys.DIFF)
@with_target
@option("--group-a CONDITION", "The first group, as `--where`.", to="group_a", multiple=True, required=True)
@option("--group-b CONDITION", "The second group.  [default: all that is not in A]", to="group_b", multiple=True)
@level_option("What is counted.", "item")
@option("-n N", "Rows.", at_least=1, default=20)
@where_option
@json_option
def diff(target: Target, *, group_a: tuple[str, ...], group_b: tuple[str, ...]) -> None:
    """Show the features that fire more often in one group than in another, with Fisher's exact p and q."""
    acts = target.activations()
    a, b = conditions(acts, group_a), conditions(acts, group_b)
    found = acts.diff(a, b, target.level, where=target.condition(acts))[: target.n]
    if target.as_json:
        groups = {"group_a": list(group_a), "group_b": list(group_b) or None}
        target.document(acts, **groups, rows=with_names(acts, list(found)))
        return
    output.title(f"{acts.path}: features that differ between {' '.join(group_a)} and {' '.join(group_b) or 'the rest'}")
    if not len(found):
        note("no feature is active in either group.")
        return
    columns = feature_columns(acts, found.feature.tolist())
    output.table([*columns, *(measured(name, getattr(found, name)) for name in _SHOWN)])
