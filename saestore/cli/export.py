"""`saestore export`: a set, or a part of it, for another program."""

from __future__ import annotations

from typing import Any

import click

from saestore.cli import keys, output
from saestore.cli.group import command, note
from saestore.cli.options import option
from saestore.cli.target import Target, json_option, with_set
from saestore.cli.where import where_option
from saestore.vocabulary import EXPORT_FORMATS

KEYS = {
    **keys.SET,
    "format": "the format that was written",
    "where": "the conditions as given, or null",
    "n_samples": "samples that were written",
    "n_features": "features that were asked for",
    "nnz": "activations that were written",
    "files": "what was written",
    "notes": "what was changed on the way, such as activations that float16 cannot hold",
}


@command("export", example="saestore export CLEVR/patch clevr.npz", keys=KEYS)
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
@option("--overwrite", "Replace what is there.")
@json_option
def export(
    target: Target,
    *,
    file: str,
    kind: str,
    features: list[int] | None,
    unembedding: str | None,
    vocabulary: str | None,
    **how: Any,
) -> None:
    """Write a set, or the part of it that is asked for, as a file that another program reads.

    Nothing appears under the name PATH before it is whole.
    """
    import saestore

    if (unembedding is None) != (vocabulary is None):
        raise click.UsageError("--unembedding and --vocabulary go together.")
    how["unembedding"] = None if unembedding is None else (unembedding, vocabulary)
    acts = target.activations()
    how |= {"format": kind, "where": target.condition(acts), "features": features}
    with output.Status() as status:
        done = saestore.export(acts, file, progress=status, **how)
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
        found += range(int(first), int(last or first) + 1)
    return found
