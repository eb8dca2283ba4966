"""`saestore import`: activations that other programs stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from saestore.cli import keys, output
from saestore.cli.group import command
from saestore.cli.info import overview
from saestore.cli.set_options import (
    codec_option,
    dask_client,
    dask_option,
    item_ptr_option,
    segment_rows_option,
    token_spans_option,
)
from saestore.cli.table import pairs
from saestore.cli.target import json_option, store_option
from saestore.vocabulary import IMPORT_FORMATS, SEVERITIES

if TYPE_CHECKING:
    from saestore.ingest.import_ import ImportReport

_INTERRUPTED = "interrupted. What is committed is kept; give the same command again to go on from there."

_FAULT = {
    "kind": "a stable name of what was found, such as `not_finite`",
    "severity": "; ".join(f"`{name}`: {text}" for name, text in SEVERITIES.items()),
    "count": "rows, entries or columns that it touches",
    "message": "what it is, where first, and what to do",
}

KEYS = {
    "store": "the store",
    "check": "true with `--check`, which writes nothing",
    "report": "what reading the file showed",
    "report.path": "path of the set",
    "report.format": "format of the file",
    "report.n_samples": "number of samples",
    "report.n_features": "number of features",
    "report.n_items": "number of items",
    "report.nnz": "number of activations that can be used",
    "report.dtype": "dtype in which they are stored",
    "report.ok": "false when an import would be refused",
    "report.faults": "everything that is wrong or worth knowing",
    **{f"report.faults[].{key}": says for key, says in _FAULT.items()},
    "report.faults[].details": "more of it where there is more, such as each wrong column; only with `--check`",
    "set": "the set as it is now, with the keys of `saestore info`; null with `--check`",
    **{f"set.{key}": says for key, says in keys.SET_INFO.items()},
}


@command("import", example="saestore import CLEVR/patch/copy clevr.npz --check", keys=KEYS)
@click.argument("set_path", metavar="SET")
@click.argument("path", metavar="PATH")
@click.option(
    "--format",
    "kind",
    metavar="FORMAT",
    type=click.Choice(("auto", *IMPORT_FORMATS)),
    default="auto",
    show_default=True,
    help=f"Format of the file: {', '.join(IMPORT_FORMATS)}; auto looks into it.",
)
@click.option("--items", metavar="CSV", help="metadata.csv of the images or texts: keys, split, concepts.")
@item_ptr_option("from the file, else the samples divide evenly among the items")
@token_spans_option
@click.option(
    "--n-features", metavar="N", type=click.IntRange(1), help="Width of the SAE, where the file does not say it."
)
@click.option(
    "--sparse",
    metavar="FILE",
    help="The sparse file that a filtered one was made from, to find out which feature each column is.",
)
@click.option("--pad-token", metavar="ID", type=int, help="Token id of padding in a Delphi cache, to be left out.")
@segment_rows_option
@codec_option
@click.option("--check", is_flag=True, help="Only say what is wrong with the file; write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace a set of the same name that came from elsewhere.")
@dask_option
@store_option
@json_option
@click.pass_context
def import_(ctx: click.Context, /, set_path: str, path: str, location: str, as_json: bool, **how: Any) -> None:
    """Take in activations that another program stored: the file or folder PATH becomes the set SET.

    SET is DATASET/SAMPLE_TYPE/SAE; the name of the SAE may be left out where the file contains it. Everything is read
    and checked before anything is written. Run the same command again to resume an interrupted import.

    With --check the exit status is 1 if an import would be refused, and 0 if not, also with other findings.
    """
    how["format"] = how.pop("kind")
    if how.pop("check"):
        report = _checked(set_path, path, **{k: v for k, v in how.items() if k not in _WRITING})
        if as_json:
            output.document({"store": location, "check": True, "report": report.to_json(), "set": None})
        else:
            _show(report)
        ctx.exit(0 if report.ok else 1)
    client = ctx.with_resource(dask_client(how.pop("dask")))
    found = _imported(set_path, path, store=location, client=client, **how)
    faults = found["source"]["faults"]
    if as_json:
        output.document({"store": location, "check": False, "report": _report(found), "set": found})
        return
    output.title(found["path"])
    output.line("\n".join(pairs([*overview(found), *_lines(faults)], output.line_width())))


_WRITING = ("segment_rows", "codec", "overwrite", "dask")


def _checked(set_path: str, path: str, **how: Any) -> ImportReport:
    import saestore

    with output.Status() as status:
        return saestore.check_import(set_path, path, progress=status, **how)


def _imported(set_path: str, path: str, **how: Any) -> dict[str, Any]:
    import saestore

    try:
        with output.Status() as status:
            return saestore.import_activations(set_path, path, progress=status, **how).info()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_INTERRUPTED) from None


def _report(found: dict[str, Any]) -> dict[str, Any]:
    """What the set records of its import, in the shape of a report."""
    names = ("path", "n_samples", "n_features", "n_items", "nnz", "dtype")
    source = found["source"]
    return {**{name: found[name] for name in names}, "format": source["format"], "ok": True, "faults": source["faults"]}


def _show(report: ImportReport) -> None:
    rows = [
        ("format", report.format),
        ("samples", f"{report.n_samples:,} of {report.n_items:,} items"),
        ("features", f"{report.n_features:,}"),
        ("non-zeros", f"{report.nnz:,}"),
        *_lines([fault.to_json(details=False) for fault in report.faults]),
        ("import", "possible" if report.ok else "refused, because of the errors above"),
    ]
    output.title(report.path)
    output.line("\n".join(pairs(rows, output.line_width())))


def _lines(faults: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(fault["severity"], fault["message"]) for fault in faults] or [("faults", "none")]
