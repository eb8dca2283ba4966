"""`saestore import` and `export`: activations that other programs stored, and sets for other programs."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from saestore.cli import keys, output
from saestore.cli.app import command, note
from saestore.cli.options import option, overwrite_option, where_option
from saestore.cli.set_options import dask_client, resumable, rows_options, show_set, writing_options
from saestore.cli.target import Target, json_option, with_set
from saestore.errors import NotFoundError
from saestore.vocabulary import EXPORT_FORMATS, IMPORT_FORMATS

if TYPE_CHECKING:
    from saestore.ingest.import_ import ImportReport


@command("import", example="saestore import CLEVR/patch/copy clevr.npz --check", keys=keys.IMPORT)
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

    dataset, found, missing = find_dataset(set_path, "the path of its file"), [], []
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
    for each in given:
        if each.find("=") < 1:
            raise click.BadParameter(f"{each!r} is not KEY=VALUE.")
    return dict(each.split("=", 1) for each in given) or None


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


@command("export", example="saestore export CLEVR/patch clevr.npz", keys=keys.EXPORT)
@with_set
@click.argument("file", metavar="PATH")
@option(
    "--format FORMAT",
    f"{', '.join(EXPORT_FORMATS)}; auto goes by the suffix of PATH.",
    to="kind",
    choices=("auto", *EXPORT_FORMATS),
    default="auto",
)
@where_option
@option(
    "--features N,N-N",
    "Only these features: numbers and ranges, both ends included, such as 3,17,100-199.  [default: all]",
    callback=lambda _, __, value: _numbers(value),
)
@option(
    "--tokens FILE",
    "For delphi: the token id of every sample, FILE.npy or FILE.npz:NAME.  [default: --pad-token everywhere]",
)
@option("--pad-token ID", "For delphi: what stands where an item has no token.", default=0)
@option("--clip", "For delphi: write what float16 cannot hold as 65,504, instead of refusing it.")
@option(
    "--columns NAME,NAME",
    "For parquet: columns and concepts of items and samples to join, or all.  [default: none]",
    default="",
    show_default=False,
)
@option(
    "--unembedding FILE",
    "For neuronpedia: the model's unembedding, d_in x vocabulary or the other way round, in a form that `build` "
    "takes as embeddings; with --vocabulary.",
)
@option("--vocabulary JSON", "The tokens of --unembedding: a tokenizer.json, a vocab.json or a list.")
@overwrite_option
@json_option
def export(target: Target, *, file: str, kind: str, **how: Any) -> None:
    """Write a set, or the part of it that is asked for, as a file that another program reads.

    Nothing appears under the name PATH before it is whole.
    """
    import saestore

    unembedding = how["unembedding"], how.pop("vocabulary")
    if (unembedding[0] is None) != (unembedding[1] is None):
        raise click.UsageError("--unembedding and --vocabulary go together.")
    how["unembedding"] = None if unembedding[0] is None else unembedding
    acts = target.activations()
    with output.Status() as status:
        done = saestore.export(acts, file, format=kind, where=target.condition(acts), progress=status, **how)
    if target.as_json:
        target.document(acts, **done.to_json())
        return
    shown = f"{done.files[0]}" + (f" and {len(done.files) - 1} more" if len(done.files) > 1 else "")
    for said in done.notes:
        note(f"{said}.")
    output.line(f"{acts.path}: {done.n_samples:,} samples, {done.nnz:,} non-zeros as {done.format}: {shown}")


def _numbers(text: str | None) -> list[int] | None:
    """Read ``3,17,100-199``."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise click.BadParameter(f"{part!r} is not a feature; write numbers and ranges, such as 3,17,100-199.")
        if last and int(last) < int(first):
            raise click.BadParameter(f"the range {part!r} runs backwards; write {last}-{first}.")
        found += range(int(first), int(last or first) + 1)
    return found
