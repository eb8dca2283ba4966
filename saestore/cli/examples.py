"""`saestore examples`: examples of features from any part of their range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from saestore.cli import keys, output
from saestore.cli.features import called, feature_columns, feature_option, features_of, level_option, with_names
from saestore.cli.group import command, note
from saestore.cli.table import Column, decimals
from saestore.cli.target import Target, json_option, with_target
from saestore.cli.where import conditions, where_option

if TYPE_CHECKING:
    from saestore.activation_set import ActivationSet
    from saestore.analysis.examples import ExampleTable

_COUNTS = {
    "quantiles": (10, "Parts of equal size that the active samples are cut into."),
    "n": (5, "Examples of each part, and of the strongest."),
    "random": (5, "Active samples at random, and as many silent ones."),
    "near-misses": (5, "Samples where the companions of the feature are active and the feature is silent."),
    "context": (16, "Tokens on either side."),
}


def _count_options(function: Any) -> Any:
    for name, (default, text) in reversed(_COUNTS.items()):
        flag = f"-{name}" if len(name) == 1 else f"--{name}"
        option = click.option(
            flag, metavar="N", type=click.IntRange(0), default=default, show_default=True, help=text
        )  # fmt: skip
        function = option(function)
    return function


@command("examples", example="saestore examples --dataset CLEVR --feature 1884 --quantiles 3 -n 2", keys=keys.EXAMPLES)
@with_target
@feature_option(required=True)
@_count_options
@level_option("`item` shows the strongest sample of each item only.")
@click.option("--seed", metavar="N", type=click.IntRange(0), default=0, show_default=True, help="Of the draws.")
@where_option
@click.option("--jsonl", metavar="FILE", help="Write one JSON object per example and line, with its window.")
@click.option(
    "--sets",
    metavar="FILE",
    help="Write the sets that a language model explains a feature from and is scored by, one feature per line.",
)
@json_option
def examples(
    target: Target,
    *,
    feature: tuple[str, ...],
    level: Literal["sample", "item"],
    seed: int,
    where: tuple[str, ...],
    jsonl: str | None,
    sets: str | None,
    as_json: bool,
    **counts: int,
) -> None:
    """Show examples of a feature from any part of its range, silent samples and near misses."""
    acts = target.activations()
    features = features_of(acts, feature)
    condition = conditions(acts, where, features)
    found = acts.examples(features, level=level, where=condition, seed=seed, **counts)
    if sets is not None:
        made = acts.explanation_sets(features, level=level, where=condition, seed=seed, context=counts["context"])
        note(f"wrote {len(made.train):,} examples and {len(made.trials):,} trials to {made.save(sets)}.")
    if jsonl is not None:
        note(f"wrote {len(found):,} examples to {found.save(jsonl)}.")
    if as_json:
        asked = {**counts, "level": level, "seed": seed, "where": list(where) or None}
        output.document({"set": acts.path, **asked, "rows": with_names(acts, list(found))})
    elif jsonl is None and sets is None:
        _show(acts, features, found)


def _show(acts: ActivationSet, features: list[int], found: ExampleTable) -> None:
    from saestore.cli.places import place_columns, places

    output.title(f"{acts.path}: examples of {called(acts, features)}")
    if not len(found):
        note("no sample fulfils the condition.")
        return
    columns = feature_columns(acts, found.feature.tolist()) if len(features) > 1 else []
    kinds = [f"{k} {q}" if q >= 0 else k for k, q in zip(found.kind.tolist(), found.quantile.tolist(), strict=True)]
    columns += [Column("kind", kinds), decimals("activation", found.activation.tolist())]
    rows = places(acts, found.sample)
    output.table([*columns, *place_columns(rows, several_per_item=acts.attributes.item_size != 1)])
