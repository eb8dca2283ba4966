"""`saestore annotate`, `import-explanations` and `export-explanations`: what is known of features and items."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click

from saestore.cli import keys, output
from saestore.cli.group import command
from saestore.cli.target import Target, json_option, store_option, with_target

_source_option = click.option(
    "--source",
    metavar="NAME",
    help="Of several hookpoints, layers or explaining models in the file, the one to take.",
)
_overwrite_option = click.option("--overwrite", is_flag=True, help="Replace values that differ.")


@command(
    "annotate",
    example="saestore annotate CLEVR/patch --feature 1884 --name 'green object' --note 'not on grey'",
    keys=keys.ANNOTATE,
)
@with_target
@click.option("--feature", metavar="N", type=int, help="The feature that is annotated.")
@click.option("--item", metavar="KEY", help="The item, by its key or number, that is annotated.")
@click.option("--sample", metavar="N", type=int, help="The sample that is annotated.")
@click.option("--name", metavar="TEXT", help="Its name, which stands beside its number from now on.")
@click.option("--note", metavar="TEXT", help="A note.")
@click.option("--explanation", metavar="TEXT", help="What it stands for; the date is kept, too.")
@click.option(
    "--set", "others", metavar="COLUMN=VALUE", multiple=True, help="Any other column; may be repeated. JSON, else text."
)
@click.option("--from", "file", metavar="FILE", help="Take a table, as `import-explanations`, instead.")
@_source_option
@_overwrite_option
@json_option
def annotate(
    target: Target,
    *,
    feature: int | None,
    item: str | None,
    sample: int | None,
    others: tuple[str, ...],
    file: str | None,
    source: str | None,
    overwrite: bool,
    as_json: bool,
    **texts: str | None,
) -> None:
    """Keep names, notes, explanations and other values of a feature, an item or a sample, or of many from a file.

    All values of one command are there, or none.
    """
    rows = {"feature": feature, "item": item, "sample": sample}
    chosen = [name for name, row in rows.items() if row is not None]
    values: dict[str, Any] = {name: text for name, text in texts.items() if text is not None}
    values |= dict(map(_value, others))
    if file is not None:
        if chosen or values:
            raise click.UsageError("--from names the rows and their values; leave the others out.")
        _import(target, file, source, overwrite=overwrite, as_json=as_json)
        return
    if len(chosen) != 1 or not values:
        raise click.UsageError("Give one of --feature, --item and --sample and a value such as --name, or --from FILE.")
    if source is not None:
        raise click.UsageError("--source goes with --from.")
    if "explanation" in values:
        values |= {"explanation_source": "annotate", "explanation_date": datetime.now(UTC).date().isoformat()}
    store = target.writable()
    acts = store[target.choose(store)]
    row: Any = rows[chosen[0]]
    if isinstance(row, str) and row.isdecimal() and not ("key" in acts.items and (acts.items["key"] == row).any()):
        row = int(row)
    getattr(acts, f"{chosen[0]}s").annotate({name: {row: value} for name, value in values.items()}, overwrite=overwrite)
    _done(acts.path, list(values), as_json=as_json)


@command("import-explanations", example="saestore import-explanations CLEVR/patch names.csv", keys=keys.ANNOTATE)
@click.argument("set_path", metavar="SET")
@click.argument("path", metavar="PATH")
@_source_option
@_overwrite_option
@store_option
@json_option
def import_explanations(
    set_path: str, path: str, *, source: str | None, overwrite: bool, location: str, as_json: bool
) -> None:
    """Take the explanations of features, and what else is known of them, from a file or folder.

    PATH is Delphi's folder (explanations/ and scores/), Neuronpedia's export (.json, .jsonl, also .gz), or a .csv,
    .json or .parquet table with a column feature, item, key or sample. Other values stay as they are. Explanations of
    another SAE are refused.
    """
    _import(Target(location, set_path), path, source, overwrite=overwrite, as_json=as_json)


@command(
    "export-explanations", example="saestore export-explanations CLEVR/patch names.csv", keys=keys.EXPORT_EXPLANATIONS
)
@click.argument("set_path", metavar="SET")
@click.argument("path", metavar="PATH")
@click.option(
    "--format",
    "kind",
    metavar="FORMAT",
    help="json, csv or parquet with all columns; delphi (a folder) or neuronpedia.  [default: by the suffix of PATH]",
)
@click.option("--features", metavar="CONDITION", help="Only features that fulfil this.  [default: all with values]")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@store_option
@json_option
def export_explanations(
    set_path: str, path: str, *, kind: str | None, features: str | None, overwrite: bool, location: str, as_json: bool
) -> None:
    """Write the explanations of features, and what else is known of them, for another program."""
    acts = Target(location, set_path).activations()
    n = acts.export_explanations(path, kind, features=features, overwrite=overwrite)
    if as_json:
        output.document({"set": acts.path, "path": path, "n_features": n})
    else:
        output.line(f"{acts.path}: {n:,} feature{'s' * (n != 1)} written to {path}.")


def _import(target: Target, path: str, source: str | None, *, overwrite: bool, as_json: bool) -> None:
    store = target.writable()
    acts = store[target.choose(store)]
    columns = acts.import_explanations(path, source=source, overwrite=overwrite)
    _done(acts.path, columns, as_json=as_json)


def _done(path: str, columns: list[str], *, as_json: bool) -> None:
    if as_json:
        output.document({"set": path, "columns": columns})
    else:
        output.line(f"{path}: {', '.join(columns)} kept.")


def _value(given: str) -> tuple[str, Any]:
    """Read ``column=value``."""
    name, equals, text = given.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--set {given}: write COLUMN=VALUE, such as weight=0.5.")
    try:
        value = json.loads(text)
    except ValueError:
        return name, text
    return name, value if isinstance(value, bool | int | float | str | None) else text
