"""``--where column=value``: conditions on items, as text, turned into values of the columns' own types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from saestore.errors import InvalidInputError

if TYPE_CHECKING:
    from saestore.activations import ActivationSet

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _split(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> list[tuple[str, str]]:
    for text in given:
        if "=" not in text.strip("="):
            raise click.BadParameter(f"{text!r} is no condition; write column=value, such as split=test.")
    return [(name, value) for name, _, value in (text.partition("=") for text in given)]


where_option = click.option(
    "--where",
    metavar="COLUMN=VALUE",
    multiple=True,
    callback=_split,
    help="Only items that fulfil this: a column and its value (split=test), or a concept and true or false "
    "(color::red=true). Given several times, all hold; of the same column, any.",
)


def conditions(acts: ActivationSet, where: list[tuple[str, str]]) -> dict[str, Any] | None:
    """The conditions as ``where=`` of the query API takes them, None where there is none."""
    found: dict[str, list[Any]] = {}
    for name, text in where:
        found.setdefault(name, []).append(_typed(acts, name, text))
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()} or None


def _typed(acts: ActivationSet, name: str, text: str) -> Any:
    items = acts.items
    if name in items.concept_names:
        kind, what = "b", "true or false"
    elif name in items.names():
        kind = items.column(name).dtype.kind
        what = {"b": "true or false", "i": "an integer", "f": "a number"}.get(kind, "text")
    else:
        return text  # the query says which names there are
    try:
        if kind == "b":
            return _BOOLEANS[text.lower()]
        return {"i": int, "f": float}.get(kind, str)(text)
    except (KeyError, ValueError):
        raise InvalidInputError(f"--where {name}={text}: the value of {name!r} is {what}, not {text!r}.") from None
