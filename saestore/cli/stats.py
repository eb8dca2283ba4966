"""`saestore stats`: figures of every feature."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from saestore.cli import keys, output
from saestore.cli.features import feature_columns, feature_option, features_of, level_option, names_of, with_names
from saestore.cli.group import command
from saestore.cli.options import option
from saestore.cli.table import measured
from saestore.cli.target import Target, json_option, with_target
from saestore.cli.where import where_option
from saestore.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy as np
    import xarray

    from saestore.activation_set import ActivationSet

_SHOWN = ("n_active", "frac_nonzero", "mean", "std", "mean_active", "min", "max")  # sums are for programs


@command("stats", example="saestore stats --dataset CLEVR --sort max -n 10", keys=keys.STATS)
@with_target
@feature_option("Of this feature only")
@level_option("Over samples, or over items, whose activation is the maximum over their samples.")
@option("--sort NAME", "Largest of this statistic first.  [default: n_active, or the order of --feature]")
@option("-n N", "Rows.  [default: 20; all with --csv or --feature]", at_least=1)
@where_option
@option("--csv", "Print CSV, of all features in their order.", to="as_csv")
@json_option
def stats(target: Target, *, feature: tuple[str, ...], sort: str | None, as_csv: bool) -> None:
    """Show how often and how strongly features are active."""
    if as_csv and target.as_json:
        raise click.UsageError("Choose one of --csv and --json.")
    acts = target.activations()
    features = features_of(acts, feature)
    data = acts.stats(features or None, level=target.level, where=target.condition(acts, features))
    if sort or not (feature or as_csv):
        data = data.isel(feature=_order(data, sort or "n_active"))
    limit = target.asked["n"] or (None if feature or as_csv else 20)
    data = data.isel(feature=slice(0, limit))
    if as_csv:
        _write_csv(acts, data)
    elif target.as_json:
        columns = {name: data[name].to_numpy().tolist() for name in _names(data)}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        target.document(acts, n_samples=data.attrs["n_samples"], rows=with_names(acts, rows))
    else:
        shown = f"{data.sizes['feature']:,} of {acts.shape[1]:,} features"
        output.title(f"{acts.path}: {shown} over {data.attrs['n_samples']:,} {target.level}s")
        named = feature_columns(acts, data["feature"].to_numpy().tolist())
        output.table([*named, *(measured(name, data[name].to_numpy()) for name in _SHOWN)])


def _names(data: xarray.Dataset) -> list[str]:
    return ["feature", *map(str, data.data_vars)]


def _order(data: xarray.Dataset, name: str) -> np.ndarray[Any, Any]:
    """Largest first, NaN last, ties by ascending feature; by feature, the smallest first."""
    import numpy as np

    if name not in _names(data):
        raise InvalidInputError(f"--sort {name}: sort by one of {', '.join(_names(data))}.")
    values = data[name].to_numpy().astype(np.float64)
    return np.argsort(values if name == "feature" else -values, kind="stable")


def _write_csv(acts: ActivationSet, data: xarray.Dataset) -> None:
    """Print every row: numbers as short as they are exact, nothing where a dead feature has none."""
    import csv

    columns = [["" if v != v else str(v) for v in data[name].to_numpy()] for name in _names(data)]  # noqa: PLR0124
    columns.insert(1, [name or "" for name in names_of(acts, data["feature"].to_numpy().tolist())])
    writer = csv.writer(sys.stdout, lineterminator="\n")
    first, *others = _names(data)
    writer.writerow([first, "name", *others])
    writer.writerows(zip(*columns, strict=True))
    sys.stdout.flush()
