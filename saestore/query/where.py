"""``where=``: an expression, a mapping, a tree or a mask becomes a mask over items or samples."""

from __future__ import annotations

import itertools
import math
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np

from saestore.errors import InvalidInputError, did_you_mean
from saestore.progress import check_deadline
from saestore.query.selection import Condition, select_one
from saestore.query.where_names import ACTIVATION, Block, NamedValues, Names, NameSource, TableNames, Values, marked
from saestore.query.where_parser import Compare, Join, Mark, Name, Node, Not, Unknown, Value, parse, quote_text
from saestore.sparse_rows import Array
from saestore.storage import ArrayReader, prefetch
from saestore.tables.column import TEXT, Column
from saestore.tables.item_index import ItemIndex
from saestore.tables.items import SPLITS
from saestore.tables.stored_table import StoredTable
from saestore.vocabulary import LEVELS

if TYPE_CHECKING:
    from saestore.query.reader import SetReader


_BLOCK = 1 << 20  # samples at a time
_Mask: TypeAlias = Array | Callable[[Block], Array]


def contains(texts: Column, text: Any) -> Array:
    """Whether texts hold a text, upper or lower case."""
    sought = str(text).lower()
    return np.fromiter((sought in each for each in texts.lowered), bool, len(texts))


_OPERATORS = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")
_LARGEST = 1 << 1000
_MOST_NAMES, _MOST_VALUES = 1000, 1 << 18  # of a mapping
_PLAIN = {str, int, float, bool}
_MANY = 16  # values, from which on they are looked up instead of compared one by one
_MOST_NEAR = 1000  # items whose values are compared with a text that no item has
_EXPRESSION = re.compile(r"\s(and|or)\s|^[\"'].*[\"']$", re.DOTALL)  # what an untyped value hardly ever holds


def as_tree(where: Any) -> Node | None:
    """The tree of an expression or of a mapping; None for no condition and for a mask.

    A list of values in a mapping means any of them.
    """
    if isinstance(where, str):
        return parse(where)
    if isinstance(where, Mapping):
        if len(where) > _MOST_NAMES:
            raise InvalidInputError(
                f"where= has {len(where):,} names; at most {_MOST_NAMES:,} are read.", code="condition-too-long"
            )
        return Join(
            "and", tuple(Compare(Name(str(name)), "==", _values(name, values)) for name, values in where.items())
        )
    return where if isinstance(where, Node) else None


def one_feature(reader: SetReader, feature: Any, method: str) -> int:
    """The one feature that a method takes, by its number or by a condition that one feature fulfils."""
    if as_tree(feature) is None:
        return select_one(feature, reader.shape[1], "feature", method)
    ids = reader.select_features(feature).ids
    if len(ids) != 1:
        message = f"{method}() takes one feature; {len(ids):,} fulfil {feature!r}."
        raise InvalidInputError(message, code="not-one")
    return int(ids[0])


def _values(name: object, given: Any) -> tuple[Value, ...]:
    given = np.atleast_1d(given).tolist() if isinstance(given, np.ndarray) else given
    options = given if isinstance(given, list | tuple | set | frozenset) else [given]
    if len(options) > _MOST_VALUES:
        raise InvalidInputError(
            f"where= has a list of {len(options):,} values for {str(name)[:100]!r}; at most {_MOST_VALUES:,} are read. "
            "Give a boolean mask.",
            code="condition-too-long",
        )
    if not set(map(type, options)) <= _PLAIN:
        options = [_plain(name, option) for option in options]
    return tuple(map(Value, options))


def _plain(name: object, option: Any) -> str | float | bool:
    """A value as Python has it; refuses what no column holds."""
    value = option.item() if isinstance(option, np.generic) else option
    if not isinstance(value, str | int | float):
        raise InvalidInputError(
            f"where= has a {type(value).__name__} as a value for {str(name)[:100]!r}; give text, a number, true or "
            "false.",
            code="condition-type",
        )
    return value


def bind(tree: Node, names: Names) -> Condition:
    """The samples that fulfil a condition. Memory: a byte per sample, and the columns that are named."""
    _read_concepts(tree, *names.tables)
    mask = _bound(tree, names)
    if isinstance(mask, np.ndarray):
        return Condition(mask, names.index)
    of_samples = np.empty(names.n_samples, bool)
    for start in range(0, names.n_samples, _BLOCK):
        stop = min(start + _BLOCK, names.n_samples)
        of_samples[start:stop] = mask(Block(start, stop, names.index))
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
    except (ValueError, TypeError, RuntimeError):
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
        case Unknown(name):
            yield name


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
            return _applied(lambda column: column.values, [column], negated)
        case Unknown(name):
            return _unknown(names.column(name), negated)
        case _:
            return _compared(node, names, negated)


def _compared(node: Compare, names: NameSource, negated: bool) -> _Mask:
    """The mask of a comparison."""
    column = names.column(node.left)
    if isinstance(node.right, Name):
        other = names.column(node.right, perhaps_text=True)
        if column.kind != other.kind:
            mark, end = node.left.mark, node.right.mark
            what = f"{column.name!r} holds {column.kind}, and {other.name!r} holds {other.kind}"
            _refuse(f"{what}; they cannot be compared", mark and end and replace(mark, stop=end.stop))
        compare = _OPERATORS[node.operator]
        return _applied(lambda one, another: compare(one.values, another.values), [column, other], negated)
    options: list[Any] = [value.value for value in node.right]
    if column.kind != "numbers" or node.operator == "contains" or set(map(type, options)) != {float}:  # else all fit
        options = [_as_stored(column, _fitting(column, node.operator, value)) for value in node.right]
    return _applied(lambda values: _any_of(node.operator, values, options), [column], negated)


