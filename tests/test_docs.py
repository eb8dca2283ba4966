"""Every code block in README.md and docs/*.md is run, in a directory that looks like a checkout after `make demo`.

There, `examples/` is the project's own, and `demo/activations.zarr` a store of the shipped examples, which lies also
where the command line looks by default. The blocks of one file run in their order and share one namespace.

- A ```python block is executed.
- In a ```console block the commands are the lines that start with `$ saestore`; a backslash continues one on the next
  line. They run through the command line's own entry and must exit 0. Lines below a command, up to the next `$`, must
  be what it writes to stdout; `...` stands for anything, within a line or for lines on end, and a command with no lines
  below it may write what it likes. Other commands (`$ make demo`) are for the reader and not run.
- Blocks in other languages, or in none, are not run.

What must not run says so, and why, in an HTML comment on the line before the block: `<!-- skip: downloads 2 GB -->`.
What needs an optional package names it, and runs where it is installed: `<!-- needs: torch -->`.
"""

import doctest
import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from saestore.cli import main

PROJECT = Path(__file__).parent.parent
PAGES = sorted([PROJECT / "README.md", *PROJECT.glob("docs/**/*.md")])
CLI_PAGE = PROJECT / "docs" / "cli.md"

BLOCK = re.compile(
    r"(?:^<!-- (?P<rule>skip|needs): (?P<value>[^\n]+?) -->\n+)?^```(?P<language>python|console)\n(?P<body>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block that is to run: its language, its text, and the line of the page on which the text starts."""

    language: str
    body: str
    line: int


@dataclass(frozen=True)
class Command:
    """A command of a console block and the output shown below it."""

    words: list[str]
    shown: str


def runnable_blocks(text: str) -> list[Block]:
    """The blocks of a page that are to run here, in their order."""
    blocks = []
    for match in BLOCK.finditer(text):
        wanted = match["rule"] is None or (
            match["rule"] == "needs" and importlib.util.find_spec(match["value"]) is not None
        )
        if wanted:
            blocks.append(Block(match["language"], match["body"], text.count("\n", 0, match.start("body")) + 1))
    return blocks


def commands(body: str) -> Iterator[Command]:
    """The saestore commands of a console block."""
    for part in re.split(r"^\$ ", body.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        line, _, shown = part.partition("\n")
        program, *words = shlex.split(line, comments=True)
        if program == "saestore":
            yield Command(words, shown)


def run_python(block: Block, page: str, namespace: dict) -> None:
    # Blank lines before the block, so that a traceback names the line of the page.
    exec(compile("\n" * (block.line - 1) + block.body, page, "exec"), namespace)


def run_command(command: Command, where: str) -> None:
    result = CliRunner().invoke(main, command.words, prog_name="saestore")
    assert result.exit_code == 0, f"{where}: saestore {shlex.join(command.words)}\n{result.output}"
    if command.shown.strip():
        checker, example = doctest.OutputChecker(), doctest.Example("", command.shown)
        same = checker.check_output(example.want, result.stdout, doctest.ELLIPSIS)
        assert same, f"{where}: {checker.output_difference(example, result.stdout, doctest.ELLIPSIS)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_blocks_run(page, checkout_after_demo, monkeypatch):
    monkeypatch.chdir(checkout_after_demo)
    monkeypatch.delenv("SAESTORE_PATH", raising=False)
    namespace: dict = {"__name__": "__main__"}
    for block in runnable_blocks(page.read_text(encoding="utf-8")):
        where = f"{page.name}:{block.line}"
        if block.language == "python":
            run_python(block, str(page), namespace)
        else:
            for command in commands(block.body):
                run_command(command, where)


def test_readme_has_python_that_runs():
    """The rules above must find something: a page full of blocks in an unknown spelling would pass in silence."""
    assert any(block.language == "python" for block in runnable_blocks((PROJECT / "README.md").read_text()))


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Each command of the command line, with its full name."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            sub = command.get_command(context, name)
            assert sub is not None
            yield from leaves(sub, (*path, name))
    else:
        yield " ".join(path), command


@pytest.mark.skipif(not CLI_PAGE.exists(), reason="there is no docs/cli.md yet")
@pytest.mark.parametrize("name", dict(leaves(main)))
def test_cli_page_has_every_command_and_option(name):
    command = dict(leaves(main))[name]
    text = CLI_PAGE.read_text(encoding="utf-8")
    section = re.search(rf"^#+ .*saestore {re.escape(name)}\b.*?(?=^#|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    assert section, f"docs/cli.md has no section headed `saestore {name}`"
    options = [option for param in command.params if isinstance(param, click.Option) for option in param.opts]
    missing = [option for option in options if f"`{option}" not in section[0] and f"{option} " not in section[0]]
    assert not missing, f"docs/cli.md says nothing of {', '.join(missing)} in the section of `saestore {name}`"
