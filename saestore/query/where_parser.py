"""The language of conditions: a text such as ``split == "test" and (color::red or position < 16)`` becomes a tree.

    condition  = and-part { "or" and-part }
    and-part   = part { "and" part }
    part       = "not" part | "(" condition ")" | name | value operator value | name [ "not" ] "in" list
               | name [ "not" ] "contains" text | name "is" [ "not" ] ( "unknown" | "known" )
    list       = "(" literal { "," literal } [ "," ] ")"
    operator   = "==" | "!=" | "<" | "<=" | ">" | ">="
    value      = name | literal
    name       = letters, digits and _ : . - + / | anything between ` and ` | "text", if a literal follows or nothing
               | "feature[" number "]", the activation of a feature
    literal    = number | "text" | 'text' | true | false

`saestore.query.where` gives names their meaning.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn, TypeAlias

from saestore.errors import InvalidInputError, escape

_OPERATORS = ("==", "!=", "<=", ">=", "<", ">")
_TURNED = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_LENGTH = 1 << 18  # characters of an expression
_MOST_CONTAINS = 1000  # each reads all the texts of its column
_DEPTH = 50  # of nested parentheses and nots
_SHOWN = 70  # characters of the text around a mark

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<quoted>(?:item\.|sample\.)?`(?:[^`]|``)+`)
    | (?P<operator>==|!=|<=|>=|<|>)
    | (?P<punctuation>[(),])
    | (?P<number>[-+][\d.][\w.]*(?:(?<=[eE])[-+]\d+)?)
    | (?P<word>feature\[\d+\]|\w[\w:.+/-]*)
    | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"[-+]?(\d+|(\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+)", re.ASCII)
_INTEGER = re.compile(r"[-+]?\d{1,400}", re.ASCII)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_CONSTANTS = {"true": True, "false": False, "True": True, "False": False}
_KEYWORDS = ("and", "or", "not", "in")
_HINTS = {
    "=": "write == to compare",
    "&": "write 'and'",
    "|": "write 'or'",
    "!": "write 'not' or !=",
    "~": "write 'not'",
    **dict.fromkeys("\"'`", "this quote is never closed"),
}


@dataclass(frozen=True)
class Mark:
    """A place in the text of a condition, for messages."""

    text: str
    start: int
    stop: int

    def under(self, message: str) -> str:
        """A message, and below it the text around this place, which is underlined."""
        text, size = self.text, len(self.text)
        first = max(0, min(self.start - _SHOWN // 2, size - _SHOWN))
        last = min(size, first + _SHOWN)
        before, after = "… " if first else "", " …" if last < size else ""
        stop = max(self.start + 1, min(self.stop, last))
        # As they are printed: a control character takes several columns.
        head, marked, tail = (
            escape(_on_one_line(text[a:b])) for a, b in ((first, self.start), (self.start, stop), (stop, last))
        )
        indent, carets = " " * _cells(before + head), "^" * max(1, _cells(marked))
        return f"{message}\n  {before}{head}{marked}{tail}{after}\n  {indent}{carets}"


def _on_one_line(text: str) -> str:
    return "".join(" " if c.isspace() else c for c in text)


def _cells(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


@dataclass(frozen=True)
class Name:
    """A column, a concept, or a number of samples; `level` is the prefix before a name in back-quotes."""

    text: str
    level: str | None = None
    mark: Mark | None = field(default=None, repr=False, compare=False)


class Value(NamedTuple):
    """A text, a number, true or false. An untyped value is a text that takes the type of the column."""

    value: str | float | bool
    mark: Mark | None = None
    untyped: bool = False


@dataclass(frozen=True)
class Compare:
    """A comparison of a name with another name or with values; several values mean any of them, with ``==``.

    ``contains`` compares with one text, upper or lower case.
    """

    left: Name
    operator: str
    right: Name | tuple[Value, ...]

    def __repr__(self) -> str:
        """What conditions differ in, 1 from True too; of 200,000 values in a fifth of the time of their own."""
        right = self.right if isinstance(self.right, Name) else [value.value for value in self.right]
        untyped = not isinstance(self.right, Name) and [value.untyped for value in self.right[:1]]
        return f"{self.left!r} {self.operator} {right!r} {untyped}"


@dataclass(frozen=True)
class Unknown:
    """Whether the value of a name is unknown."""

    name: Name


@dataclass(frozen=True)
class Not:
    """The opposite of a condition."""

    term: Node


@dataclass(frozen=True)
class Join:
    """Conditions of which all hold (``and``), or at least one (``or``)."""

    operator: str
    terms: tuple[Node, ...]


Node: TypeAlias = Name | Compare | Unknown | Not | Join


def parse(text: str) -> Node:
    """The tree of a condition; an error marks the place in the text, and names what is expected there."""
    if len(text) > _LENGTH:
        raise InvalidInputError(
            f"where=: the condition has {len(text):,} characters, the limit is {_LENGTH:,}. Give a mask, or a mapping "
            "of a column to its values.",
            code="condition-too-long",
        )
    return _Parser(text).whole()


def quote_text(text: str) -> str:
    """A text as it is written in a condition."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Token(NamedTuple):
    """A piece of the text; without `node` a keyword, an operator, punctuation, or the end, whose text is empty."""

    text: str
    mark: Mark
    node: Name | Value | None = None


