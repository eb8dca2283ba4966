"""`saestore examples`: examples of features from any part of their range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saestore.cli import keys, output
from saestore.cli.features import called, feature_columns, feature_option, features_of, level_option, with_names
from saestore.cli.group import command, note
from saestore.cli.options import all_of, option
from saestore.cli.table import Column, decimals
from saestore.cli.target import Target, json_option, with_target
from saestore.cli.where import where_option

if TYPE_CHECKING:
    from saestore.activation_set import ActivationSet
    from saestore.analysis.examples import ExampleTable

_count_options = all_of(
    option("--quantiles N", "Parts of equal size that the active samples are cut into.", at_least=0, default=10),
    option("-n N", "Examples of each part, and of the strongest.", at_least=0, default=5),
    option("--random N", "Active samples at random, and as many silent ones.", at_least=0, default=5),
    option(
        "--near-misses N",
        "Samples where the companions of the feature are active and the feature is silent.",
        at_least=0,
        default=5,
    ),
    option("--context N", "Tokens on either side.", at_least=0, default=16),
)


@command("examples", example="saestore examples --dataset CLEVR --feature 1884 --quantiles 3 -n 2", keys=keys.EXAMPLES)
@with_target
@feature_option(required=True)
@_count_options
@level_option("`item` shows the strongest sample of each item only.")
@option("--seed N", "Of the draws.", at_least=0, default=0)
@where_option
@option("--jsonl FILE", "Write one JSON object per example and line, with its window.")
@option(
    "--sets FILE",
    "Write the sets that a language model explains a feature from and is scored by, one feature per line.",
)
@json_option
def examples(
    target: Target, *, feature: tuple[str, ...], seed: int, jsonl: str | None, sets: str | None, **counts: int
) -> None:
    """Show examples of a feature from any part of its range, silent samples and near misses."""
    acts = target.activations()
    features = features_of(acts, feature)
    how: dict[str, Any] = {"level": target.level, "where": target.condition(acts, features), "seed": seed}
    found = acts.examples(features, n=target.n, **how | counts)
    if sets is not None:
        made = acts.explanation_sets(features, context=counts["context"], **how)
        note(f"wrote {len(made.train):,} examples and {len(made.trials):,} trials to {made.save(sets)}.")
    if jsonl is not None:
        note(f"wrote {len(found):,} examples to {found.save(jsonl)}.")
    if target.as_json:
        target.document(acts, **counts, seed=seed, rows=with_names(acts, list(found)))
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
