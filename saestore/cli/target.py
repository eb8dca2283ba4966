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
from saestore.cli.options import Function, all_of, conditions, option
from saestore.errors import NotFoundError, did_you_mean
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
    asked: Mapping[str, Any] = field(default_factory=dict)  # ``--level``, ``-n``, ``--where``, where a command has them
    as_json: bool = False  # whether the answer is one JSON document

    @property
    def level(self) -> Level:
        """The value of ``--level``."""
        return self.asked["level"]  # type: ignore[no-any-return]

    @property
    def n(self) -> int:
        """The value of ``-n``."""
        return int(self.asked["n"])

    def condition(
        self, acts: SetReader, features: Sequence[int] = (), where: Sequence[str] | None = None, option: str = "where"
    ) -> Node | None:
        """The tree of all `where`, by default ``--where``, bound to the set; see `saestore.cli.options.conditions`."""
        return conditions(acts, self.asked["where"] if where is None else where, features, option)

    def check_form(self, **others: bool) -> None:
        """Refuse more than one form of the answer: the others that were chosen, and ``--json``."""
        if sum(others.values()) + self.as_json > 1:
            raise click.UsageError(f"Choose one of {', '.join(f'--{name}' for name in others)} and --json.")

    def document(self, acts: SetReader, **found: Any) -> None:
        """Print one JSON document: the set, what was asked, and what was found."""
        asked = {name: value if name != "where" else list(value) or None for name, value in self.asked.items()}
        output.document({"set": acts.path, **asked, **found})

    def say(self, text: str, **found: Any) -> None:
        """Print a line, or with ``--json`` a document."""
        if self.as_json:
            output.document(found)
        else:
            output.line(text)

    @property
    def _options(self) -> dict[str, str]:
        given = zip(_PARTS, (self.dataset, self.sample_type, self.sae), strict=True)
        return {option: value for option, value in given if value is not None}

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
        sets = list(iter(store))  # `list(store)` also asks for its length, which looks through the store again
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
        known = {option: {path.split("/")[part] for path in sets} for option, part in _PARTS.items()}
        wrong = ((value, known[option]) for option, value in self._options.items() if value not in known[option])
        return "".join(did_you_mean(*each) for each in wrong)


def _default_store() -> str:
    scratch = os.environ.get(SCRATCH)
    return str(Path(scratch) / SCRATCH_STORE) if scratch else "activations.zarr"


def _location(ctx: click.Context, _: click.Parameter, value: str) -> str:
    from saestore.storage.places import Location

    return Location.parse(value, ctx.meta.get(_STORAGE_OPTIONS, ()))


def _handing_a_target(function: Function) -> Function:
    @functools.wraps(function)
    def run(**given: Any) -> Any:
        asked: dict[str, Any] = {name: given.pop(name) for name in ("level", "n", "where") if name in given}
        chosen = {field.name: given.pop(field.name) for field in fields(Target) if field.name in given}
        return function(Target(**chosen, asked=asked), **given)

    return run


json_option = option("--json", "Print one JSON document.", to="as_json")
forms_options = all_of(option("--csv", "Print CSV.", to="as_csv"), json_option)
# --store and --storage-option; a command gets both as `location`.
store_option = all_of(
    option(
        "--store PATH",
        f"Folder or URL of the store.  [default: $SAESTORE_PATH, else ${SCRATCH}/{SCRATCH_STORE}, else "
        "./activations.zarr]",
        to="location",
        envvar="SAESTORE_PATH",
        default=_default_store,
        show_default=False,
        callback=_location,
    ),
    option(
        "--storage-option KEY=VALUE",
        "What reaches a URL, such as endpoint=https://… or region=eu-west-1. May be repeated.",
        multiple=True,
        is_eager=True,
        expose_value=False,
        callback=lambda ctx, _, value: ctx.meta.update({_STORAGE_OPTIONS: value}),
    ),
)
# SET, or [SET], --dataset, --sample-type and --sae; and --store. The command gets them as a `Target`.
with_set = all_of(click.argument("path", metavar="SET"), store_option, _handing_a_target)
with_target = all_of(
    click.argument("path", metavar="[SET]", required=False),
    option("--dataset NAME", "The set of this dataset."),
    option("--sample-type TYPE", "The set of these samples: patch, token or cls."),
    option("--sae NAME", "The set of this SAE."),
    store_option,
    _handing_a_target,
)
