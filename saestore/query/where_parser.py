"""The little language of conditions: ``split == "test" and (color::red or position < 16)``.

A text becomes a tree, or an error that marks the place. What its names mean is for `conditions` to say; nothing is run.

    condition  = and-part { "or" and-part }
    and-part   = part { "and" part }
    part       = "not" part | "(" condition ")" | name | value operator value | name [ "not" ] "in" list
    list       = "(" literal { "," literal } [ "," ] ")"
    operator   = "==" | "!=" | "<" | "<=" | ">" | ">="
    value      = name | literal
    name       = letters, digits and _ : . - + / | anything between ` and ` | "text", if a literal follows or nothing
    literal    = number | "text" | 'text' | true | false
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import NoReturn

from saestore.errors import InvalidInputError

OPERATORS = ("==", "!=", "<=", ">=", "<", ">")
_DEPTH = 50  # of parentheses and nots in one another
_SHOWN = 70  # characters of a text around the place that a message marks

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<quoted>(?:item\.|sample\.)?`(?:[^`]|``)+`)
    | (?P<operator>==|!=|<=|>=|<|>)
    | (?P<mark>[(),])
    | (?P<number>[-+][\d.][\w.]*(?:(?<=[eE])[-+]\d+)?)
    | (?P<word>\w[\w:.+/-]*)
    | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"[-+]?(\d+|(\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+)", re.ASCII)
_INTEGER = re.compile(r"[-+]?\d{1,400}", re.ASCII)
_LEVEL = re.compile(r"(item|sample)\.(?=`)")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_CONSTANTS = {"true": True, "false": False, "True": True, "False": False}
_KEYWORDS = ("and", "or", "not", "in")
_PLAIN = re.compile(r"[^\W\d][\w:.+/-]*")
_HINTS = {
    "=": "write == to compare",
    "&": "write 'and'",
    "|": "write 'or'",
    "!": "write 'not' or !=",
    "~": "write 'not'",
    '"': "this quote is never closed",
    "'": "this quote is never closed",
    "`": "this quote is never closed",
}


@dataclass(frozen=True)
class Name:
    """A column, a concept or a number of samples; `level` where one was written before a name in back-quotes."""

    text: str
    start: int
    stop: int
    level: str | None = None


@dataclass(frozen=True)
class Literal:
    """A text, a number, true or false."""

    value: str | float | bool
    start: int
    stop: int


@dataclass(frozen=True)
class Compare:
    """Two values, of which one at least is a name."""

    operator: str
    left: Name | Literal
    right: Name | Literal
    start: int
    stop: int


@dataclass(frozen=True)
class In:
    """A name that is one of some values."""

    name: Name
    values: tuple[Literal, ...]


@dataclass(frozen=True)
class Not:
    """What does not hold."""

    term: Node


@dataclass(frozen=True)
class All:
    """What all hold."""

    terms: tuple[Node, ...]


@dataclass(frozen=True)
class Any:
    """Of which one at least holds."""

    terms: tuple[Node, ...]


Node = Name | Compare | In | Not | All | Any


def parse(text: str) -> Node:
    """The tree of a condition.

    Raises
    ------
    InvalidInputError
        It is none; the message marks the place, and says what was expected.
    """
    return _Parser(text).whole()


def quote_name(name: str) -> str:
    """A name as it is written in a condition."""
    if _PLAIN.fullmatch(name) and name not in _KEYWORDS and name not in _CONSTANTS:
        return name
    return "`" + name.replace("`", "``") + "`"


def quote_text(text: str) -> str:
    """A text as it is written in a condition."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def marked(message: str, text: str, start: int, stop: int) -> str:
    """A message, and below it the part of a text around a place, which is underlined."""
    first = max(0, min(start - _SHOWN // 2, len(text) - _SHOWN))
    last = min(len(text), first + _SHOWN)
    before, after = "… " if first else "", " …" if last < len(text) else ""
    shown = "".join(" " if c.isspace() else c for c in text[first:last])
    stop = max(start + 1, min(stop, last))
    indent = " " * (_cells(before) + _cells(shown[: start - first]))
    carets = "^" * max(1, _cells(shown[start - first : stop - first]))
    return f"{message}\n  {before}{shown}{after}\n  {indent}{carets}"


def _cells(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


@dataclass(frozen=True)
class _Token:
    kind: str  # name, literal, operator, word (a keyword), mark, other or end
    text: str
    start: int
    stop: int
    value: Name | Literal | None = None


class _Parser:
    """Reads a condition from left to right, one token ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [_token(m) for m in _TOKEN.finditer(text) if m.lastgroup != "space"]
        self._tokens.append(_Token("end", "", len(text), len(text)))
        self._place = 0
        self._depth = 0

    def whole(self) -> Node:
        if len(self._tokens) == 1:
            raise InvalidInputError('where=: the condition is empty; write one such as split == "test".')
        node = self._condition()
        if self._next.kind != "end":
            self._expected("'and', 'or' or the end")
        return node

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def _takes(self, text: str) -> bool:
        """Go past a keyword or a mark, if it comes next."""
        found = self._next.kind in ("word", "mark") and self._next.text == text
        self._place += found
        return found

    def _condition(self) -> Node:
        terms = [self._and_part()]
        while self._takes("or"):
            terms.append(self._and_part())
        return terms[0] if len(terms) == 1 else Any(tuple(terms))

    def _and_part(self) -> Node:
        terms = [self._part()]
        while self._takes("and"):
            terms.append(self._part())
        return terms[0] if len(terms) == 1 else All(tuple(terms))

    def _part(self) -> Node:
        begin = self._next
        nested = self._takes("not") or self._takes("(")
        if not nested:
            return self._comparison()
        self._depth += 1
        if self._depth > _DEPTH:
            self._fail(f"parentheses and nots go deeper than {_DEPTH} here; write it flatter", begin)
        if begin.text == "not":
            node: Node = Not(self._part())
        else:
            node = self._condition()
            if not self._takes(")"):
                self._expected("'and', 'or' or ')'")
        self._depth -= 1
        return node

    def _comparison(self) -> Node:
        left = self._value("a name, a value, 'not' or '('")
        if self._next.kind == "operator":
            return self._compared(left)
        begin = self._place
        negated = self._takes("not")
        if self._takes("in"):
            node = In(self._named(left), self._list())
            return Not(node) if negated else node
        self._place = begin
        if isinstance(left, Literal) and not isinstance(left.value, str):
            self._expected("a comparison of the value before")
        return self._named(left)

    def _compared(self, left: Name | Literal) -> Compare:
        operator = self._next.text
        self._place += 1
        right = self._value("a name or a value")
        if self._next.kind == "operator":
            self._fail("one comparison follows another; join two with 'and'", self._next)
        if isinstance(right, Literal):
            left = self._named(left)
        return Compare(operator, left, right, left.start, right.stop)

    def _named(self, value: Name | Literal) -> Name:
        """What stands where only a name makes sense; a name with spaces may be in quotes there."""
        if isinstance(value, Name):
            return value
        if not isinstance(value.value, str):
            place = _Token("literal", "", value.start, value.stop)
            self._fail(f"{value.value!r} is no name; compare a column or a concept with it", place)
        return Name(value.value, value.start, value.stop)

    def _value(self, wanted: str) -> Name | Literal:
        value = self._next.value
        if value is None:
            self._expected(wanted)
        if isinstance(value, Literal) and isinstance(value.value, str) and "\0" in value.value:
            self._fail("a text cannot hold a NUL", self._next)
        self._place += 1
        return value

    def _list(self) -> tuple[Literal, ...]:
        if not self._takes("("):
            self._expected('\'(\' and values, such as ("train", "cal")')
        values: list[Literal] = []
        while True:
            value = self._next.value
            if not isinstance(value, Literal):
                self._expected("a text, a number, true or false")
            values.append(value)
            self._place += 1
            if self._takes(","):
                if not self._takes(")"):
                    continue
            elif not self._takes(")"):
                self._expected("',' or ')'")
            return tuple(values)

    def _expected(self, wanted: str) -> NoReturn:
        token = self._next
        hint = _HINTS.get(token.text) if token.kind == "other" else None
        if token.kind == "end":
            self._fail(f"the condition ends where {wanted} was expected", token)
        self._fail(f"expected {wanted}, not {token.text!r}" + (f": {hint}" if hint else ""), token)

    def _fail(self, message: str, token: _Token) -> NoReturn:
        raise InvalidInputError(marked(f"where=: {message}.", self._text, token.start, token.stop))


def _token(match: re.Match[str]) -> _Token:
    kind, text, start, stop = str(match.lastgroup), match.group(), match.start(), match.end()
    value: Name | Literal | None = None
    if kind == "text":
        plain = _ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[1]), text[1:-1])
        kind, value = "literal", Literal(plain, start, stop)
    elif kind == "quoted":
        level = _LEVEL.match(text)
        name = text[level.end() if level else 0 :][1:-1].replace("``", "`")
        kind, value = "name", Name(name, start, stop, level[1] if level else None)
    elif kind in ("word", "number"):
        if _INTEGER.fullmatch(text):
            kind, value = "literal", Literal(int(text), start, stop)
        elif _NUMBER.fullmatch(text):
            kind, value = "literal", Literal(float(text), start, stop)
        elif text in _CONSTANTS:
            kind, value = "literal", Literal(_CONSTANTS[text], start, stop)
        elif kind == "number":
            kind = "other"
        elif text not in _KEYWORDS:
            kind, value = "name", Name(text, start, stop)
    return _Token(kind, text, start, stop, value)
