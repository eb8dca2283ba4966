"""The command line. Nothing heavy is imported before a command runs: `saestore --help` answers at once."""

from saestore.cli.app import main

__all__ = ["main"]
