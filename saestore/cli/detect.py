"""`saestore detect`: which feature detects each concept, chosen on calibration items, measured on test items."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

import click

from saestore.cli import keys, output
from saestore.cli.group import command, note
from saestore.cli.table import Column, decimals, numbers
from saestore.cli.target import Target, json_option, with_target

if TYPE_CHECKING:
    from saestore.detection.results import Detection, Row

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
    help="Detect concepts of items, by the score of their samples, or those of samples.",
)
@click.option(
    "--score",
    metavar="[max|mean|top-N]",
    default="max",
    show_default=True,
    help="Of an item: its strongest sample, the mean of all, or that of the N strongest.",
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
    "--weak-percentile", metavar="Q", type=float, default=5.0, show_default=True,
    help="Leave out features whose 99th percentile of activations there is below this percentile of all features'.",
)  # fmt: skip
@click.option("-n", metavar="N", type=int, default=5, show_default=True, help="Candidates that --json lists.")
@click.option(
    "--combine", metavar="N", type=int, default=0, show_default=True,
    help="Also combine up to N of the best features, by OR and by their mean.",
)  # fmt: skip
@click.option("--probe", is_flag=True, help="Also fit a sparse logistic probe to all features, on train.")
@click.option(
    "--localise/--no-localise", default=True, help="Where samples have the concepts, also tell which they are."
)
@click.option("--confidence", metavar="SHARE", type=float, default=0.95, show_default=True, help="Of the intervals.")
@click.option(
    "--resamples", metavar="N", type=int, default=1000, show_default=True, help="How often items are drawn for them."
)
@click.option("--seed", metavar="N", type=int, default=0, show_default=True, help="Of all that is drawn.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@json_option
def detect(
    target: Target,
    *,
    concept: tuple[str, ...],
    level: Literal["item", "sample"],
    p: tuple[float, ...],
    as_csv: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the feature that detects each concept best, and say how well it does on items kept apart.

    Features and thresholds are chosen on the items of the split `cal`; the results are those on the items of `test`.
    """
    if as_csv and as_json:
        raise click.UsageError("Choose one of --csv and --json.")
    acts = target.activations()
    with output.Status() as status:
        status(f"looking for detectors among {acts.shape[1]:,} features")
        found = acts.detect(level, concepts=list(concept) or None, p=p or None, **options)
    if as_csv:
        _write_csv(found.rows)
    elif as_json:
        output.document({"set": acts.path, **found.to_dict()})
    else:
        _show(found)
    for name, why in found.skipped.items():
        note(f"concept {name!r}: {why}.")


def _show(found: Detection) -> None:
    settings = found.settings
    output.title(
        f"{found.provenance['set']}: chosen on {settings['n_cal']:,} {settings['level']}s of cal, "
        f"measured on {settings['n_test']:,} of test"
    )
    if found.rows:
        output.table(_columns(found.rows, settings["confidence"]))
    if found.localisation:
        output.title("Which samples of the detected items of test are the concept's")
        output.table(_places(found.localisation))
    cuts = found.pruning
    note(
        f"{cuts['kept']:,} of {cuts['n_features']:,} features were looked at: {cuts['dead']:,} are above 0 on fewer "
        f"than {cuts['min_active']:,} of {cuts['n_rows']:,} cal samples, {cuts['ubiquitous']:,} on more than "
        f"{100 * cuts['max_fraction']:.3g} %, and {cuts['weak']:,} have a p99 below {cuts['min_p99']:.4g}."
    )


def _columns(rows: list[Row], confidence: float) -> list[Column]:
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
            columns.append(Column(f"{100 * confidence:g}% interval", ends, right=True))
    return columns


def _places(rows: list[Row]) -> list[Column]:
    columns = [Column("concept", [row["concept"] for row in rows], cut="end")]
    columns += [numbers("feature", (row["feature"] for row in rows)), Column("p2", [f"{r['p2']:g}" for r in rows])]
    columns.append(decimals("threshold2", (row["threshold2"] for row in rows)))
    columns += [decimals(name, (row[name] for row in rows)) for name in ("precision", "recall", "f1", "iou")]
    return [*columns, decimals("in top 5 %", (row["top_5"] for row in rows))]


def _write_csv(rows: list[Row]) -> None:
    """Print every row: numbers as short as they are exact, nothing where there is none."""
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(rows[0] if rows else ("concept", "method"))
    writer.writerows(["" if v is None or v != v else v for v in row.values()] for row in rows)  # noqa: PLR0124
    sys.stdout.flush()
