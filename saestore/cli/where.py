"""``--where``: an expression, or ``column=value``, whose text is turned into a value of the column's own type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from saestore.errors import InvalidInputError, SaestoreError

if TYPE_CHECKING:
    from saestore.activation_set import ActivationSet

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
# One =, before any other operator, quote or parenthesis.
_EQUALS = re.compile(r"(?P<name>[^=<>!\"'`()]*)=(?P<value>(?!=).*)", re.DOTALL)
_JOINED = re.compile(r"\s(and|or)\s|^[\"'].*[\"']$", re.DOTALL)
_NUMBERS = ("item", "position", "sample")
_LEVELS = ("item", "sample")  # not those of `format`, for which --help would import numpy


def _check(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    from saestore.query.where_parser import parse

    for text in given:
        equals = _EQUALS.fullmatch(text)
        if equals is None:
            try:
                parse(text)
            except InvalidInputError as e:
                raise click.BadParameter(str(e).removeprefix("where=: ")) from e
        elif not equals["name"].strip() or not equals["value"]:
            raise click.BadParameter(f"{text!r} is no condition; write column=value, such as split=test.")
    return given


where_option = click.option(
    "--where",
    metavar="CONDITION",
    multiple=True,
    callback=_check,
    help="Only samples that fulfil this: an expression ('split == \"test\" and not color::red'), or a column or a "
    "concept and its value (split=test, color::red=true). Given several times, all hold; of the same column=, any.",
)


def conditions(acts: ActivationSet, where: Sequence[str]) -> dict[str, Any] | str | None:
    """The conditions as ``where=`` of the query API takes them, None where there is none.

    Returns
    -------
    dict, str or None
        A mapping where all are of the form ``column=value``, else one expression.
    """
    mapping: dict[str, Any] = {}
    expressions = []
    for text in where:
        equals = _EQUALS.fullmatch(text)
        if equals is None:
            expressions.append(text)
            continue
        name, value = equals["name"].strip(), equals["value"].strip()
        mapping.setdefault(name, []).append(_typed(acts, name, value))
    if not expressions:
        return {name: values[0] if len(values) == 1 else values for name, values in mapping.items()} or None
    for text in expressions:
        try:
            acts.samples.where(text)
        except SaestoreError as e:
            # With the lines that mark the place, for which an error of one line has no room.
            context = click.get_current_context()
            raise click.BadParameter(str(e).removeprefix("where=: "), context, param_hint="'--where'") from e
    parts = [f"({text})" for text in expressions] + [_as_expression(*pair) for pair in mapping.items()]
    return expressions[0] if len(parts) == 1 else " and ".join(parts)


def _as_expression(name: str, values: Sequence[Any]) -> str:
    from saestore.query.where_parser import quote_name, quote_text

    shown = [quote_text(v) if isinstance(v, str) else str(v).lower() for v in values]
    return f"{quote_name(name)} in ({', '.join(shown)})"


def _typed(acts: ActivationSet, name: str, text: str) -> Any:
    kind = _kind(acts, name)
    what = {"b": "true or false", "i": "an integer", "f": "a number"}.get(kind, "text")
    try:
        value = _BOOLEANS[text.lower()] if kind == "b" else {"i": int, "f": float}.get(kind, str)(text)
    except (KeyError, ValueError):
        raise InvalidInputError(f"--where {name}={text}: the value of {name!r} is {what}, not {text!r}.") from None
    if kind == "T" and _JOINED.search(text) and text not in acts.items.column(name):
        raise InvalidInputError(
            f"--where {name}={text}: no item has this {name!r}. In an expression write == and quotes: "
            f"--where '{name} == \"…\" and …'."
        )
    return value


def _kind(acts: ActivationSet, name: str) -> str:
    """Kind of a dtype, "" for what is unknown: the query says which names there are."""
    if name in acts.items.names():
        return str(acts.items.column(name).dtype.kind)
    if name in acts.concepts.names():
        return "b"
    if name in _NUMBERS:
        return "i"
    head, _, rest = name.partition(".")
    return _kind(acts, rest) if head in _LEVELS and rest else ""
