"""Options, each declared in a line or two: names, metavar and help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]


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

    Parameters
    ----------
    flags
        Its names and its metavar, such as ``-n, --limit N``; without a metavar and choices it takes no value.
    to
        Name of the argument that it becomes.
    choices
        What it may be; they are the metavar where `flags` has none.
    at_least
        It is an int, and not below this.
    """
    words = flags.replace(",", " ").split()
    names = [word for word in words if word.startswith("-")]
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
