"""Prose follows the section "Prose" of CONTRIBUTING.md: no phrase that a reader of plain English has to read twice."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent
HISTORY = "docs/decisions/"  # decisions keep their words

UNITS = "sample|non-zero|nonzero|feature|item|row|image|text|token|concept|set|segment|chunk|shard|block|entry|value"
COUNTED = "bytes|non-zeros|nonzeros|features|rows|activations|samples|items|tokens|images|texts|segments|requests"
FORBIDDEN = {
    r"(?<!there )\b(is|are|was|were) no (?!longer|more|less)\w+": "is not a",
    r"(?<!there )\b(is|are) (?-i:none)\b": "is not one",
    r"\bsome \d": "about",
    r"\b(told|tells?)\b": "reports, returns, asks for",
    r"\b(says|said)\b": "reports, states",
    r"\b(lies|lay|lie) (in|on|at|beside)\b": "is stored in",
    r"\b(whatever|whoever|whichever)\b": "any, every",
    r"\bso (many|much)\b": "this many, or the number",
    r"\banew\b": "again",
    rf"\b({COUNTED}|k?i?B|[kMG]i?B|ms|µs|s) an? ({UNITS})\b(?! (fires|has|have)\b)": "per",
    r"\b(that|those|the one|the ones) of\b": "name the thing again",
}


def _markdown(path):
    """Paragraphs of a page, outside of code blocks, with the number of their first line."""
    inside, first, lines = False, 1, []
    for number, line in enumerate([*path.read_text().splitlines(), ""], 1):
        fence = line.lstrip().startswith("```")
        inside ^= fence
        if inside or fence or not line.strip() or line.startswith("    "):
            yield first, " ".join(lines)
            first, lines = number + 1, []
        else:
            lines.append(line)


def _strings(path):
    """String constants of a module, docstrings among them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def _linted():
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    for path in sorted([*pages, *(ROOT / "saestore").rglob("*.py")]):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(HISTORY):
            yield pytest.param(path, id=name)


def hits(path):
    """``line: phrase (instead: ...)`` for every forbidden phrase of a file."""
    read = _strings if path.suffix == ".py" else _markdown
    return [
        f"{number}: {match.group()!r} (instead: {instead})"
        for number, text in read(path)
        for pattern, instead in FORBIDDEN.items()
        for match in re.finditer(pattern, " ".join(text.split()), re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", list(_linted()))
def test_prose_is_plain(path):
    assert hits(path) == []


@pytest.mark.parametrize("name", ["page.py", "page.md"])
@pytest.mark.parametrize(
    "phrase",
    [
        "17 is no name",
        "it is none of these",
        "some 50 MB",
        "it tells",
        "as it says",
        "it lies in",
        "whoever reads",
        "in so many rows",
        "build it anew",
        "12 bytes a\nnon-zero",
        "it keeps those\nof others",
    ],
)
def test_a_forbidden_phrase_is_found(tmp_path, name, phrase):
    page = tmp_path / name
    page.write_text(f'"""\n{phrase}\n"""\n')
    assert len(hits(page)) == 1


def test_code_and_plain_phrases_pass(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("There is no such file, and it is no longer read.\n\n```\nit tells\n```\n\n    as it says\n")
    assert hits(page) == []
