"""`saestore saes`: the SAEs that can be named."""

from __future__ import annotations

from itertools import islice

import click

from saestore.cli import output
from saestore.cli.group import command, note
from saestore.cli.options import option
from saestore.cli.table import Column
from saestore.cli.target import json_option
from saestore.errors import NotFoundError

KEYS = {
    "saes": "one for each SAE, in the order of the names",
    "saes[].name": "what `--sae` takes",
    "saes[].model": "the model that it was trained on",
    "saes[].layer": "number of the block, null where the names do not say it",
    "saes[].width": "number of features, null where the names do not say it",
    "saes[].l0": "mean number of active features, null where it is not known",
    "left_out": "how many more fit",
}


@command("saes", example="saestore saes gemma-scope-9b-pt-res width_16k", keys=KEYS)
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
            Column("width", ["-" if each.width is None else f"{each.width:,}" for each in shown], right=True),
            Column("L0", ["-" if each.l0 is None else f"{each.l0:g}" for each in shown], right=True),
        ]
    )
    if left_out:
        note(f"{left_out:,} more; add words, or raise -n.")
