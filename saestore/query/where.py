"""``where=``: a mapping, a mask or an expression, turned into a mask over items or samples."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any, TypeAlias

import numpy as np

from saestore.errors import InvalidInputError, NotFoundError
from saestore.query import where_parser as tree
from saestore.query.selection import Condition
from saestore.tables.item_index import ItemIndex
from saestore.tables.stored_items import StoredItems
from saestore.tables.stored_labels import StoredLabels, listed
from saestore.vocabulary import LEVELS

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 20  # samples at a time
_NUMBERS = ("item", "position", "sample")  # names of what no column holds
_KINDS = {"b": "true and false", "i": "numbers", "u": "numbers", "f": "numbers", "T": "text", "U": "text"}
_OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Known:
    """What the names in a condition can mean; items and labels are opened only for a name that needs them."""

    n_samples: int
    index: ItemIndex
    items: Callable[[], StoredItems]
    labels: Callable[[], StoredLabels | None]
    _found: dict[tuple[str, str | None], _Column] = field(default_factory=dict)

    @cached_property
    def _labels(self) -> StoredLabels | None:
        return self.labels()

    def names(self) -> list[str]:
        """Every name there is, but for those of numbers."""
        items = self.items()
        samples = [] if self._labels is None else self._labels.names
        return list(dict.fromkeys([*items.names(), *items.concept_names, *samples]))

    def find(self, name: str, level: str | None = None) -> _Column | None:
        """Column, concept of items, concept of samples or number of this name, the first that there is."""
        items = self.items()
        if level in (None, "item"):
            if name in items.names():
                return _Column(name, items.column(name), None)
            if name in items.concept_names:
                return _Column(name, items.concept(name), None)
        if level in (None, "sample") and self._labels is not None and name in self._labels.names:
            self._labels.check_covers(self.n_samples)
            mask = self._labels.mask(name)
            return _Column(name, None, lambda block: mask[block.start : block.stop], np.dtype(bool))
        if name == "item" and level in (None, "item"):
            return _Column(name, np.arange(self.index.n_items), None)
        if name in _NUMBERS and level in (None, "sample"):
            return _Column(name, None, lambda block: block.numbers(name), np.dtype(np.int64))
        head, _, rest = name.partition(".")
        return self.find(rest, head) if level is None and head in LEVELS and rest else None

    def column(self, name: str, level: str | None = None) -> _Column:
        """The same, or an error that says what there is."""
        if (name, level) in self._found:
            return self._found[name, level]
        found = self.find(name, level)
        if found is not None:
            self._found[name, level] = found
            return found
        import difflib

        near = difflib.get_close_matches(name, self.names(), 3, 0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        where = "" if level is None else f" of {level}s"
        raise NotFoundError(
            f"where= names {name!r}, which is neither a column nor a concept{where}. {hint}"
            f"There are {listed(self.names())}; and {', '.join(_NUMBERS)}."
        )


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
class _Column:
    """What a name stands for: a value for every item, or for every sample of a block."""

    name: str
    of_items: Array | None
    of_samples: Callable[[_Block], Array] | None
    dtype: np.dtype[Any] | None = None

    @property
    def kind(self) -> str:
        dtype = self.dtype if self.of_items is None else self.of_items.dtype
        return _KINDS[dtype.kind if dtype is not None else "b"]

    def on(self, block: _Block) -> Array:
        if self.of_samples is not None:
            return self.of_samples(block)
        return np.asarray(self.of_items)[block.located[0]]


# A mask over items, or a function that makes the mask over a block of samples.
_Part: TypeAlias = Array | Callable[[_Block], Array]


def condition(where: Any, known: Known) -> Condition | None:
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
    if where is None:
        return None
    if isinstance(where, str):
        return _over_all(_bind(tree.parse(where), where, known), known)
    if isinstance(where, Mapping):
        parts = [_matches(known.column(str(name)), wanted) for name, wanted in where.items()]
        return _over_all(_joined(operator.and_, [np.ones(known.index.n_items, bool), *parts]), known)
    return _of_mask(where, known.n_samples, known.index)


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


def _over_all(part: _Part, known: Known) -> Condition:
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


def _applied(function: Callable[..., Array], *columns: _Column) -> _Part:
    """A function of columns, over items where all are of items."""
    if all(column.of_items is not None for column in columns):
        return function(*(column.of_items for column in columns))
    return lambda block: function(*(column.on(block) for column in columns))


def _matches(column: _Column, wanted: Any) -> _Part:
    options = list(wanted) if isinstance(wanted, list | tuple | set | frozenset | np.ndarray) else [wanted]
    for option in options:
        if isinstance(option, str) != (column.kind == "text") or not isinstance(
            option, str | bool | int | float | np.generic
        ):
            dtype = column.dtype if column.of_items is None else column.of_items.dtype
            held = "text" if column.kind == "text" else dtype
            raise InvalidInputError(f"where= asks {column.name!r} for {option!r}, but it holds {held}.")
    return _applied(lambda values: _any_of(values, options), column)


def _any_of(values: Array, options: Sequence[Any]) -> Array:
    mask = np.zeros(len(values), bool)
    for option in options:
        mask |= values == option
    return mask


def _bind(node: tree.Node, text: str, known: Known) -> _Part:
    """The mask of a tree; `text` is what messages mark."""
    match node:
        case tree.All(terms):
            return _joined(operator.and_, [_bind(term, text, known) for term in terms])
        case tree.Any(terms):
            return _joined(operator.or_, [_bind(term, text, known) for term in terms])
        case tree.Not(term):
            part = _bind(term, text, known)
            return ~part if isinstance(part, np.ndarray) else lambda block: ~part(block)
        case tree.In(name, values):
            column = _column(name, text, known)
            for value in values:
                _check(column, "==", value, text)
            return _applied(lambda held: _any_of(held, [value.value for value in values]), column)
        case tree.Compare():
            return _compared(node, text, known)
        case tree.Name():
            return _alone(node, text, known)


def _alone(name: tree.Name, text: str, known: Known) -> _Part:
    column = _column(name, text, known)
    if column.kind != "true and false":
        _refuse(f"{column.name!r} holds {column.kind}; compare it with a value", name.start, name.stop, text)
    return _applied(lambda held: held, column)


def _compared(node: tree.Compare, text: str, known: Known) -> _Part:
    compare: Callable[[Any, Any], Array] = _OPERATORS[node.operator]
    left, right = node.left, node.right
    if isinstance(left, tree.Name) and isinstance(right, tree.Name):
        first, second = _column(left, text, known), _second(right, text, known)
        if first.kind != second.kind:
            what = f"{first.name!r} holds {first.kind}, and {second.name!r} holds {second.kind}"
            _refuse(f"{what}; they cannot be compared", node.start, node.stop, text)
        return _applied(compare, first, second)
    name, value = (left, right) if isinstance(left, tree.Name) else (right, left)
    if not isinstance(name, tree.Name) or not isinstance(value, tree.Literal):
        raise TypeError(node)  # the parser gives one name at least
    column = _column(name, text, known)
    _check(column, node.operator, value, text)
    literal = value.value
    if value is left:
        return _applied(lambda held: compare(literal, held), column)
    return _applied(lambda held: compare(held, literal), column)


def _second(name: tree.Name, text: str, known: Known) -> _Column:
    """What a name on the right stands for, which may have been meant as a text."""
    if known.find(name.text, name.level) is None:
        quoted = tree.quote_text(name.text)
        message = f"where=: there is no column or concept {name.text!r}; a text stands in quotes: {quoted}."
        raise NotFoundError(tree.marked(message, text, name.start, name.stop))
    return _column(name, text, known)


def _column(name: tree.Name, text: str, known: Known) -> _Column:
    try:
        return known.column(name.text, name.level)
    except NotFoundError as e:
        raise NotFoundError(tree.marked(str(e), text, name.start, name.stop)) from None


def _check(column: _Column, comparison: str, literal: tree.Literal, text: str) -> None:
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
