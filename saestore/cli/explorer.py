"""`saestore serve` and `saestore site`: the explorer in a browser, and as a folder."""

from __future__ import annotations

from pathlib import Path

import click

from saestore.cli.group import command, note
from saestore.cli.options import option
from saestore.cli.target import Target, with_target
from saestore.errors import InvalidInputError, StoreWriteError, require

_images_option = option(
    "--images DIR",
    "The folder that keys of images start in; by default where each set records it.",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)


def _require(task: str, *packages: str) -> None:
    for package in packages:
        require(package, "web", task)


@command("serve", example="saestore serve demo/activations.zarr --open")
@click.argument("location", metavar="[STORE]", envvar="SAESTORE_PATH", default="activations.zarr")
@option("--host HOST", "Address to listen at.", default="127.0.0.1")
@option("--port N", "Port; 0 takes a free one.", type=click.IntRange(0, 65535), default=0)
@option("--token TEXT", "What a browser has to know. Needed for a host that other machines can reach.")
@option("--open", "Open the first page in a browser.", to="opens")
@_images_option
@option("--read-only", "Pages change no name, note or label.")
def serve(
    location: str, *, host: str, port: int, token: str | None, opens: bool, images: Path | None, read_only: bool
) -> None:
    """Show a store in the browser: any feature at once, with its images or texts, straight from the store.

    Prints the address when the server answers, and runs until Ctrl-C.
    """
    _require("saestore serve", "jinja2", "starlette", "uvicorn")
    from saestore.web.doors import bind, is_loopback
    from saestore.web.doors import serve as run
    from saestore.web.explorer import Explorer
    from saestore.web.view import StoreView

    if not is_loopback(host) and not token:
        raise InvalidInputError(
            f"Other machines can reach {host}; give --token TEXT, or leave --host out.", code="token-needed"
        )
    target = Target(location)
    try:
        store = target.open("r" if read_only else "r+")
    except StoreWriteError:
        store, read_only = target.open(), True
    explorer = Explorer(StoreView(store.root, location, images, writable=not read_only))

    def started(address: str) -> None:
        click.echo(address)
        if opens and click.launch(address) != 0:
            note("no browser was found; open the address yourself.")

    run(explorer, bind(host, port), token, started)


@command("site", example="saestore site CLEVR --top 3 --out site")
@with_target
@option("--features CONDITION", "Which features, such as 'name is known'; by default all.")
@option("--top N", "At most this many features, those that fire most.", at_least=1, default=200)
@option("-n N", "Examples per feature.", type=click.IntRange(1, 64), default=8)
@option("--out DIR", "A new folder.", type=click.Path(path_type=Path), required=True)
@_images_option
@option("--single-file", "Write one HTML file with everything in it.")
def site(target: Target, *, features: str | None, top: int, out: Path, images: Path | None, single_file: bool) -> None:
    """Write pages of features as a folder that opens without a server, to share or to keep.

    Prints the path of its first page.
    """
    import numpy as np

    _require("saestore site", "jinja2")
    from saestore.web.folder import write_folder

    acts = target.activations()
    n_active = acts.stats()["n_active"].to_numpy()
    chosen = np.flatnonzero(n_active) if features is None else acts.features.where(features)
    best = chosen[np.argsort(-n_active[chosen], kind="stable")][:top]
    if not len(best):
        raise InvalidInputError("No feature fulfils --features.", code="nothing-chosen")
    click.echo(write_folder(acts, best.tolist(), out, images=images, single=single_file, n=target.n))
