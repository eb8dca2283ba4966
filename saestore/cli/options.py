"""Options, each declared in a line or two, and those that several commands have: ``--where``, ``--feature``, …."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from saestore.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from saestore.query.reader import SetReader
    from saestore.query.where_parser import Node

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]

_EQUALS = re.compile(r"(?P<name>[^=<>!\"'`()]*)=(?P<value>(?!=).*)", re.DOTALL)  # one =, before any other operator

_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


def option(
    flags: str,
    text: str,
    *,
    to: str | None = None,
    choices: Sequence[str] | None = None,
    at_least: int | None = None,
    default: Any = None,
    **more: Any,
) -> Decorator:
    """An option of a command, as `click.option`; its default is shown.

    `flags` are its names and its metavar, such as ``-n, --limit N``; with neither that nor choices it takes no value.
    `to` is the name of the argument that it becomes; with `at_least` it is an int, and not below this.
    """
    names = [word for word in flags.replace(",", " ").split() if word.startswith("-")]
    metavar = flags.split(names[-1], 1)[1].strip() or (f"[{'|'.join(choices)}]" if choices else None)
    if metavar is None:
        more["is_flag"] = True
    if choices:
        more["type"] = click.Choice(choices)
    if at_least is not None:
        more["type"] = click.IntRange(at_least)
    if default is not None:
        more = {"default": default, "show_default": True, **more}
    return click.option(*names, *([to] if to else []), metavar=metavar, help=text, **more)


def all_of(*options: Decorator) -> Decorator:
    """Several options as one decorator, in this order."""

    def give(function: Function) -> Function:
        for each in reversed(options):
            function = each(function)
        return function

    return give


overwrite_option = option("--overwrite", "Replace what is there.")
draws_options = all_of(
    option("--confidence-level SHARE", "Of the intervals.", default=0.95, type=_SHARE),
    option("--n-resamples N", "How often items are drawn for them.", default=1000),
    option("--seed N", "Of all random draws.", default=0),
)
where_option = option(
    "--where CONDITION",
    "Only samples that fulfil this: an expression ('split == \"test\" and not color::red'), or a column or a "
    "concept and its value (split=test, color::red=true). Given several times, all hold; of the same column=, any.",
    multiple=True,
)


def feature_option(text: str = "The feature", *, required: bool = False, multiple: bool = True) -> Decorator:
    """Give a command ``--feature``, which `features_of` resolves."""
    more = "; may be repeated" if multiple else ""
    what = f"{text}: its number, its name, or a condition ('name contains \"green\"'){more}."
    return option("--feature N", what, multiple=multiple, required=required)


def level_option(text: str, default: str = "sample") -> Decorator:
    """Give a command ``--level``."""
    choices = ["sample", "item"] if default == "sample" else ["item", "sample"]
    return option("--level", text, choices=choices, default=default)


def conditions(
    acts: SetReader, where: Sequence[str], features: Sequence[int] = (), option: str = "where"
) -> Node | None:
    """The tree of all ``--where`` (or of another option) together, bound to the set; None where there is none.

    ``activation`` in them means the activation of the feature that is asked about.
    """
    try:
        tree = _tree(where)
        acts.condition(tree, int(acts.select_features(features[0]).ids[0]) if features else None)
    except (InvalidInputError, NotFoundError) as e:
        raise _bad(option, str(e).removeprefix("where=: ")) from e
    return tree


def _tree(where: Sequence[str]) -> Node | None:
    if not where:
        return None
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
    return Join("and", tuple(terms))


def features_of(acts: SetReader, given: Sequence[str]) -> list[int]:
    """The features that are meant, in their order."""
    return [feature for text in given for feature in _features(acts, text)]


def one_feature(acts: SetReader, given: str) -> int:
    """The one feature that is meant."""
    found = _features(acts, given)
    if len(found) != 1:
        raise _bad("feature", f"{len(found):,} features fulfil {given!r}; this command takes one.")
    return found[0]


def _features(acts: SetReader, text: str) -> list[int]:
    try:
        number, n_features = int(text), acts.shape[1]
        return [number + n_features if -n_features <= number < 0 else number]
    except ValueError:
        pass
    names = acts.features["name"].tolist() if "name" in acts.features.names() else []
    found = [feature for feature, name in enumerate(names) if name == text]
    try:
        found = found or acts.features.where(text).tolist()
    except (InvalidInputError, NotFoundError) as e:
        reason = str(e).removeprefix("where=: ")
        raise _bad("feature", f"{text!r} is not a number or a feature's name; as a condition: {reason}") from e
    if not found:
        raise _bad("feature", f"no feature fulfils {text!r}.")
    return found


def _bad(option: str, message: str) -> click.BadParameter:
    return click.BadParameter(message, click.get_current_context(), param_hint=f"'--{option}'")
