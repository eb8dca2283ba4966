"""Every code block of README.md and docs/ is run, where a reader stands: in a checkout after `make demo`.

All pages run in one folder, in the order of the navigation in mkdocs.yml, so that a page that stands in the way of a
later one is found. The folder holds `examples/` and what `examples/demo.py` leaves there, and nothing else. The blocks
of one page share one namespace.

- A ```python block is executed.
- In a ```console block the commands are the lines that start with `$ saestore`; a backslash continues one on the next
  line. They run through the command line's own entry and must exit 0. Lines below a command, up to the next `$`, must
  be what it writes to stdout; `...` stands for anything, within a line or for lines on end, and a command with no lines
  below it may write what it likes. `$ export NAME=VALUE` holds to the end of the page. Other commands (`$ make demo`)
  are for the reader and not run.
- Blocks in other languages, or in none, are not run.

What must not run says so, and why, in an HTML comment on the line before the block: `<!-- skip: downloads 2 GB -->`.
What needs an optional package names it, and runs where it is installed: `<!-- needs: torch -->`.
"""

import doctest
import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import saestore
from saestore.cli import main

pytestmark = pytest.mark.once

PROJECT = Path(__file__).parent.parent
DOCS = PROJECT / "docs"
CLI_PAGE = DOCS / "cli.md"
# Pages of the site that are made from files elsewhere, by mkdocs_hooks.py.
MADE = {"index.md": PROJECT / "README.md", "changelog.md": PROJECT / "CHANGELOG.md"}

