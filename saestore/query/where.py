"""``where=``: an expression, a mapping, a tree or a mask becomes a mask over items or samples."""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn, TypeAlias

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError, did_you_mean
from saestore.query.selection import Condition
from saestore.query.where_parser import Compare, Join, Mark, Name, Node, Not, Value, parse, quote_text
from saestore.storage import ArrayReader, prefetch
from saestore.tables.column import Column
from saestore.tables.item_index import ItemIndex
from saestore.tables.label_matrix import listed
from saestore.tables.stored_table import StoredTable
from saestore.vocabulary import LEVELS

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 20  # samples at a time
_NUMBERS = ("item", "position", "sample")  # names that no column stores
_KINDS = {"b": "true and false", "i": "numbers", "u": "numbers", "f": "numbers", "T": "text"}
_OPERATORS = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")
_LARGEST = 1 << 1000
_EXPRESSION = re.compile(r"\s(and|or)\s|^[\"'].*[\"']$", re.DOTALL)  # what an untyped value hardly ever holds


@dataclass(frozen=True)
class _Block:
    """Consecutive samples, and which items they belong to."""

    start: int
    stop: int
    index: ItemIndex

    @cached_property
    def located(self) -> tuple[Array, Array]:
        return self.index.locate(np.arange(self.start, self.stop))

    def numbers(self, name: str) -> Array:
        return np.arange(self.start, self.stop) if name == "sample" else self.located[_NUMBERS.index(name)]


# Values of all items (or rows of one table), or a function that makes values of the samples of a block.
_Values: TypeAlias = Column | Callable[[_Block], Column]
_Mask: TypeAlias = Array | Callable[[_Block], Array]


@dataclass(frozen=True)
class NamedValues:
    """The values that a name stands for."""

    name: str
    values: _Values
    dtype: np.dtype[Any]

    @property
    def kind(self) -> str:
        """What it holds, for messages."""
        return _KINDS[self.dtype.kind]


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
                raise NotFoundError(_marked(self._unknown(name, perhaps_text), name.mark), code="unknown-column")
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

    numbers = _NUMBERS

    def __init__(self, n_samples: int, index: ItemIndex, items: StoredTable, samples: StoredTable) -> None:
        super().__init__(index.n_items, items, samples)
        self.n_samples, self.index, self._items, self._samples = n_samples, index, items, samples

    def known(self) -> list[str]:
        """Names of all columns and concepts, items first."""
        return list(dict.fromkeys([*self._items.info.names, *self._samples.info.names]))

    def find(self, name: str, level: str | None) -> NamedValues | None:
        """Column or concept of items, of samples, or number with this name: the first that there is."""
        samples = self._samples
        if level in (None, "item") and name in self._items.info.names:
            return _of_rows(name, self._items.read(name))
        if level in (None, "sample") and name in samples.concept_names:
            whole = samples.read(name)
            return NamedValues(name, lambda block: whole.at(slice(block.start, block.stop)), whole.values.dtype)
        if level in (None, "sample") and name in samples.info.columns:
            of_block = lambda block: samples.read(name, slice(block.start, block.stop))  # noqa: E731
            return NamedValues(name, of_block, samples.dtype(name))
        if name == "item" and level in (None, "item"):
            return _of_rows(name, Column(np.arange(self.n_items)))
        if name in _NUMBERS and level in (None, "sample"):
            return NamedValues(name, lambda block: Column(block.numbers(name)), np.dtype(np.int64))
        head, _, rest = name.partition(".")
        return self.find(rest, head) if level is None and head in LEVELS and rest else None


class TableNames(NameSource):
    """The meaning of names in conditions over the rows of one table."""

    def __init__(self, table: StoredTable) -> None:
        super().__init__(table.n_rows, table)
        self._table = table
        self.numbers = (table.name.removesuffix("s"),)  # the number of a row

    def known(self) -> list[str]:
        """Names of all columns and concepts."""
        return list(self._table.info.names)

    def find(self, name: str, level: str | None) -> NamedValues | None:
        """A column or concept of the table, or the number of a row."""
        if level not in (None, *self.numbers):
            return None
        if name in self._table.info.names:
            return _of_rows(name, self._table.read(name))
        if name in self.numbers:
            return _of_rows(name, Column(np.arange(self._table.n_rows)))
        head, _, rest = name.partition(".")
        return self.find(rest, head) if level is None and head in self.numbers and rest else None


def _of_rows(name: str, column: Column) -> NamedValues:
    return NamedValues(name, column, column.values.dtype)


