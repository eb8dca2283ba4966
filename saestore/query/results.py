"""What queries return: small frozen tables of arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import MissingDependencyError
from saestore.query import html

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Array = np.ndarray[Any, Any]
_SHOWN = 20


class Table:
    """Columns of equal length; shows itself as a table in a notebook."""

    def columns(self) -> dict[str, Array]:
        """The columns by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(next(iter(self.columns().values())))

    def to_pandas(self) -> pd.DataFrame:
        """The table as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.columns())

    def to_arrow(self) -> pa.Table:
        """The table as a `pyarrow.Table`; numbers are not copied.

        Raises
        ------
        MissingDependencyError
            pyarrow is not installed.
        """
        try:
            import pyarrow as pa
        except ImportError as e:
            raise MissingDependencyError(f"to_arrow() needs pyarrow ({e}); pip install 'saestore[arrow]'") from e
        return pa.table({name: _plain(values) for name, values in self.columns().items()})

    def to_records(self) -> list[dict[str, Any]]:
        """Rows as dicts of Python values, for JSON."""
        columns = {name: values.tolist() for name, values in self.columns().items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def __repr__(self) -> str:
        lines = ["  ".join(f"{name:>10}" for name in self.columns())]
        lines += ["  ".join(f"{text:>10}" for text in row) for row in self._shown()]
        if len(self) > _SHOWN:
            lines.append(f"… {len(self) - _SHOWN} more rows")
        return f"{type(self).__name__} of {len(self)} rows\n" + "\n".join(lines)

    def _repr_html_(self) -> str:
        more = f"<p>… {len(self) - _SHOWN:,} more rows</p>" if len(self) > _SHOWN else ""
        return html.table(list(self.columns()), self._shown()) + more

    def _shown(self) -> list[list[str]]:
        columns = [values[:_SHOWN].tolist() for values in self.columns().values()]
        return [[_text(value) for value in row] for row in zip(*columns, strict=True)]


def _plain(values: Array) -> Any:
    """A column as other libraries take it: they know nothing of numpy's own type of text."""
    return values.tolist() if values.dtype.kind == "T" else values


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, repr=False, eq=False)
class TopSamples(Table):
    """Samples of one or several features, each feature's strongest first, ties by ascending sample.

    Attributes
    ----------
    feature, sample, item, position
        int64 (n,).
    activation
        Of the stored dtype (n,).
    """

    feature: Array
    sample: Array
    item: Array
    position: Array
    activation: Array


@dataclass(frozen=True, repr=False, eq=False)
class TopFeatures(Table):
    """Features of one or several samples, each sample's strongest first, ties by ascending feature.

    Attributes
    ----------
    sample, feature
        int64 (n,).
    activation
        Of the stored dtype (n,).
    """

    sample: Array
    feature: Array
    activation: Array


@dataclass(frozen=True, repr=False, eq=False)
class Histogram(Table):
    """Counts of one feature's activations.

    Attributes
    ----------
    left, right
        Edges of the bins, float64 (bins,); a bin holds left <= value < right, the last one its right edge too.
    count
        int64 (bins,).
    """

    left: Array
    right: Array
    count: Array

    @property
    def edges(self) -> Array:
        """The edges as `numpy.histogram` gives them, (bins + 1,)."""
        return np.append(self.left, self.right[-1:])


@dataclass(frozen=True, repr=False, eq=False)
class SimilarFeatures(Table):
    """Features that are active together with one, most similar first, ties by ascending feature.

    Attributes
    ----------
    feature
        int64 (n,).
    score
        The metric, float64 (n,).
    n_both
        Samples on which both are active, int64 (n,).
    """

    feature: Array
    score: Array
    n_both: Array


@dataclass(frozen=True, repr=False, eq=False)
class FeatureMatches(Table):
    """Features of another set that match those of this one, best first for each, ties by ascending feature.

    Attributes
    ----------
    feature, other_feature
        int64 (n,).
    score
        The metric, float64 (n,).
    n_both
        Samples on which both are active, int64 (n,).
    """

    feature: Array
    other_feature: Array
    score: Array
    n_both: Array
