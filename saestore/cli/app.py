"""The group of all commands. A command is imported when it is asked for."""

from __future__ import annotations

from collections import UserDict
from importlib import import_module
from typing import Any

import click

from saestore import __version__
from saestore.cli.group import DebugOption, ErrorGroup

# Command -> its module and its line in the list of commands, in the order in which a user needs them.
_COMMANDS = {
    "build": ("build", "Encode embeddings through an SAE into a set."),
    "datasets": ("catalogue", "List the datasets that can be built by name."),
    "saes": ("catalogue", "List the SAEs that sae_lens knows by name."),
    "info": ("info", "Show what is in the store, or describe a set."),
    "top-samples": ("top", "Show the samples on which a feature is strongest."),
    "top-features": ("top", "Show the strongest features of a sample or item."),
    "stats": ("stats", "Show how often and how strongly features are active."),
    "concepts": ("concepts", "Show the best features for each concept."),
    "detect": ("detect", "Find and measure a detector of each concept."),
    "label": ("label", "Give labels to items or samples, or list them."),
    "annotate": ("annotate", "Keep names, notes and other values of features."),
    "export-explanations": ("annotate", "Write explanations of features to files."),
    "import-explanations": ("annotate", "Take explanations of features from files."),
    "similar": ("relations", "Show the features that fire on the same samples."),
    "compare": ("relations", "Show which features of two sets match."),
    "examples": ("showing", "Show examples from any part of a feature's range."),
    "card": ("showing", "Write a page about a feature."),
    "plot": ("showing", "Draw images, texts, activations or densities."),
    "diff": ("relations", "Show the features that differ between two groups."),
    "diagnose": ("upkeep", "Compare a set with its SAE and its embeddings."),
    "verify": ("upkeep", "Re-read everything and check it."),
    "compact": ("upkeep", "Merge the segments of a set, or of every set."),
    "delete": ("upkeep", "Remove a set and all that is stored of it, for good."),
    "unlock": ("upkeep", "Remove the lock of a writer that is gone."),
    "export": ("export", "Write a set as a file that another program reads."),
    "import": ("import_", "Take in activations that another program stored."),
    "plan": ("tasks", "Write the plan of a build for many machines."),
    "run": ("tasks", "Run tasks of a planned set."),
    "commit": ("tasks", "Make the set of what the tasks of its plan wrote."),
    "serve": ("explorer", "Show a store in the browser."),
    "site": ("explorer", "Write pages of features that open without a server."),
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