def as_tree(where: Any) -> Node | None:
    """The tree of an expression or of a mapping; None for no condition and for a mask.

    A list of values in a mapping means any of them.
    """
    if isinstance(where, str):
        return parse(where)
    if isinstance(where, Mapping):
        return Join("and", tuple(Compare(Name(str(name)), "==", _values(values)) for name, values in where.items()))
    return where if isinstance(where, Node) else None


def _values(given: Any) -> tuple[Value, ...]:
    options = list(given) if isinstance(given, list | tuple | set | frozenset | np.ndarray) else [given]
    return tuple(Value(option.item() if isinstance(option, np.generic) else option) for option in options)


def bind(tree: Node, names: Names) -> Condition:
    """The samples that fulfil a condition.

    Raises
    ------
    NotFoundError
        A name is neither a column nor a concept.
    InvalidInputError
        A value has another type than its column.

    Notes
    -----
    Memory: a byte per sample, and the columns that are named.
    """
    _read_concepts(tree, *names.tables)
    mask = _bound(tree, names)
    if isinstance(mask, np.ndarray):
        return Condition(mask, names.index)
    of_samples = np.empty(names.n_samples, bool)
    for start in range(0, names.n_samples, _BLOCK):
        stop = min(start + _BLOCK, names.n_samples)
        of_samples[start:stop] = mask(_Block(start, stop, names.index))
    return Condition(of_samples, None)


def rows_where(tree: Node, names: TableNames) -> Array:
    """Rows of a table that fulfil a condition over its own columns, ascending int64; errors as of `bind`."""
    wholes, tails = stored_arrays(tree, *names.tables)
    prefetch(wholes, tails)
    _read_concepts(tree, *names.tables)
    mask = _bound(tree, names)
    if not isinstance(mask, np.ndarray):
        raise TypeError("a condition over one table has one value per row")
    return np.flatnonzero(mask)


def of_mask(where: Any, n_samples: int, index: ItemIndex) -> Condition | None:
    """The samples of a boolean mask per sample or per item; a mask whose length fits both is per sample."""
    if where is None:
        return None
    try:
        mask = np.asarray(where)
    except ValueError:
        mask = np.empty((), object)
    if mask.dtype != bool or mask.ndim != 1:
        raise InvalidInputError(
            "where= takes an expression such as 'split == \"test\"', a mapping such as {'split': 'test'} or a boolean "
            f"mask per sample or per item, not {type(where).__name__} of dtype {mask.dtype}.",
            code="where-type",
        )
    if len(mask) not in (n_samples, index.n_items):
        raise InvalidInputError(
            f"the mask in where= has {len(mask):,} values; there are {n_samples:,} samples and {index.n_items:,} "
            "items.",
            code="mask-length",
        )
    return Condition(mask, None if len(mask) == n_samples else index)


def _names(node: Node) -> Iterator[Name]:
    """Every name in a tree."""
    match node:
        case Name():
            yield node
        case Not(term):
            yield from _names(term)
        case Join(_, terms):
            for term in terms:
                yield from _names(term)
        case Compare(left, _, right):
            yield left
            if isinstance(right, Name):
                yield right


def _stored_names(tree: Node, *tables: StoredTable) -> Iterator[tuple[StoredTable, str]]:
    """The column or concept that each name of a tree most likely means, as `Names.find` will find it."""
    for name in _names(tree):
        head, _, rest = name.text.partition(".")
        candidates = [(name.level, name.text), *([(head, rest)] if head in LEVELS and rest else [])]
        known = ((t, text) for level, text in candidates for t in tables if level in (None, t.name.removesuffix("s"))
                 and text in t.info.names)  # fmt: skip
        yield from itertools.islice(known, 1)


def stored_arrays(tree: Node, *tables: StoredTable) -> tuple[list[ArrayReader], list[ArrayReader]]:
    """What a condition reads: whole arrays, and arrays of which it reads a part."""
    parts = [table.arrays_of(name, _BLOCK) for table, name in dict.fromkeys(_stored_names(tree, *tables))]
    wholes = {id(reader): reader for some, _ in parts for reader in some}
    tails = {id(reader): reader for _, some in parts for reader in some}
    return list(wholes.values()), list(tails.values())


def _read_concepts(tree: Node, *tables: StoredTable) -> None:
    """Read the rows of all concepts of a condition together."""
    named = list(_stored_names(tree, *tables))
    for table in tables:
        table.hold_concepts([name for of, name in named if of is table and name in table.concept_names])


