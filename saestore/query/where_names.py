"""What names in a condition stand for: columns and concepts of samples and items, numbers, tokens, activations."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError, OutOfRangeError, did_you_mean
from saestore.format import TOKEN_SPANS
from saestore.query.where_parser import Mark, Name, quote_text
from saestore.sparse_rows import Array
from saestore.tables.column import TEXT, Column
from saestore.tables.item_index import ItemIndex
from saestore.tables.label_matrix import listed
from saestore.tables.stored_table import StoredTable
from saestore.vocabulary import LEVELS

_NUMBERS = ("item", "position", "sample")  # names that no column stores
_KINDS = {"b": "true and false", "i": "numbers", "u": "numbers", "f": "numbers", "T": "text"}
_FEATURE = re.compile(r"feature\[(\d{1,18})\]")
ACTIVATION = "activation"


@dataclass(frozen=True)
class Block:
    """Consecutive samples, and which items they belong to."""

    start: int
    stop: int
    index: ItemIndex

    @cached_property
    def located(self) -> tuple[Array, Array]:
        """Item and position of each sample."""
        return self.index.locate(np.arange(self.start, self.stop))

    def numbers(self, name: str) -> Array:
        """The samples' own numbers, or the numbers or positions in their items."""
        return np.arange(self.start, self.stop) if name == "sample" else self.located[_NUMBERS.index(name)]

    @property
    def rows(self) -> slice:
        """The samples."""
        return slice(self.start, self.stop)


# Values of all items (or rows of one table), or a function that makes values of the samples of a block.
Values: TypeAlias = Column | Callable[[Block], Column]


@dataclass(frozen=True)
class NamedValues:
    """The values that a name stands for."""

    name: str
    values: Values
    dtype: np.dtype[Any]

    @property
    def kind(self) -> str:
        """What it holds, for messages."""
        return _KINDS[self.dtype.kind]


@dataclass(frozen=True)
class Activations:
    """What a condition may ask of activations."""

    # From a feature to the samples where it is active, ascending, and its activations.
    read: Callable[[int], tuple[Array, Array]]
    n_features: int  # features of the set
    feature: int | None = None  # the one feature that a query is about, which ``activation`` means; else None


class NameSource:
    """The meaning of names in conditions; values are read only of names that occur."""

    numbers: tuple[str, ...]  # names that no column stores

    def __init__(self, n_items: int, *tables: StoredTable) -> None:
        self.n_items, self.tables = n_items, tables
        self._columns: dict[Name, NamedValues] = {}

    def known(self) -> list[str]:
        """Names of all columns and concepts."""
        raise NotImplementedError

    def find(self, name: str, level: str | None) -> NamedValues | None:
        """Column, concept or number with this name, None where there is none."""
        raise NotImplementedError

    def column(self, name: Name, *, perhaps_text: bool = False) -> NamedValues:
        """The values of a name, or an error that marks it; a name on the right may be a text without quotes."""
        if name not in self._columns:
            column = self.find(name.text, name.level)
            if column is None:
                raise NotFoundError(marked(self._unknown(name, perhaps_text), name.mark), code="unknown-column")
            self._columns[name] = column
        return self._columns[name]

    def _unknown(self, name: Name, perhaps_text: bool) -> str:
        level = "" if name.level is None else f" of {name.level}s"
        message = f"there is no column or concept{level} {name.text!r}"
        if perhaps_text:
            return f"{message}; a text needs quotes: {quote_text(name.text)}"
        known = self.known()
        return f"{message}. {did_you_mean(name.text, known)}There are {listed(known)}; and {', '.join(self.numbers)}"