def _unknown(column: NamedValues, negated: bool) -> _Mask:
    """Where a column is unknown, or is known."""

    def mask(part: Column) -> Array:
        unknown = np.zeros(len(part), bool) if part.known is None else ~part.known
        return ~unknown if negated else unknown

    values = column.values
    return mask(values) if isinstance(values, Column) else lambda block: mask(_on(values, block))


def names_activation(where: Any) -> bool:
    """Whether a condition is about ``activation``, which is another one for each feature."""
    match as_tree(where):
        case Name(text=text):
            return text == ACTIVATION
        case Compare(left, _, right):
            return names_activation(left) or (isinstance(right, Name) and names_activation(right))
        case Not(term) | Unknown(term):
            return names_activation(term)
        case Join(_, terms):
            return any(map(names_activation, terms))
    return False


def _any_of(comparison: str, column: Column, options: Sequence[Any]) -> Array:
    check_deadline()
    if comparison == "contains":
        return contains(column, options[0])
    compare, values = _OPERATORS[comparison], column.values
    kind, mask = values.dtype.kind, np.zeros(len(values), bool)
    with np.errstate(over="ignore"):  # a number beyond the column's dtype is infinite there
        if len(options) > _MANY and compare is operator.eq:
            # A number has the precision of the column, as where it is compared alone.
            known = set(np.array(options, np.float64).astype(values.dtype).tolist() if kind == "f" else options)
            return np.fromiter(map(known.__contains__, values.tolist()), bool, len(values))
        for option in options:
            # Of a plain text numpy makes copies that take 500 times its memory.
            mask |= compare(values, np.array(option, TEXT) if kind == "T" else option)
    return mask


def _joined(join: Callable[[Array, Array], Array], parts: Iterable[_Mask]) -> _Mask:
    """Masks over items are joined at once, and only what remains for every block."""
    of_items: Array | None = None
    of_samples: list[Callable[[Block], Array]] = []
    for part in parts:
        if not isinstance(part, np.ndarray):
            of_samples.append(part)
        else:
            of_items = part if of_items is None else join(of_items, part)
    if of_items is not None and not of_samples:
        return of_items

    def over(block: Block) -> Array:
        mask = None if of_items is None else of_items[block.located[0]]
        for part in of_samples:
            mask = part(block) if mask is None else join(mask, part(block))
        return np.asarray(mask)

    return over


def _applied(function: Callable[..., Array], columns: Sequence[NamedValues], negated: bool) -> _Mask:
    """A function of columns, false where one is unknown; over items where all columns are per item."""

    def mask(parts: Sequence[Column]) -> Array:
        result = function(*parts)
        result = ~result if negated else result
        for known in (part.known for part in parts):
            result = result if known is None else result & known
        return result

    whole = [column.values for column in columns if isinstance(column.values, Column)]
    if len(whole) == len(columns):
        return mask(whole)
    return lambda block: mask([_on(column.values, block) for column in columns])


def _on(values: Values, block: Block) -> Column:
    return values.at(block.located[0]) if isinstance(values, Column) else values(block)


def _as_stored(column: NamedValues, value: Any) -> Any:
    """A split in lower case where the items have it so: that is how `Items` keeps the usual ones."""
    if column.name != "split" or not isinstance(value, str) or not isinstance(column.values, Column):
        return value
    words = column.values.values
    return value.lower() if value.lower() in SPLITS and value not in words else value


def _fitting(column: NamedValues, comparison: str, value: Value) -> str | float | bool:
    """The value of a literal, which a value of the column can equal."""
    given, kind = value.value, column.kind
    if isinstance(given, str) and HALF_CHARACTER.search(given):
        _refuse(f"{given!r} holds half of a character, which no stored text has", value.mark)
    if isinstance(given, int) and abs(given) > _LARGEST:
        given = math.inf if given > 0 else -math.inf  # beyond every stored number
    if value.untyped:
        return _converted(column, str(given), value.mark)
    if isinstance(given, str):
        fits = kind == "text"
    else:
        fits = (kind == "numbers" and not isinstance(given, bool)) or (kind == "true and false" and given in (0, 1))
    if not fits:
        shown = quote_text(given) if isinstance(given, str) else str(given).lower()
        _refuse(f"{column.name!r} holds {kind}, and cannot be compared with {shown}", value.mark)
    if comparison == "contains" and kind != "text":
        _refuse(f"{column.name!r} holds {kind}; only text contains a text", value.mark)
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
    if isinstance(column.values, Column) and text not in column.values.values:
        if _EXPRESSION.search(text):
            _refuse(f'no item has this {column.name!r}; write == and quotes: {column.name} == "…" and …', mark)
        if near := did_you_mean(text, set(column.values.values[:_MOST_NEAR].tolist())).strip():
            warnings.warn(f"no item has the {column.name} {text!r}. {near}", stacklevel=2)
    return text


def _refuse(message: str, mark: Mark | None) -> NoReturn:
    raise InvalidInputError(marked(message, mark), code="condition-type")
