"""`saestore diff`: features that differ between two groups."""

from __future__ import annotations

from saestore.cli import keys, output
from saestore.cli.features import feature_columns, level_option, with_names
from saestore.cli.group import command, note
from saestore.cli.options import option
from saestore.cli.table import measured
from saestore.cli.target import Target, json_option, with_target
from saestore.cli.where import conditions, where_option

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
