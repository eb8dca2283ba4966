"""What all commands share: their errors, `--debug`, an example, the keys of their JSON; and the group of them all."""

from __future__ import annotations

import errno
import re
import sys
import warnings
from collections import UserDict
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NoReturn

import click

from saestore import __version__
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
    text = _with_options(ctx, text) or type(e).__name__
    _as_json(ctx, e.code if isinstance(e, SaestoreError) else "internal", text)
    note(f"error: {text}")
    ctx.exit(1)


def _with_options(ctx: click.Context, text: str) -> str:
    """A message in whose ``level='item'`` the argument of Python is the option of the command: ``--level item``."""
    command = ctx.command.commands.get(ctx.invoked_subcommand or "") if isinstance(ctx.command, click.Group) else None
    flags = {p.name: max(p.opts, key=len) for p in (command.params if command else ()) if isinstance(p, click.Option)}
    argument = re.compile(rf"(?<![\w./=-])({'|'.join(filter(None, flags))})=(?!=)(?:(['\"])(.*?)\2)?")
    return argument.sub(lambda m: f"{flags[m[1]]} {m[3] or ''}", text) if flags else text


def _as_json(ctx: click.Context, code: str, message: str) -> None:
    if ctx.meta.get(_JSON):
        from saestore.cli.output import document  # what `--help` does not need

        document({"error": {"code": code, "message": message}})


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    note(f"warning: {message}")


def note(message: str) -> None:
    """Say something to the person at the terminal, in one line on stderr."""
    click.echo(f"saestore: {escape(' '.join(message.split()))}", err=True)


# Command -> its module and its line in the list of commands, in the order in which a user needs them.
_COMMANDS = {
    "build": ("build", "Encode embeddings through an SAE into a set."),
    "datasets": ("catalogue", "List the datasets that can be built by name."),
    "saes": ("catalogue", "List the SAEs that sae_lens knows by name."),
    "info": ("info", "Show what is in the store, or describe a set."),
    "top-samples": ("queries", "Show the samples on which a feature is strongest."),
    "top-features": ("queries", "Show the strongest features of a sample or item."),
    "stats": ("queries", "Show how often and how strongly features are active."),
    "concepts": ("concepts", "Show the best features for each concept."),
    "detect": ("detect", "Find and measure a detector of each concept."),
    "label": ("concepts", "Give labels to items or samples, or list them."),
    "annotate": ("annotate", "Keep names, notes and other values of features."),
    "export-explanations": ("annotate", "Write explanations of features to files."),
    "import-explanations": ("annotate", "Take explanations of features from files."),
    "similar": ("queries", "Show the features that fire on the same samples."),
    "compare": ("queries", "Show which features of two sets match."),
    "examples": ("showing", "Show examples from any part of a feature's range."),
    "card": ("showing", "Write a page about a feature."),
    "plot": ("showing", "Draw images, texts, activations or densities."),
    "diff": ("queries", "Show the features that differ between two groups."),
    "diagnose": ("upkeep", "Compare a set with its SAE and its embeddings."),
    "verify": ("upkeep", "Re-read everything and check it."),
    "compact": ("upkeep", "Merge the segments of a set, or of every set."),
    "delete": ("upkeep", "Remove a set and all that is stored of it, for good."),
    "unlock": ("upkeep", "Remove the lock of a writer that is gone."),
    "export": ("exchange", "Write a set as a file that another program reads."),
    "import": ("exchange", "Take in activations that another program stored."),
    "plan": ("build", "Write the plan of a build for many machines."),
    "run": ("build", "Run tasks of a planned set."),
    "commit": ("build", "Make the set of what the tasks of its plan wrote."),
    "serve": ("showing", "Show a store in the browser."),
    "site": ("showing", "Write pages of features that open without a server."),
}


class _Commands(UserDict[str, Any]):
    """Commands by name."""

    def __getitem__(self, name: str) -> Any:
        if self.data[name] is None:
            function = {"import": "import_"}.get(name, name.replace("-", "_"))
            self.data[name] = getattr(import_module(f"saestore.cli.{_COMMANDS[name][0]}"), function)
        return self.data[name]


class _Group(ErrorGroup):
    """The group, which lists its commands without importing them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(
    cls=_Group,
    params=[DebugOption()],
    commands=_Commands(dict.fromkeys(_COMMANDS)),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="saestore %(version)s")
def main() -> None:
    """Store the activations of sparse autoencoders, and ask what makes a feature fire."""