BLOCK = re.compile(
    r"(?:^<!-- (?P<rule>skip|needs): (?P<value>[^\n]+?) -->\n+)?^```(?P<language>python|console)\n(?P<body>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)


def pages() -> list[Path]:
    """Every page, in the order in which the site has them."""
    navigation = (PROJECT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2].partition("\n\n")[0]
    found = []
    for path in re.findall(r"^ +- [^#:\n]+: ([\w./-]+)", navigation, flags=re.MULTILINE):
        folder = DOCS / path
        found += sorted(folder.glob("*.md")) if folder.is_dir() else [MADE.get(path, folder)]
    return found


@dataclass(frozen=True)
class Block:
    """A fenced block that is to run: its language, its text, and the line of the page on which the text starts."""

    language: str
    body: str
    line: int


@dataclass(frozen=True)
class Command:
    """A command of a console block, `saestore` or `export`, and the output shown below it."""

    program: str

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
    """The commands of a console block that are to run."""
    for part in re.split(r"^\$ ", body.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        line, _, shown = part.partition("\n")
        program, *words = shlex.split(line, comments=True)
        if program in ("saestore", "export"):
            yield Command(program, words, shown)


def run_python(block: Block, page: str, namespace: dict) -> None:
    # Blank lines before the block, so that a traceback names the line of the page.
    exec(compile("\n" * (block.line - 1) + block.body, page, "exec"), namespace)


def run_command(command: Command, where: str, patch: pytest.MonkeyPatch) -> None:
    if command.program == "export":
        for word in command.words:
            patch.setenv(*word.split("=", 1))
        return
    result = CliRunner().invoke(main, command.words, prog_name="saestore")
    assert result.exit_code == 0, f"{where}: saestore {shlex.join(command.words)}\n{result.output}"
    if command.shown.strip():
        checker, example = doctest.OutputChecker(), doctest.Example("", command.shown)
        same = checker.check_output(example.want, result.stdout, doctest.ELLIPSIS)
        assert same, f"{where}: {checker.output_difference(example, result.stdout, doctest.ELLIPSIS)}"


def run_page(page: Path) -> None:
    namespace: dict = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SAESTORE_PATH", raising=False)
        for block in runnable_blocks(page.read_text(encoding="utf-8")):
            if block.language == "python":
                run_python(block, str(page), namespace)
            else:
                for command in commands(block.body):
                    run_command(command, f"{page.relative_to(PROJECT)}:{block.line}", patch)


@pytest.fixture(scope="module")
def after_the_pages(checkout_after_demo, tmp_path_factory):
    """The folder of a reader who has run every block of every page."""
    assert sorted(path.name for path in checkout_after_demo[0].iterdir()) == ["demo", "examples"]
    folder = shutil.copytree(checkout_after_demo[0], tmp_path_factory.mktemp("reader") / "checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for page in pages():
            run_page(page)
    return folder


def test_every_block_runs_where_a_reader_stands(after_the_pages):
    assert {"demo", "examples"} < {path.name for path in after_the_pages.iterdir()}


def tables_of(page):
    """The tables of a page that start with a concept and the method `feature`: {concept: {method: F1}}."""
    found = []
    for block in page.split("\n\n"):
        if block.startswith("| concept | feature |"):
            head, _, *body = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in block.splitlines()]
            found.append({row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body})
    return found


def test_the_page_of_detection_has_the_numbers_of_its_reports(after_the_pages):
    """All methods are there; those that need no solver, whose versions differ, have these very numbers."""
    pytest.importorskip("sklearn")
    tables = tables_of((DOCS / "detection.md").read_text(encoding="utf-8"))
    assert len(tables) == 2
    for table, name in zip(tables, ("CLEVR", "iSarcasm"), strict=True):
        (report,) = (after_the_pages / "detection" / name).glob("**/detection.json")
        rows = json.loads(report.read_text())["rows"]
        f1 = {(row["concept"], row["method"]): row["f1"] for row in rows}
        assert {row["concept"] for row in rows} <= set(table)
        for concept, told in table.items():
            if concept.startswith(("mean of", "best of")):
                continue
            assert list(told) == list(dict.fromkeys(row["method"] for row in rows))
            for method, shown in told.items():
                if method.startswith(("feature", "or", "mean", "difference")):
                    value = f1.get((concept, method))
                    assert shown == ("-" if value is None else f"{value:.3f}"), (concept, method)


def test_every_page_is_in_the_navigation():
    assert set(pages()) == {*MADE.values(), *DOCS.glob("**/*.md")}
    assert len(pages()) == len(set(pages()))


def test_readme_has_no_relative_link():
    """On PyPI there is no file beside it."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    assert links
    assert not [link for link in links if not link.startswith("https://")]


def test_links_to_the_repository_lead_to_files():
    for page in [*pages(), PROJECT / "CONTRIBUTING.md"]:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"saestore/saestore/(?:blob/|tree/)?main/([^)#\s]+)", text):
            assert (PROJECT / path).exists(), f"{page.name}: {path}"


def test_readme_has_python_that_runs():
    """The rules above must find something: a page full of blocks in an unknown spelling would pass in silence."""
    assert any(block.language == "python" for block in runnable_blocks((PROJECT / "README.md").read_text()))


# The reference of the Python API. Whether each name leads to its description is what `make docs` checks.


def test_reference_has_every_public_name():
    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("api/*.md"))
    described = set(re.findall(r"^::: saestore\.(\w+)$", text, flags=re.MULTILINE))
    assert {*saestore.__all__, "errors"} - described == {"__version__"}
    assert "`saestore.__version__`" in text


@pytest.mark.parametrize(
    ("page", "kind"),
    [("store.md", saestore.Store), ("activation-set.md", saestore.ActivationSet)],
    ids=["Store", "ActivationSet"],
)
def test_reference_lists_every_method(page, kind):
    text = (DOCS / "api" / page).read_text(encoding="utf-8")
    listed = re.findall(rf"\[`(\w+)`\]\[saestore\.{kind.__name__}\.\1\]", text)
    # What a store has as a mapping is documented by Python.
    of_mapping = set(dir(Mapping)) if issubclass(kind, Mapping) else set()
    public = {name for name in dir(kind) if not name.startswith("_")} - of_mapping
    assert set(listed) == public, f"not listed: {public - set(listed)}; not there: {set(listed) - public}"


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
