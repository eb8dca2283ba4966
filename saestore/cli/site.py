"""`saestore site`: pages of chosen features as a folder."""

from __future__ import annotations

from pathlib import Path

import click

from saestore.cli.group import command
from saestore.cli.target import Target, with_target
from saestore.errors import InvalidInputError


@command("site", example="saestore site CLEVR --top 3 --out site")
@with_target
@click.option("--features", metavar="CONDITION", help="Which features, such as 'name is known'; by default all.")
@click.option(
    "--top", metavar="N", type=click.IntRange(1), default=200, show_default=True,
    help="At most this many features, those that fire most.",
)  # fmt: skip
@click.option("-n", metavar="N", type=click.IntRange(1, 64), default=8, show_default=True, help="Examples per feature.")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), required=True, help="A new folder.")
@click.option(
    "--images",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder that keys of images start in; by default where the set records it.",
)
@click.option("--single-file", is_flag=True, help="Write one HTML file with everything in it.")
def site(
    target: Target, *, features: str | None, top: int, n: int, out: Path, images: Path | None, single_file: bool
) -> None:
    """Write pages of features as a folder that opens without a server, to share or to keep.

    Prints the path of its first page.
    """
    import numpy as np

    from saestore.interop.optional import require

    require("jinja2", "web", "saestore site")
    from saestore.web.doors import write_folder

    acts = target.activations()
    chosen = acts.features.where(features) if features else np.arange(acts.shape[1])
    n_active = acts.stats()["n_active"].to_numpy()[chosen]
    best = chosen[np.argsort(-n_active, kind="stable")][:top]
    best = best[acts.stats()["n_active"].to_numpy()[best] > 0] if features is None else best
    if not len(best):
        raise InvalidInputError("No feature fulfils --features.", code="nothing-chosen")
    click.echo(write_folder(acts, best.tolist(), out, images=images, single=single_file, n=n))
