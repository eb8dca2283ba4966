"""``where=``: an expression, a mapping, a tree or a mask becomes a mask over items or samples."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NoReturn, TypeAlias

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError, did_you_mean
from saestore.query.selection import Condition
from saestore.query.where_parser import Compare, Join, Mark, Name, Node, Not, Value, parse, quote_text
from saestore.tables.item_index import ItemIndex
from saestore.tables.stored_items import StoredItems
from saestore.tables.stored_labels import StoredLabels, listed
from saestore.vocabulary import LEVELS

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 20  # samples at a time
_NUMBERS = ("item", "position", "sample")  # names that no column stores
_KINDS = {"b": "true and false", "i": "numbers", "u": "numbers", "f": "numbers", "T": "text", "U": "text"}
_OPERATORS = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
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


# A value per item, or a function that makes a value per sample of a block.
_Values: TypeAlias = Array | Callable[[_Block], Array]


@dataclass(frozen=True)
class _Column:
    """The values that a name stands for."""

    name: str
    values: _Values
    dtype: np.dtype[Any]

    @property
    def kind(self) -> str:
        return _KINDS[self.dtype.kind]


@dataclass(frozen=True)
class Names:
    """The meaning of names in conditions; items and labels are opened only for a name that needs them."""

    n_samples: int
    index: ItemIndex
    items: Callable[[], StoredItems]
    labels: Callable[[], StoredLabels | None]
    _columns: dict[Name, _Column] = field(default_factory=dict)

    @cached_property
    def _labels(self) -> StoredLabels | None:
        return self.labels()

    def _find(self, name: str, level: str | None) -> _Column | None:
        """Column, concept of items, concept of samples, or number with this name: the first that there is."""
        items = self.items()
        if level in (None, "item"):
            if name in items.names():
                return _of_items(name, items.column(name))
            if name in items.concept_names:
                return _of_items(name, items.concept(name))
        if level in (None, "sample") and self._labels is not None and name in self._labels.names:
            self._labels.check_covers(self.n_samples)
            mask = self._labels.mask(name)
            return _Column(name, lambda block: mask[block.start : block.stop], mask.dtype)
        if name == "item" and level in (None, "item"):
            return _of_items(name, np.arange(self.index.n_items))
        if name in _NUMBERS and level in (None, "sample"):
            return _Column(name, lambda block: block.numbers(name), np.dtype(np.int64))
        head, _, rest = name.partition(".")
        return self._find(rest, head) if level is None and head in LEVELS and rest else None

    def column(self, name: Name, *, perhaps_text: bool = False) -> _Column:
        """The values of a name, or an error that marks it; a name on the right may be a text without quotes."""
        if name not in self._columns:
            column = self._find(name.text, name.level)
            if column is None:
                raise NotFoundError(_marked(self._unknown(name, perhaps_text), name.mark), code="unknown-column")
            self._columns[name] = column
        return self._columns[name]

    def _unknown(self, name: Name, perhaps_text: bool) -> str:
        level = "" if name.level is None else f" of {name.level}s"
        message = f"there is no column or concept{level} {name.text!r}"
        if perhaps_text:
            return f"{message}; a text needs quotes: {quote_text(name.text)}"
        items, samples = self.items(), [] if self._labels is None else self._labels.names
        known = list(dict.fromkeys([*items.names(), *items.concept_names, *samples]))
        return f"{message}. {did_you_mean(name.text, known)}There are {listed(known)}; and {', '.join(_NUMBERS)}"


def _of_items(name: str, values: Array) -> _Column:
    return _Column(name, values, values.dtype)


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
    mask = _bound(tree, names)
    if isinstance(mask, np.ndarray):
        return Condition(mask, names.index)
    of_samples = np.empty(names.n_samples, bool)
    for start in range(0, names.n_samples, _BLOCK):
        stop = min(start + _BLOCK, names.n_samples)
        of_samples[start:stop] = mask(_Block(start, stop, names.index))
    return Condition(of_samples, None)


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


def _bound(node: Node, names: Names) -> _Values:
    match node:
        case Join(_, ()):
            return np.ones(names.index.n_items, bool)
        case Join(word, terms):
            return _joined(operator.and_ if word == "and" else operator.or_, (_bound(t, names) for t in terms))
        case Not(term):
            return _applied(operator.invert, _bound(term, names))
        case Name():
            column = names.column(node)
            if column.kind != "true and false":
                _refuse(f"{column.name!r} holds {column.kind}; compare it with a value", node.mark)
            return column.values
    column, compare = names.column(node.left), _OPERATORS[node.operator]
    if isinstance(node.right, Name):
        other = names.column(node.right, perhaps_text=True)
        if column.kind != other.kind:
            mark, end = node.left.mark, node.right.mark
            what = f"{column.name!r} holds {column.kind}, and {other.name!r} holds {other.kind}"
            _refuse(f"{what}; they cannot be compared", mark and end and replace(mark, stop=end.stop))
        return _applied(compare, column.values, other.values)
    options = [_fitting(column, node.operator, value) for value in node.right]
    return _applied(lambda values: _any_of(compare, values, options), column.values)


def _any_of(compare: Callable[[Any, Any], Array], values: Array, options: Iterable[Any]) -> Array:
    mask = np.zeros(len(values), bool)
    for option in options:
        mask |= compare(values, option)
    return mask


def _joined(join: Callable[[Array, Array], Array], parts: Iterable[_Values]) -> _Values:
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


def _applied(function: Callable[..., Array], *columns: _Values) -> _Values:
    """A function of columns, over items where all columns are per item."""
    if all(isinstance(column, np.ndarray) for column in columns):
        return function(*columns)
    return lambda block: function(*(c[block.located[0]] if isinstance(c, np.ndarray) else c(block) for c in columns))


def _fitting(column: _Column, comparison: str, value: Value) -> str | float | bool:
    """The value of a literal, which a value of the column can equal."""
    given, kind = value.value, column.kind
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


def _converted(column: _Column, text: str, mark: Mark | None) -> str | float | bool:
    """The value that an untyped text stands for."""
    kind = column.dtype.kind
    try:
        if kind not in "TU":
            return _BOOLEANS[text.lower()] if kind == "b" else float(text) if kind == "f" else int(text)
    except (KeyError, ValueError):
        expected = {"b": "true or false", "f": "a number"}.get(kind, "an integer")
        _refuse(f"the value of {column.name!r} is {expected}, not {text!r}", mark)
    if _EXPRESSION.search(text) and text not in np.asarray(column.values):
        _refuse(f'no item has this {column.name!r}; write == and quotes: {column.name} == "…" and …', mark)
    return text


def _refuse(message: str, mark: Mark | None) -> NoReturn:
    raise InvalidInputError(_marked(message, mark), code="condition-type")


def _marked(message: str, mark: Mark | None) -> str:
    return f"where=: {message}." if mark is None else mark.under(f"where=: {message}.")