class Names(NameSource):
    """The meaning of names in conditions over samples: columns of samples and of the items that they belong to."""

    numbers = (*_NUMBERS, "feature[N]")

    def __init__(self, items: StoredTable, samples: StoredTable, index: ItemIndex, activations: Activations) -> None:
        super().__init__(index.n_items, items, samples)
        self.n_samples, self.index, self._items, self._samples = samples.n_rows, index, items, samples
        self._activations = activations
        columns = samples.info.columns
        self._has_tokens = "text" in items.info.columns and all(name in columns for name in TOKEN_SPANS)

    def known(self) -> list[str]:
        """Names of all columns and concepts, items first."""
        tokens = ["token"] if self._has_tokens else []
        return list(dict.fromkeys([*self._items.info.names, *self._samples.info.names, *tokens]))

    def find(self, name: str, level: str | None) -> NamedValues | None:
        """Column or concept of items, of samples, or number with this name: the first that there is."""
        if level in (None, "item") and name in self._items.info.names:
            return _of_rows(name, self._items.read(name))
        stored_of_sample = level in (None, "sample") and name in self._samples.info.names
        if name == "item" and level in (None, "item") and not stored_of_sample:
            return _of_rows(name, Column(np.arange(self.n_items)))
        values = self._of_sample(name) if level in (None, "sample") else None
        head, _, rest = name.partition(".")
        return self.find(rest, head) if values is None and level is None and head in LEVELS and rest else values

    def _of_sample(self, name: str) -> NamedValues | None:
        samples = self._samples
        if name in samples.concept_names:
            whole = samples.read(name)
            return NamedValues(name, lambda block: whole.at(block.rows), whole.values.dtype)
        if name in samples.info.columns:
            return NamedValues(name, lambda block: samples.read(name, block.rows), samples.dtype(name))
        if name == "token" and self._has_tokens:
            return NamedValues(name, self._tokens, TEXT)
        if name in _NUMBERS:
            return NamedValues(name, lambda block: Column(block.numbers(name)), np.dtype(np.int64))
        return self._activation(name) if name == ACTIVATION or _FEATURE.fullmatch(name) else None

    def _tokens(self, block: Block) -> Column:
        spans = [self._samples.read(name, block.rows).values.tolist() for name in TOKEN_SPANS]
        items, back = np.unique(block.located[0], return_inverse=True)
        texts = self._items.read("text", items).values.tolist()
        return Column(np.array([texts[i][a:b] for i, a, b in zip(back.tolist(), *spans, strict=True)], TEXT))

    def _activation(self, name: str) -> NamedValues:
        """The activation of a feature: `feature[N]`, or `activation` where the question is about one feature."""
        given = self._activations
        feature = given.feature if name == ACTIVATION else feature_of(name, given.n_features)
        if feature is None:
            raise InvalidInputError(
                "where=: 'activation' is the activation of the one feature that a query asks for, and this query asks "
                "for several or none. Name the feature, such as feature[1498] > 3.",
                code="needs-feature",
            )
        samples, data = given.read(feature)

        def of_block(block: Block) -> Column:
            first, last = np.searchsorted(samples, (block.start, block.stop))
            values = np.zeros(block.stop - block.start, data.dtype)
            values[samples[first:last] - block.start] = data[first:last]
            return Column(values)

        return NamedValues(name, of_block, data.dtype)


class TableNames(NameSource):
    """The meaning of names in conditions over the rows of one table.

    `computed` gives columns that are not stored by their names, and None where there is none; `computed_names` are
    their names, for messages.
    """

    def __init__(
        self,
        table: StoredTable,
        computed: Callable[[str], Column | None] = lambda _: None,
        computed_names: Sequence[str] = (),
    ) -> None:
        super().__init__(table.n_rows, table)
        self._table, self._computed, self._computed_names = table, computed, computed_names
        self.numbers = (table.name.removesuffix("s"),)  # the number of a row

    def known(self) -> list[str]:
        """Names of all columns and concepts."""
        return [*self._table.info.names, *self._computed_names]

    def find(self, name: str, level: str | None) -> NamedValues | None:
        """A column or concept of the table, or the number of a row."""
        if level not in (None, *self.numbers):
            return None
        if name in self._table.info.names:
            return _of_rows(name, self._table.read(name))
        if name in self.numbers:
            return _of_rows(name, Column(np.arange(self._table.n_rows)))
        computed = self._computed(name)
        if computed is not None:
            return _of_rows(name, computed)
        head, _, rest = name.partition(".")
        return self.find(rest, head) if level is None and head in self.numbers and rest else None


def _of_rows(name: str, column: Column) -> NamedValues:
    return NamedValues(name, column, column.values.dtype)


def feature_of(name: str, n_features: int) -> int | None:
    """The feature that ``feature[N]`` names; None for another name."""
    match = _FEATURE.fullmatch(name)
    if match is None:
        return None
    if int(match[1]) >= n_features:
        raise OutOfRangeError(f"where=: feature {match[1]} is out of range: there are {n_features:,}.")
    return int(match[1])


def marked(message: str, mark: Mark | None) -> str:
    """A message about a condition, with the place in it where that is known."""
    return f"where=: {message}." if mark is None else mark.under(f"where=: {message}.")
