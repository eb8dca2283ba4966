"""Writes ``docs/cli.md`` from the commands themselves: ``python -m saestore.cli.docs > docs/cli.md``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from saestore.cli.app import Command, main

_HEAD = """\
# The command line

<!-- Made by `python -m saestore.cli.docs > docs/cli.md` from the commands themselves; change it there. -->

`saestore` runs a command on a store: `--store PATH`, else `$SAESTORE_PATH`, else
`$SAESTORE_SCRATCH/SAE_Activations/activations.zarr`, else `./activations.zarr`. A command about one activation set is
given SET, any part of its path that fits one set only (`CLEVR`, `CLEVR/patch`), or `--dataset`, `--sample-type` and
`--sae`; where a store has one set, it need not be named.

Answers go to stdout, progress and messages to stderr. A table fits the terminal, or 100 columns where there is none.
With `--json` a query prints one JSON document with the keys listed below; NaN is null there. An error prints
`{"error": {"code": …, "message": …}}`, with the codes of [saestore.errors](api/errors.md).

The exit status is 0 where all went well; 1 for an error, printed in one line; 2 for wrong usage; 130 after Ctrl-C. To
see where in the code an error comes from, add `--debug`.

The examples ask the store that `make demo` leaves:

```console
$ export SAESTORE_PATH=demo/activations.zarr
```
"""

# Of the examples that do not run everywhere.
_RULES = {
    "build": "<!-- skip: needs embeddings in a scratch folder -->\n",
    "datasets": "<!-- needs: torch -->\n",
    "plan": "<!-- skip: needs embeddings in a scratch folder -->\n",
    "run": "<!-- skip: needs a plan -->\n",
    "commit": "<!-- skip: needs a plan -->\n",
    "delete": "<!-- skip: removes a set -->\n",
    "serve": "<!-- skip: runs until Ctrl-C -->\n",
    "site": "<!-- needs: jinja2 -->\n",
    "saes": "<!-- needs: sae_lens -->\n",
}


def page() -> str:
    """The whole page, in Markdown."""
    return "\n".join([_HEAD, *(_section(name, command) for name, command in main.commands.items())])


def _section(name: str, command: click.Command) -> str:
    usage = " ".join(["saestore", name, *command.collect_usage_pieces(click.Context(command))])
    paragraphs = [" ".join(paragraph.split()) for paragraph in (command.help or "").split("\n\n")]
    parts = [f"## `saestore {name}`", *paragraphs, f"    {usage}", "\n".join(_options(command))]
    if isinstance(command, Command):
        keys = [f"- `{key}`: {text}" for key, text in command.keys.items()]
        parts += ["The keys of its JSON:", "\n".join(keys)] if keys else []
        parts.append(f"{_RULES.get(name, '')}```console\n$ {command.example}\n```")
    return "\n\n".join(parts) + "\n"


def _options(command: click.Command) -> Iterator[str]:
    for option in (each for each in command.params if isinstance(each, click.Option)):
        # Every option that takes a value says in its own metavar what; click's spelling of types varies.
        name = f"{', '.join(option.opts)} {option.metavar or ''}".strip()
        note = " [required]" if option.required else f" [default: {option.default}]" if option.show_default else ""
        yield f"- `{name}`: {' '.join((option.help or '').split())}{note}"


if __name__ == "__main__":
    click.echo(page(), nl=False)