def _bound(node: Node, names: NameSource, negated: bool = False) -> _Mask:
    """The mask of a tree, or of its negation.

    A negation is carried down to the comparisons: of an unknown value neither a comparison nor its negation holds.
    """
    match node:
        case Join(_, ()):
            return np.full(names.n_items, not negated)
        case Join(word, terms):
            join = operator.and_ if (word == "and") != negated else operator.or_
            return _joined(join, (_bound(t, names, negated) for t in terms))
        case Not(term):
            return _bound(term, names, not negated)
        case Name():
            column = names.column(node)
            if column.kind != "true and false":
                _refuse(f"{column.name!r} holds {column.kind}; compare it with a value", node.mark)
            return _applied(lambda values: values, [column], negated)
    column, compare = names.column(node.left), _OPERATORS[node.operator]
    if isinstance(node.right, Name):
        other = names.column(node.right, perhaps_text=True)
        if column.kind != other.kind:
            mark, end = node.left.mark, node.right.mark
            what = f"{column.name!r} holds {column.kind}, and {other.name!r} holds {other.kind}"
            _refuse(f"{what}; they cannot be compared", mark and end and replace(mark, stop=end.stop))
        return _applied(compare, [column, other], negated)
    options = [_fitting(column, node.operator, value) for value in node.right]
    return _applied(lambda values: _any_of(compare, values, options), [column], negated)


def _any_of(compare: Callable[[Any, Any], Array], values: Array, options: Iterable[Any]) -> Array:
    mask = np.zeros(len(values), bool)
    for option in options:
        mask |= compare(values, option)
    return mask


def _joined(join: Callable[[Array, Array], Array], parts: Iterable[_Mask]) -> _Mask:
    """Masks over items are joined at once, and only what remains for every block."""
    of_items: Array | None = None
    of_samples: list[Callable[[_Block], Array]] = []
    for part in parts:
        if not isinstance(part, np.ndarray):
            of_samples.append(part)
        else:
            of_items = part if of_items is None else join(of_items, part)
    if of_items is not None and not of_samples:
        return of_items

    def over(block: _Block) -> Array:
        mask = None if of_items is None else of_items[block.located[0]]
        for part in of_samples:
            mask = part(block) if mask is None else join(mask, part(block))
        return np.asarray(mask)

    return over


def _applied(function: Callable[..., Array], columns: Sequence[NamedValues], negated: bool) -> _Mask:
    """A function of columns, false where one is unknown; over items where all columns are per item."""

    def mask(parts: Sequence[Column]) -> Array:
        result = function(*(part.values for part in parts))
        result = ~result if negated else result
        for known in (part.known for part in parts):
            result = result if known is None else result & known
        return result

    whole = [column.values for column in columns if isinstance(column.values, Column)]
    if len(whole) == len(columns):
        return mask(whole)
    return lambda block: mask([_on(column.values, block) for column in columns])


def _on(values: _Values, block: _Block) -> Column:
    return values.at(block.located[0]) if isinstance(values, Column) else values(block)


def _fitting(column: NamedValues, comparison: str, value: Value) -> str | float | bool:
    """The value of a literal, which a value of the column can equal."""
    given, kind = value.value, column.kind
    if isinstance(given, str) and _HALF_CHARACTER.search(given):
        _refuse(f"{given!r} holds half of a character, which no stored text has", value.mark)
    if isinstance(given, int) and abs(given) > _LARGEST:
        given = math.inf if given > 0 else -math.inf  # beyond every stored number
    if value.untyped:
        return _converted(column, str(given), value.mark)
    fits = {
        "text": isinstance(given, str),
        "numbers": isinstance(given, int | float) and not isinstance(given, bool),
        "true and false": isinstance(given, bool | int | float) and given in (0, 1),
    }[kind]
    if not fits:
        shown = quote_text(given) if isinstance(given, str) else str(given).lower()
        _refuse(f"{column.name!r} holds {kind}, and cannot be compared with {shown}", value.mark)
    if kind == "true and false" and comparison not in ("==", "!="):
        _refuse(f"{column.name!r} holds {kind}; only == and != make sense", value.mark)
    return given


def _converted(column: NamedValues, text: str, mark: Mark | None) -> str | float | bool:
    """The value that an untyped text stands for."""
    kind = column.dtype.kind
    try:
        if kind not in "TU":
            return _BOOLEANS[text.lower()] if kind == "b" else float(text) if kind == "f" else int(text)
    except (KeyError, ValueError):
        expected = {"b": "true or false", "f": "a number"}.get(kind, "an integer")
        _refuse(f"the value of {column.name!r} is {expected}, not {text!r}", mark)
    if isinstance(column.values, Column) and _EXPRESSION.search(text) and text not in column.values.values:
        _refuse(f'no item has this {column.name!r}; write == and quotes: {column.name} == "…" and …', mark)
    return text


def _refuse(message: str, mark: Mark | None) -> NoReturn:
    raise InvalidInputError(_marked(message, mark), code="condition-type")


def _marked(message: str, mark: Mark | None) -> str:
    return f"where=: {message}." if mark is None else mark.under(f"where=: {message}.")
