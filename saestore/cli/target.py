"""Which store and which activation set a command is about."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saestore.cli import output
from saestore.cli.options import Function, all_of, option
from saestore.cli.where import conditions
from saestore.errors import NotFoundError
from saestore.superactivators import SCRATCH, SCRATCH_STORE

if TYPE_CHECKING:
    from saestore.activation_set import ActivationSet
    from saestore.query.reader import Level, SetReader
    from saestore.query.where_parser import Node
    from saestore.store import Store

_STORAGE_OPTIONS = "saestore.storage_options"
_PARTS = {"--dataset": 0, "--sample-type": 1, "--sae": 2}  # option -> which part of a set's path


@dataclass(frozen=True)
class Target:
    """The user's choice of store and set, None where nothing was given, and what is asked of it."""

    location: str
    path: str | None = None
    dataset: str | None = None
    sample_type: str | None = None
    sae: str | None = None
    # The values of ``--level``, ``-n`` and ``--where``, of those that the command has.
    asked: Mapping[str, Any] = field(default_factory=dict)
    as_json: bool = False  # whether the answer is one JSON document

    @property
    def level(self) -> Level:
        """The value of ``--level``."""
        level: Level = self.asked["level"]
        return level

    @property
    def n(self) -> int:
        """The value of ``-n``."""
        return int(self.asked["n"])

    def condition(self, acts: SetReader, features: Sequence[int] = ()) -> Node | None:
        """The tree of all ``--where``, bound to the set; see `saestore.cli.where.conditions`."""
        return conditions(acts, self.asked["where"], features)

    def document(self, acts: SetReader, **found: Any) -> None:
        """Print one JSON document: the set, what was asked, and what was found."""
        asked = {name: value if name != "where" else list(value) or None for name, value in self.asked.items()}
        output.document({"set": acts.path, **asked, **found})

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

    def activations(self, *, change: bool = False) -> ActivationSet:
        """The one set that the user means, open to `change` it too."""
        store = self.open()
        if change:  # only now: opening to write would create a store that is not there
            store = self.open("a")
        return store[self.choose(store)]

    def reader(self) -> SetReader:
        """The same, for questions only: without what analyses and pictures need."""
        from saestore.store import reader_of

        store = self.open()
        return reader_of(store, self.choose(store))

    def choose(self, store: Store) -> str:
        """Path of the one set that fits."""
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
        for flag, value in self._options.items():
            known = {s.split("/")[_PARTS[flag]] for s in sets}
            if value not in known:
                near += [f"{flag} {match}" for match in difflib.get_close_matches(value, sorted(known), 2, 0.5)]
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
    reached = option(
        "--storage-option KEY=VALUE",
        "What reaches a URL, such as endpoint=https://… or region=eu-west-1. May be repeated.",
        multiple=True,
        is_eager=True,
        expose_value=False,
        callback=_remember_options,
    )
    return given(reached(function))


json_option = option("--json", "Print one JSON document.", to="as_json")


def with_target(function: Function) -> Function:
    """Give a command [SET], --dataset, --sample-type, --sae and --store, and hand it a `Target`."""
    return all_of(
        click.argument("path", metavar="[SET]", required=False),
        option("--dataset NAME", "The set of this dataset."),
        option("--sample-type TYPE", "The set of these samples: patch, token or cls."),
        option("--sae NAME", "The set of this SAE."),
        store_option,
    )(_handing_a_target(function))


def with_set(function: Function) -> Function:
    """Give a command SET and --store, and hand it a `Target`."""
    return all_of(click.argument("path", metavar="SET"), store_option)(_handing_a_target(function))


def _handing_a_target(function: Function) -> Function:
    @functools.wraps(function)
    def run(**given: Any) -> Any:
        asked: dict[str, Any] = {name: given.pop(name) for name in ("level", "n", "where") if name in given}
        chosen = {field.name: given.pop(field.name) for field in fields(Target) if field.name in given}
        return function(Target(**chosen, asked=asked), **given)

    return run
