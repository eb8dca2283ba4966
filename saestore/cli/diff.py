"""`saestore diff`: features that differ between two groups."""

from __future__ import annotations

from typing import Literal

import click

from saestore.cli import keys, output
from saestore.cli.features import feature_columns, level_option, with_names
from saestore.cli.group import command, note
from saestore.cli.table import counts, decimals
from saestore.cli.target import Target, json_option, with_target
from saestore.cli.where import conditions, where_option


@command("diff", example="saestore diff --dataset CLEVR --group-a color::green -n 5", keys=keys.DIFF)
@with_target
@click.option(
    "--group-a", "group_a", metavar="CONDITION", multiple=True, required=True, help="The first group, as `--where`."
)
@click.option(
    "--group-b",
    "group_b",
    metavar="CONDITION",
    multiple=True,
    help="The second group.  [default: all that is not in A]",
)
@level_option("What is counted.", "item")
@click.option("-n", metavar="N", type=click.IntRange(1), default=20, show_default=True, help="Rows.")
@where_option
@json_option
def diff(
    target: Target,
    *,
    group_a: tuple[str, ...],
    group_b: tuple[str, ...],
    level: Literal["item", "sample"],
    n: int,
    where: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the features that fire more often in one group than in another, with Fisher's exact p and q."""
    acts = target.activations()
    a, b = conditions(acts, group_a), conditions(acts, group_b)
    found = acts.diff(a, b, level, where=conditions(acts, where))[:n]
    if as_json:
        about = {"set": acts.path, "group_a": list(group_a), "group_b": list(group_b) or None, "level": level, "n": n}
        output.document({**about, "where": list(where) or None, "rows": with_names(acts, list(found))})
        return
    output.title(f"{acts.path}: features that differ between {' '.join(group_a)} and {' '.join(group_b) or 'the rest'}")
    if not len(found):
        note("no feature is active in either group.")
        return
    columns = [*feature_columns(acts, found.feature.tolist()), decimals("difference", found.difference.tolist())]
    columns += [decimals(name, getattr(found, name).tolist()) for name in ("rate_a", "rate_b")]
    columns += [counts(name, getattr(found, name).tolist()) for name in ("n_active_a", "n_active_b")]
    output.table([*columns, *(decimals(name, getattr(found, name).tolist()) for name in ("p", "q"))])
