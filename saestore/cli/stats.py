"""`saestore stats`: figures of every feature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from saestore.cli import keys, output
from saestore.cli.features import feature_columns, feature_option, features_of, level_option, with_names
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
        output.rows_as_csv(_rows(acts, data, short=True))
    elif target.as_json:
        target.document(acts, n_samples=data.attrs["n_samples"], rows=_rows(acts, data))
    else:
        shown = f"{data.sizes['feature']:,} of {acts.shape[1]:,} features"
        output.title(f"{acts.path}: {shown} over {data.attrs['n_samples']:,} {target.level}s")
        named = feature_columns(acts, data["feature"].to_numpy().tolist())
        output.table([*named, *(measured(name, data[name].to_numpy()) for name in _SHOWN)])


def _names(data: xarray.Dataset) -> list[str]:
    return ["feature", *map(str, data.data_vars)]


def _rows(acts: ActivationSet, data: xarray.Dataset, *, short: bool = False) -> list[dict[str, Any]]:
    """A dict for each feature; as texts, if `short`, in which a float32 is no longer than it is exact."""
    columns = {name: data[name].to_numpy() for name in _names(data)}
    lists = [
        [None if v != v else str(v) for v in values] if short and values.dtype.kind == "f" else values.tolist()  # noqa: PLR0124
        for values in columns.values()
    ]
    rows = zip(*lists, strict=True)
    return with_names(acts, [dict(zip(columns, row, strict=True)) for row in rows])


def _order(data: xarray.Dataset, name: str) -> np.ndarray[Any, Any]:
    """Largest first, NaN last, ties by ascending feature; by feature, the smallest first."""
    import numpy as np

    if name not in _names(data):
        raise InvalidInputError(f"--sort {name}: sort by one of {', '.join(_names(data))}.")
    values = data[name].to_numpy().astype(np.float64)
    return np.argsort(values if name == "feature" else -values, kind="stable")
