"""``where=``: a mapping, a mask or an expression, turned into a mask over items or samples."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, TypeAlias

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError, did_you_mean
from saestore.query import where_parser as tree
from saestore.query.selection import Condition
from saestore.tables.column import Column
from saestore.tables.item_index import ItemIndex
from saestore.tables.label_matrix import listed
from saestore.tables.stored_table import StoredTable
from saestore.vocabulary import LEVELS

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 20  # samples at a time
_NUMBERS = ("item", "position", "sample")  # names of what no column holds
_KINDS = {"b": "true and false", "i": "numbers", "u": "numbers", "f": "numbers", "T": "text"}
_OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class NameSource:
    """What the names in a condition can mean."""

    numbers: tuple[str, ...]  # names of what no column holds

    def names(self) -> list[str]:
        """Every name there is, but for those of numbers."""
        raise NotImplementedError

    def find(self, name: str, level: str | None = None) -> NamedValues | None:
        """What a name stands for, None where it is unknown."""
        raise NotImplementedError

    def column(self, name: str, level: str | None = None) -> NamedValues:
        """The same, or an error that names what there is."""
        result = self.find(name, level)
        if result is not None:
            return result
        where = "" if level is None else f" of {level}s"
        raise NotFoundError(
            f"where= names {name!r}, which is neither a column nor a concept{where}. "
            f"{did_you_mean(name, self.names())}There are {listed(self.names())}; and {', '.join(self.numbers)}.",
            code="unknown-column",
        )


class Names(NameSource):
    """What the names in a condition over samples can mean; values are read only of names that occur."""

    numbers = _NUMBERS

    def __init__(self, n_samples: int, index: ItemIndex, items: StoredTable, samples: StoredTable) -> None:
        self.n_samples, self.index, self._items, self._samples = n_samples, index, items, samples
        self._found: dict[tuple[str, str | None], NamedValues | None] = {}

    def names(self) -> list[str]:
        """Every name there is, but for those of numbers."""
        return list(dict.fromkeys([*self._items.info.names, *self._samples.info.names]))

    def find(self, name: str, level: str | None = None) -> NamedValues | None:
        """Column or concept of items, of samples, or number of this name, the first that there is."""
        if (name, level) not in self._found:
            self._found[name, level] = self._find(name, level)
        return self._found[name, level]

    def _find(self, name: str, level: str | None) -> NamedValues | None:
        samples = self._samples
        if level in (None, "item") and name in self._items.info.names:
            return NamedValues.of(name, self._items.read(name))
        if level in (None, "sample") and name in samples.concept_names:
            whole = samples.read(name)
            return NamedValues(name, np.dtype(bool), None, lambda b: whole.at(slice(b.start, b.stop)))
        if level in (None, "sample") and name in samples.info.columns:
            return NamedValues(name, samples.dtype(name), None, lambda b: samples.read(name, slice(b.start, b.stop)))
        if name == "item" and level in (None, "item"):
            return NamedValues.of(name, Column(np.arange(self.index.n_items)))
        if name in self.numbers and level in (None, "sample"):
            return NamedValues(name, np.dtype(np.int64), None, lambda block: Column(block.numbers(name)))
        head, _, rest = name.partition(".")
        return self.find(rest, head) if level is None and head in LEVELS and rest else None


class TableNames(NameSource):
    """What the names in a condition over the rows of one table can mean."""

    def __init__(self, table: StoredTable) -> None:
        self._table = table
        self.numbers = (table.name.removesuffix("s"),)  # the number of a row

    def names(self) -> list[str]:
        """Every column of the table."""
        return list(self._table.info.names)

    def find(self, name: str, level: str | None = None) -> NamedValues | None:
        """A column, or the numbers of the rows."""
        if level not in (None, *self.numbers):
            return None
        if name in self._table.info.names:
            return NamedValues.of(name, self._table.read(name))
        if name in self.numbers:
            return NamedValues.of(name, Column(np.arange(self._table.n_rows)))
        head, _, rest = name.partition(".")
        return self.find(rest, head) if level is None and head in self.numbers and rest else None


@dataclass(frozen=True)
class _Block:
    """Consecutive samples, and which items they are of."""

    start: int
    stop: int
    index: ItemIndex

    @cached_property
    def located(self) -> tuple[Array, Array]:
        return self.index.locate(np.arange(self.start, self.stop))

    def numbers(self, name: str) -> Array:
        if name == "sample":
            return np.arange(self.start, self.stop)
        return self.located[_NUMBERS.index(name)]


@dataclass(frozen=True)
class NamedValues:
    """What a name stands for: values of all items (or rows of one table), or a function of a block of samples."""

    name: str
    dtype: np.dtype[Any]
    whole: Column | None
    of_block: Callable[[_Block], Column] | None = None

    @classmethod
    def of(cls, name: str, column: Column) -> NamedValues:
        """From values of all rows."""
        return cls(name, column.values.dtype, column)

    @property
    def kind(self) -> str:
        """What it holds, for messages."""
        return _KINDS[self.dtype.kind]

    def on(self, block: _Block) -> Column:
        """Values of the samples of a block."""
        if self.whole is None and self.of_block is not None:
            return self.of_block(block)
        return self.whole.at(block.located[0])  # type: ignore[union-attr]


# A mask over items, or a function that makes the mask over a block of samples.
_Part: TypeAlias = Array | Callable[[_Block], Array]


def condition(where: Any, known: Names) -> Condition | None:
    """Resolve ``where=``: None, an expression, a mapping of names to values, or a mask per sample or per item.

    A list of values in a mapping means any of them. A mask whose length fits both is taken per sample.

    Raises
    ------
    NotFoundError
        A name that is neither a column nor a concept.
    InvalidInputError
        A value of another type than the column's, a mask of neither length, or something else altogether.

    Notes
    -----
    Memory: a byte a sample, and the columns that are named.
    """
    if where is None or (isinstance(where, Mapping) and not where):
        return None
    if isinstance(where, str | Mapping):
        return _over_all(_part_of(where, known), known)
    return _of_mask(where, known.n_samples, known.index)


def rows_where(where: str | Mapping[Any, Any], names: NameSource) -> Array:
    """Rows of a table that fulfil a condition over its own columns, ascending int64."""
    part = _part_of(where, names)
    if not isinstance(part, np.ndarray):
        raise TypeError("a condition over one table has one value per row")
    return np.flatnonzero(part)


def _part_of(where: str | Mapping[Any, Any], names: NameSource) -> _Part:
    if isinstance(where, str):
        return _bind(tree.parse(where), where, names)
    return _joined(operator.and_, [_matches(names.column(str(name)), value) for name, value in where.items()])


def _of_mask(where: Any, n_samples: int, index: ItemIndex) -> Condition:
    try:
        mask = np.asarray(where)
    except ValueError:
        mask = np.empty((), object)
    if mask.dtype != bool or mask.ndim != 1:
        raise InvalidInputError(
            "where= takes an expression such as 'split == \"test\"', a mapping such as {'split': 'test'} or a boolean "
            f"mask per sample or per item, not {type(where).__name__} of dtype {mask.dtype}."
        )
    if len(mask) == n_samples:
        return Condition(mask, None)
    if len(mask) == index.n_items:
        return Condition(mask, index)
    raise InvalidInputError(
        f"the mask in where= has {len(mask):,} values; there are {n_samples:,} samples and {index.n_items:,} items."
    )


def _over_all(part: _Part, known: Names) -> Condition:
    if isinstance(part, np.ndarray):
        return Condition(part, known.index)
    mask = np.empty(known.n_samples, bool)
    for start in range(0, known.n_samples, _BLOCK):
        stop = min(start + _BLOCK, known.n_samples)
        mask[start:stop] = part(_Block(start, stop, known.index))
    return Condition(mask, None)


def _joined(join: Callable[[Array, Array], Array], parts: Sequence[_Part]) -> _Part:
    """Masks over items are joined at once, and only what is left for every block."""
    of_items = [part for part in parts if isinstance(part, np.ndarray)]
    of_samples = [part for part in parts if not isinstance(part, np.ndarray)]
    mask = reduce(join, of_items) if of_items else None
    if not of_samples and mask is not None:
        return mask

    def over(block: _Block) -> Array:
        masks = [part(block) for part in of_samples]
        return reduce(join, masks if mask is None else [mask[block.located[0]], *masks])

    return over


def _applied(function: Callable[..., Array], *columns: NamedValues, negated: bool = False) -> _Part:
    """A function of values, over items where all are of items. Of an unknown value not even its negation holds."""

    def mask(parts: Sequence[Column]) -> Array:
        out = function(*(part.values for part in parts))
        out = ~out if negated else out
        for part in parts:
            known = part.known
            out = out if known is None else out & known
        return out

    if all(column.whole is not None for column in columns):
        return mask([column.whole for column in columns if column.whole is not None])
    return lambda block: mask([column.on(block) for column in columns])


def _matches(column: NamedValues, requested: Any) -> _Part:
    options = list(requested) if isinstance(requested, list | tuple | set | frozenset | np.ndarray) else [requested]
    for option in options:
        if isinstance(option, str) != (column.kind == "text") or not isinstance(
            option, str | bool | int | float | np.generic
        ):
            content = "text" if column.kind == "text" else column.dtype
            raise InvalidInputError(
                f"where= asks {column.name!r} for {option!r}, but it holds {content}.", code="wrong-type"
            )
    return _applied(lambda values: _any_of(values, options), column)


def _any_of(values: Array, options: Sequence[Any]) -> Array:
    mask = np.zeros(len(values), bool)
    for option in options:
        mask |= values == option
    return mask


def _bind(node: tree.Node, text: str, names: NameSource, negated: bool = False) -> _Part:
    """The mask of a tree, or of its negation; `text` is what messages mark.

    A negation is carried down to the comparisons, because of an unknown value neither may hold.
    """
    match node:
        case tree.All(terms) | tree.Any(terms):
            join = operator.and_ if isinstance(node, tree.All) != negated else operator.or_
            return _joined(join, [_bind(term, text, names, negated) for term in terms])
        case tree.Not(term):
            return _bind(term, text, names, not negated)
        case tree.In(name, values):
            column = _column(name, text, names)
            for value in values:
                _check(column, "==", value, text)
            options = [value.value for value in values]
            return _applied(lambda stored: _any_of(stored, options), column, negated=negated)
        case tree.Compare():
            compare, columns = _compared(node, text, names)
            return _applied(compare, *columns, negated=negated)
        case tree.Name():
            return _applied(lambda stored: stored, _alone(node, text, names), negated=negated)


def _alone(name: tree.Name, text: str, names: NameSource) -> NamedValues:
    column = _column(name, text, names)
    if column.kind != "true and false":
        _refuse(f"{column.name!r} holds {column.kind}; compare it with a value", name.start, name.stop, text)
    return column


def _compared(node: tree.Compare, text: str, names: NameSource) -> tuple[Callable[..., Array], list[NamedValues]]:
    """The comparison as a function of values, and whose values."""
    compare: Callable[[Any, Any], Array] = _OPERATORS[node.operator]
    left, right = node.left, node.right
    if isinstance(left, tree.Name) and isinstance(right, tree.Name):
        first, second = _column(left, text, names), _second(right, text, names)
        if first.kind != second.kind:
            what = f"{first.name!r} holds {first.kind}, and {second.name!r} holds {second.kind}"
            _refuse(f"{what}; they cannot be compared", node.start, node.stop, text)
        return compare, [first, second]
    name, value = (left, right) if isinstance(left, tree.Name) else (right, left)
    if not isinstance(name, tree.Name) or not isinstance(value, tree.Literal):
        raise TypeError(node)  # the parser gives one name at least
    column = _column(name, text, names)
    _check(column, node.operator, value, text)
    literal = value.value
    if value is left:
        return lambda stored: compare(literal, stored), [column]
    return lambda stored: compare(stored, literal), [column]


def _second(name: tree.Name, text: str, names: NameSource) -> NamedValues:
    """What a name on the right stands for, which may have been meant as a text."""
    if names.find(name.text, name.level) is None:
        quoted = tree.quote_text(name.text)
        message = f"where=: there is no column or concept {name.text!r}; a text stands in quotes: {quoted}."
        raise NotFoundError(tree.marked(message, text, name.start, name.stop), code="unknown-column")
    return _column(name, text, names)


def _column(name: tree.Name, text: str, names: NameSource) -> NamedValues:
    try:
        return names.column(name.text, name.level)
    except NotFoundError as e:
        raise NotFoundError(tree.marked(str(e), text, name.start, name.stop), code=e.code) from None


def _check(column: NamedValues, comparison: str, literal: tree.Literal, text: str) -> None:
    """Refuse to compare what can never be equal."""
    value, kind = literal.value, column.kind
    fits = {
        "text": isinstance(value, str),
        "numbers": isinstance(value, int | float) and not isinstance(value, bool),
        "true and false": isinstance(value, bool) or value in (0, 1),
    }[kind]
    if not fits:
        shown = tree.quote_text(value) if isinstance(value, str) else str(value).lower()
        _refuse(f"{column.name!r} holds {kind}, and cannot be compared with {shown}", literal.start, literal.stop, text)
    if kind == "true and false" and comparison not in ("==", "!="):
        _refuse(f"{column.name!r} holds {kind}; only == and != make sense", literal.start, literal.stop, text)


def _refuse(message: str, start: int, stop: int, text: str) -> None:
    raise InvalidInputError(tree.marked(f"where=: {message}.", text, start, stop))
