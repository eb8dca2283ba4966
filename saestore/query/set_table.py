"""``acts.samples``, ``acts.items``, ``acts.features``: the columns of what a set is made of, read and changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError, OutOfRangeError, StoreConflictError, did_you_mean, escape
from saestore.format import KEY
from saestore.query import html
from saestore.query.open_set import OpenSet, changing, retry_on_stale_snapshot
from saestore.query.selection import select
from saestore.query.statistic_columns import STATISTIC_NAMES, item_maximum, statistic
from saestore.query.where import HALF_CHARACTER, as_tree, contains, rows_where
from saestore.query.where_names import TableNames
from saestore.sparse_rows import Array
from saestore.tables.column import TEXT, Column, as_column, as_objects, check_names
from saestore.tables.label_matrix import position_of

if TYPE_CHECKING:
    import pandas as pd


_SHOWN = 20
_LONGEST_SEARCH = 10_000  # characters
_WORDS = re.compile(r'"([^"]+)"|([^\s"]+)')
_NULLABLE = {"b": "boolean", "i": "Int64", "u": "UInt64"}


class SetTable:
    """One of the three tables of a set: a row for each sample, item or feature, and named columns.

    The statistics of features (``frac_nonzero``, ``max``, …) are columns that are computed and cannot be set.

    ``table["name"]`` gives the values of a column as a numpy array, in the order of the rows. Where some are unknown it
    is a `numpy.ma.MaskedArray`; an unknown float is NaN. A concept is a column of true, false and unknown.

    Parameters
    ----------
    reader
        The opened set.
    name
        ``samples``, ``items`` or ``features``.
    """

    def __init__(self, reader: OpenSet, name: str) -> None:
        self._reader, self._name = reader, name
        self._keys: tuple[object, dict[str, int]] | None = None

    @property
    def columns(self) -> list[str]:
        """Names of all columns, then of concepts, then of statistics."""
        return [*self._reader.table(self._name).info.names, *self._computed]

    def names(self) -> list[str]:
        """Names of the stored columns that are not concepts."""
        return list(self._reader.table(self._name).info.columns)

    @property
    def _computed(self) -> list[str]:
        stored = self._reader.table(self._name).info.names
        return [name for name in STATISTIC_NAMES if name not in stored] if self._name == "features" else []

    @property
    def concept_names(self) -> list[str]:
        """Names of the columns that are concepts."""
        return self._reader.table(self._name).concept_names

    def __len__(self) -> int:
        return self._reader.attributes.n_rows(self._name)

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __getitem__(self, name: str) -> Array:
        return self.column(name)

    def column(self, name: str, rows: Any = None) -> Array:
        """Values of a column, of all rows or of some (an int, a slice, a list of ints or a mask), always as an array.

        Raises
        ------
        NotFoundError
            There is none of that name; the message names those that are like it.
        """
        if rows is not None:
            given = select(rows, len(self), self._name.removesuffix("s")).given
            if isinstance(given, range) and given.step == 1 and len(given):
                rows = slice(given.start, given.stop)
            else:
                rows = np.asarray(given, np.int64)
        return self._read(name, rows).array()

    def _read(self, name: str, rows: Any = None) -> Column:
        position_of(name, self.columns, f"column of the {self._name}")
        computed = statistic(self._reader, name, rows) if name in self._computed else None
        return self._reader.read_column(self._name, name, rows) if computed is None else computed

    def set(self, name: str, values: Any, unknown: Any = None) -> None:
        """Add a column, or replace it. A reader sees the old values or the new ones, whenever this is interrupted.

        Parameters
        ----------
        values
            One value per row: a list, a numpy array (masked or not) or a pandas Series of true and false, ints, floats
            or texts, where None, NaN and masked values are unknown. Or a mapping of the numbers of rows to values, of
            items also of their keys; the values of all other rows are unknown.
        unknown
            bool (n,): rows whose value is unknown, in addition.

        Raises
        ------
        InvalidInputError
            The number, the type or the name does not fit; a key fits no item.
        OutOfRangeError
            There is no row of one of the numbers.
        StoreWriteError, LockedError
            The store was opened to read only, or another process writes the set.
        """
        check_names([name], "column")
        self.update({name: values}, unknown=unknown)

    def update(self, columns: Mapping[str, Any], *, unknown: Any = None) -> None:
        """Add or replace several columns in one commit: all of them or none; values and errors as of `set`."""
        _check_mapping(columns, "columns", "{name: values}")
        self._check_writable(columns)
        given = {
            name: as_column(
                self._of_mapping(values, name) if isinstance(values, Mapping) else values, f"column {name!r}", unknown
            )
            for name, values in columns.items()
        }
        from saestore.writing.columns import set_columns

        with changing(self._reader) as writer:
            set_columns(writer, self._name, given)

    def annotate(self, columns: Mapping[str, Mapping[Any, Any]], *, overwrite: bool = True) -> None:
        """Set values of some rows; all other values stay. All columns are written in one commit, or none.

        Parameters
        ----------
        columns
            Of each column a mapping of the numbers of rows, of items also of their keys, to values; None forgets one.
        overwrite
            False refuses to replace a value by another.

        Raises
        ------
        StoreConflictError
            A row has another value already, and `overwrite` is False; the message names both. Nothing was written.
        InvalidInputError, NotFoundError, OutOfRangeError
            As of `set`.
        """
        from saestore.writing.columns import set_columns

        _check_mapping(columns, "columns", "{name: {row: value}}")
        for name, values in columns.items():
            _check_mapping(values, f"column {name!r}", "{row: value}")
        self._check_writable(columns)
        with changing(self._reader) as writer:  # before the values are read that stay
            merged = {name: self._merged(name, values, overwrite=overwrite) for name, values in columns.items()}
            set_columns(writer, self._name, {n: as_column(v, f"column {n!r}") for n, v in merged.items()})

    def _merged(self, name: str, values: Mapping[Any, Any], *, overwrite: bool) -> list[Any]:
        """The values of a column, where those given replace what a row has."""
        current = as_objects(self._read(name).array()) if name in self else np.full(len(self), None)
        for key, value in values.items():
            row = self._row(key, name)
            before = current[row]
            if not overwrite and before is not None and before == before and before != value:  # noqa: PLR0124
                raise StoreConflictError(
                    f"{self._name.removesuffix('s')} {row} has the {name} {before!r}, and {value!r} is given. Nothing "
                    "was written; pass --overwrite (overwrite=True) to replace it.",
                    code="value-exists",
                )
            current[row] = value
        merged: list[Any] = current.tolist()
        return merged

    def remove(self, name: str) -> None:
        """Remove a column or a concept."""
        self._check_writable([name])
        from saestore.writing.columns import remove_columns

        with changing(self._reader) as writer:
            remove_columns(writer, self._name, [name])

    def where(self, condition: Any) -> Array:
        """Rows that fulfil a condition, ascending, int64.

        Parameters
        ----------
        condition
            An expression (``'split == "test" and color::red'``), a mapping of names to a value or to several
            (``{"split": ["cal", "test"], "color::red": True}``), or a boolean mask. A name is a column or a concept of
            this table, or ``item``, ``sample`` or ``feature``, the number of the row. For samples it is also a column
            or a concept of their items, ``position``, ``token`` (its text), and ``feature[1498]``, the activation of a
            feature; ``sample.NAME`` is a column of samples where items have one of the same name. For items
            ``feature[1498]`` is the maximum over their samples. ``name contains "green"`` looks for a text, upper or
            lower case; ``name is unknown`` for rows without a value. A comparison with an unknown value does not hold,
            and neither does its negation.

        Raises
        ------
        NotFoundError
            An unknown name; the message names those that are like it.
        InvalidInputError
            Something that is not a condition; in an expression the message marks the place.

        Notes
        -----
        Memory: 8 bytes per row that fulfils it, a byte for every row, and the columns that are named.
        """
        return _rows_where(self._reader, self._name, condition)

    def search(self, text: str) -> Array:
        """Rows whose columns of text hold every word of a text, upper or lower case, ascending int64.

        Of features these are their names, notes and explanations. Parts of words count; words in quotes
        (``'"green object"'``) stand together.
        """
        if not isinstance(text, str):
            raise InvalidInputError(f"{text!r} is not text to search for.", code="not-text")
        if len(text) > _LONGEST_SEARCH:
            raise InvalidInputError(
                f"search() was given {len(text):,} characters; at most {_LONGEST_SEARCH:,} are read.",
                code="text-too-long",
            )
        if HALF_CHARACTER.search(text):
            raise InvalidInputError(
                f"search({text!r}) holds half of a character, which no stored text has.", code="not-text"
            )
        words = [quoted or word for quoted, word in _WORDS.findall(text)]
        if not words:
            raise InvalidInputError(f"search({text!r}): give a word, such as 'green'.", code="empty-search")
        hits = np.zeros((len(words), len(self)), bool)
        for name in self.names():
            if self._reader.table(self._name).dtype(name) == TEXT:
                texts = self._read(name)
                hits |= np.stack([contains(texts, word) for word in words])
        return np.flatnonzero(hits.all(axis=0))

    def to_pandas(self, columns: Sequence[str] | str | None = None, where: Any = None) -> pd.DataFrame:
        """The columns as a pandas DataFrame, with the numbers of the rows as its index.

        Parameters
        ----------
        columns
            Names; by default all.
        where
            Only rows that fulfil this; see `where`.

        Returns
        -------
        pandas.DataFrame
            A column with unknown values has one of pandas' nullable types, of texts it has None there.
        """
        import pandas as pd

        if not (columns is None or isinstance(columns, Iterable)):
            raise InvalidInputError(f"columns {columns!r}: give names of columns.", code="not-text")
        names = self.columns if columns is None else [columns] if isinstance(columns, str) else list(columns)
        rows = None if where is None else self.where(where)
        index = pd.RangeIndex(len(self)) if rows is None else pd.Index(rows)
        data = {name: _series(self._read(name, rows)) for name in names}
        return pd.DataFrame(data, index=index.rename(self._name.removesuffix("s")))

    def __repr__(self) -> str:
        names = self.columns
        what = f"columns {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}" if names else "no columns"
        return escape(f"<{type(self).__name__} {self._name} of {self._reader.path}: {len(self):,} rows, {what}>")

    def _repr_html_(self) -> str:
        rows, names = np.arange(min(_SHOWN, len(self))), self.columns[:_SHOWN]
        data = [self._read(name, rows) for name in names]
        shown = [[str(i), *(_shown(column, i) for column in data)] for i in rows.tolist()]
        more = f"<p>… {len(self) - _SHOWN:,} more rows</p>" if len(self) > _SHOWN else ""
        return html.table([self._name.removesuffix("s"), *names], shown) + more

    def _check_writable(self, names: Iterable[Any]) -> None:
        computed = [name for name in names if isinstance(name, str) and name in self._computed]
        if computed:
            raise InvalidInputError(
                f"{computed[0]!r} is a statistic of the {self._name}, computed from the activations; choose another "
                "name for a column.",
                code="reserved-name",
            )

    def _of_mapping(self, values: Mapping[Any, Any], name: str) -> list[Any]:
        """A value for each row, from a mapping of numbers or keys."""
        out: list[Any] = [None] * len(self)
        for key, value in values.items():
            out[self._row(key, name)] = value
        return out

    def _row(self, key: Any, name: str) -> int:
        """The number of a row that is given by it, or of an item by its key."""
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            row = int(key)
        else:
            found = self._by_key().get(key) if isinstance(key, str) else None
            if found is None:
                near = did_you_mean(key, self._by_key()) if isinstance(key, str) else ""
                raise NotFoundError(
                    f"column {name!r}: {key!r} is neither the number of a row nor the key of one of the {self._name}. "
                    f"{near}".rstrip(),
                    code="unknown-key",
                )
            if found < 0:
                raise InvalidInputError(
                    f"column {name!r}: several items have the key {key!r}; give the number of one.",
                    code="ambiguous-key",
                )
            row = found
        if not 0 <= row < len(self):
            raise OutOfRangeError(
                f"column {name!r}: {self._name.removesuffix('s')} {row} is out of range: there are {len(self):,}."
            )
        return row

    def _by_key(self) -> dict[str, int]:
        """The row of every key of items, -1 of a key of several; read once per table object and state of the set."""
        state = self._reader.attributes
        if self._keys is None or self._keys[0] is not state:
            has_keys = self._name == "items" and KEY in self.names()
            rows: dict[str, int] = {}
            for row, key in enumerate(self.column(KEY).tolist() if has_keys else ()):
                rows[key] = -1 if key in rows else row
            self._keys = state, rows
        return self._keys[1]


@retry_on_stale_snapshot
def _rows_where(reader: OpenSet, table: str, condition: Any) -> Array:
    n_rows = reader.attributes.n_rows(table)
    if condition is None:
        return np.arange(n_rows)
    if table == "samples":
        chosen = reader.condition(condition)
        return np.arange(n_rows) if chosen is None else np.flatnonzero(chosen.over_samples(n_rows))
    tree = as_tree(condition)
    if tree is None:
        from saestore.files import as_numpy

        mask = as_numpy(condition, "the condition")
        if mask.dtype != bool or mask.shape != (n_rows,):
            raise InvalidInputError(
                f"the condition is {mask.dtype} {mask.shape}; give an expression, a mapping or a boolean mask of "
                f"{n_rows:,}.",
                code="invalid-mask",
            )
        return np.flatnonzero(mask)
    if table == "features":
        names = TableNames(reader.table(table), lambda name: statistic(reader, name), STATISTIC_NAMES)
    else:
        names = TableNames(reader.table(table), lambda name: item_maximum(reader, name))
    return rows_where(tree, names)


def _check_mapping(given: Any, what: str, example: str) -> None:
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"{what} cannot be a {type(given).__name__}; give {example}.", code="not-a-mapping")


def _series(column: Column) -> Any:
    """A column as pandas takes it."""
    import pandas as pd

    if column.values.dtype == TEXT:
        values = column.values.astype(object)
        if column.unknown is not None:
            values[column.unknown] = None
        return values
    if column.unknown is None:
        return column.values
    series = pd.array(column.values, dtype=_NULLABLE[column.values.dtype.kind])
    series[column.unknown] = pd.NA
    return series


def _shown(column: Column, row: int) -> str:
    unknown = column.unknown is not None and column.unknown[row]
    return "" if unknown else str(column.values[row])
