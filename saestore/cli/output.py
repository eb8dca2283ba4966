"""Answers on stdout: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import click

from saestore.cli.table import Column, clip, pairs, render
from saestore.errors import escape
from saestore.records import plain, to_csv

_WIDTH = 100  # of lines that go to a file or another program


def line_width() -> int:
    """Width of the terminal, or 100 where stdout is not a terminal."""
    return _terminal_width() if sys.stdout.isatty() else _WIDTH


def _terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def line(text: str = "", *, nl: bool = True, err: bool = False, bold: bool = False) -> None:
    """Print text. Everything printed passes here: what a store holds cannot move the cursor."""
    click.secho(escape(text), nl=nl, err=err, bold=bold)


def title(text: str) -> None:
    """Print a heading; bold in a terminal."""
    line(clip(escape(text, one_line=True), line_width()), bold=True)


def facts(heading: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print a heading, and labels and values below it."""
    title(heading)
    line("\n".join(pairs(rows, line_width())))


def table(columns: Sequence[Column]) -> None:
    """Print a table, its head bold in a terminal."""
    head, *lines = render(columns, line_width())
    line(head, bold=True)
    if lines:
        line("\n".join(lines))


def document(value: Any) -> None:
    """Print one JSON document. What is not a number there (NaN, infinity) becomes null."""
    line(json.dumps(plain(value), indent=2, allow_nan=False))


def rows_as_csv(rows: Sequence[Mapping[str, Any]], head: Sequence[str] = ()) -> None:
    """Print rows as CSV."""
    line(to_csv(rows, head), nl=False)


class Status:
    """One line on stderr that names the present step and is gone at the end; only on a terminal."""

    def __enter__(self) -> Self:
        return self

    def __call__(self, message: str) -> None:
        """Replace the line."""
        if sys.stderr.isatty():
            click.echo(
                f"\r\033[K{clip(escape(message, one_line=True), _terminal_width() - 1)}",
                err=True,
                nl=False,
            )

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if sys.stderr.isatty():
            click.echo("\r\033[K", err=True, nl=False)
