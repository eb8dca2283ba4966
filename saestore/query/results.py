"""The tables that queries return: small frozen sets of columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from saestore.errors import MissingDependencyError, SaestoreError, escape
from saestore.query import html
from saestore.sparse_rows import Array

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Details = Callable[["ResultTable"], dict[str, Array]]

_SHOWN = 20
_LONGEST = 40  # characters of a text that is shown
# Which detail, a name, stands beside which column.
NAMES = {"feature": "name", "other_feature": "other_name", "child": "child_name", "parent": "parent_name"}


@dataclass(frozen=True, repr=False, eq=False)
class ResultTable:
    """Columns of equal length. A slice of rows is such a table too; iteration gives each row as a dict."""

    _details: Details | None = field(default=None, kw_only=True)

    @property
    def columns(self) -> dict[str, Array]:
        """The columns by name, as arrays."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "_details"}

    def with_details(self) -> dict[str, Array]:
        """The columns, and what the set knows of their samples and features, which is read now.

        Returns
        -------
        dict
            Also ``name`` of a feature, and of a sample ``key``, ``text``, ``token``, ``row`` and ``column``, where the
            set has them; objects, None where unknown.
        """
        details = {} if self._details is None else self._details(self)
        result: dict[str, Array] = {}
        for name, values in self.columns.items():
            result[name] = values
            if NAMES.get(name) in details:
                result[NAMES[name]] = details.pop(NAMES[name])
        return result | details

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """The rows of one or more tables, one table after the other, with the details of the first."""
        columns: dict[str, Any] = {name: np.concatenate([p.columns[name] for p in parts]) for name in parts[0].columns}
        return replace(parts[0], **columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, rows: slice | Array | int) -> Self:
        """Some rows as a table, also of one row."""
        columns: dict[str, Any] = {name: np.atleast_1d(values[rows]) for name, values in self.columns.items()}
        return replace(self, **columns)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        columns = self.to_dict()
        return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))

    def to_dict(self) -> dict[str, list[Any]]:
        """The columns by name, as lists of Python values; ``list(table)`` gives the rows."""
        return {name: values.tolist() for name, values in self.columns.items()}

    def to_pandas(self) -> pd.DataFrame:
        """The table as a pandas DataFrame, with the columns of `with_details`."""
        import pandas as pd

        return pd.DataFrame(self.with_details())

    def to_arrow(self) -> pa.Table:
        """The table as a `pyarrow.Table`, with the columns of `with_details`; numbers are not copied.

        Raises
        ------
        MissingDependencyError
            pyarrow is not installed.
        """
        try:
            import pyarrow as pa
        except ImportError as e:
            raise MissingDependencyError(f"to_arrow() needs pyarrow ({e}); pip install 'saestore[arrow]'") from e
        # pyarrow does not know numpy's own type of text.
        plain = {name: v.tolist() if v.dtype.kind == "T" else v for name, v in self.with_details().items()}
        return pa.table(plain)

    def __repr__(self) -> str:
        shown, left_out = self._shown()
        widths = [max(len(name), 10, *map(len, texts)) for name, texts in shown.items()]
        rows = shown, *zip(*shown.values(), strict=True)
        lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
        if len(self) > _SHOWN:
            lines.append(f"… {len(self) - _SHOWN} more rows")
        return escape("\n".join([f"{type(self).__name__} of {len(self)} rows", *lines, *left_out]))

    def _repr_html_(self) -> str:
        shown, left_out = self._shown()
        more = [f"… {len(self) - _SHOWN:,} more rows"] * (len(self) > _SHOWN) + left_out
        table = html.table(list(shown), [list(row) for row in zip(*shown.values(), strict=True)])
        return table + "".join(f"<p>{html.escape(line)}</p>" for line in more)

    def _shown(self) -> tuple[dict[str, list[str]], list[str]]:
        """The first rows as texts, by column, and a line on the details that cannot be read."""
        first = self[:_SHOWN]
        left_out = []
        try:
            columns = first.with_details()
        except SaestoreError as e:
            columns, left_out = first.columns, [f"Names and texts cannot be read: {e}"]
        return {name: [_text(value) for value in values.tolist()] for name, values in columns.items()}, left_out


def _text(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else "" if value is None else " ".join(str(value).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


@dataclass(frozen=True, repr=False, eq=False)
class TopSamples(ResultTable):
    """Samples per feature, strongest first, ties by ascending sample.

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
class TopFeatures(ResultTable):
    """Features per sample or item, strongest first, ties by ascending feature.

    Attributes
    ----------
    item, sample, feature
        int64 (n,). Of an item, `sample` is its sample on which the feature is strongest.
    activation
        Of the stored dtype (n,).
    """

    item: Array
    sample: Array
    feature: Array
    activation: Array


@dataclass(frozen=True, repr=False, eq=False)
class Histogram(ResultTable):
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
class SimilarFeatures(ResultTable):
    """Features that are active together with one, most similar first, ties by ascending feature.

    Attributes
    ----------
    feature
        int64 (n,).
    score
        The metric, float64 (n,).
    n_both
        Samples, or items, on which both are active, int64 (n,).
    """

    feature: Array
    score: Array
    n_both: Array


@dataclass(frozen=True, repr=False, eq=False)
class FeatureMatches(ResultTable):
    """Features of another set that match the features of this one, best first for each, ties by ascending feature.

    Attributes
    ----------
    feature, other_feature
        int64 (n,).
    score
        The metric, float64 (n,).
    n_both
        Samples, or items, on which both are active, int64 (n,).
    """

    feature: Array
    other_feature: Array
    score: Array
    n_both: Array
