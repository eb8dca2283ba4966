"""`saestore annotate`, `import-explanations` and `export-explanations`: what is known of features and items."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click

from saestore.cli import keys
from saestore.cli.app import command
from saestore.cli.options import option, overwrite_option
from saestore.cli.target import Target, json_option, with_set, with_target

_source_option = option(
    "--source NAME", "Of several hookpoints, layers or explaining models in the file, the one to take."
)
_replace_option = option("--overwrite", "Replace values that differ.")


@command(
    "annotate",
    example="saestore annotate CLEVR/patch --feature 1884 --name 'green object' --note 'not on grey'",
    keys=keys.ANNOTATE,
)
@with_target
@option("--feature N", "The feature that is annotated.", type=int)
@option("--item KEY", "The item, by its key or number, that is annotated.")
@option("--sample N", "The sample that is annotated.", type=int)
@option("--name TEXT", "Its name, which stands beside its number from now on.")
@option("--note TEXT", "A note.")
@option("--explanation TEXT", "What it stands for; the date is kept, too.")
@option("--set COLUMN=VALUE", "Any other column; may be repeated. JSON, else text.", to="others", multiple=True)
@option("--from FILE", "Take a table, as `import-explanations`, instead.", to="file")
@_source_option
@_replace_option
@json_option
def annotate(
    target: Target, *, others: tuple[str, ...], file: str | None, source: str | None, overwrite: bool, **given: Any
) -> None:
    """Keep names, notes, explanations and other values of a feature, an item or a sample, or of many from a file.

    All values of one command are there, or none.
    """
    rows = {name: given.pop(name) for name in ("feature", "item", "sample")}
    chosen = [name for name, row in rows.items() if row is not None]
    values = {name: text for name, text in given.items() if text is not None} | dict(map(_value, others))
    if file is not None:
        if chosen or values:
            raise click.UsageError("--from names the rows and their values; leave the others out.")
        _import(target, file, source, overwrite=overwrite)
        return
    if len(chosen) != 1 or not values:
        raise click.UsageError("Give one of --feature, --item and --sample and a value such as --name, or --from FILE.")
    if source is not None:
        raise click.UsageError("--source goes with --from.")
    if "explanation" in values:
        values |= {"explanation_source": "annotate", "explanation_date": datetime.now(UTC).date().isoformat()}
    acts = target.activations(change=True)
    row = rows[chosen[0]]
    if isinstance(row, str) and row.isdecimal() and not ("key" in acts.items and (acts.items["key"] == row).any()):
        row = int(row)
    getattr(acts, f"{chosen[0]}s").annotate({name: {row: value} for name, value in values.items()}, overwrite=overwrite)
    target.say(f"{acts.path}: {', '.join(values)} kept.", set=acts.path, columns=list(values))


@command("import-explanations", example="saestore import-explanations CLEVR/patch names.csv", keys=keys.ANNOTATE)
@with_set
@click.argument("file", metavar="PATH")
@_source_option
@_replace_option
@json_option
def import_explanations(target: Target, *, file: str, source: str | None, overwrite: bool) -> None:
    """Take the explanations of features, and what else is known of them, from a file or folder.

    PATH is Delphi's folder (explanations/ and scores/), Neuronpedia's export (.json, .jsonl, also .gz), or a .csv,
    .json or .parquet table with a column feature, item, key or sample. Other values stay as they are. Explanations of
    another SAE are refused.
    """
    _import(target, file, source, overwrite=overwrite)


@command(
    "export-explanations", example="saestore export-explanations CLEVR/patch names.csv", keys=keys.EXPORT_EXPLANATIONS
)
@with_set
@click.argument("file", metavar="PATH")
@option(
    "--format FORMAT",
    "json, csv or parquet with all columns; delphi (a folder) or neuronpedia.  [default: by the suffix of PATH]",
    to="kind",
)
@option("--features CONDITION", "Only features that fulfil this.  [default: all with values]")
@overwrite_option
@json_option
def export_explanations(target: Target, *, file: str, kind: str | None, features: str | None, overwrite: bool) -> None:
    """Write the explanations of features, and what else is known of them, for another program."""
    acts = target.activations()
    n = acts.export_explanations(file, kind, features=features, overwrite=overwrite)
    target.say(f"{acts.path}: {n:,} feature{'s' * (n != 1)} written to {file}.", set=acts.path, path=file, n_features=n)


def _import(target: Target, path: str, source: str | None, *, overwrite: bool) -> None:
    acts = target.activations(change=True)
    columns = acts.import_explanations(path, source=source, overwrite=overwrite)
    target.say(f"{acts.path}: {', '.join(columns)} kept.", set=acts.path, columns=columns)


def _value(given: str) -> tuple[str, Any]:
    """Read ``column=value``."""
    name, equals, text = given.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--set {given}: write COLUMN=VALUE, such as weight=0.5.")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return name, text
    return name, value if isinstance(value, bool | int | float | str | None) else text
