"""The group of all commands. A command is imported when it is asked for, or all of them for their help."""

from __future__ import annotations

from collections import UserDict
from importlib import import_module
from typing import Any

import click

from saestore import __version__
from saestore.cli.group import DebugOption, ErrorGroup

# Command -> the module that has it, in the order in which a user needs them.
_MODULES = {
    "build": "build",
    "datasets": "catalogue",
    "saes": "catalogue",
    "info": "info",
    "top-samples": "top",
    "top-features": "top",
    "stats": "stats",
    "concepts": "concepts",
    "detect": "detect",
    "label": "label",
    "annotate": "annotate",
    "export-explanations": "annotate",
    "import-explanations": "annotate",
    "similar": "relations",
    "compare": "relations",
    "examples": "showing",
    "card": "showing",
    "plot": "showing",
    "diff": "relations",
    "diagnose": "upkeep",
    "verify": "upkeep",
    "compact": "upkeep",
    "delete": "upkeep",
    "unlock": "upkeep",
    "export": "export",
    "import": "import_",
    "plan": "tasks",
    "run": "tasks",
    "commit": "tasks",
    "serve": "explorer",
    "site": "explorer",
}


class _Commands(UserDict[str, Any]):
    """Commands by name."""

    def __getitem__(self, name: str) -> Any:
        if self.data[name] is None:
            function = {"import": "import_"}.get(name, name.replace("-", "_"))
            self.data[name] = getattr(import_module(f"saestore.cli.{_MODULES[name]}"), function)
        return self.data[name]


@click.group(
    cls=ErrorGroup,
    params=[DebugOption()],
    commands=_Commands(dict.fromkeys(_MODULES)),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="saestore %(version)s")
def main() -> None:
    """Store the activations of sparse autoencoders, and ask what makes a feature fire."""
