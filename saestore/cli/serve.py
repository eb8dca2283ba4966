"""`saestore serve`: the explorer in a browser."""

from __future__ import annotations

from pathlib import Path

import click

from saestore.cli.group import command, note
from saestore.cli.target import Target
from saestore.errors import InvalidInputError, StoreWriteError


@command("serve", example="saestore serve demo/activations.zarr --open")
@click.argument("location", metavar="[STORE]", envvar="SAESTORE_PATH", default="activations.zarr")
@click.option("--host", metavar="HOST", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", metavar="N", type=click.IntRange(0, 65535), default=0, show_default=True, help="Port; 0 takes a free one."
)
@click.option(
    "--token", metavar="TEXT", help="What a browser has to know. Needed for a host that other machines can reach."
)
@click.option("--open", "opens", is_flag=True, help="Open the first page in a browser.")
@click.option(
    "--images",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder that keys of images start in; by default where each set records it.",
)
@click.option("--read-only", is_flag=True, help="Pages change no name, note or label.")
def serve(
    location: str, *, host: str, port: int, token: str | None, opens: bool, images: Path | None, read_only: bool
) -> None:
    """Show a store in the browser: any feature at once, with its images or texts, straight from the store.

    Prints the address when the server answers, and runs until Ctrl-C.
    """
    from saestore.interop.optional import require

    for package in ("jinja2", "starlette", "uvicorn"):
        require(package, "web", "saestore serve")
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
