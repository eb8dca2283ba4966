"""`saestore detect`: which feature detects each concept, chosen on calibration items, measured on test items."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saestore.cli import keys, output
from saestore.cli.app import command, note
from saestore.cli.naming import name_column
from saestore.cli.options import draws_options, feature_option, features_of, level_option, option, where_option
from saestore.cli.table import Column, decimals, first_of_each, interval, numbers
from saestore.cli.target import Target, forms_options, with_target
from saestore.errors import NotFoundError

if TYPE_CHECKING:
    from saestore.activation_set import ActivationSet
    from saestore.detection.report import Detection, Row

_SHOWN = ("threshold", "cal_f1", "f1", "precision", "recall", "roc_auc")


@command("detect", example="saestore detect CLEVR", keys=keys.DETECT)
@with_target
@option("--concept NAME", "Only this concept; may be repeated.", multiple=True)
@level_option("Detect concepts of items, by a score of their samples, or concepts of samples.", "item")
@feature_option("Of this feature only, which is not left out as dead, ubiquitous or weak")
@option(
    "--choose-on SPLIT", "Choose features and thresholds on this split, or on what fulfils a condition.", default="cal"
)
@option("--report-on SPLIT", "Measure on this split, or on what fulfils a condition.", default="test")
@option("--fit-on SPLIT", "Fit the probe and the methods without an SAE on this split.", default="train")
@where_option
@option("--grid", "Instead, print every threshold of every feature as CSV.")
@option(
    "--score [max|mean|top-N]",
    "Score of an item: its strongest sample, the mean of all, or the mean of the N strongest.",
    default="max",
)
@option(
    "--target-recall SHARE",
    "Share of the active positive calibration samples that reaches a threshold; may be repeated. "
    "[default: .02 .05 .1 .2 to .9 .95]",
    to="target_recalls",
    type=float,
    multiple=True,
)
@option(
    "--min-active N", "Leave out features above 0 on fewer calibration samples. [default: 2, or 1 in 10,000]", type=int
)
@option(
    "--max-fraction SHARE",
    "Leave out features above 0 on a larger share of them. [default: the far-out fence of all features' shares]",
    type=float,
)
@option(
    "--min-p99-percentile Q",
    "Leave out features whose 99th percentile of activations is below this percentile of all features'.",
    default=5.0,
)
@option("-n N", "Candidates in --json.", default=5)
@option("--max-features N", "From 2 on, also combine up to N of the best features, by OR and by their mean.", default=1)
@option("--probe", "Also fit a sparse logistic probe to all features, on train.")
@option(
    "--localise/--no-localise",
    "Where samples have concepts, also predict which samples have them.",
    default=True,
    show_default=False,
)
@option("--baselines", "Also evaluate methods without an SAE, on the embeddings of the set.")
@option("--embeddings PATH", "The embeddings, as for `build`. [default: as the set records]")
@option("--cls-embeddings PATH", "One embedding per item, its CLS token: also evaluate the difference of their means.")
@draws_options
@option("--all", "Every set of the store that has concepts and splits.", to="every")
@option(
    "--report FOLDER",
    "Also write the results there, with all settings: Markdown, CSV and JSON.",
    type=click.Path(file_okay=False),
)
@option("--markdown", "Print the report in Markdown.", to="as_markdown")
@forms_options
def detect(target: Target, *, grid: bool, every: bool, report: str | None, **given: Any) -> None:
    """Find the feature that detects each concept best, and measure it on other items.

    Features and thresholds are chosen on the items of one split; the results are those on the items of another.
    """
    on = {name: given.pop(name) for name in ("choose_on", "report_on", "fit_on", "embeddings", "cls_embeddings")}
    forms = {name: given.pop(f"as_{name}") for name in ("markdown", "csv")}
    target.check_form(**forms)
    if every and target.named:
        raise click.UsageError("Name a set, or give --all.")
    if every and (on["embeddings"] is not None or on["cls_embeddings"] is not None):
        raise click.UsageError("Embeddings belong to one set; --all opens those that each set records.")
    from saestore.detection import DetectionOptions

    on["concepts"], feature = list(given.pop("concept")) or None, given.pop("feature")
    on["options"] = DetectionOptions(n=target.n, **{k: v for k, v in given.items() if v != ()})
    results: list[Detection] = []
    with output.Status() as status:
        for acts in _every(target, on) if every and not grid else [target.activations()]:
            status(f"{acts.path}: looking for detectors among {acts.shape[1]:,} features")
            on |= {"features": features_of(acts, feature) or None, "where": target.condition(acts)}
            if grid:
                asked = {name: on[name] for name in on if name not in ("fit_on", "embeddings", "cls_embeddings")}
                found = acts.detection_grid(target.level, **asked)
                output.line(found.to_pandas().to_csv(index=False), nl=False)
                return
            result = acts.detect(target.level, **on)
            result.settings["where"] = list(target.asked["where"]) or None
            results.append(result)
    _print(results, "json" if target.as_json else next((form for form in forms if forms[form]), None), every)
    for result in results:
        if report is not None:
            folder = Path(report, result.provenance["set"]) if every else Path(report)
            note(f"wrote {', '.join(result.save(folder))}")
        for name, why in result.skipped.items():
            note(f"{result.provenance['set']}, concept {name!r}: {why}.")


def _every(target: Target, on: dict[str, Any]) -> Iterator[ActivationSet]:
    """The sets of a store that have what detection needs."""
    from saestore.scoring.splits import split_names

    n = 0
    for path, acts in target.open().items():
        if not acts.concepts.names(target.level):
            note(f"{path} is skipped: it has no concepts on {target.level}s.")
        elif not {on["choose_on"], on["report_on"]} <= set(split_names(acts)):
            note(f"{path} is skipped: its items have no splits {on['choose_on']!r} and {on['report_on']!r}.")
        else:
            n += 1
            yield acts
    if not n:
        message = f"The store {target.location} has no set with concepts on {target.level}s and splits."
        raise NotFoundError(message, code="no-concepts")


def _print(results: list[Detection], form: str | None, every: bool) -> None:
    if form == "json":
        documents = [{"set": result.provenance["set"], **result.to_dict()} for result in results]
        output.document({"sets": documents} if every else documents[0])
    elif form == "csv":
        output.rows_as_csv([{"set": result.provenance["set"], **row} for result in results for row in result.rows])
    elif form == "markdown":
        output.line("\n".join(result.to_markdown() for result in results), nl=False)
    else:
        for result in results:
            _show(result)


def _show(result: Detection) -> None:
    settings, pruning = result.settings, result.pruning
    output.title(
        f"{result.provenance['set']}: chosen on {settings['n_cal']:,} {settings['level']}s of "
        f"{settings['choose_on']}, measured on {settings['n_test']:,} of {settings['report_on']}"
    )
    if result.rows:
        output.table(_columns(result.rows, settings["confidence_level"]))
        if len(result.methods) > 1:
            _, summary = result.compare()
            output.title(f"F1 over {summary['n']} concepts, and for how many of {len(result.concepts)} it is the best")
            columns = [Column("method", result.methods)]
            columns.append(decimals("mean", (summary["mean"][m] for m in result.methods)))
            output.table([*columns, numbers("best of", (summary["wins"][m] for m in result.methods))])
    if result.localisation:
        output.title("Which samples of the detected items have the concept")
        output.table(_located(result.localisation))
    if "dead" in pruning:
        note(
            f"{pruning['kept']:,} of {pruning['n_features']:,} features are considered: {pruning['dead']:,} are above "
            f"0 on fewer than {pruning['min_active']:,} of {pruning['n_rows']:,} samples of {pruning['split']}, "
            f"{pruning['ubiquitous']:,} on more than {100 * pruning['max_fraction']:.3g} %, and {pruning['weak']:,} "
            f"have a p99 below {pruning['min_p99']:.4g}."
        )


def _columns(rows: list[Row], confidence_level: float) -> list[Column]:
    columns = [first_of_each("concept", rows)]
    several = len({row["method"] for row in rows}) > 1
    if several:
        columns.append(Column("method", [row["method"] for row in rows]))
    columns.append(Column("feature", ["-" if r["feature"] is None else str(r["feature"]) for r in rows], right=True))
    columns += name_column([row["name"] for row in rows])
    for name in _SHOWN[several:]:  # no room for the threshold beside the method
        columns.append(decimals(name, (row[name] for row in rows)))
        if name == "f1":
            columns.append(interval(name, rows, confidence_level, 3))
    return columns


def _located(rows: list[Row]) -> list[Column]:
    columns = [Column("concept", [row["concept"] for row in rows], cut="end")]
    columns += [numbers("feature", (row["feature"] for row in rows)), *name_column([row["name"] for row in rows])]
    columns.append(Column("target", [f"{row['sample_target_recall']:g}" for row in rows], right=True))
    heads = {"threshold": "sample_threshold"} | {name: name for name in ("precision", "recall", "f1", "iou")}
    heads["in top 5 %"] = "top_5"
    return [*columns, *(decimals(head, (row[name] for row in rows)) for head, name in heads.items())]
