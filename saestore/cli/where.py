"""``--where``: an expression, or ``column=value`` without quotes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from saestore.cli.options import option
from saestore.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from saestore.query.reader import SetReader
    from saestore.query.where_parser import Node

_EQUALS = re.compile(r"(?P<name>[^=<>!\"'`()]*)=(?P<value>(?!=).*)", re.DOTALL)  # one =, before any other operator

where_option = option(
    "--where CONDITION",
    "Only samples that fulfil this: an expression ('split == \"test\" and not color::red'), or a column or a "
    "concept and its value (split=test, color::red=true). Given several times, all hold; of the same column=, any.",
    multiple=True,
)


def conditions(acts: SetReader, where: Sequence[str], features: Sequence[int] = ()) -> Node | None:
    """The tree of all conditions together, bound to the set; None where there is none.

    ``activation`` in them means the activation of the feature that is asked about.
    """
    try:
        tree = _tree(where)
        acts.condition(tree, int(acts.select_features(features[0]).ids[0]) if features else None)
    except (InvalidInputError, NotFoundError) as e:
        message, context = str(e).removeprefix("where=: "), click.get_current_context()
        raise click.BadParameter(message, context, param_hint="'--where'") from e
    return tree


def _tree(where: Sequence[str]) -> Node | None:
    from saestore.query.where_parser import Compare, Join, Mark, Name, Value, parse

    terms: list[Node] = []
    options: dict[str, tuple[Name, list[Value]]] = {}
    for text in where:
        equals = _EQUALS.fullmatch(text)
        if equals is None:
            terms.append(parse(text))
            continue
        name, value = equals["name"].strip(), equals["value"].strip()
        if not name or not value:
            raise InvalidInputError(f"{text!r} is not a condition; write column=value, such as split=test.")
        first = Name(name, mark=Mark(text, *equals.span("name")))
        options.setdefault(name, (first, []))[1].append(Value(value, Mark(text, *equals.span("value")), untyped=True))
    terms += [Compare(name, "==", tuple(values)) for name, values in options.values()]
    return Join("and", tuple(terms)) if terms else None
