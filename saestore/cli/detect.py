"""`saestore detect`: which feature detects each concept, chosen on calibration items, measured on test items."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from saestore.cli import keys, output
from saestore.cli.group import command, note
from saestore.cli.table import Column, decimals, numbers
from saestore.cli.target import Target, json_option, with_target
from saestore.errors import NotFoundError

if TYPE_CHECKING:
    from saestore.activation_set import ActivationSet
    from saestore.detection.report import Detection, Row

_SHOWN = ("threshold", "cal_f1", "f1", "precision", "recall", "roc_auc")


@command("detect", example="saestore detect CLEVR", keys=keys.DETECT)
@with_target
@click.option("--concept", metavar="NAME", multiple=True, help="Of this concept only; may be repeated.")
@click.option(
    "--level",
    metavar="[item|sample]",
    type=click.Choice(["item", "sample"]),
    default="item",
    show_default=True,
    help="Detect concepts of items, by the score of their samples, or concepts of samples.",
)
@click.option(
    "--score",
    metavar="[max|mean|top-N]",
    default="max",
    show_default=True,
    help="Score of an item: its strongest sample, the mean of all samples, or of the N strongest.",
)
@click.option(
    "--p", metavar="SHARE", multiple=True, type=float,
    help="A threshold lets this share of the active positive calibration samples through; may be repeated. "
    "[default: .02 .05 .1 .2 to .9 .95]",
)  # fmt: skip
@click.option(
    "--min-active", metavar="N", type=int,
    help="Leave out features that are above 0 on fewer calibration samples. [default: 2, or 1 in 10,000]",
)  # fmt: skip
@click.option(
    "--max-fraction", metavar="SHARE", type=float,
    help="Leave out features that are above 0 on a larger share of them. [default: the fence of all features' shares]",
)  # fmt: skip
@click.option(
    "--min-p99-percentile", metavar="Q", type=float, default=5.0, show_default=True,
    help="Leave out features whose 99th percentile of activations there is below this percentile of all features'.",
)  # fmt: skip
@click.option("-n", metavar="N", type=int, default=5, show_default=True, help="Candidates that --json lists.")
@click.option(
    "--combine", metavar="N", type=int, default=0, show_default=True,
    help="Also combine up to N of the best features, by OR and by their mean.",
)  # fmt: skip
@click.option("--probe", is_flag=True, help="Also fit a sparse logistic probe to all features, on train.")
@click.option(
    "--localise/--no-localise", default=True, help="Where samples have the concepts, also report which they are."
)
@click.option("--baselines", is_flag=True, help="Also ask the ways before SAEs, on the embeddings of the set.")
@click.option(
    "--embeddings", metavar="PATH",
    help="Where these embeddings are, as for `build`. [default: where the set was built from]",
)  # fmt: skip
@click.option(
    "--cls-embeddings", metavar="PATH",
    help="One embedding per item, from its CLS token: also measure the difference of their means.",
)  # fmt: skip
@click.option(
    "--confidence-level", metavar="SHARE", type=float, default=0.95, show_default=True, help="Of the intervals."
)
@click.option(
    "--n-resamples",
    metavar="N",
    type=int,
    default=1000,
    show_default=True,
    help="How often items are drawn for them.",
)
@click.option("--seed", metavar="N", type=int, default=0, show_default=True, help="Of all that is drawn.")
@click.option("--all", "every", is_flag=True, help="Every set of the store that has concepts and splits.")
@click.option(
    "--report", metavar="FOLDER", type=click.Path(file_okay=False),
    help="Also write the results there, with all settings: Markdown, CSV, JSON and a picture.",
)  # fmt: skip
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the report in Markdown.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@json_option
def detect(
    target: Target,
    *,
    concept: tuple[str, ...],
    level: Literal["item", "sample"],
    p: tuple[float, ...],
    every: bool,
    report: str | None,
    **options: Any,
) -> None:
    """Find the feature that detects each concept best, and say how well it does on items kept apart.

    Features and thresholds are chosen on the items of the split `cal`; the results are those on the items of `test`.
    """
    forms = {name: options.pop(f"as_{name}") for name in ("markdown", "csv", "json")}
    if sum(forms.values()) > 1:
        raise click.UsageError("Choose one of --markdown, --csv and --json.")
    if every and target.named:
        raise click.UsageError("Name a set, or give --all.")
    if every and any(options[name] is not None for name in ("embeddings", "cls_embeddings")):
        raise click.UsageError("embeddings belong to one set; with --all each set's own embeddings are read.")
    results: list[Detection] = []
    with output.Status() as status:
        for acts in _every(target, level) if every else [target.activations()]:
            status(f"{acts.path}: looking for detectors among {acts.shape[1]:,} features")
            results.append(acts.detect(level, concepts=list(concept) or None, p=p or None, **options))
    _print(results, next((form for form, wanted in forms.items() if wanted), None), every)
    for found in results:
        if report is not None:
            folder = Path(report, found.provenance["set"]) if every else Path(report)
            note(f"wrote {', '.join(found.save(folder))}")
        for name, why in found.skipped.items():
            note(f"{found.provenance['set']}, concept {name!r}: {why}.")


def _every(target: Target, level: Literal["item", "sample"]) -> Iterator[ActivationSet]:
    """The sets of a store that have what detection needs."""
    store, n = target.open(), 0
    for path, acts in store.items():
        if not acts.concepts.names(level):
            note(f"{path} is passed over: it has no concepts on {level}s.")
        elif "split" not in acts.items.names() or not {"cal", "test"} <= set(acts.items.column("split").tolist()):
            note(f"{path} is passed over: its items have no splits 'cal' and 'test'.")
        else:
            n += 1
            yield acts
    if not n:
        raise NotFoundError(f"The store {target.location} has no set with concepts on {level}s and splits.")


def _print(results: list[Detection], form: str | None, every: bool) -> None:
    if form == "json":
        documents = [{"set": found.provenance["set"], **found.to_dict()} for found in results]
        output.document({"sets": documents} if every else documents[0])
    elif form == "csv":
        rows = [{"set": found.provenance["set"], **row} for found in results for row in found.rows]
        from saestore.detection.report import to_csv

        click.echo(to_csv(rows), nl=False)
    elif form == "markdown":
        click.echo("\n".join(found.to_markdown() for found in results), nl=False)
    else:
        for found in results:
            _show(found)


def _show(found: Detection) -> None:
    settings = found.settings
    output.title(
        f"{found.provenance['set']}: chosen on {settings['n_cal']:,} {settings['level']}s of cal, "
        f"measured on {settings['n_test']:,} of test"
    )
    if found.rows:
        output.table(_columns(found.rows, settings["confidence_level"]))
        if len(found.methods) > 1:
            _show_means(found)
    if found.localisation:
        output.title("Which samples of the detected items of test are the concept's")
        output.table(_places(found.localisation))
    cuts = found.pruning
    note(
        f"{cuts['kept']:,} of {cuts['n_features']:,} features were looked at: {cuts['dead']:,} are above 0 on fewer "
        f"than {cuts['min_active']:,} of {cuts['n_rows']:,} cal samples, {cuts['ubiquitous']:,} on more than "
        f"{100 * cuts['max_fraction']:.3g} %, and {cuts['weak']:,} have a p99 below {cuts['min_p99']:.4g}."
    )


def _show_means(found: Detection) -> None:
    from saestore.detection.report import compare

    _, summary = compare(found.rows)
    methods = found.methods
    output.title(f"F1 over {summary['n']} concepts, and of how many of all {len(found.concepts)} a method is the best")
    output.table(
        [
            Column("method", methods),
            decimals("mean", (summary["mean"][m] for m in methods)),
            numbers("best of", (summary["wins"][m] for m in methods)),
        ]
    )


def _columns(rows: list[Row], confidence_level: float) -> list[Column]:
    names = [row["concept"] if i == 0 or rows[i - 1]["concept"] != row["concept"] else "" for i, row in enumerate(rows)]
    columns = [Column("concept", names, cut="end")]
    several = len({row["method"] for row in rows}) > 1
    if several:
        columns.append(Column("method", [row["method"] for row in rows]))
    columns.append(Column("feature", ["-" if r["feature"] is None else str(r["feature"]) for r in rows], right=True))
    if not several:  # for which there is no room beside them
        columns.append(Column("p", ["-" if r["p"] is None else f"{r['p']:g}" for r in rows], right=True))
    for name in _SHOWN[several:]:
        columns.append(decimals(name, (row[name] for row in rows)))
        if name == "f1":
            ends = ["-" if r["f1_low"] != r["f1_low"] else f"{r['f1_low']:.3f} to {r['f1_high']:.3f}" for r in rows]
            columns.append(Column(f"{100 * confidence_level:g}% interval", ends, right=True))
    return columns


def _places(rows: list[Row]) -> list[Column]:
    columns = [Column("concept", [row["concept"] for row in rows], cut="end")]
    columns += [numbers("feature", (row["feature"] for row in rows)), Column("p2", [f"{r['p2']:g}" for r in rows])]
    columns.append(decimals("threshold2", (row["threshold2"] for row in rows)))
    columns += [decimals(name, (row[name] for row in rows)) for name in ("precision", "recall", "f1", "iou")]
    return [*columns, decimals("in top 5 %", (row["top_5"] for row in rows))]
