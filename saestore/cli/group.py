"""What all commands share: their errors, `--debug`, an example each, and the keys of their JSON."""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import click

from saestore.errors import SaestoreError, escape

INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended
_DEBUG, _JSON = "saestore.debug", "saestore.json"
_OPTIONAL = ("torch", "sae_lens", "safetensors", "tqdm")  # of the extra `sae`


class DebugOption(click.Option):
    """``--debug``, which works before and after the name of a command."""

    def __init__(self) -> None:
        super().__init__(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            callback=_remember_debug,
            help="Show the traceback of an error.",
        )


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_DEBUG] = value or ctx.meta.get(_DEBUG, False)


class Command(click.Command):
    """A command with `--debug`, an example, and the keys of the document that its ``--json`` prints."""

    def __init__(self, name: str | None, *, example: str, keys: Mapping[str, str] | None, **kwargs: Any) -> None:
        super().__init__(name, epilog=f"Example: {example}", **kwargs)
        self.params.append(DebugOption())
        self.example = example
        self.keys = keys or {}

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and remember for an error whether its answer is JSON."""
        ctx.meta[_JSON] = ctx.params.get("as_json", False)
        return super().invoke(ctx)


def command(
    name: str, *, example: str, keys: Mapping[str, str] | None = None
) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function, as `click.command`."""
    return click.command(name, cls=Command, example=example, keys=keys)


class ErrorGroup(click.Group):
    """A group that prints every error in one line on stderr, with ``--json`` a document too, and exits with 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Commands in the order in which a user needs them, not in alphabetical order."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        for stream in (sys.stdout, sys.stderr):
            # A text may hold what the terminal's encoding cannot show; that is no reason to fail.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        # Not `warnings.catch_warnings`, which would also undo the filters of what the command imports.
        show, warnings.showwarning = warnings.showwarning, _show_warning
        try:
            return super().invoke(ctx)
        except click.ClickException as e:
            e.__dict__["message"] = escape(e.message)  # typed as final
            _as_json(ctx, getattr(e.__cause__, "code", "usage"), e.message)
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except (Exception, KeyboardInterrupt) as e:
            if isinstance(e, OSError) and e.errno == errno.EPIPE:
                raise  # click ends quietly when the reader of a pipe is gone
            if ctx.meta.get(_DEBUG) and not isinstance(e, KeyboardInterrupt):
                raise
            _fail(ctx, e)
        finally:
            warnings.showwarning = show


def _fail(ctx: click.Context, e: BaseException) -> NoReturn:
    if isinstance(e, KeyboardInterrupt):
        note("interrupted." if not e.args else str(e.args[0]))
        ctx.exit(INTERRUPTED)
    text = str(e)
    if isinstance(e, ModuleNotFoundError) and e.name in _OPTIONAL:
        text = f"this needs {e.name}, which is not installed: pip install 'saestore[sae]'."
    elif not isinstance(e, SaestoreError | OSError):
        text = f"unexpected {type(e).__name__}: {text}; run with --debug for the traceback."
    text = text or type(e).__name__
    _as_json(ctx, e.code if isinstance(e, SaestoreError) else "internal", text)
    note(f"error: {text}")
    ctx.exit(1)


def _as_json(ctx: click.Context, code: str, message: str) -> None:
    if ctx.meta.get(_JSON):
        from saestore.cli.output import document  # what `--help` does not need

        document({"error": {"code": code, "message": message}})


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    note(f"warning: {message}")


def note(message: str) -> None:
    """Say something to the person at the terminal, in one line on stderr."""
    click.echo(f"saestore: {escape(' '.join(message.split()))}", err=True)
