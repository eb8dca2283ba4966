"""`saestore import`: activations that other programs stored."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from saestore.cli import keys, output
from saestore.cli.group import command, note
from saestore.cli.options import option
from saestore.cli.set_options import dask_client, resumable, rows_options, show_set, writing_options
from saestore.errors import NotFoundError
from saestore.vocabulary import IMPORT_FORMATS, SEVERITIES

if TYPE_CHECKING:
    from saestore.ingest.import_ import ImportReport

_FAULT = {
    "kind": "a stable name of what was found, such as `not_finite`",
    "severity": "; ".join(f"`{name}`: {text}" for name, text in SEVERITIES.items()),
    "count": "rows, entries or columns that it touches",
    "message": "what it is, where first, and what to do",
}

_REPORT = {
    "path": "path of the set",
    "format": "format of the file",
    "n_samples": "number of samples",
    "n_features": "number of features",
    "n_items": "number of items",
    "nnz": "number of activations that can be used",
    "dtype": "dtype in which they are stored",
    "ok": "false when an import would be refused",
    "faults": "everything that is wrong or worth knowing",
    **{f"faults[].{key}": text for key, text in _FAULT.items()},
    "faults[].details": "more of it where there is more, such as each wrong column; only with `--check`",
}
KEYS = {
    "store": "the store",
    "check": "true with `--check`, which writes nothing",
    "imports": "one for each set; several where SET is the name of a known dataset",
    "imports[].report": "what reading the file showed",
    **{f"imports[].report.{key}": text for key, text in _REPORT.items()},
    "imports[].set": "the set as it is now, with the keys of `saestore info`; null with `--check`",
    **{f"imports[].set.{key}": text for key, text in keys.SET_INFO.items()},
}


@command("import", example="saestore import CLEVR/patch/copy clevr.npz --check", keys=KEYS)
@click.argument("set_path", metavar="SET")
@click.argument("path", metavar="[PATH]", required=False)
@option(
    "--format FORMAT",
    f"Format of the file: {', '.join(IMPORT_FORMATS)}; auto looks into it.",
    to="kind",
    choices=("auto", *IMPORT_FORMATS),
    default="auto",
)
@rows_options("from the file, else the samples divide evenly among the items")
@option("--n-features N", "Width of the SAE, where the file does not say it.", at_least=1)
@option("--sparse FILE", "The sparse file that a filtered one was made from, to find out which feature each column is.")
@option("--pad-token ID", "Token id of padding in a Delphi cache, to be left out.", type=int)
@option(
    "--sae SAE",
    "The SAE that made the activations: a folder or file, recorded with its fingerprint (the set can then be "
    "decoded and diagnosed), or a name to record.",
)
@option(
    "--source KEY=VALUE",
    "Where the activations come from, to record; may be repeated. embeddings=PATH is where their embeddings are.",
    multiple=True,
    callback=lambda _, __, value: _facts(value),
)
@option("--images DIR", "The folder that the keys of image items start in, for plots.")
@option("--check", "Only say what is wrong with the file; write nothing.")
@writing_options("came from elsewhere")
@click.pass_context
def import_(ctx: click.Context, /, set_path: str, path: str | None, location: str, as_json: bool, **how: Any) -> None:
    """Take in activations that another program stored: the file or folder PATH becomes the set SET.

    SET is DATASET/SAMPLE_TYPE/SAE; the name of the SAE may be left out where the file or --sae contains it.

    Without PATH, SET starts with a known dataset, whose sparse files, metadata, token counts and ground truth are found
    by name. Its name alone imports every sample type that is found.

    Everything is read and checked before anything is written. Run the same command again to resume an interrupted
    import.

    With --check the exit status is 1 if an import would be refused, and 0 if not, also with other findings.
    """
    how["format"] = how.pop("kind")
    check, sets = how.pop("check"), _sets(set_path, path, how["data"])
    how["client"] = ctx.with_resource(dask_client(how.pop("dask")))
    done = [_one(each, path, location, check=check, show=not as_json, **how) for each in sets]
    if as_json:
        output.document({"store": location, "check": check, "imports": done})
    if check:
        ctx.exit(0 if all(each["report"]["ok"] for each in done) else 1)


def _one(set_path: str, path: str | None, location: str, *, check: bool, show: bool, **how: Any) -> dict[str, Any]:
    """Check or import one set; returns its element of ``imports``."""
    import saestore

    with nullcontext() if check else resumable(), output.Status() as status:
        if check:
            report = saestore.check_import(set_path, path, progress=status, **how)
        else:
            found = saestore.import_activations(set_path, path, progress=status, store=location, **how).info()
    if check:
        if show:
            _show(report)
        return {"report": report.to_json(), "set": None}
    source, names = found["source"], ("path", "n_samples", "n_features", "n_items", "nnz", "dtype")
    if show:
        show_set(found, _lines(source["faults"]))
    recorded = {"format": source["format"], "ok": True, "faults": source["faults"]}
    return {"report": {**{name: found[name] for name in names}, **recorded}, "set": found}


def _sets(set_path: str, path: str | None, data: str | None) -> list[str]:
    """The one set, or a set for each sample type of a known dataset that has a sparse file."""
    if path is not None or "/" in set_path:
        return [set_path]
    from saestore.superactivators.datasets import find_dataset
    from saestore.superactivators.file_names import find_activations

    dataset, found, missing = find_dataset(set_path), [], []
    for sample_type in dataset.sample_types:
        try:
            find_activations(dataset, sample_type, data)
            found.append(f"{dataset.name}/{sample_type}")
        except NotFoundError as error:
            missing.append(error)
    if not found:
        raise missing[0]
    for reason in missing:
        note(f"skipping {dataset.name}: {reason}")
    return found


def _facts(given: tuple[str, ...]) -> dict[str, str] | None:
    """Read ``KEY=VALUE``."""
    pairs_ = [each.partition("=") for each in given]
    wrong = next((each for each, (key, equals, _) in zip(given, pairs_, strict=True) if not key or not equals), None)
    if wrong is not None:
        raise click.BadParameter(f"{wrong!r} is not KEY=VALUE.")
    return {key: value for key, _, value in pairs_} or None


def _show(report: ImportReport) -> None:
    rows = [
        ("format", report.format),
        ("samples", f"{report.n_samples:,} of {report.n_items:,} items"),
        ("features", f"{report.n_features:,}"),
        ("non-zeros", f"{report.nnz:,}"),
        *_lines([fault.to_json(details=False) for fault in report.faults]),
        ("import", "possible" if report.ok else "refused, because of the errors above"),
    ]
    output.facts(report.path, rows)


def _lines(faults: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(fault["severity"], fault["message"]) for fault in faults] or [("faults", "none")]
