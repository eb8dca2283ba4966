"""Which store and which activation set a command is about."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saestore.errors import NotFoundError
from saestore.superactivators import SCRATCH, SCRATCH_STORE

if TYPE_CHECKING:
    from saestore.activation_set import ActivationSet
    from saestore.query.reader import SetReader
    from saestore.store import Store

Function = Callable[..., Any]
_STORAGE_OPTIONS = "saestore.storage_options"
_PARTS = {"--dataset": 0, "--sample-type": 1, "--sae": 2}  # option -> which part of a set's path


@dataclass(frozen=True)
class Target:
    """The user's choice of store and set; None where nothing was given."""

    location: str
    path: str | None = None
    dataset: str | None = None
    sample_type: str | None = None
    sae: str | None = None

    @property
    def _options(self) -> dict[str, str]:
        given = {"--dataset": self.dataset, "--sample-type": self.sample_type, "--sae": self.sae}
        return {option: value for option, value in given.items() if value is not None}

    @property
    def named(self) -> bool:
        """Whether the user named a set, in any way."""
        return self.path is not None or bool(self._options)

    def open(self, mode: str = "r") -> Store:
        """Open the store."""
        import saestore

        return saestore.open(self.location, mode=mode)

    def writable(self) -> Store:
        """Open the store to write; one that is not there is an error."""
        self.open()  # opening to write would create it
        return self.open("a")

    def activations(self) -> ActivationSet:
        """The one set that the user means."""
        store = self.open()
        return store[self.choose(store)]

    def reader(self) -> SetReader:
        """The same, for questions only: without what analyses and pictures need."""
        from saestore.store import reader_of

        store = self.open()
        return reader_of(store, self.choose(store))

    def choose(self, store: Store) -> str:
        """Path of the one set that fits.

        Raises
        ------
        NotFoundError
            None or several do; the message names them.
        """
        if self.path is not None:
            if self._options:
                raise click.UsageError(f"Name the set either as SET or with {' and '.join(self._options)}.")
            return store.resolve(self.path)
        sets = list(store)
        fits = [s for s in sets if all(s.split("/")[_PARTS[o]] == value for o, value in self._options.items())]
        if len(fits) == 1:
            return fits[0]
        if not sets:
            raise NotFoundError(f"The store {self.location} has no activation set; fill it with `saestore build`.")
        said = " ".join(f"{option} {value}" for option, value in self._options.items())
        if fits:
            more = [option for option in _PARTS if option not in self._options]
            raise NotFoundError(
                f"{said + ' fits' if said else 'The store has'} several activation sets: {', '.join(fits)}. "
                f"Name one, or add {' or '.join(more)}."
            )
        raise NotFoundError(f"No activation set fits {said}. {self._nearest(sets)}The store has {', '.join(sets)}.")

    def _nearest(self, sets: list[str]) -> str:
        import difflib

        near = []
        for option, value in self._options.items():
            known = {s.split("/")[_PARTS[option]] for s in sets}
            if value not in known:
                near += [f"{option} {match}" for match in difflib.get_close_matches(value, sorted(known), 2, 0.5)]
        return f"Did you mean {' or '.join(near)}? " if near else ""


def _default_store() -> str:
    scratch = os.environ.get(SCRATCH)
    return str(Path(scratch) / SCRATCH_STORE) if scratch else "activations.zarr"


def _location(ctx: click.Context, _: click.Parameter, value: str) -> str:
    from saestore.storage.places import Location

    return Location.parse(value, ctx.meta.get(_STORAGE_OPTIONS, ()))


def _remember_options(ctx: click.Context, _: click.Parameter, value: tuple[str, ...]) -> None:
    ctx.meta[_STORAGE_OPTIONS] = value


def store_option(function: Function) -> Function:
    """Give a command --store and --storage-option; it gets both as `location`."""
    given = click.option(
        "--store",
        "location",
        metavar="PATH",
        envvar="SAESTORE_PATH",
        default=_default_store,
        callback=_location,
        help=f"Folder or URL of the store.  [default: $SAESTORE_PATH, else ${SCRATCH}/{SCRATCH_STORE}, else "
        "./activations.zarr]",
    )
    reached = click.option(
        "--storage-option",
        multiple=True,
        metavar="KEY=VALUE",
        is_eager=True,
        expose_value=False,
        callback=_remember_options,
        help="What reaches a URL, such as endpoint=https://… or region=eu-west-1. May be repeated.",
    )
    return given(reached(function))


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def with_target(function: Function) -> Function:
    """Give a command [SET], --dataset, --sample-type, --sae and --store, and hand it a `Target`."""

    @click.argument("path", metavar="[SET]", required=False)
    @click.option("--dataset", metavar="NAME", help="The set of this dataset.")
    @click.option("--sample-type", metavar="TYPE", help="The set of these samples: patch, token or cls.")
    @click.option("--sae", metavar="NAME", help="The set of this SAE.")
    @store_option
    @functools.wraps(function)
    def with_options(
        location: str, path: str | None, dataset: str | None, sample_type: str | None, sae: str | None, **kwargs: Any
    ) -> Any:
        return function(Target(location, path, dataset, sample_type, sae), **kwargs)

    return with_options
