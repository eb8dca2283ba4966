"""`saestore datasets` and `saes`: what can be named, and what of it was found."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saestore.cli import keys, output
from saestore.cli.app import command, note
from saestore.cli.options import option
from saestore.cli.table import Column
from saestore.cli.target import json_option, store_option
from saestore.errors import NotFoundError, SaestoreError

if TYPE_CHECKING:
    from saestore.superactivators.datasets import Dataset

Found = dict[str, Any]


@command("datasets", example="saestore datasets --data .", keys=keys.DATASETS)
@option(
    "--data DIR",
    "Folder with Embeddings/, Data/ and GT_Samples/ of known datasets; what it lacks is looked for under "
    "$SAESTORE_SCRATCH.",
)
@store_option
@json_option
def datasets(location: str, data: str | None, as_json: bool) -> None:
    """List the datasets that can be built by name, and what of each was found.

    Seven are built in; a saestore.toml in the current folder adds more.
    """
    from saestore.superactivators.datasets import known_datasets
    from saestore.superactivators.file_names import data_roots

    searched = [str(root) for root in data_roots(data)]
    stored = _stored(location)
    found = [_look(dataset, data, stored) for dataset in known_datasets()]
    if as_json:
        output.document({"store": location, "searched": searched, "datasets": found})
        return
    output.title(f"searched: {', '.join(searched) or 'nothing; give --data, or set SAESTORE_SCRATCH'}")
    output.table(_columns(found))


def _stored(location: str) -> list[str]:
    """Paths of the sets in the store; none where there is no store yet."""
    import saestore

    try:
        return list(saestore.open(location))
    except NotFoundError:
        return []


def _look(dataset: Dataset, data: str | None, stored: list[str]) -> Found:
    from saestore.superactivators.file_names import find_ground_truth, find_items, find_token_counts

    text = dataset.modality == "text"
    try:
        items = _there(find_items(dataset, data))
    except NotFoundError:
        items = None
    return {
        "name": dataset.name,
        "modality": dataset.modality,
        "sae": dataset.sae,
        "patches": None if text else dataset.patches,
        "own": dataset.own,
        "items": items,
        "ground_truth": _there(find_ground_truth(dataset, data)),
        "token_counts": (dataset.item_ptr or _there(find_token_counts(dataset, data))) if text else None,
        "samples": [_look_for(dataset, each, data, stored) for each in dataset.sample_types],
    }


def _look_for(dataset: Dataset, sample_type: str, data: str | None, stored: list[str]) -> Found:
    from saestore.superactivators.file_names import find_embeddings

    embeddings = missing = None
    try:
        embeddings = str(find_embeddings(dataset, sample_type, data))
    except SaestoreError as error:
        missing = str(error)
    prefix = f"{dataset.name}/{sample_type}/"
    sets = [path for path in stored if path.startswith(prefix)]
    return {"sample_type": sample_type, "embeddings": embeddings, "missing": missing, "sets": sets}


def _there(path: Path | None) -> str | None:
    return str(path) if path is not None and path.exists() else None


def _columns(found: list[Found]) -> list[Column]:
    return [
        Column("dataset", [each["name"] for each in found], cut="end"),
        Column("items", [f"{each['modality']}s" for each in found]),
        Column("embeddings", [_types(each, "embeddings") for each in found]),
        Column("metadata", [_yes(each["items"]) for each in found]),
        Column("truth", [_yes(each["ground_truth"]) for each in found]),
        Column("counts", ["" if each["patches"] else _yes(each["token_counts"]) for each in found]),
        Column("SAE", [each["sae"] for each in found], cut="start"),
        Column("stored", [_types(each, "sets") for each in found]),
    ]


def _types(each: Found, key: str) -> str:
    return ", ".join(found["sample_type"] for found in each["samples"] if found[key]) or "-"


def _yes(path: str | None) -> str:
    return "-" if path is None else "yes"


@command("saes", example="saestore saes gemma-scope-9b-pt-res width_16k", keys=keys.SAES)
@click.argument("words", metavar="[WORD]...", nargs=-1)
@option("-n, --limit N", "At most N.", at_least=1, default=50)
@json_option
def saes(words: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List the SAEs that sae_lens knows by name, with model, layer, width and L0.

    Only those whose release, id or model contain all WORDs. `saestore build --sae NAME` takes any of them.
    """
    from saestore.sae.releases import find_releases

    found = find_releases(words)
    shown = list(islice(found, limit))
    left_out = sum(1 for _ in found)
    if as_json:
        output.document({"saes": [each.to_dict() for each in shown], "left_out": left_out})
        return
    if not shown:
        raise NotFoundError(f"sae_lens knows no SAE with {' and '.join(words)} in its names.", code="unknown-sae")
    output.table(
        [
            Column("SAE", [each.name for each in shown], cut="start"),
            Column("model", [each.model for each in shown], cut="end"),
            Column("layer", ["-" if each.layer is None else str(each.layer) for each in shown], right=True),
            Column("width", ["unknown" if each.width is None else f"{each.width:,}" for each in shown], right=True),
            Column("L0", ["-" if each.l0 is None else f"{each.l0:g}" for each in shown], right=True),
        ]
    )
    if left_out:
        note(f"{left_out:,} more; add words, or raise -n.")
