"""What the group of commands makes of everything that a command can raise."""

import errno
import warnings

import click
import pytest
from click.testing import CliRunner

from saestore.cli.app import Command, DebugOption, ErrorGroup
from saestore.errors import CorruptStoreError, NotFoundError


def group_that(action):
    """A group with one command, which does this."""
    group = ErrorGroup("saestore", params=[DebugOption()])
    group.add_command(Command("act", example="saestore act", keys=None, callback=action))
    return group


def raised(error):
    def action():
        raise error

    return group_that(action)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NotFoundError("there is no 'x'."), "there is no 'x'."),
        (CorruptStoreError("a\n  b\tc"), "a b c"),
        (OSError(errno.EACCES, "Permission denied", "/x"), "[Errno 13] Permission denied: '/x'"),
        (TypeError("bad\nthing"), "unexpected TypeError: bad thing; run with --debug for the traceback."),
        (MemoryError(), "unexpected MemoryError: ; run with --debug for the traceback."),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            "this needs torch, which is not installed: pip install 'saestore[sae]'.",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_line_and_status_1(error, line):
    result = CliRunner().invoke(raised(error), ["act"])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"saestore: error: {line}\n")


@pytest.mark.parametrize("words", [["--debug", "act"], ["act", "--debug"]], ids=" ".join)
def test_debug_lets_it_through(words):
    result = CliRunner().invoke(raised(NotFoundError("x")), words)
    assert isinstance(result.exception, NotFoundError)


@pytest.mark.parametrize("words", [["act"], ["act", "--debug"]], ids=" ".join)
def test_an_interrupt_is_one_line_and_status_130(words):
    result = CliRunner().invoke(raised(KeyboardInterrupt()), words)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "saestore: interrupted.\n")


def test_an_interrupt_may_say_more():
    result = CliRunner().invoke(raised(KeyboardInterrupt("interrupted. Go on.")), ["act"])
    assert (result.exit_code, result.stderr) == (130, "saestore: interrupted. Go on.\n")


def test_wrong_usage_stays_that_of_click():
    result = CliRunner().invoke(raised(click.UsageError("no.")), ["act"])
    assert result.exit_code == 2
    assert "Error: no." in result.stderr


def test_a_warning_is_one_line_on_stderr():
    def action():
        warnings.simplefilter("always")
        warnings.warn("this looks\nwrong", stacklevel=1)
        click.echo("answer")

    result = CliRunner().invoke(group_that(action), ["act"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "answer\n", "saestore: warning: this looks wrong\n")