def _tokens(text: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "space":
            mark = Mark(text, *match.span())
            yield _Token(match.group(), mark, _node(str(match.lastgroup), match.group(), mark))
    yield _Token("", Mark(text, len(text), len(text)))


def _node(kind: str, text: str, mark: Mark) -> Name | Value | None:
    if kind == "text":
        if "\0" in text:
            _fail("a text cannot hold a NUL", mark)
        return Value(_ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[1]), text[1:-1]), mark)
    if kind == "quoted":
        level, _, name = text.partition("`")
        return Name(name[:-1].replace("``", "`"), level.rstrip(".") or None, mark)
    if kind not in ("word", "number"):
        return None
    if text in _CONSTANTS:
        return Value(_CONSTANTS[text], mark)
    if _NUMBER.fullmatch(text):
        return Value(int(text) if _INTEGER.fullmatch(text) else float(text), mark)
    return Name(text, None, mark) if kind == "word" and text not in _KEYWORDS else None


class _Parser:
    """Reads a condition from left to right, one token ahead."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._next = next(self._tokens)
        self._depth = self._n_contains = 0

    def whole(self) -> Node:
        if not self._next.text:
            _fail('the condition is empty; write one such as split == "test"', None)
        node = self._joined("or")
        if self._next.text:
            self._expected("'and', 'or' or the end")
        return node

    def _advance(self) -> str:
        text = self._next.text
        self._next = next(self._tokens, self._next)
        return text

    def _comes(self, *texts: str) -> bool:
        return self._next.node is None and self._next.text in texts

    def _takes(self, *texts: str) -> str:
        """Go past a keyword, an operator or punctuation if it comes next; "" if it does not."""
        return self._advance() if self._comes(*texts) else ""

    def _joined(self, word: str) -> Node:
        terms = [self._part() if word == "and" else self._joined("and")]
        while self._takes(word):
            terms.append(self._part() if word == "and" else self._joined("and"))
        return terms[0] if len(terms) == 1 else Join(word, tuple(terms))

    def _part(self) -> Node:
        mark = self._next.mark
        opened = self._takes("not", "(")
        if not opened:
            return self._comparison()
        self._depth += 1
        if self._depth > _DEPTH:
            _fail(f"parentheses and nots are nested deeper than {_DEPTH} here", mark, "condition-too-deep")
        node = Not(self._part()) if opened == "not" else self._joined("or")
        if opened == "(" and not self._takes(")"):
            self._expected("'and', 'or' or ')'")
        self._depth -= 1
        return node

    def _comparison(self) -> Node:
        left = self._value("a name, a value, 'not' or '('")
        operator = self._takes(*_OPERATORS)
        if operator:
            right = self._value("a name or a value")
            if self._comes(*_OPERATORS):
                _fail("one comparison follows another; join two with 'and'", self._next.mark)
            if isinstance(left, Value) and isinstance(right, Name):
                return Compare(right, _TURNED[operator], (left,))
            return Compare(_named(left), operator, right if isinstance(right, Name) else (right,))
        return self._unknown(_named(left)) if self._takes_word("is") else self._other(left)

    def _other(self, left: Name | Value) -> Node:
        """What may follow a value that neither an operator nor "is" follows."""
        negated = self._takes("not")
        if self._takes("in"):
            node = Compare(_named(left), "==", self._list())
            return Not(node) if negated else node
        if self._takes_word("contains"):
            self._n_contains += 1
            if self._n_contains > _MOST_CONTAINS:
                _fail(f"more than {_MOST_CONTAINS:,} times 'contains'; give a mask", None, code="condition-too-long")
            node = Compare(_named(left), "contains", (self._literal(),))
            return Not(node) if negated else node
        if negated:
            self._expected("'in' or 'contains'")
        if isinstance(left, Value) and not isinstance(left.value, str):
            self._expected("a comparison of the value before")
        return _named(left)

    def _unknown(self, name: Name) -> Node:
        negated = bool(self._takes("not"))
        if not self._takes_word("unknown"):
            if not self._takes_word("known"):
                self._expected("'unknown' or 'known'")
            negated = not negated
        return Not(Unknown(name)) if negated else Unknown(name)

    def _takes_word(self, word: str) -> bool:
        """Go past a word that is a keyword only here, so that a column may have this name."""
        comes = isinstance(self._next.node, Name) and self._next.text == word
        if comes:
            self._advance()
        return comes

    def _value(self, expected: str) -> Name | Value:
        node = self._next.node or self._expected(expected)
        self._advance()
        return node

    def _literal(self) -> Value:
        if not isinstance(self._next.node, Value):
            self._expected("a text, a number, true or false")
        value = self._next.node
        self._advance()
        return value

    def _list(self) -> tuple[Value, ...]:
        if not self._takes("("):
            self._expected('\'(\' and values, such as ("train", "cal")')
        values = [self._literal()]
        while not self._takes(")"):
            if not self._takes(","):
                self._expected("',' or ')'")
            if not self._comes(")"):
                values.append(self._literal())
        return tuple(values)

    def _expected(self, expected: str) -> NoReturn:
        text, mark, _ = self._next
        if not text:
            _fail(f"the condition ends where {expected} was expected", mark)
        hint = _HINTS.get(text)
        _fail(f"expected {expected}, not {text!r}" + (f": {hint}" if hint else ""), mark)


def _named(value: Name | Value) -> Name:
    """A name, where only a name makes sense; a name with spaces may be in quotes there."""
    if isinstance(value, Name):
        return value
    if not isinstance(value.value, str):
        _fail(f"{value.value!r} is a value, not a column; write for example position == {value.value!r}", value.mark)
    return Name(value.value, None, value.mark)


def _fail(message: str, mark: Mark | None, code: str = "condition-syntax") -> NoReturn:
    message = f"where=: {message}."
    raise InvalidInputError(message if mark is None else mark.under(message), code=code)
