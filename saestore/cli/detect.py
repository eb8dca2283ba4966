"""`saestore detect`: which feature detects each concept, chosen on calibration items, measured on test items."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from saestore.cli import keys, output
from saestore.cli.features import feature_option, features_of, level_option
from saestore.cli.group import command, note
from saestore.cli.options import option
from saestore.cli.table import Column, decimals, numbers
from saestore.cli.target import Target, json_option, with_target
from saestore.cli.where import where_option
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
@option("--confidence-level SHARE", "Of the intervals.", default=0.95)
@option("--n-resamples N", "How often items are drawn for them.", default=1000)
@option("--seed N", "Of all random draws.", default=0)
@option("--all", "Every set of the store that has concepts and splits.", to="every")
@option(
    "--report FOLDER",
    "Also write the results there, with all settings: Markdown, CSV and JSON.",
    type=click.Path(file_okay=False),
)
@option("--markdown", "Print the report in Markdown.", to="as_markdown")
@option("--csv", "Print CSV.", to="as_csv")
@json_option
def detect(
    target: Target,
    *,
    concept: tuple[str, ...],
    feature: tuple[str, ...],
    grid: bool,
    every: bool,
    report: str | None,
    embeddings: str | None,
    cls_embeddings: str | None,
    **given: Any,
) -> None:
    """Find the feature that detects each concept best, and measure it on other items.

    Features and thresholds are chosen on the items of one split; the results are those on the items of another.
    """
    on = {name: given.pop(name) for name in ("choose_on", "report_on", "fit_on")}
    forms = {"markdown": given.pop("as_markdown"), "csv": given.pop("as_csv"), "json": target.as_json}
    if sum(forms.values()) > 1:
        raise click.UsageError("Choose one of --markdown, --csv and --json.")
    if every and target.named:
        raise click.UsageError("Name a set, or give --all.")
    if every and (embeddings is not None or cls_embeddings is not None):
        raise click.UsageError("Embeddings belong to one set; --all opens those that each set records.")
    from saestore.detection import DetectionOptions

    level, concepts = target.level, list(concept) or None
    options = DetectionOptions(n=target.n, **{k: v for k, v in given.items() if v != ()})
    if grid:
        acts = target.activations()
        on["where"] = target.condition(acts)
        _print_grid(acts, level, concepts, feature, options=options, on=on)
        return
    results: list[Detection] = []
    with output.Status() as status:
        for acts in _every(target, level, on) if every else [target.activations()]:
            status(f"{acts.path}: looking for detectors among {acts.shape[1]:,} features")
            features = features_of(acts, feature) or None
            on["where"] = target.condition(acts)
            result = acts.detect(
                level,
                concepts=concepts,
                features=features,
                options=options,
                embeddings=embeddings,
                cls_embeddings=cls_embeddings,
                **on,
            )
            result.settings["where"] = list(target.asked["where"]) or None
            results.append(result)
    _print(results, next((form for form, chosen in forms.items() if chosen), None), every)
    for result in results:
        if report is not None:
            folder = Path(report, result.provenance["set"]) if every else Path(report)
            note(f"wrote {', '.join(result.save(folder))}")
        for name, why in result.skipped.items():
            note(f"{result.provenance['set']}, concept {name!r}: {why}.")


def _print_grid(
    acts: ActivationSet, level: Any, concepts: list[str] | None, given: tuple[str, ...], *, options: Any, on: Any
) -> None:
    """Print `detection_grid` as CSV."""
    on = {name: on[name] for name in ("choose_on", "report_on", "where")}
    features = features_of(acts, given) or None
    found = acts.detection_grid(level, concepts=concepts, features=features, options=options, **on)
    output.line(found.to_pandas().to_csv(index=False), nl=False)


def _every(target: Target, level: Literal["item", "sample"], on: dict[str, Any]) -> Iterator[ActivationSet]:
    """The sets of a store that have what detection needs."""
    from saestore.scoring.splits import split_names

    store, n = target.open(), 0
    for path, acts in store.items():
        if not acts.concepts.names(level):
            note(f"{path} is skipped: it has no concepts on {level}s.")
        elif not {on["choose_on"], on["report_on"]} <= set(split_names(acts)):
            note(f"{path} is skipped: its items have no splits {on['choose_on']!r} and {on['report_on']!r}.")
        else:
            n += 1
            yield acts
    if not n:
        raise NotFoundError(
            f"The store {target.location} has no set with concepts on {level}s and splits.", code="no-concepts"
        )


def _print(results: list[Detection], form: str | None, every: bool) -> None:
    if form == "json":
        documents = [{"set": result.provenance["set"], **result.to_dict()} for result in results]
        output.document({"sets": documents} if every else documents[0])
    elif form == "csv":
        rows = [{"set": result.provenance["set"], **row} for result in results for row in result.rows]
        output.rows_as_csv(rows)
    elif form == "markdown":
        output.line("\n".join(result.to_markdown() for result in results), nl=False)
    else:
        for result in results:
            _show(result)


def _show(result: Detection) -> None:
    settings = result.settings
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
    if "dead" in result.pruning:
        _note_pruning(result.pruning)


def _note_pruning(pruning: dict[str, Any]) -> None:
    note(
        f"{pruning['kept']:,} of {pruning['n_features']:,} features are considered: {pruning['dead']:,} are above 0 on "
        f"fewer than {pruning['min_active']:,} of {pruning['n_rows']:,} samples of {pruning['split']}, "
        f"{pruning['ubiquitous']:,} on more than {100 * pruning['max_fraction']:.3g} %, and {pruning['weak']:,} have a "
        f"p99 below {pruning['min_p99']:.4g}."
    )


def _columns(rows: list[Row], confidence_level: float) -> list[Column]:
    names = [row["concept"] if i == 0 or rows[i - 1]["concept"] != row["concept"] else "" for i, row in enumerate(rows)]
    columns = [Column("concept", names, cut="end")]
    several = len({row["method"] for row in rows}) > 1
    if several:
        columns.append(Column("method", [row["method"] for row in rows]))
    columns.append(Column("feature", ["-" if r["feature"] is None else str(r["feature"]) for r in rows], right=True))
    if any(row["name"] for row in rows):
        columns.append(Column("name", [row["name"] or "" for row in rows], cut="end"))
    for name in _SHOWN[several:]:  # no room for the threshold beside the method
        columns.append(decimals(name, (row[name] for row in rows)))
        if name == "f1":
            ends = ["-" if r["f1_low"] != r["f1_low"] else f"{r['f1_low']:.3f} to {r['f1_high']:.3f}" for r in rows]
            columns.append(Column(f"{100 * confidence_level:g}% interval", ends, right=True))
    return columns


def _located(rows: list[Row]) -> list[Column]:
    columns = [Column("concept", [row["concept"] for row in rows], cut="end")]
    columns += [numbers("feature", (row["feature"] for row in rows))]
    if any(row["name"] for row in rows):
        columns.append(Column("name", [row["name"] or "" for row in rows], cut="end"))
    columns.append(Column("target", [f"{row['sample_target_recall']:g}" for row in rows], right=True))
    columns.append(decimals("threshold", (row["sample_threshold"] for row in rows)))
    columns += [decimals(name, (row[name] for row in rows)) for name in ("precision", "recall", "f1", "iou")]
    return [*columns, decimals("in top 5 %", (row["top_5"] for row in rows))]
