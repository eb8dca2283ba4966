"""The group of all commands."""

import click

from saestore import __version__
from saestore.cli.annotate import annotate, export_explanations, import_explanations
from saestore.cli.build import build
from saestore.cli.card import card
from saestore.cli.compare import compare
from saestore.cli.concepts import concepts
from saestore.cli.datasets import datasets
from saestore.cli.detect import detect
from saestore.cli.diagnose import diagnose
from saestore.cli.diff import diff
from saestore.cli.examples import examples
from saestore.cli.explorer import serve, site
from saestore.cli.export import export
from saestore.cli.group import DebugOption, ErrorGroup
from saestore.cli.import_ import import_
from saestore.cli.info import info
from saestore.cli.label import label
from saestore.cli.plan import plan
from saestore.cli.plot import plot
from saestore.cli.run import commit, run
from saestore.cli.saes import saes
from saestore.cli.similar import similar
from saestore.cli.stats import stats
from saestore.cli.top import top_features, top_samples
from saestore.cli.upkeep import compact, delete, unlock, verify


@click.group(cls=ErrorGroup, params=[DebugOption()], context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="saestore %(version)s")
def main() -> None:
    """Store the activations of sparse autoencoders, and ask what makes a feature fire."""


for command in (
    build,
    datasets,
    saes,
    info,
    top_samples,
    top_features,
    stats,
    concepts,
    detect,
    label,
    annotate,
    export_explanations,
    import_explanations,
    similar,
    compare,
    examples,
    card,
    plot,
    diff,
    diagnose,
    verify,
    compact,
    delete,
    unlock,
    export,
    import_,
    plan,
    run,
    commit,
    serve,
    site,
):
    main.add_command(command)
